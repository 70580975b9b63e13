//! The state machine through its public API: commands in, answers out.
//!
//! ```text
//!   testscripts/**/*.txt ──▶ script/   for review by a reader: commands, and the recorded trace of each
//!   random commands      ──▶ model/    the store beside a plain list of versions; they must agree
//!   arbitrary bytes      ──▶ hostile   no log entry makes a member panic or skip it
//!   states               ──▶ streams   moved from engine to engine, they stay the same
//! ```
//!
//! Everything runs on every engine ([`engines`]), and one set of recorded traces is valid for all of them.
//!
//! `UPDATE=1 cargo test -p metastore-store` records the traces again; a reviewer reads the diff. [`coverage`] lists the
//! behaviour that the scripts must show. `PROPTEST_CASES=100000` in the environment gives the random tests more cases.

mod compaction_hash;
mod coverage;
mod engines;
mod entries;
mod golden;
mod hostile;
mod model;
mod nested;
mod opening;
mod pins;
mod replaced;
mod script;
mod streams;
mod watched;
