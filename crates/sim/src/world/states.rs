//! States: written down now and then, which makes older parts of the log superfluous, and sent to who lacks those parts.
//!
//! Each takes its time, in which the members go on, crash, or hear from others.

use metastore_proto::raftpb::Message;
use metastore_replica::{ReceivedState, SnapshotJob, SnapshotWritten, StateIncoming};

use metastore_store::mvcc::CompactionHashJob;

use super::{Fatal, Output, World, must};

/// Moments that a step takes at most while it storms: writing a state, sending it, taking it in.
const STEP_MOMENTS: u64 = 60;
/// The same in a healed group: a follower for which this takes longer than its leader keeps entries never catches up.
const HEALED_STEP_MOMENTS: u64 = 3;
/// Neither a part nor a multiple of anything in the stream.
const PIECE_BYTES: usize = 777;

/// A state of a member's own on its way to the disk.
pub enum Writing {
    Planned(SnapshotJob),
    Written(SnapshotWritten),
}

/// A state on its way between members.
pub struct Parcel {
    arrives: u64,
    from: usize,
    to: usize,
    message: Message,
    stream: Vec<u8>,
}

/// What a member is busy with beside its work.
#[derive(Default)]
pub struct Beside {
    /// Until when, and with what.
    writing: Option<(u64, Writing)>,
    taking: Option<(u64, usize, StateIncoming)>,
    hashing: Option<(u64, CompactionHashJob)>,
}

impl Beside {
    /// Who sends the state that is being taken in, and notices if that ends.
    pub fn sender(&self) -> Option<usize> {
        self.taking.as_ref().map(|(_, from, _)| *from)
    }
}

impl World {
    /// Takes from a member's output what is to be done about states.
    pub(super) fn states(&mut self, at: usize, output: &mut Output) -> Result<(), Fatal> {
        self.counts.states_taken_up += u64::from(output.state_replaced);
        if output.state_replaced {
            must(self.judge.revisions.replaced(at));
        }
        if let Some(job) = output.compaction_hash.take() {
            let due = self.soon();
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
        let most = if self.healed { HEALED_STEP_MOMENTS } else { STEP_MOMENTS };
        self.now + self.random.between(1, most)
    }

    fn post_state(&mut self, from: usize, message: Message) -> Result<(), Fatal> {
        let Some(to) = self.position(message.to()) else { return Ok(()) };
        let Some(replica) = &mut self.members[from].replica else { return Ok(()) };
        let (message, source) = replica.state_to_send()?.open(message).expect("the state of a member is whole");
        let mut stream = Vec::new();
        let written = source.write(|piece| {
            stream.extend_from_slice(piece);
            Ok(())
        });
        written.expect("a buffer takes all");
        self.note(|| format!("{from} -> {to} its state at {:?}", message.snapshot));
        let arrives = self.soon();
        self.parcels.push(Parcel { arrives, from, to, message, stream });
        Ok(())
    }

    /// A moment of all that goes on beside the members' work.
    pub(super) fn advance_states(&mut self) {
        let now = self.now;
        for parcel in self.parcels.extract_if(.., |parcel| parcel.arrives <= now).collect::<Vec<_>>() {
            let (from, to) = (parcel.from, parcel.to);
            if !self.begin_to_take(parcel) {
                self.report_state(from, to, false);
            }
        }
        for at in 0..self.members.len() {
            if self.members[at].awake(now) {
                self.go_on_writing(at);
                self.go_on_hashing(at);
                self.go_on_taking(at);
            }
        }
    }

    /// Returns whether the member takes in what has arrived.
    fn begin_to_take(&mut self, parcel: Parcel) -> bool {
        let Parcel { from, to, message, stream, .. } = parcel;
        let lost = self.network.loses((from, to));
        let due = self.soon();
        let member = &mut self.members[to];
        let Some(replica) = member.replica.as_ref().filter(|_| !lost && member.asleep_until <= self.now) else {
            return false;
        };
        let doomed = member.may_stop();
        // It may have come further meanwhile, or be busy with another one.
        let Ok(mut incoming) = replica.receiver().begin(message) else { return false };
        for piece in stream.chunks(PIECE_BYTES) {
            if let Err(error) = incoming.take(piece) {
                assert!(doomed, "member {to} cannot take a state: {error}");
                return false;
            }
        }
        member.beside.taking = Some((due, from, incoming));
        true
    }

    fn go_on_taking(&mut self, at: usize) {
        let now = self.now;
        let member = &mut self.members[at];
        let Some((_, from, incoming)) = member.beside.taking.take_if(|(due, ..)| *due <= now) else { return };
        let Some(replica) = &mut member.replica else { return };
        let taken = incoming.finish().map(|received: ReceivedState| replica.state_received(received));
        let doomed = member.may_stop();
        member.due = true;
        match &taken {
            Ok(Ok(())) => {}
            Ok(Err(error)) => assert!(doomed, "member {at} has stopped: {error}"),
            Err(error) => assert!(doomed, "member {at} cannot take a state: {error}"),
        }
        self.note(|| format!("{at} has got the state of {from}: {}", taken.is_ok()));
        self.counts.states_sent += u64::from(taken.is_ok());
        self.report_state(from, at, taken.is_ok());
    }

    /// Tells the sender how it has ended.
    pub(super) fn report_state(&mut self, from: usize, to: usize, arrived: bool) {
        let to = self.members[to].id;
        let sender = &mut self.members[from];
        if let Some(replica) = &mut sender.replica {
            replica.state_sent(to, arrived);
            sender.due = true;
        }
    }

    fn go_on_writing(&mut self, at: usize) {
        let (now, due) = (self.now, self.soon());
        let member = &mut self.members[at];
        let Some((_, writing)) = member.beside.writing.take_if(|(due, _)| *due <= now) else { return };
        let Some(replica) = &mut member.replica else { return };
        match writing {
            Writing::Planned(job) => match job.run() {
                Ok(written) => member.beside.writing = Some((due, Writing::Written(written))),
                Err(error) => {
                    assert!(member.may_stop(), "member {at} cannot write its state: {error}");
                    self.crashes(at);
                }
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
