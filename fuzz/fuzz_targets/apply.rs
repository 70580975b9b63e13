//! Any bytes as entries of a log: each is applied, refused, or stops the member; nothing panics, nothing is skipped.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/store/tests/store/entries.rs"]
mod entries;

fuzz_target!(|bytes: &[u8]| {
    // Once as a single entry, once as a recipe for many.
    let _ = entries::apply_all(&[bytes.to_vec().into()]);
    let _ = entries::apply_all(&entries::from_bytes(bytes));
});
