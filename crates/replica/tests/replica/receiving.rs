//! A state that arrives from another member is checked, and if it is refused, all of it is removed.

use metastore_proto::raftpb;
use metastore_replica::disk::Disk;
use metastore_replica::{ReceiveError, Replica};

use crate::machine::{EngineKind, Machine};
use crate::refusals::files;
use crate::script::run;
use crate::world::{Sent, World, open};

/// The state of a member, as it is sent to a new one.
fn sent() -> Sent {
    let mut world = World::new(EngineKind::Memory);
    run(&mut world, 6, 12).unwrap();
    Sent::by(&mut world)
}

/// Expects that a new member refuses the state with this error, and keeps no file of it.
fn refused(engine: EngineKind, sent: &Sent, says: &str) {
    let machine = Machine::new(engine);
    let (replica, _) = open(&machine).unwrap();
    let before = (files(&machine), machine.directories());
    let error = sent.receive(&replica, 100).err().unwrap_or_else(|| panic!("{says}: not refused")).to_string();
    assert!(error.contains(says), "{says:?} is not in: {error}");
    assert_eq!((files(&machine), machine.directories()), before, "{error}");
}

each_engine!(pieces_may_have_any_size);

fn pieces_may_have_any_size(engine: EngineKind) {
    let sent = sent();
    for piece in [1, 2, 7, 64, 4096, sent.stream.len() - 1, sent.stream.len()] {
        let machine = Machine::new(engine);
        let (replica, _) = open(&machine).unwrap();
        let received = sent.receive(&replica, piece).unwrap_or_else(|error| panic!("{piece}: {error}"));
        let metadata = sent.message.snapshot.as_ref().unwrap().metadata.as_ref().unwrap();
        assert_eq!((received.applied().index, received.applied().term), (metadata.index(), metadata.term()));
    }
}

each_engine!(what_is_damaged_or_cut_short_is_refused);

fn what_is_damaged_or_cut_short_is_refused(engine: EngineKind) {
    let sent = sent();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut damaged = sent.clone();
        change(&mut damaged.stream);
        damaged
    };
    refused(engine, &with(&|stream| *stream = Vec::new()), "ends too early");
    refused(engine, &with(&|stream| _ = stream.pop()), "ends too early");
    refused(engine, &with(&|stream| stream.truncate(stream.len() / 2)), "ends too early");
    refused(engine, &with(&|stream| stream.push(0)), "there is something behind its end");
    refused(engine, &with(&|stream| stream[100] ^= 1), "checksum");
    refused(engine, &with(&|stream| stream[20] ^= 1), "checksum");
    refused(engine, &with(&|stream| stream[8] = 9), "format 9, but this version reads format 1");
    refused(engine, &with(&|stream| stream[0] = b'X'), "not a MetaStore state");
}

each_engine!(what_was_not_announced_is_refused);

fn what_was_not_announced_is_refused(engine: EngineKind) {
    let sent = sent();
    let with = |change: &dyn Fn(&mut raftpb::Message)| {
        let mut other = sent.clone();
        change(&mut other.message);
        other
    };
    fn metadata(message: &mut raftpb::Message) -> &mut raftpb::SnapshotMetadata {
        message.snapshot.as_mut().unwrap().metadata.as_mut().unwrap()
    }
    refused(engine, &with(&|message| metadata(message).index = Some(1000)), "not at entry 1000");
    refused(engine, &with(&|message| metadata(message).term = Some(1)), "of term 1");
    let voter = |message: &mut raftpb::Message| metadata(message).conf_state.as_mut().unwrap().voters.push(5);
    refused(engine, &with(&voter), "its members are");
    refused(engine, &with(&|message| metadata(message).conf_state = None), "with 0 voters");
    refused(engine, &with(&|message| message.snapshot = None), "the state at entry 0");
    refused(engine, &with(&|message| message.term = None), "in term 0");
    refused(engine, &with(&|message| message.r#type = Some(3)), "its type is 3");
    refused(engine, &with(&|message| message.to = Some(5)), "for member 5");
    refused(engine, &with(&|message| message.from = message.to), "but this is member");
}

each_engine!(a_state_that_is_older_than_the_members_is_refused_at_once);

fn a_state_that_is_older_than_the_members_is_refused_at_once(engine: EngineKind) {
    let sent = sent();
    let mut world = World::new(engine);
    run(&mut world, 6, 12).unwrap();
    let replica: &Replica = world.replica();
    assert!(matches!(replica.receiver().begin(sent.message), Err(ReceiveError::Stale { .. })));
}

each_engine!(a_full_disk_is_no_reason_to_stop);

/// The member goes on with its state, and receives the new one when there is room.
fn a_full_disk_is_no_reason_to_stop(engine: EngineKind) {
    let sent = sent();
    let machine = Machine::new(engine);
    let (mut replica, _) = open(&machine).unwrap();
    replica.process(&mut metastore_replica::Output::default()).unwrap();
    if engine == EngineKind::Memory {
        let before = files(&machine);
        machine.limit_bytes(1000);
        assert!(matches!(sent.receive(&replica, 100), Err(ReceiveError::Disk(_))));
        machine.limit_bytes(u64::MAX);
        assert_eq!(files(&machine), before);
    }
    replica.state_received(sent.receive(&replica, 100).unwrap()).unwrap();
    let mut output = metastore_replica::Output::default();
    replica.process(&mut output).unwrap();
    assert!(output.state_replaced);
    assert!(machine.exists(std::path::Path::new("/data")).unwrap());
}
