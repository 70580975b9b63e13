//! How a sole member becomes leader, and the records that consensus leaves on disk.

use std::path::Path;
use std::sync::Arc;

use metastore_engine::{Memory, RocksDb, RocksDbSettings};
use metastore_proto::etcdserverpb::CompactionRequest;
use metastore_proto::{Message, raftpb};
use metastore_replica::disk::{Disk, OsDisk};
use metastore_replica::wal::{Entry, Keep, Replay, Wal};
use metastore_replica::{Output, Paths, Replica, Retention, Settings, identity};
use metastore_store::Member;
use metastore_store::command::{Command, Kind};

use crate::machine::{EngineKind, Machine};
use crate::script::run;
use crate::world::{PEER_URL, World, advance, asked_for, bootstrap, open, open_with, paths, put, settings};

/// The content of the log on this disk, from its beginning.
fn replay(disk: &Machine) -> Replay {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Wal::read(settings(disk.engine).log, shared, &paths().wal(), (0, 0), Keep::ALL).unwrap().1
}

each_engine!(a_sole_member_leads_without_waiting);

fn a_sole_member_leads_without_waiting(engine: EngineKind) {
    let disk = Machine::new(engine);
    for start in 0..3 {
        let (mut replica, _) = open(&disk).unwrap();
        assert!(!replica.standing().sole_leader, "it has committed nothing of its term");
        replica.process(&mut Output::default()).unwrap();
        let standing = replica.standing();
        assert!(standing.is_leader() && standing.sole_leader, "{standing:?}");
        assert_eq!((standing.leader, standing.term), (replica.id(), start + 2), "a term for each start");
        assert_eq!(replica.cluster_id(), identity::cluster_id(&[replica.id()]));
    }
}

each_engine!(a_member_with_a_snapshot_leads_without_waiting);

fn a_member_with_a_snapshot_leads_without_waiting(engine: EngineKind) {
    let mut world = World::new(engine);
    run(&mut world, 3, 50).unwrap();
    assert!(world.snapshots > 0);
    world.start().unwrap();
    assert!(world.replica().standing().sole_leader);
}

each_engine!(a_proposal_before_leadership_is_dropped);

fn a_proposal_before_leadership_is_dropped(engine: EngineKind) {
    let disk = Machine::new(engine);
    let (mut replica, _) = open(&disk).unwrap();
    assert!(replica.propose(put(1, "k", "early")).is_err());
    let mut output = Output::default();
    advance(&mut replica, &mut output).unwrap();
    asked_for(&mut output.outcomes);
    assert!(output.outcomes.is_empty());
    replica.propose(put(2, "k", "v")).unwrap();
    advance(&mut replica, &mut output).unwrap();
    assert_eq!(output.outcomes.iter().map(|outcome| outcome.id).collect::<Vec<_>>(), [2]);
    assert_eq!(output.events.len(), 1);
}

each_engine!(a_restart_keeps_as_much_of_the_log_as_a_member_that_goes_on);

fn a_restart_keeps_as_much_of_the_log_as_a_member_that_goes_on(engine: EngineKind) {
    let disk = Machine::new(engine);
    let usual = settings(engine);
    let keep = Retention { more_entries: 40, ..Retention::new(5) };
    let settings = Settings { keep, snapshot_log_bytes: u64::MAX, flush_log_bytes: u64::MAX, ..usual };
    let start = || {
        let (mut replica, _) = open_with(settings.clone(), &disk, paths()).unwrap();
        advance(&mut replica, &mut Output::default()).unwrap();
        replica
    };
    let mut replica = start();
    let first = replica.store().applied().index;
    for id in 1..=30 {
        replica.propose(put(id, "k", "v")).unwrap();
        advance(&mut replica, &mut Output::default()).unwrap();
    }
    assert!(replica.term_of(first).is_some());
    drop(replica);
    assert!(start().term_of(first).is_some(), "a follower would be sent a state for a restart");
}

each_engine!(ticks_change_nothing_for_a_sole_leader);

fn ticks_change_nothing_for_a_sole_leader(engine: EngineKind) {
    let disk = Machine::new(engine);
    let (mut replica, _) = open(&disk).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    let (standing, operations) = (replica.standing(), disk.operations());
    for _ in 0..100 {
        replica.tick();
        advance(&mut replica, &mut Output::default()).unwrap();
    }
    assert_eq!((replica.standing(), disk.operations()), (standing, operations));
}

each_engine!(the_first_entry_is_the_one_that_etcd_writes);

/// The entry that etcd writes at its first start, and that it can read: the change in etcd's numbers, and the member as
/// etcd's JSON.
fn the_first_entry_is_the_one_that_etcd_writes(engine: EngineKind) {
    let disk = Machine::new(engine);
    let first = |disk: &Machine| replay(disk).entries.remove(0);
    let (mut replica, _) = open(&disk).unwrap();
    let entry = first(&disk);
    advance(&mut replica, &mut Output::default()).unwrap();
    let id = replica.id();
    let change = raftpb::ConfChange::decode(entry.data.clone()).unwrap();
    assert_eq!((entry.kind, entry.term, entry.index), (1, 1, 1));
    assert_eq!((change.r#type, change.node_id), (Some(0), Some(id)));
    let json = format!("{{\"id\":{id},\"peerURLs\":[\"{PEER_URL}\"],\"name\":\"one\"}}");
    assert_eq!(String::from_utf8(change.context().to_vec()).unwrap(), json);
    drop(replica);
    // The entry is applied again at each start, and stays as it is.
    let (mut replica, _) = open(&disk).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    assert_eq!(first(&disk), entry);
    let member = Member { id, name: "one".into(), peer_urls: vec![PEER_URL.into()], ..Member::default() };
    assert_eq!(replica.store().members().iter().collect::<Vec<_>>(), [&member]);
}

each_engine!(the_log_knows_what_is_committed_but_for_the_last_batch);

fn the_log_knows_what_is_committed_but_for_the_last_batch(engine: EngineKind) {
    let disk = Machine::new(engine);
    let (mut replica, _) = open(&disk).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    for id in 1..20 {
        replica.propose(put(id, "k", "v")).unwrap();
        advance(&mut replica, &mut Output::default()).unwrap();
    }
    let replay = replay(&disk);
    let last: &Entry = replay.entries.last().unwrap();
    assert_eq!(last.index, replica.standing().commit);
    assert_eq!(replay.hard_state.commit(), last.index - 1);
    assert_eq!((replay.hard_state.term(), replay.hard_state.vote()), (replica.standing().term, replica.id()));
}

each_engine!(proposals_that_wait_together_share_a_write_and_a_sync);

/// A batch of proposals takes one write and one sync.
fn proposals_that_wait_together_share_a_write_and_a_sync(engine: EngineKind) {
    let mut settings = settings(engine);
    (settings.snapshot_log_bytes, settings.flush_log_bytes) = (u64::MAX, u64::MAX);
    settings.log = Default::default();
    let disk = Machine::new(engine);
    let (mut replica, _) = open_with(settings, &disk, paths()).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    let operations = disk.operations();
    for id in 1..=50 {
        replica.propose(put(id, "k", "v")).unwrap();
    }
    let mut output = Output::default();
    advance(&mut replica, &mut output).unwrap();
    assert_eq!((output.outcomes.len(), disk.operations() - operations), (50, 2));
}

each_engine!(a_member_on_a_real_disk_comes_back);

/// The same on a real file system: first start, writes, snapshots, restart, and only one member at a time.
fn a_member_on_a_real_disk_comes_back(engine: EngineKind) {
    let scratch = std::env::temp_dir().join(format!("metastore-replica-{}-{}", engine.name(), std::process::id()));
    let _ = std::fs::remove_dir_all(&scratch);
    let start = |name: &str| {
        let paths = Paths { data_dir: scratch.join(name), wal_dir: Some(scratch.join("log")) };
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
        Replica::open(
            settings(engine),
            disk,
            paths,
            || Ok(bootstrap()),
            Arc::new(move |path: &Path| match engine {
                EngineKind::Memory => Ok(Arc::new(Memory::new())),
                EngineKind::RocksDb => Ok(Arc::new(RocksDb::open(path, RocksDbSettings::default())?)),
            }),
        )
    };
    let (mut snapshots, value) = (0, "v".repeat(300));
    for round in 0..3 {
        let (mut replica, cut) = start("one").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(cut, None);
        advance(&mut replica, &mut Output::default()).unwrap();
        assert_eq!(replica.store().revision(), 1 + round * 40);
        for id in 1..=40 {
            let compaction = CompactionRequest { revision: replica.store().revision(), ..Default::default() };
            replica.propose(put(id, "k", &value)).unwrap();
            replica.propose(Command::encode(id, Kind::Compaction, &compaction)).unwrap();
            let mut output = Output::default();
            advance(&mut replica, &mut output).unwrap();
            if let Some(job) = output.snapshot {
                replica.snapshot_written(job.run().unwrap()).unwrap();
                snapshots += 1;
            }
        }
        for name in ["one", "two"] {
            let error = start(name).err().unwrap().to_string();
            assert!(error.contains("another process uses this directory"), "{error}");
        }
    }
    assert!(snapshots > 10, "{snapshots}");
    std::fs::remove_dir_all(&scratch).unwrap();
}
