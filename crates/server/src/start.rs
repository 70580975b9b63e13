//! Putting a member together: disk, engine, replica, engine thread, I/O threads; and taking it apart again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use metastore_engine::Memory;
use metastore_proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use metastore_replica::disk::{Disk, OsDisk};
use metastore_replica::{Bootstrap, Fatal, OpenError, Paths, Replica, Settings, Timing};
use metastore_store::command::{Command, Kind};
use metastore_store::lease::minimum_ttl_s;
use metastore_store::watch;
use tokio::sync::watch as signal;

use crate::api::{self, Limits, Member, Watchers};
use crate::config::bootstrap::initial_members;
use crate::config::{ClusterState, Config};
use crate::driver::{Driver, Event, Heartbeat, Mail, WorkerLink};
use crate::grpc::{Ledger, Router};
use crate::http::{self, Doors};
use crate::io::accept::Door;
use crate::io::inbox::{Bounds, Inbox};
use crate::io::listen::{ListenError, Listener, SocketOptions};
use crate::io::mailbox;
use crate::io::serve::Protocol;
use crate::io::slots::Slots;
use crate::io::workers::{Services, WorkerContext, Workers};
use crate::shared::{Shared, WorkerFlags};

/// Requests that wait for the engine thread; more are told to come back.
const INBOX_COUNT: usize = 64 << 10;
/// Bytes of the same.
const INBOX_BYTES: usize = 256 << 20;
/// What a proposal may take beside two election timeouts, as in etcd.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long open requests may go on once the member stops.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("{0}")]
    Settings(String),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// A member that runs.
pub struct Running {
    workers: Workers,
    engine: JoinHandle<()>,
    inbox: Inbox<Event>,
    ended: signal::Receiver<Option<Arc<Fatal>>>,
    /// Where clients are served.
    pub client_addresses: Vec<SocketAddr>,
}

struct Worker {
    mailbox: mailbox::Receiver<Mail>,
    flags: Arc<WorkerFlags>,
}

/// Starts a member and returns once it serves.
///
/// # Errors
/// [`StartError`]; nothing was changed on disk that a later start would trip over.
pub fn start(config: &Config) -> Result<Running, StartError> {
    // The doors first: a port in use is the commonest mistake, and must not leave a data directory behind.
    let listeners = listen(config)?;
    let client_addresses = listeners
        .iter()
        .filter(|(_, door)| matches!(door, Door::Client))
        .filter_map(|(listener, _)| listener.local_addr())
        .collect();
    let replica = open(config)?;
    let shared = Shared::new(replica.cluster_id(), replica.id(), replica.store());
    let inbox = Inbox::new(Bounds { count: INBOX_COUNT, bytes: INBOX_BYTES });
    let (links, workers): (Vec<_>, Vec<_>) = (0..config.io_threads).map(|_| worker()).unzip();
    let (ready, mut leads) = signal::channel(false);
    let (end, ended) = signal::channel(None);
    let driver = Driver::new(replica, shared.clone(), inbox.clone(), links, heartbeat(config), ready);
    let engine = std::thread::Builder::new().name("engine".into()).spawn(move || {
        if let Err(fatal) = driver.run() {
            end.send_replace(Some(Arc::new(fatal)));
        }
    })?;
    wait_for_leader(&mut leads, &ended)?;
    publish(config, &shared, &inbox);
    let workers = serve(config, listeners, shared, inbox.clone(), workers)?;
    Ok(Running { workers, engine, inbox, ended, client_addresses })
}

fn worker() -> (WorkerLink, Worker) {
    let (sender, receiver) = mailbox::mailbox();
    let flags = Arc::<WorkerFlags>::default();
    (WorkerLink { mailbox: sender, flags: flags.clone() }, Worker { mailbox: receiver, flags })
}

fn heartbeat(config: &Config) -> Heartbeat {
    let election_ticks = (config.election_ms / config.heartbeat_ms) as usize;
    Heartbeat { interval: Duration::from_millis(config.heartbeat_ms), election_ticks }
}
