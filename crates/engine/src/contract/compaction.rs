//! The versions that a compaction drops, and those that it must keep.

use super::{ALL, Model, all_history, compact, count, delete, history, publish, put, scan, write};
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
    // Two versions in one revision: the tombstone is superseded although it is at the compacted revision.
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
    assert!(engine.compact_step(MANY).unwrap(), "more than one step");
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

/// However far a compaction reaches, the newest version of a live key stays.
pub fn compaction_at_the_greatest_revision_keeps_what_is_alive(engine: &dyn Engine) {
    put(engine, b"once", 1);
    put(engine, b"twice", 2);
    put(engine, b"twice", 3);
    put(engine, b"gone", 4);
    delete(engine, b"gone", 5);
    publish(engine, 5);
    compact(engine, i64::MAX);
    let left: Vec<i64> = all_history(engine).iter().map(|version| version.revision.main).collect();
    assert_eq!((left, scan(engine, ALL, 5, STEP).len()), (vec![1, 3], 2));
}

pub fn compaction_of_everything_leaves_an_engine_that_works(engine: &dyn Engine) {
    let key = |i: i64| format!("key{:05}", i * 7919 % MANY).into_bytes();
    for main in 1..=MANY {
        put(engine, &key(main), main);
    }
    publish(engine, MANY);
    // In another order than they were written, and most but not all of them.
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

/// Versions that an interrupted compaction has left must not come back after a restart.
pub fn compaction_begun_anew_brings_nothing_back(engine: &dyn Engine) {
    put(engine, b"a", 2);
    delete(engine, b"a", 3);
    put(engine, b"b", 4);
    publish(engine, 5);
    engine.compact_step(5).unwrap();
    assert_eq!(count(engine, ALL, 5), 1);
    compact(engine, 5);
    assert_eq!(all_history(engine).len(), 1);
}

/// The later compaction finishes the one that it overtakes.
pub fn compaction_overtakes_another(engine: &dyn Engine) {
    for main in 1..=MANY {
        write(engine, format!("key{}", main % 7).as_bytes(), Revision::new(main, 0), main % 11 == 0);
    }
    publish(engine, MANY);
    let all = all_history(engine);
    assert!(engine.compact_step(MANY / 2).unwrap(), "more than one step");
    assert!(engine.compact_step(MANY - 5).unwrap(), "more than one step");
    compact(engine, MANY - 5);
    let later = all.len() - 5;
    let left = history(engine, Revision::default(), MANY - 5);
    assert!(left.len() <= 7, "one version of each key: {left:?}");
    assert_eq!(history(engine, Revision::new(MANY - 4, 0), MANY), all[later..]);
    // A compaction at an earlier revision has nothing to do.
    let before = all_history(engine);
    compact(engine, MANY / 2);
    assert_eq!(all_history(engine), before);
}

/// Each compaction drops the versions that died since the one before, and the tombstones that that one kept.
pub fn compaction_after_compaction_drops_what_died_since(engine: &dyn Engine) {
    for main in 1..=100 {
        // Each key is written, deleted, and written again.
        write(engine, format!("key{}", main % 10).as_bytes(), Revision::new(main, 0), main / 10 % 3 == 1);
    }
    publish(engine, 100);
    let mut model = Model::default();
    for version in all_history(engine) {
        model.versions.push((format!("key{}", version.revision.main % 10).into_bytes(), version));
    }
    for at in [1, 2, 9, 10, 11, 12, 19, 20, 25, 40, 41, 42, 60, 99, 100] {
        compact(engine, at);
        model.compact(at);
        assert_eq!(all_history(engine), model.history(Revision::default(), i64::MAX), "compacted at {at}");
        assert_eq!(engine.usage(), model.usage(), "compacted at {at}");
        for number in 0..10 {
            let key = format!("key{number}").into_bytes();
            for read in [at, (at + 100) / 2, 100] {
                assert_eq!(engine.newest(&key, read).unwrap().as_ref(), model.newest(&key, read), "at {read}");
            }
        }
        engine.defragment().unwrap();
    }
}

/// The revision at which one compaction ended is the one at which the next begins.
pub fn compaction_drops_nothing_twice(engine: &dyn Engine) {
    put(engine, b"a", 2);
    put(engine, b"b", 3);
    // In one revision: a key that is replaced, a key that is deleted, and a key that is deleted and written again.
    write(engine, b"a", Revision::new(4, 0), false);
    write(engine, b"b", Revision::new(4, 1), true);
    write(engine, b"c", Revision::new(4, 2), false);
    write(engine, b"c", Revision::new(4, 3), true);
    write(engine, b"c", Revision::new(4, 4), false);
    let row = "a=4.0".len() as u64;
    publish(engine, 4);
    compact(engine, 4);
    assert_eq!(engine.usage(), Usage { rows: 3, bytes: 3 * (17 + row) + 1 });
    put(engine, b"d", 5);
    publish(engine, 5);
    for at in [5, 5, 6] {
        compact(engine, at);
        assert_eq!(engine.usage(), Usage { rows: 3, bytes: 3 * (17 + row) }, "compacted at {at}");
    }
    // A tombstone that is replaced in its own revision, below the revision of the compaction.
    write(engine, b"c", Revision::new(7, 0), true);
    write(engine, b"c", Revision::new(7, 1), false);
    publish(engine, 8);
    compact(engine, 8);
    assert_eq!(engine.usage(), Usage { rows: 3, bytes: 3 * (17 + row) });
}
