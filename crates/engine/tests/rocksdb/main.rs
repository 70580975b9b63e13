//! Rules for RocksDB only: it outlives the process, refuses damaged files, and reads no more than it must.
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
