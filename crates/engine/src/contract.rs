//! The rules for every engine, as tests that any engine can run.
//!
//! ```text
//!   writing.rs      one function per rule of the trait, each on an empty engine: writing, ...
//!   reading.rs      ... reading, ...
//!   compaction.rs   ... dropping versions, ...
//!   medium.rs       ... flushing, freezing and giving space back
//!   sizes.rs        ... and the sizes of the state, now and at most
//!   sizes.rs        ... and how large all that is, and was
//!   random.rs       random operations, compared call by call with ...
//!   model.rs        ... a list of everything that was ever written
//!   concurrent.rs   one writer, several readers, no torn revision
//!   mirror.rs       an engine that makes every call on two engines and compares them
//!   scratch.rs      directories, and engines in them, that are removed after use
//! ```
//!
//! An engine's test file has one line, [`crate::contract_suite!`], with an expression that makes an empty engine, and
//! the number of random cases:
//!
//! ```text
//! metastore_engine::contract_suite!(Arc::new(metastore_engine::Memory::new()), 96);
//! ```
//!
//! Deliberately absent: restarts and crashes. Only some engines outlive the process; these test it themselves.

mod compaction;
mod concurrent;
mod medium;
mod mirror;
mod model;
mod random;
mod reading;
mod scratch;
mod sizes;
mod writing;

pub use compaction::*;
pub use concurrent::readers_see_whole_revisions;
pub use medium::*;
pub use mirror::Mirror;
pub use model::Model;
pub use random::agrees_with_the_model;
pub use reading::*;
pub use scratch::Scratch;
#[cfg(feature = "rocksdb")]
pub use scratch::scratch_rocksdb;
pub use sizes::*;
pub use writing::*;

use crate::{Applied, Engine, KeyRange, Published, Revision, Row, STEP, Table, Version};

/// Makes one test per rule. See [`crate::contract`].
#[macro_export]
macro_rules! contract_suite {
    ($make:expr, $cases:expr) => {
        $crate::contract_suite!(@rules $make;
            nothing_is_stored_at_first,
            publish_is_read_back,
            append_is_visible_to_the_writer_at_once,
            newest_is_read_at_a_revision,
            revisions_inside_a_transaction_are_ordered,
            rows_are_stored_as_they_are,
            scan_returns_live_keys_in_order,
            scan_reads_at_a_revision,
            scan_respects_the_range,
            scan_stops_at_the_limit_and_continues,
            scan_appends_to_the_rows_it_is_given,
            scan_is_bounded_on_live_keys,
            scan_is_bounded_on_dead_keys,
            scan_continues_at_its_revision_while_keys_come_and_go,
            count_equals_scan,
            count_continues_over_many_keys,
            history_is_ordered_and_bounded,
            history_ends_at_its_last_revision,
            compaction_drops_superseded_versions,
            compaction_keeps_a_tombstone_at_its_revision,
            compaction_drops_older_tombstones_with_their_keys,
            compaction_is_bounded_and_continues,
            compaction_leaves_later_versions_alone,
            compaction_of_a_hot_key_leaves_one_version,
            compaction_at_the_greatest_revision_keeps_what_is_alive,
            compaction_of_everything_leaves_an_engine_that_works,
            compaction_begun_anew_brings_nothing_back,
            compaction_overtakes_another,
            compaction_after_compaction_drops_what_died_since,
            compaction_drops_nothing_twice,
            tables_are_apart,
            table_rows_are_in_key_order,
            table_rows_are_read_by_prefix,
            keys_of_rows_come_step_by_step,
            keys_of_leases_are_apart_and_not_counted,
            usage_counts_versions_and_table_rows,
            revisions_must_ascend,
            flush_returns_what_is_published,
            checkpoint_is_frozen,
            checkpoint_is_not_written,
            defragment_changes_no_answer,
            the_mark_is_raised_kept_and_lowered,
            a_row_that_is_replaced_raises_the_mark_by_the_difference,
            the_mark_does_not_depend_on_when_versions_are_dropped,
        );

        #[test]
        fn random_operations_agree_with_the_model() {
            $crate::contract::agrees_with_the_model($cases, &|| $make);
        }

        #[test]
        fn readers_see_whole_revisions() {
            let engine: std::sync::Arc<dyn $crate::Engine> = $make;
            $crate::contract::readers_see_whole_revisions(&*engine);
        }
    };
    (@rules $make:expr; $($rule:ident,)+) => {
        $(
            #[test]
            fn $rule() {
                let engine: std::sync::Arc<dyn $crate::Engine> = $make;
                $crate::contract::$rule(&*engine);
            }
        )+
    };
}

/// All keys.
const ALL: KeyRange<'static> = KeyRange { start: b"", end: None };

/// A row that no other version has.
fn row(key: &[u8], revision: Revision) -> Row {
    [key, format!("={}.{}", revision.main, revision.sub).as_bytes()].concat().into()
}

/// A version of `key` with a row of its own.
fn version(key: &[u8], revision: Revision, tombstone: bool) -> Version {
    Version { revision, tombstone, row: row(key, revision) }
}

fn put(engine: &dyn Engine, key: &[u8], main: i64) -> Version {
    write(engine, key, Revision::new(main, 0), false)
}

fn delete(engine: &dyn Engine, key: &[u8], main: i64) -> Version {
    write(engine, key, Revision::new(main, 0), true)
}

fn write(engine: &dyn Engine, key: &[u8], revision: Revision, tombstone: bool) -> Version {
    let version = version(key, revision, tombstone);
    engine.append(key, version.clone()).expect("append");
    version
}

fn publish(engine: &dyn Engine, revision: i64) {
    let applied = Applied { index: revision.unsigned_abs(), term: 1 };
    engine.publish(Published { revision, applied }).expect("publish");
}

/// A whole scan with `limit` rows per call.
fn scan(engine: &dyn Engine, range: KeyRange<'_>, at: i64, limit: usize) -> Vec<Version> {
    let mut rows = Vec::new();
    let mut start = range.start.to_vec();
    loop {
        let before = rows.len();
        let next = engine.scan(KeyRange { start: &start, ..range }, at, limit, &mut rows).expect("scan");
        assert!(rows.len() - before <= limit, "a scan with limit {limit} added {} rows", rows.len() - before);
        match next {
            Some(next) => {
                assert!(next > start || before == rows.len(), "a scan from {start:?} continues at {next:?}");
                start = next;
            }
            None => return rows,
        }
    }
}

/// The keys of rows of a table, from `from` on, step by step to the end.
fn row_keys(engine: &dyn Engine, table: Table, prefix: &[u8], from: &[u8]) -> Vec<Vec<u8>> {
    let (mut keys, mut next) = (Vec::new(), Some(from.to_vec()));
    while let Some(from) = next {
        let old = keys.len();
        next = engine.row_keys(table, prefix, &from, &mut keys).expect("keys of rows");
        assert!(keys.len() - old <= STEP, "a step is bounded");
        assert!(next.as_ref().is_none_or(|next| *next > from), "a step goes on");
    }
    keys
}

/// A whole count.
fn count(engine: &dyn Engine, range: KeyRange<'_>, at: i64) -> u64 {
    let mut count = 0;
    let mut start = range.start.to_vec();
    while let Some(next) = engine.count(KeyRange { start: &start, ..range }, at, &mut count).expect("count") {
        assert!(next > start, "a count from {start:?} continues at {next:?}");
        start = next;
    }
    count
}

/// All stored versions with `from <= revision` and `main <= to`.
fn history(engine: &dyn Engine, mut from: Revision, to: i64) -> Vec<Version> {
    let mut rows = Vec::new();
    while let Some(next) = engine.history(from, to, &mut rows).expect("history") {
        assert!(next > from, "history from {from:?} continues at {next:?}");
        from = next;
    }
    rows
}

fn all_history(engine: &dyn Engine) -> Vec<Version> {
    history(engine, Revision::default(), i64::MAX)
}

/// A whole compaction; returns its number of steps.
fn compact(engine: &dyn Engine, at: i64) -> usize {
    let mut steps = 1;
    while engine.compact_step(at).expect("compact_step") {
        steps += 1;
    }
    steps
}
