//! Facts about the cluster: its version, its members and their attributes.

use metastore_engine::Table;
use metastore_proto::membershippb::{ClusterMemberAttrSetRequest, ClusterVersionSetRequest};

use super::{Applying, Halt, HaltCause, Reply};
use crate::members::Member;
use crate::schema::CONF_STATE;
use crate::{Refusal, Store};

/// Who votes, in the JSON that etcd stores.
#[derive(serde::Serialize)]
struct ConfState {
    voters: Vec<u64>,
    auto_leave: bool,
}

impl Store {
    pub(super) fn set_cluster_version(&mut self, request: &ClusterVersionSetRequest) -> Applying<Reply> {
        self.members.set_cluster_version(self.engine.as_ref(), request.ver.clone())?;
        Ok(Ok(Reply::Recorded))
    }

    pub(super) fn set_member_attributes(&mut self, request: &ClusterMemberAttrSetRequest) -> Applying<Reply> {
        let Some(member) = self.members.get(request.member_id) else { return Ok(Err(Refusal::MemberNotFound)) };
        let attributes = request.member_attributes.clone().unwrap_or_default();
        let member = Member { name: attributes.name, client_urls: attributes.client_urls, ..member.clone() };
        self.members.set(self.engine.as_ref(), member)?;
        Ok(Ok(Reply::Recorded))
    }

    /// Records a member that joins. `context` is its JSON, as etcd puts it into a membership change; `voters` are the members
    /// that vote from now on.
    ///
    /// # Errors
    /// [`Halt`] if the JSON cannot be read or the medium failed.
    pub fn apply_member_added(&mut self, index: u64, term: u64, context: &[u8], voters: &[u64]) -> Result<(), Halt> {
        self.follow(index, term)?;
        let halt = |cause| Halt { index, what: "membership change".into(), cause };
        let member: Member =
            serde_json::from_slice(context).map_err(|error| halt(HaltCause::Malformed(error.to_string())))?;
        let mut voters = voters.to_vec();
        voters.sort_unstable();
        let conf_state = serde_json::to_vec(&ConfState { voters, auto_leave: false })
            .map_err(|error| halt(HaltCause::Malformed(error.to_string())))?;
        self.engine.put(Table::Meta, CONF_STATE, &conf_state).map_err(|error| halt(error.into()))?;
        self.members.set(self.engine.as_ref(), member).map_err(|error| halt(error.into()))
    }
}
