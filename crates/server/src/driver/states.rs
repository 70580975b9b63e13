//! Whole states, to and from other members, between the transport and the replica.

use metastore_proto::raftpb;
use metastore_replica::{Fatal, ReceivedState, Retired, StateIncoming, StateReceiver, StateToSend};
use metastore_store::snapshot::Source;
use prometheus::{Histogram, HistogramTimer};

use super::event::{Event, Mail};
use super::{Driver, Inbox};
use crate::peer::{StateBody, StateIntake, StateStream, StateTaker};

/// A state for a follower, and the message that asks for it.
struct Wanted(StateToSend, raftpb::Message, Histogram);

impl StateStream for Wanted {
    fn open(self: Box<Self>) -> Result<(raftpb::Message, Box<dyn StateBody>), String> {
        let Self(state, message, seconds) = *self;
        let (message, source) = state.open(message).map_err(|error| error.to_string())?;
        Ok((message, Box::new(Opened(source, seconds))))
    }
}

/// An opened state, and the histogram of the time that sending it takes.
struct Opened(Source, Histogram);

impl StateBody for Opened {
    fn write(&self, out: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), String> {
        let _timer = self.1.start_timer();
        self.0.write(out).map_err(|error| error.to_string())
    }
}

/// Receives states for the engine thread.
pub struct Intake {
    receiver: StateReceiver,
    inbox: Inbox<Event>,
    seconds: Histogram,
}

impl Intake {
    /// `seconds` is the histogram of the time that each state takes.
    pub fn new(receiver: StateReceiver, inbox: Inbox<Event>, seconds: Histogram) -> Self {
        Self { receiver, inbox, seconds }
    }
}

impl StateIntake for Intake {
    fn begin(&self, message: raftpb::Message) -> Result<Box<dyn StateTaker>, String> {
        let from = message.from();
        let incoming = self.receiver.begin(message).map_err(|error| error.to_string())?;
        let index = incoming.position().index;
        let (inbox, timer) = (self.inbox.clone(), self.seconds.start_timer());
        Ok(Box::new(Taker { incoming, from, index, inbox, timer }))
    }
}

struct Taker {
    incoming: StateIncoming,
    /// The sender, and the index of the entry at which its state is.
    from: u64,
    index: u64,
    inbox: Inbox<Event>,
    timer: HistogramTimer,
}

impl StateTaker for Taker {
    fn take(&mut self, piece: &[u8]) -> Result<(), String> {
        self.incoming.take(piece).map_err(|error| {
            if error.is_foreign() {
                self.inbox.push_control(Event::ForeignState { from: self.from, index: self.index });
            }
            error.to_string()
        })
    }

    /// Consensus decides whether it wants the state, and answers the leader itself.
    fn finish(self: Box<Self>) -> Result<(), String> {
        let Self { incoming, inbox, timer, .. } = *self;
        let received = incoming.finish().map_err(|error| error.to_string())?;
        timer.observe_duration();
        if inbox.push_control(Event::StateReceived(Box::new(received))) {
            Ok(())
        } else {
            Err("the member stops".into())
        }
    }
}

impl Driver {
    /// Sends a state to followers for which the log no longer has the missing entries.
    pub(super) fn send_states(&mut self, wanted: Vec<raftpb::Message>) -> Result<(), Fatal> {
        for message in wanted {
            if !self.transport.takes_states(message.to()) {
                self.replica.state_sent(message.to(), false);
                continue;
            }
            let state = self.replica.state_to_send()?;
            let seconds = self.metrics.sent_seconds.clone();
            self.transport.send_state(message.to(), Box::new(Wanted(state, message, seconds)));
        }
        Ok(())
    }

    /// Another member's state has arrived; it is installed at once, or dropped.
    pub(super) fn take_state(&mut self, received: ReceivedState) -> Result<(), Fatal> {
        self.metrics.engine.set_installing(true);
        self.replica.state_received(received)?;
        let processed = self.replica.process(&mut self.output);
        self.metrics.engine.set_installing(false);
        processed
    }

    /// Another member has sent a database in etcd's format. If it leads, this member cannot go on: the leader no longer
    /// has the entries for it, and would send the same database again and again.
    pub(super) fn foreign_state(&self, from: u64, index: u64) -> Result<(), Fatal> {
        let (standing, applied) = (self.replica.standing(), self.replica.store().applied().index);
        if standing.leader == from && index > applied {
            return Err(Fatal::ForeignState { leader: from, index, applied });
        }
        Ok(())
    }

    /// Another state has replaced the one that all workers know.
    pub(super) fn state_replaced(&mut self) {
        let (own, index) = (self.replica.id(), self.replica.store().applied().index);
        seldom!(CHANGES: info, own, "applied-index" = index, "applied snapshot");
        self.members_changed();
        // Nobody here saw which users were deleted or got other passwords in between.
        self.auth.all_logged_out();
        for link in &mut self.links {
            link.batch.push(Mail::EventsLost);
        }
    }

    /// Removes replaced states that have no reader any more.
    pub(super) fn remove_retired(&mut self) {
        for retired in self.retired.extract_if(.., |retired| retired.is_unused()) {
            // This frees much memory, or closes and removes many files.
            self.jobs.start(move || remove(retired));
        }
    }
}

fn remove(retired: Retired) {
    if let Err(error) = retired.remove() {
        seldom!(CHANGES: warn, (), error = %error, "could not remove a state that is not used any more; the next \
            start will");
    }
}
