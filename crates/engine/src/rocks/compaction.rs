//! Dropping versions in the order of their deaths, and giving their space back.
//!
//! ```text
//!   revisions      2 a   3 b   4 a   5 b✝  6 c   7 a   8 c   9 d✝
//!                  ───── what dies is here ──── ▲            ▲
//!                  2, by 4; 3, by 5;            next: by 7   at
//!                  5, by itself                 dies 4
//! ```
//!
//! A version dies by the one that replaced it, so each version names the one it replaced, and a walk over the revisions meets
//! the deaths in their order. What it drops is older than where it stands. RocksDB marks what is deleted, and passing such marks
//! takes as long as passing rows; but none lie ahead of the walk, however many it has left behind.
//!
//! A tombstone dies by itself, after its own revision: one at the very revision of a compaction stays until the next, which
//! therefore begins at that revision once more. Other deaths there are past.

use std::sync::atomic::Ordering;

use rocksdb::properties::BACKGROUND_ERRORS;
use rocksdb::{BottommostLevelCompaction, CompactOptions, ReadOptions, WriteBatch};

use super::RocksDb;
use super::layout::{
    CURRENT, REVISIONS, SUPERSEDED, Stamp, State, TABLES, Walk, Written, parse_revision, parse_revision_key,
    revision_key,
};
use super::reading::item;
use crate::{Result, Revision, STEP, Usage};

/// Bytes of versions that a step reads at most, and one version more.
const STEP_BYTES: usize = 1 << 20;

/// What one step drops.
#[derive(Default)]
struct Dropped {
    batch: WriteBatch,
    usage: Usage,
}

impl Walk {
    fn is_under_way(&self) -> bool {
        self.at > self.done
    }

    /// Goes on, or begins if none is under way. `None` if a former one came as far.
    fn towards(self, at: i64) -> Option<Self> {
        if self.is_under_way() {
            return Some(self);
        }
        (at > self.done).then_some(Self { at, next: Revision::new(self.done, 0), ..self })
    }

    /// Whether what was replaced at a main revision is still to be dropped; it is not if it is a tombstone that dies by itself.
    fn drops_replaced(&self, replaced: Stamp, main: i64) -> bool {
        main > self.done && !(replaced.tombstone && self.drops_tombstone(replaced.revision))
    }

    fn drops_tombstone(&self, revision: Revision) -> bool {
        revision.main < self.at
    }
}

impl RocksDb {
    /// Goes a step of the walk, and says whether there is more to do. A walk that was begun at another revision is finished first.
    pub(super) fn drop_dead(&self, at: i64) -> Result<bool> {
        let mut pending = self.writer()?;
        assert!(
            pending.written == 0,
            "{} keys are written and not published while versions are dropped",
            pending.written
        );
        // What the writer asked for may be what goes.
        pending.keys.clear();
        let state = pending.state;
        let Some(mut walk) = state.walk.towards(at) else { return Ok(false) };
        // Readers who miss a version are to know why.
        self.dropping.fetch_max(walk.at, Ordering::Release);
        let mut dropped = Dropped::default();
        let reached = walk.at;
        match self.walk(walk, &mut dropped)? {
            Some(next) => walk.next = next,
            // There is nothing between what is published and a later revision.
            None => {
                walk.done = walk.at.min(state.published.revision);
                walk.at = walk.done;
            }
        }
        // Rows of tables may be pending: they wait for their own applied index.
        let Usage { rows, bytes } = state.usage;
        let usage = Usage { rows: rows - dropped.usage.rows, bytes: bytes - dropped.usage.bytes };
        self.write(&mut pending, dropped.batch, State { usage, walk, ..state })?;
        self.stored.remove(dropped.usage);
        Ok(walk.is_under_way() || reached < at)
    }

    /// Looks at a step of the revisions and collects what dies there. Returns where the next step begins.
    fn walk(&self, walk: Walk, dropped: &mut Dropped) -> Result<Option<Revision>> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(revision_key(Revision::new(walk.at.saturating_add(1), 0)));
        // It is read once: the cache is for others.
        options.fill_cache(false);
        let mut revisions = self.db.raw_iterator_cf_opt(self.family(REVISIONS), options);
        revisions.seek(revision_key(walk.next));
        let (mut visited, mut bytes) = (0, 0);
        while let Some((key, value)) = item(self, &revisions)? {
            let revision = parse_revision_key(key)?;
            if visited == STEP || bytes >= STEP_BYTES {
                return Ok(Some(revision));
            }
            visited += 1;
            bytes += value.len();
            self.drop_at(walk, revision, parse_revision(value)?, dropped)?;
            revisions.next();
        }
        Ok(None)
    }

    /// Drops what dies at one version.
    fn drop_at(&self, walk: Walk, revision: Revision, written: Written<'_>, dropped: &mut Dropped) -> Result<()> {
        if let Some(replaced) = written.replaced.filter(|&replaced| walk.drops_replaced(replaced, revision.main)) {
            self.drop_version(replaced, dropped);
        }
        if let Some(key) = written.deleted.filter(|_| walk.drops_tombstone(revision)) {
            let stamp = Stamp { revision, tombstone: true, row_bytes: written.row.len() as u32 };
            self.drop_version(stamp, dropped);
            // It may be its key's newest version.
            if self.current_stamp(key)? == Some(stamp) {
                dropped.batch.delete_cf(self.family(CURRENT), key);
            }
        }
        Ok(())
    }

    fn drop_version(&self, stamp: Stamp, dropped: &mut Dropped) {
        dropped.batch.delete_cf(self.family(REVISIONS), revision_key(stamp.revision));
        let Usage { rows, bytes } = stamp.usage();
        dropped.usage.rows += rows;
        dropped.usage.bytes += bytes;
    }

    /// Rewrites all files, so that nothing deleted takes space.
    pub(super) fn compact_files(&self) -> Result<()> {
        // What is dead is left out if its death is durable.
        self.flush_all()?;
        let errors = self.whole(BACKGROUND_ERRORS);
        for name in [CURRENT, REVISIONS, SUPERSEDED, TABLES] {
            self.rewrite(name);
        }
        if self.whole(BACKGROUND_ERRORS) > errors {
            let why = "files could not be rewritten; RocksDB's own notes (LOG in this directory) say why";
            return Err(self.failed(&why));
        }
        Ok(())
    }

    /// Rewrites the files of a family. The crate does not say whether it failed.
    fn rewrite(&self, family: &str) {
        let mut options = CompactOptions::default();
        // The files that RocksDB rewrites by itself meanwhile need not wait.
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.db.compact_range_cf_opt(self.family(family), None::<&[u8]>, None::<&[u8]>, &options);
    }

    /// Rewrites the files of superseded versions without flushing first, as RocksDB may at any time.
    #[cfg(any(test, feature = "contract"))]
    pub fn rewrite_superseded(&self) {
        self.rewrite(SUPERSEDED);
    }
}
