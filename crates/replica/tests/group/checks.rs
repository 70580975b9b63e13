//! What must hold whatever happens: one record of all that any member or client has seen, and nothing may contradict it.
//!
//! Revisions are the order in which writes take effect, and every member hands out what each revision changed. So to judge
//! a history no search is needed: a write or a linearizable read must stand at a revision that is not older than anything
//! that a client was told before it began, and what it answers must be what the changes up to there make of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use metastore_proto::raftpb::{Message, MessageType};
use metastore_store::mvcc::HashKv;
use metastore_store::mvcc::row::KeyValue;
use metastore_store::watch::RevisionEvents;
use metastore_store::{Outcome, Reply};

use crate::clients::{Action, Request};

/// A key, and its value unless it was deleted.
pub type Written = (Bytes, Option<Bytes>);

/// The first revision that a command can have.
const FIRST_REVISION: i64 = 2;

#[derive(Default)]
pub struct Record {
    /// Who has led in each term.
    leaders: BTreeMap<u64, usize>,
    /// What stands in the logs, by index and term.
    entries: BTreeMap<(u64, u64), Bytes>,
    /// The state after each entry: the entry's term, and the hash over all keys.
    states: BTreeMap<u64, (u64, HashKv)>,
    /// The answer to each command, by its id.
    outcomes: BTreeMap<u64, Outcome>,
    /// What each revision changed, from [`FIRST_REVISION`] on.
    changes: Vec<Vec<Written>>,
    /// The revisions of each key.
    keys: BTreeMap<Bytes, Vec<i64>>,
    /// Commands that were proposed, and whether nothing may come of them.
    proposed: BTreeMap<u64, bool>,
    /// Commands that have written their value.
    done: BTreeSet<u64>,
    /// The newest revision that a client was told.
    pub told: i64,
}

impl Record {
    /// Elections so far.
    pub fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// The newest revision that any member has seen.
    pub fn revision(&self) -> i64 {
        FIRST_REVISION - 1 + self.changes.len() as i64
    }

    /// Election safety (Raft, section 5.2): a term has one leader.
    pub fn leads(&mut self, member: usize, term: u64) {
        let first = *self.leaders.entry(term).or_insert(member);
        assert_eq!(first, member, "members {first} and {member} both lead in term {term}");
    }

    /// Looks at what a member sends. Log matching (Raft, section 5.3): index and term tell an entry.
    pub fn sends(&mut self, member: usize, message: &Message) {
        if matches!(message.r#type(), MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgTimeoutNow) {
            self.leads(member, message.term());
        }
        if message.r#type() != MessageType::MsgApp {
            return;
        }
        for entry in &message.entries {
            let at = (entry.index(), entry.term());
            let data = entry.data.clone().unwrap_or_default();
            let first = self.entries.entry(at).or_insert_with(|| data.clone());
            assert_eq!(*first, data, "entry {} of term {} is not the same everywhere", at.0, at.1);
        }
    }

    /// State machine safety (Raft, section 5.4.3): after an entry, everybody has the same state.
    pub fn applied(&mut self, member: usize, (index, term): (u64, u64), hash: HashKv) {
        let first = *self.states.entry(index).or_insert((term, hash));
        assert_eq!((term, hash), first, "member {member} differs from the others after entry {index}");
    }

    pub fn proposes(&mut self, id: u64) {
        self.proposed.insert(id, false);
    }

    /// The member said that nothing will come of a command.
    pub fn refuses(&mut self, id: u64) {
        self.proposed.insert(id, true);
    }

    /// A member has published a revision.
    pub fn publishes(&mut self, member: usize, events: &RevisionEvents) {
        let written: Vec<Written> = events
            .changes
            .iter()
            .map(|change| {
                let kv = KeyValue::of(&change.version.row);
                let value = (!change.version.tombstone).then(|| Bytes::copy_from_slice(kv.value));
                (Bytes::copy_from_slice(kv.key), value)
            })
            .collect();
        let revision = events.revision;
        if let Some(first) = self.written(revision) {
            assert_eq!(*first, written, "member {member} has written something else at revision {revision}");
            return;
        }
        assert_eq!(revision, self.revision() + 1, "member {member} has left out revisions");
        for (key, value) in &written {
            self.keys.entry(key.clone()).or_default().push(revision);
            if let Some(value) = value {
                self.takes_effect(value);
            }
        }
        self.changes.push(written);
    }

    /// Values are the ids of the commands that write them.
    fn takes_effect(&mut self, value: &Bytes) {
        let id = std::str::from_utf8(value).ok().and_then(|id| id.parse().ok());
        let id: u64 = id.unwrap_or_else(|| panic!("nobody has written {value:?}"));
        let refused = self.proposed.get(&id).unwrap_or_else(|| panic!("nobody has proposed command {id}"));
        assert!(!refused, "command {id} was refused, and took effect");
        assert!(self.done.insert(id), "command {id} took effect twice");
    }

    /// A member has an answer, whether or not anybody waits for it.
    pub fn answers(&mut self, member: usize, outcome: &Outcome) {
        if outcome.id == 0 {
            return;
        }
        let first = self.outcomes.entry(outcome.id).or_insert_with(|| outcome.clone());
        assert_eq!(first, outcome, "member {member} answers a command differently");
    }

    fn written(&self, revision: i64) -> Option<&Vec<Written>> {
        usize::try_from(revision - FIRST_REVISION).ok().and_then(|at| self.changes.get(at))
    }

    /// The value that a key has at a revision.
    pub fn value_at(&self, key: &Bytes, revision: i64) -> Option<Bytes> {
        let revisions = self.keys.get(key)?;
        let newest = revisions[..revisions.partition_point(|at| *at <= revision)].last()?;
        let written = self.written(*newest)?.iter().rev().find(|(other, _)| other == key)?;
        written.1.clone()
    }

    /// Judges the answer to a write, and tells the client.
    pub fn acknowledges(&mut self, request: &Request, outcome: &Outcome) {
        let (revision, key) = (outcome.revision, &request.key);
        let reply = outcome.reply.as_ref().unwrap_or_else(|refusal| panic!("{request:?} was refused: {refusal}"));
        let value = Some(Bytes::from(request.id.to_string()));
        let before = self.value_at(key, revision - 1);
        let effect = match (&request.action, reply) {
            (Action::Put, Reply::Put { .. }) => Some(value),
            (Action::Delete, Reply::DeleteRange { deleted: 0, .. }) => {
                assert_eq!(self.value_at(key, revision), None, "{request:?} found nothing at revision {revision}");
                None
            }
            (Action::Delete, Reply::DeleteRange { .. }) => Some(None),
            (Action::Swap { expected }, Reply::Txn(reply)) if reply.succeeded => {
                assert_eq!(before, *expected, "{request:?} succeeded at revision {revision}");
                Some(value)
            }
            (Action::Swap { expected }, Reply::Txn(_)) => {
                assert_ne!(self.value_at(key, revision), *expected, "{request:?} failed at revision {revision}");
                None
            }
            (_, reply) => panic!("{request:?} was answered {reply:?}"),
        };
        if let Some(effect) = effect {
            let written = self.written(revision);
            assert_eq!(written, Some(&vec![(key.clone(), effect)]), "{request:?} was acknowledged at {revision}");
            assert!(revision > request.floor, "{request:?} took effect at revision {revision}, which is of the past");
        }
        self.tells(request, revision);
    }

    /// Judges what a read has found.
    pub fn reads(&mut self, request: &Request, revision: i64, found: Option<Bytes>) {
        assert!(revision <= self.revision(), "{request:?} read at revision {revision}, which nobody has published");
        let expected = self.value_at(&request.key, revision);
        assert_eq!(found, expected, "{request:?} read something else at revision {revision}");
        if request.action == Action::Read {
            self.tells(request, revision);
        }
    }

    fn tells(&mut self, request: &Request, revision: i64) {
        let floor = request.floor;
        assert!(revision >= floor, "{request:?} stands at revision {revision}: {floor} was told before it began");
        self.told = self.told.max(revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(action: Action, floor: i64) -> Request {
        Request { id: 7, client: 0, member: 0, key: "k".into(), action, floor, deadline: 0 }
    }

    /// Revision 2 puts `k`, revision 3 deletes it, revision 4 puts it again.
    fn record() -> Record {
        let mut record = Record::default();
        for value in [Some("5"), None, Some("7")] {
            record.changes.push(vec![("k".into(), value.map(Bytes::from))]);
            let revision = record.revision();
            record.keys.entry("k".into()).or_default().push(revision);
        }
        record
    }

    fn put(revision: i64) -> Outcome {
        Outcome { id: 7, revision, reply: Ok(Reply::Put { previous: None }) }
    }

    #[test]
    fn a_true_history_is_accepted() {
        let mut record = record();
        record.acknowledges(&request(Action::Put, 3), &put(4));
        record.reads(&request(Action::Read, 4), 4, Some("7".into()));
        record.reads(&request(Action::LocalRead, 4), 3, None);
        assert_eq!(record.told, 4);
    }

    #[test]
    #[should_panic(expected = "which is of the past")]
    fn a_write_before_one_that_was_told() {
        record().acknowledges(&request(Action::Put, 4), &put(4));
    }

    #[test]
    #[should_panic(expected = "was acknowledged at 2")]
    fn an_acknowledged_write_that_is_not_there() {
        record().acknowledges(&request(Action::Put, 1), &put(2));
    }

    #[test]
    #[should_panic(expected = "4 was told before it began")]
    fn a_stale_read() {
        record().reads(&request(Action::Read, 4), 3, None);
    }

    #[test]
    #[should_panic(expected = "read something else")]
    fn a_wrong_read() {
        record().reads(&request(Action::Read, 1), 4, Some("5".into()));
    }

    #[test]
    #[should_panic(expected = "succeeded at revision 4")]
    fn a_swap_that_should_have_failed() {
        let reply = metastore_store::TxnReply { succeeded: true, ops: Vec::new() };
        let outcome = Outcome { id: 7, revision: 4, reply: Ok(Reply::Txn(reply)) };
        record().acknowledges(&request(Action::Swap { expected: Some("5".into()) }, 1), &outcome);
    }

    #[test]
    #[should_panic(expected = "both lead in term 3")]
    fn two_leaders() {
        let mut record = Record::default();
        record.leads(1, 3);
        record.leads(1, 3);
        record.leads(2, 3);
    }

    #[test]
    #[should_panic(expected = "took effect twice")]
    fn a_command_that_is_applied_twice() {
        let mut record = Record::default();
        record.proposes(9);
        record.takes_effect(&"9".into());
        record.takes_effect(&"9".into());
    }

    #[test]
    #[should_panic(expected = "was refused, and took effect")]
    fn a_refused_command_that_is_applied() {
        let mut record = Record::default();
        record.refuses(9);
        record.takes_effect(&"9".into());
    }

    #[test]
    #[should_panic(expected = "differs from the others after entry 5")]
    fn two_states() {
        let hash = |hash| HashKv { hash, compact_revision: 0, hash_revision: 3, revision: 3 };
        let mut record = Record::default();
        record.applied(0, (5, 2), hash(1));
        record.applied(1, (5, 2), hash(2));
    }
}
