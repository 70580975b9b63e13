//! The options of RocksDB.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType,
    DEFAULT_COLUMN_FAMILY_NAME, Env, LogLevel, Options, SliceTransform,
};

use super::RocksDbSettings;
use super::forgotten::Forgotten;
use super::layout::{CURRENT, REVISIONS, SUPERSEDED, TABLES, superseded_prefix};

/// The bytes that a column family collects in memory before a flush. Atomic flush flushes all families together.
pub(super) const MEMTABLE_BYTES: usize = 64 << 20;
/// The most memtables of a column family: the one that is written, and those that are being flushed.
/// Beyond that writes wait.
const MEMTABLES: i32 = 4;
/// The size of a block, the unit of compression and caching.
const BLOCK_BYTES: usize = 4 << 10;
const FILE_BYTES: u64 = 64 << 20;
const LEVEL_BASE_BYTES: u64 = 256 << 20;
/// The filter lets one lookup in a hundred pass although its key is absent.
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// The share of a memtable that its bloom filter takes.
const MEMTABLE_BLOOM_SHARE: f64 = 0.05;
/// RocksDB's info logs, in files `LOG*` of its directory.
const NOTES_BYTES: usize = 4 << 20;
const NOTES_FILES: usize = 4;
/// The fastest regular level of Zstandard: every write passes through it.
const ZSTD_LEVEL: i32 = 1;
/// RocksDB's default.
const ZSTD_WINDOW: i32 = -14;
/// After a day a file that may contain dead rows is rewritten, even if no write causes that, so that the rows go.
const REWRITE_SECONDS: u64 = 24 * 60 * 60;
/// A file is rewritten if half of so many rows in sequence are deletes.
const DELETED_WINDOW: usize = 1024;

/// The options of the whole database, whose files are in `env`, or on the disk.
pub(super) fn database(settings: RocksDbSettings, env: Option<&Env>) -> Options {
    let mut options = Options::default();
    env.into_iter().for_each(|env| options.set_env(env));
    options.set_atomic_flush(true);
    options.set_max_open_files(i32::try_from(settings.max_open_files).unwrap_or(i32::MAX));
    // Otherwise opening would read the properties of every file, and slow down with their number.
    options.set_skip_stats_update_on_db_open(true);
    options.set_max_background_jobs(4);
    // There is only one writer.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    // The syncs of the raft log share the disk, so files are written back in small portions.
    options.set_bytes_per_sync(1 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(NOTES_BYTES);
    options.set_keep_log_file_num(NOTES_FILES);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.enable_statistics();
    options.set_statistics_level(rocksdb::statistics::StatsLevel::ExceptHistogramOrTimers);
    options
}

/// The options of each column family.
pub(super) fn families(settings: RocksDbSettings, cache: &Cache, forgotten: &Forgotten) -> Vec<ColumnFamilyDescriptor> {
    let mut superseded = family(settings, cache);
    superseded.set_compaction_filter("dead versions", forgotten.superseded_filter());
    superseded.set_periodic_compaction_seconds(REWRITE_SECONDS);
    superseded.set_prefix_extractor(SliceTransform::create("user key", superseded_prefix, None));
    let mut current = family(settings, cache);
    current.set_compaction_filter("dropped tombstones", forgotten.current_filter());
    current.set_periodic_compaction_seconds(REWRITE_SECONDS);
    // Old history is read in sequence, and rarely. The compression is the same at all levels. So files of revisions,
    // which come in order, move down without being rewritten.
    let mut revisions = family(settings, cache);
    revisions.set_compression_type(DBCompressionType::Zstd);
    revisions.set_compression_options(ZSTD_WINDOW, ZSTD_LEVEL, 0, 0);
    let mut families = vec![ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, family(settings, cache))];
    let named =
        [(CURRENT, current), (REVISIONS, revisions), (SUPERSEDED, superseded), (TABLES, family(settings, cache))];
    for (name, mut options) in named {
        options.add_compact_on_deletion_collector_factory(DELETED_WINDOW, DELETED_WINDOW / 2, 0.5);
        families.push(ColumnFamilyDescriptor::new(name, options));
    }
    families
}

fn family(settings: RocksDbSettings, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(BLOCK_BYTES);
    blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    blocks.set_format_version(6);
    blocks.set_data_block_index_type(rocksdb::DataBlockIndexType::BinaryAndHash);
    // The indexes and filters of all files may be larger than memory. They are split into blocks and cached like data.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    // Each write first looks up its key, and most keys are older than the data in memory.
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_SHARE);
    options.set_write_buffer_size(settings.memtable_bytes);
    options.set_max_write_buffer_number(MEMTABLES);
    options.set_max_bytes_for_level_base(LEVEL_BASE_BYTES);
    options.set_target_file_size_base(FILE_BYTES);
    options.set_level_compaction_dynamic_level_bytes(true);
    // Lookups read one block, which must be fast to decompress.
    options.set_compression_type(DBCompressionType::Lz4);
    options
}
