//! A committed entry that no member can apply: it stops each start, until it is passed over by name.

use std::sync::Arc;

use metastore_proto::Message;
use metastore_proto::raftpb::{ConfChange, ConfChangeType, HardState};
use metastore_replica::disk::Disk;
use metastore_replica::wal::{Entry, Wal};
use metastore_replica::{EntryId, Fatal, OpenError, Output, Replica, Settings};
use metastore_store::Refusal;

use crate::machine::{EngineKind, Machine};
use crate::world::{advance, open, open_with, paths, put, settings};

const COMMAND: i32 = 0;
const CHANGE: i32 = 1;

/// A sole member whose log continues with this entry, committed.
fn with_entry(engine: EngineKind, kind: i32, data: Vec<u8>) -> (Machine, EntryId) {
    let disk = Machine::new(engine);
    let (mut replica, _) = open(&disk).unwrap();
    replica.propose(put(1, "k", "before")).unwrap_err();
    advance(&mut replica, &mut Output::default()).unwrap();
    drop(replica);
    let entry = add_entry(&disk, kind, data);
    (disk, entry)
}

/// Puts an entry, committed, at the end of a log.
fn add_entry(disk: &Machine, kind: i32, data: Vec<u8>) -> EntryId {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut wal, replay) = Wal::open_with(settings(disk.engine).log, shared, &paths().wal(), (0, 0)).unwrap();
    let (index, hard_state) = (replay.last_index() + 1, wal.hard_state());
    let term = hard_state.term();
    let hard_state = HardState { commit: Some(index), ..hard_state };
    wal.append(Some(&hard_state), [Entry { kind, term, index, data: data.into() }], true).unwrap();
    EntryId { index, term }
}

fn passing_over(engine: EngineKind, entry: EntryId) -> Settings {
    Settings { skip_entry: Some(entry), ..settings(engine) }
}

fn start_with(settings: Settings, disk: &Machine) -> Result<(Replica, Output), Fatal> {
    let (mut replica, _) = open_with(settings, disk, paths()).map_err(Fatal::Snapshot)?;
    let mut output = Output::default();
    advance(&mut replica, &mut output)?;
    Ok((replica, output))
}

fn start(disk: &Machine) -> Result<(Replica, Output), Fatal> {
    start_with(settings(disk.engine), disk)
}

each_engine!(an_entry_that_cannot_be_applied_is_passed_over_by_name_once_and_for_all);

fn an_entry_that_cannot_be_applied_is_passed_over_by_name_once_and_for_all(engine: EngineKind) {
    // A command in an unknown field, bytes that are not a membership change, and a change whose description is of
    // another member.
    let mismatch = ConfChange { node_id: Some(7), context: Some("{\"id\":8}".into()), ..ConfChange::default() };
    for (kind, data) in [(COMMAND, vec![0xea, 0x04, 0]), (CHANGE, vec![0xff]), (CHANGE, mismatch.encode_to_vec())] {
        let (disk, entry) = with_entry(engine, kind, data);
        for _ in 0..2 {
            let error = start(&disk).err().expect("it cannot be applied");
            let refused = matches!(&error, Fatal::Inapplicable { entry: named, .. } if *named == entry);
            assert!(refused || matches!(error, Fatal::Snapshot(OpenError::Refused { .. })), "{error}");
            let flag = format!("--unsafe-skip-entry={}:{}", entry.index, entry.term);
            assert!(error.to_string().contains(&flag), "{error}");
        }
        for other in [EntryId { term: entry.term + 1, ..entry }, EntryId { index: entry.index - 1, ..entry }] {
            // The entry before is passed over, and this one still stops the start.
            assert!(start_with(passing_over(engine, other), &disk.fork()).is_err(), "{other:?}");
        }
        let (mut replica, output) = start_with(passing_over(engine, entry), &disk).unwrap();
        assert_eq!(output.passed_over, [entry]);
        replica.propose(put(2, "k", "after")).unwrap();
        let mut output = Output::default();
        advance(&mut replica, &mut output).unwrap();
        assert_eq!(output.outcomes.len(), 1);
        let revision = replica.store().revision();
        drop(replica);
        // The entry is noted in the file: a start that reads it from the log again needs no flag.
        let (replica, _) = start(&disk).unwrap();
        assert_eq!(replica.store().revision(), revision);
    }
}

each_engine!(all_that_was_ever_passed_over_is_noted);

fn all_that_was_ever_passed_over_is_noted(engine: EngineKind) {
    let unknown = || vec![0xea, 0x04, 0];
    let (disk, first) = with_entry(engine, COMMAND, unknown());
    drop(start_with(passing_over(engine, first), &disk).unwrap());
    let second = add_entry(&disk, COMMAND, unknown());
    assert!(start(&disk.fork()).is_err(), "the note of one entry is none of another");
    drop(start_with(passing_over(engine, second), &disk).unwrap());
    start(&disk).map_err(|error| error.to_string()).expect("both are noted");
}

each_engine!(a_note_of_what_is_passed_over_that_cannot_be_read_stops_the_start);

fn a_note_of_what_is_passed_over_that_cannot_be_read_stops_the_start(engine: EngineKind) {
    let (disk, entry) = with_entry(engine, COMMAND, vec![0xea, 0x04, 0]);
    drop(start_with(passing_over(engine, entry), &disk).unwrap());
    let note = paths().member().join("passed-over.json");
    disk.flip_bit(&note, 0, 3).unwrap();
    let refused = open(&disk).err().expect("the note is damaged");
    assert!(matches!(&refused, OpenError::Refused { path, .. } if *path == note), "{refused}");
}

each_engine!(a_change_of_member_0_in_a_log_is_refused_as_etcd_refuses_it);

fn a_change_of_member_0_in_a_log_is_refused_as_etcd_refuses_it(engine: EngineKind) {
    let change = ConfChange {
        id: Some(77),
        r#type: Some(ConfChangeType::ConfChangeUpdateNode as i32),
        node_id: Some(0),
        context: Some("{\"id\":0,\"peerURLs\":[\"http://127.0.0.1:1\"]}".into()),
    };
    let (disk, entry) = with_entry(engine, CHANGE, change.encode_to_vec());
    let (replica, output) = start(&disk).unwrap();
    let outcome = output.outcomes.iter().find(|outcome| outcome.id == 77).expect("it is applied");
    assert_eq!(outcome.reply, Err(Refusal::MemberNotFound));
    assert!(replica.store().applied().index > entry.index && replica.standing().sole_leader);
}

each_engine!(a_change_that_leaves_no_voter_is_refused_by_all);

/// The store counts a member as a voter that consensus does not: the addition contradicts itself. Only a foreign log
/// can hold such a change.
fn a_change_that_leaves_no_voter_is_refused_by_all(engine: EngineKind) {
    let change = ConfChange {
        r#type: Some(ConfChangeType::ConfChangeAddLearnerNode as i32),
        node_id: Some(7),
        context: Some("{\"id\":7,\"peerURLs\":[\"http://a:1\"]}".into()),
        ..ConfChange::default()
    };
    let (disk, _) = with_entry(engine, CHANGE, change.encode_to_vec());
    let (mut replica, _) = start(&disk).unwrap();
    assert_eq!(replica.store().members().voters().count(), 2);
    let kind = Some(ConfChangeType::ConfChangeRemoveNode as i32);
    let removal = ConfChange { id: Some(78), r#type: kind, node_id: Some(replica.id()), ..ConfChange::default() };
    replica.propose_change(&removal).unwrap();
    let mut output = Output::default();
    advance(&mut replica, &mut output).unwrap();
    let [outcome] = &output.outcomes[..] else { panic!("{:?}", output.outcomes) };
    assert_eq!((outcome.id, &outcome.reply), (78, &Err(Refusal::NotEnoughMembers)));
    assert!(replica.standing().sole_leader && replica.store().members().get(replica.id()).is_some());
}
