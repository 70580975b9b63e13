//! A state that becomes a database of etcd and a state again is the same state; a database that is damaged, or holds
//! something unknown, is refused.

use std::sync::Arc;

use metastore_backup::{Backup, EtcdState, ImportError, Survey, is_database, v2_store};
use metastore_bbolt::{Layout, Writer};
use metastore_engine::{Engine, Memory};
use metastore_proto::etcdserverpb::{
    AuthUserAddRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest,
};
use metastore_proto::membershippb::ClusterVersionSetRequest;
use metastore_proto::raftpb::ConfState;
use metastore_store::command::{Command, Kind};
use metastore_store::snapshot::{Incoming, Source};
use metastore_store::{Member, MemberChange, Store};
use proptest::prelude::*;

const TERM: u64 = 2;
const MEMBER: u64 = 0xab;

fn conf_state() -> ConfState {
    ConfState { voters: vec![MEMBER], auto_leave: Some(false), ..ConfState::default() }
}

/// A store of one member, and the index of its last entry.
struct Filled {
    store: Store,
    index: u64,
}

impl Filled {
    fn new() -> Self {
        let mut store = Store::open(Arc::new(Memory::new())).unwrap();
        let peer_urls = vec!["http://a:2380".into()];
        let member = Member { id: MEMBER, name: "a".into(), peer_urls, ..Member::default() };
        store.apply_member_change(1, TERM, 0, Ok(MemberChange::Add(member)), &conf_state()).unwrap();
        let mut filled = Self { store, index: 1 };
        let version = ClusterVersionSetRequest { ver: "3.7.0".into() };
        filled.apply(Kind::ClusterVersionSet, &version);
        filled
    }

    fn apply(&mut self, kind: Kind, message: &impl metastore_proto::Message) {
        self.index += 1;
        let command = Command::encode(self.index, kind, message);
        self.store.apply(self.index, TERM, command).unwrap();
    }

    fn source(&mut self) -> Source {
        self.store.publish().unwrap();
        self.store.snapshot().unwrap()
    }

    /// Does a step that a number chooses.
    fn step(&mut self, step: u8) {
        let key = bytes::Bytes::from(format!("k{}", step % 7));
        match step % 11 {
            0 => self.apply(Kind::LeaseGrant, &LeaseGrantRequest { id: i64::from(step) + 1, ttl: 100 }),
            1 | 2 => self.apply(Kind::DeleteRange, &DeleteRangeRequest { key, ..DeleteRangeRequest::default() }),
            3 => self.apply(Kind::Compaction, &CompactionRequest { revision: self.store.revision(), physical: false }),
            4 => {
                let name = format!("u{step}");
                self.apply(Kind::AuthUserAdd, &AuthUserAddRequest { name, ..AuthUserAddRequest::default() });
            }
            _ => {
                let (value, lease) = (vec![step; usize::from(step) * 40].into(), i64::from(step % 3));
                self.apply(Kind::Put, &PutRequest { key, value, lease, ..PutRequest::default() });
            }
        }
    }
}

fn stream_of(source: &Source) -> Vec<u8> {
    let mut stream = Vec::new();
    source
        .write(|piece| {
            stream.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
    stream
}

fn database_of(source: Source) -> Vec<u8> {
    let (mut backup, mut file) = (Backup::new(source).unwrap(), Vec::new());
    while let Some(piece) = backup.next_piece(1).unwrap() {
        file.extend_from_slice(&piece);
    }
    assert_eq!(file.len() as u64, backup.size_bytes());
    file
}

fn taken_up(database: &[u8]) -> Result<Vec<u8>, ImportError> {
    let state = EtcdState::open(database)?;
    let mut stream = Vec::new();
    state.write(state.applied(), &conf_state(), |piece| {
        stream.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(stream)
}

proptest! {
    #[test]
    fn a_state_is_the_same_after_it_was_a_database(steps in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut filled = Filled::new();
        steps.iter().for_each(|step| filled.step(*step));
        let before = stream_of(&filled.source());
        let database = database_of(filled.source());
        prop_assert_eq!(is_database(&database), Some(true));
        prop_assert_eq!(is_database(&before), Some(false));
        prop_assert!(taken_up(&database).unwrap() == before);
    }

    /// Any byte may be changed. The file has no checksum of its own but those of its first pages, so a change may also
    /// go unnoticed; it never leads to a panic, and a state that is taken up is readable.
    #[test]
    fn a_damaged_database_is_refused_or_taken_up_as_a_state(
        steps in prop::collection::vec(any::<u8>(), 20..60),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut filled = Filled::new();
        steps.iter().for_each(|step| filled.step(*step));
        let mut database = database_of(filled.source());
        for (place, by) in changes {
            *place.get_mut(&mut database) ^= by;
        }
        if let Ok(stream) = taken_up(&database) {
            let engine: Arc<dyn Engine> = Arc::new(Memory::new());
            let mut incoming = Incoming::new(engine.clone());
            if incoming.take(&stream).is_ok() && incoming.finish().is_ok() {
                let _ = Store::open(engine);
            }
        }
    }
}

/// A database with these buckets of one row each.
fn with_buckets(rows: &[(&str, &[u8], &[u8])]) -> Vec<u8> {
    let mut layout = Layout::new();
    for (bucket, key, value) in rows {
        layout.bucket(bucket.as_bytes()).unwrap();
        layout.row(key.len(), value.len()).unwrap();
    }
    let mut writer = Writer::new(layout.finish());
    for (bucket, key, value) in rows {
        writer.bucket(bucket.as_bytes()).unwrap();
        writer.row(key, value).unwrap();
    }
    writer.finish().unwrap().to_vec()
}

/// Between two turns the pass can be given up, if nobody waits for the file any more.
#[test]
fn the_first_pass_goes_on_in_turns() {
    let mut filled = Filled::new();
    (0..60).for_each(|step| filled.step(step));
    let (mut survey, mut turns) = (Survey::new(filled.source()).unwrap(), 0);
    while survey.go_on(1).unwrap() {
        turns += 1;
    }
    // The tables, each in a step of its own, and the versions.
    assert!(turns > 8, "{turns}");
    assert_eq!(survey.finish().unwrap().size_bytes(), database_of(filled.source()).len() as u64);
}

#[test]
fn nothing_unknown_is_dropped() {
    let refused = |rows: &[(&str, &[u8], &[u8])]| taken_up(&with_buckets(rows)).unwrap_err().to_string();
    let says = refused(&[("key", b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0", b""), ("new", b"k", b"v")]);
    assert!(says.contains("a bucket \"new\", which this version does not know"), "{says}");
    assert!(refused(&[("key", b"odd", b"v")]).contains("\"odd\" is no revision"));
    assert!(refused(&[("meta", b"term", b"12")]).contains("term is not a number"));
}

#[test]
fn the_newest_revision_is_a_compaction_if_that_dropped_all() {
    let revision = b"\0\0\0\0\0\0\0\x09_\0\0\0\0\0\0\0\0";
    let database = with_buckets(&[("meta", b"finishedCompactRev", revision)]);
    let state = EtcdState::open(&database[..]).unwrap();
    assert_eq!((state.revision(), state.applied().index, state.storage_version()), (9, 0, None));
    let database = with_buckets(&[("lease", b"\0\0\0\0\0\0\0\x01", b"")]);
    assert_eq!(EtcdState::open(&database[..]).unwrap().revision(), 1, "that of an empty cluster");
}

#[test]
fn the_old_store_names_the_members() {
    let mut filled = Filled::new();
    let source = filled.source();
    let json: serde_json::Value = serde_json::from_slice(&v2_store(|table| source.rows(table)).unwrap()).unwrap();
    let cluster = &json["Root"]["Children"]["0"]["Children"];
    assert_eq!(cluster["version"]["Value"], "3.7.0");
    let member = &cluster["members"]["Children"]["ab"]["Children"];
    assert_eq!(member["raftAttributes"]["Value"], r#"{"peerURLs":["http://a:2380"]}"#);
    assert_eq!(member["attributes"]["Path"], "/0/members/ab/attributes");
}
