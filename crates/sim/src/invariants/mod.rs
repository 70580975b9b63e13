//! What must hold whatever happens, one file each.
//!
//! Checkers are told what members did or what clients saw, and answer with the first contradiction. They know nothing of the
//! code that they judge but its messages. Each has tests with bad histories.

pub mod acknowledged;
pub mod election_safety;
pub mod hash_kv;
pub mod leader_completeness;
pub mod lease;
pub mod linearizable;
pub mod log_matching;
pub mod membership;
pub mod revisions;
pub mod serializable;
pub mod state_machine_safety;
pub mod stored;
pub mod watch;
