//! Flipped bits, lost sectors, and the difference between them.

use super::*;
use crate::disk::SECTOR_BYTES;

/// A log of `batches` batches in one segment, whose values hold `zeros` zeros each. Returns the offsets at which the
/// batches end.
fn log_of(batches: u64, zeros: usize) -> (SimulatedDisk, Vec<usize>) {
    let options = Options { segment_bytes: 16 << 10 };
    let disk = new_disk();
    let mut wal = Wal::create_with(options, Arc::new(disk.clone()), &dir(), METADATA).unwrap();
    let mut ends = vec![written(&disk, &first_segment())];
    for batch in 0..batches {
        let from = batch * 2 + 1;
        let mut value = data(60, batch).to_vec();
        value.splice(30..30, vec![0; zeros]);
        let entries = [entry(from, 1, data(100, batch)), entry(from + 1, 1, value)];
        wal.append(Some(&hard_state(1, 1, from)), entries, true).unwrap();
        ends.push(written(&disk, &first_segment()).next_multiple_of(8));
    }
    (disk, ends)
}

fn open_copy(disk: &SimulatedDisk) -> Result<Replay> {
    open(&disk.fork()).map(|(_, replay)| replay)
}

/// Flips every bit of everything that was acknowledged, including the last batch.
fn every_flip_is_refused(zeros: usize, step: usize) {
    let (disk, ends) = log_of(4, zeros);
    let whole = open_copy(&disk).unwrap();
    let end = *ends.last().unwrap();
    for bit in (0..end * 8).step_by(step) {
        let (offset, bit) = (bit / 8, (bit % 8) as u8);
        disk.flip_bit(&first_segment(), offset as u64, bit).unwrap();
        match open_copy(&disk) {
            Err(WalError::Corrupt { file, offset: at, .. }) => {
                assert_eq!(file, first_segment());
                assert!(at <= offset as u64, "bit {bit} of byte {offset} is named as {at}");
            }
            Err(other) => panic!("bit {bit} of byte {offset}: {other}"),
            Ok(replay) => {
                panic!(
                    "bit {bit} of byte {offset} (batches end at {ends:?}): {replay:?}, not {} entries",
                    whole.entries.len()
                )
            }
        }
        disk.flip_bit(&first_segment(), offset as u64, bit).unwrap();
    }
    assert_eq!(open_copy(&disk).unwrap().entries, whole.entries);
}

#[test]
fn every_flipped_bit_is_refused() {
    every_flip_is_refused(0, 1);
}

/// etcd takes such a record for a torn one, and drops it with all records that follow.
#[test]
fn every_flipped_bit_beside_stored_zeros_is_refused() {
    every_flip_is_refused(2048, 11);
}

#[test]
fn damage_of_several_bits_in_front_of_a_later_batch_is_refused() {
    let (disk, ends) = log_of(4, 2048);
    let file = disk.open(&first_segment()).unwrap();
    for end in &ends[..4] {
        // Inside the first record of a batch that is not the last one, or of the last one's first record.
        let at = *end as u64 + 60;
        let mut before = [0; 16];
        file.read_at(at, &mut before).unwrap();
        file.write_at(at, &[0x55; 16]).unwrap();
        assert!(matches!(open_copy(&disk), Err(WalError::Corrupt { .. })), "at {at}");
        file.write_at(at, &before).unwrap();
    }
}

/// A device loses a sector of a batch that was synced, and another batch follows it.
#[test]
fn a_lost_sector_in_front_of_a_later_batch_is_refused() {
    let (disk, ends) = log_of(4, 2048);
    let file = disk.open(&first_segment()).unwrap();
    let last_batch = ends[3];
    for sector in 0..last_batch / SECTOR_BYTES {
        let at = (sector * SECTOR_BYTES) as u64;
        let mut before = [0; SECTOR_BYTES];
        file.read_at(at, &mut before).unwrap();
        if before == [0; SECTOR_BYTES] {
            continue;
        }
        file.write_at(at, &[0; SECTOR_BYTES]).unwrap();
        let error = open_copy(&disk).err().unwrap_or_else(|| panic!("sector at {at} is gone and nobody cares"));
        assert!(matches!(error, WalError::Corrupt { .. }), "{error}");
        file.write_at(at, &before).unwrap();
    }
}

/// Loses every subset of the sectors of the last batch. The batch was under way, so it is cut, and the batches before
/// it stay.
#[test]
fn a_torn_last_batch_is_cut() {
    let (disk, ends) = log_of(3, 1300);
    let whole = open_copy(&disk).unwrap();
    let bytes = disk.read(&first_segment()).unwrap();
    let (begin, end) = (ends[2], ends[3]);
    let (first, last) = (begin / SECTOR_BYTES, (end - 1) / SECTOR_BYTES);
    let sectors = last - first + 1;
    let mut cuts = 0;
    for lost in 1..1_usize << sectors {
        let mut torn = bytes.clone();
        for sector in (0..sectors).filter(|sector| lost >> sector & 1 == 1) {
            let from = ((first + sector) * SECTOR_BYTES).max(begin);
            let to = ((first + sector + 1) * SECTOR_BYTES).min(end);
            torn[from..to].fill(0);
        }
        if torn == bytes {
            continue;
        }
        let damaged = disk.fork();
        damaged.open(&first_segment()).unwrap().write_at(0, &torn).unwrap();
        let (wal, replay) = open(&damaged).unwrap_or_else(|e| panic!("lost sectors {lost:b}: {e}"));
        assert!(replay.entries.len() >= 4 && replay.entries[..] == whole.entries[..replay.entries.len()]);
        if let Some(cut) = replay.cut {
            assert_eq!(cut.file, first_segment());
            assert!(cut.offset >= begin as u64 && cut.offset + cut.dropped_bytes <= end as u64);
            cuts += 1;
        }
        drop(wal);
        let again = open(&damaged.crash(CrashPolicy::DropUnsynced)).unwrap().1;
        assert_eq!((again.cut, again.entries), (None, replay.entries), "lost sectors {lost:b}");
    }
    assert!(cuts > 4, "{cuts}");
}

/// Without preallocation a torn write ends the file early.
#[test]
fn a_file_that_ends_inside_the_last_batch_is_cut() {
    let (disk, ends) = log_of(3, 0);
    for len in ends[2] + 1..ends[3] {
        let damaged = disk.fork();
        damaged.open(&first_segment()).unwrap().set_len(len as u64).unwrap();
        let (_, replay) = open(&damaged).unwrap_or_else(|e| panic!("a file of {len} bytes: {e}"));
        assert!(replay.entries.len() >= 4, "{len}");
    }
}

#[test]
fn the_commit_index_forbids_a_cut() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    wal.append(Some(&hard_state(1, 1, 0)), [entry(1, 1, data(600, 1))], true).unwrap();
    let end = written(&disk, &first_segment());
    wal.append(Some(&hard_state(1, 1, 2)), [entry(2, 1, data(900, 2))], true).unwrap();
    wal.append(Some(&hard_state(1, 1, 2)), [entry(3, 1, data(900, 2))], true).unwrap();
    let file = disk.open(&first_segment()).unwrap();
    // The device lost everything after the first batch, except a hard state that was copied back to its end.
    file.write_at(end.next_multiple_of(8) as u64, &vec![0; 4096 - end.next_multiple_of(8)]).unwrap();
    drop(wal);
    let (mut wal, replay) = open(&disk).unwrap();
    assert_eq!(replay.entries.len(), 1);
    wal.append(Some(&hard_state(1, 1, 2)), [], true).unwrap();
    let error = open(&disk).err().unwrap();
    assert!(matches!(error, WalError::CommittedLost { last: 1, commit: 2, .. }), "{error}");
}

#[test]
fn any_damage_in_front_of_a_later_segment_is_refused() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    for i in 1..=9 {
        wal.append(None, [entry(i, 1, data(500, i))], true).unwrap();
    }
    let len = disk.read(&first_segment()).unwrap().len();
    for at in (0..len - 16).step_by(97) {
        let damaged = disk.fork();
        damaged.open(&first_segment()).unwrap().set_len(at as u64).unwrap();
        assert!(matches!(open_copy(&damaged), Err(WalError::Corrupt { .. })), "cut at {at}");
    }
}
