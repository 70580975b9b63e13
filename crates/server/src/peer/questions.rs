//! Questions of other members to this one besides consensus: about leases and to promote a learner, which only the
//! leader can answer, and whether the states are equal.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::http_error::HttpError;
use super::{checks, leases, promote};
use crate::api::MemberHandle;

pub(super) fn answer_with(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Whether a path of the peer port belongs to these questions.
pub fn concerns(path: &str) -> bool {
    matches!(
        path,
        leases::PATH | leases::INTERNAL_PATH | leases::BATCH_PATH | checks::HASH_PATH | checks::DOWNGRADE_PATH
    ) || path.starts_with(promote::PREFIX)
}

/// Answers a request whose path [`concerns`] this room.
pub async fn answer<B>(member: Rc<MemberHandle>, request: Request<B>) -> Response<Bytes>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    route(&member, request).await.unwrap_or_else(Response::from)
}

async fn route<B>(member: &MemberHandle, request: Request<B>) -> Result<Response<Bytes>, HttpError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let method = if matches!(path, checks::HASH_PATH | checks::DOWNGRADE_PATH) { Method::GET } else { Method::POST };
    if head.method != method {
        let refused = HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        let mut response = Response::from(refused);
        let allowed = HeaderValue::from_str(method.as_str()).expect("a method is a token");
        response.headers_mut().insert(ALLOW, allowed);
        return Ok(response);
    }
    match path {
        checks::HASH_PATH => checks::hash(member, &head.headers, read(body).await?).await,
        checks::DOWNGRADE_PATH => checks::downgrade(member).await,
        leases::PATH => leases::renew(member, read(body).await?).await,
        leases::INTERNAL_PATH => leases::time_left(member, read(body).await?).await,
        leases::BATCH_PATH => leases::renew_batch(member, read(body).await?).await,
        path => promote::answer(member, path.strip_prefix(promote::PREFIX).unwrap_or(path)).await,
    }
}

async fn read<B>(body: B) -> Result<Bytes, HttpError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    match Limited::new(body, leases::MAX_BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "request body too large"))
        }
        Err(_) => Err(HttpError::new(StatusCode::BAD_REQUEST, "error reading body")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::Full;
    use metastore_engine::Memory;
    use metastore_proto::Message;
    use metastore_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseTimeToLiveRequest};
    use metastore_proto::leasepb::LeaseInternalRequest;
    use metastore_proto::membershippb::DowngradeInfoSetRequest;
    use metastore_store::Store;
    use metastore_store::command::{Command, Kind};
    use metastore_store::lease::Renewal;

    use super::*;
    use crate::api::fake_engine::FakeEngine;
    use crate::driver::{Answer, Event, TimeToLive};
    use crate::peer::client::Reply;

    async fn ask(fake: &FakeEngine, method: Method, path: &str, body: impl Into<Bytes>) -> Reply {
        let request = Request::builder().method(method).uri(path).body(Full::new(body.into())).unwrap();
        assert!(concerns(path));
        let (head, body) = answer(fake.member.clone(), request).await.into_parts();
        Reply { status: head.status, headers: head.headers, body }
    }

    /// Lease 7 exists, lease 8 does not, and for lease 9 this member is not the leader.
    fn engine(event: &Event) -> Answer {
        match event {
            Event::Read { .. } => Answer::Readable,
            Event::KeepAlive { leases, .. } if !leases.contains(&9) => {
                let renewal = |lease: &i64| if *lease == 7 { Renewal::Renewed(10) } else { Renewal::Unknown };
                Answer::Renewed(leases.iter().map(renewal).collect())
            }
            Event::TimeToLive { lease: 7, .. } => {
                Answer::TimeToLive(Some(TimeToLive { granted_s: 10, remaining_s: 3 }))
            }
            Event::TimeToLive { lease: 8, .. } => Answer::TimeToLive(None),
            _ => Answer::NotLeader,
        }
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn leases_are_renewed_in_batches() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        fake.led_by(1);
        fake.answer_during(engine, async {
            let renew = async |body| ask(&fake, Method::POST, leases::BATCH_PATH, body).await;
            let answer = renew(leases::write_batch(&[7, 8, 7])).await;
            let renewals = vec![Renewal::Renewed(10), Renewal::Unknown, Renewal::Renewed(10)];
            assert_eq!(leases::read_batch(3, &answer), Some(Some(renewals)));
            assert_eq!(leases::read_batch(0, &renew(Bytes::new()).await), Some(Some(Vec::new())));
            let most = vec![7; crate::api::lease::RENEWALS_AT_ONCE];
            assert_eq!(renew(leases::write_batch(&most)).await.status.as_u16(), 200);
            let more = [&most[..], &[7]].concat();
            assert_eq!(renew(leases::write_batch(&more)).await.status.as_u16(), 400);
            assert_eq!(renew(Bytes::from_static(b"1234567")).await.status.as_u16(), 400);
        })
        .await;
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn leases_are_renewed_as_etcd_asks() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        fake.led_by(1);
        fake.answer_during(engine, async {
            let renew =
                async |id| ask(&fake, Method::POST, leases::PATH, LeaseKeepAliveRequest { id }.encode_to_vec()).await;
            assert_eq!(leases::read_renewal(7, &renew(7).await), Some(Some(10)));
            let unknown = renew(8).await;
            assert_eq!((unknown.status, &unknown.body[..]), (StatusCode::NOT_FOUND, &b"lease not found\n"[..]));
            let follower = renew(9).await;
            assert_eq!((follower.status.as_u16(), &follower.body[..]), (400, &b"not a primary lessor\n"[..]));
            assert_eq!(ask(&fake, Method::POST, leases::PATH, &b"\xff"[..]).await.status.as_u16(), 400);
            assert_eq!(ask(&fake, Method::GET, leases::PATH, "").await.status.as_u16(), 405);
            assert_eq!(ask(&fake, Method::POST, leases::PATH, vec![0; 65537]).await.status.as_u16(), 413);
        })
        .await;
    }

    /// The leader was held up during an election, and the engine thread learns that between the renewal and the proof.
    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_deposed_leader_renews_nothing() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        fake.led_by(1);
        let engine = |event: &Event| {
            assert!(matches!(event, Event::KeepAlive { .. }));
            Answer::NotLeader
        };
        let test = async {
            let one = LeaseKeepAliveRequest { id: 7 }.encode_to_vec();
            for (path, body) in [(leases::PATH, one.into()), (leases::BATCH_PATH, leases::write_batch(&[7, 8]))] {
                let reply = ask(&fake, Method::POST, path, body).await;
                assert_eq!((reply.status.as_u16(), &reply.body[..]), (400, &b"not a primary lessor\n"[..]));
            }
        };
        fake.answer_during(engine, test).await;
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn times_to_live_are_told_as_etcd_asks() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        let key_of_lease = [&7i64.to_be_bytes()[..], b"k"].concat();
        fake.member.view().engine().put(metastore_engine::Table::LeaseKeys, &key_of_lease, b"").unwrap();
        fake.answer_during(engine, async {
            let tell = async |id, keys| {
                let request = Some(LeaseTimeToLiveRequest { id, keys });
                let request = LeaseInternalRequest { lease_time_to_live_request: request };
                ask(&fake, Method::POST, leases::INTERNAL_PATH, request.encode_to_vec()).await
            };
            let found = leases::read_time_left(7, &tell(7, true).await).unwrap().unwrap();
            assert_eq!((found.time.granted_s, found.time.remaining_s, found.keys), (10, 3, vec![Bytes::from("k")]));
            assert!(leases::read_time_left(7, &tell(7, false).await).unwrap().unwrap().keys.is_empty());
            assert_eq!(tell(8, false).await.status.as_u16(), 404);
            assert_eq!(tell(9, false).await.status.as_u16(), 500);
        })
        .await;
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn no_answer_in_time_is_worth_another_try() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        let body = LeaseKeepAliveRequest { id: 7 }.encode_to_vec();
        let late = ask(&fake, Method::POST, leases::PATH, body).await;
        assert_eq!(late.status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(leases::read_renewal(7, &late), None);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_learner_is_promoted_as_etcd_asks() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        fake.led_by(1);
        let engine = |event: &Event| match event {
            Event::Promote { change, .. } if change.node_id() == 2 => {
                assert_eq!(change.context(), br#"{"id":2,"peerURLs":null,"isPromote":true}"#);
                let reply = Ok(metastore_store::Reply::MembersChanged);
                Answer::Outcome(metastore_store::Outcome { id: change.id(), revision: 1, reply })
            }
            _ => Answer::LearnerNotReady,
        };
        let test = async {
            let promoted = ask(&fake, Method::POST, &promote::path(2), "").await;
            assert_eq!(promoted.headers["x-etcd-cluster-id"], "9");
            let members: Vec<metastore_store::Member> = serde_json::from_slice(&promoted.body).unwrap();
            assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 2]);
            let lagging = ask(&fake, Method::POST, &promote::path(1), "").await;
            assert_eq!(lagging.status.as_u16(), 412);
            assert_eq!(ask(&fake, Method::POST, &promote::path(3), "").await.status.as_u16(), 404);
            assert_eq!(ask(&fake, Method::POST, "/members/promote/x", "").await.status.as_u16(), 404);
        };
        fake.answer_during(engine, test).await;
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn states_are_compared_as_etcd_asks() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        let hash = async |body: &'static str| ask(&fake, Method::GET, checks::HASH_PATH, body).await;
        let reply = hash(r#"{"revision":1}"#).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.headers["x-etcd-cluster-id"], "9");
        assert_eq!(reply.headers["content-type"], "application/json");
        // The answer of a real etcd 3.7.3 that holds nothing.
        let body = r#"{"header":{"revision":1},"hash":1084519789,"compact_revision":-1,"hash_revision":1}"#;
        assert_eq!(reply.body, body);
        assert_eq!(hash("{}").await.body, body);
        let refused = async |body| {
            let reply = hash(body).await;
            (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned())
        };
        let future = "mvcc: required revision is a future revision\n".to_owned();
        assert_eq!(refused(r#"{"revision":2}"#).await, (400, future));
        for unreadable in ["", "x", "[", r#"{"revision":"1"}"#] {
            assert_eq!(refused(unreadable).await, (400, "error unmarshalling request\n".to_owned()), "{unreadable}");
        }
        let post = ask(&fake, Method::POST, checks::HASH_PATH, "{}").await;
        assert_eq!(post.status.as_u16(), 405);
        assert_eq!(post.headers["allow"], "GET");
        let request = Request::builder().uri(checks::HASH_PATH).header("X-Etcd-Cluster-ID", "8");
        let request = request.body(Full::new(Bytes::from_static(b"{}"))).unwrap();
        let stranger = answer(fake.member.clone(), request).await;
        assert_eq!((stranger.status().as_u16(), &stranger.body()[..]), (412, &b"cluster ID mismatch\n"[..]));
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_downgrade_is_told_of_as_etcd_asks() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        fake.answer_during(engine, async {
            let reply = ask(&fake, Method::GET, checks::DOWNGRADE_PATH, "").await;
            assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"false"[..]));
            assert_eq!(reply.headers["content-type"], "text/plain");
            assert_eq!(ask(&fake, Method::POST, checks::DOWNGRADE_PATH, "").await.status.as_u16(), 405);
            let mut store = Store::open(Arc::new(Memory::new())).unwrap();
            let downgrade = DowngradeInfoSetRequest { enabled: true, ver: "3.6.0".into() };
            store.apply(1, 1, Command::encode(1, Kind::DowngradeInfoSet, &downgrade)).unwrap();
            fake.member.shared.set_facts(&store);
            let enabled = ask(&fake, Method::GET, checks::DOWNGRADE_PATH, "").await;
            assert_eq!((enabled.status.as_u16(), &enabled.body[..]), (200, &b"true"[..]));
        })
        .await;
        let alone = ask(&fake, Method::GET, checks::DOWNGRADE_PATH, "").await;
        let text = String::from_utf8_lossy(&alone.body).into_owned();
        assert_eq!((alone.status.as_u16(), text.starts_with("failed linearized read: ")), (500, true), "{text}");
    }
}
