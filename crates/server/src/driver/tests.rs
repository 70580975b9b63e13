//! The engine thread keeps a bounded number of requests, forgets them in the end, and answers those whose leader goes.

use metastore_engine::{Engine, Memory};
use metastore_proto::etcdserverpb::{
    CompactionRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
};
use metastore_proto::raftpb::{Message, MessageType};
use metastore_replica::disk::SimulatedDisk;
use metastore_replica::{Bootstrap, Founder, OpenEngine, Paths, Role, Settings, Timing};
use metastore_store::command::{Command, Kind};
use metastore_store::lease::Renewal;

use super::waiters::FORGET_AFTER;
use super::*;
use crate::config::AuthSettings;
use crate::grpc::Ledger;
use crate::io::inbox::Bounds;
use crate::io::slots::Slots;
use crate::peer::{Identity, Sink, StateIntake, StateTaker};

struct Nobody;

impl Sink for Nobody {
    fn message(&self, _: Message, _: usize) -> bool {
        false
    }

    fn unreachable(&self, _: u64) {}

    fn snapshot_sent(&self, _: u64, _: bool) {}

    fn removed(&self) {}
}

impl StateIntake for Nobody {
    fn begin(&self, _: Message) -> Result<Box<dyn StateTaker>, String> {
        Err("nobody".into())
    }
}

/// The engine thread of one of `founders` members, whose other members are away, and the mailbox of its only worker.
fn driver(founders: usize) -> (Driver, mailbox::Receiver<Mail>) {
    let founder = |at: usize| Founder { name: at.to_string(), peer_urls: vec![format!("http://10.0.0.{at}:2380")] };
    let members = (0..founders).map(founder).collect();
    let found = || Ok(Bootstrap::Found { members, own: "0".into(), cluster_token: "t".into() });
    let engine: OpenEngine = Arc::new(|_| Ok(Arc::new(Memory::new()) as Arc<dyn Engine>));
    let settings = Settings::new("memory", Timing { election_ticks: 10, pre_vote: true }, 8);
    let paths = Paths { data_dir: "/data".into(), wal_dir: None };
    let (replica, _) = Replica::open(settings, Arc::new(SimulatedDisk::new()), paths, found, engine).unwrap();
    let shared = Shared::new(replica.cluster_id(), replica.id(), replica.store());
    let second = Duration::from_secs(1);
    let identity =
        Identity { id: replica.id(), cluster_id: 9, directory: None, version: "3.7.0".into(), peer_urls: Vec::new() };
    let settings =
        crate::peer::Settings { identity, dial_timeout: second, read_timeout: second, tls: Default::default() };
    let transport = Transport::new(settings, Arc::new(Nobody), Arc::new(Nobody));
    let inbox = Inbox::new(Bounds { count: 10, bytes: 10 });
    let (sender, mail) = mailbox::mailbox();
    let links = vec![WorkerLink { mailbox: sender, flags: Arc::default() }];
    let heartbeat = Heartbeat { interval: Duration::from_millis(100), election_ticks: 10 };
    let advertised = Advertised { name: "0".into(), client_urls: Vec::new(), cluster_version: "3.7.0".into() };
    let ready = (signal::Sender::new(false), Metrics::new("3.7.0".into(), Ledger::default()));
    let auth = Arc::new(Authenticator::new(&AuthSettings::default()).unwrap());
    let mut driver = Driver::new(replica, (shared, auth), (inbox, transport), links, heartbeat, advertised, ready);
    let look = |urls: &[String]| {
        assert_eq!(urls.is_empty(), founders == 1, "no other member dials a single one");
        None
    };
    driver.enter(look, || Ok(())).unwrap();
    (driver, mail)
}

fn waiter() -> Waiter {
    Waiter { worker: 0, key: Slots::<()>::default().register(None).key() }
}

/// How many of these answers the worker finds in its batch.
fn answered(driver: &mut Driver, which: impl Fn(&Answer) -> bool) -> usize {
    let batch = std::mem::take(&mut driver.links[0].batch);
    batch.iter().filter(|mail| matches!(mail, Mail::Answer(_, answer) if which(answer))).count()
}

fn no_room(answer: &Answer) -> bool {
    matches!(answer, Answer::NoRoom)
}

#[test]
fn reads_without_a_leader_are_bounded_and_forgotten() {
    const WAITING: usize = GoalKind::Read.most();
    let (mut driver, _mail) = driver(3);
    (0..WAITING + 5).for_each(|_| driver.take(Event::Read { waiter: waiter() }).unwrap());
    assert_eq!((driver.waiters.count(GoalKind::Read), answered(&mut driver, no_room)), (WAITING, 5));
    driver.forget_unanswered(Instant::now());
    assert_eq!((driver.waiters.count(GoalKind::Read), driver.replica.waiting_reads()), (WAITING, WAITING));
    driver.forget_unanswered(Instant::now() + FORGET_AFTER);
    assert_eq!((driver.waiters.count(GoalKind::Read), driver.replica.waiting_reads()), (0, 0));
}

#[test]
fn proposals_that_have_no_outcome_are_bounded_and_forgotten() {
    const WAITING: usize = GoalKind::Outcome.most();
    let (mut driver, _mail) = driver(1);
    assert!(driver.replica.standing().is_leader());
    // None of them is processed, as if no quorum answered.
    let propose = |driver: &mut Driver, id| {
        driver.take(Event::Propose { waiter: waiter(), id, data: b"x".as_slice().into() }).unwrap();
    };
    (0..WAITING as u64 + 5).for_each(|id| propose(&mut driver, id));
    assert_eq!((driver.waiters.count(GoalKind::Outcome), answered(&mut driver, no_room)), (WAITING, 5));
    driver.forget_unanswered(Instant::now() + FORGET_AFTER);
    assert_eq!(driver.waiters.count(GoalKind::Outcome), 0);
    propose(&mut driver, 1);
    assert_eq!((driver.waiters.count(GoalKind::Outcome), answered(&mut driver, no_room)), (1, 0));
}

/// Otherwise the proposal would wait for a leader that takes it, and hold up the proposals after it.
#[test]
fn a_proposal_that_no_record_holds_is_answered_and_holds_up_nobody() {
    let (mut driver, _mail) = driver(1);
    let large = vec![0; metastore_replica::wal::MAX_ENTRY_BYTES + 1].into();
    driver.take(Event::Propose { waiter: waiter(), id: 1, data: large }).unwrap();
    assert_eq!(answered(&mut driver, |answer| matches!(answer, Answer::NotProposed(NotProposed::TooLarge))), 1);
    assert!(driver.held.is_empty() && driver.waiters.count(GoalKind::Outcome) == 0);
}

#[test]
fn moves_of_the_leadership_that_do_not_end_are_bounded_and_forgotten() {
    const WAITING: usize = GoalKind::Leader.most();
    let (mut driver, _mail) = driver(1);
    (0..WAITING + 5).for_each(|_| driver.take(Event::MoveLeader { waiter: waiter(), to: 7 }).unwrap());
    assert_eq!(answered(&mut driver, no_room), 5);
    driver.forget_unanswered(Instant::now() + FORGET_AFTER);
    driver.take(Event::MoveLeader { waiter: waiter(), to: 7 }).unwrap();
    assert_eq!(answered(&mut driver, no_room), 0);
}

/// Each attempt to reach another member may report the removal of this one, while the disk holds up the engine thread.
#[test]
fn a_removal_that_is_told_again_and_again_is_one_event() {
    let inbox = Inbox::new(Bounds { count: 1, bytes: 1 });
    let sink = PeerSink::new(inbox.clone());
    (0..100).for_each(|_| sink.removed());
    let mut events = Vec::new();
    inbox.drain(&mut events, Duration::ZERO);
    assert_eq!(events.len(), 1);
}

/// The answers that were posted to the worker.
fn posted(mail: &mut mailbox::Receiver<Mail>) -> Vec<Answer> {
    let mut batch = Vec::new();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    _ = std::pin::pin!(mail.take(&mut batch)).poll(&mut context);
    batch.into_iter().filter_map(|mail| if let Mail::Answer(_, answer) = mail { Some(answer) } else { None }).collect()
}

/// Another member says something, in this member's term or a later one.
fn hear(driver: &mut Driver, kind: MessageType, later: u64, index: u64) {
    let own = driver.replica.standing();
    let other = driver.replica.voters().iter().copied().find(|id| *id != own.id);
    let (to, term) = (Some(own.id), Some(own.term + later));
    let message =
        Message { r#type: Some(kind as i32), to, from: other, term, index: Some(index), ..Message::default() };
    driver.hear(message).unwrap();
    driver.advance().unwrap();
}

/// The other member holds the whole log.
fn acknowledge(driver: &mut Driver) {
    let commit = driver.replica.standing().commit;
    let last = (commit..).take_while(|index| driver.replica.term_of(*index).is_some()).last().unwrap();
    hear(driver, MessageType::MsgAppResp, 0, last);
}

/// A leader of three members with a renewal of a lease that waits for its proof.
fn leader_with_a_renewal() -> (Driver, mailbox::Receiver<Mail>) {
    let (mut driver, mut mail) = driver(3);
    while driver.replica.standing().role == Role::Follower {
        driver.replica.tick();
        driver.advance().unwrap();
    }
    hear(&mut driver, MessageType::MsgPreVoteResp, 1, 0);
    hear(&mut driver, MessageType::MsgVoteResp, 0, 0);
    acknowledge(&mut driver);
    let grant = Command::encode(1, Kind::LeaseGrant, &LeaseGrantRequest { id: 5, ttl: 60 });
    driver.take(Event::Propose { waiter: waiter(), id: 1, data: grant }).unwrap();
    driver.advance().unwrap();
    acknowledge(&mut driver);
    posted(&mut mail);
    driver.take(Event::KeepAlive { waiter: waiter(), leases: vec![5] }).unwrap();
    assert_eq!((driver.waiters.count(GoalKind::Proof), driver.replica.waiting_reads()), (1, 1));
    (driver, mail)
}

#[test]
fn renewals_whose_proof_never_comes_are_forgotten_and_not_before() {
    let (mut driver, _mail) = leader_with_a_renewal();
    driver.forget_unanswered(Instant::now());
    assert_eq!((driver.waiters.count(GoalKind::Proof), driver.replica.waiting_reads()), (1, 1));
    driver.forget_unanswered(Instant::now() + FORGET_AFTER);
    assert_eq!((driver.waiters.count(GoalKind::Proof), driver.replica.waiting_reads()), (0, 0));
}

#[test]
fn renewals_that_wait_are_answered_when_another_member_leads_and_when_this_one_ends() {
    let (mut driver, _mail) = leader_with_a_renewal();
    hear(&mut driver, MessageType::MsgHeartbeat, 1, 0);
    assert_eq!(driver.waiters.count(GoalKind::Proof), 0);
    assert_eq!(answered(&mut driver, |answer| matches!(answer, Answer::NotLeader)), 1);
    let (mut driver, mut mail) = leader_with_a_renewal();
    driver.turn_away();
    assert_eq!(driver.waiters.count(GoalKind::Proof), 0);
    assert!(posted(&mut mail).iter().any(|answer| matches!(answer, Answer::Stopped)));
}

#[test]
fn a_renewal_of_a_lease_with_a_checkpoint_is_answered_once_the_checkpoint_is_taken_back() {
    let (mut driver, mut mail) = driver(1);
    let grant = Command::encode(1, Kind::LeaseGrant, &LeaseGrantRequest { id: 5, ttl: 60 });
    let checkpoints = vec![LeaseCheckpoint { id: 5, remaining_ttl: 10 }];
    let note = Command::encode(2, Kind::LeaseCheckpoint, &LeaseCheckpointRequest { checkpoints });
    for (id, data) in [(1, grant), (2, note)] {
        driver.take(Event::Propose { waiter: waiter(), id, data }).unwrap();
        driver.advance().unwrap();
    }
    posted(&mut mail);
    driver.take(Event::KeepAlive { waiter: waiter(), leases: vec![5, 6] }).unwrap();
    assert!(driver.waiters.count(GoalKind::Proof) == 1 && driver.links[0].batch.is_empty());
    driver.advance().unwrap();
    let answers = posted(&mut mail);
    assert!(
        matches!(&answers[..], [Answer::Renewed(all)] if all[..] == [Renewal::Renewed(60), Renewal::Unknown]),
        "{answers:?}"
    );
}

/// Only the leader knows when leases end, so that the other members must ask it.
#[test]
fn a_follower_says_nothing_about_leases() {
    let (mut driver, _mail) = driver(3);
    driver.take(Event::KeepAlive { waiter: waiter(), leases: vec![5] }).unwrap();
    driver.take(Event::AwaitEnd { waiter: waiter(), lease: 5 }).unwrap();
    driver.take(Event::TimeToLive { waiter: waiter(), lease: 5 }).unwrap();
    assert_eq!(answered(&mut driver, |answer| matches!(answer, Answer::NotLeader)), 3);
}

#[test]
fn renewals_that_came_too_late_are_answered_when_their_lease_is_revoked_and_when_another_member_leads() {
    let (mut driver, mut mail) = leader_with_a_renewal();
    for (id, lease) in [(50, 5), (60, 6)] {
        driver.waiters.add(id, waiter(), Goal::LeaseEnd(lease), Instant::now()).unwrap();
    }
    let revoke = Command::encode(2, Kind::LeaseRevoke, &LeaseRevokeRequest { id: 5 });
    driver.take(Event::Propose { waiter: waiter(), id: 2, data: revoke }).unwrap();
    driver.advance().unwrap();
    posted(&mut mail);
    acknowledge(&mut driver);
    assert_eq!(posted(&mut mail).iter().filter(|answer| matches!(answer, Answer::LeaseEnded)).count(), 1);
    driver.waiters.take_all(&[GoalKind::Proof], |_| true);
    hear(&mut driver, MessageType::MsgHeartbeat, 1, 0);
    assert_eq!(answered(&mut driver, |answer| matches!(answer, Answer::NotLeader)), 1);
}

#[test]
fn leases_are_listed_in_bounded_pieces_with_their_ends() {
    let (mut driver, mut mail) = driver(1);
    for at in 0..=LEASES_AT_ONCE as u64 {
        // The later ones end earlier.
        let grant = LeaseGrantRequest { id: 1 + at as i64, ttl: 10_000 - at as i64 };
        let grant = Command::encode(1 + at, Kind::LeaseGrant, &grant);
        driver.take(Event::Propose { waiter: waiter(), id: 1 + at, data: grant }).unwrap();
    }
    driver.advance().unwrap();
    posted(&mut mail);
    let mut list = |after| {
        driver.take(Event::Leases { waiter: waiter(), after }).unwrap();
        driver.advance().unwrap();
        let Some(Answer::Leases(piece)) = posted(&mut mail).pop() else { panic!("no list") };
        piece
    };
    let first = list(None);
    assert_eq!(first.len(), LEASES_AT_ONCE);
    assert!(first.is_sorted_by(|one, next| one.id < next.id && one.ends_ms > next.ends_ms));
    let second = list(first.last().map(|lease| lease.id));
    assert_eq!(second.len(), 1);
}

#[test]
fn reads_that_wait_are_told_that_a_leader_was_elected() {
    let (mut driver, _mail) = driver(3);
    driver.take(Event::Read { waiter: waiter() }).unwrap();
    hear(&mut driver, MessageType::MsgHeartbeat, 1, 0);
    assert_eq!(driver.waiters.count(GoalKind::Read), 0);
    assert_eq!(answered(&mut driver, |answer| matches!(answer, Answer::LeaderChanged)), 1);
}

#[test]
fn a_proposal_is_withdrawn_before_it_was_proposed_and_not_after() {
    let (mut driver, _mail) = driver(3);
    driver.take(Event::Propose { waiter: waiter(), id: 7, data: b"x".as_slice().into() }).unwrap();
    assert!(!driver.held.is_empty(), "there is no leader");
    let withdraw = |driver: &mut Driver, id| driver.take(Event::Withdraw { waiter: Some(waiter()), id }).unwrap();
    withdraw(&mut driver, 7);
    assert_eq!(answered(&mut driver, |answer| matches!(answer, Answer::Withdrawn(true))), 1);
    assert!(driver.held.is_empty());
    withdraw(&mut driver, 7);
    assert_eq!(answered(&mut driver, |answer| matches!(answer, Answer::Withdrawn(false))), 1);
}

/// A leader whose compaction is held up by a reader, and that reader.
fn held_compaction() -> (Driver, mailbox::Receiver<Mail>, metastore_store::mvcc::Pin) {
    let (mut driver, mut mail) = driver(1);
    let propose = |driver: &mut Driver, id, command| {
        driver.take(Event::Propose { waiter: waiter(), id, data: command }).unwrap();
        driver.advance().unwrap();
    };
    let put = PutRequest { key: "k".into(), ..PutRequest::default() };
    (1..=3).for_each(|id| propose(&mut driver, id, Command::encode(id, Kind::Put, &put)));
    let view = driver.replica.store().view();
    let pin = view.pin(view.revision() - 1).unwrap();
    let compaction = CompactionRequest { revision: view.revision(), physical: true };
    posted(&mut mail);
    propose(&mut driver, 4, Command::encode(4, Kind::Compaction, &compaction));
    assert!(matches!(&posted(&mut mail)[..], [Answer::Outcome(applied)] if applied.reply.is_ok()));
    (driver, mail, pin)
}

#[test]
fn the_end_of_a_compaction_is_awaited_as_long_as_it_takes() {
    let (mut driver, mut mail, pin) = held_compaction();
    driver.take(Event::AwaitCompaction { waiter: waiter(), id: 5 }).unwrap();
    driver.take(Event::AwaitCompaction { waiter: waiter(), id: 6 }).unwrap();
    driver.forget_unanswered(Instant::now() + 10 * FORGET_AFTER);
    driver.take(Event::Withdraw { waiter: None, id: 6 }).unwrap();
    driver.advance().unwrap();
    assert_eq!(driver.waiters.count(GoalKind::Compaction), 1, "one client has gone");
    assert!(posted(&mut mail).is_empty());
    drop(pin);
    while driver.replica.store().compacting() {
        driver.advance().unwrap();
    }
    assert!(matches!(posted(&mut mail)[..], [Answer::Compacted]));
    driver.take(Event::AwaitCompaction { waiter: waiter(), id: 7 }).unwrap();
    assert_eq!(answered(&mut driver, |answer| matches!(answer, Answer::Compacted)), 1);
    assert_eq!(driver.waiters.count(GoalKind::Compaction), 0);
}

#[test]
fn clients_that_wait_for_the_end_of_a_compaction_are_bounded_and_answered_when_the_member_ends() {
    const WAITING: usize = GoalKind::Compaction.most();
    let (mut driver, mut mail, _pin) = held_compaction();
    (0..WAITING as u64 + 5)
        .for_each(|id| driver.take(Event::AwaitCompaction { waiter: waiter(), id: 10 + id }).unwrap());
    assert_eq!((driver.waiters.count(GoalKind::Compaction), answered(&mut driver, no_room)), (WAITING, 5));
    driver.turn_away();
    assert!(posted(&mut mail).iter().filter(|answer| matches!(answer, Answer::Stopped)).count() >= WAITING);
}

#[test]
fn a_compaction_rests_between_its_steps_while_requests_arrive() {
    let (mut driver, _mail, pin) = held_compaction();
    drop(pin);
    driver.compaction_rests_until = Instant::now() + Duration::from_secs(60);
    driver.busy = true;
    let rest = driver.advance().unwrap();
    assert!(rest > Duration::from_secs(30), "{rest:?}");
    assert!(driver.replica.store().compacting());
    driver.busy = false;
    while driver.replica.store().compacting() {
        driver.advance().unwrap();
    }
}
