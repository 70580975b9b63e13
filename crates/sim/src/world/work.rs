//! The work of members in a moment, and its visible effects.

use metastore_proto::etcdserverpb::RangeRequest;
use metastore_proto::raftpb::{Message, MessageType};
use metastore_store::apply::range_query;

use super::{Fatal, Held, Output, World};
use crate::answers;
use crate::disasters::Older;
use crate::invariants::membership;
use crate::machine::EngineKind;
use crate::member::Member;

/// Steps of dropping old versions between two batches, at most.
const COMPACTION_STEPS: u64 = 3;
/// The hash over everything is compared after entries whose index is a multiple of this number, if a member's batch
/// ends there.
const HASH_EVERY: u64 = 8;
/// Moments for which a member that has waited for its disk may serve clients before it receives messages of the others,
/// at most.
const DEAF_MOMENTS: u64 = 12;
/// How often RocksDB flushes after a member's work, in thousandths.
const FLUSH_PERMILLE: u64 = 4;
/// How often RocksDB rewrites files at the end of a compaction, in thousandths.
const REWRITE_PERMILLE: u64 = 500;
/// How often a leader records the remaining time of a lease, in thousandths per tick.
const CHECKPOINT_PERMILLE: u64 = 50;
/// Messages that wait for a stopped member; further ones are lost, as in a full queue.
const BACKLOG: usize = 4096;

impl World {
    pub(super) fn deliver(&mut self, from: usize, to: usize, message: Message) {
        self.note(|| format!("{from} -> {to} {}", show(&message)));
        let member = &mut self.members[to];
        if member.awake(self.now) && member.deaf_until <= self.now {
            self.step(to, message);
        } else if member.replica.is_some() && member.backlog.len() < BACKLOG {
            member.backlog.push(message);
        }
    }

    fn step(&mut self, at: usize, message: Message) {
        match self.members[at].step(message) {
            Ok(Ok(())) => {}
            // The message is dropped. Members that have forgotten their promises may send such messages.
            Ok(Err(_)) if self.disasters.older != Older::None => {}
            Ok(Err(rejected)) => panic!("member {at} calls a message impossible: {rejected}"),
            Err(error @ Fatal::LogLost(_)) => self.stops_for_loss(at, &error),
            Err(error) => panic!("member {at} has stopped: {error}"),
        }
    }

    /// Advances a member's clock, and the member itself, unless it is stopped.
    pub(super) fn wake(&mut self, at: usize) {
        let awake = self.members[at].awake(self.now);
        self.members[at].advance(awake);
        if !awake {
            return;
        }
        if let Some(held) = self.members[at].held.take_if(|held| held.until <= self.now) {
            self.send(at, held.messages);
            self.finish(at, held.output, Ok(()));
        }
        if self.members[at].deaf_until <= self.now {
            for message in std::mem::take(&mut self.members[at].backlog) {
                self.step(at, message);
            }
        }
        let member = &self.members[at];
        let half_second = self.now.is_multiple_of(5 * super::MOMENTS_PER_TICK);
        if half_second || member.keeper.has_more_expired(member.clock.ms()) {
            self.revoke_expired(at);
        }
        if self.settings.lease_checkpoints {
            if half_second {
                self.note_checkpoints(at);
            }
        } else if !self.calm
            && self.now.is_multiple_of(super::MOMENTS_PER_TICK)
            && self.random.permille(CHECKPOINT_PERMILLE)
        {
            self.note_any_checkpoint(at);
        }
    }

    pub(super) fn start(&mut self, at: usize) {
        if self.members[at].gone {
            return;
        }
        self.note(|| format!("{at} starts"));
        self.doom_after_kill(at);
        let may_fail = self.members[at].may_stop();
        match self.members[at].start() {
            Ok(cut) => {
                self.counts.logs_cut += u64::from(cut);
                self.verdicts.must(self.judge.revisions.restarted(at, self.members[at].revision()));
                self.hold_alarms(at);
                self.read_stored(at);
                // The member replays its log before it receives messages.
                self.work(at);
            }
            Err(error) if may_fail => {
                self.note(|| format!("{at} fails to start: {error}"));
                self.crashes(at);
            }
            Err(error) => panic!("member {at} does not start: {error}"),
        }
    }

    /// Reads what a restarted member has stored, at any of the revisions that it still keeps. Clients can do the same
    /// until the member has heard of the compactions since.
    fn read_stored(&mut self, at: usize) {
        let Some(replica) = &self.members[at].replica else { return };
        let view = replica.store().view();
        let (oldest, newest) = (view.compact_revision().max(1), view.revision());
        let revision = oldest + self.random.below((newest - oldest + 1) as u64) as i64;
        let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..RangeRequest::default() };
        let found = answers::range(&view.range(&range_query(&all)).expect("what is stored can be read")).kvs;
        self.verdicts.must(self.judge.revisions.reads(at, revision, &found));
    }

    /// Lets a member do all work that is due.
    pub(super) fn work(&mut self, at: usize) {
        let mut output = Output::default();
        let steps = self.random.below(COMPACTION_STEPS + 1);
        let compacting = |member: &Member| member.replica.as_ref().is_some_and(|replica| replica.store().compacting());
        let compacted = compacting(&self.members[at]);
        let result = self.members[at].work(&mut output, steps);
        if compacting(&self.members[at]) {
            self.members[at].due = true;
        } else if compacted && self.random.permille(REWRITE_PERMILLE) {
            self.members[at].machine().rewrite_files();
        }
        if self.members[at].machine().engine == EngineKind::RocksDb && self.random.permille(FLUSH_PERMILLE) {
            self.members[at].machine().flush_files();
        }
        let (messages, slow) = self.members[at].letters();
        self.send(at, messages);
        match slow {
            Some((moments, messages)) if result.is_ok() => {
                let until = self.now + moments;
                self.note(|| format!("{at} waits for its disk until {until}"));
                let deaf = self.random.below(DEAF_MOMENTS);
                let member = &mut self.members[at];
                member.held = Some(Held { until, output, messages });
                (member.asleep_until, member.deaf_until) = (until, until + deaf);
            }
            _ => self.finish(at, output, result),
        }
    }

    /// The results of a member's work become visible.
    fn finish(&mut self, at: usize, mut output: Output, mut result: Result<(), Fatal>) {
        if result.is_ok() {
            result = self.states(at, &mut output);
        }
        self.publish(at, &output);
        if result.is_ok() {
            self.follow_users(at, &output);
            self.follow_alarms(at, &output);
        }
        if result.is_ok() {
            self.look_at(at);
        }
        for outcome in &output.outcomes {
            self.answer(at, outcome);
        }
        for id in std::mem::take(&mut output.readable) {
            self.read(at, id);
        }
        if let Err(error) = result {
            return self.stopped(at, &error);
        }
        let Member { replica: Some(replica), keeper, clock, .. } = &mut self.members[at] else { return };
        if keeper.follow(replica, clock.ms()) == Some(true) {
            self.times_anew(at);
        }
    }

    /// Publishes the changes to the judge and to the watchers.
    pub(super) fn publish(&mut self, at: usize, output: &Output) {
        if output.state_replaced {
            self.verdicts.must(self.judge.revisions.replaced(at));
        }
        for events in &output.events {
            self.verdicts.must(self.judge.publishes(at, events));
        }
        let member = &mut self.members[at];
        let Some(hub) = &mut member.hub else { return };
        if output.state_replaced {
            member.mail.clear();
            hub.lost();
        }
        if output.events.is_empty() {
            return;
        }
        if std::mem::take(&mut member.loses_events) {
            self.counts.events_lost += 1;
            member.mail.clear();
            return hub.lost();
        }
        // A thread without watchers receives no events.
        if hub.counts().watchers > 0 {
            member.mail.extend(output.events.iter().cloned());
        }
    }

    /// Sends the messages that a member has written, even if it has lost power since.
    fn send(&mut self, at: usize, messages: Vec<Message>) {
        for message in messages {
            self.verdicts.must(self.judge.sends(at, &message));
            if is_promise(&message) && self.disasters.promising.remove(&at) {
                self.disasters.promised.push(at);
            }
            // A member without a position has left for good.
            let Some(to) = self.position(message.to()) else { continue };
            if self.network.send(self.now, (at, to), &message)
                && let Some(replica) = &mut self.members[at].replica
            {
                replica.unreachable(message.to());
            }
        }
    }

    fn look_at(&mut self, at: usize) {
        let Member { replica: Some(replica), led, .. } = &mut self.members[at] else { return };
        self.verdicts.must(membership::check(at, replica.voters(), replica.store().members()));
        let standing = replica.standing();
        if standing.is_leader() && *led != standing.term {
            *led = standing.term;
            self.verdicts.must(self.judge.leads(at, standing.term, replica));
        }
        let Member { replica: Some(replica), compared, .. } = &mut self.members[at] else { return };
        let applied = replica.store().applied();
        if applied.index > *compared {
            *compared = applied.index;
            if applied.index > self.voters.0 {
                self.voters = (applied.index, replica.voters().iter().copied().collect());
            }
            let before = replica.term_of(applied.index - 1);
            self.verdicts.must(self.judge.applied(at, (applied.index, applied.term), before));
            if applied.index.is_multiple_of(HASH_EVERY) {
                self.hash(at);
            }
        }
    }

    /// Compares everything that a member holds with the states of the others after the same entry.
    pub(super) fn hash(&mut self, at: usize) {
        let Some(replica) = &self.members[at].replica else { return };
        let applied = replica.store().applied();
        let hash = replica.store().view().hash_kv(0).expect("the current revision can be hashed");
        let users = replica.store().view().users();
        self.verdicts.must(self.judge.hashed(at, (applied.index, applied.term), hash, users));
    }

    pub(super) fn stopped(&mut self, at: usize, error: &Fatal) {
        assert!(self.members[at].may_stop(), "member {at} has stopped: {error}");
        self.note(|| format!("{at} stops: {error}"));
        self.counts.crashes_at_work += 1;
        self.crashes(at);
    }
}

/// Whether a message says that its sender holds entries, or votes for a candidate.
fn is_promise(message: &Message) -> bool {
    let kinds = [MessageType::MsgAppResp, MessageType::MsgVoteResp];
    kinds.contains(&message.r#type()) && !message.reject()
}

/// A message in one line.
fn show(message: &Message) -> String {
    let entries: Vec<_> = message.entries.iter().map(|entry| (entry.index(), entry.term())).collect();
    format!(
        "{:?} term {} at ({}, {}) commit {} reject {} {entries:?}",
        message.r#type(),
        message.term(),
        message.index(),
        message.log_term(),
        message.commit(),
        message.reject()
    )
}
