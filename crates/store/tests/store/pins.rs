//! Readers beside compactions: which compactions they hold back, and for how long; and what readers see before a
//! compaction is published.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metastore_engine::Engine;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use metastore_store::command::{Command, Kind};
use metastore_store::mvcc::row::KeyValue;
use metastore_store::mvcc::{HashKv, RangeQuery, RangeReply, ReadError};
use metastore_store::{Outcome, Refusal, Store};

use crate::engines::{Home, Medium};
use crate::entries::{load, snapshot_of};
use crate::watched::Watched;

const KEYS: usize = 600;
/// The longest time for an answer that must not wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

const ALL: RangeQuery<'static> = RangeQuery {
    key: b"k",
    range_end: b"l",
    limit: 0,
    revision: 0,
    order: None,
    target: metastore_store::mvcc::Target::Key,
    keys_only: false,
    count_only: false,
    bounds: metastore_store::mvcc::RevisionBounds { min_mod: 0, max_mod: 0, min_create: 0, max_create: 0 },
};

fn apply(store: &mut Store, kind: Kind, message: &impl metastore_proto::Message) -> Outcome {
    let index = store.applied().index + 1;
    store.apply(index, 1, Command::encode(0, kind, message)).unwrap().expect("an outcome")
}

fn put(store: &mut Store, key: &str) {
    assert!(apply(store, Kind::Put, &PutRequest { key: key.to_owned().into(), ..Default::default() }).reply.is_ok());
}

fn put_all(store: &mut Store) {
    (0..KEYS).for_each(|number| put(store, &format!("key{number:04}")));
    store.publish().unwrap();
}

/// Compacts at the current revision and leaves it unpublished.
fn compact(store: &mut Store) -> i64 {
    let revision = store.revision();
    assert!(apply(store, Kind::Compaction, &CompactionRequest { revision, physical: false }).reply.is_ok());
    revision
}

/// Drops all versions that can be dropped; returns whether the compaction is finished.
fn drop_versions(store: &mut Store) -> bool {
    drop(store.take_compaction_hash());
    while store.compact_step().unwrap() {}
    !store.compacting()
}

/// A store in which every key was written twice.
fn filled(engine: Arc<dyn Engine>) -> Store {
    let mut store = Store::open(engine).unwrap();
    put_all(&mut store);
    put_all(&mut store);
    store
}

fn on_each(check: impl Fn(Store)) {
    for medium in [Medium::Memory, Medium::RocksDb] {
        let home = Home::new(medium);
        check(filled(home.open()));
    }
}

fn is_compacted<T>(read: &Result<T, ReadError>) -> bool {
    matches!(read, Err(ReadError::Refused(Refusal::Compacted)))
}

#[test]
fn a_range_that_is_read_in_pieces_holds_back_no_compaction_and_is_refused_once_its_revision_is_gone() {
    on_each(|mut store| {
        let mut cursor = store.view().cursor(&ALL).unwrap();
        assert_eq!(cursor.next_rows(store.view(), 10).unwrap().len(), 10);
        // The revision of the cursor can still be read after this compaction.
        compact(&mut store);
        store.publish().unwrap();
        assert!(drop_versions(&mut store), "nothing is held back between two pieces");
        assert_eq!(cursor.next_rows(store.view(), 10).unwrap().len(), 10);
        let finished = store.view().cursor(&ALL).unwrap();
        put_all(&mut store);
        compact(&mut store);
        store.publish().unwrap();
        assert!(drop_versions(&mut store));
        assert!(is_compacted(&cursor.next_rows(store.view(), 10)));
        assert!(is_compacted(&cursor.finish(store.view())), "nor can the rest be counted");
        // A cursor that has read nothing yet has no fixed revision that could be compacted.
        let mut late = finished;
        assert_eq!(late.next_rows(store.view(), KEYS).unwrap().len(), KEYS);
        assert_eq!(late.finish(store.view()).unwrap().revision, store.revision());
    });
}

#[test]
fn a_range_that_is_read_in_pieces_goes_on_in_the_state_that_took_the_place_of_its_own() {
    on_each(|mut store| {
        let mut cursor = store.view().cursor(&ALL).unwrap();
        let first = cursor.next_rows(store.view(), 10).unwrap();
        put_all(&mut store);
        let other = Home::new(Medium::Memory);
        load(&snapshot_of(&store), other.open()).unwrap();
        let other = Store::open(other.open()).unwrap();
        drop(store);
        let rest = cursor.next_rows(other.view(), KEYS).unwrap();
        let newest = first.iter().chain(&rest).map(|row| KeyValue::of(row).mod_revision).max();
        assert_eq!((first.len() + rest.len(), newest), (KEYS, Some(1 + 2 * KEYS as i64)), "what was there at first");
    });
}

/// Runs `read` on a thread of its own, and sends its result; a read that never ends keeps only that thread.
fn in_time<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (send, answer) = channel();
    std::thread::spawn(move || _ = send.send(read()));
    answer
}

#[test]
fn readers_wait_for_no_batch_that_compacts() {
    on_each(|mut store| {
        let (before, hash) = (store.view().range(&ALL).unwrap(), store.view().hash_kv(0).unwrap());
        put(&mut store, "key0000");
        let compacted = compact(&mut store);
        put(&mut store, "key0001");
        let view = store.view().clone();
        let answers = in_time(move || {
            let range: RangeReply = view.range(&ALL).unwrap();
            let (_, txn, _) = view.read_txn(&read_txn(0)).unwrap();
            let hash: HashKv = view.hash_kv(0).unwrap();
            (range, txn.succeeded, hash)
        });
        let answers = answers.recv_timeout(PATIENCE);
        // A reader that spins is released before the test fails.
        store.publish().unwrap();
        let (range, _, hashed) = answers.expect("an answer before the batch is published");
        assert_eq!((range, hashed), (before, hash), "the state before the batch");
        assert!(hashed.compact_revision <= hashed.hash_revision);
        assert!(is_compacted(&store.view().range(&RangeQuery { revision: compacted - 1, ..ALL })), "published by now");
        assert_eq!(store.view().hash_kv(0).unwrap().compact_revision, compacted);
    });
}

fn read_txn(revision: i64) -> TxnRequest {
    let range = RangeRequest { key: "key0000".into(), revision, ..Default::default() };
    let op = RequestOp { request: Some(Request::RequestRange(range)) };
    TxnRequest { success: vec![op], ..Default::default() }
}

/// Commands see the compactions before them in the same batch. Otherwise the state would depend on how entries are
/// batched, and members would differ.
#[test]
fn the_writer_sees_a_compaction_before_it_is_published() {
    on_each(|mut store| {
        let compacted = compact(&mut store);
        let again = CompactionRequest { revision: compacted, physical: false };
        assert_eq!(apply(&mut store, Kind::Compaction, &again).reply, Err(Refusal::Compacted));
        let read = |store: &mut Store, revision| apply(store, Kind::Txn, &read_txn(revision)).reply.is_ok();
        assert!(!read(&mut store, compacted - 1) && read(&mut store, compacted));
    });
}

/// HashKV and Hash read the whole history. If each of them held back the compaction in progress, a few clients that
/// repeat the request would hold it back for ever.
#[test]
fn a_hash_that_begins_amid_a_compaction_does_not_hold_it_back() {
    for medium in [Medium::Memory, Medium::RocksDb] {
        let home = Home::new(medium);
        // The number of the history step before which the hash stops; 0 for none.
        let stop_before = Arc::new(AtomicUsize::new(0));
        let ((stopped, stops), (go_on, goes_on)) = (channel(), channel());
        let (goes_on, left) = (Mutex::new(goes_on), stop_before.clone());
        let engine = Watched::new(home.open(), move |call| {
            let counts = call == "history" && left.load(Ordering::SeqCst) > 0;
            if counts && left.fetch_sub(1, Ordering::SeqCst) == 1 {
                stopped.send(()).unwrap();
                goes_on.lock().unwrap().recv().unwrap();
            }
        });
        let mut store = filled(Arc::new(engine));
        compact(&mut store);
        store.publish().unwrap();
        let expected = store.view().hash_kv(0).unwrap();
        stop_before.store(2, Ordering::SeqCst);
        let view = store.view().clone();
        let hash = std::thread::spawn(move || view.hash_kv(0).unwrap());
        stops.recv().unwrap();
        let dropped = drop_versions(&mut store);
        go_on.send(()).unwrap();
        assert_eq!(hash.join().unwrap(), expected, "{medium:?}: it tells nothing of how far the dropping is");
        assert!(dropped, "{medium:?}: the compaction waits for a hash that began after it");
        assert_eq!(store.view().hash_kv(0).unwrap(), expected);
    }
}
