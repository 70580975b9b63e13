//! The log, on a disk that forgets everything that was not synced.

mod corpus;
mod crash_points;
mod damage;
mod etcd;
mod keep;
mod lifecycle;
mod random;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use metastore_proto::raftpb::HardState;

use super::*;
use crate::disk::{CrashPolicy, Disk, SimulatedDisk};

/// Small segments, so that a test sees several.
const SMALL: Options = Options { segment_bytes: 4096 };

const METADATA: Metadata = Metadata { node_id: 0x2535_1fad_42b3_c84c, cluster_id: 7 };

fn dir() -> PathBuf {
    PathBuf::from("/member/wal")
}

/// A disk with the parent directory of the log's.
fn new_disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    disk.create_dir_all(Path::new("/member")).unwrap();
    disk
}

fn create(disk: &SimulatedDisk) -> Result<Wal> {
    Wal::create_with(SMALL, Arc::new(disk.clone()), &dir(), METADATA)
}

fn open(disk: &SimulatedDisk) -> Result<(Wal, Replay)> {
    Wal::open_with(SMALL, Arc::new(disk.clone()), &dir(), (0, 0))
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term: Some(term), vote: Some(vote), commit: Some(commit) }
}

fn entry(index: u64, term: u64, data: impl Into<Bytes>) -> Entry {
    Entry { kind: 0, term, index, data: data.into() }
}

/// `len` bytes of data without a zero byte.
fn data(len: usize, seed: u64) -> Bytes {
    (0..len as u64).map(|i| ((i * 31 + seed * 17) % 251 + 1) as u8).collect()
}

/// The name of the first segment.
fn first_segment() -> PathBuf {
    dir().join("0000000000000000-0000000000000000.wal")
}

/// Number of written bytes of a file, up to the last one that is not zero.
fn written(disk: &SimulatedDisk, file: &Path) -> usize {
    disk.read(file).unwrap().iter().rposition(|b| *b != 0).map_or(0, |at| at + 1)
}
