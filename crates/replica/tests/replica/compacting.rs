//! Compactions of a member that also writes snapshots, sends its state, or has mass deletes to flush.

use metastore_proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, RequestOp, TxnRequest, request_op};
use metastore_replica::{Output, Replica, SnapshotJob};
use metastore_store::Reply;
use metastore_store::command::{Command, Kind};

use crate::machine::{EngineKind, Machine};
use crate::world::{advance, open, open_with, paths, put, settings};

/// Compacts at the newest revision. Returns whether the old versions are dropped.
fn compact(replica: &mut Replica) -> bool {
    let request = CompactionRequest { revision: replica.store().revision(), physical: true };
    replica.propose(Command::encode(0, Kind::Compaction, &request)).unwrap();
    let mut output = Output::default();
    advance(replica, &mut output).unwrap();
    assert!(output.outcomes.iter().any(|outcome| matches!(outcome.reply, Ok(Reply::Compact { .. }))), "it is applied");
    !replica.store().compacting()
}

/// Writes until a snapshot is due.
fn until_snapshot(replica: &mut Replica) -> SnapshotJob {
    for id in 1.. {
        replica.propose(put(id, "k", "v")).unwrap();
        let mut output = Output::default();
        advance(replica, &mut output).unwrap();
        if let Some(job) = output.snapshot {
            return job;
        }
    }
    unreachable!()
}

each_engine!(a_compaction_waits_neither_for_a_snapshot_nor_for_a_state_that_is_sent);

/// Writing a snapshot takes as long as the disk needs, and sending a state as long as the follower needs. Clients wait
/// for neither.
fn a_compaction_waits_neither_for_a_snapshot_nor_for_a_state_that_is_sent(engine: EngineKind) {
    let machine = Machine::new(engine);
    let (mut replica, _) = open(&machine).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    let snapshot = until_snapshot(&mut replica);
    let state = replica.state_to_send().unwrap();
    assert!(compact(&mut replica), "it waits for a reader of the whole state");
    replica.snapshot_written(snapshot.run().unwrap()).unwrap();
    drop(state);
}

/// Range requests pass over deleted keys as long as their rows are in RocksDB's files. A delete of very many keys is a
/// short entry of the log, which alone makes no flush due.
#[test]
fn a_mass_delete_is_flushed_soon_after_its_compaction() {
    const KEYS: usize = 20_000;
    let machine = Machine::new(EngineKind::RocksDb);
    let settings = metastore_replica::Settings { flush_log_bytes: u64::MAX, ..settings(EngineKind::RocksDb) };
    let (mut replica, _) = open_with(settings, &machine, paths()).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    let mut output = Output::default();
    let put = |number: usize| RequestOp {
        request: Some(request_op::Request::RequestPut(metastore_proto::etcdserverpb::PutRequest {
            key: format!("key{number:06}").into(),
            ..Default::default()
        })),
    };
    for first in (0..KEYS).step_by(1000) {
        let txn = TxnRequest { success: (first..first + 1000).map(put).collect(), ..TxnRequest::default() };
        replica.propose(Command::encode(0, Kind::Txn, &txn)).unwrap();
        advance(&mut replica, &mut output).unwrap();
    }
    let all = DeleteRangeRequest { key: "key".into(), range_end: "kez".into(), ..DeleteRangeRequest::default() };
    replica.propose(Command::encode(0, Kind::DeleteRange, &all)).unwrap();
    advance(&mut replica, &mut output).unwrap();
    assert!(output.snapshot.is_none(), "little was written");
    // A write after the deletes: tombstones at the very revision of a compaction stay until the next one.
    replica.propose(crate::world::put(0, "other", "")).unwrap();
    advance(&mut replica, &mut output).unwrap();
    assert!(compact(&mut replica));
    advance(&mut replica, &mut output).unwrap();
    let flush = output.snapshot.take().expect("the keys that were deleted are reason enough");
    replica.snapshot_written(flush.run().unwrap()).unwrap();
    advance(&mut replica, &mut output).unwrap();
    assert!(output.snapshot.is_none(), "one flush is enough");
}
