//! A member for tests, whose engine thread is the test itself.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use metastore_engine::Memory;
use metastore_proto::raftpb::{ConfChange, ConfChangeType, ConfState, Message};
use metastore_replica::{Role, Standing};
use metastore_store::watch;
use metastore_store::{Member as ClusterMember, Store};

use super::{Barrier, Limits, MemberHandle, Watchers};
use crate::driver::{Answer, Event, Waiter};
use crate::grpc::Ledger;
use crate::io::inbox::{Bounds, Inbox};
use crate::io::slots::Slots;
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

/// Member 1 of a cluster, on a worker of its own.
pub struct FakeEngine {
    pub member: Rc<MemberHandle>,
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
        let slots = Slots::default();
        tokio::task::spawn_local(slots.clone().sweep());
        let flags = Arc::<WorkerFlags>::default();
        let (request_timeout, election_timeout) = (Duration::from_secs(7), Duration::from_secs(1));
        let watch_limits = watch::Limits::new(1 << 20, 600_000);
        let identity =
            Identity { id: 1, cluster_id: 9, directory: None, version: "3.7.0".into(), peer_urls: Vec::new() };
        let settings = Settings { identity, dial_timeout: request_timeout, read_timeout: request_timeout };
        let member = MemberHandle {
            shared: Shared::new(9, 1, &store),
            limits: Limits {
                max_request_bytes: 1000,
                max_txn_ops: 10,
                request_timeout,
                election_timeout,
                strict_reconfig_check: true,
                version: "3.7.0".into(),
            },
            watchers: Watchers::new(store.views().clone(), watch_limits, flags.clone()),
            metrics: Metrics::new("3.7.0".into(), Ledger::default()),
            barrier: Barrier::new(inbox.clone(), slots.clone(), (0, flags.clone()), request_timeout),
            inbox,
            transport: Transport::new(settings, Arc::new(Deaf), Arc::new(Deaf)),
            pool: Pool::default(),
            slots,
            listing: Default::default(),
            takes_singly: Default::default(),
            worker: 0,
            all: [flags].into(),
        };
        let fake = Self { member: Rc::new(member) };
        fake.led_by(0);
        fake
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
                self.member.slots.complete(waiter.key, engine(&event));
            });
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The questions that have arrived.
    pub fn asked(&self) -> Vec<(Event, Waiter)> {
        let mut events = Vec::new();
        self.member.inbox.drain(&mut events, Duration::ZERO);
        events.into_iter().filter_map(|event| event.waiter().map(|waiter| (event, waiter))).collect()
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
