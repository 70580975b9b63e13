//! File descriptors: how many this process may have, and how they are shared out.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::EngineSettings;

/// Descriptors that connections never get: for the log's next segment, snapshots, listeners and runtimes. Without them,
/// a large number of clients would stop the member at its next segment. etcd reserves as many.
const RESERVED: u64 = 150;
/// At most this many table files are kept open by RocksDB: 32 GiB of data. Other files are opened when they are read.
const MOST_TABLES: u64 = 512;
/// RocksDB replaces a lower limit by this one.
const LEAST_TABLES: u64 = 20;
/// Databases that are open at once: the state, and a checkpoint of it while a snapshot is read.
const DATABASES: u64 = 2;
/// Files that a database has open besides its tables: manifest, notes, lock, directories, and files being written.
const DATABASE_FILES: u64 = 24;

/// The shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    pub connections: usize,
    /// Table files that the engine may keep open; 0 in memory.
    pub engine_files: u32,
}

impl Descriptors {
    /// Raises the limit as far as this process may, as Go programs do by themselves, and shares it out.
    ///
    /// # Errors
    /// A text that names the limit, if it leaves no connection.
    pub fn share(engine: EngineSettings) -> Result<Self, String> {
        let limit = getrlimit(Resource::Nofile);
        // If it is refused, the limit stays as it is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        fit(getrlimit(Resource::Nofile).current, engine)
    }
}

/// `None` is no limit.
fn fit(limit: Option<u64>, engine: EngineSettings) -> Result<Descriptors, String> {
    let limit = limit.unwrap_or(u64::MAX);
    let (tables, for_engine) = match engine {
        EngineSettings::Memory => (0, 0),
        EngineSettings::RocksDb { .. } => {
            // Under a low limit, connections get half of it.
            let free = limit.saturating_sub(RESERVED + DATABASES * DATABASE_FILES);
            let tables = (free / (2 * DATABASES)).clamp(LEAST_TABLES, MOST_TABLES);
            (tables, DATABASES * (tables + DATABASE_FILES))
        }
    };
    let reserved = RESERVED + for_engine;
    match limit.checked_sub(reserved).filter(|left| *left > 0) {
        Some(left) => {
            Ok(Descriptors { connections: usize::try_from(left).unwrap_or(usize::MAX), engine_files: tables as u32 })
        }
        None => Err(format!("the file descriptor limit of {limit} is too low; set it above {reserved} (ulimit -n)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROCKSDB: EngineSettings = EngineSettings::RocksDb { block_cache_bytes: 8 << 20 };

    fn shares(limit: u64, engine: EngineSettings) -> (usize, u32) {
        let Descriptors { connections, engine_files } = fit(Some(limit), engine).unwrap();
        (connections, engine_files)
    }

    #[test]
    fn some_are_kept_back() {
        assert_eq!(shares(1024, EngineSettings::Memory), (874, 0));
        assert_eq!(shares(151, EngineSettings::Memory), (1, 0));
        let unlimited = fit(None, EngineSettings::Memory).unwrap();
        assert_eq!(unlimited.connections as u64, u64::MAX - RESERVED);
        for low in [0, 150] {
            let error = fit(Some(low), EngineSettings::Memory).unwrap_err();
            assert!(error.contains(&format!("limit of {low} is too low")), "{error}");
        }
    }

    #[test]
    fn the_files_of_an_engine_on_disk_are_kept_back_too() {
        assert_eq!(shares(1_048_576, ROCKSDB), (1_048_576 - 150 - 2 * (512 + 24), 512));
        assert_eq!(shares(1024, ROCKSDB), (414, 206));
        assert_eq!(shares(239, ROCKSDB), (1, 20));
        let error = fit(Some(238), ROCKSDB).unwrap_err();
        assert_eq!(error, "the file descriptor limit of 238 is too low; set it above 238 (ulimit -n)");
    }
}
