//! Any bytes as a database of bbolt: refused, or read, and then what was read can be written.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/bbolt/tests/hostile/databases.rs"]
mod databases;

fuzz_target!(|bytes: &[u8]| databases::attempt(bytes));
