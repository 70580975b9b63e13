//! Deliberate bugs: the proof that the simulator can fail.
//!
//! A simulator that has never failed shows nothing: perhaps the code is right, perhaps nobody looks. So the code carries bugs, each
//! switched off, and the simulator must find every one that is switched on, from seeds that say nothing of it.
//!
//! ```text
//!   store, replica    if metastore_mutants::on(Mutant::AnswerBeforeSync) { ... }
//!                          │
//!        without feature   └─▶ false, when it is compiled: the branch is not in the program
//!        with `on`         └─▶ is it the one that `choose` was told?  ◀── metastore-sim --mutant NUMBER
//! ```
//!
//! One build with the feature holds them all, and one at a time is on: two would hide each other. Without the feature, which is how
//! everything is built that is shipped or measured, there is neither a number to compare with nor anything that could set one.
//!
//! Rules for a hook
//! - **One line, where the mistake would be made.** The code around it stays as it is read without the hook, and there is no `cfg`
//!   outside this crate. Where a bug needs a second place to survive, that place has a hook on the same bug, and no other.
//! - **Silent.** Nothing inside the code that it breaks may notice: no assertion, checksum, error or panic. What is left to notice is
//!   what a client or another member sees. So a bug is what somebody could have written, and what compiles and runs; one that
//!   the code refuses by itself proves that check, not the simulator's.
//! - **Per command, message or record**, never per byte or per row of an inner loop.
//! - **Beside the switch it knows nothing.** It draws no random number and counts nothing: the same seed is the same run.
//!
//! A new one is a line in the list below, with the next number, and its hook; then the simulator has to find it. Numbers and names
//! are not used again, because a report may quote them. Where the simulator does not find one, it is the simulator that lacks a
//! fault, an action or an invariant. A bug goes from the list only with the code that it was in.
//!
//! What is deliberately absent: bugs of the `raft` crate and of RocksDB, which are not ours to break; bugs of the server's shell,
//! which the simulator does not run; and mutation of whatever line, by a tool: most of those are found by the crates' own tests.

/// Declares the bugs: documentation, name of the variant, number, name on the command line, and who is expected to notice.
macro_rules! mutants {
    ($($(#[$doc:meta])+ $variant:ident = $number:literal, $name:literal, $noticed:literal;)+) => {
        /// A bug that can be switched on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Mutant {
            $($(#[$doc])+ #[doc = ""] #[doc = concat!("Noticed by: ", $noticed, ".")] $variant = $number,)+
        }

        impl Mutant {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name on the command line and in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The invariants that should notice, whichever is first, by the names of their files in `crates/sim/src/invariants`.
            pub const fn noticed_by(self) -> &'static str {
                match self {
                    $(Self::$variant => $noticed,)+
                }
            }
        }
    };
}

mutants! {
    // ---- consensus and log: what was promised is kept ----

    /// A leader counts itself among those that hold an entry, and answers, before its own log is synced. Breaks: acknowledged means
    /// durable at a quorum. Needs a leader that loses power, and no other member that kept the entry and is elected.
    AnswerBeforeSync = 1, "answer-before-sync", "acknowledged, linearizable, leader completeness";
    /// Term and vote are written with the next entries only, not before the vote is given. Breaks: one vote per term. Needs a voter
    /// that loses power between the two, and another candidate.
    SkipVoteSync = 2, "skip-vote-sync", "election safety";
    /// The last entry that was in the log at the start is applied twice. Breaks: an entry is applied once.
    ApplyTwiceAfterRestart = 3, "apply-twice-after-restart", "state machine safety, revisions, linearizable";
    /// A member that joins as a learner is counted as a voter by consensus. Breaks: a learner neither votes nor is waited for.
    LearnerVotes = 4, "learner-votes", "membership: voters are the members that are no learners; progress without the learner";
    /// Consensus is not told that a member was removed. Breaks: who is removed counts no more.
    RemovedMemberVotes = 5, "removed-member-votes", "membership: voters are the members that are no learners; progress without it";
    /// The promotion of a learner is not noted among the voters that state and snapshots name. Breaks: a restart finds the voters
    /// that there were.
    PromotionForgotten = 6, "promotion-forgotten", "membership: voters are the members that are no learners";
    /// A proposal stands in the log twice. Breaks: a request takes effect once.
    ProposedTwice = 7, "proposed-twice", "linearizable, revisions";
    /// After a failed sync the log goes on as if it had been done. Breaks: a failed sync is final.
    FailedSyncIgnored = 8, "failed-sync-ignored", "a member whose sync failed stops; acknowledged, linearizable, proof of a lost log";
    /// Whatever does not verify in the log's last segment is cut off as if it were torn, without a look at what it is. Breaks: damage
    /// is refused. Needs bits that flip in the last segment.
    DamageTakenForTear = 9, "damage-taken-for-tear", "damage in a closed batch is refused; acknowledged, leader completeness";
    /// A start leaves out the last entry of the log, if the log does not say that it is committed, as if it were torn. Breaks: what
    /// was promised is not dropped as if it were an unfinished write.
    LogCutTooMuch = 10, "log-cut-too-much", "acknowledged, linearizable, leader completeness; proof of a lost log";

    // ---- reads that do not go through the log ----

    /// A linearizable read is served at once, by whichever member was asked. Breaks: it sees what was acknowledged before it.
    ReadWithoutReadIndex = 11, "read-without-read-index", "linearizable";
    /// A linearizable read is served when the leader has confirmed it, though its index is not applied here yet. Breaks: it sees
    /// what was acknowledged before it.
    ReadBeforeApplied = 12, "read-before-applied", "linearizable";
    /// A leader that heard of a quorum not long ago, by its own clock, serves reads without asking again. Breaks: a leader proves
    /// that it leads. Needs a leader that is stopped, or whose clock is slow, while another one is elected.
    ReadByLease = 13, "read-by-lease", "linearizable";

    // ---- the state machine ----

    /// A command that changes no key makes a revision all the same. Breaks: revisions are dense.
    EmptyRevision = 14, "empty-revision", "revisions, linearizable";
    /// "Unchanged since revision n" holds for a key that was changed after it. Breaks: no update is lost.
    CompareIgnoresNewer = 15, "compare-ignores-newer", "linearizable";
    /// Puts of a transaction that follow another operation are answered and not done. Breaks: a transaction happens as a whole.
    TxnPartly = 16, "txn-partly", "linearizable, watch";
    /// A compaction drops versions that are readable at the ten revisions after it, too. Breaks: history is whole from the compacted
    /// revision on. Needs reads at old revisions, or watchers that come back, soon after a compaction.
    CompactionDropsReadable = 17, "compaction-drops-readable", "serializable, watch, hash_kv";
    /// A compaction is answered and done, but reads below it are not refused. Breaks: what was dropped is never read as if it had not
    /// been there.
    CompactRevisionNotRaised = 18, "compact-revision-not-raised", "serializable, watch, linearizable";
    /// A start from a snapshot, and a follower that is sent a state, do not know up to where it was compacted. Breaks: what was dropped
    /// is never read as if it had not been there.
    CompactionForgotten = 19, "compaction-forgotten", "serializable, watch";

    // ---- leases ----

    /// A new leader gives leases an election timeout, and not their time to live. Breaks: a lease never ends early.
    LeaseCutAtElection = 20, "lease-cut-at-election", "lease: never early";
    /// A renewal is answered, and the lease ends as before. Breaks: a lease never ends early.
    RenewalIgnored = 21, "renewal-ignored", "lease: never early";
    /// A lease that was renewed never ends under this leader. Breaks: leases do end.
    RenewedLeaseNeverEnds = 22, "renewed-lease-never-ends", "lease: does end";
    /// A key that is put without its lease, or with another, goes with the former one all the same. Breaks: a lease takes its own keys.
    LeaseKeepsFormerKey = 23, "lease-keeps-former-key", "linearizable, lease, state machine safety";

    // ---- the state as a stream: snapshots and followers that lag ----

    /// A state that is written lacks the newest revision's versions. Breaks: the state at an index is the state at that index.
    StateLacksLastRevision = 24, "state-lacks-last-revision", "state machine safety, hash_kv, acknowledged";
    /// A state that is read does not know which keys hang on which lease. Breaks: same log, same state: revocations leave these keys.
    StateLacksLeaseKeys = 25, "state-lacks-lease-keys", "state machine safety, hash_kv, lease";

    // ---- watch ----

    /// The last event of a revision with several is stored, and not delivered live. Breaks: watch is complete.
    DropLastEvent = 26, "drop-last-event", "watch: complete";
    /// A watcher that catches up gets everything but the first revision that it asked for. Breaks: watch is complete and resumable.
    CatchUpSkipsFirst = 27, "catch-up-skips-first", "watch: complete";
    /// A watcher that falls back from live to history gets the last revision again. Breaks: watch is unique. Needs watchers that are
    /// open while a member takes up another one's state, or whose mailbox runs over.
    WatchRepeats = 28, "watch-repeats", "watch: unique, ordered";
    /// The previous value in a live event is the one after the change. Breaks: prev_kv is right.
    PreviousIsAfter = 29, "previous-is-after", "watch: prev_kv";

    // ---- found by the simulator, and mended since ----

    /// A question for a read round that comes twice gets the same name twice. Breaks: a read is confirmed by who has heard of it.
    /// Needs a leader that was stopped, and questions and confirmations that waited for it.
    ReadRoundReused = 30, "read-round-reused", "linearizable";

    // ---- what a crash leaves ----

    /// A start relies on what it reads in the log, and does not make it durable first. Breaks: what was promised is
    /// durable. Needs a member that is killed between a write and its sync, starts, votes or confirms entries, and then
    /// loses power.
    FoundLogNotSynced = 31, "found-log-not-synced", "election safety, acknowledged, leader completeness; proof of a lost log";

    // ---- more than one step ----

    /// A range is deleted up to the end of the first step. Breaks: a delete takes all that is in its range. Needs more
    /// keys than a step of the engine visits.
    DeleteEndsAfterStep = 32, "delete-ends-after-step", "linearizable";
    /// The key at which a step of a range ended is in no answer. Breaks: a range is whole. Needs the same.
    BorderKeyLost = 33, "border-key-lost", "linearizable, serializable";
    /// Watchers that catch up take a step of history for all that there is. Breaks: watch is complete. Needs the same.
    CatchUpEndsAfterStep = 34, "catch-up-ends-after-step", "watch: complete";
    /// A compaction leaves the tombstones of keys that are long gone, in memory. Breaks: what nobody can read any more
    /// goes. No hash counts them.
    TombstonesStay = 35, "tombstones-stay", "stored";

    // ---- what nobody sees at once ----

    /// Keys of a lease that is revoked are deleted, and stay attached to it. Breaks: a lease takes its own keys. Needs
    /// a lease that is granted anew under the same id.
    LeaseKeysSurvive = 36, "lease-keys-survive", "stored, linearizable, state machine safety";

    // ---- leases, continued ----

    /// A renewal leaves the checkpoint of its lease in the log, and the next leader goes by it. Breaks: a lease never ends early.
    CheckpointOutlivesRenewal = 37, "checkpoint-outlives-renewal", "lease: never early";
    /// A look for expired leases that ends at its bound is not followed by another before its usual time. Breaks: leases do end in
    /// time. Needs many leases that end together.
    ExpiryStopsAtBound = 38, "expiry-stops-at-bound", "lease: does end";

    // ---- disks that come back older, and followers that lag ----

    /// A leader drops what proves that acknowledged entries are lost, and goes on. Breaks: members do not part
    /// unnoticed. Needs members that come back with older copies of their disks, and one that does not.
    LossUnnoticed = 39, "loss-unnoticed", "leader completeness, revisions, hash_kv";
    /// A state that is sent or written is not a copy: what the writer does while it is read shows in it. Breaks: the
    /// state at an index is the state at that index. Needs compactions while it is read.
    StateNotFrozen = 40, "state-not-frozen", "state machine safety, hash_kv, serializable";
    /// The log is cut behind a state that is on its way. Breaks: a follower that lags catches up, whatever is written
    /// meanwhile.
    LogCutBehindState = 41, "log-cut-behind-state", "a follower is sent one state after another";
}

impl Mutant {
    /// The number on the command line; it never changes.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The bug with this number.
    pub fn with_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.number() == number)
    }
}

/// Whether this bug is switched on. Without the feature `on` none ever is, and the compiler leaves the branch out.
#[cfg(not(feature = "on"))]
#[inline(always)]
pub const fn on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "on")]
pub use switch::{choose, on};

#[cfg(feature = "on")]
mod switch {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Mutant;

    /// The number of none.
    const NONE: u32 = 0;

    static CHOSEN: AtomicU32 = AtomicU32::new(NONE);

    /// Switches one bug on, or all of them off, for the whole process. Once, before anything runs: a bug that appears in the middle of
    /// a run cannot be replayed.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.store(mutant.map_or(NONE, Mutant::number), Ordering::Relaxed);
    }

    /// Whether this bug is switched on.
    #[inline]
    pub fn on(mutant: Mutant) -> bool {
        CHOSEN.load(Ordering::Relaxed) == mutant.number()
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
        const { assert!(!on(Mutant::AnswerBeforeSync)) }
        assert!(!Mutant::ALL.iter().any(|mutant| on(*mutant)));
    }

    #[cfg(feature = "on")]
    #[test]
    fn one_is_on_at_a_time() {
        let switched_on = || Mutant::ALL.iter().copied().filter(|mutant| on(*mutant)).collect::<Vec<_>>();
        assert_eq!(switched_on(), []);
        choose(Some(Mutant::TxnPartly));
        assert_eq!(switched_on(), [Mutant::TxnPartly]);
        choose(None);
        assert_eq!(switched_on(), []);
    }
}
