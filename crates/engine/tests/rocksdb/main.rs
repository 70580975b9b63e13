//! What only RocksDB must do: outlive the process, refuse damage, and not look at more than it has to.
#![cfg(feature = "rocksdb")]

mod crash;
mod damage;
mod disk;
mod effort;
mod failure;
mod leftovers;
mod refusal;
mod restarts;
mod unpinned;
mod walk;
