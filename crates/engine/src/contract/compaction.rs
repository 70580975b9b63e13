//! What a compaction drops, and what it must leave.

use super::{ALL, all_history, compact, count, delete, history, publish, put, scan, write};
use crate::{Engine, Revision, STEP, Usage};
use std::slice::from_ref;

/// More versions than one step visits.
const MANY: i64 = 5 * STEP as i64;

pub fn compaction_drops_superseded_versions(engine: &dyn Engine) {
    put(engine, b"a", 2);
    put(engine, b"b", 3);
    let a = put(engine, b"a", 4);
    let b5 = put(engine, b"b", 5);
    let b6 = put(engine, b"b", 6);
    publish(engine, 6);
    compact(engine, 5);
    assert_eq!(all_history(engine), [a.clone(), b5.clone(), b6.clone()]);
    assert_eq!(scan(engine, ALL, 5, 10), [a.clone(), b5]);
    assert_eq!(scan(engine, ALL, 6, 10), [a, b6]);
    assert_eq!(engine.newest(b"a", 3).unwrap(), None);
}

/// A watcher from the compacted revision must still see the delete.
pub fn compaction_keeps_a_tombstone_at_its_revision(engine: &dyn Engine) {
    put(engine, b"a", 2);
    let tombstone = delete(engine, b"a", 3);
    publish(engine, 4);
    compact(engine, 3);
    assert_eq!(all_history(engine), from_ref(&tombstone));
    assert_eq!(engine.newest(b"a", 3).unwrap(), Some(tombstone));
    assert_eq!(scan(engine, ALL, 3, 10), []);
    compact(engine, 4);
    assert_eq!(all_history(engine), []);
    assert_eq!(engine.newest(b"a", i64::MAX).unwrap(), None);
}

pub fn compaction_drops_older_tombstones_with_their_keys(engine: &dyn Engine) {
    put(engine, b"gone", 2);
    delete(engine, b"gone", 3);
    put(engine, b"reborn", 4);
    delete(engine, b"reborn", 5);
    let reborn = put(engine, b"reborn", 7);
    // Twice in one revision: the tombstone is superseded although it stands at the compacted revision.
    write(engine, b"twice", Revision::new(8, 0), true);
    let twice = write(engine, b"twice", Revision::new(8, 1), false);
    publish(engine, 8);
    compact(engine, 6);
    assert_eq!(history(engine, Revision::default(), 7), from_ref(&reborn));
    compact(engine, 8);
    assert_eq!(all_history(engine), [reborn, twice]);
}

pub fn compaction_is_bounded_and_continues(engine: &dyn Engine) {
    for main in 1..=MANY {
        put(engine, format!("key{}", main % 300).as_bytes(), main);
    }
    publish(engine, MANY);
    let live = scan(engine, ALL, MANY, STEP);
    assert_eq!(live.len(), 300);
    assert!(engine.compact_step(MANY, b"").unwrap().is_some(), "more than one step");
    assert_eq!(scan(engine, ALL, MANY, STEP), live, "half a compaction changes no read");
    assert!(compact(engine, MANY) > 1);
    assert_eq!(scan(engine, ALL, MANY, STEP), live);
    let mut in_order = live;
    in_order.sort_by_key(|version| version.revision);
    assert_eq!(all_history(engine), in_order);
}

pub fn compaction_leaves_later_versions_alone(engine: &dyn Engine) {
    for main in 1..=MANY {
        write(engine, format!("key{}", main % 7).as_bytes(), Revision::new(main, 0), main % 3 == 0);
    }
    publish(engine, MANY);
    let all = all_history(engine);
    let at = MANY / 2;
    compact(engine, at);
    assert_eq!(history(engine, Revision::new(at + 1, 0), i64::MAX), all[at as usize..]);
    compact(engine, at);
    assert_eq!(history(engine, Revision::new(at + 1, 0), i64::MAX), all[at as usize..], "twice is as once");
    compact(engine, 0);
    assert_eq!(history(engine, Revision::new(at + 1, 0), i64::MAX), all[at as usize..], "an older one does nothing");
}

pub fn compaction_of_a_hot_key_leaves_one_version(engine: &dyn Engine) {
    for main in 1..=MANY {
        put(engine, b"hot", main);
    }
    publish(engine, MANY);
    let last = engine.newest(b"hot", MANY).unwrap().expect("written");
    compact(engine, MANY - 1);
    assert_eq!(all_history(engine).len(), 2);
    compact(engine, MANY);
    assert_eq!(all_history(engine), from_ref(&last));
    assert_eq!(scan(engine, ALL, MANY, 10), [last]);
}

pub fn compaction_of_everything_leaves_an_engine_that_works(engine: &dyn Engine) {
    let key = |i: i64| format!("key{:05}", i * 7919 % MANY).into_bytes();
    for main in 1..=MANY {
        put(engine, &key(main), main);
    }
    publish(engine, MANY);
    // In another order than they came, and most but not all of them.
    let survives = |i: i64| i % 50 == 0;
    let mut main = MANY;
    for i in (1..=MANY).rev().filter(|&i| !survives(i)) {
        main += 1;
        delete(engine, &key(i), main);
    }
    publish(engine, main + 1);
    compact(engine, main + 1);
    let left = (1..=MANY).filter(|&i| survives(i)).count();
    assert_eq!((scan(engine, ALL, main, STEP).len(), all_history(engine).len()), (left, left));
    main += 1;
    for i in (1..=MANY).filter(|&i| survives(i)) {
        main += 1;
        delete(engine, &key(i), main);
    }
    publish(engine, main + 1);
    compact(engine, main + 1);
    assert_eq!((engine.usage(), all_history(engine).len()), (Usage::default(), 0));
    main += 1;
    for i in 1..=MANY {
        main += 1;
        put(engine, &key(i), main);
    }
    assert_eq!(scan(engine, ALL, main, STEP).len() as i64, MANY);
    assert_eq!(count(engine, ALL, main) as i64, MANY);
}

/// What a compaction left when a restart interrupted it must not come back.
pub fn compaction_begun_anew_brings_nothing_back(engine: &dyn Engine) {
    put(engine, b"a", 2);
    delete(engine, b"a", 3);
    put(engine, b"b", 4);
    publish(engine, 5);
    engine.compact_step(5, b"").unwrap();
    assert_eq!(count(engine, ALL, 5), 1);
    compact(engine, 5);
    assert_eq!(all_history(engine).len(), 1);
}
