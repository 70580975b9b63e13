//! A member: consensus, log and state put together, in one thread.

use std::sync::Arc;

use bytes::Bytes;
use metastore_engine::{Applied, Engine, EngineError};
use metastore_mutants::{Mutant, mutant};
use metastore_proto::raftpb;
use metastore_store::mvcc::CompactionHashJob;
use metastore_store::watch::RevisionEvents;
use metastore_store::{Halt, HaltCause, MemberChange, Outcome, Refusal, Store, Work};
use raft::eraftpb::{self, ConfState, Entry, EntryType, HardState};

use crate::conf_state;
use crate::consensus::{Append, Consensus, NotProposed, Progress, Rejected, Standing};
use crate::data_dir::{DataDir, OpenError};
use crate::disk::DiskError;
use crate::entry::{EntryError, EntryId, decode_change, to_disk};
use crate::entry_log::Retention;
use crate::message::{from_wire, to_wire};
use crate::settings::Settings;
use crate::state::{Medium, ReceivedState, Retired, Shortage, SnapshotJob, SnapshotWritten, StateReceiver};
use crate::wal::{Wal, WalError, log_bytes};

mod bootstrap;
mod convert;
mod force_new_cluster;
mod install;
mod open;
mod passed_over;
mod replay;
mod transplant;

pub use bootstrap::{Bootstrap, Founder, founders};
pub use convert::{ConvertError, Converted, convert};
pub use force_new_cluster::force_new_cluster;
pub use transplant::{LogEnd, NewMember, StoppedMember, TransplantError};

/// The member cannot go on. Entries that were not acknowledged before must not be acknowledged now.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error(transparent)]
    Halt(#[from] Halt),
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A committed entry cannot be applied, and the cause lies in the entry itself: every start fails at it again.
    #[error("{cause}. {}", passed_over::flag(*entry))]
    Inapplicable { entry: EntryId, cause: Box<Self> },
    #[error(transparent)]
    Snapshot(#[from] OpenError),
    /// Proof that this member has lost a part of its log, or that acknowledged entries are lost on other members.
    #[error("{0}")]
    LogLost(Rejected),
    /// The other members have removed this one.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    /// Another process runs as this member: the other members know it under this member's id.
    #[error(
        "another process runs as member {id:x}, at {url}: one of the two works on a copy of the other's data \
         directory. Keep the one at that URL, and give this one an empty data directory and an id of its own (etcdctl \
         member add); or end that one first if this one is to be kept"
    )]
    DuplicateProcess { id: u64, url: String },
    /// Another process runs as this member, with a data directory of another founding.
    #[error(
        "another process runs as member {id:x}, at {url}, with a data directory of its own: both were founded with \
         the same names, peer URLs and token. Give this one peer URLs or an --initial-cluster-token of its own and an \
         empty data directory; or end the other one first if this one is to be kept"
    )]
    Namesake { id: u64, url: String },
    /// The state differs from that of another member.
    #[error(
        "{id:x} found data inconsistency with peers: the lines before this one name them. If the others hold the same \
         among each other (etcdctl endpoint hashkv), replace this member: remove it (etcdctl member remove), and add \
         it anew with an empty data directory"
    )]
    Inconsistent { id: u64 },
    /// The member failed before; this is the first error.
    #[error("the member has stopped: {0}")]
    Stopped(String),
}

impl Fatal {
    /// Attributes the error to `entry` if the cause lies in the entry.
    fn at(self, entry: EntryId) -> Self {
        let lies_in_entry = match &self {
            Self::Entry(_) => true,
            Self::Halt(Halt { cause, .. }) => match cause {
                HaltCause::UnknownKind(_) | HaltCause::OldRequest(_) | HaltCause::Malformed(_) => true,
                HaltCause::Engine(_) | HaltCause::Gap { .. } => false,
            },
            _ => false,
        };
        if lies_in_entry { Self::Inapplicable { entry, cause: Box::new(self) } } else { self }
    }
}

/// The way to the other members. Messages may be lost, duplicated or delayed. A message to one member must not delay
/// messages to another.
pub trait Outbox: Send {
    /// Takes messages without waiting. Each names its receiver.
    fn send(&mut self, messages: Vec<raftpb::Message>);
}

/// For a member without other members.
impl Outbox for () {
    fn send(&mut self, _: Vec<raftpb::Message>) {}
}

/// Called as committed entries become part of the state, so that a caller with a clock can measure the time that takes.
pub trait Observer: Send {
    /// A batch begins.
    fn begin(&mut self) {}

    /// The kind of a command, from its bytes, for [`Observer::applied`].
    fn recognize(&self, _command: &[u8]) -> u32 {
        0
    }

    /// A command was applied, or refused by the state machine.
    fn applied(&mut self, _kind: u32, _accepted: bool) {}

    /// The operations that the command of the request `id` ran. Commands that were applied before this start are not
    /// reported.
    fn worked(&mut self, _id: u64, _work: &Work) {}

    /// The whole batch is applied, and is about to be published.
    fn publishing(&mut self) {}

    /// The batch was published.
    fn published(&mut self) {}
}

/// Measures nothing.
impl Observer for () {}

/// The results of a call of [`Replica::process`], in the order in which they happened.
#[derive(Default)]
pub struct Output {
    /// Outcomes of entries that are durable, committed, applied and visible to readers.
    pub outcomes: Vec<Outcome>,
    /// The changes, for watchers.
    pub events: Vec<Arc<RevisionEvents>>,
    /// Ids given to [`Replica::read`] whose reads may be served: readers see all writes that were acknowledged before
    /// those calls.
    pub readable: Vec<u64>,
    /// Messages to followers that lack entries which this member no longer holds: they are to be sent the state.
    pub states_wanted: Vec<raftpb::Message>,
    /// A job that makes the state durable, to be run on another thread. Its result goes to
    /// [`Replica::snapshot_written`].
    pub snapshot: Option<SnapshotJob>,
    /// A state of another member has replaced this one's. Watchers must read history, and copies of its members
    /// and leases are stale.
    pub state_replaced: bool,
    /// States that are to be removed on another thread, once they are unused.
    pub retired: Vec<Retired>,
    /// Entries that were applied as empty ones, because the settings or an earlier start say so.
    pub passed_over: Vec<EntryId>,
    /// A hash to be computed on another thread; a failure must stop the member. Old versions are dropped after that.
    pub compaction_hash: Option<CompactionHashJob>,
}

/// One member of a group.
pub struct Replica {
    settings: Settings,
    data: DataDir,
    medium: Medium,
    id: u64,
    cluster_id: u64,
    directory: Option<u64>,
    consensus: Consensus,
    wal: Wal,
    engine: Arc<dyn Engine>,
    store: Store,
    conf_state: ConfState,
    outbox: Box<dyn Outbox>,
    observer: Box<dyn Observer>,
    /// Receives states of other members; and the state that consensus has yet to accept or reject.
    receiver: StateReceiver,
    received: Option<ReceivedState>,
    /// Whether a job runs, and log bytes written since the last one was planned.
    snapshot: SnapshotProgress,
    replayed: replay::ReplayedLog,
    passed_over: passed_over::PassedOver,
    /// The error that stopped the member.
    failed: Option<String>,
}

#[derive(Default)]
struct SnapshotProgress {
    running: bool,
    /// Whether a member was defragmented, which on a disk that is short of space also frees the log.
    wanted: bool,
    /// The free bytes of a disk that is short of space.
    shortage: Option<u64>,
    log_bytes: u64,
    /// The newest position that the log names.
    named: Applied,
}

impl Replica {
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// The name of the data directory, shared by all copies of it; `None` if it was never given one.
    pub fn directory(&self) -> Option<u64> {
        self.directory
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn standing(&self) -> Standing {
        self.consensus.standing()
    }

    /// The voters, as far as this member knows.
    pub fn voters(&self) -> &[u64] {
        &self.conf_state.voters
    }

    /// The term of an entry of the log. `None` if the log does not hold it: there is no such entry yet, or it is part
    /// of the state and no longer kept.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.consensus.term_of(index)
    }

    /// The progress of all members, ordered by id; empty unless this member leads.
    pub fn progress(&self) -> Vec<Progress> {
        self.consensus.progress()
    }

    /// Sends messages through `outbox` from now on. Earlier messages are lost.
    pub fn connect(&mut self, outbox: Box<dyn Outbox>) {
        self.outbox = outbox;
    }

    /// The interval at which a leader notes the remaining time of leases; `None` if it does not.
    pub(crate) fn checkpoint_interval_ms(&self) -> Option<u64> {
        self.settings.lease_checkpoints.then_some(self.settings.checkpoint_interval_ms)
    }

    /// Sets how much space is free on the disk of the state if it is short of space: the log is released early then.
    pub fn set_shortage(&mut self, free_bytes: Option<u64>) {
        self.snapshot.shortage = free_bytes;
    }

    /// How much of the log is kept in memory for followers.
    fn keep(&self) -> Retention {
        self.settings.keep
    }

    /// Calls `observer` from now on.
    pub fn observe(&mut self, observer: Box<dyn Observer>) {
        self.observer = observer;
    }

    /// Takes a message of another member.
    ///
    /// # Errors
    /// [`Fatal::LogLost`], and the failure that stopped the member before. For an impossible message the inner result
    /// is [`Rejected`]; the caller logs and drops the message.
    pub fn step(&mut self, message: raftpb::Message) -> Result<Result<(), Rejected>, Fatal> {
        self.unless_failed(|member| {
            let from = message.from();
            let stepped = match from_wire(message) {
                Ok(message) => member.consensus.step(message),
                Err(error) => Err(Rejected::Unreadable { from, why: error.to_string() }),
            };
            match stepped {
                Err(lost) if lost.is_fatal() => Err(Fatal::LogLost(lost)),
                stepped => Ok(stepped),
            }
        })
    }

    /// Adds a linearizable read of this member's state: it must see every write that was acknowledged before this call.
    /// `id` is unique in the cluster and over restarts, and appears in [`Output::readable`] once the read may be
    /// served. Without a leader that may be never.
    pub fn read(&mut self, id: u64) {
        self.consensus.read(id);
    }

    /// Forgets reads ([`Replica::read`]) for which `waits` is false, since their callers no longer wait. Without a
    /// leader, they would be kept for ever.
    pub fn forget(&mut self, waits: impl Fn(u64) -> bool) {
        self.consensus.forget_reads(waits);
    }

    /// Number of reads that cannot be served yet.
    pub fn waiting_reads(&self) -> usize {
        self.consensus.waiting_reads()
    }

    /// Proposes a membership change, in etcd's form. Its outcome carries the change's id.
    ///
    /// # Errors
    /// [`NotProposed`]: the change will never commit. There is no outcome either if another change is under way.
    pub fn propose_change(&mut self, change: &raftpb::ConfChange) -> Result<(), NotProposed> {
        if self.failed.is_some() { Err(NotProposed::Dropped) } else { self.consensus.propose_change(change) }
    }

    /// Proposes commands that only a leader may give.
    ///
    /// # Errors
    /// [`NotProposed`] if this member does not lead; such commands are never forwarded to another member.
    pub fn propose_as_leader(&mut self, commands: Vec<Bytes>) -> Result<(), NotProposed> {
        if self.failed.is_some() { Err(NotProposed::Dropped) } else { self.consensus.propose_as_leader(commands) }
    }

    /// Transfers leadership to another voter; until that ends, proposals are dropped.
    pub fn transfer_leader(&mut self, to: u64) {
        self.consensus.transfer_leader(to);
    }

    /// Reports that a message to a member was lost.
    pub fn unreachable(&mut self, id: u64) {
        self.consensus.unreachable(id);
    }

    /// Reports how the transfer of a state to a follower has ended.
    pub fn state_sent(&mut self, to: u64, arrived: bool) {
        self.consensus.snapshot_sent(to, arrived);
    }

    /// Reports that one heartbeat interval has passed.
    pub fn tick(&mut self) {
        if self.failed.is_none() {
            self.consensus.tick();
        }
    }

    /// Proposes a command ([`metastore_store::command::Command::encode`]).
    ///
    /// # Errors
    /// [`NotProposed`]: the command will never commit.
    pub fn propose(&mut self, data: Bytes) -> Result<(), NotProposed> {
        if self.failed.is_some() { Err(NotProposed::Dropped) } else { self.consensus.propose(data) }
    }

    /// Runs an operation that may fail, unless one has failed before.
    fn unless_failed<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, Fatal>) -> Result<T, Fatal> {
        if let Some(first) = &self.failed {
            return Err(Fatal::Stopped(first.clone()));
        }
        let result = act(self);
        self.failed = result.as_ref().err().map(Fatal::to_string);
        result
    }

    /// Does all work that is due: one write and one sync for all proposals, then applies the committed entries.
    ///
    /// # Errors
    /// [`Fatal`]: the member must stop. `output` then holds only results that were durable before.
    pub fn process(&mut self, output: &mut Output) -> Result<(), Fatal> {
        self.unless_failed(|member| member.work(output))
    }

    fn work(&mut self, output: &mut Output) -> Result<(), Fatal> {
        loop {
            while let Some(mut work) = self.consensus.take() {
                // A leader's requests to its followers do not wait for its own disk.
                self.send(std::mem::take(&mut work.messages), output);
                let append = std::mem::take(&mut work.append);
                let mut committed = std::mem::take(&mut work.committed);
                let snapshot = work.snapshot.take();
                if let Some(snapshot) = &snapshot {
                    self.install(snapshot, &append.hard_state, output)?;
                }
                self.append(append)?;
                let persisted = self.consensus.persisted(work);
                self.send(persisted.messages, output);
                if let Some(snapshot) = &snapshot {
                    self.installed(snapshot);
                }
                committed.extend(persisted.committed);
                self.apply(committed, output)?;
            }
            self.retire_unwanted(output);
            self.consensus.readable(self.store.applied().index, &mut output.readable);
            // Whether this member is the only voter is known once the log is applied.
            if !self.consensus.campaign_if_alone() {
                return self.plan_snapshot(output);
            }
        }
    }

    fn send(&mut self, messages: Vec<eraftpb::Message>, output: &mut Output) {
        if messages.is_empty() {
            return;
        }
        let mut messages: Vec<_> = messages.into_iter().map(to_wire).collect();
        let state = |message: &mut raftpb::Message| message.r#type() == raftpb::MessageType::MsgSnap;
        output.states_wanted.extend(messages.extract_if(.., state));
        self.outbox.send(messages);
    }

    fn append(&mut self, append: Append) -> Result<(), Fatal> {
        let Append { hard_state, entries, mut sync } = append;
        let hard_state = hard_state_to_disk(&hard_state);
        let mut changed = (hard_state != self.wal.hard_state()).then_some(&hard_state);
        if mutant(Mutant::SkipVoteSync) && entries.is_empty() {
            changed = None;
        }
        if changed.is_none() && entries.is_empty() {
            return Ok(());
        }
        if mutant(Mutant::AnswerBeforeSync) && self.standing().is_leader() {
            sync = false;
        }
        self.snapshot.log_bytes += entries.iter().map(|entry| log_bytes(entry.data.len())).sum::<u64>();
        Ok(self.wal.append(changed, entries.iter().map(to_disk), sync)?)
    }

    fn apply(&mut self, committed: Vec<Entry>, output: &mut Output) -> Result<(), Fatal> {
        let Some(last) = committed.last().map(|entry| entry.index) else { return Ok(()) };
        let first_outcome = output.outcomes.len();
        // A batch that fails in the middle may never become visible to readers. So no outcome of its first entries may
        // be reported.
        self.apply_all(committed, output).inspect_err(|_| output.outcomes.truncate(first_outcome))?;
        self.consensus.applied(last, self.keep());
        Ok(())
    }

    fn apply_all(&mut self, committed: Vec<Entry>, output: &mut Output) -> Result<(), Fatal> {
        self.observer.begin();
        for entry in committed {
            let id = EntryId { index: entry.index, term: entry.term };
            if self.passes_any_over() && self.passes_over(id)? {
                self.pass_over(&entry)?;
                output.passed_over.push(id);
            } else {
                output.outcomes.extend(self.apply_entry(entry).map_err(|fatal| fatal.at(id))?);
            }
            self.repeat_effects(id.index, output)?;
        }
        self.observer.publishing();
        output.events.extend(self.store.publish()?);
        self.observer.published();
        if let Some(job) = self.store.take_compaction_hash() {
            output.compaction_hash = Some(job);
        }
        Ok(())
    }

    fn apply_entry(&mut self, entry: Entry) -> Result<Option<Outcome>, Fatal> {
        if entry.get_entry_type() != EntryType::EntryNormal {
            return self.apply_member_change(&entry).map(Some);
        }
        if mutant(Mutant::ApplyTwiceAfterRestart) && entry.index == self.replayed.last {
            self.store.apply(entry.index, entry.term, entry.data.clone())?;
        }
        let kind = self.observer.recognize(&entry.data);
        let outcome = self.store.apply(entry.index, entry.term, entry.data)?;
        if let Some(outcome) = &outcome {
            self.observer.applied(kind, outcome.reply.is_ok());
            if entry.index > self.replayed.last {
                self.observer.worked(outcome.id, &self.store.work());
            }
        }
        Ok(outcome)
    }

    /// Applies an entry as an empty one.
    fn pass_over(&mut self, entry: &Entry) -> Result<(), Fatal> {
        if entry.get_entry_type() != EntryType::EntryNormal {
            self.consensus.change_members(entry.index, &raftpb::ConfChange::default(), true)?;
        }
        self.store.apply(entry.index, entry.term, Bytes::new())?;
        Ok(())
    }

    fn apply_member_change(&mut self, entry: &Entry) -> Result<Outcome, Fatal> {
        let Entry { index, term, .. } = *entry;
        let change = decode_change(index, &entry.context)?;
        let mut checked = self.store.check_member_change(index, &change, self.settings.max_learners)?;
        let conf_state = match self.consensus.change_members(index, &change, checked.is_err())? {
            Some(conf_state) => conf_state,
            None => {
                checked = Err(Refusal::NotEnoughMembers);
                self.conf_state.clone()
            }
        };
        let former = std::mem::replace(&mut self.conf_state, conf_state);
        if mutant(Mutant::PromotionForgotten) && matches!(checked, Ok(MemberChange::Promote(_))) {
            self.conf_state = former;
        }
        let conf_state = conf_state::to_disk(&self.conf_state);
        Ok(self.store.apply_member_change(index, term, change.id(), checked, &conf_state)?)
    }

    /// Drops one bounded step of versions that can no longer be read. Returns whether it did something; if so, it is to
    /// be called again, between other work.
    ///
    /// # Errors
    /// [`Fatal`] if the medium fails.
    pub fn compact_step(&mut self) -> Result<bool, Fatal> {
        self.unless_failed(|member| Ok(member.store.compact_step()?))
    }

    fn plan_snapshot(&mut self, output: &mut Output) -> Result<(), Fatal> {
        let state_bytes = self.store.view().engine().usage().bytes;
        let SnapshotProgress { wanted, shortage, .. } = self.snapshot;
        let shortage = shortage.map(|free_bytes| Shortage { free_bytes, wanted });
        let due = self.medium.due_bytes(&self.settings, state_bytes, shortage);
        let due = self.snapshot.log_bytes >= due || self.engine.wants_flush();
        if self.snapshot.running || !due {
            return Ok(());
        }
        self.snapshot = SnapshotProgress { running: true, wanted: false, log_bytes: 0, ..self.snapshot };
        let conf_state = conf_state::to_disk(&self.conf_state);
        output.snapshot = Some(self.medium.job(&self.data, (&self.store, &self.engine), conf_state)?);
        Ok(())
    }

    /// Notes that a state was made durable: the log and the snapshots before it are no longer needed.
    ///
    /// # Errors
    /// [`Fatal`] if the log cannot be written.
    pub fn snapshot_written(&mut self, written: SnapshotWritten) -> Result<(), Fatal> {
        self.unless_failed(|member| member.release(&written))
    }

    fn release(&mut self, written: &SnapshotWritten) -> Result<(), Fatal> {
        self.snapshot.running = false;
        // Otherwise another state has replaced the one that was written.
        if written.applied.index >= self.snapshot.named.index {
            record_snapshot(&mut self.wal, written)?;
            self.wal.release(written.applied.index)?;
            self.snapshot.named = written.applied;
        }
        Ok(self.medium.clear(&self.data, self.snapshot.named)?)
    }
}

/// Records in the log that the state up to this position is durable.
fn record_snapshot(wal: &mut Wal, written: &SnapshotWritten) -> Result<(), WalError> {
    let Applied { index, term } = written.applied;
    let hard_state = wal.hard_state();
    if hard_state.commit() < index {
        // etcd accepts only snapshots up to the commit index in the log, and the log need not hold the last commit
        // index yet.
        wal.append(Some(&raftpb::HardState { commit: Some(index), ..hard_state }), [], false)?;
    }
    wal.save_snapshot(index, term, Some(written.conf_state.clone()))
}

fn hard_state_to_disk(state: &HardState) -> raftpb::HardState {
    raftpb::HardState { term: Some(state.term), vote: Some(state.vote), commit: Some(state.commit) }
}
