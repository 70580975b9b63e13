//! A cluster in one thread: the real consensus, log, applier and store, in a world that is out to break them. One seed, one run.
//!
//! ```text
//!   clients, watchers ─▶ serving ─▶ Replica ─┐                 ┌─▶ network (loss, doubling, delay, partitions) ─┐
//!        │                          Replica ─┼─ Outbox ────────┘                                                │
//!        │                          Replica ◀┘◀──── step ◀──────────────────────────────────────────────────────┘
//!        │                             │  └─▶ machine (a disk that forgets, tears, fails, fills up, hangs; RocksDB on files in memory)
//!        ▼                             ▼
//!     history                       judge: what members did; nothing may contradict it
//!        └──────▶ invariants ◀─────────┘
//! ```
//!
//! [`world::run`] runs one seed: a storm of at least a minute of the world's time, in which everything goes wrong and safety is
//! checked; then the world heals, and the cluster must serve everybody within a bound. [`runner`] runs many seeds; the program
//! `metastore-sim` is the way in, and docs/testing.md says how to use it.
//!
//! Rules
//! - **Nothing but the seed decides.** Choices come from it, time is counted in moments of 20 ms, and nothing under test reads a
//!   clock, starts a thread (but for RocksDB's own), or draws lots. The same seed gives the same trace, to the byte.
//! - **The code under test is the code that is shipped.** It meets the world through the doors that it has anyway: the disk, the
//!   outbox, time as a parameter. The one thing in it that is there for the simulator are the bugs of `metastore-mutants`, which
//!   no build has without asking for them.
//! - **A checker knows messages and rules, not code** ([`invariants`]). Those on the clients' side judge histories of real
//!   processes, too.
//! - An outcome that a client was not told is unknown: never a success, never a failure.
//!
//! What is deliberately absent: sockets, the gRPC front and its threads (end-to-end tests have real processes), authentication,
//! and memory that lies.

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
mod verdicts;
pub mod watching;
pub mod world;
