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

/// What a member has sent.
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

/// A driven member of a group of so many, the first of them, whose others are this test.
struct Driven {
    replica: Replica,
    keeper: LeaseKeeper,
    sent: Sent,
    /// What the member has brought about since it was opened.
    outcomes: Vec<Outcome>,
    /// What the keeper said about that.
    gone: Vec<i64>,
}

impl Driven {
    fn open(disk: &SimulatedDisk, members: usize) -> Self {
        let settings = Settings::new("memory", Timing { election_ticks: 10, pre_vote: false }, 100);
        let paths = Paths { data_dir: PathBuf::from("/data"), wal_dir: None };
        let founder = |at: usize| Founder { name: at.to_string(), peer_urls: urls(at) };
        let members = (1..=members).map(founder).collect();
        let bootstrap = Bootstrap::Found { members, own: "1".into(), cluster_token: TOKEN.into() };
        let engine: crate::OpenEngine = Arc::new(|_| Ok(Arc::new(Memory::new()) as Arc<dyn Engine>));
        let (mut replica, _) =
            Replica::open(settings, Arc::new(disk.clone()), paths, || Ok(bootstrap), engine).unwrap();
        let sent = Sent::default();
        replica.connect(Box::new(sent.clone()));
        let (outcomes, gone) = Default::default();
        Self { replica, keeper: LeaseKeeper::new(ELECTION_MS), sent, outcomes, gone }
    }

    /// What every driver does. Returns whether leadership has changed.
    fn work(&mut self, now_ms: u64) -> Option<bool> {
        let mut output = Output::default();
        self.replica.process(&mut output).unwrap();
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

    /// The second member of three says something, in this member's term or one after it.
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

    /// The second member holds all that it was sent.
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
    assert_eq!(one.keeper.renew(5, 400), Renewal::Renewed(10));
    assert_eq!(one.revoke_expired(10_399), 0);
    assert_eq!(one.revoke_expired(10_400), 1);
    assert!(one.replica.store().leases().get(5).is_some(), "only proposed");
    assert_eq!(one.keeper.renew(5, 10_400), Renewal::Expired);
    assert_eq!(one.revoke_expired(10_401), 0, "it is under way");
    one.work(10_400);
    assert_eq!((one.gone.as_slice(), one.outcomes.last().unwrap().id), (&[5][..], 77));
    assert!(one.replica.store().leases().get(5).is_none());
    assert_eq!((one.keeper.renew(5, 10_400), one.revoke_expired(u64::MAX)), (Renewal::Unknown, 0));
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
    assert_eq!(first.keeper.renew(5, 0), Renewal::Unknown, "not committed yet");
    first.acknowledge(200);
    assert_eq!(first.keeper.remaining_ms(5, 200), Some(10_000));
    assert_eq!(first.work(300), None);
    first.hear(MessageType::MsgHeartbeat, 1, 0);
    assert_eq!(first.work(9_000), Some(false));
    assert_eq!((first.keeper.remaining_ms(5, 9_000), first.keeper.renew(5, 9_000)), (None, Renewal::NotLeader));
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
    // What was dropped is handed out again, if this member leads by then.
    first.win(20_000);
    let ends_ms = 20_000 + 10_000 + ELECTION_MS;
    assert_eq!((first.revoke_expired(ends_ms - 1), first.revoke_expired(ends_ms)), (0, 1));
    assert_eq!(first.revoke_expired(ends_ms + REVOKE_RETRY_MS), 1, "the first proposal is not committed yet");
}

#[test]
fn a_mass_expiry_leaves_room_for_others() {
    let mut one = Driven::open(&SimulatedDisk::new(), 1);
    one.work(0);
    let count = EXPIRED_AT_ONCE as i64 + 5;
    (1..=count).for_each(|id| one.grant(id, 10));
    one.work(0);
    assert_eq!((one.revoke_expired(10_000), one.revoke_expired(10_000)), (EXPIRED_AT_ONCE, 5));
    one.work(10_000);
    assert_eq!(one.gone.len(), count as usize);
}

#[test]
fn a_leader_renews_nothing_before_it_knows_what_the_leader_before_it_has_revoked() {
    let mut first = Driven::open(&SimulatedDisk::new(), 3);
    first.win(0);
    first.grant(5, 10);
    first.work(0);
    first.acknowledge(0);
    // Proposed, and not committed when this member loses leadership; so it is in the log of the next leader, which it is itself.
    assert_eq!(first.revoke_expired(10_000), 1);
    first.work(10_000);
    first.hear(MessageType::MsgHeartbeat, 1, 0);
    first.work(10_000);
    first.campaign(11_000);
    assert_eq!(first.keeper.renew(5, 11_000), Renewal::NotLeader);
    first.acknowledge(12_000);
    assert!(first.keeper.is_leader());
    assert_eq!(first.keeper.renew(5, 12_000), Renewal::Unknown);
}
