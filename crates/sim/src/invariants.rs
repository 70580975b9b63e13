//! The invariants that must hold in every run, one in each file.
//!
//! Checkers receive the actions of members or the observations of clients, and return the first contradiction. They
//! know only the messages of the code that they judge. Each has tests with bad histories.

pub mod acknowledged;
pub mod alarms;
pub mod checkpoints;
pub mod election_safety;
pub mod hash_kv;
pub mod leader_completeness;
pub mod lease;
pub mod linearizable;
pub mod log_matching;
pub mod membership;
pub mod permissions;
pub mod revisions;
pub mod serializable;
pub mod state_machine_safety;
pub mod stored;
pub mod watch;
