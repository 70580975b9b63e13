//! The state as a stream: the same bytes from every engine, taken while the writer continues, refused if incomplete.

use std::sync::Arc;

use bytes::Bytes;
use metastore_engine::{Applied, Engine, Memory, Published, Revision, Table, Version};
use metastore_proto::etcdserverpb::{CompactionRequest, LeaseGrantRequest, PutRequest};
use metastore_store::Store;
use metastore_store::command::{Command, Kind};
use metastore_store::mvcc::row::KeyValue;
use proptest::prelude::*;

use crate::engines::{Home, Medium, cases_on_disk};
use crate::entries::{bytes_of, load, snapshot_of};
use crate::model::{Pair, steps};

/// More keys than one engine step handles, and more than one stream block holds.
const KEYS: usize = 1500;
const VALUE_BYTES: usize = 300;

proptest! {
    #![proptest_config(cases_on_disk())]

    #[test]
    fn a_state_goes_from_engine_to_engine_and_back(steps in steps()) {
        let mut pair = Pair::new(Medium::Memory);
        for step in &steps {
            pair.run(step)?;
        }
        let written = snapshot_of(&pair.store);
        let (mut homes, mut passed) = (Vec::new(), written.clone());
        for medium in [Medium::RocksDb, Medium::Memory] {
            homes.push(Home::new(medium));
            let engine = homes[homes.len() - 1].open();
            load(&passed, engine.clone()).unwrap();
            let store = Store::open(engine).unwrap();
            passed = snapshot_of(&store);
            prop_assert!(passed == written, "{:?}", medium);
            prop_assert_eq!(store.view().hash().unwrap(), pair.store.view().hash().unwrap());
            prop_assert_eq!(store.view().engine().usage(), pair.store.view().engine().usage());
            for id in store.leases().ids() {
                prop_assert_eq!(store.lease_keys(id).unwrap(), pair.store.lease_keys(id).unwrap());
            }
            prop_assert!(bytes_of(&store.view().freeze().unwrap()) == written, "frozen");
        }
    }
}

/// A store, and the index of its last entry.
struct Writer {
    store: Store,
    index: u64,
}

impl Writer {
    fn new(engine: Arc<dyn Engine>) -> Self {
        Self { store: Store::open(engine).unwrap(), index: 0 }
    }

    fn apply(&mut self, entry: Bytes) {
        self.index += 1;
        assert!(self.store.apply(self.index, 1, entry).unwrap().unwrap().reply.is_ok());
    }

    /// Writes every key once; every third key is attached to a lease.
    fn put_all(&mut self, value: u8) {
        for key in 0..KEYS {
            let (key, value) = (format!("key{key:06}").into(), vec![value; VALUE_BYTES].into());
            let lease = i64::from(self.index.is_multiple_of(3));
            self.apply(Command::encode(0, Kind::Put, &PutRequest { key, value, lease, ..Default::default() }));
        }
        self.store.publish().unwrap();
    }

    fn grant(&mut self) {
        self.apply(Command::encode(0, Kind::LeaseGrant, &LeaseGrantRequest { id: 1, ttl: 60 }));
        self.store.publish().unwrap();
    }

    fn compact(&mut self) {
        let request = CompactionRequest { revision: self.store.revision(), physical: false };
        self.apply(Command::encode(0, Kind::Compaction, &request));
        self.store.publish().unwrap();
    }

    /// Drops all versions that can be dropped; returns whether the compaction is finished.
    fn drop_versions(&mut self) -> bool {
        while self.store.compact_step().unwrap() {}
        !self.store.compacting()
    }
}

fn written(medium: Medium) -> (Home, Writer, Vec<u8>) {
    let home = Home::new(medium);
    let mut writer = Writer::new(home.open());
    writer.grant();
    writer.put_all(b'1');
    writer.put_all(b'2');
    let before = snapshot_of(&writer.store);
    (home, writer, before)
}

fn go_on(writer: &mut Writer) {
    writer.put_all(b'3');
    writer.compact();
    writer.put_all(b'4');
}

#[test]
fn a_source_is_not_moved_by_the_writer_and_holds_nothing_back() {
    for medium in [Medium::Memory, Medium::RocksDb] {
        let (_home, mut writer, before) = written(medium);
        let source = writer.store.snapshot().unwrap();
        assert_eq!(source.applied(), writer.store.applied());
        go_on(&mut writer);
        assert!(writer.drop_versions(), "{medium:?}: old versions wait for the source");
        assert!(bytes_of(&source) == before, "{medium:?}");
        // The source does not need the store that it was taken from.
        drop(writer);
        assert!(bytes_of(&source) == before, "{medium:?}");
    }
}

#[test]
fn a_frozen_source_holds_nothing_back() {
    let (home, mut writer, before) = written(Medium::RocksDb);
    let source = writer.store.view().freeze().unwrap();
    assert_eq!(source.applied(), writer.store.applied());
    go_on(&mut writer);
    assert!(writer.drop_versions(), "nobody reads the past");
    assert!(bytes_of(&source) == before);
    // The source does not need the engine that it was taken from.
    drop((writer, home));
    assert!(bytes_of(&source) == before);
}

#[test]
fn a_state_is_loaded_in_pieces_and_is_none_before_its_end() {
    for medium in [Medium::Memory, Medium::RocksDb] {
        let (_home, _, stream) = written(medium);
        let empty = Home::new(medium);
        let error = load(&stream[..stream.len() - 1], empty.open()).unwrap_err();
        assert!(error.to_string().contains("ends too early"), "{medium:?}: {error}");
        let engine = empty.open();
        assert!(engine.published().revision > KEYS as i64, "{medium:?}: the engine was handed what was read");
        let refused = Store::open(engine).err().expect("it is no state").to_string();
        assert!(refused.contains("not loaded to its end"), "{medium:?}: {refused}");
    }
}

/// The stream of an engine's content, whatever it is.
fn stream_of(fill: impl FnOnce(&dyn Engine)) -> Vec<u8> {
    let engine: Arc<dyn Engine> = Arc::new(Memory::new());
    let store = Store::open(engine.clone()).unwrap();
    fill(engine.as_ref());
    snapshot_of(&store)
}

fn append(engine: &dyn Engine, main: i64, published: i64, lease: i64) {
    let row =
        KeyValue { key: b"k\xff", create_revision: main, mod_revision: main, version: 1, value: b"", lease }.to_row();
    engine.append(b"k\xff", Version { revision: Revision::new(main, 0), tombstone: false, row }).unwrap();
    let applied = Applied { index: 9, term: 1 };
    engine.publish(Published { revision: published, applied }).unwrap();
}

fn refusal_of(stream: &[u8]) -> String {
    load(stream, Arc::new(Memory::new())).unwrap_err().to_string()
}

#[test]
fn a_key_on_a_lease_that_is_not_there_is_refused() {
    let sound = stream_of(|engine| append(engine, 2, 2, 0));
    load(&sound, Arc::new(Memory::new())).unwrap();
    let damaged = stream_of(|engine| append(engine, 2, 2, 7));
    assert_eq!(refusal_of(&damaged), r"key k\xff is attached to lease 0000000000000007, which is not there");
    let no_lease = stream_of(|engine| {
        append(engine, 2, 2, 7);
        engine.put(Table::Lease, &7i64.to_be_bytes(), b"\xff").unwrap();
    });
    assert!(refusal_of(&no_lease).contains("is not a lease"));
}

/// A source never writes such revisions, but a stream may be a file from any origin.
#[test]
fn revisions_that_no_store_could_have_are_refused() {
    let zero = stream_of(|engine| append(engine, 0, 2, 0));
    assert!(refusal_of(&zero).starts_with("revision 0.0 after 0."));
    let mut twice = stream_of(|engine| {
        append(engine, 2, 3, 0);
        append(engine, 3, 3, 0);
    });
    // Overwrites the second version's revision key with the first one's, then corrects the checksum of the block.
    let (first, second) = (position(&twice, &2i64.to_be_bytes()), position(&twice, &3i64.to_be_bytes()));
    assert!(first < second);
    twice[second + 7] = 2;
    let block = 36;
    let length = u32::from_le_bytes(twice[block..block + 4].try_into().unwrap()) as usize;
    let crc = crc32c::crc32c(&twice[block + 8..block + 8 + length]);
    twice[block + 4..block + 8].copy_from_slice(&crc.to_le_bytes());
    assert!(refusal_of(&twice).starts_with("revision 2.0 after 2.0"), "{}", refusal_of(&twice));
}

fn position(of: &[u8], bytes: &[u8]) -> usize {
    let header = 36;
    header + of[header..].windows(bytes.len()).position(|window| window == bytes).expect("it is there")
}
