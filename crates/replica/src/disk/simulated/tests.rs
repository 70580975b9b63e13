//! A simulated disk is useful only if it forgets what was not synced.

use super::*;

fn path(name: &str) -> PathBuf {
    PathBuf::from(name)
}

/// A disk with a durable file `/d/f` that holds `bytes`.
fn with_file(bytes: &[u8]) -> (SimulatedDisk, Box<dyn DiskFile>) {
    let disk = SimulatedDisk::new();
    disk.create_dir_all(&path("/d")).unwrap();
    let file = disk.create(&path("/d/f")).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(&path("/d")).unwrap();
    disk.sync_dir(&path("/")).unwrap();
    (disk, file)
}

fn found(disk: &SimulatedDisk, policy: CrashPolicy) -> Vec<u8> {
    disk.crash(policy).read(&path("/d/f")).unwrap()
}

#[test]
fn bytes_not_synced_are_gone() {
    let (disk, file) = with_file(b"old");
    file.write_at(0, b"new and longer").unwrap();
    assert_eq!(disk.read(&path("/d/f")).unwrap(), b"new and longer");
    assert_eq!(found(&disk, CrashPolicy::DropUnsynced), b"old");
}

#[test]
fn synced_bytes_and_kept_bytes_are_found() {
    let (disk, file) = with_file(b"old");
    file.write_at(0, b"new").unwrap();
    assert_eq!(found(&disk, CrashPolicy::KeepUnsynced), b"new");
    let (disk, file) = with_file(b"old");
    file.write_at(0, b"new").unwrap();
    file.sync_data().unwrap();
    assert_eq!(found(&disk, CrashPolicy::DropUnsynced), b"new");
}

#[test]
fn a_kill_keeps_the_page_cache_and_a_later_power_loss_takes_it() {
    let (disk, file) = with_file(b"old");
    file.write_at(0, b"new").unwrap();
    disk.rename(&path("/d/f"), &path("/d/g")).unwrap();
    let killed = disk.crash(CrashPolicy::Kill);
    assert_eq!(killed.read(&path("/d/g")).unwrap(), b"new");
    assert!(file.write_at(0, b"dead").is_err(), "the process is dead");
    let lost = killed.crash(CrashPolicy::DropUnsynced);
    assert_eq!(
        (lost.list(&path("/d")).unwrap(), lost.read(&path("/d/f")).unwrap()),
        (vec!["f".into()], b"old".to_vec())
    );
    // Bytes that the next process syncs are durable.
    let (disk, file) = with_file(b"old");
    file.write_at(0, b"new").unwrap();
    let killed = disk.crash(CrashPolicy::Kill);
    killed.open(&path("/d/f")).unwrap().sync_data().unwrap();
    assert_eq!(found(&killed, CrashPolicy::DropUnsynced), b"new");
}

#[test]
fn what_a_failed_sync_left_in_the_page_cache_survives_a_kill_and_no_power_loss() {
    let (disk, file) = with_file(b"old");
    file.write_at(0, b"new").unwrap();
    disk.fail_sync(1);
    file.sync_data().unwrap_err();
    let killed = disk.crash(CrashPolicy::Kill);
    let file = killed.open(&path("/d/f")).unwrap();
    assert_eq!(killed.read(&path("/d/f")).unwrap(), b"new");
    file.sync_data().unwrap();
    assert_eq!(found(&killed, CrashPolicy::DropUnsynced), b"old", "the pages were clean");
}

#[test]
fn a_name_needs_a_sync_of_its_directory() {
    let (disk, _) = with_file(b"x");
    let file = disk.create(&path("/d/g")).unwrap();
    file.write_at(0, b"g").unwrap();
    file.sync_all().unwrap();
    disk.rename(&path("/d/f"), &path("/d/h")).unwrap();
    assert_eq!(disk.list(&path("/d")).unwrap(), ["g", "h"]);
    let after = disk.crash(CrashPolicy::DropUnsynced);
    assert_eq!(after.list(&path("/d")).unwrap(), ["f"]);
}

#[test]
fn a_synced_name_of_an_unsynced_file_is_empty() {
    let (disk, _) = with_file(b"x");
    disk.create(&path("/d/g")).unwrap().write_at(0, b"g").unwrap();
    disk.rename(&path("/d/g"), &path("/d/h")).unwrap();
    disk.sync_dir(&path("/d")).unwrap();
    let after = disk.crash(CrashPolicy::DropUnsynced);
    assert_eq!(after.list(&path("/d")).unwrap(), ["f", "h"]);
    assert_eq!(after.read(&path("/d/h")).unwrap(), b"");
}

#[test]
fn a_removed_file_comes_back_until_the_directory_is_synced() {
    let (disk, _) = with_file(b"x");
    disk.remove_file(&path("/d/f")).unwrap();
    assert!(!disk.exists(&path("/d/f")).unwrap());
    assert!(disk.crash(CrashPolicy::DropUnsynced).exists(&path("/d/f")).unwrap());
    let (disk, _) = with_file(b"x");
    disk.remove_file(&path("/d/f")).unwrap();
    disk.sync_dir(&path("/d")).unwrap();
    assert!(!disk.crash(CrashPolicy::DropUnsynced).exists(&path("/d/f")).unwrap());
}

#[test]
fn torn_writes_keep_whole_sectors_and_leave_the_rest_as_it_was() {
    let (mut prefix, mut scattered) = (false, false);
    for seed in 0..64 {
        let (disk, file) = with_file(&[1; 8 * SECTOR_BYTES]);
        file.write_at(100, &[2; 6 * SECTOR_BYTES]).unwrap();
        let bytes = found(&disk, CrashPolicy::Random(seed));
        assert_eq!(bytes.len(), 8 * SECTOR_BYTES);
        let sectors: Vec<bool> = bytes
            .chunks(SECTOR_BYTES)
            .map(|sector| {
                assert!(sector[100..].iter().all(|b| *b == sector[100]) || sector[..100].iter().all(|b| *b == 2));
                sector.contains(&2)
            })
            .collect();
        let changes = sectors.windows(2).filter(|pair| pair[0] != pair[1]).count();
        prefix |= changes == 1 && sectors[0] && !sectors[5];
        scattered |= changes > 2;
    }
    assert!(prefix && scattered, "the seeds produce both kinds of torn write");
}

#[test]
fn a_sector_is_found_in_a_state_that_it_was_in() {
    for seed in 0..64 {
        let (disk, file) = with_file(&[0; SECTOR_BYTES]);
        file.write_at(0, &[1; 10]).unwrap();
        file.write_at(10, &[2; 10]).unwrap();
        let bytes = found(&disk, CrashPolicy::Random(seed));
        assert!(bytes[0] == 1 || bytes[10] == 0, "the second write without the first: seed {seed}");
    }
}

#[test]
fn a_cut_file_is_whole_again_until_synced() {
    let (disk, file) = with_file(&[1; 2000]);
    file.set_len(10).unwrap();
    file.allocate(0, 3000).unwrap();
    assert_eq!(disk.read(&path("/d/f")).unwrap()[8..12], [1, 1, 0, 0]);
    assert_eq!(found(&disk, CrashPolicy::DropUnsynced), [1; 2000]);
}

#[test]
fn operations_are_counted_and_the_crash_comes_after_n() {
    let (disk, file) = with_file(b"x");
    let n = disk.operations();
    assert_eq!(n, 6, "create directory, create, write, sync, two directory syncs");
    disk.crash_after(n + 1);
    file.write_at(0, b"y").unwrap();
    assert_eq!(disk.read(&path("/d/f")).unwrap(), b"y");
    let error = file.sync_data().unwrap_err();
    assert!(error.to_string().contains("simulated crash"), "{error}");
    assert!(disk.read(&path("/d/f")).is_err(), "nothing works after the crash");
}

#[test]
fn after_a_failed_sync_no_later_one_helps() {
    let (disk, file) = with_file(b"old");
    disk.fail_sync(2);
    file.sync_data().unwrap();
    file.write_at(0, b"new").unwrap();
    assert_eq!(file.sync_data().unwrap_err().source.raw_os_error(), Some(EIO));
    file.sync_data().unwrap();
    assert_eq!(disk.read(&path("/d/f")).unwrap(), b"new");
    assert_eq!(found(&disk, CrashPolicy::DropUnsynced), b"old");
}

#[test]
fn a_full_disk_takes_what_fits() {
    let (disk, file) = with_file(b"x");
    disk.limit_bytes(1024);
    disk.fail_write(2);
    file.write_at(0, &[1; 600]).unwrap();
    assert_eq!(file.write_at(0, b"ab").unwrap_err().source.raw_os_error(), Some(EIO));
    assert_eq!(file.write_at(600, &[2; 600]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 1024);
    assert_eq!(file.allocate(0, 2000).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(0, &[1; 1024]).unwrap();
}

#[test]
fn a_directory_is_locked_once_and_free_after_a_crash() {
    let (disk, _) = with_file(b"x");
    let lock = disk.lock_dir(&path("/d")).unwrap();
    assert!(disk.lock_dir(&path("/d")).err().unwrap().is_locked());
    assert!(disk.crash(CrashPolicy::DropUnsynced).lock_dir(&path("/d")).is_ok());
    drop(lock);
}
