//! HashKV: at equal revisions and compacted revisions, all members give the same hash. etcd uses it to detect members
//! that have diverged (corruption checks, <https://etcd.io/docs/v3.6/op-guide/data_corruption/>).

use std::collections::BTreeMap;

use metastore_store::mvcc::HashKv;

use crate::history::Violation;

/// All hashes that members gave.
#[derive(Default)]
pub struct HashKvEqual {
    /// By the hashed revision and the compacted one: the hash, and the member that gave it first.
    hashes: BTreeMap<(i64, i64), (u32, usize)>,
}

impl HashKvEqual {
    /// A member was asked for the hash at `revision` (0: its newest), and gave this one.
    pub fn hashed(&mut self, member: usize, revision: i64, hash: HashKv) -> Result<(), Violation> {
        let HashKv { hash: value, compact_revision, hash_revision, revision: newest } = hash;
        let wanted = if revision == 0 { newest } else { revision };
        if hash_revision != wanted || newest < hash_revision {
            return Err(format!("member {member} was asked for its hash at revision {revision}, and gave {hash:?}"));
        }
        let (known, first) = *self.hashes.entry((hash_revision, compact_revision)).or_insert((value, member));
        if known != value {
            return Err(format!(
                "at revision {hash_revision}, compacted at {compact_revision}, members {first} and {member} have the \
                 hashes {known} and {value}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(hash: u32, compact_revision: i64, hash_revision: i64, revision: i64) -> HashKv {
        HashKv { hash, compact_revision, hash_revision, revision }
    }

    #[test]
    fn equal_hashes_of_members_that_are_not_equally_far() {
        let mut check = HashKvEqual::default();
        check.hashed(0, 5, hash(1, 2, 5, 9)).unwrap();
        check.hashed(1, 5, hash(1, 2, 5, 7)).unwrap();
        check.hashed(2, 0, hash(1, 2, 5, 5)).unwrap();
        // A later compaction has left other versions to hash.
        check.hashed(2, 5, hash(8, 4, 5, 5)).unwrap();
    }

    #[test]
    fn members_that_have_parted() {
        let mut check = HashKvEqual::default();
        check.hashed(0, 5, hash(1, 2, 5, 9)).unwrap();
        let violation = check.hashed(1, 5, hash(3, 2, 5, 7)).unwrap_err();
        assert_eq!(violation, "at revision 5, compacted at 2, members 0 and 1 have the hashes 1 and 3");
    }

    #[test]
    fn the_hash_of_another_revision() {
        HashKvEqual::default().hashed(0, 5, hash(1, 2, 6, 9)).unwrap_err();
        HashKvEqual::default().hashed(0, 0, hash(1, 2, 6, 9)).unwrap_err();
        HashKvEqual::default().hashed(0, 5, hash(1, 2, 5, 4)).unwrap_err();
    }
}
