//! This member as a part of the cluster: the leader, the members, and what they announce to each other.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use metastore_proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use metastore_proto::raftpb;
use metastore_replica::{Fatal, Outbox, Standing};
use metastore_store::command::{Command, Kind};

use super::Driver;
use super::event::{Answer, DuplicateProcess, Waiter};
use super::held::What;
use super::waiters::{Goal, GoalKind};
use crate::peer::{Peer, Transport};

/// How long a proposal about this member may be under way before it is made again.
const ADVERTISE_RETRY: Duration = Duration::from_secs(1);
/// A member that has no leader for this time logs what it waits for: no election takes so long.
const TELL_AFTER: Duration = Duration::from_secs(10);
/// A removed member goes on for this time, as in etcd, so that its last messages reach the others.
const LEAVE_AFTER: Duration = Duration::from_secs(1);
/// A learner may become a voter once it holds this percentage of the leader's entries, as in etcd.
const IN_SYNC_PERCENT: u64 = 90;

/// The facts that a member announces to the cluster once there is a leader.
#[derive(Clone, Debug)]
pub struct Advertised {
    pub name: String,
    pub client_urls: Vec<String>,
    /// The version that a cluster of this member alone agrees on.
    pub cluster_version: String,
}

/// The standing of this member, and the changes of it that are under way.
pub(super) struct Group {
    pub(super) advertised: Advertised,
    /// The version that all members understand, when they were asked last.
    agreed_version: Option<String>,
    advertised_at: Option<Instant>,
    /// The leader that was last logged.
    leader: u64,
    /// Since when this member knows no leader.
    leaderless: Option<Instant>,
    handing_over: Option<mpsc::SyncSender<()>>,
    /// When this member ends because it was removed.
    leaves_at: Option<Instant>,
    /// No other member hears of this one yet: it may be a duplicate process.
    apart: bool,
    /// The members changed while this one was apart.
    met_apart: bool,
}

impl Group {
    pub(super) fn new(advertised: Advertised) -> Self {
        let (agreed_version, advertised_at, handing_over, leaves_at) = Default::default();
        Self {
            advertised,
            agreed_version,
            advertised_at,
            leader: 0,
            leaderless: None,
            handing_over,
            leaves_at,
            apart: true,
            met_apart: false,
        }
    }
}

/// Sends the messages of consensus to the other members.
pub(super) struct Post(pub(super) Transport);

impl Outbox for Post {
    fn send(&mut self, messages: Vec<raftpb::Message>) {
        messages.into_iter().for_each(|message| self.0.send(message));
    }
}

impl Driver {
    /// Processes the log, and connects to the other members unless another process already runs as this member. A
    /// leader that hears from two such processes takes entries that one of them holds for held by the other. So nothing
    /// is sent or answered before it is known that there is no duplicate. A single member does not look for one: no
    /// other member dials it.
    pub(super) fn enter(
        &mut self,
        look: impl FnOnce(&[String]) -> Option<DuplicateProcess>,
        check: impl FnOnce() -> Result<(), Fatal>,
    ) -> Result<(), Fatal> {
        // A state that outlives the process holds members, and perhaps the removal of this one, whose entries are no
        // longer in the log.
        self.members_changed();
        self.advance()?;
        let members = self.replica.store().members();
        let own = members.get(self.replica.id()).filter(|_| members.iter().count() > 1);
        let urls = own.map(|own| own.peer_urls.clone()).unwrap_or_default();
        if let Some(duplicate) = look(&urls) {
            return Err(self.duplicate(duplicate));
        }
        check()?;
        self.group.apart = false;
        if self.group.met_apart {
            self.members_changed();
        }
        Ok(())
    }

    /// The error for a duplicate process, which the other members reach in place of this one.
    pub(super) fn duplicate(&self, DuplicateProcess { url, copy }: DuplicateProcess) -> Fatal {
        let id = self.replica.id();
        if copy { Fatal::DuplicateProcess { id, url } } else { Fatal::Namesake { id, url } }
    }

    /// Takes another member's message.
    pub(super) fn hear(&mut self, message: raftpb::Message) -> Result<(), Fatal> {
        let from = message.from();
        let Err(rejected) = self.replica.step(message)? else { return Ok(()) };
        seldom!(warn, (self.replica.id(), from), error = %rejected, "dropped a message of another member");
        Ok(())
    }

    /// Does what a change of leadership requires. Returns whether anything was proposed.
    pub(super) fn follow_leadership(&mut self) -> bool {
        let standing = self.replica.standing();
        self.tell_of_leader(&standing);
        let now_ms = self.now_ms();
        if let Some(leads) = self.leases.follow(&self.replica, now_ms) {
            // The version that was agreed when this member led before may be lower than all members understand now.
            self.group.agreed_version = None;
            if !leads {
                self.leases_lost();
            }
        }
        let leads = |goal: &Goal| matches!(goal, Goal::Leader(to) if *to == standing.leader);
        for waiter in self.waiters.take_all(&[GoalKind::Leader], leads) {
            self.answer(waiter, Answer::LeaderMoved);
        }
        if !standing.is_leader() {
            // The waiting thread sees that the sender is gone.
            self.group.handing_over = None;
        }
        if standing.leader != 0 && !*self.ready.borrow() && self.is_known(&standing) {
            self.ready.send_replace(true);
        }
        self.advertise(&standing)
    }

    /// Logs elections as etcd does, and answers the reads that an election interrupts.
    fn tell_of_leader(&mut self, standing: &Standing) {
        let (before, now) = (self.group.leader, standing.leader);
        if now == 0 {
            self.tell_what_is_waited_for();
        } else {
            self.group.leaderless = None;
        }
        if before == now {
            return;
        }
        self.group.leader = now;
        if now != 0 {
            self.fail_reads();
        }
        let (own, term) = (self.replica.id(), standing.term);
        match (before, now) {
            (0, _) => seldom!(CHANGES: info, own, "raft.node: {own:x} elected leader {now:x} at term {term}"),
            (_, 0) => seldom!(CHANGES: info, own, "raft.node: {own:x} lost leader {before:x} at term {term}"),
            _ => {
                seldom!(
                    CHANGES: info, own,
                    "raft.node: {own:x} changed leader from {before:x} to {now:x} at term {term}"
                )
            }
        }
    }

    /// Logs once a minute, while there is no leader, which members are missing, and what to do.
    fn tell_what_is_waited_for(&mut self) {
        let since = *self.group.leaderless.get_or_insert_with(Instant::now);
        if since.elapsed() < TELL_AFTER {
            return;
        }
        let (own, voters, members) = (self.replica.id(), self.replica.voters(), self.replica.store().members());
        let missing: Vec<u64> =
            voters.iter().copied().filter(|id| *id != own && self.transport.connected_since(*id).is_none()).collect();
        let reached = voters.len() - missing.len();
        let describe = |id: &u64| match members.get(*id) {
            Some(member) => format!("{} ({id:x}) at {}", member.name, member.peer_urls.join(" ")),
            None => format!("{id:x}"),
        };
        let advice = match voters {
            [] => "this member waits for a member of the cluster to tell it who the members are",
            _ if reached <= voters.len() / 2 => {
                "writes and linearizable reads wait until a majority of the voters can be reached: start the members \
                 that are missing, or check the network between the members. If their directories are lost for good, \
                 see docs/backup.md of this version"
            }
            _ => "a majority of the voters can be reached, and the next election should give a leader",
        };
        seldom!(
            warn, own,
            "local-member-id" = %format_args!("{own:x}"),
            "leaderless-for" = %format_args!("{}s", since.elapsed().as_secs()),
            "voters" = voters.len(), "reached-voters" = reached,
            "missing-voters" = %missing.iter().map(describe).collect::<Vec<_>>().join(", "),
            "waiting for a leader: {advice}"
        );
    }

    /// Whether the cluster knows this member, and this member knows a version of the cluster.
    fn is_known(&self, standing: &Standing) -> bool {
        let members = self.replica.store().members();
        let version = members.cluster_version();
        // The agreed version is unknown while a member is away: a learner, if this member is the only voter.
        let agreed = match self.version() {
            Some(wanted) if standing.sole_leader => version == Some(wanted),
            _ => version.is_some(),
        };
        agreed && self.attributes_known()
    }

    fn attributes_known(&self) -> bool {
        let Advertised { name, client_urls, .. } = &self.group.advertised;
        let own = self.replica.store().members().get(self.replica.id());
        own.is_some_and(|own| own.name == *name && own.client_urls == *client_urls)
    }

    /// The version that all members understand; a single member need not ask for it. During a downgrade, the target,
    /// once the members allow it.
    fn version(&self) -> Option<&str> {
        let (members, agreed) = (self.replica.store().members(), self.group.agreed_version.as_deref());
        match members.downgrade() {
            Some(target) => agreed.filter(|agreed| *agreed == target),
            None if members.iter().count() <= 1 => Some(&self.group.advertised.cluster_version),
            None => agreed,
        }
    }

    /// Proposes the facts that the cluster does not know yet, again and again until it knows them. Returns whether
    /// anything was proposed.
    fn advertise(&mut self, standing: &Standing) -> bool {
        if standing.leader == 0 || self.group.advertised_at.is_some_and(|at| at.elapsed() < ADVERTISE_RETRY) {
            return false;
        }
        let mut commands = Vec::new();
        let members = self.replica.store().members();
        if !self.attributes_known() && members.get(self.replica.id()).is_some() {
            let Advertised { name, client_urls, .. } = self.group.advertised.clone();
            let attributes = ClusterMemberAttrSetRequest {
                member_id: self.replica.id(),
                member_attributes: Some(Attributes { name, client_urls }),
            };
            commands.push(Command::encode(self.shared.next_id(), Kind::ClusterMemberAttrSet, &attributes));
        }
        let version =
            self.version().filter(|version| standing.is_leader() && members.cluster_version() != Some(*version));
        if let Some(version) = version {
            let version = ClusterVersionSetRequest { ver: version.to_owned() };
            commands.push(Command::encode(self.shared.next_id(), Kind::ClusterVersionSet, &version));
        }
        if commands.is_empty() {
            return false;
        }
        self.group.advertised_at = Some(Instant::now());
        for command in commands {
            if self.replica.propose(command).is_err() {
                seldom!(warn, self.replica.id(), "could not tell the cluster about this member: no leader");
            }
        }
        true
    }

    /// The members have been asked which versions they understand.
    pub(super) fn agree_on_version(&mut self, version: String) {
        self.group.agreed_version = Some(version);
        self.group.advertised_at = None;
    }

    pub(super) fn change_members(&mut self, waiter: Waiter, change: raftpb::ConfChange) {
        self.propose(waiter, change.id(), What::Change(Box::new(change)));
    }

    /// Only the leader knows how many entries a learner has.
    pub(super) fn promote(&mut self, waiter: Waiter, change: raftpb::ConfChange) {
        let progress = self.replica.progress();
        let matched = |id| progress.iter().find(|progress| progress.id == id).map_or(0, |progress| progress.matched);
        if progress.is_empty() {
            self.answer(waiter, Answer::NotLeader);
        } else if matched(change.node_id()) * 100 < matched(self.replica.id()) * IN_SYNC_PERCENT {
            self.answer(waiter, Answer::LearnerNotReady);
        } else {
            self.change_members(waiter, change);
        }
    }

    pub(super) fn move_leader(&mut self, waiter: Waiter, to: u64) {
        if !self.replica.standing().is_leader() {
            self.answer(waiter, Answer::NotLeader);
        } else if self.wait(self.shared.next_id(), waiter, Goal::Leader(to)) {
            self.replica.transfer_leader(to);
        }
    }

    /// Hands leadership to the voter that has been connected longest, as etcd does when it stops.
    pub(super) fn hand_over(&mut self, done: mpsc::SyncSender<()>) {
        let own = self.replica.id();
        let voters = self.replica.voters();
        let others = self.replica.progress().into_iter().filter(|other| other.id != own && voters.contains(&other.id));
        let connected = others.filter_map(|other| Some((self.transport.connected_since(other.id)?, other.id)));
        if let Some((_, to)) = connected.min() {
            tracing::info!(
                "local-member-id" = %format!("{own:x}"), "transferee-member-id" = %format!("{to:x}"),
                "leadership transfer starting"
            );
            self.replica.transfer_leader(to);
            self.group.handing_over = Some(done);
        }
    }

    /// The members, or what is known of them, have changed.
    pub(super) fn members_changed(&mut self) {
        self.shared.set_facts(self.replica.store());
        let members = self.replica.store().members();
        if self.group.apart {
            self.group.met_apart = true;
            return;
        }
        let own = self.replica.id();
        let others = members.iter().filter(|member| member.id != own);
        let peers = others.map(|member| Peer { id: member.id, urls: member.peer_urls.clone() }).collect();
        self.transport.set_peers(peers, members.removed().collect());
        if members.is_removed(own) && self.group.leaves_at.is_none() {
            self.group.leaves_at = Some(Instant::now() + LEAVE_AFTER);
        }
    }

    /// Another member says that this member was removed. It does not matter whether this is already in the log here.
    pub(super) fn was_removed(&mut self) {
        self.group.leaves_at.get_or_insert_with(Instant::now);
    }

    /// Ends a removed member after a moment.
    pub(super) fn leave(&self, now: Instant) -> Result<(), Fatal> {
        if self.group.leaves_at.is_some_and(|at| at <= now) { Err(Fatal::Removed) } else { Ok(()) }
    }
}
