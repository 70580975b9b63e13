//! The I/O threads: one per core, each with a runtime that no other thread uses.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as ready;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::accept::{Dealt, Door, Entrance, Stream, accept};
use super::lingering::Lingering;
use super::listen::Listener;
use super::lobby::{self, Lobby};
use super::protocol::Protocol;
use super::serve::Connections;
use super::service::Service;
use super::socket::Socket;
use super::timed::Timed;
use crate::grpc::Origin;

/// At most this many accepted connections wait for one worker to take them over.
const DEALT: usize = 256;

/// A TCP connection without traffic is probed this often, as etcd does.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Connections to the peer port that no member has claimed yet, and how long they may stay unclaimed. The first request
/// of another member follows its connection at once. A member that joins is not known yet, and sends few requests.
const STRANGERS: lobby::Limits =
    lobby::Limits { connections: 256, first_request: Duration::from_secs(5), stay: Duration::from_secs(30) };

/// A peer that takes nothing of an answer for this long is given up, as in etcd.
const PEER_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the other side may take to close a connection after this side has closed it. As in etcd's gRPC library,
/// only a side that is gone takes longer.
const LINGER: Duration = Duration::from_secs(1);

/// The context in which the service of a worker is built.
#[derive(Clone, Debug)]
pub struct WorkerContext {
    /// 0, 1, ...
    pub index: usize,
    /// Turns true when the member stops.
    pub stopping: watch::Receiver<bool>,
}

/// The running threads.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    stopping: watch::Sender<bool>,
}

impl Workers {
    /// Starts `count` threads and serves `listeners`. `build` runs once on each thread, inside its runtime: it may
    /// spawn local tasks (a mailbox reader, the sweep of its slots). At most `connections` are open at a time; more
    /// wait in the kernel. On stop, open requests get `patience` to finish, and as long as the service awaits answers
    /// ([`Service::awaits_answers`]), they get more.
    pub fn start(
        count: usize,
        listeners: Vec<(Listener, Entrance)>,
        connections: usize,
        protocol: Protocol,
        patience: Duration,
        build: impl Fn(WorkerContext) -> Rc<dyn Service> + Send + Sync + 'static,
    ) -> io::Result<Workers> {
        Workers::start_named("io", count, listeners, connections, protocol, patience, build)
    }

    /// [`Workers::start`] with threads of another name.
    pub fn start_named(
        name: &'static str,
        count: usize,
        listeners: Vec<(Listener, Entrance)>,
        connections: usize,
        protocol: Protocol,
        patience: Duration,
        build: impl Fn(WorkerContext) -> Rc<dyn Service> + Send + Sync + 'static,
    ) -> io::Result<Workers> {
        assert!(count > 0, "no I/O thread");
        let stopping = watch::Sender::new(false);
        let build = Arc::new(build);
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(DEALT)).unzip();
        let mut listeners = Some(listeners);
        let places = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        let mut threads = Vec::new();
        for (index, dealt) in receivers.into_iter().enumerate() {
            let context = WorkerContext { index, stopping: stopping.subscribe() };
            let worker = Worker {
                context,
                dealt,
                listeners: listeners.take().unwrap_or_default(),
                senders: senders.clone(),
                places: places.clone(),
                protocol,
                patience,
            };
            let build = build.clone();
            threads.push(spawn(format!("{name}-{index}"), move |runtime| {
                runtime.block_on(worker.run(&*build));
                // Work on the pool may take minutes (Defragment), and no request waits for it any more.
                runtime.shutdown_background();
            })?);
        }
        Ok(Workers { threads, stopping })
    }

    /// Stops accepting, lets open requests finish as [`Workers::start`] says, and ends the threads.
    pub fn stop(self) {
        self.stopping.send_replace(true);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("an I/O thread panicked");
            }
        }
    }
}

/// Starts a thread, and waits for its runtime, so that a failure is returned to the caller.
fn spawn(name: String, run: impl FnOnce(LocalRuntime) + Send + 'static) -> io::Result<JoinHandle<()>> {
    let (built, result) = ready::channel();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => {
                let _ = built.send(Ok(()));
                run(runtime);
            }
            Err(error) => {
                let _ = built.send(Err(error));
            }
        }
    })?;
    result.recv().map_err(|_| io::Error::other("an I/O thread ended before it began"))??;
    Ok(thread)
}

struct Worker {
    context: WorkerContext,
    dealt: mpsc::Receiver<Dealt>,
    listeners: Vec<(Listener, Entrance)>,
    senders: Vec<mpsc::Sender<Dealt>>,
    places: Arc<Semaphore>,
    protocol: Protocol,
    patience: Duration,
}

impl Worker {
    async fn run(mut self, build: &dyn Fn(WorkerContext) -> Rc<dyn Service>) {
        let service = build(self.context.clone());
        let stopping = self.context.stopping.clone();
        let mut stopped = stopping.clone();
        for (listener, entrance) in self.listeners {
            match listener.register() {
                Ok(listener) => {
                    let task = accept(listener, entrance, self.senders.clone(), self.places.clone(), stopping.clone());
                    tokio::task::spawn_local(task);
                }
                Err(error) => tracing::error!(error = %error, "cannot watch a listening socket"),
            }
        }
        drop(self.senders);
        let served = Rc::new(Connections::new(self.protocol));
        let lobby = Lobby::new(STRANGERS.within(self.places.available_permits()));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                dealt = self.dealt.recv() => {
                    let Some((stream, Entrance { door, security }, place)) = dealt else { break };
                    let Ok(socket) = take_over(stream) else { continue };
                    let service = service.clone();
                    let (served, stopping) = (served.clone(), stopping.clone());
                    let guest = (door == Door::Peer).then(|| lobby.enter());
                    connections.spawn_local(async move {
                        let serve = async {
                            let entered = security.enter(socket, LINGER, stopping.clone()).await;
                            let Some((socket, origin)) = entered else { return };
                            let (socket, origin) = (Lingering::new(socket, LINGER), Rc::new(Origin { door, ..origin }));
                            match &guest {
                                None => served.serve_client(socket, service, origin, stopping).await,
                                Some(guest) => {
                                    let socket = Timed::new(socket, PEER_WRITE_TIMEOUT);
                                    served.serve_peer(socket, guest.escort(service), origin, stopping).await;
                                }
                            }
                        };
                        let serve = std::pin::pin!(serve);
                        match &guest {
                            None => serve.await,
                            Some(guest) => tokio::select! {
                                () = serve => {}
                                () = guest.shown_out() => {}
                            },
                        }
                        drop(place);
                    });
                }
                Some(_) = connections.join_next() => {}
                _ = stopped.wait_for(|stopping| *stopping) => break,
            }
        }
        let finish = async { while connections.join_next().await.is_some() {} };
        let give_up = async {
            loop {
                tokio::time::sleep(self.patience).await;
                if !service.awaits_answers() {
                    break;
                }
            }
        };
        // Connections that are still open after this are cut off when the runtime is shut down.
        tokio::select! {
            () = finish => {}
            () = give_up => {}
        }
    }
}

fn take_over(stream: Stream) -> io::Result<Socket> {
    Ok(match stream {
        Stream::Tcp(stream) => {
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Socket::Tcp(tokio::net::TcpStream::from_std(stream)?)
        }
        Stream::Unix(stream) => Socket::Unix(tokio::net::UnixStream::from_std(stream)?),
    })
}
