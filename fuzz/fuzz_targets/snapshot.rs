//! Any bytes as a state that another member sends, and as the files of a snapshot: refused, or lived with.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the plain tests make the corpus with the rest")]
#[path = "../../crates/replica/tests/hostile/states.rs"]
mod states;

fuzz_target!(|bytes: &[u8]| states::attempt(bytes));
