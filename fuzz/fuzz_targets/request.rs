//! Any bytes as what a client asks: refused, or served without stopping the members.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the plain tests make the corpus with the rest")]
#[path = "../../crates/server/tests/hostile/requests.rs"]
mod requests;

fuzz_target!(|bytes: &[u8]| requests::attempt(bytes));
