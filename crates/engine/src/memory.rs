//! The state in memory, durable through the log and its snapshots.

/// State in memory.
pub struct Memory;
