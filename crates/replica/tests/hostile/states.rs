//! Arbitrary bytes as a state that another member sends, and as the two files of a snapshot: the properties that must
//! hold for any bytes. The fuzz target `snapshot` includes this file, so that a fuzzer and the plain tests check the
//! same properties.
//!
//! Each input is tried as it is, and once more with correct checksums: a checksum does not prove that the rows of a
//! state are sound.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use metastore_engine::{Engine, Memory};
use metastore_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
};
use metastore_proto::{Message, raftpb, walpb};
use metastore_replica::disk::{Disk, SimulatedDisk};
use metastore_replica::wal::Options;
use metastore_replica::{
    Bootstrap, Fatal, Founder, OpenEngine, OpenError, Output, Paths, ReceivedState, Replica, Settings, Timing,
};
use metastore_store::Store;
use metastore_store::command::{Command, Kind};
use metastore_store::mvcc::RangeQuery;
use metastore_store::schema::CONF_STATE;

/// The leader that sends the state.
const SENDER: u64 = 99;
/// Bytes of the stream's header, and of the head of each block. `crates/store/src/snapshot.rs` has the picture.
const HEADER_BYTES: usize = 36;
const FRAME_BYTES: usize = 8;
/// Bytes of a row before its key.
const ROW_HEAD_BYTES: usize = 9;
/// Maximum number of revisions that are read one by one.
const MOST_REVISIONS: i64 = 40;
/// Maximum number of steps of a compaction.
const MOST_STEPS: usize = 100;

/// Does the same as the fuzz target.
///
/// # Panics
/// If a member neither refuses the bytes nor goes on with them.
pub fn attempt(bytes: &[u8]) {
    for stream in [bytes.to_vec(), vouched_stream(bytes)] {
        arrive(&stream);
        start_with("state", &stream);
    }
    start_with("snap", bytes);
    start_with("snap", &vouched_record(bytes));
}

fn paths() -> Paths {
    Paths { data_dir: PathBuf::from("/data"), wal_dir: None }
}

/// The only member of its cluster; it writes a snapshot as soon as it can.
fn open(disk: &SimulatedDisk) -> Result<Replica, OpenError> {
    let mut settings = Settings::new("memory", Timing { election_ticks: 10, pre_vote: true }, 8);
    (settings.snapshot_log_bytes, settings.log) = (1, Options { segment_bytes: 4096 });
    let founder = Founder { name: "one".into(), peer_urls: vec!["http://127.0.0.1:2380".into()] };
    let bootstrap = Bootstrap::Found { members: vec![founder], own: "one".into(), cluster_token: "token".into() };
    let engine: OpenEngine = Arc::new(|_| Ok(Arc::new(Memory::new()) as Arc<dyn Engine>));
    Replica::open(settings, Arc::new(disk.clone()), paths(), || Ok(bootstrap), engine).map(|(replica, _)| replica)
}

/// Sends the bytes to a new member as the state that their header describes. Returns the member's last revision, if it
/// installs the state.
pub fn arrive(stream: &[u8]) -> Option<i64> {
    let mut replica = open(&SimulatedDisk::new()).expect("a new member");
    replica.process(&mut Output::default()).expect("a new member");
    let received = receive(&replica, stream).ok()?;
    let mut output = Output::default();
    replica.state_received(received).and_then(|()| replica.process(&mut output)).ok()?;
    Some(live_on(replica))
}

fn receive(replica: &Replica, stream: &[u8]) -> Result<ReceivedState, String> {
    let number = |at: usize| stream.get(at..at + 8).map_or(7, |bytes| u64::from_le_bytes(bytes.try_into().expect("8")));
    let metadata = raftpb::SnapshotMetadata {
        conf_state: Some(conf_state_in(stream).unwrap_or_default()),
        index: Some(number(12)),
        term: Some(number(20)),
    };
    let message = raftpb::Message {
        r#type: Some(raftpb::MessageType::MsgSnap.into()),
        to: Some(replica.id()),
        from: Some(SENDER),
        term: Some(number(20).max(replica.standing().term + 1)),
        snapshot: Some(raftpb::Snapshot { data: None, metadata: Some(metadata) }),
        ..raftpb::Message::default()
    };
    let mut incoming = replica.receiver().begin(message).map_err(|error| error.to_string())?;
    // The pieces end at arbitrary places.
    let piece = 1 + crc32c::crc32c(stream) as usize % 300;
    for piece in stream.chunks(piece) {
        incoming.take(piece).map_err(|error| error.to_string())?;
    }
    incoming.finish().map_err(|error| error.to_string())
}

/// The members that the state itself records; the sender's message names the same ones.
fn conf_state_in(stream: &[u8]) -> Option<raftpb::ConfState> {
    let at = stream.windows(CONF_STATE.len()).position(|bytes| bytes == CONF_STATE)? + CONF_STATE.len();
    let row: serde_json::Value = serde_json::Deserializer::from_slice(&stream[at..]).into_iter().next()?.ok()?;
    let ids = |field: &str| {
        let ids = row.get(field).and_then(serde_json::Value::as_array);
        ids.into_iter().flatten().filter_map(serde_json::Value::as_u64).collect()
    };
    Some(raftpb::ConfState {
        voters: ids("voters"),
        learners: ids("learners"),
        voters_outgoing: ids("voters_outgoing"),
        learners_next: ids("learners_next"),
        auto_leave: row.get("auto_leave").and_then(serde_json::Value::as_bool),
    })
}

/// Starts a member after one of its snapshot's files was replaced by these bytes. Returns the member's last revision,
/// if it starts.
pub fn start_with(extension: &str, bytes: &[u8]) -> Option<i64> {
    let Written { disk, files } = written();
    let disk = disk.fork();
    let name = files.iter().find(|name| name.ends_with(extension)).expect("a snapshot has two files");
    disk.create(&paths().snap().join(name)).and_then(|file| file.write_at(0, bytes)).expect("the disk is whole");
    open(&disk).ok().map(live_on)
}

/// A member that has written a snapshot, and stopped.
pub struct Written {
    disk: SimulatedDisk,
    files: Vec<String>,
}

pub fn written() -> &'static Written {
    static WRITTEN: OnceLock<Written> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let disk = SimulatedDisk::new();
        // Compacted writes count for the size of the log, but not for that of the state, so the next snapshot becomes
        // due.
        let filler = (20..80).flat_map(|id| [put(2 * id, "filler", "", 0), compact(2 * id + 1, id as i64 - 12)]);
        let mut replica = member_with(&disk, &script().into_iter().chain(filler).collect::<Vec<_>>());
        // The entry after the snapshot is applied to whatever the snapshot holds.
        replica.propose(put(100, "behind", "the snapshot", 0)).expect("it leads");
        replica.process(&mut Output::default()).expect("a healthy member");
        drop(replica);
        let files = disk.list(&paths().snap()).expect("the snapshots' directory");
        Written { disk, files }
    })
}

impl Written {
    /// The content of one of the snapshot's files.
    pub fn file(&self, extension: &str) -> Vec<u8> {
        let name = self.files.iter().find(|name| name.ends_with(extension)).expect("a snapshot has two files");
        self.disk.read(&paths().snap().join(name)).expect("the file is there")
    }
}

/// A member that has applied these commands, one by one, and has written a snapshot whenever one was due.
fn member_with(disk: &SimulatedDisk, commands: &[Bytes]) -> Replica {
    let mut replica = open(disk).expect("a new member");
    let mut output = Output::default();
    let mut work = |replica: &mut Replica| {
        replica.process(&mut output).expect("a healthy member");
        if let Some(job) = output.snapshot.take() {
            replica.snapshot_written(job.run().expect("the disk is whole")).expect("the disk is whole");
        }
        while replica.compact_step().expect("a healthy member") {}
    };
    work(&mut replica);
    for command in commands {
        replica.propose(command.clone()).expect("it leads");
        work(&mut replica);
    }
    replica
}

/// The state of such a member, as the stream that is sent.
pub fn stream_of(commands: &[Bytes]) -> Vec<u8> {
    let mut replica = member_with(&SimulatedDisk::new(), commands);
    let (_, source) = replica.state_to_send().expect("healthy").open(raftpb::Message::default()).expect("healthy");
    let mut stream = Vec::new();
    let write = |bytes: &[u8]| {
        stream.extend_from_slice(bytes);
        Ok(())
    };
    source.write(write).expect("a vector takes everything");
    stream
}

fn put(id: u64, key: &str, value: &str, lease: i64) -> Bytes {
    let put = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..PutRequest::default() };
    Command::encode(id, Kind::Put, &put)
}

fn delete(id: u64, key: &'static str, range_end: &'static str) -> Bytes {
    let delete = DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: true };
    Command::encode(id, Kind::DeleteRange, &delete)
}

fn compact(id: u64, revision: i64) -> Bytes {
    Command::encode(id, Kind::Compaction, &CompactionRequest { revision, physical: id.is_multiple_of(2) })
}

/// Commands that produce every kind of row.
pub fn script() -> Vec<Bytes> {
    let grant = |id: u64, lease, ttl| Command::encode(id, Kind::LeaseGrant, &LeaseGrantRequest { ttl, id: lease });
    vec![
        grant(1, 7, 60),
        grant(2, 8, 5),
        put(3, "a", "1", 7),
        put(4, "a", "2", 0),
        put(5, "ab", "", 8),
        delete(6, "a", ""),
        put(7, "a", "3", 7),
        put(8, "b", "4", 8),
        compact(9, 4),
        put(10, "\0", "\u{ff}", 0),
        delete(11, "b", "c"),
    ]
}

/// Whatever the state holds, a member that installed it can be read, hashed and changed, or it stops with an error.
fn live_on(mut replica: Replica) -> i64 {
    let _ = lived(&mut replica);
    replica.store().revision()
}

fn lived(replica: &mut Replica) -> Result<(), Fatal> {
    let mut output = Output::default();
    replica.process(&mut output)?;
    look(replica.store());
    (0..30).for_each(|_| replica.tick());
    replica.process(&mut output)?;
    let newest = replica.store().revision();
    let revoke = |id, lease| Command::encode(id, Kind::LeaseRevoke, &LeaseRevokeRequest { id: lease });
    let commands = [
        put(1, "a", "x", 7),
        put(2, "a", "y", 0),
        delete(3, "a", "c"),
        put(4, "new", "z", 8),
        revoke(5, 7),
        revoke(6, 8),
        compact(7, newest),
        delete(8, "\0", "\0"),
    ];
    for command in commands {
        // A member that does not lead with this state drops the proposal.
        let _ = replica.propose(command);
        replica.process(&mut output)?;
    }
    if let Some(job) = output.compaction_hash.take() {
        job.run()?;
    }
    for _ in 0..MOST_STEPS {
        if !replica.compact_step()? {
            break;
        }
    }
    if let Some(job) = output.snapshot.take() {
        replica.snapshot_written(job.run()?)?;
    }
    look(replica.store());
    Ok(())
}

/// Reads everything in the store.
fn look(store: &Store) {
    let view = store.view();
    let newest = store.revision();
    for revision in (0..=newest.min(MOST_REVISIONS)).chain([newest, view.compact_revision()]) {
        let _ = view.range(&RangeQuery { key: b"", range_end: b"\0", revision, ..RangeQuery::default() });
        let _ = view.hash_kv(revision);
    }
    let _ = view.hash();
    for id in store.leases().ids() {
        let _ = store.lease_keys(id);
    }
    assert_eq!(store.leases().iter().count(), store.leases().ids().count());
}

/// The stream with all checksums, and the number of rows, corrected to fit its content.
pub fn vouched_stream(bytes: &[u8]) -> Vec<u8> {
    let mut stream = bytes.to_vec();
    let (mut at, mut rows) = (HEADER_BYTES, 0u64);
    while let Some(frame) = stream.get(at..at + FRAME_BYTES) {
        let length = u32::from_le_bytes(frame[..4].try_into().expect("4 bytes")) as usize;
        let begin = at + FRAME_BYTES;
        let end = if length == 0 { begin + 8 } else { begin.saturating_add(length) };
        if end > stream.len() {
            break;
        }
        if length == 0 {
            stream[begin..end].copy_from_slice(&rows.to_le_bytes());
        }
        let before = if length == 0 { crc32c::crc32c(&stream[..HEADER_BYTES]) } else { 0 };
        let crc = crc32c::crc32c_append(before, &stream[begin..end]);
        stream[at + 4..begin].copy_from_slice(&crc.to_le_bytes());
        rows += rows_in(&stream[begin..end]);
        at = end;
    }
    stream
}

fn rows_in(block: &[u8]) -> u64 {
    let (mut at, mut rows) = (0, 0);
    while let Some(head) = block.get(at..at + ROW_HEAD_BYTES) {
        let length = |from: usize| u32::from_le_bytes(head[from..from + 4].try_into().expect("4 bytes")) as usize;
        at += ROW_HEAD_BYTES + length(1) + length(5);
        rows += 1;
    }
    rows
}

/// A snapshot's record with its checksum corrected to fit its content; the bytes themselves if they are none.
pub fn vouched_record(bytes: &[u8]) -> Vec<u8> {
    let Ok(mut file) = walpb::SnapshotFile::decode(bytes) else { return bytes.to_vec() };
    file.crc = Some(crc32c::crc32c(file.data()));
    file.encode_to_vec()
}
