//! Create, append, cut, release, reopen; and every refusal.

use super::*;

fn segments(disk: &SimulatedDisk) -> Vec<String> {
    disk.list(&dir()).unwrap()
}

#[test]
fn what_was_appended_comes_back() {
    let disk = new_disk();
    assert!(!Wal::exists(&disk, &dir()).unwrap());
    let mut wal = create(&disk).unwrap();
    assert!(Wal::exists(&disk, &dir()).unwrap());
    let mut change = entry(2, 1, data(100, 2));
    change.kind = 1;
    let entries = [entry(1, 1, Bytes::new()), change, entry(3, 2, data(7, 3))];
    wal.append(Some(&hard_state(2, 9, 1)), entries.iter().cloned(), true).unwrap();
    wal.append(Some(&hard_state(2, 9, 3)), [], false).unwrap();
    assert_eq!((wal.last_index(), wal.metadata()), (3, METADATA));
    drop(wal);
    let (wal, replay) = open(&disk).unwrap();
    assert_eq!(replay.metadata, METADATA);
    assert_eq!(replay.hard_state, hard_state(2, 9, 3));
    assert_eq!(replay.entries, entries);
    assert_eq!(replay.cut, None);
    assert_eq!((wal.last_index(), wal.hard_state()), (3, hard_state(2, 9, 3)));
}

#[test]
fn a_later_entry_replaces_the_tail() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    wal.append(Some(&hard_state(1, 1, 1)), (1..=5).map(|i| entry(i, 1, data(9, i))), true).unwrap();
    wal.append(Some(&hard_state(2, 2, 1)), [entry(3, 2, "x")], true).unwrap();
    assert_eq!(wal.last_index(), 3);
    let (_, replay) = open(&disk).unwrap();
    assert_eq!(replay.entries, [entry(1, 1, data(9, 1)), entry(2, 1, data(9, 2)), entry(3, 2, "x")]);
}

#[test]
fn an_entry_that_is_too_large_for_a_record_is_refused_before_anything_is_written() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    wal.append(Some(&hard_state(1, 1, 0)), [entry(1, 1, "a")], true).unwrap();
    let written = disk.read(&first_segment()).unwrap();
    let batch = [entry(2, 1, "not written"), entry(3, 1, vec![0; MAX_ENTRY_BYTES + 1])];
    let refused = wal.append(Some(&hard_state(2, 1, 0)), batch, true);
    let is_expected = |error: &WalError| {
        matches!(error, WalError::EntryTooLarge { index: 3, bytes, max }
        if (*bytes, *max) == (MAX_ENTRY_BYTES + 1, MAX_ENTRY_BYTES))
    };
    assert!(refused.as_ref().is_err_and(is_expected), "{refused:?}");
    assert!(disk.read(&first_segment()).unwrap() == written, "the log is as it was");
    wal.append(None, [entry(2, 1, "b")], true).unwrap();
    let (_, replay) = open(&disk).unwrap();
    assert_eq!((replay.entries, replay.hard_state), (vec![entry(1, 1, "a"), entry(2, 1, "b")], hard_state(1, 1, 0)));
}

#[test]
fn a_full_segment_is_cut_to_its_length_and_the_next_goes_on() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    for i in 1..=30 {
        wal.append(Some(&hard_state(1, 1, i - 1)), [entry(i, 1, data(500, i))], true).unwrap();
    }
    let names = segments(&disk);
    assert!(names.len() > 3, "{names:?}");
    assert_eq!(names[0], "0000000000000000-0000000000000000.wal");
    assert!(names[1].starts_with("0000000000000001-000000000000000"), "{names:?}");
    for name in &names[..names.len() - 1] {
        let bytes = disk.read(&dir().join(name)).unwrap();
        assert!(bytes.len().is_multiple_of(8) && bytes[bytes.len() - 8..] != [0; 8], "{name} is cut");
    }
    assert_eq!(disk.read(&dir().join(names.last().unwrap())).unwrap().len() as u64, SMALL.segment_bytes);
    let (_, replay) = open(&disk).unwrap();
    assert_eq!(replay.entries.len(), 30);
}

#[test]
fn released_segments_are_gone_and_the_rest_opens_from_the_snapshot() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    for i in 1..=30 {
        wal.append(Some(&hard_state(1, 1, i)), [entry(i, 1, data(500, i))], true).unwrap();
    }
    assert_eq!(wal.release(0).unwrap(), 0);
    wal.save_snapshot(10, 1, Some(Default::default())).unwrap();
    let before = segments(&disk);
    let removed = wal.release(10).unwrap();
    assert!(removed >= 1);
    assert_eq!(segments(&disk), before[removed..]);
    let marks = snapshots(&disk, &dir()).unwrap();
    assert_eq!(marks.iter().map(|mark| (mark.index(), mark.term())).collect::<Vec<_>>(), [(10, 1)]);
    let (wal, replay) = Wal::open_with(SMALL, Arc::new(disk.clone()), &dir(), (10, 1)).unwrap();
    assert_eq!(replay.entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), (11..=30).collect::<Vec<_>>());
    drop(wal);
    assert!(matches!(open(&disk), Err(WalError::Released { index: 0, .. })));
    let other = Wal::open_with(SMALL, Arc::new(disk.clone()), &dir(), (11, 1));
    assert!(matches!(other, Err(WalError::SnapshotNotFound { index: 11, term: 1, .. })));
    disk.remove_file(&dir().join(&before[removed + 1])).unwrap();
    let gap = Wal::open_with(SMALL, Arc::new(disk), &dir(), (10, 1));
    assert!(matches!(gap, Err(WalError::MissingSegment { .. })));
}

#[test]
fn a_snapshot_from_the_leader_moves_the_log_on() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    wal.append(Some(&hard_state(1, 1, 1)), [entry(1, 1, "a")], true).unwrap();
    wal.replace_by_snapshot(100, 3, Default::default(), &hard_state(3, 0, 100)).unwrap();
    assert_eq!((wal.last_index(), wal.hard_state()), (100, hard_state(3, 0, 100)));
    let beyond = wal.append(None, [entry(102, 3, "c")], true);
    assert!(matches!(beyond, Err(WalError::Gap { index: 102, last: 100 })));
    wal.append(None, [entry(101, 3, "b")], true).unwrap();
    let marks = snapshots(&disk, &dir()).unwrap();
    assert_eq!(marks.iter().map(|mark| mark.index()).collect::<Vec<_>>(), [0, 100]);
    let (wal, replay) = Wal::open_with(SMALL, Arc::new(disk.clone()), &dir(), (100, 3)).unwrap();
    assert_eq!((replay.entries, wal.last_index()), (vec![entry(101, 3, "b")], 101));
    assert!(matches!(open(&disk), Err(WalError::Corrupt { .. })), "entries 2 to 100 are nowhere");
}

/// Entries of another history, before and after the snapshot, are left out, in however many segments they lie. Entries
/// that the member writes afterwards count, over cuts and releases, and so do its own snapshots.
#[test]
fn a_snapshot_from_the_leader_replaces_entries_of_another_history() {
    for old in [3, 10, 11, 60] {
        let disk = new_disk();
        let open_from = |from| Wal::open_with(SMALL, Arc::new(disk.clone()), &dir(), from).unwrap();
        let mut wal = create(&disk).unwrap();
        wal.append(Some(&hard_state(2, 1, 2)), (1..=old).map(|i| entry(i, 2, data(300, i))), true).unwrap();
        wal.append(None, [entry(old + 1, 2, "cut")], true).unwrap();
        wal.replace_by_snapshot(10, 5, Default::default(), &hard_state(5, 0, 10)).unwrap();
        let (mut wal, replay) = open_from((10, 5));
        assert_eq!((replay.entries, replay.log_bytes, wal.last_index()), (Vec::new(), 0, 10), "{old}");
        let new: Vec<_> = (11..=50).map(|i| entry(i, 5, data(300, i + 1))).collect();
        for entry in new.iter().cloned() {
            wal.append(Some(&hard_state(5, 0, entry.index)), [entry], true).unwrap();
        }
        wal.release(10).unwrap();
        assert_eq!(open_from((10, 5)).1.entries, new, "{old}");
        // One more snapshot at the same index, as a conversion makes it, and one in the middle of the kept entries.
        wal.save_snapshot(10, 5, None).unwrap();
        wal.save_snapshot(30, 5, None).unwrap();
        assert_eq!(open_from((10, 5)).1.entries, new, "{old}");
        assert_eq!(open_from((30, 5)).1.entries, new[20..], "{old}");
        wal.release(30).unwrap();
        assert_eq!(open_from((30, 5)).1.entries, new[20..], "{old}");
    }
}

/// The record of the snapshot is written before the hard state. So a crash leaves either the log as it was, or one that
/// begins at the snapshot.
#[test]
fn a_snapshot_that_is_half_written_is_there_or_is_not() {
    let told = |wal: &mut Wal| wal.append(Some(&hard_state(2, 1, 2)), (1..=4).map(|i| entry(i, 2, data(90, i))), true);
    let disk = new_disk();
    told(&mut create(&disk).unwrap()).unwrap();
    let before = disk.operations();
    let (mut kept, mut taken) = (0, 0);
    for seed in 0..200 {
        let disk = new_disk();
        let mut wal = create(&disk).unwrap();
        told(&mut wal).unwrap();
        // Far from the end of a sector, and near it.
        wal.append(None, [entry(5, 2, data(20 + seed as usize * 2, 7))], true).unwrap();
        disk.crash_after(before + 2 + 1 + seed % 2);
        let _ = wal.replace_by_snapshot(10, 5, Default::default(), &hard_state(5, 0, 10));
        let after = disk.crash(CrashPolicy::Random(seed));
        match snapshots(&after, &dir()).unwrap().last().map(|mark| mark.index()) {
            Some(10) => {
                let (_, replay) = Wal::open_with(SMALL, Arc::new(after), &dir(), (10, 5)).unwrap();
                assert_eq!((replay.entries.len(), replay.hard_state.commit()), (0, 10));
                taken += 1;
            }
            _ => {
                let (_, replay) = open(&after).unwrap();
                assert_eq!((replay.entries.len(), replay.hard_state.commit()), (5, 2));
                kept += 1;
            }
        }
    }
    assert!(kept > 10 && taken > 10, "{kept} and {taken}");
}

#[test]
fn entries_that_do_not_follow_are_refused_and_harm_nothing() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    let gap = wal.append(None, [entry(1, 1, "a"), entry(3, 1, "c")], true);
    assert!(matches!(gap, Err(WalError::Gap { index: 3, last: 1 })));
    assert!(matches!(wal.append(None, [entry(0, 1, "a")], true), Err(WalError::Gap { .. })));
    wal.append(None, [entry(1, 1, "b")], true).unwrap();
    assert_eq!(open(&disk).unwrap().1.entries, [entry(1, 1, "b")]);
}

#[test]
fn a_commit_index_beyond_the_log_is_refused() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    wal.append(Some(&hard_state(1, 1, 2)), [entry(1, 1, "a")], true).unwrap();
    let error = open(&disk).err().unwrap();
    assert!(matches!(error, WalError::CommittedLost { last: 1, commit: 2, .. }), "{error}");
}

#[test]
fn a_log_that_contradicts_itself_is_refused() {
    type Script = fn(&mut Wal) -> Result<()>;
    let scripts: [(&str, Script); 4] = [
        ("replaces one that was committed", |wal| wal.append(None, [entry(2, 1, "x")], true)),
        ("of term 0 follows one of term 1", |wal| wal.append(None, [entry(4, 0, "x")], true)),
        ("follows one of term 1 and commit 2", |wal| wal.append(Some(&hard_state(1, 1, 1)), [], true)),
        ("a record holds no entry", |wal| wal.append(None, [Entry { kind: 3, ..entry(4, 1, "x") }], true)),
    ];
    for (text, script) in scripts {
        let disk = new_disk();
        let mut wal = create(&disk).unwrap();
        wal.append(Some(&hard_state(1, 1, 2)), (1..=3).map(|i| entry(i, 1, "a")), true).unwrap();
        script(&mut wal).unwrap();
        let error = open(&disk).err().unwrap().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn directories_that_are_no_log_are_told_apart() {
    let disk = new_disk();
    assert!(matches!(open(&disk), Err(WalError::NotFound { .. })));
    disk.create_dir_all(&dir()).unwrap();
    assert!(matches!(open(&disk), Err(WalError::NotFound { .. })));
    create(&disk).unwrap();
    assert!(matches!(create(&disk), Err(WalError::Exists { .. })));
    for name in ["0.tmp", "0000000000000000-0000000000000000.wal.broken", "README"] {
        disk.create(&dir().join(name)).unwrap();
    }
    open(&disk).unwrap();
    assert_eq!(segments(&disk).len(), 3, "left-overs of a cut are removed, other files are not");
    disk.create(&dir().join("old.wal")).unwrap();
    let error = open(&disk).err().unwrap();
    assert!(error.to_string().contains("/member/wal/old.wal is not named like a log segment"), "{error}");
}

#[test]
fn an_empty_or_headless_segment_is_refused() {
    for content in [&b""[..], &[0; 4096], b"hello, this is not a log at all."] {
        let disk = new_disk();
        disk.create_dir_all(&dir()).unwrap();
        let file = disk.create(&first_segment()).unwrap();
        file.write_at(0, content).unwrap();
        let error = open(&disk).err().unwrap();
        assert!(matches!(error, WalError::Corrupt { offset: 0, .. }), "{error}");
    }
}

#[test]
fn segments_of_two_members_are_refused() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    for i in 1..=9 {
        wal.append(None, [entry(i, 1, data(500, i))], true).unwrap();
    }
    let second = dir().join(&segments(&disk)[1]);
    let other = new_disk();
    let mut wal =
        Wal::create_with(SMALL, Arc::new(other.clone()), &dir(), Metadata { node_id: 1, cluster_id: 1 }).unwrap();
    for i in 1..=9 {
        wal.append(None, [entry(i, 1, data(500, i))], true).unwrap();
    }
    disk.create(&second).unwrap().write_at(0, &other.read(&second).unwrap()).unwrap();
    let error = open(&disk).err().unwrap().to_string();
    assert!(error.contains("does not continue the one before it"), "{error}");
}

#[test]
fn a_failed_write_or_sync_is_the_last() {
    type Fault = fn(&SimulatedDisk);
    let faults: [Fault; 3] = [|disk| disk.fail_write(1), |disk| disk.fail_sync(1), |disk| disk.limit_bytes(1000)];
    for fault in faults {
        let disk = new_disk();
        let mut wal =
            Wal::create_with(Options { segment_bytes: 512 }, Arc::new(disk.clone()), &dir(), METADATA).unwrap();
        fault(&disk);
        let first = wal.append(None, [entry(1, 1, data(2000, 1))], true).unwrap_err().to_string();
        disk.limit_bytes(u64::MAX);
        let operations = disk.operations();
        assert_eq!(wal.append(None, [entry(1, 1, "b")], true).unwrap_err().to_string(), first);
        assert_eq!(wal.sync().unwrap_err().to_string(), first);
        assert_eq!(wal.save_snapshot(1, 1, None).unwrap_err().to_string(), first);
        assert_eq!(wal.release(1).unwrap_err().to_string(), first);
        assert_eq!(disk.operations(), operations, "nothing is tried again");
    }
}

#[test]
fn one_batch_is_one_write_and_one_sync() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    let operations = disk.operations();
    wal.append(Some(&hard_state(1, 1, 0)), (1..=9).map(|i| entry(i, 1, "a")), true).unwrap();
    assert_eq!(disk.operations() - operations, 2);
    wal.append(Some(&hard_state(1, 1, 9)), [], false).unwrap();
    assert_eq!(disk.operations() - operations, 3);
    wal.append(None, [], false).unwrap();
    assert_eq!(disk.operations() - operations, 3);
}

/// The page cache shows bytes that no sync covered. Raft is given these entries, and may then acknowledge them.
#[test]
fn what_open_returns_survives_a_power_loss() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    wal.append(Some(&hard_state(1, 1, 0)), [entry(1, 1, "a")], false).unwrap();
    drop(wal);
    let (_, replay) = open(&disk).unwrap();
    assert_eq!(replay.entries.len(), 1);
    let (_, after) = open(&disk.crash(CrashPolicy::DropUnsynced)).unwrap();
    assert_eq!(after.entries, replay.entries);
}

/// After a failed sync the kernel takes the pages for clean, and no other sync writes them. So what a killed process
/// left is written again, and what the start that found it left, too.
#[test]
fn what_open_returns_survives_a_power_loss_although_a_sync_of_it_has_failed() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    disk.fail_sync(1);
    wal.append(Some(&hard_state(1, 1, 0)), [entry(1, 1, "a")], true).unwrap_err();
    let killed = disk.crash(CrashPolicy::Kill);
    let survives = |disk: SimulatedDisk, story: &str| {
        let (_, replay) = open(&disk).unwrap();
        assert_eq!(replay.entries.len(), 1, "{story}");
        let (_, after) = open(&disk.crash(CrashPolicy::DropUnsynced)).unwrap();
        assert_eq!(after.entries, replay.entries, "{story}");
    };
    survives(killed.fork(), "the sync of the append failed");
    for sync in 1.. {
        let restarted = killed.fork();
        restarted.fail_sync(sync);
        if open(&restarted).is_ok() {
            assert!(sync > 1, "a start syncs");
            break;
        }
        survives(restarted.crash(CrashPolicy::Kill), &format!("sync {sync} of the start failed, too"));
    }
}
