//! A state of another member in the place of this one's, and this one's for another member.
//!
//! ```text
//!   leader     consensus: a follower lacks too much ─▶ Output::states_wanted ─▶ state_to_send ─▶ StateToSend, any thread
//!   follower   StateReceiver, any thread ─▶ ReceivedState ─▶ state_received ─▶ consensus: taken up?
//!                                                                                  │ yes
//!      1 a record in the log names the state, with the hard state, synced          ▼
//!      2 Memory: .snap is written, .received becomes .state        on disk: identity.json names the directory
//!      3 readers and writer go over to the new state
//!      4 older log segments and snapshots go; the old state when its last reader is gone
//! ```
//!
//! **What a crash leaves.** The record of step 1 is the one moment at which the member changes over. It is one record, so it is
//! there or it is not, and the state was whole and durable before it was written.
//! - Before it, the log names nothing new: the start takes up the old state and the old log, and removes what was received. On
//!   Memory that has an ending that no start looks for (a snapshot that the log does not reach would be refused); on disk it is
//!   a directory that the identity does not name.
//! - After it, the log begins at the new state: reading it from there leaves out whatever this member had before the record,
//!   which may be entries that the group never committed. The old state does not reach what the log names, so the start would
//!   refuse it; it finds instead the received one under the position that the log names, and does step 2 again, each part of
//!   which may have been done. Were step 2 to come before step 1, there would be a state that the log does not reach, and no
//!   telling it from a log that lost its end.
//! - After step 2 all names are those of any other member; what is left over is removed by the start.
//!
//! So there is never the old state with the new log, nor the new state with the old one.

use metastore_engine::Applied;
use metastore_proto::raftpb;
use raft::eraftpb::{HardState, Snapshot};

use super::{Fatal, Output, Replica, conf_state_from_disk, hard_state_to_disk};
use crate::message::from_wire;
use crate::state::{ReceivedState, Retired, StateReceiver, StateToSend};

impl Replica {
    /// The published state, for a follower that lacks too much. Takes as long as copying the small tables, on disk no time.
    ///
    /// # Errors
    /// [`Fatal`] if the medium failed.
    pub fn state_to_send(&mut self) -> Result<StateToSend, Fatal> {
        self.unless_failed(|member| Ok(StateToSend::take(member.medium, &member.store)?))
    }

    /// Where states of other members are received.
    pub fn receiver(&self) -> StateReceiver {
        self.receiver.clone()
    }

    /// Takes a state that was received. The next [`Replica::process`] takes it up, or puts it into [`Output::retired`] if
    /// consensus does not want it, because the message is an old leader's or this member has caught up meanwhile.
    ///
    /// # Errors
    /// [`Fatal`] if the member has failed before.
    pub fn state_received(&mut self, received: ReceivedState) -> Result<(), Fatal> {
        self.unless_failed(|member| {
            // A message that cannot be is one that consensus does not want.
            if let Ok(message) = from_wire(received.message.clone()) {
                let _ = member.consensus.step_snapshot(message);
            }
            member.received = Some(received);
            Ok(())
        })
    }

    /// Takes up the state that was received, as consensus says, with the hard state that goes with it. See the essay for why
    /// in this order. Consensus is to be told afterwards that its entries are applied ([`Replica::installed`]).
    pub(super) fn install(
        &mut self,
        snapshot: &Snapshot,
        hard_state: &HardState,
        output: &mut Output,
    ) -> Result<(), Fatal> {
        let metadata = snapshot.get_metadata();
        let received = self.received.take().filter(|received| received.applied.index == metadata.index);
        let received = received.expect("consensus takes up no state but the one that was received");
        let (applied, conf_state) = (received.applied, received.conf_state.clone());
        let Applied { index, term } = applied;
        // Entries behind the state that came with it are written after this, and so is that they are committed.
        let hard_state = raftpb::HardState { commit: Some(index), ..hard_state_to_disk(hard_state) };
        // Even if this fails, the log may name the state by then: whether its files go is for the next start to say.
        let (store, engine) = received.keep();
        self.wal.replace_by_snapshot(index, term, conf_state.clone(), &hard_state)?;
        let old_directory = self.data.engine_path();
        self.medium.adopt(&mut self.data, applied, &conf_state)?;
        drop(self.store.replace(store));
        let old = std::mem::replace(&mut self.engine, engine);
        self.conf_state = conf_state_from_disk(&conf_state);
        (self.snapshot.named, self.snapshot.log_bytes) = (applied, 0);
        self.wal.release(index)?;
        // A snapshot of the old state that is being written is left alone; its end clears up.
        if !self.snapshot.running {
            self.medium.clear(&self.data, applied)?;
        }
        let directory = old.outlives_process().then(|| (self.data.disk.clone(), old_directory));
        output.retired.push(Retired { engine: old, directory });
        output.state_replaced = true;
        Ok(())
    }

    /// Says to consensus that a state was taken up.
    pub(super) fn installed(&mut self, snapshot: &Snapshot) {
        self.consensus.applied(snapshot.get_metadata().index, self.settings.keep);
    }

    /// Lets go of a state that was received and that consensus does not want.
    pub(super) fn retire_unwanted(&mut self, output: &mut Output) {
        output.retired.extend(self.received.take().map(ReceivedState::retire));
    }
}
