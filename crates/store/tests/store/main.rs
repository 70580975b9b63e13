//! The state machine through its public door: commands in, answers out.
//!
//! ```text
//!   testscripts/**/*.txt ──▶ script/   what a reader reviews: commands, and beside them what came out
//!   random commands      ──▶ model/    the store beside a plain list of versions; they must agree
//!   arbitrary bytes      ──▶ hostile   nothing in a log makes a member panic or skip
//!   states               ──▶ streams   moved from engine to engine, they are the same
//! ```
//!
//! Everything runs on every engine ([`engines`]), and one set of records holds for all of them.
//!
//! `UPDATE=1 cargo test -p metastore-store` records the scripts anew; the diff is what is reviewed. [`coverage`] lists what
//! the scripts must show. `PROPTEST_CASES=100000` in the environment runs the random tests for long.

mod compaction_hash;
mod coverage;
mod engines;
mod entries;
mod golden;
mod hostile;
mod model;
mod opening;
mod pins;
mod replaced;
mod script;
mod streams;
mod watched;
