//! `POST /leases` and `POST /leases/internal`: questions of other members to the leader about leases, for their
//! clients, and its answers (etcd: `server/lease/leasehttp`). And `POST /metastore/leases`, which renews many leases
//! with one request:
//!
//! ```text
//!   request    id, id, ...        8 bytes each, big endian
//!   answer     time, time, ...    8 bytes each, big endian, in the same order: the time to live in seconds;
//!                                 0: there is no such lease; -1: its time is over, and it is not revoked yet
//! ```
//!
//! An etcd answers 404 to that path, and is asked for one lease after the other.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveResponse, ResponseHeader,
};
use metastore_proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use metastore_store::lease::Renewal;
use tokio::time::Instant;

use super::client::Reply;
use super::http_error::HttpError;
use super::questions::answer_with;
use crate::api::MemberHandle;
use crate::api::lease::{RENEWALS_AT_ONCE, TimeLeft, Told, renew_here, renew_or_await_end_here, time_left_here};
use crate::driver::TimeToLive;
use crate::grpc::{Call, Code, Status};

/// Renews a lease.
pub const PATH: &str = "/leases";
/// Answers how long a lease has to live.
pub const INTERNAL_PATH: &str = "/leases/internal";
/// Renews many leases.
pub const BATCH_PATH: &str = "/metastore/leases";
/// Bytes of an id or a time in a batch.
const NUMBER_BYTES: usize = size_of::<i64>();
/// The time of an expired lease, in the answer to a batch.
const EXPIRED: i64 = -1;
/// The longest body that is read, as in etcd; a valid one takes a few bytes.
pub const MAX_BODY_BYTES: usize = 64 << 10;
/// How long an answer may take here; after that, the other member asks again. etcd waits as long for the applied index,
/// and longer for the end of an expired lease.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers [`PATH`].
pub(super) async fn renew(member: &MemberHandle, body: Bytes) -> Result<Response<Bytes>, HttpError> {
    let LeaseKeepAliveRequest { id } = LeaseKeepAliveRequest::decode(body).map_err(|_| unreadable())?;
    match renew_or_await_end_here(member, &call(), id).await.map_err(late)? {
        Told::Known(ttl) => Ok(protobuf(&LeaseKeepAliveResponse { header: None, id, ttl })),
        Told::Unknown => Err(not_found()),
        Told::NotLeader => Err(not_primary()),
    }
}

/// Answers [`BATCH_PATH`].
pub(super) async fn renew_batch(member: &MemberHandle, body: Bytes) -> Result<Response<Bytes>, HttpError> {
    let leases = numbers(&body).filter(|leases| leases.len() <= RENEWALS_AT_ONCE).ok_or_else(unreadable)?;
    let renewals = renew_here(member, &call(), leases).await.map_err(late)?.ok_or_else(not_primary)?;
    let time = |renewal: &Renewal| match renewal {
        Renewal::Renewed(ttl_s) => *ttl_s,
        Renewal::Expired => EXPIRED,
        Renewal::Unknown | Renewal::NotLeader => 0,
    };
    let times: Vec<i64> = renewals.iter().map(time).collect();
    Ok(answer_with(StatusCode::OK, "application/octet-stream", write_batch(&times)))
}

/// Encodes the ids or times of a batch.
pub fn write_batch(numbers: &[i64]) -> Bytes {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn numbers(body: &[u8]) -> Option<Vec<i64>> {
    let (numbers, []) = body.as_chunks::<NUMBER_BYTES>() else { return None };
    Some(numbers.iter().map(|number| i64::from_be_bytes(*number)).collect())
}

/// Reads the answer to [`BATCH_PATH`] about `count` leases. The inner `None`: the leader does not know that path. The
/// outer `None`: no answer; asking again may help.
pub fn read_batch(count: usize, reply: &Reply) -> Option<Option<Vec<Renewal>>> {
    let renewal = |time| match time {
        EXPIRED => Renewal::Expired,
        ..=0 => Renewal::Unknown,
        ttl_s => Renewal::Renewed(ttl_s),
    };
    match reply.status {
        StatusCode::NOT_FOUND => Some(None),
        StatusCode::OK => {
            let times = numbers(&reply.body).filter(|times| times.len() == count)?;
            Some(Some(times.into_iter().map(renewal).collect()))
        }
        _ => None,
    }
}

/// Answers [`INTERNAL_PATH`].
pub(super) async fn time_left(member: &MemberHandle, body: Bytes) -> Result<Response<Bytes>, HttpError> {
    let request = LeaseInternalRequest::decode(body).ok().and_then(|request| request.lease_time_to_live_request);
    let request = request.ok_or_else(unreadable)?;
    match time_left_here(member, &call(), request.id, request.keys).await.map_err(late)? {
        Told::Known(TimeLeft { time: TimeToLive { granted_s, remaining_s }, keys }) => {
            let (header, id) = (Some(ResponseHeader::default()), request.id);
            let answer = LeaseTimeToLiveResponse { header, id, ttl: remaining_s, granted_ttl: granted_s, keys };
            Ok(protobuf(&LeaseInternalResponse { lease_time_to_live_response: Some(answer) }))
        }
        Told::Unknown => Err(not_found()),
        Told::NotLeader => Err(HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "not a primary lessor")),
    }
}

fn call() -> Call {
    Call::of_member(Instant::now() + PATIENCE)
}

fn protobuf(message: &impl Message) -> Response<Bytes> {
    answer_with(StatusCode::OK, "application/protobuf", message.encode_to_vec().into())
}

fn unreadable() -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, "error unmarshalling request")
}

fn not_primary() -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, "not a primary lessor")
}

fn not_found() -> HttpError {
    HttpError::new(StatusCode::NOT_FOUND, "lease not found")
}

/// No answer in time, or none at all: in both cases the other member asks again.
fn late(status: Status) -> HttpError {
    match status.code {
        Code::DeadlineExceeded | Code::Unavailable => {
            HttpError::new(StatusCode::REQUEST_TIMEOUT, "waiting for node to catch up its applied index has timed out")
        }
        _ => HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, status.message),
    }
}

/// Reads the answer to [`PATH`]: the time to live in seconds. The inner `None`: there is no such lease. The outer
/// `None`: no answer, or one about another lease; asking again may help.
pub fn read_renewal(lease: i64, reply: &Reply) -> Option<Option<i64>> {
    match reply.status {
        StatusCode::NOT_FOUND => Some(None),
        StatusCode::OK => {
            let answer = LeaseKeepAliveResponse::decode(reply.body.clone()).ok()?;
            (answer.id == lease).then_some(Some(answer.ttl))
        }
        _ => None,
    }
}

/// Reads the answer to [`INTERNAL_PATH`], like [`read_renewal`].
pub(crate) fn read_time_left(lease: i64, reply: &Reply) -> Option<Option<TimeLeft>> {
    match reply.status {
        StatusCode::NOT_FOUND => Some(None),
        StatusCode::OK => {
            let answer = LeaseInternalResponse::decode(reply.body.clone()).ok()?.lease_time_to_live_response?;
            let LeaseTimeToLiveResponse { id, ttl, granted_ttl, keys, .. } = answer;
            let time = TimeToLive { granted_s: granted_ttl, remaining_s: ttl };
            (id == lease).then_some(Some(TimeLeft { time, keys }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, message: &impl Message) -> Reply {
        let (status, body) = (StatusCode::from_u16(status).unwrap(), message.encode_to_vec().into());
        Reply { status, headers: Default::default(), body }
    }

    #[test]
    fn a_renewal_is_believed_only_about_the_lease_that_was_asked_for() {
        let answer = LeaseKeepAliveResponse { header: None, id: 7, ttl: 10 };
        assert_eq!(read_renewal(7, &reply(200, &answer)), Some(Some(10)));
        assert_eq!(read_renewal(8, &reply(200, &answer)), None);
        assert_eq!(read_renewal(7, &reply(404, &answer)), Some(None));
        for status in [400, 408, 412, 500] {
            assert_eq!(read_renewal(7, &reply(status, &answer)), None, "{status}");
        }
        let garbled = Reply { body: Bytes::from_static(&[0xff]), ..reply(200, &answer) };
        assert_eq!(read_renewal(7, &garbled), None);
    }

    #[test]
    fn a_batch_is_read_whole_or_not_at_all() {
        let answer = |status: u16, body: Bytes| Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: Default::default(),
            body,
        };
        let times = write_batch(&[10, 0, EXPIRED, i64::MIN]);
        let renewals = [Renewal::Renewed(10), Renewal::Unknown, Renewal::Expired, Renewal::Unknown];
        assert_eq!(read_batch(4, &answer(200, times.clone())), Some(Some(renewals.to_vec())));
        for (count, body) in [(3, times.clone()), (5, times.clone()), (4, times.slice(..31)), (4, Bytes::new())] {
            assert_eq!(read_batch(count, &answer(200, body)), None);
        }
        assert_eq!(read_batch(4, &answer(404, Bytes::new())), Some(None), "an etcd");
        assert_eq!(read_batch(4, &answer(400, times)), None);
    }

    #[test]
    fn so_is_a_time_to_live() {
        let answer = LeaseTimeToLiveResponse { id: 7, ttl: 3, granted_ttl: 5, keys: vec!["k".into()], header: None };
        let answer = LeaseInternalResponse { lease_time_to_live_response: Some(answer) };
        let found = read_time_left(7, &reply(200, &answer)).unwrap().unwrap();
        assert_eq!((found.time.granted_s, found.time.remaining_s, found.keys), (5, 3, vec![Bytes::from("k")]));
        assert!(read_time_left(8, &reply(200, &answer)).is_none());
        assert!(read_time_left(7, &reply(404, &answer)).unwrap().is_none());
        assert!(read_time_left(7, &reply(200, &LeaseInternalResponse::default())).is_none());
    }
}
