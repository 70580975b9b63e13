//! The power is lost after every single operation of a script, with every way in which unsynced writes survive.

use super::*;
use crate::disk::SECTOR_BYTES;

/// Number of random ways in which unsynced writes survive; each crash point is tried with all of them.
const SEEDS: u64 = 12;

/// Number of layouts of the script that are tried.
const LAYOUTS: usize = 4;

/// The acknowledgements that the script received: the log must hold the entries of all acknowledged batches.
#[derive(Clone, Debug, Default)]
struct Acknowledged {
    created: bool,
    snapshot: (u64, u64),
    /// The log after the last acknowledged call, and the log as it will be if the batch under way is found whole.
    entries: Vec<Entry>,
    under_way: Vec<Entry>,
    hard_state: HardState,
}

impl Acknowledged {
    fn append(&mut self, wal: &mut Wal, state: HardState, entries: &[Entry], sync: bool) -> Result<()> {
        if let Some(first) = entries.first() {
            self.under_way.truncate(first.index as usize - 1);
            self.under_way.extend_from_slice(entries);
        }
        wal.append(Some(&state), entries.iter().cloned(), sync)?;
        if sync {
            self.entries = self.under_way.clone();
            self.hard_state = state;
        }
        Ok(())
    }
}

/// Create, appends of several sizes, a replaced tail, cuts, snapshots and releases. The layout shifts everything a
/// little, so that sector boundaries fall elsewhere.
fn script(disk: &SimulatedDisk, told: &mut Acknowledged, layout: usize) -> Result<()> {
    let mut wal = create(disk)?;
    told.created = true;
    let mut term = 1;
    for round in 0..14 {
        let last = told.entries.len() as u64;
        let mut from = last + 1;
        if round % 5 == 4 {
            // Another leader; the last entry was not committed.
            (term, from) = (term + 1, last);
        }
        let sizes = [0, 650 + 13 * layout, 40 + 300 * (round % 3)];
        let entries: Vec<Entry> = (from..).zip(sizes).map(|(i, size)| entry(i, term, data(size, i + term))).collect();
        // Sometimes the sync comes later, and a segment becomes full before it.
        told.append(&mut wal, hard_state(term, 1, from - 1), &entries, round % 3 == 0)?;
        told.append(&mut wal, hard_state(term, 1, from - 1), &[], true)?;
        let commit = from - 1 + sizes.len() as u64 - 1;
        told.append(&mut wal, hard_state(term, 1, commit), &[], false)?;
        if round % 4 == 3 {
            let term_of_commit = told.entries[commit as usize - 1].term;
            wal.save_snapshot(commit, term_of_commit, None)?;
            told.snapshot = (commit, term_of_commit);
            wal.release(commit)?;
        }
    }
    Ok(())
}

/// Opens the log after the crash and compares it with the acknowledgements.
fn check(disk: &SimulatedDisk, told: &Acknowledged, context: &str) {
    let exists = Wal::exists(disk, &dir()).unwrap();
    assert!(exists || !told.created, "{context}: the log is gone");
    if !exists {
        create(disk).unwrap_or_else(|e| panic!("{context}: {e}"));
        return;
    }
    // A crash while a snapshot was being saved may have left its record; the caller uses the newest one that it knows.
    let marks = snapshots(disk, &dir()).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(marks.iter().any(|mark| (mark.index(), mark.term()) == told.snapshot), "{context}: {marks:?}");
    let opened = Wal::open_with(SMALL, Arc::new(disk.clone()), &dir(), told.snapshot);
    let (mut wal, replay) = opened.unwrap_or_else(|e| panic!("{context}: {e}"));
    let begin = told.snapshot.0 as usize;
    let found = &replay.entries;
    let told_entries = &told.entries[begin.min(told.entries.len())..];
    let under_way = &told.under_way[begin.min(told.under_way.len())..];
    // The batch under way may be there in part: a prefix of its records.
    let same = found.iter().zip(under_way).take_while(|(a, b)| a == b).count();
    let acknowledged = found.len() >= told_entries.len() && found[..told_entries.len()] == *told_entries;
    assert!(acknowledged || same == found.len(), "{context}: neither told nor under way");
    let kept = told_entries.iter().zip(under_way).take_while(|(a, b)| a == b).count();
    assert!(found.len() >= kept, "{context}: acknowledged entries are missing");
    assert!(acknowledged || kept < told_entries.len() && found.len() > kept, "{context}: the tail is gone");
    assert!(same == found.len() || found.len() == told_entries.len(), "{context}: entries from nowhere");
    let state = replay.hard_state;
    let promised = &told.hard_state;
    assert!(state.term() >= promised.term() && state.commit() >= promised.commit(), "{context}: {state:?}");
    go_on(&mut wal, disk, told, context);
}

/// The log that was found can be used, and entries written now are found again.
fn go_on(wal: &mut Wal, disk: &SimulatedDisk, told: &Acknowledged, context: &str) {
    let (last, term) = (wal.last_index(), wal.hard_state().term() + 1);
    let more = [entry(last + 1, term, data(600, 1)), entry(last + 2, term, data(60, 2))];
    wal.append(Some(&hard_state(term, 2, last)), more.clone(), true).unwrap();
    let after = disk.crash(CrashPolicy::DropUnsynced);
    let opened = Wal::open_with(SMALL, Arc::new(after), &dir(), told.snapshot);
    let (_, replay) = opened.unwrap_or_else(|e| panic!("{context}, second start: {e}"));
    assert!(replay.entries.ends_with(&more), "{context}: what was written after the restart is gone");
    assert_eq!(replay.cut, None, "{context}: a clean log was cut");
}

fn policies() -> impl Iterator<Item = CrashPolicy> {
    let certain = [CrashPolicy::DropUnsynced, CrashPolicy::KeepUnsynced, CrashPolicy::Kill];
    certain.into_iter().chain((0..SEEDS).map(CrashPolicy::Random))
}

fn operations_of_script(layout: usize) -> u64 {
    let disk = new_disk();
    let mut told = Acknowledged::default();
    script(&disk, &mut told, layout).unwrap();
    check(&disk.crash(CrashPolicy::DropUnsynced), &told, "no crash");
    disk.operations()
}

#[test]
fn nothing_acknowledged_is_lost_wherever_the_power_goes() {
    let mut cuts = 0;
    for layout in 0..LAYOUTS {
        let operations = operations_of_script(layout);
        assert!(operations > 60, "the script does something: {operations}");
        for (n, policy) in (new_disk().operations()..operations).flat_map(|n| policies().map(move |policy| (n, policy)))
        {
            let disk = new_disk();
            disk.crash_after(n);
            let mut told = Acknowledged::default();
            script(&disk, &mut told, layout).unwrap_err();
            let after = disk.crash(policy);
            cuts += u64::from(is_torn(&after));
            check(&after, &told, &format!("layout {layout}, crash after {n} operations, {policy:?}"));
        }
    }
    assert!(cuts > 100, "the crashes tear writes: {cuts}");
}

/// Whether the log, as found on the disk, has a torn tail.
fn is_torn(disk: &SimulatedDisk) -> bool {
    if !Wal::exists(disk, &dir()).unwrap() {
        return false;
    }
    let segments = segment::list(disk, &dir()).unwrap();
    read::read(disk, &dir(), segment::newest_run(&segments), None, Keep::ALL)
        .is_ok_and(|(replay, _)| replay.cut.is_some())
}

/// The process is killed, and the page cache survives. A new process opens the log and relies on what it reads. Then
/// the power is lost.
#[test]
fn what_a_restarted_process_has_seen_survives_the_power() {
    let layout = 0;
    for n in new_disk().operations()..operations_of_script(layout) {
        let disk = new_disk();
        disk.crash_after(n);
        let mut told = Acknowledged::default();
        script(&disk, &mut told, layout).unwrap_err();
        let restarted = disk.fork();
        if !Wal::exists(&restarted, &dir()).unwrap() {
            continue;
        }
        let open_at = |disk: SimulatedDisk| Wal::open_with(SMALL, Arc::new(disk), &dir(), told.snapshot);
        let (_, seen) = open_at(restarted.clone()).unwrap();
        let (_, after) = open_at(restarted.crash(CrashPolicy::DropUnsynced)).unwrap_or_else(|e| panic!("{n}: {e}"));
        assert_eq!((after.entries, after.hard_state), (seen.entries, seen.hard_state), "killed after {n} operations");
        let restarted = disk.fork();
        let (mut wal, _) = open_at(restarted.clone()).unwrap();
        go_on(&mut wal, &restarted, &told, &format!("killed after {n} operations"));
    }
}

/// The power is lost again while the log is being repaired.
#[test]
fn a_crash_during_recovery_is_recovered_from() {
    for seed in 0..40 {
        let disk = new_disk();
        let mut told = Acknowledged::default();
        let mut wal = create(&disk).unwrap();
        told.created = true;
        told.append(&mut wal, hard_state(1, 1, 0), &[entry(1, 1, data(300, 1))], true).unwrap();
        disk.crash_after(disk.operations() + 1);
        let batch: Vec<Entry> = (2..5).map(|i| entry(i, 1, data(900, i))).collect();
        told.append(&mut wal, hard_state(1, 1, 1), &batch, true).unwrap_err();
        let torn = disk.crash(CrashPolicy::Random(seed));
        for n in 0..8 {
            let again = torn.fork();
            again.crash_after(n);
            let _ = open(&again);
            let after = again.crash(CrashPolicy::Random(seed * 31 + n));
            check(&after, &told, &format!("seed {seed}, second crash after {n} operations"));
        }
    }
}

/// The worst place for a repair: the record that closes the log crosses a sector boundary, and the next sector holds
/// old bytes.
#[test]
fn a_crash_during_recovery_at_a_sector_boundary_is_recovered_from() {
    let boundary = SECTOR_BYTES - 8;
    let with_first = |size| {
        let disk = new_disk();
        let mut wal = create(&disk).unwrap();
        wal.append(Some(&hard_state(1, 1, 0)), [entry(1, 1, data(size, 1))], true).unwrap();
        wal.append(Some(&hard_state(1, 1, 1)), [], false).unwrap();
        (written(&disk, &first_segment()).next_multiple_of(8), disk, wal)
    };
    let size = (200..600).find(|size| with_first(*size).0 % SECTOR_BYTES == boundary).expect("some size fits");
    let (end, disk, mut wal) = with_first(size);
    let first = entry(1, 1, data(size, 1));
    let told = Acknowledged {
        created: true,
        entries: vec![first.clone()],
        under_way: vec![first, entry(2, 1, data(1500, 2))],
        hard_state: hard_state(1, 1, 0),
        ..Acknowledged::default()
    };
    wal.append(None, told.under_way[1..].to_vec(), true).unwrap();
    // The first sectors of the batch were written; its third one was not.
    let lost = (end + 8 + SECTOR_BYTES) as u64;
    disk.open(&first_segment()).unwrap().write_at(lost, &[0; SECTOR_BYTES]).unwrap();
    let torn = disk.crash(CrashPolicy::KeepUnsynced);
    assert!(is_torn(&torn));
    for (n, seed) in (0..9).flat_map(|n| (0..40).map(move |seed| (n, seed))) {
        let again = torn.fork();
        again.crash_after(n);
        let _ = open(&again);
        check(&again.crash(CrashPolicy::Random(seed)), &told, &format!("seed {seed}, crash after {n} operations"));
    }
}
