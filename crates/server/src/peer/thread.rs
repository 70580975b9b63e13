//! The thread of the peers: serves the peer port, and talks to the other members.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::link::StreamKind;
use super::pipeline::keep_posting;
use super::probe::keep_probing;
use super::reading::keep_reading;
use super::serve::{Front, Further};
use super::state_send;
use super::transport::{Command, Transport, TransportState};
use crate::io::accept::{Door, Entrance};
use crate::io::listen::Listener;
use crate::io::protocol::Protocol;
use crate::io::security::Security;
use crate::io::service::Service;
use crate::io::workers::{WorkerContext, Workers};

/// At most this many connections to the peer port at a time: five for each of a few dozen members, and as many more for
/// questions between members. Connections of unknown senders get few of these: see [`crate::io::lobby`].
pub const MAX_CONNECTIONS: usize = 1024;

/// Starts the thread. `further` answers requests that are not the transport's; it is made on the thread, once. On stop,
/// messages that are queued for streams get `patience` to be sent.
///
/// # Errors
/// No thread, or no runtime.
///
/// # Panics
/// If this transport was started before.
pub fn start(
    transport: &Transport,
    listeners: Vec<(Listener, Security)>,
    connections: usize,
    patience: Duration,
    further: impl Fn(WorkerContext) -> Further + Send + Sync + 'static,
) -> io::Result<Workers> {
    let entrance = |(listener, security)| (listener, Entrance { door: Door::Peer, security });
    let listeners = listeners.into_iter().map(entrance).collect();
    let shared = transport.shared.clone();
    let build = move |context: WorkerContext| -> Rc<dyn Service> {
        let commands = shared.inlet.lock().take().expect("a transport starts once");
        let further = further(context.clone());
        let stopping = context.stopping.clone();
        let (senders, posted) = Default::default();
        let front = Front { shared: shared.clone(), further, senders, posted, stopping };
        tokio::task::spawn_local(direct(shared.clone(), commands, context.stopping));
        Rc::new(move |request: Request<Incoming>| front.call(request))
    };
    Workers::start_named("peers", 1, listeners, connections, Protocol::default(), patience, build)
}

/// Starts and ends the tasks of each peer, as the commands say. A peer's tasks end when they are dropped here.
async fn direct(
    shared: Arc<TransportState>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut tasks: HashMap<u64, JoinSet<()>> = HashMap::new();
    let places = Arc::new(Semaphore::new(state_send::STATES_AT_ONCE));
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = stopping.wait_for(|stopping| *stopping) => None,
        };
        match command {
            Some(Command::Start(link, streams)) => {
                let set = tasks.entry(link.id).or_default();
                set.spawn_local(keep_posting(shared.clone(), link.clone()));
                if streams {
                    set.spawn_local(keep_reading(shared.clone(), link.clone(), StreamKind::Appends));
                    set.spawn_local(keep_reading(shared.clone(), link.clone(), StreamKind::Messages));
                    set.spawn_local(keep_probing(shared.clone(), link));
                }
            }
            Some(Command::Stop(id)) => _ = tasks.remove(&id),
            Some(Command::State(link, state)) => match tasks.get_mut(&link.id) {
                Some(set) => _ = set.spawn_local(state_send::send(shared.clone(), link, places.clone(), state)),
                None => link.state_sent(false),
            },
            None => break,
        }
    }
    for link in shared.links() {
        link.finish();
    }
}
