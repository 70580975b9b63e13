//! Logs written by etcd are read here, and etcd reads logs written here.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use metastore_proto::Message as _;
use metastore_proto::etcdserverpb::{InternalRaftRequest, PutRequest, RequestHeader};

use super::*;
use crate::disk::OsDisk;

/// The first bytes of the log of a new single member (node 25351fad42b3c84c, cluster 3d3fd201ef4996ab), as etcd lays
/// them out: sum, metadata, snapshot {0, 0}, the member's entry, hard state {1, 0, 1}.
fn first_boot() -> Vec<u8> {
    let mut log = Vec::new();
    let mut sum = 0;
    let mut record = |kind: u8, data: &[u8]| {
        sum = crc32c::crc32c_append(sum, data);
        let mut body = vec![0x08, kind, 0x10];
        put_varint(&mut body, u64::from(sum));
        if kind != 4 {
            body.push(0x1a);
            put_varint(&mut body, data.len() as u64);
            body.extend_from_slice(data);
        }
        let pad = (8 - body.len() % 8) % 8;
        let mut word = (body.len() as u64).to_le_bytes();
        word[7] = if pad == 0 { 0 } else { 0x80 | pad as u8 };
        log.extend_from_slice(&word);
        log.extend_from_slice(&body);
        log.extend_from_slice(&vec![0; pad]);
    };
    record(4, &[]);
    let mut metadata = vec![0x08];
    put_varint(&mut metadata, 0x2535_1fad_42b3_c84c);
    metadata.push(0x10);
    put_varint(&mut metadata, 0x3d3f_d201_ef49_96ab);
    record(1, &metadata);
    record(5, &[0x08, 0, 0x10, 0]);
    record(2, b"\x08\x01\x10\x01\x18\x01\x22\x06change");
    record(3, &[0x08, 1, 0x10, 0, 0x18, 1]);
    log
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[test]
fn the_first_boot_is_written_byte_for_byte() {
    let expected = first_boot();
    assert_eq!(expected[..16], [4, 0, 0, 0, 0, 0, 0, 0x84, 8, 4, 16, 0, 0, 0, 0, 0]);
    let disk = new_disk();
    let metadata = Metadata { node_id: 0x2535_1fad_42b3_c84c, cluster_id: 0x3d3f_d201_ef49_96ab };
    let mut wal = Wal::create(Arc::new(disk.clone()), &dir(), metadata).unwrap();
    let change = Entry { kind: 1, term: 1, index: 1, data: Bytes::from("change") };
    wal.append(Some(&hard_state(1, 0, 1)), [change.clone()], true).unwrap();
    let bytes = disk.read(&first_segment()).unwrap();
    assert_eq!(bytes.len(), 64_000_000);
    assert_eq!(bytes[..expected.len()], expected);
    // Then follow our crc record, and zeros.
    assert_eq!(bytes[expected.len()..][8..11], [0x08, 4, 0x10]);
    assert!(bytes[expected.len() + 16..].iter().all(|b| *b == 0));

    let disk = new_disk();
    disk.create_dir_all(&dir()).unwrap();
    disk.create(&first_segment()).unwrap().write_at(0, &expected).unwrap();
    let (_, replay) = open(&disk).unwrap();
    assert_eq!((replay.metadata, replay.entries), (metadata, vec![change]));
    assert_eq!(replay.hard_state, hard_state(1, 0, 1));
}

/// The logs that an etcd 3.5.1 and an etcd 3.7.3 had written after three puts.
#[test]
fn logs_of_real_etcds_are_read() {
    for (name, last) in [("etcd-3.5.1", 7), ("etcd-3.7.3", 7)] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/wal_open").join(name);
        let disk = new_disk();
        disk.create_dir_all(&dir()).unwrap();
        disk.create(&first_segment()).unwrap().write_at(0, &std::fs::read(file).unwrap()).unwrap();
        let (_, replay) = open(&disk).unwrap();
        assert_eq!(replay.entries.len(), last, "{name}");
        assert_eq!(replay.entries[0].kind, 1);
        assert_eq!(replay.hard_state.commit(), last as u64);
        assert_eq!(replay.cut, None);
    }
}

/// The directories of the etcds installed for comparison, oldest first; none on most machines.
fn etcds() -> Vec<PathBuf> {
    let Some(home) = std::env::var_os("HOME") else { return Vec::new() };
    let versions = std::fs::read_dir(Path::new(&home).join(".cache/metastore/etcd"));
    let binaries = versions.into_iter().flatten().flatten().map(|version| version.path().join("bin"));
    let mut found: Vec<PathBuf> = binaries.filter(|bin| bin.join("etcd").exists()).collect();
    found.sort();
    if found.is_empty() {
        println!("skipped: no etcd under ~/.cache/metastore/etcd");
    }
    found
}

/// A running etcd; killed when dropped, as a crash would.
struct Etcd {
    bin: PathBuf,
    client_url: String,
    process: Child,
}

/// A real etcd must answer within this time, also on a busy machine.
const ETCD_DEADLINE: Duration = Duration::from_secs(60);

impl Etcd {
    fn start(bin: &Path, data_dir: &Path) -> Etcd {
        let url = || format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let (client_url, peer_url) = (url(), url());
        let process = Command::new(bin.join("etcd"))
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Etcd { bin: bin.to_owned(), client_url, process }
    }

    /// Repeats a command until it succeeds: the server may not be up yet.
    fn ctl(&self, arguments: &[&str]) -> String {
        let deadline = Instant::now() + ETCD_DEADLINE;
        loop {
            let output = Command::new(self.bin.join("etcdctl"))
                .args(["--endpoints", &self.client_url, "--command-timeout=2s"])
                .args(arguments)
                .output()
                .unwrap();
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).into_owned();
            }
            assert!(Instant::now() < deadline, "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A put, encoded as in etcd's log.
fn put(id: u64, key: &str, value: &str) -> Bytes {
    let put = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() };
    let header = RequestHeader { id, ..RequestHeader::default() };
    let request = InternalRaftRequest { header: Some(header), put: Some(put), ..InternalRaftRequest::default() };
    request.encode_to_vec().into()
}

/// A log that a real etcd wrote is read, written on across several segments, and then read by that etcd.
#[test]
fn a_real_etcd_and_this_log_read_each_other() {
    for bin in etcds() {
        let version = bin.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let data_dir = std::env::temp_dir().join(format!("metastore-wal-etcd-{version}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data_dir);
        let etcd = Etcd::start(&bin, &data_dir);
        etcd.ctl(&["put", "theirs", "first"]);
        drop(etcd);

        let options = Options { segment_bytes: 8192 };
        let wal_dir = data_dir.join("member/wal");
        let (mut wal, replay) = Wal::open_with(options, Arc::new(OsDisk::new()), &wal_dir, (0, 0)).unwrap();
        let (first, term) = (wal.last_index() + 1, replay.hard_state.term());
        assert!(replay.entries.iter().any(|entry| entry.data.windows(5).any(|bytes| bytes == b"first")), "{version}");
        for i in first..first + 40 {
            let ours = entry(i, term, put(0x1000 + i, &format!("ours-{i}"), &"v".repeat(1500)));
            wal.append(Some(&hard_state(term, replay.hard_state.vote(), i)), [ours], true).unwrap();
        }
        drop(wal);
        assert!(std::fs::read_dir(&wal_dir).unwrap().count() > 3, "several segments");

        let etcd = Etcd::start(&bin, &data_dir);
        assert_eq!(etcd.ctl(&["get", "theirs", "--print-value-only"]).trim(), "first", "{version}");
        assert_eq!(etcd.ctl(&["get", "ours", "--prefix", "--keys-only"]).split_whitespace().count(), 40, "{version}");
        etcd.ctl(&["put", "theirs", "again"]);
        drop(etcd);
        let (_, replay) = Wal::open(Arc::new(OsDisk::new()), &wal_dir, (0, 0)).unwrap();
        assert!(replay.entries.len() as u64 > first + 40, "{version}");
        std::fs::remove_dir_all(data_dir).unwrap();
    }
}
