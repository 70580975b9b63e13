//! The sizes of the state, now and at most.

use super::{Model, compact, publish, put, write};
use crate::{Engine, HighWaterMark, Revision, Sizes, Table, Usage};

/// The sizes of a state that takes so many pages more than an empty one.
fn sizes(highest: u64, in_use: u64) -> Sizes {
    Sizes { allocated: (5 + highest) * 4096, in_use: (5 + in_use) * 4096 }
}

pub fn the_mark_is_raised_kept_and_lowered(engine: &dyn Engine) {
    assert_eq!(engine.sizes(), sizes(0, 0));
    for main in 1..=2000 {
        put(engine, b"a", main);
    }
    publish(engine, 2000);
    let full = engine.sizes();
    assert!(full.in_use > sizes(0, 15).in_use && full.allocated == full.in_use, "{full:?}");
    engine.begin_compaction(2000);
    compact(engine, 2000);
    let (of_one, kept) = (sizes(1, 1), engine.sizes());
    assert_eq!(kept, Sizes { allocated: full.allocated, ..of_one }, "after a compaction");
    engine.defragment().unwrap();
    engine.set_mark(engine.mark().lowered(engine.usage()));
    assert_eq!(engine.sizes(), of_one);
    put(engine, &[b'k'; 8192], 2001);
    assert_eq!(engine.sizes(), sizes(3, 3), "it is raised again");
}

pub fn a_row_that_is_replaced_raises_the_mark_by_the_difference(engine: &dyn Engine) {
    for _ in 0..3 {
        engine.put(Table::Lease, b"lease", &[0; 40 * 4096]).unwrap();
        assert_eq!(engine.sizes(), sizes(41, 41));
    }
    engine.delete(Table::Lease, b"lease").unwrap();
    assert_eq!(engine.sizes(), sizes(41, 0));
}

/// The mark must come out as if each compaction were done at once. It may depend neither on when versions are dropped,
/// nor on which of several overtaking compactions drops them.
pub fn the_mark_does_not_depend_on_when_versions_are_dropped(engine: &dyn Engine) {
    let (mut model, mut highest, mut revision, mut compacted) = (Model::default(), 0, 0, 0);
    let mut waiting = false;
    for round in 0..200 {
        let choice = |number: i64| mix(round, number);
        match choice(0) % 8 {
            // The revision is not always later than the one before, and not always the newest.
            0 | 1 if revision > compacted => {
                compacted = revision - choice(1) % (revision - compacted).min(100);
                engine.begin_compaction(compacted);
                model.compact(compacted);
                waiting = true;
            }
            2 => {
                let (key, value) = ([choice(2) as u8 % 5], vec![0; choice(3) as usize % 9000]);
                engine.put(Table::Lease, &key, &value).unwrap();
                model.tables.entry(Table::Lease).or_default().insert(key.to_vec(), value);
            }
            3 => {
                let key = [choice(4) as u8 % 5];
                engine.delete(Table::Lease, &key).unwrap();
                model.tables.entry(Table::Lease).or_default().remove(&key[..]);
            }
            _ => {
                for number in 0..choice(5) % 120 {
                    revision += 1;
                    let key = format!("key{}", choice(number + 100) % 50).into_bytes();
                    let version = write(engine, &key, Revision::new(revision, 0), choice(number) % 5 == 0);
                    model.versions.push((key, version));
                }
            }
        }
        let Usage { rows, bytes } = model.usage();
        highest = highest.max(bytes + 16 * rows);
        if choice(6) % 3 == 0 {
            publish(engine, revision);
            waiting = waiting && engine.compact_step(compacted).expect("compact_step");
        }
    }
    publish(engine, revision);
    compact(engine, compacted);
    assert_eq!(engine.usage(), model.usage());
    assert_eq!(engine.mark(), HighWaterMark::from_numbers(&[highest]).expect("one number"));
}

/// A number determined by two numbers.
fn mix(a: i64, b: i64) -> i64 {
    let mixed = (a as u64 * 1_000_003 + b as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33) as i64
}
