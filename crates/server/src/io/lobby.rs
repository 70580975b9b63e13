//! The lobby of a port that is for few clients: a connection that was not admitted stays only for a moment.
//!
//! ```text
//! accept ──▶ lobby: at most `connections`, the oldest makes room for the newest ──▶ admitted: stays at will
//!               └── closed: no request within `first_request`, or not admitted within `stay`, both from the accept on
//! ```
//!
//! So a large number of silent or slow connections takes nothing from the connections that the port is for. A
//! connection that belongs here is admitted by its first request, which is on its way when the connection is accepted.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::service::Service;
use crate::grpc::Origin;
use crate::grpc::{Body, LocalFuture};

/// How many connections wait in a lobby, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    /// From the accept to the head of the first request.
    pub first_request: Duration,
    /// From the accept to the end of a connection that is not admitted.
    pub stay: Duration,
}

impl Limits {
    /// These limits for a port with `places` places: connections that were not admitted get at most half of them.
    pub fn within(self, places: usize) -> Limits {
        Limits { connections: self.connections.min(places / 2).max(1), ..self }
    }
}

/// The connections that were not admitted yet. Clones share the same lobby.
#[derive(Clone, Debug)]
pub struct Lobby {
    limits: Limits,
    waiting: Rc<RefCell<VecDeque<Arc<State>>>>,
}

/// The stay of a connection, as the connection and its requests know it.
#[derive(Debug, Default)]
struct State {
    asked: AtomicBool,
    admitted: AtomicBool,
    ended: AtomicBool,
    /// Notified when `asked` or `admitted` changes, and when the connection must be closed.
    changed: Notify,
    displaced: AtomicBool,
}

impl State {
    fn set(&self, flag: &AtomicBool) {
        if !flag.swap(true, Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }
}

fn is(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}

/// An extension of each request, by which the service admits the connection.
#[derive(Clone, Debug)]
pub struct Pass(Arc<State>);

impl Pass {
    /// Admits the connection.
    pub fn admit(&self) {
        self.0.set(&self.0.admitted);
    }
}

/// A connection in the lobby; dropped with the connection.
#[derive(Debug)]
pub struct Guest {
    state: Arc<State>,
    limits: Limits,
    entered: Instant,
}

impl Lobby {
    pub fn new(limits: Limits) -> Lobby {
        Lobby { limits, waiting: Rc::default() }
    }

    /// Takes a connection. Without room, the connection that has waited longest must be closed.
    pub fn enter(&self) -> Guest {
        let state = Arc::<State>::default();
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|guest| !is(&guest.admitted) && !is(&guest.ended));
        if waiting.len() >= self.limits.connections
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.set(&oldest.displaced);
        }
        waiting.push_back(state.clone());
        Guest { state, limits: self.limits, entered: Instant::now() }
    }
}

impl Guest {
    /// Returns when the connection must be closed: never, once it was admitted.
    pub async fn shown_out(&self) {
        let state = &self.state;
        loop {
            if is(&state.admitted) {
                return std::future::pending().await;
            }
            let patience = if is(&state.asked) { self.limits.stay } else { self.limits.first_request };
            tokio::select! {
                () = state.changed.notified() => {
                    if is(&state.displaced) && !is(&state.admitted) {
                        return;
                    }
                }
                () = sleep_until(self.entered + patience) => return,
            }
        }
    }

    /// `service`, whose requests carry the [`Pass`] of this connection.
    pub fn escort(&self, service: Rc<dyn Service>) -> Rc<dyn Service> {
        Rc::new(Escort { service, state: self.state.clone() })
    }

    #[cfg(test)]
    pub fn pass(&self) -> Pass {
        Pass(self.state.clone())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
    }
}

struct Escort {
    service: Rc<dyn Service>,
    state: Arc<State>,
}

impl Service for Escort {
    fn call(&self, mut request: Request<Incoming>, origin: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        self.state.set(&self.state.asked);
        request.extensions_mut().insert(Pass(self.state.clone()));
        self.service.call(request, origin)
    }

    fn awaits_answers(&self) -> bool {
        self.service.awaits_answers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { connections: 2, first_request: Duration::from_secs(5), stay: Duration::from_secs(30) };

    /// Whether the connection must be closed within so many seconds.
    async fn goes(guest: &Guest, seconds: u64) -> bool {
        tokio::time::timeout(Duration::from_secs(seconds), guest.shown_out()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn time_runs_from_the_accept_until_a_connection_is_admitted() {
        let lobby = Lobby::new(LIMITS);
        let (silent, asks) = (lobby.enter(), lobby.enter());
        assert!(!goes(&silent, 4).await && goes(&silent, 2).await, "no request");
        asks.state.set(&asks.state.asked);
        assert!(!goes(&asks, 20).await && goes(&asks, 10).await, "not admitted, however many requests it makes");
        let member = lobby.enter();
        member.pass().admit();
        assert!(!goes(&member, 10_000).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_makes_room_for_the_newest_and_admitted_ones_take_none() {
        let lobby = Lobby::new(LIMITS);
        let (first, member) = (lobby.enter(), lobby.enter());
        member.pass().admit();
        let second = lobby.enter();
        assert!(!goes(&first, 1).await, "a member takes no place");
        let third = lobby.enter();
        assert!(goes(&first, 1).await && !goes(&second, 1).await);
        drop(third);
        let _fourth = lobby.enter();
        assert!(!goes(&second, 1).await, "the third one has left");
        assert!(!goes(&member, 1).await);
    }

    #[test]
    fn strangers_get_no_more_than_half_of_the_places() {
        let connections = |places| Limits { connections: 256, ..LIMITS }.within(places).connections;
        assert_eq!([1, 3, 300, 512, 100_000].map(connections), [1, 1, 150, 256, 256]);
    }
}
