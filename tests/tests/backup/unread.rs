//! Clients of a backup that do not read it, or go away: they hold back no request and no compaction, and what they held
//! is free afterwards.

use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::*;
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind};
use metastore_tests::random::Random;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::bad_days::load;
use crate::bad_days::observe::{eventually, forget_peak, memory_kib, metrics, open_calls};

/// Together more than all that can be in flight on a connection, and less than the log with which the Memory engine
/// writes its state.
const KEYS: usize = 12_000;
const VALUE_BYTES: usize = 4 << 10;
const ALL_KIB: u64 = (KEYS * VALUE_BYTES) as u64 >> 10;
/// The entries of the log that stay in memory for other members would hide the memory of the state.
const FEW_ENTRIES: [&str; 2] = ["--snapshot-count=1", "--snapshot-catchup-entries=1"];
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(20);
/// A minute until the client is given up, and some time to notice that.
const GIVEN_UP: Duration = Duration::from_secs(100);
/// The clients that go away, and the keys that are written while each of them is there.
const VANISHING: usize = 20;
const KEYS_MEANWHILE: usize = KEYS / 10;
/// Memory that a backup takes: buffers of the connection, pages of the database, and the blocks that RocksDB keeps of
/// all that it reads.
const BACKUP_KIB: u64 = 48 << 10;

each_engine!(a_client_that_does_not_read_its_backup_is_given_up, clients_that_vanish_leave_nothing_of_their_backups);

/// Writes keys anew, with values that do not compress and differ from round to round. Returns the revision of a further
/// write.
async fn write(client: &Client, keys: usize, round: usize) -> i64 {
    let value = |number: usize| {
        let mut random = Random::new((round * KEYS + number) as u64);
        (0..VALUE_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect::<Vec<_>>()
    };
    let put = |number: usize| PutRequest {
        key: format!("backup/{number:06}").into(),
        value: value(number).into(),
        ..PutRequest::default()
    };
    load(client, keys, put).await.expect("keys are written");
    let put = timeout(ANSWER, client.unary::<_, PutResponse>(paths::PUT, put(0))).await;
    put.expect("nobody holds up a put").expect("a put").header.expect("a header").revision
}

/// Drops all old versions.
async fn compact(client: &Client, revision: i64) {
    let compact = CompactionRequest { revision, physical: true };
    let done = timeout(ANSWER, client.unary::<_, CompactionResponse>(paths::COMPACT, compact)).await;
    done.expect("nobody holds up a compaction").expect("it compacts");
}

/// The memory of the process; with RocksDB, the bytes of its files once they are defragmented.
async fn held_kib(engine: EngineKind, member: &Member, client: &Client) -> u64 {
    match engine {
        EngineKind::Memory => memory_kib(member.pid()).0,
        EngineKind::RocksDb => {
            let done = client.unary::<_, DefragmentResponse>(paths::DEFRAGMENT, DefragmentRequest {});
            timeout(ANSWER, done).await.expect("nobody holds up a defragmentation").expect("it defragments");
            metrics(member.client_address())["metastore_engine_disk_bytes"] as u64 >> 10
        }
    }
}

fn a_client_that_does_not_read_its_backup_is_given_up(engine: EngineKind) {
    let Some(subject) = programs::or_skip("unread backup", programs::subject(engine)) else { return };
    let member = Member::start(&subject, &FEW_ENTRIES);
    let address = member.client_address();
    block_on(async {
        let (reader, client) = (Client::new(address), Client::new(address));
        write(&client, KEYS, 0).await;
        let before = held_kib(engine, &member, &client).await;
        forget_peak(member.pid());
        let (memory, _) = memory_kib(member.pid());
        let opened = reader.open_server_stream::<_, SnapshotResponse>(paths::SNAPSHOT, SnapshotRequest {}).await;
        let mut backup = opened.expect("it opens");
        let first = backup.message().await.expect("a piece").expect("a piece");
        let began = Instant::now();
        let (_, peak) = memory_kib(member.pid());
        assert!(first.remaining_bytes >> 10 > ALL_KIB, "{first:?}");
        assert!(peak < memory + BACKUP_KIB, "{peak} KiB, {memory} before");

        let revision = write(&client, KEYS, 1).await;
        compact(&client, revision).await;
        let wait = || began.elapsed() < GIVEN_UP && open_calls(&metrics(address), "Snapshot") > 0.0;
        while wait() {
            std::thread::park_timeout(Duration::from_millis(100));
        }
        let (refused, bytes) = rest(&mut backup).await;
        let text = "the snapshot is given up: its client took less than 262144 bytes in 60 s";
        assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
        assert!(bytes < first.remaining_bytes);
        // A third generation takes the place of the first, which the backup had held back.
        let revision = write(&client, KEYS, 2).await;
        compact(&client, revision).await;
        let after = held_kib(engine, &member, &client).await;
        println!("unread backup: {before} KiB before, {after} after");
        // In memory, the allocator keeps what two generations have needed: the next test shows there that versions
        // become free.
        let grown = engine == EngineKind::RocksDb && after > before + ALL_KIB / 2;
        assert!(!grown, "{after} KiB, {before} before");
    });
}

/// The part that is on its way still arrives, and then the reason of the end.
async fn rest(backup: &mut tonic::Streaming<SnapshotResponse>) -> (Status, u64) {
    let mut bytes = 0;
    loop {
        match timeout(ANSWER, backup.message()).await.expect("the backup has ended") {
            Ok(piece) => bytes += piece.expect("not its end").blob.len() as u64,
            Err(status) => return (status, bytes),
        }
    }
}

fn clients_that_vanish_leave_nothing_of_their_backups(engine: EngineKind) {
    let Some(subject) = programs::or_skip("vanishing backups", programs::subject(engine)) else { return };
    let member = Member::start(&subject, &FEW_ENTRIES);
    let address = member.client_address();
    let before = block_on(async {
        let client = Client::new(address);
        write(&client, KEYS, 0).await;
        held_kib(engine, &member, &client).await
    });
    let directory = || std::fs::read_dir(member.data_directory().join("member")).expect("a directory").count();
    let entries = directory();
    for round in 1..=VANISHING {
        // The connections end with their runtime.
        block_on(async {
            let (reader, client) = (Client::new(address), Client::new(address));
            let opened = reader.open_server_stream::<_, SnapshotResponse>(paths::SNAPSHOT, SnapshotRequest {}).await;
            opened.expect("it opens").message().await.expect("a piece").expect("a piece");
            let revision = write(&client, KEYS_MEANWHILE, round).await;
            compact(&client, revision).await;
        });
    }
    eventually("all backups are over", || open_calls(&metrics(address), "Snapshot") == 0.0);
    let after = block_on(async { held_kib(engine, &member, &Client::new(address)).await });
    println!("vanished backups: {before} KiB before, {after} after");
    // If each backup held what it has seen, all versions of all rounds would be there: twice as much again.
    assert!(after < before + ALL_KIB * 3 / 2, "{after} KiB, {before} before");
    assert_eq!(directory(), entries);
}
