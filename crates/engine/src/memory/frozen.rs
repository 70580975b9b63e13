//! A frozen copy of the state.

use std::sync::{Arc, OnceLock};

use super::history::{Entry, History};
use super::index::Index;
use super::versions::Stored;
use super::{Tables, row_keys_of, rows_of};
use crate::{
    Applied, Engine, EngineError, HighWaterMark, KeyRange, Published, Result, Revision, Statistic, Steps, Table, Usage,
    Version,
};

/// The published state at one moment. Versions are shared with the original state, tables are copied.
pub(super) struct Frozen {
    pub(super) steps: Steps,
    pub(super) history: History,
    pub(super) tables: Tables,
    pub(super) published: Published,
    pub(super) usage: Usage,
    pub(super) mark: HighWaterMark,
    /// Built at the first lookup of a key: writing the state to a stream reads only the history.
    pub(super) index: OnceLock<Index>,
}

impl Frozen {
    fn index(&self) -> &Index {
        self.index.get_or_init(|| {
            let mut index = Index::default();
            for Entry { key, stored } in self.history.up_to(self.published.revision) {
                index.append(key, stored.clone());
            }
            index
        })
    }

    fn refused<T>() -> Result<T> {
        Err(EngineError("a checkpoint is not written".to_owned()))
    }
}

impl Engine for Frozen {
    fn append(&self, _: &[u8], _: Version) -> Result<()> {
        Self::refused()
    }

    fn put(&self, _: Table, _: &[u8], _: &[u8]) -> Result<()> {
        Self::refused()
    }

    fn delete(&self, _: Table, _: &[u8]) -> Result<()> {
        Self::refused()
    }

    fn publish(&self, _: Published) -> Result<()> {
        Self::refused()
    }

    fn compact_step(&self, _: i64) -> Result<bool> {
        Self::refused()
    }

    fn begin_compaction(&self, _: i64) {}

    fn set_mark(&self, _: HighWaterMark) {}

    fn outlives_process(&self) -> bool {
        false
    }

    fn flush(&self) -> Result<Applied> {
        Ok(self.published.applied)
    }

    fn checkpoint(&self) -> Result<Arc<dyn Engine>> {
        Ok(Arc::new(Self {
            history: self.history.clone(),
            tables: self.tables.clone(),
            mark: self.mark.clone(),
            index: OnceLock::new(),
            ..*self
        }))
    }

    fn defragment(&self) -> Result<()> {
        Ok(())
    }

    fn statistics(&self) -> Vec<Statistic> {
        Vec::new()
    }

    fn published(&self) -> Published {
        self.published
    }

    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>> {
        Ok(self.index().newest(key, at).map(Stored::version))
    }

    fn scan(&self, range: KeyRange<'_>, at: i64, limit: usize, rows: &mut Vec<Version>) -> Result<Option<Vec<u8>>> {
        Ok(self.index().scan(range, at, limit, self.steps.rows, rows).map(<[u8]>::to_vec))
    }

    fn count(&self, range: KeyRange<'_>, at: i64, count: &mut u64) -> Result<Option<Vec<u8>>> {
        Ok(self.index().count(range, at, self.steps.counted_keys, count).map(<[u8]>::to_vec))
    }

    fn history(&self, from: Revision, to: i64, rows: &mut Vec<Version>) -> Result<Option<Revision>> {
        Ok(self.history.read(from, to.min(self.published.revision), self.steps.rows, rows))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.tables[table as usize].get(key).cloned())
    }

    fn rows(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(rows_of(&self.tables, table, prefix))
    }

    fn row_keys(&self, table: Table, prefix: &[u8], from: &[u8], keys: &mut Vec<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        Ok(row_keys_of(&self.tables, table, prefix, from, (self.steps.rows, keys)))
    }

    fn usage(&self) -> Usage {
        self.usage
    }

    fn mark(&self) -> HighWaterMark {
        self.mark.clone()
    }
}
