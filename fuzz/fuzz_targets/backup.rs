//! Any bytes as a database of etcd: refused, or taken up, and then it can be written as a database.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/backup/tests/hostile/databases.rs"]
mod databases;

fuzz_target!(|bytes: &[u8]| databases::attempt(bytes));
