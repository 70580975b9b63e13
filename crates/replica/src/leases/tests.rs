use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use metastore_engine::{Engine, Memory};
use metastore_proto::etcdserverpb::LeaseGrantRequest;
use metastore_proto::raftpb::{Message, MessageType};
use metastore_store::lease::REVOKE_RETRY_MS;

use super::*;
use crate::disk::SimulatedDisk;
use crate::{Bootstrap, Founder, Outbox, Output, Paths, Settings, Timing, identity};

const ELECTION_MS: u64 = 1000;
const TOKEN: &str = "token";

/// The messages that a member has sent.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Vec<Message>>>);

impl Outbox for Sent {
    fn send(&mut self, messages: Vec<Message>) {
        self.0.lock().unwrap().extend(messages);
    }
}

fn urls(at: usize) -> Vec<String> {
    vec![format!("http://10.0.0.{at}:2380")]
}

fn member(at: usize) -> u64 {
    identity::member_id(&urls(at), TOKEN)
}

/// The first member of a group of `members`, and its driver. The test plays the other members.
struct Driven {
    replica: Replica,
    keeper: LeaseKeeper,
    sent: Sent,
    /// The outcomes since the member was opened.
    outcomes: Vec<Outcome>,
    /// The ended leases that the keeper has returned.
    gone: Vec<i64>,
    /// Read rounds that have ended.
    readable: Vec<u64>,
}

impl Driven {
    fn open(disk: &SimulatedDisk, members: usize) -> Self {
        Self::with(disk, members, |_| {})
    }

    /// A member that notes the remaining time of leases when it leads.
    fn with_checkpoints(disk: &SimulatedDisk, members: usize) -> Self {
        Self::with(disk, members, |settings| settings.lease_checkpoints = true)
    }

    fn with(disk: &SimulatedDisk, members: usize, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new("memory", Timing { election_ticks: 10, pre_vote: false }, 100);
        change(&mut settings);
        let paths = Paths { data_dir: PathBuf::from("/data"), wal_dir: None };
        let founder = |at: usize| Founder { name: at.to_string(), peer_urls: urls(at) };
        let members = (1..=members).map(founder).collect();
        let bootstrap = Bootstrap::Found { members, own: "1".into(), cluster_token: TOKEN.into() };
        let engine: crate::OpenEngine = Arc::new(|_| Ok(Arc::new(Memory::new()) as Arc<dyn Engine>));
        let (mut replica, _) =
            Replica::open(settings, Arc::new(disk.clone()), paths, || Ok(bootstrap), engine).unwrap();
        let sent = Sent::default();
        replica.connect(Box::new(sent.clone()));
        let (outcomes, gone, readable) = Default::default();
        let keeper = LeaseKeeper::new(ELECTION_MS, ExpiryBounds::default());
        Self { replica, keeper, sent, outcomes, gone, readable }
    }

    /// Does the work of every driver. Returns the change of leadership, if any.
    fn work(&mut self, now_ms: u64) -> Option<bool> {
        let mut output = Output::default();
        self.replica.process(&mut output).unwrap();
        self.readable.append(&mut output.readable);
        for outcome in output.outcomes {
            self.gone.extend(self.keeper.applied(&outcome, now_ms));
            self.outcomes.push(outcome);
        }
        self.keeper.follow(&self.replica, now_ms)
    }

    fn grant(&mut self, id: i64, ttl: i64) {
        let grant = Command::encode(id as u64, Kind::LeaseGrant, &LeaseGrantRequest { id, ttl });
        self.replica.propose(grant).unwrap();
    }

    /// The result of a lease's renewal, proven or not.
    fn renew(&mut self, lease: i64, now_ms: u64) -> Renewal {
        match self.keeper.renew(&mut self.replica, &[lease], now_ms, 99) {
            Renewed::Proven(renewals) => renewals[0],
            Renewed::AwaitRead(renewing) | Renewed::AwaitOutcome(renewing) => renewing.renewals[0],
            Renewed::NotLeader => Renewal::NotLeader,
        }
    }

    /// Renews leases, which must wait for a proof.
    fn ask(&mut self, leases: &[i64], now_ms: u64, id: u64) -> Renewing {
        match self.keeper.renew(&mut self.replica, leases, now_ms, id) {
            Renewed::AwaitRead(renewing) | Renewed::AwaitOutcome(renewing) => renewing,
            other => panic!("{other:?}"),
        }
    }

    /// Proposes a checkpoint of a lease's remaining time, as an etcd that leads would.
    fn note_checkpoint(&mut self, id: i64, remaining_ttl: i64) {
        let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl }];
        let command = Command::encode(1, Kind::LeaseCheckpoint, &LeaseCheckpointRequest { checkpoints });
        self.replica.propose(command).unwrap();
    }

    fn checkpoint_of(&self, id: i64) -> i64 {
        self.replica.store().leases().get(id).unwrap().remaining_ttl_s
    }

    /// The read-round questions that were sent to the second member.
    fn rounds(&self) -> Vec<Message> {
        let sent = self.sent.0.lock().unwrap();
        let asks = |message: &&Message| message.to() == member(2) && !message.context().is_empty();
        sent.iter().filter(asks).cloned().collect()
    }

    /// The second member confirms a read round.
    fn confirm(&mut self, round: &Message) {
        let message = Message {
            r#type: Some(MessageType::MsgHeartbeatResp.into()),
            to: round.from,
            from: round.to,
            term: round.term,
            context: round.context.clone(),
            ..Message::default()
        };
        self.replica.step(message).unwrap().unwrap();
    }

    /// The second member of three sends a message, in this member's term or a later one.
    fn hear(&mut self, kind: MessageType, later: u64, index: u64) {
        let standing = self.replica.standing();
        let message = Message {
            r#type: Some(kind.into()),
            to: Some(standing.id),
            from: Some(member(2)),
            term: Some(standing.term + later),
            index: Some(index),
            ..Message::default()
        };
        self.replica.step(message).unwrap().unwrap();
    }

    /// The second member acknowledges all entries that it was sent.
    fn acknowledge(&mut self, now_ms: u64) {
        let ends = |message: &Message| message.entries.last().map(|entry| entry.index());
        let last = self.sent.0.lock().unwrap().iter().filter_map(ends).max().unwrap();
        self.hear(MessageType::MsgAppResp, 0, last);
        self.work(now_ms);
    }

    /// Campaigns, and gets the second member's vote.
    fn campaign(&mut self, now_ms: u64) {
        while self.replica.standing().role == crate::Role::Follower {
            self.replica.tick();
            assert_ne!(self.work(now_ms), Some(true));
        }
        self.hear(MessageType::MsgVoteResp, 0, 0);
        assert_eq!(self.work(now_ms), None, "no entry of its term is committed");
    }

    /// Campaigns, and commits an entry of its term.
    fn win(&mut self, now_ms: u64) {
        self.campaign(now_ms);
        self.acknowledge(now_ms);
        assert!(self.keeper.is_leader());
    }

    fn revoke_expired(&mut self, now_ms: u64) -> usize {
        self.keeper.revoke_expired(&mut self.replica, now_ms, || 77).len()
    }
}

#[test]
fn a_lease_ends_through_the_log_and_only_once() {
    let mut one = Driven::open(&SimulatedDisk::new(), 1);
    assert_eq!(one.work(0), Some(true));
    one.grant(5, 10);
    one.work(100);
    assert_eq!(one.keeper.remaining_ms(5, 100), Some(10_000));
    assert_eq!(one.renew(5, 400), Renewal::Renewed(10));
    assert_eq!([10_399, 10_400].map(|now_ms| one.keeper.has_expired(5, now_ms)), [false, true]);
    assert_eq!(one.revoke_expired(10_399), 0);
    assert_eq!(one.revoke_expired(10_400), 1);
    assert!(one.replica.store().leases().get(5).is_some(), "only proposed");
    assert_eq!(one.renew(5, 10_400), Renewal::Expired);
    assert_eq!(one.revoke_expired(10_401), 0, "it is under way");
    one.work(10_400);
    assert_eq!((one.gone.as_slice(), one.outcomes.last().unwrap().id), (&[5][..], 77));
    assert!(one.replica.store().leases().get(5).is_none());
    assert_eq!(one.renew(5, 10_400), Renewal::Unknown);
    assert_eq!(one.revoke_expired(u64::MAX), 0);
}

#[test]
fn a_grant_that_is_replayed_does_not_take_the_extension_back() {
    let disk = SimulatedDisk::new();
    let mut one = Driven::open(&disk, 1);
    one.work(0);
    one.grant(5, 10);
    one.work(0);
    drop(one);
    let mut again = Driven::open(&disk, 1);
    assert_eq!(again.work(700), Some(true));
    let granted = |outcome: &Outcome| outcome.reply == Ok(Reply::LeaseGrant { id: 5, ttl_s: 10 });
    assert!(again.outcomes.iter().any(granted), "it was replayed in the step in which the member was elected");
    assert_eq!(again.keeper.remaining_ms(5, 700), Some(10_000 + ELECTION_MS));
}

#[test]
fn leadership_lost_and_won_again_gives_every_lease_its_time() {
    let mut first = Driven::open(&SimulatedDisk::new(), 3);
    assert_eq!((first.work(0), first.keeper.is_leader()), (None, false));
    first.win(0);
    first.grant(5, 10);
    first.work(0);
    assert_eq!(first.renew(5, 0), Renewal::Unknown, "not committed yet");
    first.acknowledge(200);
    assert_eq!(first.keeper.remaining_ms(5, 200), Some(10_000));
    assert_eq!(first.work(300), None);
    first.hear(MessageType::MsgHeartbeat, 1, 0);
    assert_eq!(first.work(9_000), Some(false));
    assert_eq!(first.keeper.remaining_ms(5, 9_000), None);
    assert_eq!(first.renew(5, 9_000), Renewal::NotLeader);
    first.win(11_000);
    assert_eq!(first.keeper.remaining_ms(5, 11_000), Some(10_000 + ELECTION_MS));
}

#[test]
fn a_deposed_leader_has_nobody_revoke_anything() {
    let mut first = Driven::open(&SimulatedDisk::new(), 3);
    first.win(0);
    first.grant(5, 10);
    first.work(0);
    first.acknowledge(0);
    first.hear(MessageType::MsgHeartbeat, 1, 0);
    first.sent.0.lock().unwrap().clear();
    assert!(first.keeper.is_leader(), "the keeper has not heard of it");
    assert_eq!(first.revoke_expired(10_000), 0);
    assert_eq!(first.work(10_000), Some(false));
    let sent_on = first.sent.0.lock().unwrap().iter().any(|message| message.r#type() == MessageType::MsgProp);
    assert!(!sent_on, "to the leader that it knows by now");
    // Leases whose proposals were dropped are handed out again, if this member leads again.
    first.win(20_000);
    let ends_ms = 20_000 + 10_000 + ELECTION_MS;
    assert_eq!((first.revoke_expired(ends_ms - 1), first.revoke_expired(ends_ms)), (0, 1));
    assert_eq!(first.revoke_expired(ends_ms + REVOKE_RETRY_MS), 1, "the first proposal is not committed yet");
}

#[test]
fn a_mass_expiry_leaves_room_for_others() {
    let mut one = Driven::open(&SimulatedDisk::new(), 1);
    one.work(0);
    let count = ExpiryBounds::default().revoked_at_once as i64 + 5;
    (1..=count).for_each(|id| one.grant(id, 10));
    one.work(0);
    assert!(one.keeper.has_more_expired(10_000));
    assert_eq!(one.revoke_expired(10_000), ExpiryBounds::default().revoked_at_once);
    assert!(!one.keeper.has_more_expired(10_000), "the first ones are under way");
    one.work(10_000);
    assert!(one.keeper.has_more_expired(10_000));
    assert_eq!(one.revoke_expired(10_000), 5);
    one.work(10_000);
    assert!(!one.keeper.has_more_expired(10_000));
    assert_eq!(one.gone.len(), count as usize);
}

#[test]
fn revocations_that_nobody_commits_are_not_followed_by_more_before_the_usual_time() {
    let mut first = Driven::open(&SimulatedDisk::new(), 3);
    first.win(0);
    let count = ExpiryBounds::default().revoked_at_once as i64 + 5;
    (1..=count).for_each(|id| first.grant(id, 10));
    first.work(0);
    first.acknowledge(0);
    assert_eq!(first.revoke_expired(10_000), ExpiryBounds::default().revoked_at_once);
    first.work(10_000);
    assert!(!first.keeper.has_more_expired(10_100));
    // The caller looks again after half a second.
    assert_eq!(first.revoke_expired(10_500), 5);
}

#[test]
fn two_hundred_thousand_leases_end_when_their_time_is_over() {
    const COUNT: usize = 200_000;
    let mut one = Driven::open(&SimulatedDisk::new(), 1);
    one.work(0);
    for piece in (1..=COUNT as i64).collect::<Vec<_>>().chunks(10_000) {
        piece.iter().for_each(|id| one.grant(*id, 10));
        one.work(0);
    }
    // Every second lease is renewed, so that its timer has to be set anew.
    let renewed: Vec<_> = (1..=COUNT as i64).filter(|id| id % 2 == 0).collect();
    for batch in renewed.chunks(1000) {
        one.keeper.renew(&mut one.replica, batch, 5_000, 1);
    }
    one.outcomes.clear();
    let bounds = ExpiryBounds::default();
    for (now_ms, gone) in [(9_999, 0), (10_000, COUNT / 2), (14_999, COUNT / 2), (15_000, COUNT)] {
        let mut looks = 0;
        while one.keeper.has_more_expired(now_ms) {
            assert!(one.revoke_expired(now_ms) <= bounds.revoked_at_once);
            one.work(now_ms);
            looks += 1;
        }
        assert_eq!(one.gone.len(), gone, "at {now_ms} ms");
        assert!(looks <= COUNT / bounds.revoked_at_once + COUNT / bounds.timers, "{looks} looks at {now_ms} ms");
    }
}

#[test]
fn renewals_that_have_arrived_share_one_proof() {
    let mut first = Driven::open(&SimulatedDisk::new(), 3);
    first.win(0);
    (1..=100).for_each(|id| first.grant(id, 10));
    first.work(0);
    first.acknowledge(0);
    first.sent.0.lock().unwrap().clear();
    let mut waiting: Vec<_> = (1..=100).map(|id| first.ask(&[id], 5_000, id as u64)).collect();
    first.work(5_000);
    assert!(first.readable.is_empty(), "nobody is told before the others have answered");
    let rounds = first.rounds();
    assert_eq!(rounds.len(), 1);
    first.confirm(&rounds[0]);
    first.work(5_010);
    assert_eq!(first.readable.len(), 100);
    for renewing in waiting.drain(..) {
        assert_eq!(first.keeper.proven(&first.replica, renewing).unwrap(), [Renewal::Renewed(10)]);
    }
}

#[test]
fn a_renewal_is_not_told_by_a_leader_that_was_deposed_before_the_proof() {
    let mut first = Driven::open(&SimulatedDisk::new(), 3);
    first.win(0);
    first.grant(5, 10);
    first.work(0);
    first.acknowledge(0);
    let renewing = first.ask(&[5], 5_000, 9);
    first.work(5_000);
    first.hear(MessageType::MsgHeartbeat, 1, 0);
    first.work(5_010);
    assert!(first.keeper.proven(&first.replica, renewing).is_none());
    let renewing = {
        first.win(20_000);
        first.ask(&[5], 20_000, 10)
    };
    first.work(20_000);
    first.hear(MessageType::MsgHeartbeat, 1, 0);
    first.win(40_000);
    assert!(first.keeper.proven(&first.replica, renewing).is_none(), "it leads again, in another term");
}

#[test]
fn a_renewal_gives_what_was_granted_and_takes_the_checkpoint_back_through_the_log() {
    let disk = SimulatedDisk::new();
    let mut one = Driven::open(&disk, 1);
    one.work(0);
    (5..=8).for_each(|id| one.grant(id, 100));
    one.work(0);
    for (id, remaining_ttl) in [(5, 30), (6, 40), (8, 1)] {
        one.note_checkpoint(id, remaining_ttl);
    }
    one.work(0);
    drop(one);
    let mut one = Driven::open(&disk, 1);
    one.work(0);
    assert_eq!(one.keeper.remaining_ms(5, 0), Some(30_000 + ELECTION_MS), "what the checkpoint has left");
    let renewing = one.ask(&[5, 6, 7, 8], 2_000, 4711);
    assert_eq!(one.checkpoint_of(5), 30, "only proposed");
    one.outcomes.clear();
    one.work(2_000);
    assert_eq!(one.outcomes.iter().map(|outcome| outcome.id).collect::<Vec<_>>(), [4711], "this is the proof");
    let renewed = Renewal::Renewed(100);
    let renewals = one.keeper.proven(&one.replica, renewing).unwrap();
    assert_eq!(renewals, [renewed, renewed, renewed, Renewal::Expired]);
    assert_eq!([5, 6, 7, 8].map(|id| one.checkpoint_of(id)), [0, 0, 0, 1]);
    assert_eq!(one.keeper.remaining_ms(5, 2_000), Some(100_000));
    assert_eq!(one.renew(5, 3_000), Renewal::Renewed(100), "nothing is left to take back: this one is proven at once");
    drop(one);
    let mut again = Driven::open(&disk, 1);
    again.work(0);
    assert_eq!(again.keeper.remaining_ms(5, 0), Some(100_000 + ELECTION_MS));
}

#[test]
fn a_deposed_leader_takes_no_checkpoint_back() {
    let mut first = Driven::open(&SimulatedDisk::new(), 3);
    first.win(0);
    first.grant(5, 100);
    first.note_checkpoint(5, 30);
    first.work(0);
    first.acknowledge(0);
    first.hear(MessageType::MsgHeartbeat, 1, 0);
    assert!(first.keeper.is_leader(), "the keeper has not heard of it");
    assert_eq!(first.renew(5, 100), Renewal::NotLeader);
}

#[test]
fn a_leader_renews_nothing_before_it_knows_what_the_leader_before_it_has_revoked() {
    let mut first = Driven::open(&SimulatedDisk::new(), 3);
    first.win(0);
    first.grant(5, 10);
    first.work(0);
    first.acknowledge(0);
    // The revocation is proposed, but not committed when this member loses leadership. So it is in the log of the next
    // leader, which is this member again.
    assert_eq!(first.revoke_expired(10_000), 1);
    first.work(10_000);
    first.hear(MessageType::MsgHeartbeat, 1, 0);
    first.work(10_000);
    first.campaign(11_000);
    assert_eq!(first.renew(5, 11_000), Renewal::NotLeader);
    first.acknowledge(12_000);
    assert!(first.keeper.is_leader());
    assert_eq!(first.renew(5, 12_000), Renewal::Unknown);
}

const FIVE_MINUTES_MS: u64 = 300_000;

#[test]
fn a_new_leader_goes_on_with_the_time_that_the_leader_before_it_has_noted() {
    for noted in [true, false] {
        let disk = SimulatedDisk::new();
        let open = || if noted { Driven::with_checkpoints(&disk, 1) } else { Driven::open(&disk, 1) };
        let mut one = open();
        one.work(0);
        one.grant(5, 1000);
        one.work(0);
        for (round, at_ms) in [FIVE_MINUTES_MS - 1, FIVE_MINUTES_MS, 2 * FIVE_MINUTES_MS].into_iter().enumerate() {
            one.keeper.checkpoint(&mut one.replica, at_ms, 50 + round as u64);
            one.work(at_ms);
            let left = if noted { [0, 700, 400][round] } else { 0 };
            assert_eq!(one.checkpoint_of(5), left, "round {round}");
        }
        drop(one);
        let mut one = open();
        one.work(0);
        let left_ms = if noted { 400_000 } else { 1_000_000 };
        assert_eq!(one.keeper.remaining_ms(5, 0), Some(left_ms + ELECTION_MS));
        // Its own checkpoint follows after five minutes: the lease was not renewed for longer.
        one.keeper.checkpoint(&mut one.replica, FIVE_MINUTES_MS, 60);
        one.work(FIVE_MINUTES_MS);
        assert_eq!(one.checkpoint_of(5), if noted { 101 } else { 0 });
    }
}

#[test]
fn the_interval_of_checkpoints_is_that_of_the_settings() {
    let disk = SimulatedDisk::new();
    let mut one = Driven::with(&disk, 1, |settings| {
        (settings.lease_checkpoints, settings.checkpoint_interval_ms) = (true, 2000);
    });
    one.work(0);
    [(5, 10), (6, 2)].into_iter().for_each(|(id, ttl_s)| one.grant(id, ttl_s));
    one.work(0);
    let mut noted = |at_ms, id| one.keeper.checkpoint(&mut one.replica, at_ms, id);
    assert_eq!(noted(1999, 50), []);
    assert_eq!(noted(2000, 51), [LeaseCheckpoint { id: 5, remaining_ttl: 8 }], "2 s are not more than the interval");
}

#[test]
fn a_renewal_takes_back_a_checkpoint_that_is_under_way() {
    let mut first = Driven::with_checkpoints(&SimulatedDisk::new(), 3);
    first.win(0);
    (5..=6).for_each(|id| first.grant(id, 1000));
    first.work(0);
    first.acknowledge(0);
    first.keeper.checkpoint(&mut first.replica, FIVE_MINUTES_MS, 50);
    first.work(FIVE_MINUTES_MS);
    assert_eq!(first.checkpoint_of(5), 0, "only proposed");
    let renewed = first.keeper.renew(&mut first.replica, &[5], FIVE_MINUTES_MS, 51);
    assert!(matches!(renewed, Renewed::AwaitOutcome(_)), "a read would prove nothing about the next leader");
    first.work(FIVE_MINUTES_MS);
    first.acknowledge(FIVE_MINUTES_MS);
    assert_eq!([5, 6].map(|id| first.checkpoint_of(id)), [0, 700]);
}

#[test]
fn one_batch_of_checkpoints_is_under_way_at_a_time() {
    let mut one = Driven::with_checkpoints(&SimulatedDisk::new(), 1);
    one.work(0);
    let leases = 1..=CHECKPOINTS_AT_ONCE as i64 + 1;
    leases.clone().for_each(|id| one.grant(id, 1000));
    one.work(0);
    let noted = |one: &Driven| leases.clone().filter(|id| one.checkpoint_of(*id) != 0).count();
    for (round, expected) in [CHECKPOINTS_AT_ONCE, CHECKPOINTS_AT_ONCE + 1].into_iter().enumerate() {
        let id = 5000 + 2 * round as u64;
        one.keeper.checkpoint(&mut one.replica, FIVE_MINUTES_MS, id);
        one.keeper.checkpoint(&mut one.replica, FIVE_MINUTES_MS, id + 1);
        one.work(FIVE_MINUTES_MS);
        assert_eq!(noted(&one), expected);
    }
    assert!(one.outcomes.iter().all(|outcome| ![5001, 5003].contains(&outcome.id)), "nothing more was proposed");
}
