//! The record of a run, and the checks of it: while the run goes on, and at its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use metastore_proto::mvccpb::Event;
use metastore_proto::raftpb::{Message, MessageType};
use metastore_replica::Replica;
use metastore_store::mvcc::HashKv;
use metastore_store::watch::RevisionEvents;
use metastore_store::{Auth, Outcome};

use crate::clients::{Asked, Wish, writer};
use crate::history::{Moment, Operation, Request, Response, Violation, Watch, must};
use crate::invariants::acknowledged::Acknowledged;
use crate::invariants::alarms::Alarms;
use crate::invariants::checkpoints::Checkpoints;
use crate::invariants::election_safety::ElectionSafety;
use crate::invariants::hash_kv::HashKvEqual;
use crate::invariants::leader_completeness::LeaderCompleteness;
use crate::invariants::lease::Leases;
use crate::invariants::log_matching::LogMatching;
use crate::invariants::permissions::Permissions;
use crate::invariants::revisions::RevisionsDense;
use crate::invariants::state_machine_safety::StateMachineSafety;
use crate::invariants::{linearizable, serializable, watch};

/// The pseudo client on whose behalf the cluster revokes leases.
const CLUSTER: usize = usize::MAX;

#[derive(Default)]
pub struct Judge {
    election_safety: ElectionSafety,
    log_matching: LogMatching,
    leader_completeness: LeaderCompleteness,
    states: StateMachineSafety,
    hashes: HashKvEqual,
    pub revisions: RevisionsDense,
    pub acknowledged: Acknowledged,
    pub leases: Leases,
    pub checkpoints: Checkpoints,
    pub permissions: Permissions,
    pub alarms: Alarms,
    /// Operations that were certainly never accepted are replaced by `None`.
    operations: Vec<Option<Operation>>,
    by_id: BTreeMap<u64, usize>,
    moment: Moment,
}

impl Judge {
    /// Elections so far.
    pub fn terms(&self) -> u64 {
        self.election_safety.terms()
    }

    /// Events of clients are totally ordered: each has its own moment.
    fn next_moment(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }

    /// A client sends a request.
    pub fn called(&mut self, asked: &Asked) {
        let Wish::Do(request) = &asked.wish else { return };
        if asked.command().is_some() {
            must(self.acknowledged.proposes(asked.id));
        }
        self.permissions.called(asked.id, asked.caller.clone(), request.clone());
        self.alarms.called(asked.id, request);
        let called = self.next_moment();
        self.by_id.insert(asked.id, self.operations.len());
        let (client, request) = (asked.client, request.clone());
        self.operations.push(Some(Operation { client, request, called, returned: None }));
    }

    /// The cluster proposes, by this command, to revoke a lease.
    pub fn revokes(&mut self, id: u64, request: metastore_proto::etcdserverpb::LeaseRevokeRequest) {
        let (request, called) = (Request::LeaseRevoke(request), self.next_moment());
        self.alarms.called(id, &request);
        self.operations.push(Some(Operation { client: CLUSTER, request, called, returned: None }));
    }

    /// A client is answered that its request will not take effect.
    pub fn withdrawn(&mut self, asked: &Asked) {
        if asked.command().is_some() {
            must(self.acknowledged.refuses(asked.id));
        }
        self.denied(asked);
    }

    /// A client is answered that it may not make its request.
    pub fn denied(&mut self, asked: &Asked) {
        if let Some(at) = self.by_id.get(&asked.id) {
            self.operations[*at] = None;
        }
    }

    /// A client receives an answer.
    pub fn returned(&mut self, asked: &Asked, response: &Response) {
        let now = self.next_moment();
        let operation = self.by_id.get(&asked.id).and_then(|at| self.operations[*at].as_mut());
        if let Some(operation) = operation {
            operation.returned = Some((now, response.clone()));
        }
    }

    pub fn leads(&mut self, member: usize, term: u64, replica: &Replica) -> Result<(), Violation> {
        self.election_safety.leads(member, term)?;
        let applied = replica.store().applied().index;
        self.leader_completeness.elected(member, term, |index| replica.term_of(index), applied)
    }

    pub fn sends(&mut self, member: usize, message: &Message) -> Result<(), Violation> {
        if matches!(message.r#type(), MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgTimeoutNow) {
            self.election_safety.leads(member, message.term())?;
        }
        self.log_matching.sends(member, message)
    }

    /// A member has applied up to an entry. `before` is the term of the entry before it, if the member's log still
    /// holds that one.
    pub fn applied(&mut self, at: usize, (index, term): (u64, u64), before: Option<u64>) -> Result<(), Violation> {
        if let Some(before) = before {
            self.log_matching.holds(at, index, term, before)?;
        }
        self.leader_completeness.committed(index, term)
    }

    /// The hash over the keys that a member holds after an entry, and its users.
    pub fn hashed(
        &mut self,
        member: usize,
        applied: (u64, u64),
        hash: HashKv,
        users: Arc<Auth>,
    ) -> Result<(), Violation> {
        self.permissions.holds(member, applied.0, users)?;
        self.states.applied(member, applied, hash)?;
        self.hashes.hashed(member, hash.hash_revision, hash)
    }

    pub fn publishes(&mut self, member: usize, events: &RevisionEvents) -> Result<(), Violation> {
        let new = events.revision > self.revisions.newest();
        self.revisions.publishes(member, events)?;
        if !new {
            return Ok(());
        }
        let rows = events.changes.iter().filter(|change| !change.version.tombstone);
        let ids: std::collections::BTreeSet<u64> = rows
            .filter_map(|change| writer(metastore_store::mvcc::row::KeyValue::of(&change.version.row).value))
            .collect();
        ids.into_iter().try_for_each(|id| self.acknowledged.takes_effect(id))
    }

    pub fn answers(&mut self, member: usize, outcome: &Outcome) -> Result<(), Violation> {
        self.acknowledged.answers(member, outcome)
    }

    /// The checks that are possible only at the end.
    pub fn conclude(self, chains: &[Vec<Watch>]) -> Result<(), Violation> {
        let operations: Vec<Operation> = self.operations.into_iter().flatten().collect();
        let revisions = self.revisions.revisions();
        let id_of = |event: &Event| event.kv.as_ref().and_then(|kv| writer(&kv.value));
        self.acknowledged.check_end(revisions, id_of)?;
        chains.iter().try_for_each(|chain| watch::check_chain(chain, revisions))?;
        serializable::check(&operations, revisions)?;
        linearizable::check(&operations, revisions)
    }
}
