//! Consensus: the raft library behind a door of ours.
//!
//! ```text
//!   propose / tick ─▶ Consensus ─▶ take() ─▶ Work { append, committed }
//!                         ▲                     │ the caller writes and syncs `append`
//!                         └──── persisted() ◀───┘ ─▶ what is committed now
//! ```
//!
//! It does no I/O. What must wait for the disk is handed out only by [`Consensus::persisted`].

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType};
use raft::{Config, RawNode, Ready, StateRole};
use slog::{Discard, Logger, o};

use crate::entry::{EntryError, decode_change, library_change};
use crate::entry_log::EntryLog;

/// Bytes of entries that one append message carries at most, as in etcd.
const MAX_MESSAGE_BYTES: u64 = 1 << 20;
/// Append messages under way to one follower, as in etcd.
const MAX_INFLIGHT_MESSAGES: usize = 512;
/// Bytes of entries that wait for commitment; more proposals are dropped.
const MAX_UNCOMMITTED_BYTES: u64 = 256 << 20;
/// Bytes of committed entries handed out at once.
const MAX_COMMITTED_BYTES: u64 = 64 << 20;

/// How a group keeps time. The unit is the tick: one heartbeat interval.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Ticks without word from a leader after which a follower campaigns; doubled at random.
    pub election_ticks: usize,
}

/// Where a group stands, as this member sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Id of the leader, 0 if none is known.
    pub leader: u64,
    pub term: u64,
    pub commit: u64,
    pub is_leader: bool,
    /// This member leads, votes alone, and has committed an entry of its term: what it has published is the newest state
    /// that anyone was told of, so a read needs no round through the group.
    pub sole_leader: bool,
}

/// Consensus refused a proposal: there is no leader, or too much waits for commitment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proposal was dropped")]
pub struct Dropped;

/// What must be done: append (and sync), then call [`Consensus::persisted`].
pub struct Work {
    pub append: Append,
    /// Committed before, and durable here.
    pub committed: Vec<Entry>,
    ready: Ready,
}

/// What goes to the log.
#[derive(Default)]
pub struct Append {
    /// Term, vote and commit index as they are now. The library reports a commit index that a write of one's own brought
    /// about only in passing; here it is said again with the next entries, as etcd does.
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    /// Whether it must be on stable storage before anything else follows from it.
    pub sync: bool,
}

/// One member's view of the group.
pub struct Consensus {
    node: RawNode<EntryLog>,
}

impl Consensus {
    /// Starts from a log whose entries up to `applied` are part of the state.
    ///
    /// # Errors
    /// If the log contradicts itself.
    pub fn new(id: u64, timing: Timing, log: EntryLog, applied: u64) -> raft::Result<Self> {
        let config = Config {
            id,
            applied,
            election_tick: timing.election_ticks,
            heartbeat_tick: 1,
            max_size_per_msg: MAX_MESSAGE_BYTES,
            max_inflight_msgs: MAX_INFLIGHT_MESSAGES,
            max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
            max_committed_size_per_ready: MAX_COMMITTED_BYTES,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        config.validate()?;
        Ok(Self { node: RawNode::new(&config, log, &Logger::root(Discard, o!()))? })
    }

    pub fn tick(&mut self) {
        self.node.tick();
    }

    /// A sole voter need not wait for its timeout: asks for an election at once. Returns whether it did.
    pub fn campaign_if_alone(&mut self) -> bool {
        let waits = self.node.raft.state == StateRole::Follower && self.alone();
        // Refused while a committed membership change is unapplied; then it is asked again after that.
        waits && self.node.campaign().is_ok() && self.node.raft.state != StateRole::Follower
    }

    /// Proposes a command.
    ///
    /// # Errors
    /// [`Dropped`] if it was not taken into the log; nothing will come of it.
    pub fn propose(&mut self, data: Bytes) -> Result<(), Dropped> {
        let id = self.node.raft.id;
        let mut message = Message { from: id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.entries = vec![Entry { data, ..Entry::default() }].into();
        self.node.raft.step(message).map_err(|_| Dropped)
    }

    pub fn standing(&self) -> Standing {
        let raft = &self.node.raft;
        let is_leader = raft.state == StateRole::Leader;
        let sole_leader = is_leader && self.alone() && raft.commit_to_current_term();
        Standing { leader: raft.leader_id, term: raft.term, commit: raft.raft_log.committed, is_leader, sole_leader }
    }

    fn hard_state(&self) -> HardState {
        self.node.raft.hard_state()
    }

    fn alone(&self) -> bool {
        self.node.raft.promotable() && self.node.raft.prs().is_singleton()
    }

    /// The next work, if there is any. It must be done and handed back with [`Consensus::persisted`] before anything else
    /// is asked of consensus.
    pub fn take(&mut self) -> Option<Work> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let append = Append { hard_state: self.hard_state(), entries: ready.take_entries(), sync: ready.must_sync() };
        self.node.mut_store().append(&append.entries);
        Some(Work { append, committed: ready.take_committed_entries(), ready })
    }

    /// Says that `work.append` is durable; returns what is committed by that.
    pub fn persisted(&mut self, work: Work) -> Vec<Entry> {
        self.node.advance_append(work.ready).take_committed_entries()
    }

    /// Says that the state holds everything up to `index`; `keep` bounds the entries and bytes kept for followers.
    pub fn applied(&mut self, index: u64, keep: (usize, usize)) {
        self.node.advance_apply_to(index);
        self.node.mut_store().compact(index, keep.0, keep.1);
    }

    /// Takes a committed membership change into account; returns the members that count from now on, and the change in
    /// etcd's form.
    ///
    /// # Errors
    /// If the change is of a kind that this version does not apply.
    pub fn change_members(
        &mut self,
        entry: &Entry,
    ) -> Result<(ConfState, metastore_proto::raftpb::ConfChange), EntryError> {
        let index = entry.index;
        assert_eq!(entry.get_entry_type(), EntryType::EntryConfChange, "entry {index} changes no members");
        let change = decode_change(index, &entry.context)?;
        let state = self.node.apply_conf_change(&library_change(index, &change)?);
        Ok((state.map_err(|error| EntryError { index, why: error.to_string() })?, change))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consensus(voters: &[u64]) -> Consensus {
        let hard_state = HardState { term: 1, commit: 1, ..HardState::default() };
        let conf_state = ConfState { voters: voters.to_vec(), ..ConfState::default() };
        let log = EntryLog::new(hard_state, conf_state, (1, 1));
        Consensus::new(1, Timing { election_ticks: 10 }, log, 1).unwrap()
    }

    #[test]
    fn a_leader_is_sole_leader_only_when_it_has_committed_in_its_term() {
        let mut consensus = consensus(&[1]);
        assert_eq!(consensus.propose("early".into()), Err(Dropped));
        assert_eq!(consensus.standing(), Standing { term: 1, commit: 1, ..Standing::default() });
        assert!(consensus.campaign_if_alone());
        let elected = Standing { leader: 1, term: 2, commit: 1, is_leader: true, sole_leader: false };
        assert_eq!(consensus.standing(), elected);
        let mut work = consensus.take().unwrap();
        let append = std::mem::take(&mut work.append);
        assert!(append.sync && append.entries.len() == 1 && work.committed.is_empty());
        assert_eq!((append.hard_state.term, append.hard_state.vote, append.hard_state.commit), (2, 1, 1));
        assert!(!consensus.standing().sole_leader, "not before it is durable");
        let committed = consensus.persisted(work);
        assert_eq!(committed.iter().map(|entry| (entry.index, entry.term)).collect::<Vec<_>>(), [(2, 2)]);
        assert_eq!(consensus.standing(), Standing { commit: 2, sole_leader: true, ..elected });
        assert!(!consensus.campaign_if_alone(), "it leads");
        assert!(consensus.take().is_none());
    }

    #[test]
    fn one_of_several_or_none_does_not_elect_itself() {
        for voters in [&[][..], &[1, 2, 3], &[2]] {
            let mut consensus = consensus(voters);
            assert!(!consensus.campaign_if_alone(), "{voters:?}");
            for _ in 0..100 {
                consensus.tick();
                while let Some(work) = consensus.take() {
                    consensus.persisted(work);
                }
            }
            let standing = consensus.standing();
            assert!(!standing.is_leader && !standing.sole_leader && standing.term == 1, "{voters:?}: {standing:?}");
        }
    }

    #[test]
    fn what_waits_for_commitment_is_bounded() {
        let mut consensus = consensus(&[1]);
        consensus.campaign_if_alone();
        let large = Bytes::from(vec![0; MAX_UNCOMMITTED_BYTES as usize / 4]);
        let taken = (0..8).take_while(|_| consensus.propose(large.clone()).is_ok()).count();
        assert_eq!(taken, 4);
    }
}
