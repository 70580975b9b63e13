//! The beginning of a new member, as `--initial-cluster` and its relatives say: it founds a cluster with others, or
//! joins one that runs. Used only while the data directory holds no log.

mod initial_cluster;
mod joining;

pub use joining::bootstrap;
