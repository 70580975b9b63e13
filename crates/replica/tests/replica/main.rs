//! A whole member against a disk that loses power, fails, fills up or holds something else.
//!
//! ```text
//!   script ─▶ Replica ─▶ SimulatedDisk ─ power loss after operation n ─▶ Replica::open ─▶ state
//!      │                                                                                    │ must equal
//!      └─▶ what was proposed, what was acknowledged ─▶ Store, alone ─▶ state after each command
//! ```
//!
//! The rule that all of these tests check ([`world::Told::check`]): after a restart the state is the one after the first
//! `n` commands that were proposed, and `n` is not less than what was acknowledged. So nothing acknowledged is missing,
//! nothing is there twice or from nowhere, and what was under way is there as a prefix.

mod consensus;
mod crash_points;
mod failures;
mod kill_loop;
mod refusals;
mod script;
mod world;
