//! The versions that a member stores. A compaction drops every version that no read at its revision or later can see
//! (etcd, <https://etcd.io/docs/v3.6/op-guide/maintenance/>, "History compaction"). Of the versions up to the compacted
//! revision, the newest of each key stays if the key is alive then. A tombstone at exactly that revision stays, for
//! watchers that start there. So once a compaction has finished, everything that a member stores follows from the
//! writes. A version that should have been dropped is invisible to clients, and fills the disk.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use metastore_proto::mvccpb::event::EventType;
use metastore_proto::mvccpb::{Event, KeyValue};

use crate::history::{Revisions, Violation};

/// A version that a member stores.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Main revision, and position in it.
    pub revision: (i64, i64),
    pub tombstone: bool,
    /// For a tombstone, only the key is set.
    pub kv: KeyValue,
}

/// Pairs of a lease and a key that is attached to it.
pub type Attached = BTreeSet<(i64, Bytes)>;

/// Checks that a member that has finished a compaction at `at` stores the right versions, in the order of revisions.
///
/// # Errors
/// The first version that is missing, or that should have been dropped.
pub fn check(member: usize, at: i64, stored: &[Stored], revisions: &Revisions) -> Result<(), Violation> {
    let wanted = wanted(at, revisions);
    let differs = stored.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
    let place = differs.unwrap_or(stored.len().min(wanted.len()));
    match (stored.get(place), wanted.get(place)) {
        (None, None) => Ok(()),
        (found, wanted) => Err(format!(
            "member {member}, compacted at {at}, stores {} versions; version {place} is {found:?} and should be \
                {wanted:?}",
            stored.len()
        )),
    }
}

/// Checks that a member attaches to leases exactly the keys whose newest versions name them.
///
/// # Errors
/// A key that is attached and should not be, or the reverse.
pub fn check_attached(member: usize, attached: &Attached, revisions: &Revisions) -> Result<(), Violation> {
    let mut newest: BTreeMap<&Bytes, &Event> = BTreeMap::new();
    for event in revisions.values().flatten() {
        newest.extend(event.kv.as_ref().map(|kv| (&kv.key, event)));
    }
    let alive = newest.into_values().filter(|event| event.r#type() == EventType::Put);
    let leased = alive.filter_map(|event| event.kv.as_ref()).filter(|kv| kv.lease != 0);
    let wanted: Attached = leased.map(|kv| (kv.lease, kv.key.clone())).collect();
    match attached.symmetric_difference(&wanted).next() {
        None => Ok(()),
        Some((lease, key)) => {
            let is = if wanted.contains(&(*lease, key.clone())) { "is not" } else { "is" };
            Err(format!("on member {member}, key {key:?} {is} attached to lease {lease}"))
        }
    }
}

fn wanted(at: i64, revisions: &Revisions) -> Vec<Stored> {
    let mut newest: BTreeMap<&Bytes, (i64, i64)> = BTreeMap::new();
    for (revision, event) in written(revisions).filter(|((main, _), _)| *main <= at) {
        newest.extend(event.kv.as_ref().map(|kv| (&kv.key, revision)));
    }
    let stays = |revision: (i64, i64), event: &Event, kv: &KeyValue| {
        let lives = event.r#type() == EventType::Put || revision.0 == at;
        revision.0 > at || (newest.get(&kv.key) == Some(&revision) && lives)
    };
    let version = |(revision, event): ((i64, i64), &Event)| {
        let kv = event.kv.as_ref().filter(|kv| stays(revision, event, kv))?;
        let tombstone = event.r#type() == EventType::Delete;
        let kv = match tombstone {
            true => KeyValue { key: kv.key.clone(), ..KeyValue::default() },
            false => kv.clone(),
        };
        Some(Stored { revision, tombstone, kv })
    };
    written(revisions).filter_map(version).collect()
}

/// All versions that were ever written, with revision and position in it.
fn written(revisions: &Revisions) -> impl Iterator<Item = ((i64, i64), &Event)> {
    revisions.iter().flat_map(|(main, events)| (0..).zip(events).map(|(sub, event)| ((*main, sub), event)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventType, key: &'static str, revision: i64, lease: i64) -> Event {
        let mut kv = KeyValue { key: key.into(), mod_revision: revision, lease, ..KeyValue::default() };
        if kind == EventType::Put {
            kv.value = revision.to_string().into();
        }
        Event { r#type: kind.into(), kv: Some(kv), prev_kv: None }
    }

    /// `a` is written at 2 and 3, and at 6 with a lease; `b` is written at 3 and deleted at 4; `c` is written at 4 and
    /// deleted at 5.
    fn history() -> Revisions {
        use EventType::{Delete, Put};
        Revisions::from([
            (2, vec![event(Put, "a", 2, 0)]),
            (3, vec![event(Put, "a", 3, 0), event(Put, "b", 3, 8)]),
            (4, vec![event(Delete, "b", 4, 0), event(Put, "c", 4, 0)]),
            (5, vec![event(Delete, "c", 5, 0)]),
            (6, vec![event(Put, "a", 6, 7)]),
        ])
    }

    fn revisions(at: i64) -> Vec<(i64, i64)> {
        wanted(at, &history()).iter().map(|stored| stored.revision).collect()
    }

    #[test]
    fn what_a_compaction_leaves() {
        assert_eq!(revisions(1), [(2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (5, 0), (6, 0)]);
        assert_eq!(revisions(3), [(3, 0), (3, 1), (4, 0), (4, 1), (5, 0), (6, 0)]);
        assert_eq!(revisions(4), [(3, 0), (4, 0), (4, 1), (5, 0), (6, 0)], "a tombstone at the compacted revision");
        assert_eq!(revisions(5), [(3, 0), (5, 0), (6, 0)]);
        assert_eq!(revisions(6), [(6, 0)]);
    }

    #[test]
    fn versions_that_should_have_gone_or_stayed() {
        let whole = wanted(5, &history());
        check(0, 5, &whole, &history()).unwrap();
        let violation = check(2, 5, &wanted(4, &history()), &history()).unwrap_err();
        assert!(violation.starts_with("member 2, compacted at 5, stores 5 versions; version 1 is Some"), "{violation}");
        check(0, 5, &whole[1..], &history()).unwrap_err();
        let violation = check(0, 5, &whole[..2], &history()).unwrap_err();
        assert!(violation.contains("version 2 is None and should be Some"), "{violation}");
        let longer = [&whole[..], &whole[2..]].concat();
        check(0, 5, &longer, &history()).unwrap_err();
        let mut other = whole.clone();
        other[0].kv.value = "other".into();
        check(0, 5, &other, &history()).unwrap_err();
    }

    #[test]
    fn keys_that_are_attached_to_a_lease() {
        let attached = Attached::from([(7, "a".into())]);
        check_attached(0, &attached, &history()).unwrap();
        let violation = check_attached(1, &Attached::new(), &history()).unwrap_err();
        assert_eq!(violation, "on member 1, key b\"a\" is not attached to lease 7");
        let more = Attached::from([(7, "a".into()), (8, "b".into())]);
        let violation = check_attached(1, &more, &history()).unwrap_err();
        assert_eq!(violation, "on member 1, key b\"b\" is attached to lease 8");
    }
}
