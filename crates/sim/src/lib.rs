//! A cluster in one thread: the real consensus, log, applier and store, in a simulated world full of faults. One seed,
//! one run.
//!
//! ```text
//!   clients, watchers ─▶ serving ─▶ Replica ─┐                 ┌─▶ network (loss, doubling, delay, partitions) ─┐
//!        │                          Replica ─┼─ Outbox ────────┘                                                │
//!        │                          Replica ◀┘◀──── step ◀──────────────────────────────────────────────────────┘
//!        │                             │  └─▶ machine (a disk that forgets, tears, fails, fills up, hangs;
//!        │                             │               RocksDB on files in memory)
//!        ▼                             ▼
//!     history                       judge: the actions of members, without contradiction
//!        └──────▶ invariants ◀─────────┘
//! ```
//!
//! [`world::run`] runs one seed. A run begins with a storm of at least a minute of simulated time, in which faults
//! happen and safety is checked. Then the world heals, and the cluster must serve every client within a bound.
//! [`runner`] runs many seeds. The program `metastore-sim` is the entry point, and docs/testing.md explains its use.
//!
//! Rules
//! - **Nothing but the seed decides.** All choices come from the seed, and time is counted in moments of 20 ms. Nothing
//!   under test reads a clock, starts a thread (except RocksDB, which has its own) or draws random numbers. The same
//!   seed gives the same trace, to the byte.
//! - **The code under test is the code that is shipped.** It meets the world through the interfaces that it has anyway:
//!   the disk, the outbox, time as a parameter. Its only additions for the simulator are the bugs of
//!   `metastore-mutants`, which a build contains only if it asks for them.
//! - **A checker knows messages and rules, not code** ([`invariants`]). The checkers of client histories also judge
//!   histories of real processes.
//! - An outcome that no answer reported to the client is unknown: never a success, never a failure.
//!
//! Deliberately absent: sockets, the gRPC front and its threads (end-to-end tests have real processes), logins,
//! and memory that returns wrong data. The duties of a server around its replica are repeated in `world`, as far as
//! members depend on them: the timing of leases, states that are sent, quotas and alarms.

mod alarms;
mod answers;
mod beside;
pub mod clients;
pub mod counts;
mod disasters;
pub mod faults;
pub mod history;
pub mod invariants;
mod judge;
mod lease_book;
pub mod machine;
pub mod member;
pub mod model;
mod network;
pub mod random;
pub mod runner;
mod time;
mod users;
mod verdicts;
mod waiting;
pub mod watcher;
pub mod world;
