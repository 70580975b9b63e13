//! A whole member against a disk that loses power, fails, fills up or holds something else.
//!
//! ```text
//!   script ─▶ Replica ─▶ Machine ─ power loss after operation n ─▶ Replica::open ─▶ state
//!      │                                                                                    │ must equal
//!      └─▶ what was proposed, what was acknowledged ─▶ Store, alone ─▶ state after each command
//! ```
//!
//! The rule that all of these tests check ([`world::Told::check`]): after a restart the state is the one after the first
//! `n` commands that were proposed, and `n` is not less than what was acknowledged. So nothing acknowledged is missing,
//! nothing is there twice or from nowhere, and what was under way is there as a prefix.

/// Makes a test of each engine of one body.
macro_rules! each_engine {
    ($name:ident) => {
        mod $name {
            #[test]
            fn memory() {
                super::$name(crate::machine::Engine::Memory);
            }

            #[test]
            fn rocksdb() {
                super::$name(crate::machine::Engine::RocksDb);
            }
        }
    };
}

mod compacting;
mod consensus;
mod conversion;
mod crash_points;
mod defragment;
mod directories;
mod failures;
mod kill_loop;
mod membership;
mod on_disk;
mod poisoned;
mod receiving;
mod refusals;
mod script;
mod transfer;
mod world;

use metastore_sim::machine;
