//! Any bytes as what another member says: taken, refused, or a reason to stop that a message can be.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the plain tests make the corpus with the rest")]
#[path = "../../crates/server/tests/hostile/messages.rs"]
mod messages;

fuzz_target!(|bytes: &[u8]| messages::attempt(bytes));
