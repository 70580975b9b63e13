//! A whole member on a disk that loses power, fails, fills up or holds foreign files.
//!
//! ```text
//!   script ─▶ Replica ─▶ Machine ─ power loss after operation n ─▶ Replica::open ─▶ state
//!      │                                                                              │ must equal
//!      └─▶ proposed and acknowledged commands ─▶ Store, alone ─▶ state after each command
//! ```
//!
//! All these tests check one rule ([`world::Answered::check`]). After a restart the state is the one after the first
//! `n` commands that were proposed, and `n` is not less than the number of acknowledged commands. So no acknowledged
//! command is missing, none is there twice or from nowhere, and of the commands under way a prefix is there.

/// Makes one test for each engine from one body.
macro_rules! each_engine {
    ($name:ident) => {
        mod $name {
            #[test]
            fn memory() {
                super::$name(crate::machine::EngineKind::Memory);
            }

            #[test]
            fn rocksdb() {
                super::$name(crate::machine::EngineKind::RocksDb);
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
