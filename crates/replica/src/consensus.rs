//! Consensus: the `raft` crate (in comments: the library) behind an interface of our own.
//!
//! ```text
//!   propose / tick / step ─▶ Consensus ─▶ take() ─▶ Work { messages, snapshot, append, committed }
//!                              ▲                      │ the caller sends `messages`, then writes and syncs the rest
//!                              └──── persisted() ◀────┘ ─▶ Persisted { messages, committed }
//! ```
//!
//! Consensus does no I/O. Messages that must wait for the disk are handed out only by [`Consensus::persisted`]. A
//! leader's appends may be sent while its own write is under way; a follower's acknowledgements and votes may not.
//!
//! Nothing here is random: the election timeout of a member follows from its id and the term.

use bytes::Bytes;
use metastore_mutants::{Mutant, mutant};
use metastore_proto::raftpb;
use metastore_store::check_change;
use raft::eraftpb::{ConfChange, ConfState, Entry, HardState, Message, MessageType, Snapshot};
use raft::{Config, INVALID_ID, ProgressState, RawNode, ReadOnlyOption, Ready, SnapshotStatus, StateRole};
use slog::{Discard, Logger, o};

use crate::entry::{EntryError, change_entry, check_size, data_bytes, library_change};
use crate::entry_log::{EntryLog, Retention};
use crate::message::read_index;

mod campaign;
mod catching_up;
mod inbound;
mod loss;
mod reads;
mod rejected;

use campaign::Campaign;
use catching_up::CatchingUp;
pub use reads::{Questions, Reads};
pub use rejected::Rejected;

/// Maximum bytes of entries in one append message, as in etcd.
const MAX_MESSAGE_BYTES: u64 = 1 << 20;
/// Maximum number of append messages under way to one follower, as in etcd.
const MAX_INFLIGHT_MESSAGES: usize = 512;
/// Maximum bytes of entries that wait for commitment; further proposals are dropped.
const MAX_UNCOMMITTED_BYTES: u64 = 256 << 20;
/// Maximum bytes of committed entries handed out at once.
const MAX_COMMITTED_BYTES: u64 = 64 << 20;
/// At most so many read rounds wait for a quorum at a leader. Further rounds of other members are dropped; those
/// members ask for them again.
const MAX_READ_ROUNDS: usize = 4096;

/// The timing of a group. The unit is the tick: one heartbeat interval.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A follower campaigns after so many ticks without a message from a leader, or up to twice as many: the addition
    /// follows from its id and the term.
    pub election_ticks: usize,
    /// Whether a member first asks if it would be elected, before it disturbs others with a new term (`--pre-vote`).
    pub pre_vote: bool,
}

/// How much consensus sends and hands out at once. All but tests use the default: with small portions, a few entries
/// already take many messages.
#[derive(Clone, Copy, Debug)]
pub struct Portions {
    /// Maximum bytes of entries in one append message, and in one message that forwards proposals to the leader.
    pub message_bytes: u64,
    /// Maximum number of append messages under way to one follower.
    pub inflight_messages: usize,
    /// Maximum bytes of committed entries handed out at once.
    pub committed_bytes: u64,
}

impl Default for Portions {
    fn default() -> Self {
        let (message_bytes, inflight_messages) = (MAX_MESSAGE_BYTES, MAX_INFLIGHT_MESSAGES);
        Self { message_bytes, inflight_messages, committed_bytes: MAX_COMMITTED_BYTES }
    }
}

/// The role of a member in its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

/// The raft status of the group, as this member sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Id of this member.
    pub id: u64,
    pub role: Role,
    /// Id of the leader, 0 if none is known.
    pub leader: u64,
    pub term: u64,
    /// Index of the last entry that is known to be committed.
    pub commit: u64,
    /// Index of the last entry that is part of the state.
    pub applied: u64,
    /// This member leads, is the only voter, and has committed an entry of its term. Then the state that it has
    /// published is the newest one that any client was told of, so a read needs no read-index round.
    pub sole_leader: bool,
}

impl Standing {
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }
}

/// How far a member has replicated the log, as the leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub id: u64,
    /// Index of the last entry that the member is known to hold.
    pub matched: u64,
    /// The leader has heard from the member within the last election timeout.
    pub active: bool,
    /// The member is being sent a snapshot.
    pub snapshot: bool,
}

/// The reasons for which a proposal is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProposed {
    /// There is no leader, leadership is being transferred, or too many bytes wait for commitment. The same proposal
    /// may be accepted later.
    #[error("the proposal was dropped")]
    Dropped,
    /// The proposal does not fit into one record of the log.
    #[error("the proposal is larger than a record of the log")]
    TooLarge,
    /// A membership change that not every member could apply.
    #[error("the membership change could not be applied")]
    Inapplicable,
}

/// The work that is due: send the messages, install the snapshot, append (and sync), then call
/// [`Consensus::persisted`].
pub struct Work {
    /// To be sent before the append is written.
    pub messages: Vec<Message>,
    /// A state that the leader has sent. It takes the place of this member's state and log.
    pub snapshot: Option<Snapshot>,
    pub append: Append,
    /// Entries that were committed before, and are durable on this member.
    pub committed: Vec<Entry>,
    ready: Ready,
}

/// The consequences of a durable write.
#[derive(Default)]
pub struct Persisted {
    pub messages: Vec<Message>,
    pub committed: Vec<Entry>,
}

/// The data to write to the log.
#[derive(Default)]
pub struct Append {
    /// The current term, vote and commit index. When a member's own write advances the commit index, the library
    /// reports that only in a `LightReady`, not as a hard state to store. Here the index is stored with the next
    /// entries, as etcd does.
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    /// Whether the append must be on stable storage before anything that depends on it is sent or applied.
    pub sync: bool,
}

/// One member's view of the group.
pub struct Consensus {
    node: RawNode<EntryLog>,
    election_ticks: usize,
    /// See [`Portions::message_bytes`].
    message_bytes: u64,
    /// Proposed since the last [`Consensus::take`].
    proposed: Vec<Entry>,
    proposed_bytes: u64,
    reads: Reads,
    questions: Questions,
    campaign: Campaign,
    catching_up: CatchingUp,
}

impl Consensus {
    /// Starts from a log whose entries up to `applied` are part of the state.
    ///
    /// # Errors
    /// If the log contradicts itself.
    pub fn new(id: u64, timing: Timing, portions: Portions, log: EntryLog, applied: u64) -> raft::Result<Self> {
        let Timing { election_ticks, pre_vote } = timing;
        let mut config = Config {
            id,
            applied,
            read_only_option: ReadOnlyOption::Safe,
            election_tick: election_ticks,
            heartbeat_tick: 1,
            max_size_per_msg: portions.message_bytes,
            max_inflight_msgs: portions.inflight_messages,
            max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
            max_committed_size_per_ready: portions.committed_bytes,
            check_quorum: true,
            pre_vote,
            ..Config::default()
        };
        if mutant(Mutant::ReadByLease) {
            config.read_only_option = ReadOnlyOption::LeaseBased;
        }
        config.validate()?;
        let node = RawNode::new(&config, log, &Logger::root(Discard, o!()))?;
        let mut consensus = Self {
            node,
            election_ticks,
            message_bytes: portions.message_bytes,
            proposed: Vec::new(),
            proposed_bytes: 0,
            reads: Reads::default(),
            questions: Questions::default(),
            campaign: Campaign::default(),
            catching_up: CatchingUp::default(),
        };
        consensus.settle_patience();
        Ok(consensus)
    }

    pub fn tick(&mut self) {
        // A sole voter is elected as soon as it campaigns, so its log must be durable before that. It does not campaign
        // by itself: the caller asks for it after the write (see `campaign_if_alone`).
        if !self.waits_alone() {
            self.node.tick();
        }
        self.reads.tick();
        self.catching_up.tick(self.election_ticks);
        self.settle();
    }

    /// Takes a message of another member, in the library's form.
    ///
    /// # Errors
    /// [`Rejected`]; nothing has changed.
    pub fn step(&mut self, message: Message) -> Result<(), Rejected> {
        inbound::check(&self.node.raft, &message)?;
        if self.asked_for(&message) {
            self.step_checked(message);
        }
        Ok(())
    }

    /// Whether the library may see a message. An answer must belong to a question of this member: answers may arrive
    /// late or twice, and an answer that was not asked for must not count. Read-index questions beyond
    /// [`MAX_READ_ROUNDS`] are dropped. All other kinds pass.
    fn asked_for(&self, message: &Message) -> bool {
        let raft = &self.node.raft;
        match message.get_msg_type() {
            MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
                self.campaign.asked_for(raft, message)
            }
            MessageType::MsgReadIndexResp => {
                raft.leader_id == message.from && self.reads.asked_for(&message.entries[0].data)
            }
            MessageType::MsgReadIndex => raft.read_only.pending_read_count() < MAX_READ_ROUNDS,
            // Only the leader transfers leadership, and only to a member that knows it as the leader.
            MessageType::MsgTimeoutNow => raft.leader_id == message.from && message.term == raft.term,
            _ => true,
        }
    }

    /// Takes the message that came with a whole state. [`Work::snapshot`] says whether the state is to be installed.
    ///
    /// # Errors
    /// [`Rejected`]; nothing has changed.
    pub fn step_snapshot(&mut self, message: Message) -> Result<(), Rejected> {
        inbound::check_ends(&self.node.raft, &message)?;
        self.step_checked(message);
        Ok(())
    }

    fn step_checked(&mut self, mut message: Message) {
        if message.get_msg_type() == MessageType::MsgReadIndex && self.node.raft.state == StateRole::Leader {
            self.questions.name(&mut message);
        }
        self.answer_outdated(&message);
        let from = message.from;
        // The library refuses messages of removed members, and proposals while no leader is known. Both count as lost
        // on the network.
        let _ = self.node.step(message);
        let raft = &self.node.raft;
        self.catching_up.hear(from, raft.prs(), raft.raft_log.last_index());
        self.settle();
    }

    /// Follows what any step may have changed: the role, and the term.
    fn settle(&mut self) {
        self.campaign.follow(&self.node.raft);
        self.settle_patience();
    }

    /// Tells a candidate of an earlier term the current term (Raft, section 5.1: a request of an earlier term is
    /// rejected). The library does not answer such a request. Without pre-vote, if only one of two voters has learned
    /// of a membership change, the two could campaign in different terms for ever.
    fn answer_outdated(&mut self, message: &Message) {
        let raft = &mut self.node.raft;
        if message.get_msg_type() == MessageType::MsgRequestVote && message.term < raft.term {
            let (to, from, term) = (message.from, raft.id, raft.term);
            let mut rejection = Message { to, from, term, reject: true, ..Message::default() };
            rejection.set_msg_type(MessageType::MsgRequestVoteResponse);
            raft.msgs.push(rejection);
        }
    }

    /// Sets the election timeout of this member, which the library draws at random at each change. Timeouts differ by
    /// member and term, so two members that campaign together in one term do not in the next.
    fn settle_patience(&mut self) {
        let raft = &mut self.node.raft;
        let more = mix(raft.id ^ mix(raft.term)) % self.election_ticks as u64;
        raft.set_randomized_election_timeout(self.election_ticks + more as usize);
    }

    /// Makes a sole voter campaign at once, without its election timeout. Returns whether it campaigns.
    pub fn campaign_if_alone(&mut self) -> bool {
        // Refused while a committed membership change is not applied; the caller asks again afterwards.
        let campaigns =
            self.waits_alone() && self.node.campaign().is_ok() && self.node.raft.state != StateRole::Follower;
        self.settle();
        campaigns
    }

    /// Proposes a command. The next [`Consensus::take`] takes it up, together with all others.
    ///
    /// # Errors
    /// [`NotProposed`]: the command will never commit. An accepted proposal may still be lost on the way to a leader.
    pub fn propose(&mut self, data: Bytes) -> Result<(), NotProposed> {
        self.propose_entry(Entry { data, ..Entry::default() })
    }

    /// Proposes a membership change, in etcd's form.
    ///
    /// # Errors
    /// As [`Consensus::propose`]. While another change is under way, the library replaces a change by an empty entry.
    pub fn propose_change(&mut self, change: &raftpb::ConfChange) -> Result<(), NotProposed> {
        let entry = change_entry(change).map_err(|_| NotProposed::Inapplicable)?;
        check_change(change).map_err(|_| NotProposed::Inapplicable)?;
        self.propose_entry(entry)
    }

    fn propose_entry(&mut self, entry: Entry) -> Result<(), NotProposed> {
        check_size(&entry).map_err(|_| NotProposed::TooLarge)?;
        let raft = &self.node.raft;
        let bytes = data_bytes(&entry) as u64;
        // If nothing waits for commitment, one entry of any size is accepted.
        let waiting = raft.uncommitted_size() as u64 + self.proposed_bytes;
        let full = waiting > 0 && waiting + bytes > MAX_UNCOMMITTED_BYTES;
        if raft.leader_id == INVALID_ID || raft.lead_transferee.is_some() || full {
            return Err(NotProposed::Dropped);
        }
        self.proposed_bytes += bytes;
        self.proposed.push(entry);
        Ok(())
    }

    /// Appends commands that only a leader may give, at once. If they waited for the next [`Consensus::take`], this
    /// member might learn of another leader before it, and would forward them there.
    ///
    /// # Errors
    /// [`NotProposed`] if this member does not lead. If another member leads and this one does not know it yet, the
    /// commands never commit.
    pub fn propose_as_leader(&mut self, commands: Vec<Bytes>) -> Result<(), NotProposed> {
        if self.node.raft.state != StateRole::Leader {
            return Err(NotProposed::Dropped);
        }
        self.step_proposed();
        let entries = commands.into_iter().map(|data| Entry { data, ..Entry::default() }).collect();
        self.step_proposal(entries);
        Ok(())
    }

    /// Steps all waiting proposals. A leader appends all of them at once; a follower forwards them in messages of
    /// bounded size.
    fn step_proposed(&mut self) {
        let bound = if self.node.raft.state == StateRole::Leader { u64::MAX } else { self.message_bytes };
        let (mut batch, mut bytes) = (Vec::new(), 0);
        self.proposed_bytes = 0;
        for entry in std::mem::take(&mut self.proposed) {
            let more = data_bytes(&entry) as u64;
            if bytes > 0 && bytes + more > bound {
                self.step_proposal(std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += more;
            if mutant(Mutant::ProposedTwice) {
                batch.push(entry.clone());
            }
            batch.push(entry);
        }
        if !batch.is_empty() {
            self.step_proposal(batch);
        }
    }

    fn step_proposal(&mut self, entries: Vec<Entry>) {
        let mut message = Message { from: self.node.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.entries = entries.into();
        // Leadership may have been lost since. Then the proposals wait for their timeout, as in etcd.
        let _ = self.node.raft.step(message);
    }

    /// Adds a linearizable read: it must see every write that was acknowledged before this call.
    /// [`Consensus::readable`] returns `id` when the read may be served.
    pub fn read(&mut self, id: u64) {
        self.reads.add(id);
    }

    fn step_reads(&mut self) {
        let raft = &self.node.raft;
        if raft.leader_id == INVALID_ID || !raft.commit_to_current_term() {
            return;
        }
        if let Some(context) = self.reads.ask(raft.leader_id, raft.term) {
            self.step_checked(read_index(context));
        }
    }

    /// Forgets the reads for which `waits` is false: their callers no longer wait. The ids are those given to
    /// [`Consensus::read`].
    pub fn forget_reads(&mut self, waits: impl Fn(u64) -> bool) {
        self.reads.retain(waits);
    }

    /// Number of reads that cannot be served yet.
    pub fn waiting_reads(&self) -> usize {
        self.reads.count()
    }

    /// Adds to `into` the ids of the reads that may be served once the state holds everything up to `applied`.
    pub fn readable(&mut self, applied: u64, into: &mut Vec<u64>) {
        self.reads.release(applied, into);
    }

    /// Transfers leadership to another voter. From now on proposals are dropped, until that voter has taken over or an
    /// election timeout has passed.
    pub fn transfer_leader(&mut self, to: u64) {
        self.step_proposed();
        self.node.transfer_leader(to);
    }

    /// Reports that a message to a member could not be sent.
    pub fn unreachable(&mut self, id: u64) {
        self.node.report_unreachable(id);
    }

    /// Reports how the transfer of a state to a follower has ended.
    pub fn snapshot_sent(&mut self, to: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(to, status);
    }

    pub fn standing(&self) -> Standing {
        let raft = &self.node.raft;
        let role = match raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        let sole_leader = role == Role::Leader && self.alone() && raft.commit_to_current_term();
        let (commit, applied) = (raft.raft_log.committed, raft.raft_log.applied);
        Standing { id: raft.id, role, leader: raft.leader_id, term: raft.term, commit, applied, sole_leader }
    }

    /// The term of an entry. `None` if the log does not hold the entry: it was compacted, or is not appended yet.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.node.raft.raft_log.term(index).ok().filter(|term| *term > 0)
    }

    /// The progress of all members, ordered by id; empty unless this member leads.
    pub fn progress(&self) -> Vec<Progress> {
        if self.node.raft.state != StateRole::Leader {
            return Vec::new();
        }
        let of = |(&id, progress): (&u64, &raft::Progress)| Progress {
            id,
            matched: progress.matched,
            active: progress.recent_active || id == self.node.raft.id,
            snapshot: progress.state == ProgressState::Snapshot,
        };
        let mut all: Vec<_> = self.node.raft.prs().iter().map(of).collect();
        all.sort_unstable_by_key(|progress| progress.id);
        all
    }

    fn hard_state(&self) -> HardState {
        self.node.raft.hard_state()
    }

    fn waits_alone(&self) -> bool {
        self.node.raft.state == StateRole::Follower && self.alone()
    }

    fn alone(&self) -> bool {
        self.node.raft.promotable() && self.node.raft.prs().is_singleton()
    }

    /// The next work, if there is any. It must be done and handed back with [`Consensus::persisted`] before any other
    /// call to consensus.
    pub fn take(&mut self) -> Option<Work> {
        self.step_proposed();
        self.step_reads();
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        self.confirm_reads(&mut ready);
        let append = Append { hard_state: self.hard_state(), entries: ready.take_entries(), sync: ready.must_sync() };
        let snapshot = Some(ready.snapshot().clone()).filter(|snapshot| !snapshot.is_empty());
        if let Some(snapshot) = &snapshot {
            self.node.mut_store().restart(snapshot.get_metadata());
        }
        self.node.mut_store().append(&append.entries);
        let mut messages = ready.take_messages();
        self.look_at(&mut messages);
        Some(Work { messages, snapshot, append, committed: ready.take_committed_entries(), ready })
    }

    fn confirm_reads(&mut self, ready: &mut Ready) {
        for state in ready.take_read_states() {
            self.reads.confirm(&state.request_ctx, state.index);
        }
    }

    /// Reports that `work` is durable; returns what follows from it.
    pub fn persisted(&mut self, mut work: Work) -> Persisted {
        let mut messages = work.ready.take_persisted_messages();
        let mut light = self.node.advance_append(work.ready);
        messages.extend(light.take_messages());
        self.look_at(&mut messages);
        self.campaign.asked(&self.node.raft);
        Persisted { messages, committed: light.take_committed_entries() }
    }

    /// Adjusts messages that are about to be sent: restores the names of read rounds, and notes the followers that need
    /// a state.
    fn look_at(&mut self, messages: &mut [Message]) {
        Questions::restore(messages);
        let states = messages.iter().filter(|message| message.get_msg_type() == MessageType::MsgSnapshot);
        states.for_each(|state| self.catching_up.begins(state.to));
    }

    /// Reports that the state holds everything up to `index`; `keep` says how much of the log stays for followers.
    pub fn applied(&mut self, index: u64, keep: Retention) {
        self.node.advance_apply_to(index);
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            self.catching_up.clear();
        }
        let mut needed = self.catching_up.needed(raft.prs(), raft.raft_log.first_index());
        if mutant(Mutant::LogCutBehindState) {
            needed = None;
        }
        self.node.mut_store().compact(index, keep, needed);
    }

    /// Applies a committed membership change; returns the members that count from now on. A refused change has no
    /// effect: it is replaced by a change of member 0, which the library skips. Returns `None` if the library refuses
    /// the change, as it does on all members: it would leave no voter.
    ///
    /// # Errors
    /// If the change is of a kind that this version does not apply.
    pub fn change_members(
        &mut self,
        index: u64,
        change: &raftpb::ConfChange,
        refused: bool,
    ) -> Result<Option<ConfState>, EntryError> {
        let change = if refused { ConfChange::default() } else { library_change(index, change)? };
        let Ok(state) = self.node.apply_conf_change(&change) else { return Ok(None) };
        self.node.mut_store().set_conf_state(state.clone());
        self.step_down_if_removed();
        Ok(Some(state))
    }

    /// Makes a leader that is no longer a voter step down; the library would let it lead on. The other members are sent
    /// the commit index, and the voter with the longest matching log is told to campaign at once.
    fn step_down_if_removed(&mut self) {
        let raft = &mut self.node.raft;
        if raft.promotable() || raft.state == StateRole::Follower {
            return;
        }
        if raft.state == StateRole::Leader {
            raft.bcast_append();
            let voters = raft.prs().iter().filter(|(id, _)| raft.prs().conf().voters().contains(**id));
            let furthest = voters.max_by_key(|(id, progress)| (progress.matched, **id)).map(|(id, _)| *id);
            if let Some(to) = furthest {
                raft.send_timeout_now(to);
            }
        }
        raft.become_follower(raft.term, INVALID_ID);
    }
}

/// Spreads numbers that are close together (SplitMix64's finalizer).
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests;
