//! The Cluster service, as far as one member needs it.

use std::rc::Rc;

use metastore_proto::etcdserverpb::{Member as MemberMessage, MemberListRequest, MemberListResponse, ResponseHeader};

use super::{Member, unary};
use crate::grpc::{Call, Frame, Router, Status};

pub fn register(router: &mut Router, member: &Rc<Member>) {
    unary!(router, member, "etcdserverpb.Cluster", "MemberList", member_list);
}

async fn member_list(member: &Member, call: Call, request: MemberListRequest) -> Result<Frame, Status> {
    if request.linearizable {
        member.read_barrier(&call).await?;
    }
    let members = member.shared.members().into_iter().map(|member| MemberMessage {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    });
    // The revision stays 0 here, as in etcd.
    let header = ResponseHeader { revision: 0, ..member.header(0) };
    Frame::of(&MemberListResponse { header: Some(header), members: members.collect() })
}
