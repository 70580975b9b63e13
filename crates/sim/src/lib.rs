//! Several members in one thread, over a network that loses and reorders, on disks that fail: one seed, one run.

mod answers;
pub mod clients;
pub mod counts;
pub mod faults;
pub mod history;
pub mod invariants;
mod judge;
pub mod machine;
pub mod member;
pub mod model;
mod network;
pub mod random;
pub mod runner;
mod serving;
mod watching;
pub mod world;
