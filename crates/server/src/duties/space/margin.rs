//! The free space that a member keeps on its disks, so that the alarm NOSPACE comes before a disk is full, and so that
//! deletes and compactions are possible after it.
//!
//! ```text
//!   for the log                                          for the state
//!     the requests that were let in before the alarm       Memory: the next state file, as large as the state; it is
//!     two segments: one that may be begun by these,          written before the old one and the log are removed
//!     one for deletes and compactions                      RocksDB: a flush of full memtables, and a compaction,
//!                                                            which writes its files before it removes the old ones
//! ```
//!
//! If both are on one file system, their sum is kept free. Of a small file system, the fixed sizes keep a quarter at
//! most: there the alarm may come too late, but most of the space can be used.

use std::path::PathBuf;

use metastore_replica::Paths;
use metastore_replica::disk::{Result, Space};
use metastore_replica::wal::SEGMENT_BYTES;

use crate::config::{Config, EngineSettings};

/// RocksDB's memtables of one flush (four of 64 MiB), and what a compaction of its first two levels (of 256 MiB each)
/// writes before it removes anything.
const ROCKSDB_BYTES: u64 = 768 << 20;
/// The fixed parts of the margin are at most this part of a file system.
const PART: u64 = 4;

/// The places of a member's files, and what is kept free there.
#[derive(Clone)]
pub struct Places {
    state: PathBuf,
    log: PathBuf,
    /// Fixed bytes to be kept free for the log, and for the state.
    fixed: (u64, u64),
    /// Whether the state is written whole from time to time.
    writes_state: bool,
}

/// The space of a place, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    pub path: PathBuf,
    pub free: u64,
    /// The bytes that are to be kept free.
    pub margin: u64,
}

impl Places {
    /// `requests_bytes` is the most that requests which were let in can add to the log.
    pub fn new(config: &Config, requests_bytes: u64) -> Self {
        let paths = Paths { data_dir: config.data_dir.clone(), wal_dir: config.wal_dir.clone() };
        let writes_state = config.engine == EngineSettings::Memory;
        let fixed = (requests_bytes + 2 * SEGMENT_BYTES, if writes_state { 0 } else { ROCKSDB_BYTES });
        Self { state: paths.member(), log: paths.wal(), fixed, writes_state }
    }

    /// Measures: the place of the state first, and that of the log if it is on another file system. Waits for the disk.
    ///
    /// # Errors
    /// If a place is gone.
    pub fn look(&self, state_bytes: u64) -> Result<Vec<Room>> {
        Ok(self.rooms(state_bytes, Space::around(&self.state)?, Space::around(&self.log)?))
    }

    fn rooms(&self, state_bytes: u64, state: Space, log: Space) -> Vec<Room> {
        let (for_log, for_state) = self.fixed;
        let state_bytes = if self.writes_state { state_bytes } else { 0 };
        let room = |path: &PathBuf, space: Space, fixed: u64, more: u64| {
            let margin = fixed.min(space.total / PART).saturating_add(more);
            Room { path: path.clone(), free: space.free, margin }
        };
        if state.device == log.device {
            return vec![room(&self.state, state, for_log + for_state, state_bytes)];
        }
        vec![room(&self.state, state, for_state, state_bytes), room(&self.log, log, for_log, 0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn places(fixed: (u64, u64), writes_state: bool) -> Places {
        Places { state: "state".into(), log: "log".into(), fixed, writes_state }
    }

    fn space(device: u64, total: u64) -> Space {
        Space { device, total, free: 7 }
    }

    fn margins(rooms: &[Room]) -> Vec<(&str, u64)> {
        rooms.iter().map(|room| (room.path.to_str().unwrap(), room.margin)).collect()
    }

    #[test]
    fn on_one_file_system_the_parts_add_up() {
        let rooms = places((100, 10), false).rooms(1, space(1, GIB), space(1, GIB));
        assert_eq!(margins(&rooms), [("state", 110)], "the state is written row by row");
        let rooms = places((100, 0), true).rooms(1, space(1, GIB), space(1, GIB));
        assert_eq!(rooms, [Room { path: "state".into(), free: 7, margin: 101 }], "the state is written whole");
    }

    #[test]
    fn each_file_system_has_its_own_part() {
        let rooms = places((100, 10), false).rooms(1, space(1, GIB), space(2, GIB));
        assert_eq!(margins(&rooms), [("state", 10), ("log", 100)]);
        let rooms = places((100, 0), true).rooms(1, space(1, GIB), space(2, GIB));
        assert_eq!(margins(&rooms), [("state", 1), ("log", 100)]);
    }

    #[test]
    fn a_small_file_system_keeps_a_quarter_and_the_next_state_file() {
        let rooms = places((100, 0), true).rooms(3, space(1, 40), space(2, 80));
        assert_eq!(margins(&rooms), [("state", 3), ("log", 20)]);
        let rooms = places((100, 50), false).rooms(3, space(1, 40), space(1, 40));
        assert_eq!(margins(&rooms), [("state", 10)]);
        // Some file systems do not tell their size.
        assert_eq!(margins(&places((100, 50), false).rooms(3, space(1, 0), space(1, 0))), [("state", 0)]);
    }
}
