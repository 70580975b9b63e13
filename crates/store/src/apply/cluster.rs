//! Facts about the cluster: its version, its members and their attributes.

use metastore_engine::Table;
use metastore_proto::membershippb::{ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use metastore_proto::raftpb;

use super::{Applying, Halt, HaltCause, Outcome, Reply};
use crate::conf_state::conf_state_json;
use crate::member_change::MemberChange;
use crate::members::Member;
use crate::schema::CONF_STATE;
use crate::{Refusal, Store};

/// The name that a [`Halt`] gives to an entry that changes the membership.
const MEMBERSHIP: &str = "membership change";

impl Store {
    pub(super) fn set_cluster_version(&mut self, request: &ClusterVersionSetRequest) -> Applying<Reply> {
        self.members.set_cluster_version(self.engine.as_ref(), request.ver.clone())?;
        Ok(Reply::Recorded)
    }

    pub(super) fn set_member_attributes(&mut self, request: &ClusterMemberAttrSetRequest) -> Applying<Reply> {
        if self.members.is_removed(request.member_id) {
            // The member proposed its attributes before it learned of its removal.
            return Ok(Reply::Recorded);
        }
        // The check is stricter than etcd's.
        let Some(member) = self.members.get(request.member_id) else { return Err(Refusal::MemberNotFound.into()) };
        let attributes = request.member_attributes.clone().unwrap_or_default();
        let member = Member { name: attributes.name, client_urls: attributes.client_urls, ..member.clone() };
        self.members.set(self.engine.as_ref(), member)?;
        Ok(Reply::Recorded)
    }

    /// Checks a committed membership change, as etcd does. The result goes to consensus first, and then to
    /// [`Store::apply_member_change`]. `max_learners` must be the same on all members.
    ///
    /// # Errors
    /// [`Halt`] if the change cannot be read.
    pub fn check_member_change(
        &self,
        index: u64,
        change: &raftpb::ConfChange,
        max_learners: usize,
    ) -> Result<Result<MemberChange, Refusal>, Halt> {
        let halt = |why| Halt { index, what: MEMBERSHIP.into(), cause: HaltCause::Malformed(why) };
        self.members.check(change, max_learners).map_err(halt)
    }

    /// Applies a membership change that was checked against the same state. `id` is the id of the change; `conf_state`
    /// holds the voters from now on. A refused change moves the applied index and nothing else.
    ///
    /// # Errors
    /// [`Halt`] if the medium failed, or the entry is not the next one.
    pub fn apply_member_change(
        &mut self,
        index: u64,
        term: u64,
        id: u64,
        change: Result<MemberChange, Refusal>,
        conf_state: &raftpb::ConfState,
    ) -> Result<Outcome, Halt> {
        self.follow(index, term)?;
        let reply = match change {
            Ok(change) => {
                let recorded = self.record(change, conf_state);
                recorded.map_err(|cause| Halt { index, what: MEMBERSHIP.into(), cause })?;
                Ok(Reply::MembersChanged)
            }
            Err(refusal) => Err(refusal),
        };
        Ok(Outcome { id, revision: self.mvcc.current(), reply })
    }

    fn record(&mut self, change: MemberChange, conf_state: &raftpb::ConfState) -> Result<(), HaltCause> {
        let engine = self.engine.as_ref();
        let json = conf_state_json(conf_state).map_err(|error| HaltCause::Malformed(error.to_string()))?;
        engine.put(Table::Meta, CONF_STATE, &json)?;
        let member = match change {
            MemberChange::Add(member) => Some(member),
            MemberChange::Promote(id) => self.members.get(id).map(|old| Member { is_learner: false, ..old.clone() }),
            MemberChange::Update { id, peer_urls } => {
                self.members.get(id).map(|old| Member { peer_urls, ..old.clone() })
            }
            MemberChange::Remove(id) => return Ok(self.members.remove(engine, id)?),
        };
        Ok(member.map_or(Ok(()), |member| self.members.set(engine, member))?)
    }
}
