//! The names that tell two processes, and two data directories, apart: random numbers.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

/// The name of this process: random, the same until it ends.
pub fn process() -> &'static str {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        // The keys of the standard library's maps come from the system's random numbers.
        format!("{:016x}", RandomState::new().build_hasher().finish())
    });
    &NAME
}

/// The name of a new data directory.
pub fn new_directory() -> u64 {
    // As above.
    RandomState::new().build_hasher().finish()
}
