//! The duties of a member beside its requests, each one task: the cluster version ([`versions`]), the search for a
//! duplicate process ([`duplicate_process`]), and the watch over the engine thread ([`watchdog`]).

pub mod duplicate_process;
pub mod versions;
pub mod watchdog;
