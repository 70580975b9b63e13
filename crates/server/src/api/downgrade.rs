//! Downgrade: lets members of the version before join the cluster (etcd: `server/etcdserver/version/manager.go`).
//!
//! The call only records the target. The leader then lowers the version of the cluster, and ends the downgrade once all
//! members report the target ([`crate::duties::versions`]).

use metastore_proto::etcdserverpb::downgrade_request::DowngradeAction;
use metastore_proto::etcdserverpb::{DowngradeRequest, DowngradeResponse};
use metastore_proto::membershippb::DowngradeInfoSetRequest;
use metastore_store::command::Kind;

use crate::duties::versions::Version;
use crate::grpc::{Call, Frame, Status};
use crate::member::{MemberHandle, errors};

pub(super) async fn downgrade(member: &MemberHandle, call: Call, request: DowngradeRequest) -> Result<Frame, Status> {
    let action = DowngradeAction::try_from(request.action).map_err(|_| errors::unknown_method())?;
    let info = match action {
        DowngradeAction::Cancel => {
            member.read_barrier(&call).await?;
            // As in etcd, no downgrade is no error.
            member.shared.downgrade().map(|_| DowngradeInfoSetRequest::default())
        }
        DowngradeAction::Validate | DowngradeAction::Enable => {
            let target = Version::of_request(&request.version).ok_or_else(errors::wrong_downgrade_version)?;
            validate(member, &call, target).await?;
            let info = DowngradeInfoSetRequest { enabled: true, ver: target.to_string() };
            (action == DowngradeAction::Enable).then_some(info)
        }
    };
    // A member of an etcd shows the version that the cluster had when it was asked.
    let version = version(member)?;
    if let Some(info) = info {
        member.propose(&call, Kind::DowngradeInfoSet, &info).await?;
    }
    let header = Some(member.header(member.view().revision()));
    Frame::of(&DowngradeResponse { header, version: version.without_patch() })
}

/// The cluster may be downgraded by one minor version.
async fn validate(member: &MemberHandle, call: &Call, target: Version) -> Result<(), Status> {
    version(member)?;
    member.read_barrier(call).await?;
    if version(member)?.before() != Some(target) {
        return Err(errors::invalid_downgrade_target());
    }
    if member.shared.downgrade().is_some() { Err(errors::downgrade_in_process()) } else { Ok(()) }
}

fn version(member: &MemberHandle) -> Result<Version, Status> {
    member.shared.cluster_version().as_deref().and_then(Version::parse).ok_or_else(errors::no_cluster_version)
}
