//! Changes of the members in etcd's form, and their outcome.

use metastore_proto::raftpb::{ConfChange, ConfChangeType};
use metastore_store::{Member as ClusterMember, Outcome, Reply};

use super::{MemberHandle, another_question, errors, mismatch};
use crate::driver::Answer;
use crate::grpc::Status;

impl MemberHandle {
    /// A change of the member `id`, which carries the id of a new request.
    pub fn change_of_members(&self, kind: ConfChangeType, id: u64, context: Option<Vec<u8>>) -> ConfChange {
        ConfChange {
            id: Some(self.shared.next_id()),
            r#type: Some(kind as i32),
            node_id: Some(id),
            context: context.map(Into::into),
        }
    }

    /// The members after a change, given the answer to it.
    pub fn changed_members(&self, answer: Answer) -> Result<Vec<ClusterMember>, Status> {
        let Answer::Outcome(Outcome { reply, .. }) = answer else { return Err(another_question()) };
        match reply.map_err(errors::refused)? {
            Reply::MembersChanged => Ok(self.shared.members()),
            other => Err(mismatch(&other)),
        }
    }
}
