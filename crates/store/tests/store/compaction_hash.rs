//! The hash that a compaction leaves behind, computed beside the writer.

use metastore_proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest};
use metastore_store::Store;
use metastore_store::command::{Command, Kind};
use metastore_store::mvcc::CompactionHashJob;

use crate::engines::{Home, Medium};
use crate::entries::bytes_of;

/// More keys than one step of an engine handles.
const KEYS: usize = 1000;

struct Writer {
    store: Store,
    _home: Home,
}

impl Writer {
    fn new(medium: Medium) -> Self {
        let home = Home::new(medium);
        let mut writer = Self { store: Store::open(home.open()).unwrap(), _home: home };
        writer.put_all();
        writer.put_all();
        writer
    }

    fn apply(&mut self, kind: Kind, message: &impl metastore_proto::Message) {
        let index = self.store.applied().index + 1;
        let outcome = self.store.apply(index, 1, Command::encode(0, kind, message)).unwrap();
        assert!(outcome.unwrap().reply.is_ok());
    }

    fn put_all(&mut self) {
        for key in 0..KEYS {
            self.apply(Kind::Put, &PutRequest { key: format!("key{key}").into(), ..Default::default() });
        }
        self.store.publish().unwrap();
    }

    /// Compacts at the current revision; returns it and the job.
    fn compact(&mut self) -> (i64, Option<CompactionHashJob>) {
        let revision = self.store.revision();
        self.apply(Kind::Compaction, &CompactionRequest { revision, physical: false });
        self.store.publish().unwrap();
        (revision, self.store.take_compaction_hash())
    }

    fn drop_versions(&mut self) -> bool {
        while self.store.compact_step().unwrap() {}
        !self.store.compacting()
    }

    /// Whether the hash of a compacted revision is remembered: then it is the hash from before the compaction.
    fn remembers(&mut self, compacted: i64) -> bool {
        let hash = self.store.view().hash_kv(compacted).unwrap();
        hash.compact_revision < compacted
    }
}

fn on_each(check: impl Fn(Writer)) {
    for medium in [Medium::Memory, Medium::RocksDb] {
        check(Writer::new(medium));
    }
}

#[test]
fn the_versions_that_a_compaction_drops_are_counted_without_its_own_notes() {
    on_each(|mut writer| {
        for compactions in 1..=3 {
            let (_, job) = writer.compact();
            drop(job);
            assert!(writer.drop_versions());
            assert_eq!(writer.store.dropped_versions(), compactions * KEYS as u64);
            writer.put_all();
        }
    });
}

#[test]
fn it_is_computed_while_the_writer_goes_on_and_dropping_waits_for_it() {
    on_each(|mut writer| {
        let before = writer.store.view().hash_kv(0).unwrap();
        let (revision, job) = writer.compact();
        assert!(writer.store.take_compaction_hash().is_none(), "there is one job");
        assert!(!writer.drop_versions(), "nothing is dropped that is to be hashed");
        let (job, hashed) = (job.expect("a job"), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                job.run().unwrap();
                hashed.store(true, std::sync::atomic::Ordering::SeqCst);
            });
            writer.put_all();
            while !writer.drop_versions() {
                writer.put_all();
            }
            running.join().unwrap();
        });
        assert!(hashed.into_inner());
        let remembered = writer.store.view().hash_kv(revision).unwrap();
        assert_eq!((remembered.hash, remembered.compact_revision), (before.hash, before.compact_revision));
        assert_eq!((remembered.hash_revision, remembered.revision), (revision, writer.store.revision()));
    });
}

#[test]
fn it_is_not_remembered_before_the_compaction_is_through() {
    on_each(|mut writer| {
        let pin = writer.store.view().pin(2).unwrap();
        let (revision, job) = writer.compact();
        job.unwrap().run().unwrap();
        assert!(!writer.drop_versions() && !writer.remembers(revision));
        drop(pin);
        assert!(writer.drop_versions() && writer.remembers(revision));
    });
}

#[test]
fn a_compaction_goes_on_without_it() {
    on_each(|mut writer| {
        let (revision, job) = writer.compact();
        drop(job);
        assert!(writer.drop_versions(), "a job that was dropped holds nothing back");
        assert!(!writer.remembers(revision));
        writer.apply(Kind::Put, &PutRequest { key: "key".into(), ..Default::default() });
        let revision = writer.store.revision();
        writer.apply(Kind::Compaction, &CompactionRequest { revision, physical: false });
        assert!(writer.store.take_compaction_hash().is_none(), "what is not published cannot be hashed");
        writer.store.publish().unwrap();
        assert!(writer.drop_versions(), "nor does one that nobody took");
        assert!(writer.store.take_compaction_hash().is_none());
        assert!(!writer.remembers(revision));
    });
}

#[test]
fn a_compaction_that_overtakes_another_has_none() {
    on_each(|mut writer| {
        let (first, job) = writer.compact();
        writer.put_all();
        let (second, none) = writer.compact();
        assert!(none.is_none(), "it would depend on how far the first one had got");
        assert!(!writer.drop_versions(), "the first one's job still reads");
        job.unwrap().run().unwrap();
        assert!(writer.drop_versions());
        assert!(writer.store.view().hash_kv(first).is_err() && !writer.remembers(second));
        writer.put_all();
        let (third, job) = writer.compact();
        job.expect("nothing is under way").run().unwrap();
        assert!(writer.drop_versions() && writer.remembers(third));
    });
}

#[test]
fn a_job_outlives_its_store() {
    on_each(|mut writer| {
        let (_, job) = writer.compact();
        drop(writer);
        job.unwrap().run().unwrap();
    });
}

/// Regression: the rows that a snapshot read before and after a compaction step belonged to different states. A key
/// came back with the snapshot if its deletion was dropped in between.
#[test]
fn a_snapshot_that_is_taken_amid_a_compaction_is_of_one_moment() {
    on_each(|mut writer| {
        (0..KEYS).for_each(|key| {
            writer.apply(
                Kind::DeleteRange,
                &DeleteRangeRequest { key: format!("key{key}").into(), ..Default::default() },
            );
        });
        writer.put_all();
        let (_, job) = writer.compact();
        drop(job);
        assert!(writer.store.compact_step().unwrap() && writer.store.compacting(), "more than one step");
        let source = writer.store.snapshot().unwrap();
        let before = bytes_of(&source);
        assert!(writer.drop_versions(), "the snapshot holds nothing back");
        assert!(bytes_of(&source) == before, "what is dropped while it is written was in it from the start");
    });
}
