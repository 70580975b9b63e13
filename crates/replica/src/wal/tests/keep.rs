//! Reading a log whose state is newer than its last snapshot: the entries that are kept in memory.

use proptest::prelude::*;

use super::*;

fn read(disk: &SimulatedDisk, keep: Keep) -> Replay {
    Wal::read(SMALL, Arc::new(disk.clone()), &dir(), (0, 0), keep).unwrap().1
}

fn indexes(replay: &Replay) -> Vec<u64> {
    replay.entries.iter().map(|entry| entry.index).collect()
}

#[test]
fn the_newest_applied_entries_are_kept_and_all_that_are_not_applied() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    for i in 1..=30 {
        wal.append(Some(&hard_state(i, 1, i - 1)), [entry(i, i, data(100, i))], true).unwrap();
    }
    let keep = |applied, entries, bytes| read(&disk, Keep { applied, entries, bytes });
    let whole = keep(0, 0, 0);
    assert_eq!((whole.before, indexes(&whole)), ((0, 0), (1..=30).collect()));
    let some = keep(20, 14, usize::MAX);
    assert_eq!((some.before, indexes(&some)), ((16, 16), (17..=30).collect()));
    assert_eq!((some.term(15), some.term(16), some.term(20), some.term(31)), (None, Some(16), Some(20), None));
    assert_eq!((some.last_index(), some.log_bytes), (30, whole.log_bytes));
    let few = keep(20, usize::MAX, 550);
    assert_eq!((few.before, indexes(&few)), ((20, 20), (21..=30).collect()), "what is not applied is kept in any case");
    assert_eq!(indexes(&keep(30, usize::MAX, 550)), (26..=30).collect::<Vec<_>>());
    let none = keep(30, 0, 0);
    assert_eq!((none.before, none.entries.len(), none.last_index()), ((30, 30), 0, 30));
}

proptest! {
    /// The kept entries are the last ones of the log, also where entries were replaced.
    #[test]
    fn what_is_kept_is_the_end_of_the_log(
        batches in proptest::collection::vec((0u64..4, 1u64..4), 1..40),
        entries in 0usize..8,
        bytes in 0usize..600,
        back in 0u64..10,
    ) {
        let disk = new_disk();
        let mut wal = create(&disk).unwrap();
        for (term, (replaced, added)) in (1..).zip(batches) {
            let from = wal.last_index().saturating_sub(replaced) + 1;
            let batch = (from..from + added).map(|i| entry(i, term, data(70, i + term)));
            wal.append(Some(&hard_state(term, 1, 0)), batch, true).unwrap();
        }
        let whole = read(&disk, Keep::ALL);
        let applied = whole.last_index().saturating_sub(back);
        let kept = read(&disk, Keep { applied, entries, bytes });
        prop_assert_eq!(kept.last_index(), whole.last_index());
        prop_assert_eq!(kept.log_bytes, whole.log_bytes);
        prop_assert!(whole.entries.ends_with(&kept.entries));
        prop_assert!(kept.before.0 <= applied);
        prop_assert_eq!(Some(kept.before.1), whole.term(kept.before.0));
        let size: usize = kept.entries.iter().map(|entry| entry.data.len()).sum();
        let fits = kept.entries.len() <= entries && size <= bytes;
        prop_assert!(fits || kept.before.0 == applied);
    }
}
