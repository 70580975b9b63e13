//! The work of one command, in the numbers that etcd's metrics show.

/// The operations that a command ran, counted as etcd counts them. A refused command may have read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub puts: u64,
    /// Deletes of a key or a range, and of each key of a lease that ended.
    pub deletes: u64,
    /// Bytes of the keys and values that were put.
    pub put_bytes: u64,
    /// Reads of a transaction before its operations: comparisons, and the rows that its puts build on.
    pub checks: u64,
    /// Reads of the rows before puts and deletes.
    pub reads: u64,
    /// Ranges of a transaction. In etcd, only the member whose client waits runs them.
    pub ranges: u64,
    /// Seconds to live of the lease that was granted.
    pub granted_s: Option<i64>,
    pub lease_revoked: bool,
}

impl Work {
    /// Reads of all kinds; `answers` says whether a client of this member waits for the answer.
    pub fn all_reads(&self, answers: bool) -> u64 {
        self.checks + self.reads + self.ranges_run(answers)
    }

    /// Transactions. A transaction with writes is two of etcd's: its checks and its operations. One of a single
    /// operation is not counted.
    pub fn txns(&self, answers: bool) -> u64 {
        let run = self.puts + self.deletes + self.reads + self.ranges_run(answers);
        u64::from(self.checks > 1) + u64::from(run > 1)
    }

    fn ranges_run(&self, answers: bool) -> u64 {
        if answers { self.ranges } else { 0 }
    }
}
