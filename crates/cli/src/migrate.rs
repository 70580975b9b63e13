//! `migrate`: the data directory of a stopped etcd becomes one of MetaStore, or the other way round. The directory that
//! is read stays as it is.

mod from_etcd;
mod to_etcd;

use std::io;
use std::path::Path;

use metastore_backup::EtcdState;
use metastore_bbolt::ReadAt;
use metastore_proto::raftpb::ConfState;
use metastore_replica::wal::Metadata;
use metastore_replica::{NewMember, StoppedMember};
use metastore_store::mvcc::RangeQuery;

use crate::arguments::Migrate;
use crate::failure::{Done, Failure};
use crate::progress;

pub fn run(migrate: &Migrate) -> Done {
    match (&migrate.from_etcd_data_dir, &migrate.to_etcd_data_dir) {
        (Some(etcd), _) => from_etcd::run(migrate, etcd),
        (None, Some(etcd)) => to_etcd::run(migrate, etcd),
        (None, None) => Err(Failure::arguments("give --from-etcd-data-dir or --to-etcd-data-dir")),
    }
}

/// Passes the state of a database on to a new member, and makes its directory whole.
pub fn import<S: ReadAt>(state: &EtcdState<S>, mut member: NewMember, conf_state: &ConfState) -> Done {
    let (bar, position) = (progress::bytes("converting", None), member.position());
    let take = |piece: &[u8]| {
        bar.inc(piece.len() as u64);
        member.take(piece).map_err(io::Error::other)
    };
    state.write(position, conf_state, take)?;
    bar.finish_and_clear();
    Ok(member.finish()?)
}

/// Prints what a member holds, for a comparison with the answers of the other program.
fn describe(directory: &Path, member: &StoppedMember) -> Done {
    let (store, Metadata { node_id, cluster_id }) = (member.store(), member.owner());
    let view = store.view();
    let hash = view.hash_kv(0).map_err(Failure::new)?;
    let all = RangeQuery { key: b"\0", range_end: b"\0", count_only: true, ..RangeQuery::default() };
    let keys = view.range(&all).map_err(Failure::new)?.count;
    println!("{}: converted", directory.display());
    println!("  member {node_id:x} of cluster {cluster_id:x}, log applied up to entry {}", store.applied().index);
    println!("  {keys} keys, revision {}, compacted at {}", hash.revision, hash.compact_revision);
    println!("  HashKV {} (compare: etcdctl endpoint hashkv)", hash.hash);
    for member in store.members().iter() {
        let kind = if member.is_learner { "learner" } else { "voter" };
        println!("  {kind} {:x} {} {}", member.id, member.name, member.peer_urls.join(","));
    }
    Ok(())
}
