//! The handle by which the member talks to others, and the state that the threads share behind it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use metastore_proto::raftpb::{Message, MessageType};
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::headers::{Identity, Sender};
use super::link::{Link, StreamKind};
use super::meters::Meters;
use super::traits::{Sink, StateIntake, StateStream};
use crate::tls::Connector;

/// At most this many members that this one does not know yet are answered: they joined while it was away. Further ones
/// must wait until they are in the log here.
const MAX_REMOTES: usize = 32;

/// The most URLs of one unknown member.
const MAX_REMOTE_URLS: usize = 16;

/// How the transport behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    pub identity: Identity,
    /// How long opening a connection may take. In etcd, one second and the election timeout.
    pub dial_timeout: Duration,
    /// How long a stream may be silent. Both sides send something three times as often.
    pub read_timeout: Duration,
    /// For peer URLs with TLS.
    pub tls: Connector,
}

/// etcd's `raft-read-timeout`.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Another member, as the list of members has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: u64,
    pub urls: Vec<String>,
}

/// Commands to the thread of the peers.
pub(super) enum Command {
    /// Talk to this member; `true`: open streams to it. To an unknown member, messages are only posted.
    Start(Arc<Link>, bool),
    Stop(u64),
    State(Arc<Link>, Box<dyn StateStream>),
}

#[derive(Default)]
struct Table {
    peers: HashMap<u64, Arc<Link>>,
    remotes: HashMap<u64, Arc<Link>>,
    urls: HashMap<u64, Vec<String>>,
    removed: HashSet<u64>,
}

/// The state that the threads share.
pub(super) struct TransportState {
    pub settings: Settings,
    pub sink: Arc<dyn Sink>,
    pub intake: Arc<dyn StateIntake>,
    pub meters: Arc<Meters>,
    table: RwLock<Table>,
    /// It has no bound of its own: peers start and stop with the membership, and each has at most one state under way.
    commands: mpsc::UnboundedSender<Command>,
    /// For the thread of the peers, which takes it once.
    pub inlet: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
}

/// The way to the other members. Clones share the same state; calls never block.
#[derive(Clone)]
pub struct Transport {
    pub(super) shared: Arc<TransportState>,
}

impl Transport {
    /// Nothing happens before [`super::thread::start`].
    pub fn new(settings: Settings, sink: Arc<dyn Sink>, intake: Arc<dyn StateIntake>) -> Transport {
        let (commands, inlet) = mpsc::unbounded_channel();
        let meters = Meters::new(settings.identity.id);
        let inlet = Mutex::new(Some(inlet));
        let shared = TransportState { settings, sink, intake, meters, table: RwLock::default(), commands, inlet };
        Transport { shared: Arc::new(shared) }
    }

    /// Queues a message for `message.to`. Without room or connection it is dropped, counted, and reported through
    /// [`Sink::unreachable`]. A message to an unknown member is dropped silently, as in etcd. A state goes by
    /// [`Transport::send_state`]: a MsgSnap is dropped here.
    pub fn send(&self, message: Message) {
        let (to, kind) = (message.to(), message.r#type());
        if kind == MessageType::MsgSnap {
            tracing::error!("remote-peer-id" = %format_args!("{to:x}"), "a state cannot be sent as a message; dropped");
            debug_assert!(false, "a MsgSnap goes by send_state");
            return;
        }
        let link = self.shared.link(to);
        match link {
            Some(link) => link.send(message),
            None => tracing::debug!(
                r#type = kind.as_str_name(), "unknown-target-peer-id" = %format_args!("{to:x}"),
                "ignored message send request; unknown remote peer target"
            ),
        }
    }

    /// Sends a state to a follower, in the background. The result comes through [`Sink::snapshot_sent`]: at once if
    /// there is no such peer, or if another state is on its way to it.
    pub fn send_state(&self, to: u64, state: Box<dyn StateStream>) {
        let link = self.shared.table.read().peers.get(&to).cloned();
        match link {
            Some(link) if link.begin_state() => self.shared.command(Command::State(link, state)),
            _ => self.shared.sink.snapshot_sent(to, false),
        }
    }

    /// Sets the membership. This member may be among the peers, and is passed over. A member in `removed` is answered
    /// that it was removed when it asks.
    pub fn set_peers(&self, peers: Vec<Peer>, removed: Vec<u64>) {
        let shared = &self.shared;
        let wanted: BTreeMap<u64, Peer> = peers.into_iter().map(|peer| (peer.id, peer)).collect();
        let mut table = shared.table.write();
        table.removed = removed.into_iter().collect();
        let gone = |id: &u64| !wanted.contains_key(id);
        let leaving: Vec<u64> = table.peers.keys().copied().filter(gone).collect();
        for id in leaving {
            shared.stop(table.peers.remove(&id));
            table.urls.remove(&id);
            let own = shared.settings.identity.id;
            seldom!(
                CHANGES: info, (own, id),
                "local-member-id" = %format_args!("{own:x}"),
                "removed-remote-peer-id" = %format_args!("{id:x}"), "removed remote peer"
            );
        }
        let removed_remotes: Vec<u64> = table.remotes.keys().copied().filter(|id| table.removed.contains(id)).collect();
        for id in removed_remotes {
            shared.stop(table.remotes.remove(&id));
        }
        for peer in wanted.into_values().filter(|peer| peer.id != shared.settings.identity.id) {
            shared.set_peer(&mut table, peer);
        }
    }

    /// Since when the member has been connected; `None` if it is not.
    pub fn connected_since(&self, id: u64) -> Option<Instant> {
        self.shared.table.read().peers.get(&id)?.active_since()
    }

    /// Whether both streams to the peer are open, so that messages arrive in order or not at all.
    pub fn has_streams(&self, id: u64) -> bool {
        let kinds = [StreamKind::Appends, StreamKind::Messages];
        self.shared.peer(id).is_some_and(|link| kinds.iter().all(|kind| link.queue(*kind).is_open()))
    }

    /// The headers by which the member `to` identifies a request of this one.
    pub fn headers(&self, to: u64) -> HeaderMap {
        self.shared.settings.identity.headers(to)
    }

    /// The way to URLs with TLS.
    pub fn tls(&self) -> &Connector {
        &self.shared.settings.tls
    }

    /// The metrics about other members.
    pub fn meters(&self) -> Arc<Meters> {
        self.shared.meters.clone()
    }
}

impl TransportState {
    fn set_peer(&self, table: &mut Table, peer: Peer) {
        let subject = (self.settings.identity.id, peer.id);
        let (local, id) = (format_args!("{:x}", subject.0), format_args!("{:x}", subject.1));
        if let Some(link) = table.peers.get(&peer.id) {
            if table.urls.get(&peer.id) != Some(&peer.urls) {
                link.urls.set(peer.id, &peer.urls);
                seldom!(
                    CHANGES: info, subject,
                    "local-member-id" = %local, "updated-remote-peer-id" = %id,
                    "updated-remote-peer-urls" = %peer.urls.join(","), "updated remote peer"
                );
                table.urls.insert(peer.id, peer.urls);
            }
            return;
        }
        // An unknown member has become a peer.
        self.stop(table.remotes.remove(&peer.id));
        let link = self.new_link(peer.id, &peer.urls);
        seldom!(
            CHANGES: info, subject,
            "local-member-id" = %local, "remote-peer-id" = %id, "remote-peer-urls" = %peer.urls.join(","),
            "added remote peer"
        );
        table.peers.insert(peer.id, link.clone());
        table.urls.insert(peer.id, peer.urls);
        self.command(Command::Start(link, true));
    }

    fn new_link(&self, id: u64, urls: &[String]) -> Arc<Link> {
        Arc::new(Link::new(self.settings.identity.id, id, urls, self.meters.peer(id), self.sink.clone()))
    }

    fn stop(&self, link: Option<Arc<Link>>) {
        let Some(link) = link else { return };
        link.finish();
        self.meters.forget(link.id);
        self.command(Command::Stop(link.id));
    }

    fn command(&self, command: Command) {
        // Once the thread has ended, no member is talked to any more.
        let _ = self.commands.send(command);
    }

    /// The peer, or the unknown member that has sent a request under this id.
    pub fn link(&self, id: u64) -> Option<Arc<Link>> {
        let table = self.table.read();
        table.peers.get(&id).or_else(|| table.remotes.get(&id)).cloned()
    }

    pub fn peer(&self, id: u64) -> Option<Arc<Link>> {
        self.table.read().peers.get(&id).cloned()
    }

    pub fn is_removed(&self, id: u64) -> bool {
        self.table.read().removed.contains(&id)
    }

    /// The links of all members that are talked to.
    pub fn links(&self) -> Vec<Arc<Link>> {
        let table = self.table.read();
        table.peers.values().chain(table.remotes.values()).cloned().collect()
    }

    /// Remembers the URLs of a sender that is no peer, so that it can be answered: a member that joined while this one
    /// was away, or for which this one is new. `id` and the URLs come from the request.
    pub fn remember(&self, id: u64, sender: &Sender) {
        let own = self.settings.identity.id;
        if id == 0 || id == own || sender.urls.is_empty() || sender.urls.len() > MAX_REMOTE_URLS {
            return;
        }
        let mut table = self.table.write();
        if table.peers.contains_key(&id) || table.remotes.contains_key(&id) || table.removed.contains(&id) {
            return;
        }
        if table.remotes.len() >= MAX_REMOTES {
            tracing::debug!("remote-peer-id" = %format_args!("{id:x}"), "too many unknown peers; this one is not \
                answered");
            return;
        }
        let link = self.new_link(id, &sender.urls);
        seldom!(
            CHANGES: info, (own, id),
            "local-member-id" = %format_args!("{own:x}"), "remote-peer-id" = %format_args!("{id:x}"),
            "remote-peer-urls" = %sender.urls.join(","), "added new remote peer"
        );
        table.remotes.insert(id, link.clone());
        self.command(Command::Start(link, false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::{Level, tests::lines};
    use crate::member::fake_engine::FakeEngine;
    use crate::seldom::CHANGES;

    #[tokio::test(flavor = "local")]
    async fn members_that_come_and_go_do_not_fill_the_log() {
        let transport = FakeEngine::new(&["http://127.0.0.1:1"]).member.transport.clone();
        let lines = lines(Level::Info, || {
            for round in 0..1000 {
                for urls in [vec![format!("http://127.0.0.1:{round}")], vec!["gopher://x".into()]] {
                    transport.set_peers(vec![Peer { id: 0x78, urls }], Vec::new());
                }
                transport.set_peers(Vec::new(), Vec::new());
            }
        });
        let said = |what: &str| lines.iter().filter(|line| line["msg"] == what).count();
        for change in ["added remote peer", "updated remote peer", "removed remote peer"] {
            assert_eq!(said(change), CHANGES as usize, "{change}");
        }
        assert_eq!(said("cannot use this peer URL"), 1);
    }
}
