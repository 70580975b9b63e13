//! Questions of other members to this one, besides consensus: those that only the leader can answer, and whether the
//! states are equal.

mod checks;

use std::rc::Rc;

use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::leader;
use crate::member::MemberHandle;
use crate::peer::HttpError;

/// The longest body that is read, as in etcd; a valid one takes a few bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Whether a path of the peer port belongs to these questions.
pub fn concerns(path: &str) -> bool {
    leader::concerns(path) || checks::concerns(path)
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
    let method = if checks::concerns(path) { Method::GET } else { Method::POST };
    if head.method != method {
        let refused = HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        let mut response = Response::from(refused);
        let allowed = HeaderValue::from_str(method.as_str()).expect("a method is a token");
        response.headers_mut().insert(ALLOW, allowed);
        return Ok(response);
    }
    let body = read(body).await?;
    match checks::concerns(path) {
        true => checks::answer(member, path, &head.headers, body).await,
        false => leader::answer(member, path, body).await,
    }
}

async fn read<B>(body: B) -> Result<Bytes, HttpError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
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
    use metastore_proto::membershippb::DowngradeInfoSetRequest;
    use metastore_store::Store;
    use metastore_store::command::{Command, Kind};

    use super::*;
    use crate::driver::{Answer, Event};
    use crate::member::fake_engine::FakeEngine;
    use crate::peer::client::Reply;

    async fn ask(fake: &FakeEngine, method: Method, path: &str, body: impl Into<Bytes>) -> Reply {
        let request = Request::builder().method(method).uri(path).body(Full::new(body.into())).unwrap();
        assert!(concerns(path));
        let (head, body) = answer(fake.member.clone(), request).await.into_parts();
        Reply { status: head.status, headers: head.headers, body }
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn methods_and_sizes_are_checked() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        assert_eq!(ask(&fake, Method::GET, "/leases", "").await.status.as_u16(), 405);
        assert_eq!(ask(&fake, Method::POST, "/leases", vec![0; 65537]).await.status.as_u16(), 413);
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
        fake.answer_during(|_: &Event| Answer::Readable, async {
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
