//! A disk that runs out of space: the alarm comes before the disk is full, reads go on, deletes and compactions free
//! space, and the alarm can be taken back.

use std::path::Path;

use bytes::Bytes;
use metastore_tests::mount::Mount;
use metastore_tests::random::Random;
use tokio::task::JoinSet;

use super::*;

/// The size of the disk. A member keeps a quarter of so small a disk free for its log and for the work of its engine.
const MIB: u32 = 800;
/// The same for RocksDB: on a smaller disk, flushes and compactions that run when the alarm comes may take most of the
/// rest.
const MIB_FOR_ROCKSDB: u32 = 2_048;
/// A segment of the log.
const SEGMENT_BYTES: u64 = 64_000_000;
/// Less than what a member keeps free.
const FILLED_UP_TO_MIB: u32 = 100;
const LARGE_BYTES: usize = 512 << 10;
/// The number of clients that write at the same time.
const WRITERS: usize = 16;
/// The most puts of each, together more than the disk holds.
const PUTS_OF_ONE: usize = 250;
/// No quota, so that all alarms are those of the disk.
const NO_QUOTA: &str = "--quota-backend-bytes=-1";
const WARNING: &str = "the disk is short of space; raising the alarm NOSPACE";

each_engine!(
    the_alarm_comes_before_the_disk_is_full,
    a_disk_that_another_program_fills_raises_the_alarm,
    a_disk_of_the_log_raises_the_alarm,
);

/// A disk, and a member with these flags and those for the places of its files on the disk.
fn start(
    engine: EngineKind,
    mib: u32,
    (test, flags): (&str, &[&str]),
    places: &[(&str, &str)],
) -> Option<(Member, Mount)> {
    let found = programs::subject(engine).and_then(|subject| Ok((subject, Mount::in_memory(mib)?)));
    let (subject, mount) = programs::or_skip(test, found)?;
    let places: Vec<_> =
        places.iter().map(|(flag, name)| format!("{flag}={}", mount.path().join(name).display())).collect();
    let flags: Vec<_> = flags.iter().copied().chain(places.iter().map(String::as_str)).collect();
    Some((Member::start(&subject, &flags), mount))
}

/// Bytes that no engine can compress.
fn noise(seed: u64) -> Bytes {
    let mut random = Random::new(seed);
    (0..LARGE_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect()
}

/// Many clients put until all are refused.
async fn fill_at_full_speed(address: &str) {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let client = Client::new(address);
        writers.spawn(async move {
            for number in 0..PUTS_OF_ONE {
                let key = format!("large/{writer}/{}", number % 4).into();
                let value = noise((writer * PUTS_OF_ONE + number) as u64);
                let put = PutRequest { key, value, ..PutRequest::default() };
                client.unary::<_, PutResponse>(paths::PUT, put).await?;
            }
            Ok::<(), Status>(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        refused(ended.expect("a writer does not panic"));
    }
}

/// Whether a state file is being written.
fn has_unfinished(directory: &Path) -> bool {
    let mut files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    files.any(|file| file.path().extension().is_some_and(|extension| extension == "tmp"))
}

fn short_of_space(address: &str) -> f64 {
    observe::metrics(address)["metastore_disk_short_of_space"]
}

/// Deletes everything; nothing of it can be read any more after the compaction.
async fn delete_all(client: &Client) {
    let all = DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: false };
    let deleted: DeleteRangeResponse = client.unary(paths::DELETE_RANGE, all).await.expect("a delete needs no space");
    free(client, deleted.header.expect("a header").revision).await;
}

fn the_alarm_comes_before_the_disk_is_full(engine: EngineKind) {
    let test = "a disk that is filled by puts";
    let mib = if engine == EngineKind::RocksDb { MIB_FOR_ROCKSDB } else { MIB };
    let Some((mut member, mount)) = start(engine, mib, (test, &[NO_QUOTA]), &[("--data-dir", "data")]) else { return };
    let address = member.client_address().to_owned();
    let size = mount.free_bytes();
    // The second time shows that the space that was freed can be used.
    for round in ["first", "second"] {
        block_on(fill_at_full_speed(&address));
        let left = mount.free_bytes();
        println!("{test}, {engine:?}, {round} round: {left} bytes are left");
        assert!(left > SEGMENT_BYTES, "{round} round: only {left} bytes are left");
        assert_eq!(short_of_space(&address), 1.0);
        let alarm = block_on(async {
            let client = Client::new(&address);
            what_needs_space_is_refused(&client).await;
            delete_all(&client).await;
            alarms(&client).await[0]
        });
        // If another program takes the space that the member needs no longer, the member gives back more, until it has
        // what it wants, or has nothing more to give.
        eventually("no state is being written", || !has_unfinished(&mount.path().join("data/member/snap")));
        let filled = mount.fill_up_to(FILLED_UP_TO_MIB);
        eventually("files are removed", || {
            block_on(async { defragment(&Client::new(&address)).await });
            let free = mount.free_bytes();
            free > u64::from(mib / 4) << 20 || free + filled > size - 2 * SEGMENT_BYTES
        });
        mount.remove_filler();
        eventually("the member has seen it", || short_of_space(&address) == 0.0);
        block_on(async {
            let client = Client::new(&address);
            refused(put(&client, 1).await);
            disarm(&client, alarm).await;
            put(&client, VALUE_BYTES).await.expect("there is space again");
            assert_eq!(alarms(&client).await, []);
        });
    }
    assert!(member.log().iter().any(|line| line.contains(WARNING)), "{:#?}", member.log());
    member.kill();
    member.restart();
    block_on(async { put(&Client::new(&address), 1).await }).expect("and after kill -9");
}

fn a_disk_that_another_program_fills_raises_the_alarm(engine: EngineKind) {
    let (test, flags) = ("a disk that another program fills", [NO_QUOTA, "--quota-auto-disarm-percent=90"]);
    let Some((member, mount)) = start(engine, MIB, (test, &flags), &[("--data-dir", "data")]) else { return };
    filled_by_another(&member, &mount);
}

fn a_disk_of_the_log_raises_the_alarm(engine: EngineKind) {
    let (test, flags) = ("a disk of the log", [NO_QUOTA, "--quota-auto-disarm-percent=90"]);
    let Some((member, mount)) = start(engine, MIB, (test, &flags), &[("--wal-dir", "wal")]) else { return };
    filled_by_another(&member, &mount);
}

fn filled_by_another(member: &Member, mount: &Mount) {
    let address = member.client_address().to_owned();
    let raised = || block_on(async { alarms(&Client::new(&address)).await.first().copied() });
    mount.fill_up_to(MIB / 4 + 10);
    // A put that is taken shows that the member has looked at the disk, or has still to do so.
    block_on(async { put(&Client::new(&address), 1).await }).expect("more than the margin is free");
    mount.remove_filler();
    mount.fill_up_to(MIB / 4 - 10);
    eventually("an idle member raises the alarm", || raised().is_some());
    block_on(async {
        let client = Client::new(&address);
        what_needs_space_is_refused(&client).await;
        // Taken back without new space, the alarm comes again with the next write.
        disarm(&client, raised_by(&client).await).await;
        refused(put(&client, 1).await);
        raised_by(&client).await;
    });
    mount.remove_filler();
    eventually("the alarm is taken back by itself", || raised().is_none());
    block_on(async { put(&Client::new(&address), VALUE_BYTES).await }).expect("there is space again");
}

async fn raised_by(client: &Client) -> AlarmMember {
    *alarms(client).await.first().expect("an alarm is raised")
}
