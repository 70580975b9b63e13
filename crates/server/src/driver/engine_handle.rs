//! One thread's way to the engine thread and back: questions go into the inbox, and answers and events come by mail.
//!
//! ```text
//!   a request ── EngineHandle::ask ──▶ Inbox ──▶ engine thread ──▶ Mail ──▶ deliver ──▶ its slot: the request goes on
//!                                                                              └──────▶ the watchers of the thread
//! ```

use std::sync::Arc;
use std::time::Duration;

use metastore_replica::NotProposed;
use metastore_store::watch::RevisionEvents;
use tokio::time::Instant;

use super::event::{Answer, Event, Mail, Waiter};
use crate::io::inbox::{Inbox, NotQueued};
use crate::io::mailbox;
use crate::io::slots::{Expired, Slots};

/// How long the engine thread may take to say whether a request that ran out of time was proposed.
const WITHDRAWAL_PATIENCE: Duration = Duration::from_millis(500);

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The deadline passed. The request may still take effect.
    Late,
    /// Too many requests wait already: this one was not accepted.
    NoRoom,
    /// The request will never be proposed.
    NotProposed(NotProposed),
    /// The member cannot go on. The request may have been done or not.
    Stopped,
}

/// The watchers of one thread, which get the events from the engine thread.
pub trait EventSink {
    /// Takes the events of one revision, which count for `bytes` bytes.
    fn publish(&self, events: &Arc<RevisionEvents>, bytes: usize);
    /// Events were dropped on the way here, or another state replaced theirs.
    fn lost(&self);
    /// The mail that has arrived was delivered.
    fn wake(&self);
}

/// One thread's way to the engine thread. Clones are the same way.
#[derive(Clone)]
pub struct EngineHandle {
    inbox: Inbox<Event>,
    slots: Slots<Answer>,
    worker: usize,
}

impl EngineHandle {
    /// Starts to deliver the mail of the thread `worker`. To be called once, inside the local runtime of that thread.
    pub fn start(
        inbox: Inbox<Event>,
        worker: usize,
        mailbox: mailbox::Receiver<Mail>,
        events: impl EventSink + 'static,
    ) -> Self {
        let slots = Slots::default();
        tokio::task::spawn_local(slots.clone().sweep());
        tokio::task::spawn_local(deliver(mailbox, slots.clone(), events));
        Self { inbox, slots, worker }
    }

    /// Asks a question that counts for `bytes` bytes, and waits for the answer until the deadline, if there is one.
    pub async fn ask(
        &self,
        deadline: Option<Instant>,
        bytes: usize,
        question: impl FnOnce(Waiter) -> Event,
    ) -> Result<Answer, NoAnswer> {
        let wait = self.slots.register(deadline);
        let waiter = Waiter { worker: self.worker, key: wait.key() };
        self.inbox.push(question(waiter), bytes).map_err(|refused| match refused {
            NotQueued::Full(_) => NoAnswer::NoRoom,
            NotQueued::Closed(_) => NoAnswer::Stopped,
        })?;
        match wait.await {
            Ok(Answer::Stopped) => Err(NoAnswer::Stopped),
            Ok(Answer::NoRoom) => Err(NoAnswer::NoRoom),
            Ok(Answer::NotProposed(why)) => Err(NoAnswer::NotProposed(why)),
            Ok(answer) => Ok(answer),
            Err(Expired) => Err(NoAnswer::Late),
        }
    }

    /// Sends an event that nobody waits for, and that must not be refused for lack of room; false if the engine thread
    /// has stopped.
    pub fn tell(&self, event: Event) -> bool {
        self.inbox.push_control(event)
    }

    /// Withdraws the request `id`, which has no answer yet; returns whether it was not proposed yet. An engine thread
    /// that is held up does not answer, which counts as proposed.
    pub async fn withdraw(&self, id: u64) -> bool {
        let deadline = Instant::now() + WITHDRAWAL_PATIENCE;
        let answer = self.ask(Some(deadline), 0, |waiter| Event::Withdraw { waiter: Some(waiter), id }).await;
        matches!(answer, Ok(Answer::Withdrawn(true)))
    }

    /// A guard of a request that the engine thread may hold.
    pub fn open_request(&self, id: u64) -> OpenRequest<'_> {
        OpenRequest { engine: self, id: Some(id) }
    }

    /// Whether a request of this thread waits for an answer.
    pub fn awaits_answers(&self) -> bool {
        !self.slots.is_empty()
    }
}

/// A request that the engine thread may hold. If this is dropped before [`OpenRequest::closed`], the client has gone,
/// and the request is withdrawn: it need not be proposed, or answered, any more.
pub struct OpenRequest<'a> {
    engine: &'a EngineHandle,
    id: Option<u64>,
}

impl OpenRequest<'_> {
    /// The request has its answer, or was withdrawn.
    pub fn closed(mut self) {
        self.id = None;
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.engine.tell(Event::Withdraw { waiter: None, id });
        }
    }
}

/// Delivers the mail of the engine thread to the requests and watchers of this thread, for ever.
async fn deliver(mut mailbox: mailbox::Receiver<Mail>, slots: Slots<Answer>, watchers: impl EventSink) {
    let mut mail = Vec::new();
    loop {
        mailbox.take(&mut mail).await;
        let mut watched = false;
        for letter in mail.drain(..) {
            match letter {
                // The request of a late answer no longer waits.
                Mail::Answer(key, answer) => _ = slots.complete(key, answer),
                Mail::Events(events, bytes) => {
                    watchers.publish(&events, bytes);
                    watched = true;
                }
                Mail::EventsLost => {
                    watchers.lost();
                    watched = true;
                }
            }
        }
        if watched {
            watchers.wake();
        }
    }
}
