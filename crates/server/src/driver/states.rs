//! Whole states, to and from other members, between the transport and the replica.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use metastore_backup::{Backup, DatabaseFile, EtcdState, is_database, v2_store};
use metastore_proto::raftpb;
use metastore_replica::{Fatal, ReceivedState, Retired, StateIncoming, StateReceiver, StateToSend};
use metastore_store::snapshot::Source;
use prometheus::{Histogram, HistogramTimer};

use super::event::{Event, Mail};
use super::{Driver, Inbox};
use crate::peer::{Form, StateBody, StateIntake, StateStream, StateTaker};

/// A database is made and sent in pieces of at least this many bytes.
const PIECE_BYTES: usize = 256 << 10;

/// A state for a follower, and the message that asks for it.
struct Wanted(StateToSend, raftpb::Message, Histogram);

impl StateStream for Wanted {
    fn open(self: Box<Self>, form: Form) -> Result<(raftpb::Message, Box<dyn StateBody>), String> {
        let Self(state, message, seconds) = *self;
        let (mut message, source) = state.open(message).map_err(|error| error.to_string())?;
        let body = match form {
            Form::Stream => Opened::Stream(source),
            Form::Database => {
                let old_store = v2_store(|table| source.rows(table)).map_err(|error| error.to_string())?;
                message.snapshot.get_or_insert_default().data = Some(old_store.into());
                Opened::Database(Box::new(Backup::new(source).map_err(|error| error.to_string())?))
            }
        };
        Ok((message, Box::new(Timed(body, seconds))))
    }
}

/// An opened state.
enum Opened {
    Stream(Source),
    Database(Box<Backup>),
}

/// An opened state, and the histogram of the time that sending it takes.
struct Timed(Opened, Histogram);

impl StateBody for Timed {
    fn write(&mut self, out: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), String> {
        let _timer = self.1.start_timer();
        match &mut self.0 {
            Opened::Stream(source) => source.write(out).map_err(|error| error.to_string()),
            Opened::Database(backup) => {
                while let Some(piece) = backup.next_piece(PIECE_BYTES).map_err(|error| error.to_string())? {
                    out(&piece).map_err(|error| error.to_string())?;
                }
                Ok(())
            }
        }
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
        let incoming = self.receiver.begin(message).map_err(|error| error.to_string())?;
        let spool_in = self.receiver.directory();
        let (inbox, timer) = (self.inbox.clone(), self.seconds.start_timer());
        Ok(Box::new(Taker { incoming, arriving: Arriving::Head(Vec::new()), spool_in, inbox, timer }))
    }
}

struct Taker {
    incoming: StateIncoming,
    arriving: Arriving,
    /// The directory for a database on its way.
    spool_in: PathBuf,
    inbox: Inbox<Event>,
    timer: HistogramTimer,
}

/// The part of the state that has arrived.
enum Arriving {
    /// Too little to tell what it is.
    Head(Vec<u8>),
    Stream,
    /// A database of an etcd. It can be read only as a whole, so it is gathered in a file without a name: nothing of it
    /// is left after a crash.
    Database(File),
}

impl StateTaker for Taker {
    fn take(&mut self, piece: &[u8]) -> Result<(), String> {
        match &mut self.arriving {
            Arriving::Stream => self.incoming.take(piece).map_err(|error| error.to_string()),
            Arriving::Database(file) => file.write_all(piece).map_err(|error| unspooled(&error)),
            Arriving::Head(head) => {
                head.extend_from_slice(piece);
                let Some(is_database) = is_database(head) else { return Ok(()) };
                let head = std::mem::take(head);
                self.arriving = match is_database {
                    true => {
                        Arriving::Database(tempfile::tempfile_in(&self.spool_in).map_err(|error| unspooled(&error))?)
                    }
                    false => Arriving::Stream,
                };
                self.take(&head)
            }
        }
    }

    /// Consensus decides whether it wants the state, and answers the leader itself.
    fn finish(self: Box<Self>) -> Result<(), String> {
        let Self { mut incoming, arriving, inbox, timer, .. } = *self;
        match arriving {
            Arriving::Stream => {}
            Arriving::Head(head) => incoming.take(&head).map_err(|error| error.to_string())?,
            Arriving::Database(file) => import(file, &mut incoming)?,
        }
        let received = incoming.finish().map_err(|error| error.to_string())?;
        timer.observe_duration();
        if inbox.push_control(Event::StateReceived(Box::new(received))) {
            Ok(())
        } else {
            Err("the member stops".into())
        }
    }
}

fn unspooled(error: &io::Error) -> String {
    format!("the database cannot be kept until it is whole: {error}")
}

/// Passes a database of an etcd on as a state.
fn import(file: File, incoming: &mut StateIncoming) -> Result<(), String> {
    let file = DatabaseFile::whole(file).map_err(|error| unspooled(&error))?;
    let state = EtcdState::open(file).map_err(|error| error.to_string())?;
    let (position, found) = (incoming.position(), state.applied().index);
    if found > position.index {
        return Err(format!("the database is at entry {found}, not at entry {} as was announced", position.index));
    }
    let conf_state = incoming.conf_state().clone();
    let take = |piece: &[u8]| incoming.take(piece).map_err(io::Error::other);
    state.write(position, &conf_state, take).map_err(|error| error.to_string())
}

impl Driver {
    /// Sends a state to followers for which the log no longer has the missing entries.
    pub(super) fn send_states(&mut self, wanted: Vec<raftpb::Message>) -> Result<(), Fatal> {
        for message in wanted {
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
