//! Counters that one thread writes.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writing thread and any number of readers. An addition is a plain load and store: no locked
/// instruction, no shared cache line. Two writers would lose counts, which is why each I/O thread has its own.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
