//! How long a lease has to live, and its keys: `POST /leases/internal` (etcd: `server/lease/leasehttp`).

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader};
use metastore_proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use metastore_store::lease::keys_of;

use super::{Lookup, Question, ask_leader, call, late, not_found, protobuf, unreadable};
use crate::driver::{Answer, Event, TimeToLive};
use crate::grpc::{Call, Status};
use crate::member::{MemberHandle, another_question, errors, on_pool};
use crate::peer::HttpError;
use crate::peer::client::Reply;

/// Answers how long a lease has to live.
pub(super) const PATH: &str = "/leases/internal";

/// How long a lease has to live, as the leader knows it; `None` if there is no such lease.
pub(crate) async fn time_left(
    member: &MemberHandle,
    call: &Call,
    lease: i64,
    keys: bool,
) -> Result<Option<TimeLeft>, Status> {
    let here = async || Ok(time_left_here(member, call, lease, keys).await?.answered());
    let request = LeaseTimeToLiveRequest { id: lease, keys };
    let body = LeaseInternalRequest { lease_time_to_live_request: Some(request) }.encode_to_vec().into();
    let question = Question { method: Method::POST, path: PATH, body };
    ask_leader(member, call, question, here, |reply| read_reply(lease, &reply).map(Ok)).await
}

/// The state of one lease.
#[derive(Debug)]
pub(crate) struct TimeLeft {
    pub time: TimeToLive,
    /// Empty unless the keys were asked for.
    pub keys: Vec<Bytes>,
}

/// The time left of a lease, if this member leads. Everything that was acknowledged before is taken into account.
async fn time_left_here(
    member: &MemberHandle,
    call: &Call,
    lease: i64,
    keys: bool,
) -> Result<Lookup<TimeLeft>, Status> {
    // The keys may have been attached under another leader, too.
    match member.read_barrier(call).await {
        Err(status) if status == errors::leader_changed() => return Ok(Lookup::NotLeader),
        passed => passed?,
    }
    let time = match member.ask(call, 0, |waiter| Event::TimeToLive { waiter, lease }).await? {
        Answer::TimeToLive(Some(time)) => time,
        Answer::TimeToLive(None) => return Ok(Lookup::NotFound),
        Answer::NotLeader => return Ok(Lookup::NotLeader),
        _ => return Err(another_question()),
    };
    let keys = if keys { keys_here(member, lease).await? } else { Vec::new() };
    Ok(Lookup::Found(TimeLeft { time, keys }))
}

/// The keys of a lease. There may be any number of them, so they are read in steps and on the pool.
async fn keys_here(member: &MemberHandle, lease: i64) -> Result<Vec<Bytes>, Status> {
    let view = member.view();
    on_pool(move || {
        let keys = keys_of(view.engine(), lease).map_err(|error| Status::unknown(error.to_string()))?;
        Ok(keys.into_iter().map(Bytes::from).collect())
    })
    .await
}

/// Answers [`PATH`].
pub(super) async fn answer(member: &MemberHandle, body: Bytes) -> Result<Response<Bytes>, HttpError> {
    let request = LeaseInternalRequest::decode(body).ok().and_then(|request| request.lease_time_to_live_request);
    let request = request.ok_or_else(unreadable)?;
    match time_left_here(member, &call(), request.id, request.keys).await.map_err(late)? {
        Lookup::Found(TimeLeft { time: TimeToLive { granted_s, remaining_s }, keys }) => {
            let (header, id) = (Some(ResponseHeader::default()), request.id);
            let answer = LeaseTimeToLiveResponse { header, id, ttl: remaining_s, granted_ttl: granted_s, keys };
            Ok(protobuf(&LeaseInternalResponse { lease_time_to_live_response: Some(answer) }))
        }
        Lookup::NotFound => Err(not_found()),
        Lookup::NotLeader => Err(HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "not a primary lessor")),
    }
}

/// Reads the answer to [`PATH`]. The inner `None`: there is no such lease. The outer `None`: no answer, or one about
/// another lease; asking again may help.
pub(super) fn read_reply(lease: i64, reply: &Reply) -> Option<Option<TimeLeft>> {
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
    use std::cell::RefCell;

    use super::*;
    use crate::leader::tests::reply;
    use crate::member::fake_engine::FakeEngine;

    /// The keys may have been attached by another leader, whose last entries are not applied here yet.
    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_time_to_live_is_read_behind_everything_that_was_acknowledged() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        fake.led_by(1);
        let asked = RefCell::new(String::new());
        let engine = |event: &Event| {
            let first = asked.borrow().is_empty();
            asked.borrow_mut().push_str(if matches!(event, Event::Read { .. }) { "read " } else { "time " });
            match event {
                Event::Read { .. } if first => Answer::LeaderChanged,
                Event::Read { .. } => Answer::Readable,
                _ => Answer::TimeToLive(Some(TimeToLive { granted_s: 10, remaining_s: 3 })),
            }
        };
        let test = async {
            let found = time_left(&fake.member, &call(), 7, false).await.unwrap().unwrap();
            assert_eq!((found.time.remaining_s, asked.borrow().as_str()), (3, "read read time "), "after an election");
        };
        fake.answer_during(engine, test).await;
    }

    #[test]
    fn a_time_to_live_is_believed_only_about_the_lease_that_was_asked_for() {
        let answer = LeaseTimeToLiveResponse { id: 7, ttl: 3, granted_ttl: 5, keys: vec!["k".into()], header: None };
        let answer = LeaseInternalResponse { lease_time_to_live_response: Some(answer) };
        let found = read_reply(7, &reply(200, &answer)).unwrap().unwrap();
        assert_eq!((found.time.granted_s, found.time.remaining_s, found.keys), (5, 3, vec![Bytes::from("k")]));
        assert!(read_reply(8, &reply(200, &answer)).is_none());
        assert!(read_reply(7, &reply(404, &answer)).unwrap().is_none());
        assert!(read_reply(7, &reply(200, &LeaseInternalResponse::default())).is_none());
    }
}
