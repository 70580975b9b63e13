//! The end of a run: a last compaction, and the versions that it leaves on each member.

use std::collections::BTreeSet;

use metastore_engine::{Revision, Table, Version};
use metastore_proto::etcdserverpb::CompactionRequest;
use metastore_replica::Replica;
use metastore_store::command::{Command, Kind};

use super::World;
use crate::answers;
use crate::history::must;
use crate::invariants::stored::{self, Attached, Stored};
use crate::member::Member;

/// Ticks within which all members of a healed cluster have dropped the versions of a compaction.
const COMPACTION_TICKS: u64 = 100;
/// The number of newest revisions that the last compaction keeps, at most.
const LEFT_REVISIONS: u64 = 12;
/// Bytes of a lease id, the beginning of a row name that attaches a key to the lease.
const LEASE_ID_BYTES: usize = 8;

impl World {
    /// Compacts once more, and compares the stored data of members with the history of writes.
    pub(super) fn check_stored(&mut self) {
        // The versions that clients have compacted must be dropped at this point, whatever faults happened.
        self.compare_stored(None);
        let newest = self.judge.revisions.newest();
        let at = (newest - self.random.below(LEFT_REVISIONS) as i64).max(self.compacted).max(1);
        if at > self.compacted {
            self.compact_at(at);
        }
        for _ in 0..COMPACTION_TICKS {
            if self.there().all(|replica| is_compacted(replica, at)) {
                break;
            }
            self.ticks(1);
        }
        self.compare_stored(Some(at));
    }

    /// Compares the stored data of members with the history of writes: after the compaction at `at`, or after the
    /// newest that each knows.
    fn compare_stored(&self, at: Option<i64>) {
        let mut usages = BTreeSet::new();
        for member in self.members.iter().filter(|member| member.is_there()) {
            let Some(replica) = &member.replica else { continue };
            let at = at.unwrap_or_else(|| replica.store().view().compact_revision());
            assert!(is_compacted(replica, at), "member {} does not finish a compaction at {at}", member.at);
            let revisions = self.judge.revisions.revisions();
            must(stored::check(member.at, at, &all_versions(replica), revisions));
            must(stored::check_attached(member.at, &attached(replica), revisions));
            let usage = replica.store().view().engine().usage();
            usages.insert((usage.rows, usage.bytes));
        }
        assert!(usages.len() == 1, "members that hold the same count it differently: {usages:?}");
    }

    fn compact_at(&mut self, revision: i64) {
        self.note(|| format!("the last compaction, at {revision}"));
        let request = CompactionRequest { revision, physical: false };
        let command = Command::encode(self.clients.next_id(), Kind::Compaction, &request);
        let leader = self.members.iter_mut().rfind(|member| member.leads()).expect("a healed cluster has a leader");
        leader.due = true;
        let proposed = leader.replica.as_mut().map(|replica| replica.propose(command));
        assert!(proposed.is_some_and(|proposed| proposed.is_ok()), "the leader of a healed cluster takes a compaction");
    }

    fn there(&self) -> impl Iterator<Item = &Replica> {
        self.members.iter().filter(|member| member.is_there()).filter_map(|member: &Member| member.replica.as_ref())
    }
}

fn is_compacted(replica: &Replica, at: i64) -> bool {
    replica.store().view().compact_revision() >= at && !replica.store().compacting()
}

fn all_versions(replica: &Replica) -> Vec<Stored> {
    let (view, mut versions) = (replica.store().view(), Vec::<Version>::new());
    let mut from = Some(Revision::default());
    while let Some(next) = from {
        from = view.history(next, i64::MAX, &mut versions).expect("history can be read");
    }
    let stored = |version: &Version| Stored {
        revision: (version.revision.main, version.revision.sub),
        tombstone: version.tombstone,
        kv: answers::key_value(&version.row),
    };
    versions.iter().map(stored).collect()
}

fn attached(replica: &Replica) -> Attached {
    let rows = replica.store().view().engine().rows(Table::LeaseKeys, b"").expect("a table can be read");
    let split = |(row, _): &(Vec<u8>, Vec<u8>)| {
        let (id, key) = row.split_first_chunk::<LEASE_ID_BYTES>().expect("a row begins with the id of a lease");
        (i64::from_be_bytes(*id), key.to_vec().into())
    };
    rows.iter().map(split).collect()
}
