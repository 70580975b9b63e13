//! One transport with its thread, and a double of the member behind it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method};
use metastore_proto::raftpb::{Entry, Message, MessageType};
use metastore_server::config::url::{Url, parse};
use metastore_server::io::listen::{Address, Listener, SocketOptions};
use metastore_server::io::security::Security;
use metastore_server::io::workers::Workers;
use metastore_server::peer::client::{Reply, request};
use metastore_server::peer::{
    Form, Identity, Peer, READ_TIMEOUT, Settings, Sink, StateBody, StateIntake, StateStream, StateTaker, Transport,
    thread,
};
use metastore_server::tls::Connector;
use parking_lot::{Condvar, Mutex};

/// Nothing in these tests takes longer unless it is stuck.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const CLUSTER: u64 = 0xc1;

/// The calls that a member received.
#[derive(Debug, Default)]
pub struct Received {
    /// Messages that are not appends, by sender, with their type and index.
    pub messages: BTreeMap<u64, Vec<(MessageType, u64)>>,
    /// Appends, by sender: the index before, and how many entries.
    pub appends: BTreeMap<u64, Vec<(u64, usize)>>,
    pub last: Option<Message>,
    pub unreachable: BTreeMap<u64, u64>,
    pub states_sent: Vec<(u64, bool)>,
    pub removed: u64,
    /// The member takes no more messages.
    pub full: bool,
}

#[derive(Debug, Default)]
pub struct Double {
    told: Mutex<Received>,
    changed: Condvar,
}

impl Double {
    /// Waits until the recorded calls satisfy `condition`, and returns its result.
    pub fn wait<T>(&self, what: &str, condition: impl Fn(&mut Received) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut told = self.told.lock();
        loop {
            if let Some(found) = condition(&mut told) {
                return found;
            }
            assert!(!self.changed.wait_until(&mut told, deadline).timed_out(), "in vain: {what}; {told:?}");
        }
    }

    pub fn change(&self, change: impl FnOnce(&mut Received)) {
        change(&mut self.told.lock());
        self.changed.notify_all();
    }

    /// How many messages arrived from `id` on each stream.
    pub fn counts(&self, id: u64) -> (usize, usize) {
        let told = self.told.lock();
        (told.appends.get(&id).map_or(0, Vec::len), told.messages.get(&id).map_or(0, Vec::len))
    }
}

impl Sink for Double {
    fn message(&self, message: Message, _bytes: usize) -> bool {
        let mut taken = false;
        self.change(|told| {
            taken = !told.full;
            if !taken {
                return;
            }
            if message.r#type() == MessageType::MsgApp {
                let append = (message.index(), message.entries.len());
                told.appends.entry(message.from()).or_default().push(append);
            } else {
                told.messages.entry(message.from()).or_default().push((message.r#type(), message.index()));
            }
            told.last = Some(message);
        });
        taken
    }

    fn unreachable(&self, id: u64) {
        self.change(|told| *told.unreachable.entry(id).or_default() += 1);
    }

    fn snapshot_sent(&self, to: u64, ok: bool) {
        self.change(|told| told.states_sent.push((to, ok)));
    }

    fn removed(&self) {
        self.change(|told| told.removed += 1);
    }
}

/// Takes no state.
pub struct NoIntake;

impl StateIntake for NoIntake {
    fn begin(&self, _: Message) -> Result<Box<dyn StateTaker>, String> {
        Err("no states here".into())
    }
}

/// A state that consists of its announcement and a function that writes.
pub struct State<F> {
    pub announcement: Message,
    pub write: F,
}

type Out<'a> = &'a mut dyn FnMut(&[u8]) -> std::io::Result<()>;

impl<F: Fn(Out<'_>) -> Result<(), String> + Send + 'static> StateStream for State<F> {
    fn open(self: Box<Self>, _: Form) -> Result<(Message, Box<dyn StateBody>), String> {
        Ok((self.announcement.clone(), self))
    }
}

impl<F: Fn(Out<'_>) -> Result<(), String> + Send> StateBody for State<F> {
    fn write(&mut self, out: Out<'_>) -> Result<(), String> {
        (self.write)(out)
    }
}

/// A transport that runs.
pub struct Member {
    pub id: u64,
    pub transport: Transport,
    pub double: Arc<Double>,
    pub address: SocketAddr,
    workers: Option<Workers>,
}

impl Member {
    pub fn start(id: u64) -> Member {
        Member::start_with(id, CLUSTER, "127.0.0.1:0".parse().unwrap(), Arc::new(NoIntake))
    }

    pub fn start_with(id: u64, cluster_id: u64, address: SocketAddr, intake: Arc<dyn StateIntake>) -> Member {
        let listener = Listener::bind(&Address::Tcp(address), SocketOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let identity = Identity {
            id,
            cluster_id,
            directory: None,
            version: "3.7.0".into(),
            peer_urls: vec![format!("http://{address}")],
        };
        let settings = Settings {
            identity,
            dial_timeout: Duration::from_secs(2),
            read_timeout: READ_TIMEOUT,
            tls: Connector::default(),
        };
        let double = Arc::<Double>::default();
        let transport = Transport::new(settings, double.clone(), intake);
        let patience = Duration::from_millis(500);
        let further = |_| Rc::new(|_| None) as _;
        let workers =
            thread::start(&transport, vec![(listener, Security::Plain)], thread::MAX_CONNECTIONS, patience, further)
                .unwrap();
        Member { id, transport, double, address, workers: Some(workers) }
    }

    pub fn peer(&self) -> Peer {
        peer(self.id, self.address)
    }

    pub fn url(&self) -> Url {
        parse(&format!("http://{}", self.address)).unwrap()
    }

    pub fn is_connected_to(&self, id: u64) -> bool {
        self.transport.connected_since(id).is_some()
    }

    /// The value of one line of the metrics.
    pub fn figure(&self, line: &str) -> Option<f64> {
        let page = self.transport.meters().render();
        page.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
    }

    pub fn stop(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
    }

    /// Sends a request to this member's peer port.
    pub fn ask(&self, method: Method, path: &str, headers: HeaderMap, body: impl Into<Bytes>) -> Reply {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url = self.url();
        runtime.block_on(request(&Connector::default(), &url, method, path, headers, body.into(), PATIENCE)).unwrap()
    }
}

/// Starts the transport of member `id`.
pub fn launch(
    id: u64,
    cluster_id: u64,
    listener: Listener,
    sink: Arc<dyn Sink>,
    intake: Arc<dyn StateIntake>,
) -> (Transport, Workers) {
    let peer_urls = vec![format!("http://{}", listener.local_addr().unwrap())];
    let identity = Identity { id, cluster_id, directory: None, version: "3.7.0".into(), peer_urls };
    let settings = Settings {
        identity,
        dial_timeout: Duration::from_secs(2),
        read_timeout: READ_TIMEOUT,
        tls: Connector::default(),
    };
    let transport = Transport::new(settings, sink, intake);
    let patience = Duration::from_millis(500);
    let further = |_| Rc::new(|_| None) as _;
    let workers =
        thread::start(&transport, vec![(listener, Security::Plain)], thread::MAX_CONNECTIONS, patience, further)
            .unwrap();
    (transport, workers)
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Two members that know each other.
pub fn pair() -> (Member, Member) {
    let (one, two) = (Member::start(1), Member::start(2));
    for member in [&one, &two] {
        member.transport.set_peers(vec![one.peer(), two.peer()], vec![]);
    }
    (one, two)
}

pub fn peer(id: u64, address: SocketAddr) -> Peer {
    Peer { id, urls: vec![format!("http://{address}")] }
}

/// The headers with which member `id` asks member `to`.
pub fn headers(id: u64, to: u64) -> HeaderMap {
    Identity { id, cluster_id: CLUSTER, directory: None, version: "3.7.0".into(), peer_urls: vec![] }.headers(to)
}

pub fn heartbeat(from: u64, to: u64, index: u64) -> Message {
    Message {
        r#type: Some(MessageType::MsgHeartbeat as i32),
        from: Some(from),
        to: Some(to),
        term: Some(5),
        index: Some(index),
        ..Message::default()
    }
}

/// An append of one entry of `bytes` bytes after `index`.
pub fn append(from: u64, to: u64, index: u64, bytes: usize) -> Message {
    let data = Some(vec![7; bytes].into());
    let entry = Entry { r#type: None, term: Some(5), index: Some(index + 1), data };
    let kind = Some(MessageType::MsgApp as i32);
    Message { r#type: kind, log_term: Some(5), entries: vec![entry], ..heartbeat(from, to, index) }
}

/// Waits for a condition that nothing notifies of.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}
