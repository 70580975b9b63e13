//! One writer, several readers.

use super::{ALL, all_history, publish, scan};
use crate::{Engine, Revision, STEP, Version};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// The number of keys that each revision writes; more than a step, so that every scan is interrupted.
const KEYS: usize = STEP + 10;

/// The number of revisions written, and of those between two compactions.
const REVISIONS: i64 = 300;
const COMPACT_EVERY: i64 = 20;

/// How long the writer waits for the slowest reader before the test fails.
const DEADLINE: Duration = Duration::from_secs(60);

const READERS: usize = 3;

/// Each revision writes its number to every key. A reader at a published revision must find that number in every key,
/// while the writer continues and old revisions are compacted.
pub fn readers_see_whole_revisions(engine: &dyn Engine) {
    // The revisions at which readers read. Compactions stay below them, as the state machine guarantees.
    let pins: [AtomicI64; READERS] = std::array::from_fn(|_| AtomicI64::new(0));
    write(engine, 1);
    std::thread::scope(|threads| {
        for pin in &pins {
            threads.spawn(move || {
                while read(engine, pin) < REVISIONS {}
                pin.store(i64::MAX, Ordering::SeqCst);
            });
        }
        for revision in 2..=REVISIONS {
            write(engine, revision);
            if revision % COMPACT_EVERY == 0 {
                super::compact(engine, wait_for_readers(&pins, revision - COMPACT_EVERY));
            }
        }
    });
    super::compact(engine, REVISIONS);
    assert_eq!(all_history(engine).len(), KEYS);
}

/// Waits until every reader is at `revision` or later. Returns the least revision of all readers.
fn wait_for_readers(pins: &[AtomicI64], revision: i64) -> i64 {
    let begun = Instant::now();
    loop {
        let least = pins.iter().map(|pin| pin.load(Ordering::SeqCst)).min().unwrap_or_default();
        if least >= revision {
            return least;
        }
        assert!(begun.elapsed() < DEADLINE, "a reader is still at revision {least}, before {revision}");
        std::thread::yield_now();
    }
}

fn write(engine: &dyn Engine, main: i64) {
    for sub in 0..KEYS {
        let row = main.to_be_bytes().as_slice().into();
        let version = Version { revision: Revision::new(main, sub as i64), tombstone: false, row };
        engine.append(format!("key{sub:04}").as_bytes(), version).expect("append");
    }
    publish(engine, main);
}

/// Reads every key at the published revision, and returns that revision.
fn read(engine: &dyn Engine, pin: &AtomicI64) -> i64 {
    let at = engine.published().revision;
    pin.store(at, Ordering::SeqCst);
    let rows = scan(engine, ALL, at, usize::MAX);
    assert_eq!(rows.len(), KEYS, "keys at revision {at}");
    for row in rows {
        assert_eq!((row.revision.main, &*row.row), (at, at.to_be_bytes().as_slice()), "read at revision {at}");
    }
    at
}
