//! Calls that the server makes to its own methods: the way of the JSON gateway into the router.
//!
//! ```text
//!   caller ── headers, message ──> Router::dispatch ──> the same handlers as for HTTP/2
//!          <── message or Status ── unary
//!          <── Replies ──────────── stream, with requests through Requests
//! ```
//!
//! Nothing is framed, copied or sent, and nothing is decided here: tokens, permissions, limits, counters and the audit
//! log are those of the router. The headers are gRPC's: `authorization`, `token`, `hasleader`, `grpc-timeout`.
//! Dropping the future of a call, or its [`Replies`], ends its handler as a client does that goes away.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::sync::mpsc;

use super::body::Body;
use super::frame::{Cutter, MAX_SEND_BYTES, PREFIX_BYTES};
use super::outbound::Outgoing;
use super::router::Router;
use super::source::{Messages, Source};
use super::status::Status;
use crate::grpc::Origin;

/// So many requests of a stream wait for its handler; then the caller waits.
const WAITING_REQUESTS: usize = 1;

/// The requests of a stream. The handler sees their end once this is dropped.
pub type Requests = mpsc::Sender<Bytes>;

/// The replies of a stream. Dropping it ends the handler.
#[derive(Debug)]
pub struct Replies {
    outgoing: Outgoing,
    cutter: Cutter,
    ended: bool,
}

/// Calls a unary method of `router` by its path (`/etcdserverpb.KV/Put`), with an encoded message; the result is the
/// encoded reply.
pub async fn unary(
    router: &Router,
    path: &str,
    headers: HeaderMap,
    message: Bytes,
    origin: &Rc<Origin>,
) -> Result<Bytes, Status> {
    let response = router.dispatch(path, headers, Source::Local(Messages::One(Some(message))), origin);
    match answer(response.await)? {
        Body::Reply(frame) => Ok(frame.slice(PREFIX_BYTES..)),
        other => Err(unexpected(path, &other)),
    }
}

/// Calls a method whose server streams.
pub async fn server_stream(
    router: &Router,
    path: &str,
    headers: HeaderMap,
    message: Bytes,
    origin: &Rc<Origin>,
) -> Result<Replies, Status> {
    let response = router.dispatch(path, headers, Source::Local(Messages::One(Some(message))), origin);
    replies(path, response.await)
}

/// Calls a method whose client and server both stream.
pub async fn bidi(
    router: &Router,
    path: &str,
    headers: HeaderMap,
    origin: &Rc<Origin>,
) -> Result<(Requests, Replies), Status> {
    let (requests, queue) = mpsc::channel(WAITING_REQUESTS);
    let response = router.dispatch(path, headers, Source::Local(Messages::Many(queue)), origin);
    Ok((requests, replies(path, response.await)?))
}

impl Replies {
    /// The next reply; `None` after the last one, if the call went well.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            match self.cutter.cut_next() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Err(status) => return Poll::Ready(Some(Err(status))),
                Ok(None) if self.ended => return Poll::Ready(None),
                Ok(None) => {}
            }
            let Poll::Ready(frame) = self.outgoing.poll_next(cx) else { return Poll::Pending };
            match frame.map(http_body::Frame::into_data) {
                Some(Ok(data)) => self.cutter.push(data),
                Some(Err(frame)) => {
                    self.ended = true;
                    if let Some(status) = frame.trailers_ref().and_then(Status::read) {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                None => self.ended = true,
            }
        }
    }
}

fn replies(path: &str, response: Response<Body>) -> Result<Replies, Status> {
    match answer(response)? {
        Body::Stream(outgoing) => Ok(Replies { outgoing, cutter: Cutter::new(MAX_SEND_BYTES), ended: false }),
        other => Err(unexpected(path, &other)),
    }
}

/// The body of an answer that is no error.
fn answer(response: Response<Body>) -> Result<Body, Status> {
    match Status::read(response.headers()) {
        Some(status) => Err(status),
        None => Ok(response.into_body()),
    }
}

fn unexpected(path: &str, body: &Body) -> Status {
    Status::internal(format!("{path} is called as another kind of method than it is: it answers {body:?}"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, poll_fn};

    use metastore_proto::Message;
    use metastore_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
    use tokio::sync::watch;

    use super::*;
    use crate::grpc::{Code, Frame, Inbound, Ledger, Outbound};

    /// The longest request that the routers below take.
    const MAX_BYTES: usize = 10;

    /// A router, and what keeps its streams from ending.
    fn router() -> (Router, watch::Sender<bool>) {
        let (running, stopping) = watch::channel(false);
        let mut router = Router::new(MAX_BYTES, Ledger::default(), stopping);
        router.unary("a.B", "Echo", |call, request: LeaseKeepAliveRequest| async move {
            match call.token {
                None => Frame::of(&request),
                Some(token) => Err(Status::not_found(format!("100% {}", String::from_utf8_lossy(&token)))),
            }
        });
        router.server_stream("a.B", "Count", |_, request: LeaseKeepAliveRequest, mut outbound: Outbound| async move {
            for id in 1..=request.id {
                let reply = LeaseKeepAliveResponse { id, ..Default::default() };
                _ = outbound.send(Frame::of(&reply)?).await;
            }
            if request.id < 3 { Err(Status::unknown("enough")) } else { Ok(()) }
        });
        router.bidi("a.B", "Double", |_, mut inbound: Inbound<LeaseKeepAliveRequest>, mut outbound| async move {
            while let Some(request) = inbound.next().await? {
                let reply = LeaseKeepAliveResponse { id: 2 * request.id, ..Default::default() };
                _ = outbound.send(Frame::of(&reply)?).await;
            }
            Ok(())
        });
        (router, running)
    }

    fn request(id: i64) -> Bytes {
        LeaseKeepAliveRequest { id }.encode_to_vec().into()
    }

    async fn next(replies: &mut Replies) -> Option<Result<i64, Status>> {
        let reply = poll_fn(|cx| replies.poll_next(cx)).await?;
        Some(reply.map(|reply| LeaseKeepAliveResponse::decode(reply).unwrap().id))
    }

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        )])
    }

    #[tokio::test(flavor = "local")]
    async fn a_unary_call_gives_the_message_or_the_status() {
        let ((router, _running), origin) = (router(), Rc::default());
        let call = |path, headers, message| unary(&router, path, headers, message, &origin);
        assert_eq!(call("/a.B/Echo", HeaderMap::new(), request(7)).await, Ok(request(7)));
        let refused = call("/a.B/Echo", with("authorization", "Bearer größe"), request(7)).await;
        assert_eq!(refused, Err(Status::not_found("100% größe")));
        let unknown = call("/a.B/Nothing", HeaderMap::new(), request(7)).await.unwrap_err();
        assert_eq!(unknown.code, Code::Unimplemented);
        let large = call("/a.B/Echo", HeaderMap::new(), vec![0; 11].into()).await.unwrap_err();
        assert_eq!(large, Status::resource_exhausted("grpc: received message larger than max (11 vs. 10)"));
        let late = call("/a.B/Count", HeaderMap::new(), request(1)).await.unwrap_err();
        assert_eq!(late.code, Code::Internal, "a stream is not a unary method");
    }

    #[tokio::test(flavor = "local")]
    async fn a_stream_gives_each_message_and_then_its_status() {
        let ((router, _running), origin) = (router(), Rc::default());
        let call = |id| server_stream(&router, "/a.B/Count", HeaderMap::new(), request(id), &origin);
        let mut replies = call(2).await.unwrap();
        assert_eq!((next(&mut replies).await, next(&mut replies).await), (Some(Ok(1)), Some(Ok(2))));
        assert_eq!(next(&mut replies).await, Some(Err(Status::unknown("enough"))));
        let mut replies = call(3).await.unwrap();
        for id in 1..=3 {
            assert_eq!(next(&mut replies).await, Some(Ok(id)));
        }
        assert_eq!(next(&mut replies).await, None);
    }

    #[tokio::test(flavor = "local")]
    async fn requests_of_a_stream_are_answered_until_they_end() {
        let ((router, _running), origin) = (router(), Rc::default());
        let call = || bidi(&router, "/a.B/Double", HeaderMap::new(), &origin);
        let (requests, mut replies) = call().await.unwrap();
        for id in [4, 5] {
            requests.send(request(id)).await.unwrap();
            assert_eq!(next(&mut replies).await, Some(Ok(2 * id)));
        }
        drop(requests);
        assert_eq!(next(&mut replies).await, None);
        let (requests, mut replies) = call().await.unwrap();
        requests.send(vec![0; 11].into()).await.unwrap();
        assert_eq!(next(&mut replies).await.unwrap().unwrap_err().code, Code::ResourceExhausted);
    }

    #[tokio::test(flavor = "local")]
    async fn a_caller_that_goes_away_leaves_nothing_behind() {
        struct Open(Rc<Cell<usize>>);
        impl Drop for Open {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let open = Rc::new(Cell::new(0));
        let opened = open.clone();
        let enter = move || {
            opened.set(opened.get() + 1);
            Open(opened.clone())
        };
        let (_running, stopping) = watch::channel(false);
        let mut router = Router::new(MAX_BYTES, Ledger::default(), stopping);
        let here = enter.clone();
        router.unary("a.B", "Wait", move |_, (): ()| {
            let open = here();
            async move {
                let _open = open;
                pending::<Result<Frame, Status>>().await
            }
        });
        router.bidi("a.B", "WaitLong", move |_, _: Inbound<()>, _| {
            let open = enter();
            async move {
                let _open = open;
                pending::<Result<(), Status>>().await
            }
        });
        let origin = Rc::default();
        let mut call = Box::pin(unary(&router, "/a.B/Wait", HeaderMap::new(), Bytes::new(), &origin));
        let pending = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
        assert!(pending);
        let (_requests, replies) = bidi(&router, "/a.B/WaitLong", HeaderMap::new(), &origin).await.unwrap();
        assert_eq!(open.get(), 2);
        drop(call);
        drop(replies);
        while open.get() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
