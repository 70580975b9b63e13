//! Revisions: one counter for the whole store that grows by one with each write. It is the same on all members, so that
//! a reader of revision r has seen everything before it (etcd, <https://etcd.io/docs/v3.6/learning/api_guarantees/> and
//! <https://etcd.io/docs/v3.6/learning/data_model/>). The changes of a revision continue the state before it: create
//! and mod revision, version, and the replaced row.

use std::collections::BTreeMap;

use bytes::Bytes;
use metastore_proto::mvccpb::event::EventType;
use metastore_proto::mvccpb::{Event, KeyValue};
use metastore_store::mvcc::row;
use metastore_store::watch::{Change, RevisionEvents};

use crate::history::{Revisions, Violation};

/// The revision of an empty store.
const EMPTY: i64 = 1;

/// The changes of each revision.
#[derive(Default)]
pub struct RevisionsDense {
    revisions: Revisions,
    /// The changes of each key: their revisions, and the positions in them.
    keys: BTreeMap<Bytes, Vec<(i64, usize)>>,
    /// The progress of each member; a member that is missing here has an empty store.
    members: BTreeMap<usize, Standing>,
}

#[derive(Clone, Copy)]
enum Standing {
    /// It has published up to this revision.
    At(i64),
    /// It has taken up the state of another member, at a revision that is not known here.
    Replaced { past: i64 },
}

impl RevisionsDense {
    /// A member publishes the changes of a revision.
    pub fn publishes(&mut self, member: usize, events: &RevisionEvents) -> Result<(), Violation> {
        let revision = events.revision;
        self.follows(member, revision)?;
        let read: Result<Vec<Event>, Violation> = events.changes.iter().map(|change| event(revision, change)).collect();
        let read = read.map_err(|why| format!("member {member} publishes revision {revision}: {why}"))?;
        match self.revisions.get(&revision) {
            Some(known) if *known != read => {
                return Err(format!("member {member} has at revision {revision} {read:?}, others have {known:?}"));
            }
            Some(_) => {}
            None => self.begins(member, events, read)?,
        }
        self.members.insert(member, Standing::At(revision));
        Ok(())
    }

    /// A member has taken up another member's state, and continues from there.
    pub fn replaced(&mut self, member: usize) -> Result<(), Violation> {
        let past = match self.standing(member) {
            Standing::At(past) | Standing::Replaced { past } => past,
        };
        self.members.insert(member, Standing::Replaced { past });
        Ok(())
    }

    /// A member restarts from its durable state, which is at `revision`. This may be older than the last revision that
    /// it published.
    pub fn restarted(&mut self, member: usize, revision: i64) -> Result<(), Violation> {
        let newest = self.newest();
        if !(EMPTY..=newest).contains(&revision) {
            return Err(format!("member {member} restarts at revision {revision}; published are {EMPTY} to {newest}"));
        }
        self.members.insert(member, Standing::At(revision));
        Ok(())
    }

    /// All revisions published so far.
    pub fn revisions(&self) -> &Revisions {
        &self.revisions
    }

    /// The newest revision that any member has published; 1 if there is none.
    pub fn newest(&self) -> i64 {
        self.revisions.last_key_value().map_or(EMPTY, |(revision, _)| *revision)
    }

    /// The value of a key at a revision; `None` if the key does not exist then.
    pub fn value_at(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let changes = self.keys.get(key)?;
        let (newest, place) = changes[..changes.partition_point(|at| at.0 <= revision)].last()?;
        let event = &self.revisions[newest][*place];
        (event.r#type() == EventType::Put).then(|| event.kv.clone())?
    }

    /// A member reads the whole key space at a revision.
    pub fn reads(&self, member: usize, revision: i64, found: &[KeyValue]) -> Result<(), Violation> {
        let wanted: Vec<_> = self.keys.keys().filter_map(|key| self.value_at(key, revision)).collect();
        if found == wanted {
            return Ok(());
        }
        Err(format!("member {member} reads at revision {revision} {found:?}, and it was {wanted:?}"))
    }

    fn standing(&self, member: usize) -> Standing {
        self.members.get(&member).copied().unwrap_or(Standing::At(EMPTY))
    }

    /// Checks that `revision` is the next revision of this member.
    fn follows(&self, member: usize, revision: i64) -> Result<(), Violation> {
        match self.standing(member) {
            Standing::At(at) if revision != at + 1 => {
                Err(format!("member {member} publishes revision {revision} after {at}"))
            }
            Standing::Replaced { past } if revision <= past => {
                Err(format!("member {member} publishes revision {revision} after it took up a state beyond {past}"))
            }
            _ if revision > self.newest() + 1 => {
                let newest = self.newest();
                Err(format!("member {member} publishes revision {revision}, and nobody those from {newest} up to it"))
            }
            _ => Ok(()),
        }
    }

    /// Records a revision that no member has published before.
    fn begins(&mut self, member: usize, from: &RevisionEvents, events: Vec<Event>) -> Result<(), Violation> {
        let revision = from.revision;
        self.fits(from, &events).map_err(|why| format!("member {member} publishes revision {revision}: {why}"))?;
        for (place, event) in events.iter().enumerate() {
            let key = event.kv.as_ref().map(|kv| kv.key.clone()).unwrap_or_default();
            self.keys.entry(key).or_default().push((revision, place));
        }
        self.revisions.insert(revision, events);
        Ok(())
    }

    /// Checks that a revision continues those before it.
    fn fits(&self, from: &RevisionEvents, events: &[Event]) -> Result<(), Violation> {
        if events.is_empty() {
            return Err("it changes nothing".into());
        }
        let mut last_sub = None;
        // The keys as left by the earlier changes of this revision.
        let mut here: BTreeMap<&[u8], Option<&KeyValue>> = BTreeMap::new();
        for (change, event) in from.changes.iter().zip(events) {
            let sub = change.version.revision.sub;
            if last_sub.is_some_and(|last| sub <= last) {
                return Err(format!("change {sub} stands after change {}", last_sub.unwrap_or_default()));
            }
            last_sub = Some(sub);
            let Some(kv) = &event.kv else { continue };
            let before = here.get(&kv.key[..]).map(|kv| kv.cloned());
            let before = before.unwrap_or_else(|| self.value_at(&kv.key, from.revision - 1));
            continues(from.revision, event, before.as_ref())?;
            here.insert(&kv.key, (event.r#type() == EventType::Put).then_some(kv));
        }
        Ok(())
    }
}

/// Checks that a change continues the value that the key held before it.
fn continues(revision: i64, event: &Event, before: Option<&KeyValue>) -> Result<(), Violation> {
    if event.prev_kv.as_ref() != before {
        return Err(format!("{event:?} replaces something else than {before:?}"));
    }
    let Some(kv) = &event.kv else { return Ok(()) };
    let wanted = match (event.r#type(), before) {
        (EventType::Put, Some(before)) => (before.create_revision, before.version + 1),
        (EventType::Put, None) => (revision, 1),
        (EventType::Delete, Some(_)) => (0, 0),
        (EventType::Delete, None) => return Err(format!("{event:?} deletes what was not there")),
    };
    if (kv.create_revision, kv.version) != wanted {
        return Err(format!("{event:?} does not continue {before:?}"));
    }
    Ok(())
}

/// A change as a watcher sees it.
fn event(revision: i64, change: &Change) -> Result<Event, Violation> {
    let version = &change.version;
    let mut kv = key_value(&version.row)?;
    if version.tombstone {
        if kv != (KeyValue { key: kv.key.clone(), ..KeyValue::default() }) {
            return Err(format!("a tombstone holds more than the key: {kv:?}"));
        }
        kv.mod_revision = revision;
    }
    if version.revision.main != revision || kv.mod_revision != revision {
        return Err(format!("a change of revision {} says {kv:?}", version.revision.main));
    }
    let prev_kv = change.previous.as_ref().map(|row| key_value(row)).transpose()?;
    let kind = if version.tombstone { EventType::Delete } else { EventType::Put };
    Ok(Event { r#type: kind.into(), kv: Some(kv), prev_kv })
}

fn key_value(row: &[u8]) -> Result<KeyValue, Violation> {
    let row::KeyValue { key, create_revision, mod_revision, version, value, lease } =
        row::KeyValue::parse(row).ok_or_else(|| format!("a row that cannot be read: {row:?}"))?;
    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    Ok(KeyValue { key, create_revision, mod_revision, version, value, lease })
}

#[cfg(test)]
mod tests {
    use metastore_engine::{Revision, Version};

    use super::*;

    fn row(
        key: &str,
        (create_revision, mod_revision, version): (i64, i64, i64),
        value: &str,
    ) -> row::KeyValue<'static> {
        let (key, value) = (key.to_owned().leak().as_bytes(), value.to_owned().leak().as_bytes());
        row::KeyValue { key, create_revision, mod_revision, version, value, lease: 0 }
    }

    fn change(revision: (i64, i64), row: row::KeyValue, previous: Option<row::KeyValue>) -> Change {
        let tombstone = row.mod_revision == 0;
        let version = Version { revision: Revision::new(revision.0, revision.1), tombstone, row: row.to_row() };
        Change { version, previous: previous.map(|row| row.to_row()) }
    }

    fn put(revision: i64, key: &str, value: &str) -> RevisionEvents {
        let row = row(key, (revision, revision, 1), value);
        RevisionEvents { revision, changes: vec![change((revision, 0), row, None)] }
    }

    fn tombstone(key: &str) -> row::KeyValue<'static> {
        row(key, (0, 0, 0), "")
    }

    /// `a` is put, `b` is put, both are changed, `a` is deleted.
    fn history() -> Vec<RevisionEvents> {
        let (a, b) = (row("a", (2, 2, 1), "1"), row("b", (3, 3, 1), "2"));
        let (a2, b2) = (row("a", (2, 4, 2), "3"), row("b", (3, 4, 2), "4"));
        let both = vec![change((4, 0), a2, Some(a)), change((4, 1), b2, Some(b))];
        let deleted = vec![change((5, 0), tombstone("a"), Some(a2))];
        vec![
            put(2, "a", "1"),
            put(3, "b", "2"),
            RevisionEvents { revision: 4, changes: both },
            RevisionEvents { revision: 5, changes: deleted },
        ]
    }

    fn published() -> RevisionsDense {
        let mut check = RevisionsDense::default();
        history().iter().for_each(|events| check.publishes(0, events).unwrap());
        check
    }

    fn rejects(revision: i64, changes: Vec<Change>, why: &str) {
        let violation = published().publishes(0, &RevisionEvents { revision, changes }).unwrap_err();
        assert!(violation.contains(why), "{violation}");
    }

    #[test]
    fn members_that_publish_the_same() {
        let mut check = published();
        history().iter().for_each(|events| check.publishes(1, events).unwrap());
        assert_eq!((check.newest(), check.revisions().len()), (5, 4));
        assert_eq!(RevisionsDense::default().newest(), 1);
    }

    #[test]
    fn values_at_revisions() {
        let check = published();
        let value = |key: &str, revision| check.value_at(key.as_bytes(), revision).map(|kv| kv.value);
        let a: Vec<Option<Bytes>> = (1..=6).map(|revision| value("a", revision)).collect();
        assert_eq!(a, [None, Some("1".into()), Some("1".into()), Some("3".into()), None, None]);
        assert_eq!((value("b", 2), value("b", 9), value("c", 9)), (None, Some("4".into()), None));
    }

    #[test]
    fn a_member_reads_the_key_space_at_a_revision() {
        let check = published();
        let [a, b] = ["a", "b"].map(|key| check.value_at(key.as_bytes(), 4).unwrap());
        check.reads(0, 4, &[a.clone(), b.clone()]).unwrap();
        check.reads(0, 5, std::slice::from_ref(&b)).unwrap();
        check.reads(0, 1, &[]).unwrap();
        check.reads(0, 4, std::slice::from_ref(&b)).unwrap_err();
        check.reads(0, 5, &[a, b]).unwrap_err();
    }

    #[test]
    fn events_are_those_of_a_watch() {
        let check = published();
        let [event] = &check.revisions()[&5][..] else { panic!("one change") };
        let kv = KeyValue { key: "a".into(), mod_revision: 5, ..KeyValue::default() };
        assert_eq!((event.r#type(), event.kv.as_ref()), (EventType::Delete, Some(&kv)));
        assert_eq!(event.prev_kv, check.value_at(b"a", 4));
    }

    #[test]
    fn a_member_that_begins_again_or_jumps() {
        let mut check = published();
        check.restarted(0, 3).unwrap();
        history()[2..].iter().for_each(|events| check.publishes(0, events).unwrap());
        check.replaced(2).unwrap();
        check.publishes(2, &history()[3]).unwrap();
        check.replaced(2).unwrap();
        check.publishes(2, &put(6, "c", "5")).unwrap();
    }

    #[test]
    fn a_revision_that_is_left_out() {
        let mut check = published();
        check.publishes(1, &history()[1]).unwrap_err();
        check.publishes(1, &history()[0]).unwrap();
        assert_eq!(check.publishes(1, &history()[2]), Err("member 1 publishes revision 4 after 2".into()));
        check.restarted(1, 2).unwrap();
        check.publishes(1, &history()[2]).unwrap_err();
    }

    #[test]
    fn a_revision_that_comes_twice() {
        published().publishes(0, &history()[3]).unwrap_err();
        let mut check = published();
        check.replaced(0).unwrap();
        check.publishes(0, &history()[3]).unwrap_err();
    }

    #[test]
    fn a_jump_beyond_what_is_known() {
        let mut check = published();
        check.replaced(1).unwrap();
        check.publishes(1, &put(7, "c", "5")).unwrap_err();
        check.restarted(1, 6).unwrap_err();
        check.restarted(1, 0).unwrap_err();
    }

    #[test]
    fn members_that_differ() {
        for other in [put(2, "a", "x"), put(2, "x", "1"), RevisionEvents { revision: 2, changes: Vec::new() }] {
            let violation = published().publishes(1, &other).unwrap_err();
            assert!(violation.starts_with("member 1 has at revision 2"), "{violation}");
        }
        let mut check = published();
        check.restarted(1, 3).unwrap();
        let mut other = history().remove(2);
        other.changes.swap(0, 1);
        check.publishes(1, &other).unwrap_err();
        other.changes.swap(0, 1);
        other.changes[1].previous = None;
        check.publishes(1, &other).unwrap_err();
    }

    #[test]
    fn a_revision_without_a_change() {
        rejects(6, Vec::new(), "it changes nothing");
    }

    #[test]
    fn changes_that_do_not_fit() {
        let b = row("b", (3, 4, 2), "4");
        let put = |numbers, previous| vec![change((6, 0), row("b", numbers, "5"), previous)];
        rejects(6, put((3, 6, 3), None), "replaces something else");
        rejects(6, put((3, 6, 3), Some(row("b", (3, 4, 2), "x"))), "replaces something else");
        rejects(6, put((3, 6, 2), Some(b)), "does not continue");
        rejects(6, put((6, 6, 1), Some(b)), "does not continue");
        rejects(6, put((3, 5, 3), Some(b)), "a change of revision 6 says");
        rejects(6, vec![change((5, 0), row("b", (3, 6, 3), "5"), Some(b))], "a change of revision 5 says");
        rejects(6, vec![change((6, 0), tombstone("a"), None)], "deletes what was not there");
        rejects(6, vec![change((6, 0), row("b", (0, 0, 0), "5"), Some(b))], "more than the key");
    }

    #[test]
    fn changes_within_a_revision() {
        let (c, d) = (row("c", (6, 6, 1), "1"), row("d", (6, 6, 1), "1"));
        rejects(6, vec![change((6, 1), c, None), change((6, 0), d, None)], "change 0 stands after change 1");
        rejects(6, vec![change((6, 0), c, None), change((6, 1), c, None)], "replaces something else");
    }

    #[test]
    fn a_row_that_is_none() {
        let mut broken = change((6, 0), tombstone("b"), None);
        broken.version.row = vec![0xff].into();
        rejects(6, vec![broken], "a row that cannot be read");
    }
}
