//! The power goes after every single operation of a script, in every way.

use super::*;

/// Ways in which unsynced writes survive; each crash point sees all of them.
const SEEDS: u64 = 12;

/// What the script was told: the log holds the entries of all batches that were acknowledged.
#[derive(Clone, Debug, Default)]
struct Told {
    created: bool,
    snapshot: (u64, u64),
    /// The log after the last acknowledged call, and as it will be if the one under way is found whole.
    entries: Vec<Entry>,
    under_way: Vec<Entry>,
    hard_state: HardState,
}

impl Told {
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

/// Create, appends of several sizes, a replaced tail, cuts, snapshots and releases.
fn script(disk: &SimulatedDisk, told: &mut Told) -> Result<()> {
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
        let sizes = [0, 700, 40 + 300 * (round % 3) as usize];
        let entries: Vec<Entry> = (from..).zip(sizes).map(|(i, size)| entry(i, term, data(size, i + term))).collect();
        told.append(&mut wal, hard_state(term, 1, from - 1), &entries, true)?;
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

/// Opens what is left and compares it with what was told.
fn check(disk: &SimulatedDisk, told: &Told, context: &str) {
    let exists = Wal::exists(disk, &dir()).unwrap();
    assert!(exists || !told.created, "{context}: the log is gone");
    if !exists {
        create(disk).unwrap_or_else(|e| panic!("{context}: {e}"));
        return;
    }
    // A crash in the middle of saving a snapshot may have left its mark; the caller uses the newest it knows.
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

/// The log that was found is one that can be used, and what is written now is found again.
fn go_on(wal: &mut Wal, disk: &SimulatedDisk, told: &Told, context: &str) {
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
    [CrashPolicy::DropUnsynced, CrashPolicy::KeepUnsynced].into_iter().chain((0..SEEDS).map(CrashPolicy::Random))
}

fn operations_of_script() -> u64 {
    let disk = new_disk();
    let mut told = Told::default();
    script(&disk, &mut told).unwrap();
    check(&disk.crash(CrashPolicy::DropUnsynced), &told, "no crash");
    disk.operations()
}

#[test]
fn nothing_acknowledged_is_lost_wherever_the_power_goes() {
    let (mut cuts, operations) = (0, operations_of_script());
    assert!(operations > 60, "the script does something: {operations}");
    for n in new_disk().operations()..operations {
        for policy in policies() {
            let disk = new_disk();
            disk.crash_after(n);
            let mut told = Told::default();
            script(&disk, &mut told).unwrap_err();
            let after = disk.crash(policy);
            let torn = snapshots_torn(&after);
            cuts += u64::from(torn);
            check(&after, &told, &format!("crash after {n} operations, {policy:?}"));
        }
    }
    assert!(cuts > 20, "the crashes tear writes: {cuts}");
}

/// Whether the log as found has a torn tail.
fn snapshots_torn(disk: &SimulatedDisk) -> bool {
    if !Wal::exists(disk, &dir()).unwrap() {
        return false;
    }
    let segments = segment::list(disk, &dir()).unwrap();
    read::read(disk, &dir(), segment::newest_run(&segments), None).is_ok_and(|(replay, _)| replay.cut.is_some())
}

/// The power goes again while the log is being repaired.
#[test]
fn a_crash_during_recovery_is_recovered_from() {
    for seed in 0..40 {
        let disk = new_disk();
        let mut told = Told::default();
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
