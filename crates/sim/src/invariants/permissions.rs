//! Permissions: no request is granted that no auth state between its call and its answer would grant, and none is
//! refused without a reason (etcd, <https://etcd.io/docs/v3.6/learning/design-auth-v3/>).
//!
//! The auth states are those of a model, one after each change at its place in the log. A command is decided by the
//! state at its own place. A read is decided by one of the states from the newest that was known when the client asked;
//! one that may be stale, by one of the states since the entry that made the revision which it shows: a key that was
//! written after a permission was revoked is not shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use metastore_store::{Auth, Outcome};

use super::alarms;
use crate::history::{Request, Violation};
use crate::model::users::{At, Caller, Change, REFUSALS, Users, asks_of};

pub struct Permissions {
    /// The auth states. A state is missing if no member has told the outcomes that lead to it.
    states: BTreeMap<At, Arc<Users>>,
    /// The state at the entry that made each revision, as far as members have told.
    revisions: BTreeMap<i64, At>,
    newest: At,
    changes: BTreeMap<u64, (Caller, Change)>,
    calls: BTreeMap<u64, Call>,
    /// The state at the place of each command, and the member that told it first.
    places: BTreeMap<u64, (usize, At)>,
    /// The users that a member was the first to have after an entry.
    held: BTreeMap<u64, (usize, Arc<Auth>)>,
}

struct Call {
    caller: Caller,
    request: Request,
    /// The newest state that was known when the client asked.
    floor: At,
}

impl Default for Permissions {
    fn default() -> Self {
        let (revisions, changes, calls, places, held) = Default::default();
        let states = BTreeMap::from([(At::FIRST, Arc::default())]);
        Self { states, revisions, newest: At::FIRST, changes, calls, places, held }
    }
}

impl Permissions {
    /// The administrator asks for a change.
    pub fn asked_for(&mut self, id: u64, caller: Caller, change: Change) {
        self.changes.insert(id, (caller, change));
    }

    /// A client sends a request.
    pub fn called(&mut self, id: u64, caller: Caller, request: Request) {
        self.calls.insert(id, Call { caller, request, floor: self.newest });
    }

    /// A member tells the outcome of a command that it has applied to the auth state `at`. Returns the state after it;
    /// `None` if it is not known.
    pub fn applied(&mut self, member: usize, at: At, outcome: &Outcome) -> Result<Option<At>, Violation> {
        self.newest = self.newest.max(at);
        let id = outcome.id;
        if id != 0 {
            let (first, place) = *self.places.entry(id).or_insert((member, at));
            if place != at {
                return Err(format!("command {id} met the users of {place:?} on {first}, those of {at:?} on {member}"));
            }
        }
        let made_at = self.revisions.entry(outcome.revision).or_insert(at);
        *made_at = (*made_at).min(at);
        let Some(users) = self.states.get(&at).cloned() else { return Ok(None) };
        if let Some((caller, change)) = self.changes.get(&id) {
            let after = users.after(caller, *change);
            if after.is_some() != outcome.reply.is_ok() {
                return Err(format!("{change:?} of {caller:?} to {users:?} gives {outcome:?}"));
            }
            let after = after.unwrap_or_else(|| Users::clone(&users));
            let at = after.at();
            self.newest = self.newest.max(at);
            self.states.insert(at, Arc::new(after));
            return Ok(Some(at));
        }
        let told = outcome.reply.as_ref().err().map(ToString::to_string);
        // Alarms come before permissions.
        if !told.as_deref().is_some_and(alarms::is_refusal) {
            self.decided(id, &users, told.as_deref())?;
        }
        Ok(Some(at))
    }

    /// A member with the users of `at` refuses a request by itself.
    pub fn refused(&self, id: u64, at: At, text: &str) -> Result<(), Violation> {
        self.states.get(&at).map_or(Ok(()), |users| self.decided(id, users, Some(text)))
    }

    /// A member with the users of `at` answers a read with the keys at `revision`.
    pub fn answered(&self, id: u64, serializable: bool, revision: i64, at: At) -> Result<(), Violation> {
        let Some(call) = self.calls.get(&id) else { return Ok(()) };
        let shown = self.revisions.range(..=revision).next_back().map_or(At::FIRST, |(_, made_at)| *made_at);
        let from = if serializable { shown } else { shown.max(call.floor) };
        if from > at || !self.states.contains_key(&from) || !self.states.contains_key(&at) {
            // The first case: the member took up a state whose outcomes no member has told.
            return Ok(());
        }
        let grants = |users: &Arc<Users>| users.refusal(&call.caller, &call.request).is_none();
        if self.states.range(from..=at).any(|(_, users)| grants(users)) {
            return Ok(());
        }
        let Call { caller, request, .. } = call;
        Err(format!(
            "{caller:?} is shown revision {revision}, which no users from {from:?} to {at:?} permit: {request:?}"
        ))
    }

    /// A member has these users after the entry at `index`.
    pub fn holds(&mut self, member: usize, index: u64, users: Arc<Auth>) -> Result<(), Violation> {
        let (first, known) = self.held.entry(index).or_insert_with(|| (member, users.clone()));
        if *known == users {
            return Ok(());
        }
        Err(format!("after entry {index}, member {first} has the users {known:?}, {member} has {users:?}"))
    }

    /// Whether a request was refused for lack of permission exactly if the users say so.
    fn decided(&self, id: u64, users: &Users, told: Option<&str>) -> Result<(), Violation> {
        let Some(Call { caller, request, .. }) = self.calls.get(&id) else { return Ok(()) };
        let told = told.filter(|text| REFUSALS.contains(text));
        let expected = users.refusal(caller, request);
        let without_rule = matches!(request, Request::LeaseRevoke(_)) || is_turned(request);
        if told == expected || without_rule {
            return Ok(());
        }
        Err(format!("{caller:?} is told {told:?}, not {expected:?}, by the users {users:?}: {request:?}"))
    }
}

/// Whether a request has a range that ends before it begins. The shape of etcd's tree of permissions decides whether it
/// is permitted, and the model has no tree.
pub fn is_turned(request: &Request) -> bool {
    asks_of(request).iter().any(|(_, key, end)| !matches!(end[..], [] | [0]) && end <= key)
}

#[cfg(test)]
mod tests {
    use metastore_proto::etcdserverpb::{PutRequest, RangeRequest};
    use metastore_store::{Refusal, Reply};

    use super::*;
    use crate::model::users::{Access, DENIED, OLD_REVISION, ROOT};

    const NOBODY: Caller = Caller { user: "", auth_revision: 0 };

    fn at(revision: u64, enabled: bool) -> At {
        At { revision, enabled }
    }

    fn outcome(id: u64, revision: i64, reply: Result<Reply, Refusal>) -> Outcome {
        Outcome { id, revision, reply }
    }

    fn put() -> Request {
        Request::Put(PutRequest { key: "k".into(), ..Default::default() })
    }

    fn range() -> Request {
        Request::Range(RangeRequest { key: "k".into(), ..Default::default() })
    }

    /// Alice may do everything with k from auth revision 6 on, and nothing from 7 on. Revision 3 was made at 7.
    fn record() -> Permissions {
        let changes = [
            Change::AddUser(ROOT),
            Change::GrantRole { user: ROOT, role: ROOT },
            Change::AddUser("alice"),
            Change::AddRole("some"),
            Change::GrantRole { user: "alice", role: "some" },
            Change::Grant { role: "some", keys: ("k", ""), access: Access::Both },
            Change::Enable,
            Change::Revoke { role: "some", keys: ("k", "") },
        ];
        let mut check = Permissions::default();
        let mut state = At::FIRST;
        for (id, change) in (1..).zip(changes) {
            let auth_revision = if state.enabled { state.revision } else { 0 };
            let caller = Caller { user: if state.enabled { ROOT } else { "" }, auth_revision };
            check.asked_for(id, caller, change);
            state = check.applied(0, state, &outcome(id, 2, Ok(Reply::Recorded))).unwrap().unwrap();
        }
        assert_eq!(state, at(8, true));
        check.called(50, Caller { user: ROOT, auth_revision: 8 }, put());
        check.applied(0, state, &outcome(50, 3, Ok(Reply::Put { previous: None }))).unwrap();
        check
    }

    fn alice(auth_revision: u64) -> Caller {
        Caller { user: "alice", auth_revision }
    }

    #[test]
    fn commands_are_decided_at_their_place() {
        let mut check = record();
        check.called(60, alice(7), put());
        check.applied(1, at(7, true), &outcome(60, 2, Ok(Reply::Put { previous: None }))).unwrap();
        let done = || outcome(61, 4, Ok(Reply::Put { previous: None }));
        for caller in [alice(7), alice(8), NOBODY] {
            let mut check = record();
            check.called(61, caller, put());
            check.applied(1, at(8, true), &done()).unwrap_err();
        }
        let mut refused = |caller, refusal| {
            check.called(62, caller, put());
            let result = check.applied(1, at(8, true), &outcome(62, 3, Err(refusal)));
            check.places.remove(&62);
            result
        };
        refused(alice(7), Refusal::AuthOldRevision).unwrap();
        refused(alice(8), Refusal::PermissionDenied).unwrap();
        refused(NOBODY, Refusal::UserEmpty).unwrap();
        refused(alice(8), Refusal::AuthOldRevision).unwrap_err();
        refused(Caller { user: ROOT, auth_revision: 8 }, Refusal::PermissionDenied).unwrap_err();
        refused(alice(8), Refusal::LeaseNotFound).unwrap_err();
        // Not a matter of permissions.
        refused(alice(8), Refusal::NoSpace).unwrap();
    }

    #[test]
    fn members_apply_a_command_to_the_same_users() {
        let mut check = record();
        check.applied(1, at(8, true), &outcome(50, 3, Ok(Reply::Put { previous: None }))).unwrap();
        check.applied(1, at(7, true), &outcome(50, 3, Ok(Reply::Put { previous: None }))).unwrap_err();
    }

    #[test]
    fn changes_are_those_of_the_model() {
        let mut check = record();
        check.asked_for(70, alice(8), Change::AddUser("bob"));
        check.applied(0, at(8, true), &outcome(70, 3, Ok(Reply::Recorded))).unwrap_err();
        let refused = check.applied(1, at(8, true), &outcome(70, 3, Err(Refusal::PermissionDenied)));
        assert_eq!(refused, Ok(Some(at(8, true))));
    }

    #[test]
    fn a_read_needs_users_that_permit_what_it_shows() {
        let mut check = record();
        check.called(80, alice(7), range());
        // Stale, and older than the revocation.
        check.answered(80, true, 2, at(8, true)).unwrap();
        check.answered(80, true, 3, at(8, true)).unwrap_err();
        // The revocation was known when alice asked.
        check.answered(80, false, 2, at(8, true)).unwrap_err();
        check.refused(80, at(8, true), OLD_REVISION).unwrap();
        check.refused(80, at(8, true), DENIED).unwrap_err();
        check.refused(80, at(7, true), DENIED).unwrap_err();
    }
}
