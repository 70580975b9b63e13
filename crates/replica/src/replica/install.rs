//! Installing another member's state in the place of this one's, and handing out this member's state for another one.
//!
//! ```text
//!   leader     consensus: follower lacks entries ─▶ Output::states_wanted ─▶ state_to_send ─▶ StateToSend, any thread
//!   follower   StateReceiver, any thread ─▶ ReceivedState ─▶ state_received ─▶ consensus: install it?
//!                                                                                  │ yes
//!      1 a record in the log names the state, with the hard state, synced          ▼
//!      2 Memory: .snap is written, .received becomes .state        on disk: identity.json names the directory
//!      3 readers and writer change to the new state
//!      4 older log segments and snapshots are removed; the old state when its last reader is gone
//! ```
//!
//! **After a crash.** The record of step 1 alone changes the member over. It is one record, so it is whole or absent,
//! and the state was complete and durable before the record was written.
//! - Before it, the log names nothing new. The start uses the old state and the old log, and removes the received
//!   state. On Memory the received file has a suffix that no start looks for (a snapshot that the log does not reach
//!   would be refused). On disk it is a directory that the identity does not name.
//! - After it, the log begins at the new state. A replay from there leaves out all entries that this member had before
//!   the record; the group may never have committed them. The old state does not reach the position that the log names,
//!   so the start would refuse it. Instead it finds the received state under that position, and repeats step 2, each
//!   part of which may already be done. If step 2 came before step 1, a crash between them could leave a state that the
//!   log does not reach. That could not be told from a log that has lost its end.
//! - After step 2 all names are those of any other member; the start removes the remaining files.
//!
//! So the old state never meets the new log, nor the new state the old log.

use metastore_engine::Applied;
use metastore_proto::raftpb;
use raft::eraftpb::{HardState, Snapshot};

use super::{Fatal, Output, Replica, hard_state_to_disk};
use crate::conf_state;
use crate::message::from_wire;
use crate::state::{ReceivedState, Retired, StateReceiver, StateToSend};

impl Replica {
    /// The published state, for a follower that lacks too many entries, or for a backup. In memory this copies the
    /// small tables; on disk it takes no time.
    ///
    /// # Errors
    /// [`Fatal`] if the medium failed.
    pub fn state_to_send(&mut self) -> Result<StateToSend, Fatal> {
        self.unless_failed(|member| Ok(StateToSend::take(member.medium, &member.store)?))
    }

    /// The receiver for states of other members.
    pub fn receiver(&self) -> StateReceiver {
        self.receiver.clone()
    }

    /// Takes a state that was received. The next [`Replica::process`] installs it. If consensus rejects it, because the
    /// message is of an old leader or this member has caught up since, the state goes to [`Output::retired`].
    ///
    /// # Errors
    /// [`Fatal`] if the member has failed before.
    pub fn state_received(&mut self, received: ReceivedState) -> Result<(), Fatal> {
        self.unless_failed(|member| {
            // Consensus never sees an unreadable message, so the state is retired.
            if let Ok(message) = from_wire(received.message.clone()) {
                let _ = member.consensus.step_snapshot(message);
            }
            member.received = Some(received);
            Ok(())
        })
    }

    /// Installs the received state, as consensus has decided, with the hard state that goes with it. The essay gives
    /// the reason for the order. Afterwards consensus must learn that the entries up to the state are applied
    /// ([`Replica::installed`]).
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
        // Entries after the state that came with it are written later, and so is the commit index that covers them.
        let hard_state = raftpb::HardState { commit: Some(index), ..hard_state_to_disk(hard_state) };
        // From here on the files stay, even if a step fails, because the log may already name the state. The next start
        // decides whether to remove them.
        let (store, engine) = received.keep();
        self.wal.replace_by_snapshot(index, term, conf_state.clone(), &hard_state)?;
        let old_directory = self.data.engine_path();
        self.medium.adopt(&mut self.data, applied, &conf_state)?;
        drop(self.store.replace(store));
        let old = std::mem::replace(&mut self.engine, engine);
        self.conf_state = conf_state::from_disk(&conf_state);
        (self.snapshot.named, self.snapshot.log_bytes) = (applied, 0);
        self.wal.release(index)?;
        // If a snapshot of the old state is being written, its files stay for now; `snapshot_written` removes them.
        if !self.snapshot.running {
            self.medium.clear(&self.data, applied)?;
        }
        let directory = old.outlives_process().then(|| (self.data.disk.clone(), old_directory));
        output.retired.push(Retired { engine: old, directory });
        output.state_replaced = true;
        Ok(())
    }

    /// Reports to consensus that a state was installed.
    pub(super) fn installed(&mut self, snapshot: &Snapshot) {
        self.consensus.applied(snapshot.get_metadata().index, self.keep());
    }

    /// Retires a received state that consensus has rejected.
    pub(super) fn retire_unwanted(&mut self, output: &mut Output) {
        output.retired.extend(self.received.take().map(ReceivedState::retire));
    }
}
