//! The figures of RocksDB.

use rocksdb::properties;
use rocksdb::statistics::Ticker;

use super::RocksDb;
use super::layout::{CURRENT, REVISIONS, SUPERSEDED, TABLES};
use crate::Statistic;

impl RocksDb {
    pub(super) fn figures(&self) -> Vec<Statistic> {
        let ticker = |ticker| self.options.get_ticker_count(ticker);
        let sum = |property| self.sum(property);
        let figure = |name, help, value| Statistic { name, help, value };
        vec![
            figure("disk_bytes", "Bytes of all table files on disk.", sum(properties::TOTAL_SST_FILES_SIZE)),
            figure(
                "live_disk_bytes",
                "Bytes of the table files that hold the newest state.",
                sum(properties::LIVE_SST_FILES_SIZE),
            ),
            figure(
                "memtable_bytes",
                "Bytes that wait in memory to be flushed.",
                sum(properties::CUR_SIZE_ALL_MEM_TABLES),
            ),
            figure(
                "table_reader_bytes",
                "Bytes of table readers outside of the block cache.",
                sum(properties::ESTIMATE_TABLE_READERS_MEM),
            ),
            figure("block_cache_bytes", "Bytes in the block cache.", self.cache.get_usage() as u64),
            figure(
                "block_cache_pinned_bytes",
                "Bytes in the block cache that are in use.",
                self.cache.get_pinned_usage() as u64,
            ),
            figure(
                "pending_compaction_bytes",
                "Estimate of the bytes that compactions have to rewrite.",
                sum(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            ),
            figure("running_compactions", "Compactions that run now.", self.whole(properties::NUM_RUNNING_COMPACTIONS)),
            figure("running_flushes", "Flushes that run now.", self.whole(properties::NUM_RUNNING_FLUSHES)),
            figure(
                "background_errors",
                "Errors of flushes and compactions since the start.",
                self.whole(properties::BACKGROUND_ERRORS),
            ),
            figure(
                "writes_stopped",
                "1 while writes wait for flushes or compactions.",
                self.whole(properties::IS_WRITE_STOPPED),
            ),
            figure(
                "delayed_write_rate_bytes",
                "Bytes a second to which writes are slowed down; 0 if they are not.",
                self.whole(properties::ACTUAL_DELAYED_WRITE_RATE),
            ),
            figure("block_cache_hits_total", "Blocks found in the block cache.", ticker(Ticker::BlockCacheHit)),
            figure("block_cache_misses_total", "Blocks read from files.", ticker(Ticker::BlockCacheMiss)),
            figure(
                "bloom_filter_useful_total",
                "Files that a bloom filter kept from being read.",
                ticker(Ticker::BloomFilterUseful) + ticker(Ticker::BloomFilterPrefixUseful),
            ),
            figure(
                "stall_seconds_total",
                "Time that writes waited for flushes or compactions.",
                ticker(Ticker::StallMicros) / 1_000_000,
            ),
            figure("flush_written_bytes_total", "Bytes that flushes wrote.", ticker(Ticker::FlushWriteBytes)),
            figure("compaction_read_bytes_total", "Bytes that compactions read.", ticker(Ticker::CompactReadBytes)),
            figure(
                "compaction_written_bytes_total",
                "Bytes that compactions wrote.",
                ticker(Ticker::CompactWriteBytes),
            ),
        ]
    }

    /// A figure of the whole database; 0 if RocksDB does not report it.
    pub(super) fn whole(&self, property: &properties::PropName) -> u64 {
        self.db.property_int_value(property).ok().flatten().unwrap_or_default()
    }

    /// The sum of a figure over the column families.
    fn sum(&self, property: &properties::PropName) -> u64 {
        let names = [rocksdb::DEFAULT_COLUMN_FAMILY_NAME, CURRENT, REVISIONS, SUPERSEDED, TABLES];
        let values = names.map(|name| self.db.property_int_value_cf(self.family(name), property));
        values.into_iter().map(|value| value.ok().flatten().unwrap_or_default()).sum()
    }
}
