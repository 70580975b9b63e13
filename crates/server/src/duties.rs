//! The duties of a member beside its requests, each one task: automatic compaction ([`auto_compaction`]), the
//! comparison of states ([`corruption`]), the cluster version ([`versions`]), the search for a duplicate process
//! ([`duplicate_process`]), the watch over the size of the state and the free space ([`space`]) and over the engine
//! thread ([`watchdog`]).

pub mod auto_compaction;
pub mod corruption;
pub mod duplicate_process;
pub mod space;
pub mod versions;
pub mod watchdog;
