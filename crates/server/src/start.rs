//! Puts a member together: disk, engine, replica, engine thread, I/O threads; and stops it again.

mod listeners;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use metastore_replica::disk::{Access, Disk, OsDisk};
use metastore_replica::{ConvertError, Fatal, OpenError, Paths, Replica, Settings, Timing, force_new_cluster};
use metastore_store::lease::minimum_ttl_s;
use metastore_store::watch;
use tokio::sync::watch as signal;

use crate::api::{self, Watchers, defragment};
use crate::audit::Audit;
use crate::auth::Authenticator;
use crate::config::{Config, Url};
use crate::descriptors::Descriptors;
use crate::driver::{Advertised, Driver, EngineHandle, Event, Heartbeat, Intake, Jobs, Mail, PeerSink, WorkerLink};
use crate::duties::{auto_compaction, corruption, duplicate_process, space, versions, watchdog};
use crate::engine;
use crate::founding::bootstrap;
use crate::grpc::{Body, Ledger, Router, health};
use crate::http::{Browsers, Site};
use crate::io::accept::Entrance;
use crate::io::inbox::{Bounds, Inbox};
use crate::io::listen::{ListenError, Listener};
use crate::io::mailbox;
use crate::io::protocol::Protocol;
use crate::io::workers::{WorkerContext, Workers};
use crate::member::{Barrier, Limits, MemberHandle};
use crate::metrics::Metrics;
use crate::peer::{self, Further, Transport};
use crate::questions;
use crate::shared::{Shared, WorkerFlags};
use crate::tls::Connector;
use listeners::{Listeners, listen};

/// At most this many requests wait for the engine thread; more are answered that there are too many.
const INBOX_COUNT: usize = 64 << 10;
/// At most this many bytes of them.
const INBOX_BYTES: usize = 256 << 20;
/// The time that a proposal may take besides two election timeouts, as in etcd.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A sync of the log that takes longer is worth a line in the log, as in etcd.
const SLOW_SYNC: Duration = Duration::from_secs(1);
/// How long opening a connection to another member may take besides an election timeout, as in etcd.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long open requests may go on once the member stops. Requests that wait for the engine thread are excepted: their
/// time is bounded.
const STOP_PATIENCE: Duration = Duration::from_millis(500);
/// The metrics port gets one in so many connections, and at most [`MAX_OBSERVERS`]: enough for kubelets and Prometheus,
/// beside many that nobody uses.
const OBSERVERS_SHARE: usize = 8;
const MAX_OBSERVERS: usize = 4096;

/// How long a leader that stops waits for a new leader.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("--force-new-cluster: {0}")]
    Alone(#[from] ConvertError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("{0}")]
    Settings(String),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error(transparent)]
    Fatal(Arc<Fatal>),
}

/// A member that runs.
pub struct Running {
    workers: Workers,
    /// The thread of the metrics port, if there is one.
    observers: Option<Workers>,
    peers: Workers,
    /// The status that the health service reports.
    serving: signal::Sender<bool>,
    engine: JoinHandle<Jobs>,
    inbox: Inbox<Event>,
    ended: Ended,
    shared: Arc<Shared>,
    audit: Audit,
    /// Where clients are served.
    pub client_addresses: Vec<SocketAddr>,
}

/// How the engine thread ended; `None` while it runs.
pub type Ended = signal::Receiver<Option<Result<(), Arc<Fatal>>>>;

struct Worker {
    mailbox: mailbox::Receiver<Mail>,
    flags: Arc<WorkerFlags>,
}

/// Starts a member and returns once it serves.
///
/// # Errors
/// [`StartError`]; nothing was changed on disk that would harm a later start.
pub fn start(config: &Config) -> Result<Running, StartError> {
    let descriptors = Descriptors::share(config.engine).map_err(StartError::Settings)?;
    // The listeners first: a port in use is the most common mistake, and must not leave a data directory behind.
    let (Listeners { clients, metrics: metrics_doors, peers }, tls) = listen(config)?;
    announce(config);
    let grpc = clients.iter().filter(|(_, entrance)| !entrance.door.is_http_only());
    let client_addresses = grpc.filter_map(|(listener, _)| listener.local_addr()).collect();
    let ledger = if config.extensive_metrics { Ledger::extensive() } else { Ledger::default() };
    let metrics = Metrics::new(config.reported_version.clone(), ledger);
    // As with the listeners: a wrong path must not leave a data directory behind.
    let auth = Authenticator::new(&config.auth).map_err(|error| StartError::Settings(error.to_string()))?;
    let auth = Arc::new(auth);
    let audit = Audit::start(config.audit.as_ref(), &config.name).map_err(StartError::Settings)?;
    let replica = open(config, descriptors, &metrics, &tls)?;
    let shared = Shared::new(replica.cluster_id(), replica.id(), replica.store());
    let own =
        duplicate_process::Own { cluster_id: replica.cluster_id(), id: replica.id(), directory: replica.directory() };
    let inbox = Inbox::new(Bounds { count: INBOX_COUNT, bytes: INBOX_BYTES });
    // One for each thread that asks the engine thread: those that serve clients, then those of peers and of metrics.
    let (links, workers): (Vec<_>, Vec<_>) =
        (0..=config.io_threads + usize::from(!metrics_doors.is_empty())).map(|_| worker()).unzip();
    let (ready, mut known) = signal::channel(false);
    let (end, ended) = signal::channel(None);
    let intake = Intake::new(replica.receiver(), inbox.clone(), metrics.received_seconds.clone());
    let transport =
        Transport::new(peer_settings(config, &replica, &tls), Arc::new(PeerSink::new(inbox.clone())), Arc::new(intake));
    let ways = (inbox.clone(), transport.clone());
    let handles = Arc::new(Handles::new(config, (&shared, &auth, &audit), ways.clone(), workers, &metrics));
    let ready = (ready, metrics.clone());
    let driver =
        Driver::new(replica, (shared.clone(), auth), ways, links, heartbeat(config), advertised(config), ready);
    let look = move |urls: &[String]| duplicate_process::look(own, &tls, urls);
    let check = initial_check(config, &shared, &transport);
    let engine = std::thread::Builder::new().name("engine".into()).spawn(move || {
        let (ended, jobs) = driver.run(look, check);
        end.send_replace(Some(ended.map_err(Arc::new)));
        jobs
    })?;
    let peers = listen_to_peers(config, &transport, peers, descriptors, (&handles, own))?;
    // Before the member is ready, so that probes see why it is not.
    let (for_clients, for_observers) = share_out(descriptors.connections, !metrics_doors.is_empty());
    let observers = serve_observers(config, (metrics_doors, for_observers), handles.clone())?;
    if let Err(error) = wait_until_ready(&mut known, &ended) {
        // The ports are free once this returns.
        observers.into_iter().for_each(Workers::stop);
        peers.stop();
        return Err(error);
    }
    if config.bootstrap_defrag_threshold_megabytes > 0 {
        let lower_mark = |done| _ = inbox.push_control(Event::LowerMark(done));
        defragment::at_start(config.bootstrap_defrag_threshold_megabytes, &shared, &metrics, lower_mark)
            .map_err(StartError::Settings)?;
    }
    let serving = signal::Sender::new(true);
    let workers = serve(config, (clients, for_clients), handles, serving.clone())?;
    announce_clients(config);
    Ok(Running { workers, observers, peers, serving, engine, inbox, ended, shared, audit, client_addresses })
}

fn announce(config: &Config) {
    tracing::info!(
        "etcd-version" = %config.reported_version, name = %config.name, "data-dir" = %config.data_dir.display(),
        engine = config.engine.name(), "snapshot-count" = config.snapshot_count,
        "snapshot-catchup-entries" = config.snapshot_catchup_entries,
        "heartbeat-interval" = %format!("{}ms", config.heartbeat_ms),
        "election-timeout" = %format!("{}ms", config.election_ms),
        "listen-client-urls" = %texts(&config.listen_client_urls),
        "listen-metrics-urls" = %texts(&config.listen_metrics_urls),
        "listen-peer-urls" = %texts(&config.listen_peer_urls), "initial-cluster" = %config.initial_cluster,
        "starting an etcd server"
    );
    if config.unsafe_no_fsync {
        tracing::warn!("--unsafe-no-fsync is set: a crash of the machine may lose acknowledged writes");
    }
}

fn announce_clients(config: &Config) {
    tracing::info!("ready to serve client requests");
    let grpc = if config.listen_client_http_urls.is_empty() { "grpc+http" } else { "grpc" };
    let urls = config.listen_client_urls.iter().map(|url| (url, grpc));
    for (url, traffic) in urls.chain(config.listen_client_http_urls.iter().map(|url| (url, "http"))) {
        match url.scheme.is_tls() {
            true => tracing::info!(traffic, address = %url.text, "serving client traffic securely"),
            false => {
                let address = &url.text;
                tracing::info!(traffic, %address, "serving client traffic insecurely; this is strongly discouraged!");
            }
        }
    }
}

impl StartError {
    /// Whether the cluster has removed this member: there is nothing to start, now or later.
    pub fn is_removal(&self) -> bool {
        matches!(self, Self::Fatal(fatal) if matches!(**fatal, Fatal::Removed))
    }
}

impl Running {
    /// Grows as long as the engine thread makes progress: with each heartbeat interval, even if there is nothing to do.
    pub fn progress(&self) -> u64 {
        self.shared.pulse()
    }

    /// How the engine thread ended, once it has.
    pub fn ended(&self) -> Ended {
        self.ended.clone()
    }

    /// Hands leadership over, lets open requests finish, then ends all threads except those returned. Requests that the
    /// engine thread has accepted always finish; the others get a moment. Everything acknowledged is on disk already.
    pub fn stop(self) -> Jobs {
        self.serving.send_replace(false);
        let (done, handed_over) = mpsc::sync_channel(0);
        self.inbox.push_control(Event::HandOver(done));
        // Nothing is ever sent: the sender is dropped when another member leads, or if there is nothing to hand over.
        _ = handed_over.recv_timeout(HAND_OVER_PATIENCE);
        self.workers.stop();
        self.observers.into_iter().for_each(Workers::stop);
        self.audit.finish();
        self.inbox.push_control(Event::Stop);
        self.peers.stop();
        self.engine.join().unwrap_or_else(|_| {
            tracing::error!("the engine thread panicked");
            Jobs::default()
        })
    }
}

fn texts(urls: &[Url]) -> String {
    urls.iter().map(|url| url.text.as_str()).collect::<Vec<_>>().join(",")
}

fn open(
    config: &Config,
    descriptors: Descriptors,
    metrics: &Arc<Metrics>,
    tls: &Connector,
) -> Result<Replica, StartError> {
    let timing = Timing { election_ticks: heartbeat(config).election_ticks, pre_vote: config.pre_vote };
    let mut settings = Settings::new(config.engine.name(), timing, config.snapshot_catchup_entries as usize);
    settings.keep.more_entries = config.snapshot_count as usize;
    settings.max_learners = config.max_learners;
    settings.new_directory = Some(peer::names::new_directory());
    settings.lease_checkpoints = config.lease_checkpoints;
    settings.skip_entry = config.unsafe_skip_entry;
    settings.minimum_lease_ttl_s = minimum_ttl_s(heartbeat(config).election_ticks as u64, config.heartbeat_ms);
    let disk = if config.unsafe_no_fsync { OsDisk::without_fsync() } else { OsDisk::new() };
    let disk: Arc<dyn Disk> = Arc::new(watched(disk, metrics));
    let paths = Paths { data_dir: config.data_dir.clone(), wal_dir: config.wal_dir.clone() };
    let engine = engine::opener(config.engine, descriptors);
    if config.force_new_cluster {
        let removed = force_new_cluster(settings.clone(), disk.clone(), paths.clone(), engine.clone())?;
        for id in removed {
            tracing::warn!("removed-member-id" = %format_args!("{id:x}"), "forced a new cluster: a member is removed");
        }
    }
    let (replica, cut) = Replica::open(settings, disk, paths, || bootstrap(config, tls), engine)?;
    if let Some(cut) = cut {
        tracing::warn!(
            file = %cut.file.display(), offset = cut.offset, "dropped-bytes" = cut.dropped_bytes,
            "cut an unfinished write off the end of the log; it was never acknowledged"
        );
    }
    Ok(replica)
}

/// The disk, with every write and sync of the log and of states measured.
fn watched(disk: OsDisk, metrics: &Arc<Metrics>) -> OsDisk {
    let metrics = metrics.clone();
    disk.observed(Arc::new(move |path, access, took| {
        let is = |end: &str| path.extension().is_some_and(|extension| extension == end);
        match access {
            Access::Write(bytes) if is("wal") => {
                metrics.wal_write_seconds.observe(took.as_secs_f64());
                metrics.wal_write_bytes.add(bytes as i64);
            }
            Access::Write(_) => {}
            Access::SyncData | Access::SyncAll if is("wal") => {
                metrics.wal_fsync_seconds.observe(took.as_secs_f64());
                if took > SLOW_SYNC {
                    seldom!(CHANGES: warn, (), took = ?took, "expected-duration" = ?SLOW_SYNC, "slow fdatasync");
                }
            }
            _ if is("receiving") || is("received") => metrics.received_fsync_seconds.observe(took.as_secs_f64()),
            _ if path.parent().is_some_and(|parent| parent.ends_with("snap")) => {
                metrics.snap_fsync_seconds.observe(took.as_secs_f64());
            }
            _ => {}
        }
    }))
}

/// Waits until the member is ready. If it cannot become ready, returns the reason instead of waiting for ever.
fn wait_until_ready(ready: &mut signal::Receiver<bool>, ended: &Ended) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut ended = ended.clone();
    runtime.block_on(async {
        // The engine thread drops `ready` before it reports how it ended.
        if ready.wait_for(|ready| *ready).await.is_ok() {
            return Ok(());
        }
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Err(fatal))) => Err(StartError::Fatal(fatal.clone())),
            _ => Err(StartError::Settings("the engine thread ended before the member was ready".into())),
        }
    })
}

/// The parts from which each thread that asks the engine thread makes its [`MemberHandle`].
struct Handles {
    shared: Arc<Shared>,
    auth: Arc<Authenticator>,
    audit: Audit,
    limits: Limits,
    watch_limits: watch::Limits,
    inbox: Inbox<Event>,
    transport: Transport,
    metrics: Arc<Metrics>,
    version: String,
    browsers: Arc<Browsers>,
    gateway: bool,
    all: Arc<[Arc<WorkerFlags>]>,
    waiting: parking_lot::Mutex<Vec<Option<Worker>>>,
}

impl Handles {
    fn new(
        config: &Config,
        (shared, auth, audit): (&Arc<Shared>, &Arc<Authenticator>, &Audit),
        (inbox, transport): (Inbox<Event>, Transport),
        workers: Vec<Worker>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let progress_ms = config.watch_progress_notify_interval.as_millis() as u64;
        Self {
            shared: shared.clone(),
            auth: auth.clone(),
            audit: audit.clone(),
            limits: limits(config),
            watch_limits: watch::Limits::new(config.max_request_bytes, progress_ms),
            inbox,
            transport,
            metrics: metrics.clone(),
            version: config.reported_version.clone(),
            browsers: Arc::new(Browsers::new(&config.host_whitelist, &config.cors)),
            gateway: config.enable_grpc_gateway,
            all: workers.iter().map(|worker| worker.flags.clone()).collect(),
            waiting: parking_lot::Mutex::new(workers.into_iter().map(Some).collect()),
        }
    }

    /// Makes the member, and the watchers, for the calling thread. To be called once for each index, on its thread.
    fn handle_for(&self, index: usize) -> (Rc<MemberHandle>, Rc<Watchers>) {
        let taken = self.waiting.lock()[index].take();
        let Worker { mailbox, flags } = taken.unwrap_or_else(|| panic!("thread {index} starts twice"));
        let watchers = Watchers::new(self.shared.views.clone(), self.watch_limits, flags.clone());
        let engine = EngineHandle::start(self.inbox.clone(), index, mailbox, watchers.clone());
        tokio::task::spawn_local(watchers.clone().read_history());
        tokio::task::spawn_local(watchers.clone().report_progress());
        let barrier = Barrier::new(engine.clone(), flags, self.limits.request_timeout);
        let member = MemberHandle {
            shared: self.shared.clone(),
            limits: self.limits.clone(),
            metrics: self.metrics.clone(),
            engine,
            auth: self.auth.clone(),
            audit: self.audit.clone(),
            transport: self.transport.clone(),
            pool: peer::Pool::new(self.transport.tls().clone()),
            barrier,
            listing: Default::default(),
            takes_singly: Default::default(),
            sets_alarm: Default::default(),
            worker: index,
            all: self.all.clone(),
        };
        (Rc::new(member), watchers)
    }

    fn site(&self, member: Rc<MemberHandle>) -> Site {
        Site {
            view: Rc::new(member),
            metrics: self.metrics.clone(),
            version: self.version.clone(),
            browsers: self.browsers.clone(),
            gateway: self.gateway,
        }
    }
}

type Doors = Vec<(Listener, Entrance)>;

fn serve(
    config: &Config,
    (listeners, connections): (Doors, usize),
    handles: Arc<Handles>,
    serving: signal::Sender<bool>,
) -> Result<Workers, StartError> {
    let protocol = Protocol {
        max_concurrent_streams: config.max_concurrent_streams,
        ping_interval: config.ping_interval,
        ping_timeout: config.ping_timeout,
        ping_min_time: config.ping_min_time,
    };
    let max_receive_bytes = config.max_receive_bytes();
    let build = move |context: WorkerContext| {
        let (member, watchers) = handles.handle_for(context.index);
        let router = Rc::new_cyclic(|own| {
            let mut router = Router::new(max_receive_bytes, handles.metrics.ledger().clone(), context.stopping.clone());
            api::register(&mut router, &member, &watchers, own);
            health::register(&mut router, serving.subscribe());
            router
        });
        handles.site(member).service(router)
    };
    Ok(Workers::start(config.io_threads, listeners, connections, protocol, STOP_PATIENCE, build)?)
}

/// The connections of clients, and those to the metrics port: the one must not take the descriptors of the other.
fn share_out(connections: usize, observed: bool) -> (usize, usize) {
    let observers = if observed { (connections / OBSERVERS_SHARE).clamp(1, MAX_OBSERVERS) } else { 0 };
    ((connections - observers).max(1), observers)
}

/// Serves metrics and checks of health, on a thread of its own.
fn serve_observers(
    config: &Config,
    (listeners, connections): (Doors, usize),
    handles: Arc<Handles>,
) -> Result<Option<Workers>, StartError> {
    if listeners.is_empty() {
        return Ok(None);
    }
    let index = config.io_threads + 1;
    let build = move |_: WorkerContext| {
        let (member, _) = handles.handle_for(index);
        handles.site(member).metrics_service()
    };
    let protocol = Protocol::default();
    let workers = Workers::start_named("metrics", 1, listeners, connections, protocol, STOP_PATIENCE, build)?;
    for url in &config.listen_metrics_urls {
        tracing::info!(address = %url.text, "serving metrics");
    }
    Ok(Some(workers))
}

fn listen_to_peers(
    config: &Config,
    transport: &Transport,
    doors: Doors,
    descriptors: Descriptors,
    (handles, own): (&Arc<Handles>, duplicate_process::Own),
) -> Result<Workers, StartError> {
    let listeners = doors.into_iter().map(|(listener, entrance)| (listener, entrance.security)).collect();
    let connections = descriptors.connections.min(peer::thread::MAX_CONNECTIONS);
    let (handles, index) = (handles.clone(), config.io_threads);
    let Heartbeat { interval, election_ticks } = heartbeat(config);
    let (compaction, corruption) = (config.auto_compaction, config.corruption);
    let places = space::Places::new(config, INBOX_BYTES as u64);
    let further = move |_: WorkerContext| -> Further {
        let (member, _) = handles.handle_for(index);
        let site = handles.site(member.clone());
        tokio::task::spawn_local(versions::monitor(member.clone()));
        if let Some(settings) = compaction {
            tokio::task::spawn_local(auto_compaction::run(member.clone(), settings));
        }
        if let Some(every) = corruption.periodic {
            tokio::task::spawn_local(corruption::compare_states(member.clone(), every));
        }
        if let Some(every) = corruption.compactions {
            tokio::task::spawn_local(corruption::compare_compactions(member.clone(), every));
        }
        tokio::task::spawn_local(space::watch(member.clone(), places.clone()));
        tokio::task::spawn_local(duplicate_process::watch(member.clone(), own));
        tokio::task::spawn_local(watchdog::watch(handles.shared.clone(), interval, interval * election_ticks as u32));
        Rc::new(move |request: Request<Incoming>| {
            if questions::concerns(request.uri().path()) {
                let answer = questions::answer(member.clone(), request);
                return Some(Box::pin(async move { answer.await.map(Body::Plain) }));
            }
            Some(Box::pin(std::future::ready(site.peer(&request))))
        })
    };
    Ok(peer::thread::start(transport, listeners, connections, STOP_PATIENCE, further)?)
}

/// Compares the state with the other members' before this one takes part, if that is asked for.
fn initial_check(
    config: &Config,
    shared: &Arc<Shared>,
    transport: &Transport,
) -> impl FnOnce() -> Result<(), Fatal> + use<> {
    let (wanted, patience) = (config.corruption.initial, limits(config).request_timeout);
    let (shared, transport) = (shared.clone(), transport.clone());
    move || if wanted { corruption::initial::check(&shared, &transport, patience) } else { Ok(()) }
}

/// How this member talks to the others.
fn peer_settings(config: &Config, replica: &Replica, tls: &Connector) -> peer::Settings {
    let identity = peer::Identity {
        id: replica.id(),
        cluster_id: replica.cluster_id(),
        directory: replica.directory(),
        version: config.reported_version.clone(),
        peer_urls: config.advertise_peer_urls.iter().map(|url| url.text.clone()).collect(),
    };
    let dial_timeout = DIAL_TIMEOUT + Duration::from_millis(config.election_ms);
    peer::Settings { identity, dial_timeout, read_timeout: peer::READ_TIMEOUT, tls: tls.clone() }
}

fn advertised(config: &Config) -> Advertised {
    Advertised {
        name: config.name.clone(),
        client_urls: config.advertise_client_urls.iter().map(|url| url.text.clone()).collect(),
        cluster_version: config.cluster_version(),
    }
}

fn limits(config: &Config) -> Limits {
    let election_timeout = Duration::from_millis(config.election_ms);
    Limits {
        max_request_bytes: config.max_request_bytes,
        max_txn_ops: config.max_txn_ops,
        request_timeout: REQUEST_TIMEOUT + 2 * election_timeout,
        election_timeout,
        strict_reconfig_check: config.strict_reconfig_check,
        quota: config.quota,
        version: config.reported_version.clone(),
    }
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
