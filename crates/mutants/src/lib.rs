//! Deliberate bugs: the proof that the simulator can fail.
//!
//! A simulator that has never failed proves nothing: perhaps the code is right, perhaps no check looks at it. So the
//! code carries bugs. Each is switched off by default, and the simulator must find every bug that is switched on, from
//! seeds that were not chosen for it.
//!
//! ```text
//!   engine, store, replica    if mutant(Mutant::AnswerBeforeSync) { ... }
//!                                │
//!              without feature   └─▶ false at compile time: the branch is not in the program
//!              with `on`         └─▶ is it the bug given to `choose`?  ◀── metastore-sim --mutant NUMBER
//! ```
//!
//! One build with the feature holds all bugs, and one at a time is on: two would hide each other. Everything that is
//! shipped or measured is built without the feature. Such a build contains no number to compare with, and nothing that
//! could set one.
//!
//! Rules for a hook
//! - **`if mutant(...) { ... }`, on lines of its own, at the place of the mistake.** The code around it reads the same
//!   without the hook, and there is no `cfg` outside this crate. Where a bug needs a second place to survive, that
//!   place has a hook on the same bug, and no other.
//! - **Silent.** The code that contains the bug must not notice it: no assertion, checksum, error or panic. Only its
//!   effects on clients and on other members are left to notice. So a bug is a mistake that a developer could have
//!   made, and it compiles and runs. A bug that the code refuses by itself proves that check, not the simulator's.
//! - **Per command, message or record**, never per byte or per row of an inner loop.
//! - **No state but the switch.** A hook draws no random number and counts nothing: the same seed is the same run.
//!
//! A new bug is an entry in the list below, with the next number, and its hook; then the simulator has to find it.
//! Numbers and names are not reused, because a report may quote them. If the simulator does not find a bug, the
//! simulator lacks a fault, an action or an invariant. A bug leaves the list only together with the code that it was
//! in.
//!
//! Deliberately absent: bugs of the `raft` crate and of RocksDB, which are not ours to break; bugs of the server's
//! shell, which the simulator does not run; and mutation of arbitrary lines by a tool: the crates' own tests find most
//! of those.

/// Declares the bugs: documentation, name of the variant, number, name on the command line, and the invariants expected
/// to notice.
macro_rules! mutants {
    ($($(#[$doc:meta])+ $variant:ident = $number:literal, $name:literal, $noticed:literal;)+) => {
        /// A bug that can be switched on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Mutant {
            $($(#[$doc])+ #[doc = ""] #[doc = concat!("Noticed by: ", $noticed, ".")] $variant = $number,)+
        }

        impl Mutant {
            /// All bugs, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name on the command line and in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

mutants! {
    // ---- consensus and log: promises are kept ----

    /// A leader counts itself among the members that hold an entry, and answers, before its own log is synced. Breaks:
    /// an acknowledged entry is durable at a quorum. Needs a leader that loses power, and the election of a member
    /// without the entry.
    AnswerBeforeSync = 1, "answer-before-sync", "acknowledged, linearizable, leader completeness";
    /// Term and vote are written with the next entries only, not before the vote is given. Breaks: one vote per term.
    /// Needs a voter that loses power between the vote and the write, and another candidate.
    SkipVoteSync = 2, "skip-vote-sync", "election safety";
    /// At the start, the last entry of the log is applied twice. Breaks: an entry is applied once.
    ApplyTwiceAfterRestart = 3, "apply-twice-after-restart", "state machine safety, revisions, linearizable";
    /// Consensus counts a member that joins as a learner as a voter. Breaks: a learner has no vote and is not part of a
    /// quorum.
    LearnerVotes = 4, "learner-votes", "membership: voters are the members that are no learners; progress without the \
        learner";
    /// Consensus is not informed that a member was removed. Breaks: a removed member is not part of a quorum.
    RemovedMemberVotes = 5, "removed-member-votes", "membership: voters are the members that are no learners; \
        progress without it";
    /// The promotion of a learner is not recorded in the voters that the state and snapshots name. Breaks: a restart
    /// finds the same voters as before.
    PromotionForgotten = 6, "promotion-forgotten", "membership: voters are the members that are no learners";
    /// A proposal is appended to the log twice. Breaks: a request takes effect once.
    ProposedTwice = 7, "proposed-twice", "linearizable, revisions";
    /// After a failed sync the log continues as if the sync had succeeded. Breaks: a failed sync is final.
    FailedSyncIgnored = 8, "failed-sync-ignored", "a member whose sync failed stops; acknowledged, linearizable, \
        proof of a lost log";
    /// Bytes in the log's last segment that do not verify are cut off as a torn write, without a check whether they are
    /// damage. Breaks: damage is refused. Needs bits that flip in the last segment.
    DamageTakenForTear = 9, "damage-taken-for-tear", "damage in a closed batch is refused; acknowledged, leader \
        completeness";
    /// A start drops the last entry of the log as a torn write, unless the log says that it is committed. Breaks: a
    /// promised entry is not dropped as if it were an unfinished write.
    LogCutTooMuch = 10, "log-cut-too-much", "acknowledged, linearizable, leader completeness; proof of a lost log";

    // ---- reads that do not go through the log ----

    /// Any member serves a linearizable read at once. Breaks: the read sees everything that was acknowledged before it.
    ReadWithoutReadIndex = 11, "read-without-read-index", "linearizable";
    /// A linearizable read is served when the leader has confirmed it, although its read index is not applied here yet.
    /// Breaks: the read sees everything that was acknowledged before it.
    ReadBeforeApplied = 12, "read-before-applied", "linearizable";
    /// A leader that heard from a quorum recently, by its own clock, serves reads without another round. Breaks: a
    /// leader proves to a quorum that it leads. Needs a leader that is stopped, or whose clock is slow, while another
    /// one is elected.
    ReadByLease = 13, "read-by-lease", "linearizable";

    // ---- the state machine ----

    /// A command that changes no key makes a revision nevertheless. Breaks: revisions are dense.
    EmptyRevision = 14, "empty-revision", "revisions, linearizable";
    /// "Unchanged since revision n" holds for a key that was changed after n. Breaks: no update is lost.
    CompareIgnoresNewer = 15, "compare-ignores-newer", "linearizable";
    /// Puts of a transaction that follow another operation are answered but not done. Breaks: a transaction happens as
    /// a whole.
    TxnPartly = 16, "txn-partly", "linearizable, watch";
    /// A compaction also drops versions that are readable at the ten revisions after it. Breaks: history is whole from
    /// the compacted revision on. Needs reads at old revisions, or watchers that reconnect, soon after a compaction.
    CompactionDropsReadable = 17, "compaction-drops-readable", "serializable, watch, hash_kv";
    /// A compaction is answered and done, but reads below it are not refused. Breaks: a dropped version is never read
    /// as if it had not existed.
    CompactRevisionNotRaised = 18, "compact-revision-not-raised", "serializable, watch, linearizable";
    /// A member that starts from a snapshot, and a follower that receives a state, do not know the compacted revision.
    /// Breaks: a dropped version is never read as if it had not existed.
    CompactionForgotten = 19, "compaction-forgotten", "serializable, watch";

    // ---- leases ----

    /// A new leader gives leases an election timeout instead of their time to live. Breaks: a lease never ends early.
    LeaseCutAtElection = 20, "lease-cut-at-election", "lease: never early";
    /// A renewal is answered, but the lease ends at the same time as before. Breaks: a lease never ends early.
    RenewalIgnored = 21, "renewal-ignored", "lease: never early";
    /// A lease that was renewed never ends under this leader. Breaks: leases end.
    RenewedLeaseNeverEnds = 22, "renewed-lease-never-ends", "lease: does end";
    /// A key that is put without its lease, or with another lease, is still deleted with its former lease. Breaks: a
    /// lease deletes its own keys only.
    LeaseKeepsFormerKey = 23, "lease-keeps-former-key", "linearizable, lease, state machine safety";

    // ---- the state as a stream: snapshots, and followers that lag ----

    /// A state that is written lacks the versions of the newest revision. Breaks: the state at an index is complete at
    /// that index.
    StateLacksLastRevision = 24, "state-lacks-last-revision", "state machine safety, hash_kv, acknowledged";
    /// A state that is read lacks the attachments of keys to leases. Breaks: same log, same state: revocations leave
    /// these keys.
    StateLacksLeaseKeys = 25, "state-lacks-lease-keys", "state machine safety, hash_kv, lease";

    // ---- watch ----

    /// The last event of a revision with several events is stored, but not delivered live. Breaks: watch is complete.
    DropLastEvent = 26, "drop-last-event", "watch: complete";
    /// A watcher that catches up gets everything except the first revision that it asked for. Breaks: watch is complete
    /// and resumable.
    CatchUpSkipsFirst = 27, "catch-up-skips-first", "watch: complete";
    /// A watcher that falls back from live to history gets the last revision again. Breaks: watch is unique. Needs
    /// watchers that are open while their member takes up another member's state, or whose mailbox overflows.
    WatchRepeats = 28, "watch-repeats", "watch: unique, ordered";
    /// The previous value in a live event is the value after the change. Breaks: prev_kv is right.
    PreviousIsAfter = 29, "previous-is-after", "watch: prev_kv";

    // ---- found by the simulator, and fixed since ----

    /// A duplicated request for a read-index round gets the same context twice. Breaks: a read is confirmed only by
    /// members that received its request. Needs a leader that was stopped, and requests and confirmations that waited
    /// for it.
    ReadRoundReused = 30, "read-round-reused", "linearizable";

    // ---- after a crash ----

    /// A start relies on the entries that it reads from the log, and does not make them durable first. Breaks: promises
    /// are durable. Needs a member that is killed between a write and its sync, starts, votes or confirms entries, and
    /// then loses power.
    FoundLogNotSynced = 31, "found-log-not-synced", "election safety, acknowledged, leader completeness; proof of a \
        lost log";

    // ---- work in several steps ----

    /// A range delete ends after the first step. Breaks: a delete removes every key of its range. Needs more keys than
    /// a step of the engine visits.
    DeleteEndsAfterStep = 32, "delete-ends-after-step", "linearizable";
    /// The key at which a step of a range ended is in no answer. Breaks: a range is complete. Needs more keys than a
    /// step of the engine visits.
    BorderKeyLost = 33, "border-key-lost", "linearizable, serializable";
    /// Watchers that catch up take one step of history for the whole of it. Breaks: watch is complete. Needs more keys
    /// than a step of the engine visits.
    CatchUpEndsAfterStep = 34, "catch-up-ends-after-step", "watch: complete";
    /// A compaction leaves the tombstones of keys that were deleted long ago, in memory. Breaks: versions that no read
    /// can see are dropped. No hash counts these tombstones.
    TombstonesStay = 35, "tombstones-stay", "stored";

    // ---- effects that are visible only later ----

    /// Keys of a lease that is revoked are deleted, but stay attached to it. Breaks: a lease deletes its own keys only.
    /// Needs a lease that is granted anew under the same id.
    LeaseKeysSurvive = 36, "lease-keys-survive", "stored, linearizable, state machine safety";

    // ---- leases, continued ----

    /// A renewal leaves the checkpoint of its lease in the log, and the next leader uses it. Breaks: a lease never ends
    /// early.
    CheckpointOutlivesRenewal = 37, "checkpoint-outlives-renewal", "lease: never early";
    /// A search for expired leases that stops at its bound is not followed by another one before the usual interval.
    /// Breaks: leases end in time. Needs many leases that end together.
    ExpiryStopsAtBound = 38, "expiry-stops-at-bound", "lease: does end";

    // ---- disks that return with an older state, and followers that lag ----

    /// A leader drops the proof that acknowledged entries are lost, and continues. Breaks: members do not diverge
    /// unnoticed. Needs members that come back with older copies of their disks, and one that does not.
    LossUnnoticed = 39, "loss-unnoticed", "leader completeness, revisions, hash_kv";
    /// A state that is sent or written is not a frozen copy: writes during the read show in it. Breaks: the state at an
    /// index is the state at that index. Needs compactions while it is read.
    StateNotFrozen = 40, "state-not-frozen", "state machine safety, hash_kv, serializable";
    /// The log is cut without regard to a state that is still on its way: the entries that its receiver needs next are
    /// gone. Breaks: a follower that lags catches up, however much is written during the transfer.
    LogCutBehindState = 41, "log-cut-behind-state", "a follower is sent one state after another";

    // ---- effects that are visible only after another fault ----

    /// A member that starts, and a follower that receives a state, do not resume an interrupted compaction. Breaks:
    /// versions that no read can see are dropped. Needs that no later compaction follows.
    CompactionNotResumed = 42, "compaction-not-resumed", "stored";
    /// A request for watch progress is answered with the store's revision although events are still under way to the
    /// watchers. Breaks: a progress notification means that all events up to its revision were delivered.
    ProgressAhead = 43, "progress-ahead", "watch: bookmarkable";
    /// RocksDB leaves out dropped versions before a flush has made their compaction durable. Breaks: a restarted member
    /// reads what was written. Needs a crash that brings back a state from before the compaction.
    ForgetsBeforeFlush = 44, "forgets-before-flush", "revisions: read";
    /// A leader answers renewals without the proof that it still leads. Breaks: a lease never ends early. Needs a
    /// deposed leader that does not know it yet.
    RenewalUnproven = 45, "renewal-unproven", "lease: superseded";

    // ---- users and permissions ----

    /// Permissions are checked before a command is proposed, and not when it is applied. Breaks: a command needs the
    /// permission at its place in the log. Needs a proposer that lags behind a change of permissions.
    PermissionsNotApplied = 46, "permissions-not-applied", "permissions";
    /// The permission of a read is checked before the read only. Breaks: no read shows a key that was written after its
    /// permission was revoked. Needs a member that takes up both while it reads.
    ReadCheckedOnce = 47, "read-checked-once", "permissions";
    /// A follower that receives a state keeps its own users and permissions. Breaks: same log, same users.
    UsersNotReplaced = 48, "users-not-replaced", "state machine safety: users; permissions";

    // ---- alarms, and checkpoints of leases ----

    /// A follower that receives a state keeps its own alarms. Breaks: same log, same alarms.
    AlarmsNotReplaced = 49, "alarms-not-replaced", "alarms";
    /// While a member lacks space, a transaction is refused only if the branch for success puts a key. Breaks: what
    /// needs space is refused.
    ElseBranchUnchecked = 50, "else-branch-unchecked", "alarms";
    /// A new leader gives a lease with a checkpoint its whole time again. Breaks: elections do not keep a lease alive.
    CheckpointIgnored = 51, "checkpoint-ignored", "checkpoints";
    /// A renewal leaves a checkpoint of its lease that is proposed and not yet applied, and the next leader uses it.
    /// Breaks: a lease never ends early.
    CheckpointOvertaken = 52, "checkpoint-overtaken", "lease: never early";
}

impl Mutant {
    /// The number on the command line; it never changes.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Whether only RocksDB has this bug.
    pub const fn needs_rocksdb(self) -> bool {
        matches!(self, Self::ForgetsBeforeFlush)
    }

    /// The bug with this number.
    pub fn with_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.number() == number)
    }
}

/// Whether this bug is switched on. Without the feature `on` none ever is, and the compiler leaves the branch out.
#[cfg(not(feature = "on"))]
#[inline(always)]
pub const fn mutant(_: Mutant) -> bool {
    false
}

#[cfg(feature = "on")]
pub use switch::{choose, mutant};

#[cfg(feature = "on")]
mod switch {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Mutant;

    /// The number that stands for no bug.
    const NONE: u32 = 0;

    static CHOSEN: AtomicU32 = AtomicU32::new(NONE);

    /// Switches one bug on, or all of them off, for the whole process. To be called once, before anything runs: a bug
    /// that appears in the middle of a run cannot be replayed.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.store(mutant.map_or(NONE, Mutant::number), Ordering::Relaxed);
    }

    /// Whether this bug is switched on.
    #[inline]
    pub fn mutant(bug: Mutant) -> bool {
        CHOSEN.load(Ordering::Relaxed) == bug.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_from_one_and_names_are_unique() {
        let numbers: Vec<u32> = Mutant::ALL.iter().map(|mutant| mutant.number()).collect();
        assert_eq!(numbers, (1..=Mutant::ALL.len() as u32).collect::<Vec<_>>());
        let mut names: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Mutant::ALL.len());
        assert_eq!((Mutant::with_number(0), Mutant::with_number(1)), (None, Some(Mutant::AnswerBeforeSync)));
    }

    #[test]
    fn names_are_those_of_the_variants() {
        for mutant in Mutant::ALL {
            let variant = format!("{mutant:?}");
            assert_eq!(mutant.name().replace('-', ""), variant.to_lowercase());
        }
    }

    #[cfg(not(feature = "on"))]
    #[test]
    fn without_the_feature_none_is_on_when_it_is_compiled() {
        const { assert!(!mutant(Mutant::AnswerBeforeSync)) }
        assert!(!Mutant::ALL.iter().any(|bug| mutant(*bug)));
    }

    #[cfg(feature = "on")]
    #[test]
    fn one_is_on_at_a_time() {
        let switched_on = || Mutant::ALL.iter().copied().filter(|bug| mutant(*bug)).collect::<Vec<_>>();
        assert_eq!(switched_on(), []);
        choose(Some(Mutant::TxnPartly));
        assert_eq!(switched_on(), [Mutant::TxnPartly]);
        choose(None);
        assert_eq!(switched_on(), []);
    }
}
