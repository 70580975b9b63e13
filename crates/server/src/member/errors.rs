//! etcd's errors: codes and texts, which clients compare word for word (etcd: `api/v3rpc/rpctypes/error.go`).

use metastore_replica::NotProposed;
use metastore_store::Refusal;
use metastore_store::mvcc::ReadError;

use crate::driver::NoAnswer;
use crate::grpc::{Code, Status};

pub fn empty_key() -> Status {
    Status::invalid_argument("etcdserver: key is not provided")
}

pub fn key_not_found() -> Status {
    Status::invalid_argument("etcdserver: key not found")
}

pub fn value_provided() -> Status {
    Status::invalid_argument("etcdserver: value is provided")
}

pub fn lease_provided() -> Status {
    Status::invalid_argument("etcdserver: lease is provided")
}

pub fn too_many_ops() -> Status {
    Status::invalid_argument("etcdserver: too many operations in txn request")
}

pub fn duplicate_key() -> Status {
    Status::invalid_argument("etcdserver: duplicate key given in txn request")
}

pub fn invalid_sort_option() -> Status {
    Status::invalid_argument("etcdserver: invalid sort option")
}

pub fn request_too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}

/// The documented code is ResourceExhausted; what etcd really sends is Unknown.
pub fn too_many_requests() -> Status {
    Status::unknown("etcdserver: too many requests")
}

pub fn wrong_downgrade_version() -> Status {
    Status::invalid_argument("etcdserver: wrong downgrade target version format")
}

pub fn invalid_downgrade_target() -> Status {
    Status::invalid_argument("etcdserver: invalid downgrade target version")
}

pub fn no_cluster_version() -> Status {
    Status::new(Code::FailedPrecondition, "etcdserver: cluster version not found during downgrade")
}

pub fn downgrade_in_process() -> Status {
    Status::new(Code::FailedPrecondition, "etcdserver: cluster has a downgrade job in progress")
}

/// An action that etcd does not know.
pub fn unknown_method() -> Status {
    Status::unknown("etcdserver: unknown method")
}

pub fn no_leader() -> Status {
    Status::unavailable("etcdserver: no leader")
}

pub fn leader_changed() -> Status {
    Status::unavailable("etcdserver: leader changed")
}

pub fn stopped() -> Status {
    Status::unavailable("etcdserver: server stopped")
}

pub fn timeout() -> Status {
    Status::unavailable("etcdserver: request timed out")
}

pub fn member_bad_urls() -> Status {
    Status::invalid_argument("etcdserver: given member URLs are invalid")
}

pub fn learner_not_ready() -> Status {
    Status::new(Code::FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader")
}

pub fn unhealthy() -> Status {
    Status::unavailable("etcdserver: unhealthy cluster")
}

pub fn not_leader() -> Status {
    Status::new(Code::FailedPrecondition, "etcdserver: not leader")
}

pub fn learner_unsupported() -> Status {
    Status::new(Code::FailedPrecondition, "etcdserver: rpc not supported for learner")
}

pub fn bad_leader_transferee() -> Status {
    Status::new(Code::FailedPrecondition, "etcdserver: bad leader transferee")
}

/// Unlike the other timeouts this one has no code of its own.
pub fn leader_transfer_timeout() -> Status {
    Status::unknown("etcdserver: request timed out, leader transfer took too long")
}

pub fn timeout_due_to_leader_failure() -> Status {
    Status::unavailable("etcdserver: request timed out, possibly due to previous leader failure")
}

pub fn timeout_due_to_connection_lost() -> Status {
    Status::unavailable("etcdserver: request timed out, possibly due to connection lost")
}

/// The text is matched by clients, which then log in again.
pub fn invalid_auth_token() -> Status {
    Status::new(Code::Unauthenticated, "etcdserver: invalid auth token")
}

/// The error of a question without an answer; `late` gives the one of a question whose time ran out.
pub fn no_answer(why: NoAnswer, late: impl FnOnce() -> Status) -> Status {
    match why {
        NoAnswer::Late => late(),
        NoAnswer::NoRoom => too_many_requests(),
        NoAnswer::NotProposed(why) => not_proposed(why),
        NoAnswer::Stopped => stopped(),
    }
}

/// The error of a request that did not become an entry. A request that may be proposed later waits, and has no error.
pub fn not_proposed(why: NotProposed) -> Status {
    match why {
        NotProposed::TooLarge => request_too_large(),
        NotProposed::Dropped | NotProposed::Inapplicable => Status::internal(why.to_string()),
    }
}

/// The error of a refusal of the state machine, with the code that belongs to it.
pub fn refused(refusal: Refusal) -> Status {
    let code = match refusal {
        Refusal::Compacted | Refusal::FutureRevision | Refusal::LeaseTtlTooLarge => Code::OutOfRange,
        Refusal::KeyNotFound
        | Refusal::UserEmpty
        | Refusal::RoleEmpty
        | Refusal::PermissionNotGiven
        | Refusal::InvalidAuthManagement
        | Refusal::AuthFailed
        | Refusal::AuthOldRevision => Code::InvalidArgument,
        Refusal::LeaseNotFound | Refusal::MemberNotFound | Refusal::MemberRemoved => Code::NotFound,
        Refusal::LeaseExists
        | Refusal::MemberExists
        | Refusal::PeerUrlExists
        | Refusal::MemberNotLearner
        | Refusal::TooManyLearners
        | Refusal::UserExists
        | Refusal::UserNotFound
        | Refusal::RoleExists
        | Refusal::RoleNotFound
        | Refusal::RoleNotGranted
        | Refusal::PermissionNotGranted
        | Refusal::AuthNotEnabled
        | Refusal::RootUserNotFound
        | Refusal::RootRoleNotFound => Code::FailedPrecondition,
        Refusal::PermissionDenied => Code::PermissionDenied,
        Refusal::NoSpace => Code::ResourceExhausted,
        Refusal::Corrupt => Code::DataLoss,
        // The documented code is FailedPrecondition; what etcd really sends is Unknown.
        Refusal::NotEnoughMembers | Refusal::NoPasswordUser => Code::Unknown,
    };
    Status::new(code, refusal.to_string())
}

/// The error of a failed read. A failed disk is reported here to the client; the engine thread will meet the failure as
/// well and stop the member.
pub fn unreadable(error: ReadError) -> Status {
    match error {
        ReadError::Refused(refusal) => refused(refusal),
        ReadError::Engine(error) => {
            seldom!(error, (), error = %error, "cannot read the state");
            Status::unknown(error.to_string())
        }
    }
}
