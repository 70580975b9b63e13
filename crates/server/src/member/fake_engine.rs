//! A member for tests, whose engine thread is the test itself.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use metastore_engine::Memory;
use metastore_proto::etcdserverpb::PutRequest;
use metastore_proto::raftpb::{ConfChange, ConfChangeType, ConfState, Message};
use metastore_replica::{Role, Standing};
use metastore_store::command::{Command, Kind};
use metastore_store::watch::RevisionEvents;
use metastore_store::{Member as ClusterMember, Store};

use super::{Barrier, Limits, MemberHandle};
use crate::auth::Authenticator;
use crate::config::{AuthSettings, Quota};
use crate::driver::{Answer, EngineHandle, Event, EventSink, Mail, Waiter};
use crate::grpc::Ledger;
use crate::io::inbox::{Bounds, Inbox};
use crate::io::mailbox;
use crate::metrics::Metrics;
use crate::peer::{Identity, Pool, Settings, Sink, StateIntake, StateTaker, Transport};
use crate::shared::{Shared, WorkerFlags};

/// A peer sink and a state intake that take nothing.
struct Deaf;

impl Sink for Deaf {
    fn message(&self, _: Message, _: usize) -> bool {
        false
    }

    fn unreachable(&self, _: u64) {}

    fn snapshot_sent(&self, _: u64, _: bool) {}

    fn removed(&self) {}
}

impl StateIntake for Deaf {
    fn begin(&self, _: Message) -> Result<Box<dyn StateTaker>, String> {
        Err("deaf".into())
    }
}

/// Watchers that take nothing.
struct NoWatchers;

impl EventSink for NoWatchers {
    fn publish(&self, _: &Arc<RevisionEvents>, _: usize) {}

    fn lost(&self) {}

    fn wake(&self) {}
}

/// Member 1 of a cluster, on a worker of its own.
pub struct FakeEngine {
    pub member: Rc<MemberHandle>,
    store: RefCell<Store>,
    inbox: Inbox<Event>,
    mailbox: mailbox::Sender<Mail>,
}

impl FakeEngine {
    /// The members with their peer URLs, from id 1 on; commas separate several of one member. To be called inside a
    /// local runtime.
    pub fn new(peer_urls: &[&str]) -> Self {
        Self::with(store(peer_urls, false))
    }

    /// A member that follows without a vote.
    pub fn learner() -> Self {
        Self::with(store(&["http://127.0.0.1:1"], true))
    }

    fn with(store: Store) -> Self {
        let inbox = Inbox::new(Bounds { count: 100, bytes: 10_000 });
        let (mailbox, mail) = mailbox::mailbox();
        let engine = EngineHandle::start(inbox.clone(), 0, mail, NoWatchers);
        let flags = Arc::<WorkerFlags>::default();
        let (request_timeout, election_timeout) = (Duration::from_secs(7), Duration::from_secs(1));
        let identity =
            Identity { id: 1, cluster_id: 9, directory: None, version: "3.7.0".into(), peer_urls: Vec::new() };
        let settings = Settings {
            identity,
            dial_timeout: request_timeout,
            read_timeout: request_timeout,
            tls: Default::default(),
        };
        let member = MemberHandle {
            shared: Shared::new(9, 1, &store),
            limits: Limits {
                max_request_bytes: 1000,
                max_txn_ops: 10,
                request_timeout,
                election_timeout,
                strict_reconfig_check: true,
                quota: Quota { bytes: 100_000, disarm_percent: 0 },
                version: "3.7.0".into(),
            },
            metrics: Metrics::new("3.7.0".into(), Ledger::default()),
            barrier: Barrier::new(engine.clone(), flags.clone(), request_timeout),
            engine,
            audit: Default::default(),
            auth: Arc::new(Authenticator::new(&AuthSettings::default()).unwrap()),
            transport: Transport::new(settings, Arc::new(Deaf), Arc::new(Deaf)),
            pool: Pool::new(Default::default()),
            listing: Default::default(),
            takes_singly: Default::default(),
            sets_alarm: Default::default(),
            worker: 0,
            all: [flags].into(),
        };
        let fake = Self { member: Rc::new(member), store: RefCell::new(store), inbox, mailbox };
        fake.led_by(0);
        fake
    }

    /// Makes a new revision.
    pub fn put(&self, key: &'static str) {
        let mut store = self.store.borrow_mut();
        let (applied, request) = (store.applied(), PutRequest { key: key.into(), ..PutRequest::default() });
        store.apply(applied.index + 1, applied.term, Command::encode(0, Kind::Put, &request)).unwrap();
        store.publish().unwrap();
    }

    /// Sets the leader; 0 for none.
    pub fn led_by(&self, leader: u64) {
        let role = if leader == 1 { Role::Leader } else { Role::Follower };
        self.member.shared.set_standing(&Standing { leader, term: 2, commit: 5, role, ..Standing::default() });
    }

    /// Runs `test`, and answers every question of it as `engine` says.
    pub async fn answer_during(&self, engine: impl Fn(&Event) -> Answer, test: impl Future<Output = ()>) {
        tokio::select! {
            () = test => {}
            never = self.answer(engine) => never,
        }
    }

    /// Answers every question as `engine` says, for ever.
    pub async fn answer(&self, engine: impl Fn(&Event) -> Answer) -> ! {
        loop {
            self.asked().into_iter().for_each(|(event, waiter)| {
                self.reply(waiter, engine(&event));
            });
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Answers a question.
    pub fn reply(&self, waiter: Waiter, answer: Answer) {
        self.mailbox.post(&mut vec![Mail::Answer(waiter.key, answer)]);
    }

    /// The events that have arrived.
    pub fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        self.inbox.drain(&mut events, Duration::ZERO);
        events
    }

    /// The questions that have arrived.
    pub fn asked(&self) -> Vec<(Event, Waiter)> {
        self.events().into_iter().filter_map(|event| event.waiter().map(|waiter| (event, waiter))).collect()
    }
}

fn store(peer_urls: &[&str], is_learner: bool) -> Store {
    let mut store = Store::open(Arc::new(Memory::new())).unwrap();
    let kind = if is_learner { ConfChangeType::ConfChangeAddLearnerNode } else { ConfChangeType::ConfChangeAddNode };
    for (id, url) in (1..).zip(peer_urls) {
        let name = format!("m{id}");
        let peer_urls = url.split(',').map(str::to_owned).collect();
        let member = ClusterMember { id, name, is_learner, peer_urls, ..ClusterMember::default() };
        let change = ConfChange {
            r#type: Some(kind as i32),
            node_id: Some(id),
            context: Some(member.to_json().unwrap().into()),
            id: Some(id),
        };
        let checked = store.check_member_change(id, &change, 1).unwrap();
        assert!(checked.is_ok(), "{checked:?}");
        let voters = ConfState { voters: (1..=id).collect(), ..ConfState::default() };
        store.apply_member_change(id, 1, id, checked, &voters).unwrap();
    }
    store.publish().unwrap();
    store
}
