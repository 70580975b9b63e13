//! Dropping versions, and giving their space back.

use rocksdb::properties::BACKGROUND_ERRORS;
use rocksdb::{BottommostLevelCompaction, CompactOptions, ReadOptions, WriteBatch};

use super::RocksDb;
use super::layout::{CURRENT, REVISIONS, SUPERSEDED, TABLES, parse_superseded, revision_key};
use super::reading::item;
use crate::{Engine, Result, STEP, Usage};

impl RocksDb {
    /// Looks at a step of superseded versions and deletes those that are dead at `at`.
    pub(super) fn drop_superseded(&self, at: i64, from: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut pending = self.writer()?;
        assert!(
            pending.written == 0,
            "{} keys are written and not published while versions are dropped",
            pending.written
        );
        // What the writer asked for may be what goes.
        pending.keys.clear();
        // Rows of tables may be pending: they wait for their own applied index.
        let (mut batch, mut gone) = (WriteBatch::default(), Usage::default());
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        let mut superseded = self.db.raw_iterator_cf_opt(self.family(SUPERSEDED), options);
        superseded.seek(from);
        let mut next = None;
        for visited in 0.. {
            let Some((stored_key, value)) = item(self, &superseded)? else { break };
            if visited == STEP {
                next = Some(stored_key.to_vec());
                break;
            }
            let (key, version) = parse_superseded(stored_key, value)?;
            if version.dead <= at {
                let revision = version.stamp.revision;
                batch.delete_cf(self.family(SUPERSEDED), stored_key);
                batch.delete_cf(self.family(REVISIONS), revision_key(revision));
                // A tombstone goes while it is its key's newest version.
                if version.stamp.tombstone && self.current_stamp(key)?.is_some_and(|now| now.revision == revision) {
                    batch.delete_cf(self.family(CURRENT), key);
                }
                let Usage { rows, bytes } = version.stamp.usage();
                gone.rows += rows;
                gone.bytes += bytes;
            }
            superseded.next();
        }
        if !batch.is_empty() {
            let Usage { rows, bytes } = pending.published_usage;
            let left = Usage { rows: rows - gone.rows, bytes: bytes - gone.bytes };
            self.write(&mut pending, batch, self.published(), left)?;
            self.stored.remove(gone);
        }
        Ok(next)
    }

    /// Rewrites all files, so that nothing deleted takes space.
    pub(super) fn compact_files(&self) -> Result<()> {
        self.flush_all()?;
        let mut options = CompactOptions::default();
        // The files that RocksDB rewrites by itself meanwhile need not wait.
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        let errors = self.whole(BACKGROUND_ERRORS);
        for name in [CURRENT, REVISIONS, SUPERSEDED, TABLES] {
            // The crate does not say whether it failed.
            self.db.compact_range_cf_opt(self.family(name), None::<&[u8]>, None::<&[u8]>, &options);
        }
        if self.whole(BACKGROUND_ERRORS) > errors {
            let why = "files could not be rewritten; RocksDB's own notes (LOG in this directory) say why";
            return Err(self.failed(&why));
        }
        Ok(())
    }
}
