//! The corpus of the fuzz target `wal_open`, run as plain tests.

use super::*;

/// Does the same as the fuzz target: the bytes are the first segment of a log. Opening it must not panic, and a log
/// that opens can be written and opened again.
pub(super) fn open_bytes(bytes: &[u8]) {
    let disk = new_disk();
    disk.create_dir_all(&dir()).unwrap();
    disk.create(&first_segment()).unwrap().write_at(0, bytes).unwrap();
    let _ = snapshots(&disk, &dir());
    if let Ok((mut wal, replay)) = open(&disk) {
        let next = wal.last_index() + 1;
        let term = replay.entries.last().map_or(0, |entry| entry.term);
        wal.append(None, [entry(next, term, "x")], true).unwrap();
        let (_, again) = open(&disk).unwrap();
        assert_eq!(again.entries.len(), replay.entries.len() + 1);
        assert_eq!(again.cut, None);
    }
}

/// The first `keep` bytes of a short good log, followed by `bytes`.
pub(super) fn after_a_good_start(keep: usize, bytes: &[u8]) -> Vec<u8> {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    wal.append(Some(&hard_state(1, 1, 1)), (1..=3).map(|i| entry(i, 1, data(40, i))), true).unwrap();
    let mut start = disk.read(&first_segment()).unwrap();
    start.truncate(keep);
    start.extend_from_slice(bytes);
    start
}

#[test]
fn the_corpus_opens_or_is_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/wal_open");
    let mut files = 0;
    for file in std::fs::read_dir(corpus).unwrap() {
        open_bytes(&std::fs::read(file.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files >= 5, "the corpus is there: {files}");
}
