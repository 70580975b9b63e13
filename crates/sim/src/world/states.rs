//! States: written to disk now and then, which makes older parts of the log obsolete, and sent to followers that lack
//! those parts.
//!
//! Each state takes time, in which the members continue, crash, or receive messages. It is read step by step, written
//! or sent, and received piece by piece. A healed world is no faster: a follower that needs a state must still catch
//! up.

use metastore_proto::raftpb::Message;
use metastore_replica::ReceivedState;
use metastore_store::snapshot::Cursor;

use super::{Fatal, Output, World};
use crate::beside::{Reading, Sender, StateInTransit, Taking, Writing};

/// Moments for which a state is under way, or waits before it is written, at most.
const WAIT_MOMENTS: u64 = 60;
/// Moments until the hash of a compaction is computed, at most: clients wait for it.
const HASH_MOMENTS: u64 = 20;
/// Steps of reading a state, to write or to send it, in a moment, at most.
const READ_STEPS: u64 = 3;
/// Neither a divisor nor a multiple of any size in the stream.
const PIECE_BYTES: usize = 777;
/// Pieces that a member receives in a moment, at most.
const PIECES: u64 = 8;

impl World {
    /// Handles the tasks for states in a member's output.
    pub(super) fn states(&mut self, at: usize, output: &mut Output) -> Result<(), Fatal> {
        self.counts.states_taken_up += u64::from(output.state_replaced);
        if let Some(job) = output.compaction_hash.take() {
            let due = self.now + self.random.between(1, HASH_MOMENTS);
            self.members[at].beside.hashing = Some((due, job));
        }
        if let Some(job) = output.snapshot.take() {
            let due = self.soon();
            self.members[at].beside.writing = Some((due, Writing::Planned(job)));
        }
        for retired in output.retired.drain(..).filter(|retired| retired.is_unused()) {
            let removed = retired.remove();
            assert!(removed.is_ok() || self.members[at].may_stop(), "{removed:?}");
        }
        for message in std::mem::take(&mut output.states_wanted) {
            self.post_state(at, message)?;
        }
        Ok(())
    }

    fn soon(&mut self) -> u64 {
        self.now + self.random.between(1, WAIT_MOMENTS)
    }

    fn post_state(&mut self, from: usize, message: Message) -> Result<(), Fatal> {
        let Some(to) = self.position(message.to()) else { return Ok(()) };
        let Some(replica) = &mut self.members[from].replica else { return Ok(()) };
        let (message, source) = replica.state_to_send()?.open(message).expect("the state of a member is whole");
        self.note(|| format!("{from} -> {to} its state at {:?}", message.snapshot));
        let reading = Reading { to, message, source, cursor: Cursor::default(), stream: Vec::new() };
        self.members[from].beside.reading.push(reading);
        Ok(())
    }

    /// Whether a state is on its way from one member to another.
    pub(super) fn is_state_under_way(&self) -> bool {
        !self.states.is_empty() || self.members.iter().any(|member| member.beside.sends_or_takes())
    }

    /// Runs one moment of all tasks beside the members' work.
    pub(super) fn advance_states(&mut self) {
        let now = self.now;
        for parcel in self.states.extract_if(.., |parcel| parcel.arrives <= now).collect::<Vec<_>>() {
            let (from, to) = (parcel.from, parcel.to);
            if !self.begin_to_take(parcel) {
                self.report_state(from, to, false);
            }
        }
        for at in 0..self.members.len() {
            if self.members[at].awake(now) {
                self.go_on_writing(at);
                self.go_on_hashing(at);
                self.go_on_reading(at);
                self.go_on_taking(at);
            }
        }
    }

    /// A member reads the states that it sends.
    fn go_on_reading(&mut self, at: usize) {
        for mut reading in std::mem::take(&mut self.members[at].beside.reading) {
            let Reading { source, cursor, stream, .. } = &mut reading;
            let steps = self.random.below(READ_STEPS + 1);
            let more = (0..steps).all(|_| source.step(cursor, stream).expect("a state that is kept can be read"));
            if more {
                self.members[at].beside.reading.push(reading);
            } else {
                let Reading { to, message, stream, .. } = reading;
                let arrives = self.soon();
                let from = Sender { at, crashes: self.members[at].crashes };
                self.states.push(StateInTransit { arrives, from, to, message, stream });
            }
        }
    }

    /// A state arrives at a member. Returns whether the member begins to receive it.
    fn begin_to_take(&mut self, parcel: StateInTransit) -> bool {
        let StateInTransit { from, to, message, stream, .. } = parcel;
        let lost = self.network.loses((from.at, to));
        let member = &mut self.members[to];
        let Some(replica) = member.replica.as_ref().filter(|_| !lost && member.asleep_until <= self.now) else {
            return false;
        };
        let term = message.term();
        // The member may have advanced since the request, or may be receiving another state.
        let Ok(incoming) = replica.receiver().begin(message) else { return false };
        member.beside.taking = Some(Taking { from, term, incoming, stream, taken: 0 });
        true
    }

    fn go_on_taking(&mut self, at: usize) {
        let pieces = self.random.below(PIECES + 1) as usize;
        let member = &mut self.members[at];
        let Some(mut taking) = member.beside.taking.take() else { return };
        let doomed = member.may_stop();
        let from = taking.from;
        let wanted = pieces * PIECE_BYTES;
        for piece in taking.stream[taking.taken..].chunks(PIECE_BYTES).take(pieces) {
            if let Err(error) = taking.incoming.take(piece) {
                assert!(doomed, "member {at} cannot take a state: {error}");
                return self.report_state(from, at, false);
            }
        }
        taking.taken = taking.stream.len().min(taking.taken + wanted);
        if taking.taken < taking.stream.len() {
            member.beside.taking = Some(taking);
            return;
        }
        self.take_up(at, taking);
    }

    /// A member has received a whole state.
    fn take_up(&mut self, at: usize, taking: Taking) {
        let Taking { from, term, incoming, .. } = taking;
        let member = &mut self.members[at];
        let Some(replica) = &mut member.replica else { return };
        let taken = incoming.finish().map(|received: ReceivedState| replica.state_received(received));
        let doomed = member.may_stop();
        member.due = true;
        match &taken {
            Ok(Ok(())) => {}
            Ok(Err(error)) => assert!(doomed, "member {at} has stopped: {error}"),
            Err(error) => assert!(doomed, "member {at} cannot take a state: {error}"),
        }
        self.note(|| format!("{at} has got the state of {}: {}", from.at, taken.is_ok()));
        self.counts.states_sent += u64::from(taken.is_ok());
        if self.healed && taken.is_ok() {
            let sent = self.sent.entry((from.at, term, at)).or_default();
            *sent += 1;
            assert!(*sent <= 1, "member {at} is sent one state after another by {}, and never catches up", from.at);
        }
        self.report_state(from, at, taken.is_ok());
    }

    /// Reports the result of a transfer to the sender.
    pub(super) fn report_state(&mut self, from: Sender, to: usize, arrived: bool) {
        let to = self.members[to].id;
        let sender = &mut self.members[from.at];
        if let Some(replica) = sender.replica.as_mut().filter(|_| sender.crashes == from.crashes) {
            replica.state_sent(to, arrived);
            sender.due = true;
        }
    }

    fn go_on_writing(&mut self, at: usize) {
        let (now, due) = (self.now, self.soon());
        let steps = self.random.below(READ_STEPS + 1);
        let member = &mut self.members[at];
        let Some((since, writing)) = member.beside.writing.take_if(|(due, _)| *due <= now) else { return };
        let Some(replica) = &mut member.replica else { return };
        match writing {
            Writing::Planned(mut job) => match (0..steps).find_map(|_| job.step().transpose()) {
                Some(Ok(written)) => member.beside.writing = Some((due, Writing::Written(written))),
                Some(Err(error)) => {
                    assert!(member.may_stop(), "member {at} cannot write its state: {error}");
                    self.crashes(at);
                }
                None => member.beside.writing = Some((since, Writing::Planned(job))),
            },
            Writing::Written(written) => {
                self.counts.states_written += 1;
                if let Err(error) = replica.snapshot_written(written) {
                    self.stopped(at, &error);
                }
            }
        }
    }

    fn go_on_hashing(&mut self, at: usize) {
        let now = self.now;
        let member = &mut self.members[at];
        let Some((_, job)) = member.beside.hashing.take_if(|(due, _)| *due <= now) else { return };
        member.due = true;
        job.run().unwrap_or_else(|error| panic!("member {at} cannot hash what it holds: {error}"));
    }
}
