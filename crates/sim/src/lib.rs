//! Several members in one thread, over a network that loses and reorders, on disks that fail: one seed, one run.

pub mod history;
pub mod invariants;
pub mod model;
pub mod random;
