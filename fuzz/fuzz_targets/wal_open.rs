//! Any bytes as the first segment of a log: opening must refuse or succeed, and what opened can be written on.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use metastore_replica::disk::{Disk, SimulatedDisk};
use metastore_replica::wal::{Entry, Options, Wal, snapshots};

const OPTIONS: Options = Options { segment_bytes: 4096 };

fuzz_target!(|bytes: &[u8]| {
    let dir = Path::new("/member/wal");
    let disk = SimulatedDisk::new();
    disk.create_dir_all(dir).unwrap();
    let file = disk.create(&dir.join("0000000000000000-0000000000000000.wal")).unwrap();
    file.write_at(0, bytes).unwrap();
    let _ = snapshots(&disk, dir);
    let Ok((mut wal, replay)) = Wal::open_with(OPTIONS, Arc::new(disk.clone()), dir, (0, 0)) else { return };
    let term = replay.entries.last().map_or(0, |entry| entry.term);
    let next = Entry { kind: 0, term, index: wal.last_index() + 1, data: "x".into() };
    wal.append(None, [next], true).unwrap();
    drop(wal);
    let (_, again) = Wal::open_with(OPTIONS, Arc::new(disk), dir, (0, 0)).unwrap();
    assert_eq!(again.entries.len(), replay.entries.len() + 1);
});
