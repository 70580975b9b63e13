//! An engine that reports reads of its keys.

use std::sync::Arc;

use metastore_engine::{
    Applied, Engine, HighWaterMark, KeyRange, Published, Result, Revision, Statistic, Table, Usage, Version,
};

/// Calls `look` with the name of each call that reads keys, before it forwards the call to another engine.
pub struct Watched<F> {
    engine: Arc<dyn Engine>,
    look: F,
}

impl<F: Fn(&str) + Send + Sync + 'static> Watched<F> {
    pub fn new(engine: Arc<dyn Engine>, look: F) -> Self {
        Self { engine, look }
    }

    fn seen(&self, call: &str) -> &dyn Engine {
        (self.look)(call);
        self.engine.as_ref()
    }
}

impl<F: Fn(&str) + Send + Sync + 'static> Engine for Watched<F> {
    fn append(&self, key: &[u8], version: Version) -> Result<()> {
        self.engine.append(key, version)
    }
    fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.engine.put(table, key, value)
    }
    fn delete(&self, table: Table, key: &[u8]) -> Result<()> {
        self.engine.delete(table, key)
    }
    fn publish(&self, published: Published) -> Result<()> {
        self.engine.publish(published)
    }
    fn compact_step(&self, at: i64) -> Result<bool> {
        self.seen("compact_step").compact_step(at)
    }
    fn begin_compaction(&self, at: i64) {
        self.engine.begin_compaction(at);
    }
    fn set_mark(&self, mark: HighWaterMark) {
        self.engine.set_mark(mark);
    }
    fn outlives_process(&self) -> bool {
        self.engine.outlives_process()
    }
    fn flush(&self) -> Result<Applied> {
        self.engine.flush()
    }
    fn checkpoint(&self) -> Result<Arc<dyn Engine>> {
        self.engine.checkpoint()
    }
    fn defragment(&self) -> Result<()> {
        self.engine.defragment()
    }
    fn statistics(&self) -> Vec<Statistic> {
        self.engine.statistics()
    }
    fn published(&self) -> Published {
        self.engine.published()
    }
    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>> {
        self.seen("newest").newest(key, at)
    }
    fn scan(&self, range: KeyRange<'_>, at: i64, limit: usize, rows: &mut Vec<Version>) -> Result<Option<Vec<u8>>> {
        self.seen("scan").scan(range, at, limit, rows)
    }
    fn count(&self, range: KeyRange<'_>, at: i64, count: &mut u64) -> Result<Option<Vec<u8>>> {
        self.seen("count").count(range, at, count)
    }
    fn history(&self, from: Revision, to: i64, rows: &mut Vec<Version>) -> Result<Option<Revision>> {
        self.seen("history").history(from, to, rows)
    }
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.engine.get(table, key)
    }
    fn rows(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        if table == Table::LeaseKeys && prefix.len() != 8 {
            (self.look)("keys of all leases");
        }
        self.engine.rows(table, prefix)
    }
    fn row_keys(&self, table: Table, prefix: &[u8], from: &[u8], keys: &mut Vec<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        if table == Table::LeaseKeys && prefix.len() != 8 {
            (self.look)("keys of all leases");
        }
        self.engine.row_keys(table, prefix, from, keys)
    }
    fn usage(&self) -> Usage {
        self.engine.usage()
    }
    fn mark(&self) -> HighWaterMark {
        self.engine.mark()
    }
}
