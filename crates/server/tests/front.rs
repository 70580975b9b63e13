//! The server's front as a client sees it: real sockets, real HTTP, handlers made for the test.

mod streams;

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame as BodyFrame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use metastore_proto::Message;
use metastore_proto::health::{HealthCheckRequest, HealthCheckResponse, HealthListResponse};
use metastore_server::grpc::Origin;
use metastore_server::grpc::counts::MethodCounts;
use metastore_server::grpc::router::{is_grpc, not_grpc};
use metastore_server::grpc::{Body, Code, Frame, Inbound, Ledger, LocalFuture, Router, Status, health};
use metastore_server::io::accept::Door;
use metastore_server::io::listen::{Address, Listener, SocketOptions};
use metastore_server::io::protocol::Protocol;
use metastore_server::io::service::Service;
use metastore_server::io::slots::Slots;
use metastore_server::io::workers::Workers;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

const MAX_BYTES: usize = 2_097_152;

/// Nothing in these tests takes longer unless it is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long open requests may go on when the server stops.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

struct Front {
    router: Router,
    slots: Slots<()>,
}

impl Service for Front {
    fn call(&self, _: Request<Incoming>, _: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        Box::pin(std::future::ready(plain()))
    }

    fn call_http2(&self, request: Request<RecvStream>, origin: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        if is_grpc(request.headers()) {
            return self.router.call(request, origin);
        }
        let serves = self.router.serves(request.uri().path());
        Box::pin(std::future::ready(if serves { not_grpc(request.headers()) } else { plain() }))
    }

    fn awaits_answers(&self) -> bool {
        !self.slots.is_empty()
    }
}

fn plain() -> Response<Body> {
    Response::new(Body::Plain(Bytes::from_static(b"plain")))
}

struct Server {
    address: SocketAddr,
    workers: Option<Workers>,
    ledger: Ledger,
    waiting: Arc<AtomicUsize>,
    serving: tokio::sync::watch::Sender<bool>,
}

impl Server {
    fn start() -> Server {
        Server::start_with(Protocol::default())
    }

    fn start_with(protocol: Protocol) -> Server {
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = Listener::bind(&any, SocketOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let ledger = Ledger::default();
        let waiting = Arc::<AtomicUsize>::default();
        let serving = tokio::sync::watch::Sender::new(true);
        let (shared, gauge, serves) = (ledger.clone(), waiting.clone(), serving.subscribe());
        let workers = Workers::start(
            2,
            vec![(listener, Door::Client.into())],
            usize::MAX,
            protocol,
            STOP_PATIENCE,
            move |context| {
                let mut router = Router::new(MAX_BYTES, shared.clone(), context.stopping);
                health::register(&mut router, serves.clone());
                let slots = register_test_methods(&mut router, gauge.clone());
                Rc::new(Front { router, slots })
            },
        );
        Server { address, workers: Some(workers.unwrap()), ledger, waiting, serving }
    }

    fn counts(&self, method: &str) -> Vec<Arc<MethodCounts>> {
        self.ledger.all().into_iter().filter(|counts| counts.method == method).collect()
    }

    fn handled(&self, method: &str, code: Code) -> u64 {
        self.counts(method).iter().map(|counts| counts.handled[code as usize].get()).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
    }
}

/// Counts the handlers that are alive.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(gauge: &Arc<AtomicUsize>) -> Alive {
        gauge.fetch_add(1, Ordering::SeqCst);
        Alive(gauge.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns the slots in which "Wait" waits.
fn register_test_methods(router: &mut Router, gauge: Arc<AtomicUsize>) -> Slots<()> {
    router.unary("test.T", "Length", |call, _: ()| async move {
        Frame::write(8, |buffer| buffer.extend((call.raw.len() as u64).to_be_bytes()))
    });
    let slots = Slots::<()>::default();
    tokio::task::spawn_local(slots.clone().sweep());
    let alive = gauge.clone();
    let waiting = slots.clone();
    router.unary("test.T", "Wait", move |call, _: ()| {
        let (wait, alive) = (waiting.register(call.deadline), Alive::new(&alive));
        async move {
            let _alive = alive;
            wait.await.map_err(|_| Status::deadline_exceeded())?;
            Frame::of(&())
        }
    });
    let alive = gauge.clone();
    router.bidi("test.T", "Echo", move |_call, mut inbound, mut outbound| {
        let alive = Alive::new(&alive);
        async move {
            let _alive = alive;
            while let Some(request) = inbound.next().await? {
                let request: HealthCheckRequest = request;
                if request.service == "enough" {
                    return Err(Status::new(Code::OutOfRange, "enough, 100%"));
                }
                if outbound.send(Frame::of(&request)?).await.is_err() {
                    break;
                }
            }
            Ok(())
        }
    });
    let alive = gauge.clone();
    router.server_stream("test.T", "Silent", move |_call, _: (), outbound| {
        let alive = Alive::new(&alive);
        async move {
            let _alive = (alive, outbound);
            std::future::pending().await
        }
    });
    router.bidi("test.T", "Deaf", |_call, inbound: Inbound<()>, outbound| async move {
        let _open = (inbound, outbound);
        std::future::pending().await
    });
    router.server_stream("test.T", "Large", move |_call, _: (), mut outbound| async move {
        let Ok(mut pieces) = outbound.begin(64 << 20).await? else { return Ok(()) };
        while pieces.missing() > 0 {
            if pieces.push(Bytes::from_static(&[b'x'; 65536])).await.is_err() {
                break;
            }
        }
        Ok(())
    });
    router.server_stream("test.T", "Panic", move |_call, _: (), _outbound| async move { panic!("as the test wants") });
    let calls = Cell::new(0u64);
    router.unary("test.T", "Empty", move |_call, _: ()| {
        calls.set(calls.get() + 1);
        async { Frame::of(&()) }
    });
    slots
}

type Sender = hyper::client::conn::http2::SendRequest<BoxBody<Bytes, Infallible>>;

async fn connect(server: &Server) -> Sender {
    let stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let io = TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(
    path: &str,
    headers: &[(&str, &str)],
    body: BoxBody<Bytes, Infallible>,
) -> Request<BoxBody<Bytes, Infallible>> {
    let mut request = Request::post(format!("http://test{path}")).version(Version::HTTP_2);
    if headers.iter().all(|(name, _)| *name != "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

fn whole(bytes: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    Full::new(bytes.into()).boxed()
}

fn framed(message: &impl Message) -> Bytes {
    Frame::of(message).unwrap().into_bytes()
}

#[derive(Debug)]
struct Outcome {
    http: StatusCode,
    status: String,
    message: String,
    data: Bytes,
}

async fn outcome(response: Response<Incoming>) -> Outcome {
    let http = response.status();
    let headers = response.headers().clone();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or(headers);
    let text = |map: &HeaderMap, name| map.get(name).map_or(String::new(), |v| v.to_str().unwrap().to_owned());
    let (status, message) = (text(&trailers, "grpc-status"), text(&trailers, "grpc-message"));
    Outcome { http, status, message, data: body.to_bytes() }
}

async fn call(sender: &mut Sender, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Outcome {
    let response = sender.send_request(request(path, headers, whole(body))).await.unwrap();
    tokio::time::timeout(PATIENCE, outcome(response)).await.expect("stuck")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn health_check() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let check = "/grpc.health.v1.Health/Check";
    let reply = call(&mut sender, check, &[], framed(&HealthCheckRequest::default())).await;
    assert_eq!((reply.http, reply.status.as_str(), reply.message.as_str()), (StatusCode::OK, "0", ""));
    assert_eq!(HealthCheckResponse::decode(reply.data.slice(5..)).unwrap().status, 1);
    let unknown = framed(&HealthCheckRequest { service: "x".into() });
    let reply = call(&mut sender, check, &[], unknown).await;
    assert_eq!((reply.status.as_str(), reply.message.as_str()), ("5", "unknown service"));
    for (serving, status) in [(true, 1), (false, 2)] {
        server.serving.send_replace(serving);
        let reply = call(&mut sender, "/grpc.health.v1.Health/List", &[], vec![0u8; 5]).await;
        let statuses = [(String::new(), HealthCheckResponse { status })].into();
        assert_eq!(HealthListResponse::decode(reply.data.slice(5..)).unwrap(), HealthListResponse { statuses });
    }
    until("the count", || server.handled("Check", Code::Ok) == 1 && server.handled("Check", Code::NotFound) == 1).await;
}

#[tokio::test]
async fn health_watch_follows_changes() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let watch = request("/grpc.health.v1.Health/Watch", &[], whole(framed(&HealthCheckRequest::default())));
    let mut body = sender.send_request(watch).await.unwrap().into_body();
    let serving = framed(&HealthCheckResponse { status: 1 });
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), serving);
    server.serving.send_replace(false);
    let not_serving = framed(&HealthCheckResponse { status: 2 });
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), not_serving);
}

#[tokio::test]
async fn an_over_long_message_gets_the_code_and_text_of_grpc_go() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let fitting = HealthCheckRequest { service: "x".repeat(MAX_BYTES - 4) };
    assert_eq!(fitting.encoded_len(), MAX_BYTES);
    let reply = call(&mut sender, "/test.T/Length", &[], framed(&fitting)).await;
    assert_eq!((reply.status.as_str(), &reply.data[5..]), ("0", &(MAX_BYTES as u64).to_be_bytes()[..]));
    let over = HealthCheckRequest { service: "x".repeat(MAX_BYTES - 3) };
    let reply = call(&mut sender, "/test.T/Length", &[], framed(&over)).await;
    assert_eq!(reply.status, "8");
    assert_eq!(reply.message, "grpc: received message larger than max (2097153 vs. 2097152)");
    let reply = call(&mut sender, "/test.T/Empty", &[], vec![0u8; 5]).await;
    assert_eq!(reply.status, "0", "the connection goes on");
}

#[tokio::test]
async fn broken_requests() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    for (body, message) in [
        (&b""[..], ("2", "EOF")),
        (&b"\0\0\0\0"[..], ("2", "EOF")),
        (&b"\0\0\0\0\x02a"[..], ("2", "unexpected EOF")),
        (&b"\x01\0\0\0\0"[..], ("13", "grpc: compressed flag set with identity or empty encoding")),
        (&b"\0\0\0\0\0x"[..], ("0", "")),
    ] {
        let reply = call(&mut sender, "/test.T/Empty", &[], body).await;
        assert_eq!((reply.status.as_str(), reply.message.as_str()), message, "{body:?}");
    }
    for (body, message) in [
        (&b"\0\0\0\0"[..], "cardinality violation: received no request message from non-client-streaming RPC"),
        (&b"\0\0\0\0\x02a"[..], "unexpected EOF"),
        (&b"\0\0\0\0\0\0\0\0\0\x01"[..], "unexpected EOF"),
        (
            &b"\0\0\0\0\0\0\0\0\0\0"[..],
            "cardinality violation: received multiple request messages for non-client-streaming RPC",
        ),
    ] {
        let reply = call(&mut sender, "/test.T/Large", &[], body).await;
        assert_eq!((reply.status.as_str(), reply.message.as_str()), ("13", message), "{body:?}");
    }
    let reply = call(&mut sender, "/grpc.health.v1.Health/Check", &[], &b"\0\0\0\0\x02\xff\xff"[..]).await;
    assert_eq!(reply.status, "13");
    assert!(reply.message.starts_with("grpc: error unmarshalling request: "), "{}", reply.message);
    let reply = call(&mut sender, "/test.T/Empty", &[("grpc-encoding", "snappy")], &b"\x01\0\0\0\0"[..]).await;
    assert_eq!(reply.status, "12");
    assert_eq!(reply.message, "grpc: Decompressor is not installed for grpc-encoding \"snappy\"");
}

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    for (path, message) in [
        ("/test.T/Nothing", "unknown method Nothing for service test.T"),
        ("/etcdserverpb.Nothing/Put", "unknown service etcdserverpb.Nothing"),
        ("/test.T/Empty?x=1", "unknown method Empty?x=1 for service test.T"),
    ] {
        let reply = call(&mut sender, path, &[], vec![0u8; 5]).await;
        assert_eq!((reply.status.as_str(), reply.message.as_str()), ("12", message));
    }
    let reply = call(&mut sender, "/test.T/Empty", &[("content-type", "application/json")], "{}").await;
    assert_eq!(reply.http, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(reply.message, "invalid gRPC request content-type \"application/json\"");
}

#[tokio::test]
async fn a_message_in_many_pieces() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let frame = framed(&HealthCheckRequest { service: "x".repeat(1_500_000) });
    let (chunks, body) = channel_body();
    for chunk in frame.chunks(777) {
        chunks.send(Bytes::copy_from_slice(chunk)).unwrap();
    }
    drop(chunks);
    let response = sender.send_request(request("/test.T/Length", &[], body)).await.unwrap();
    let reply = outcome(response).await;
    assert_eq!(reply.data[5..], (frame.len() as u64 - 5).to_be_bytes());
}

#[tokio::test]
async fn a_deadline_ends_a_call() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let reply = call(&mut sender, "/test.T/Wait", &[("grpc-timeout", "100m")], vec![0u8; 5]).await;
    assert_eq!((reply.status.as_str(), reply.message.as_str()), ("4", "context deadline exceeded"));
    let (_messages, body) = channel_body();
    let echo = request("/test.T/Echo", &[("grpc-timeout", "100m")], body);
    let reply = outcome(sender.send_request(echo).await.unwrap()).await;
    assert_eq!((reply.status.as_str(), reply.message.as_str()), ("4", "context deadline exceeded"));
    until("the end", || server.waiting.load(Ordering::SeqCst) == 0).await;
    let reply = call(&mut sender, "/test.T/Wait", &[("grpc-timeout", "5x")], vec![0u8; 5]).await;
    assert_eq!(reply.status, "13");
    assert_eq!(reply.message, "malformed grpc-timeout: transport: timeout unit is not recognized: \"5x\"");
}

/// A body that the test writes while the call is under way.
struct Written(tokio::sync::mpsc::UnboundedReceiver<Bytes>);

impl hyper::body::Body for Written {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(BodyFrame::data(bytes))))
    }
}

fn channel_body() -> (tokio::sync::mpsc::UnboundedSender<Bytes>, BoxBody<Bytes, Infallible>) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    (sender, Written(receiver).boxed())
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let waiting = tokio::spawn(sender.send_request(request("/test.T/Wait", &[], whole(vec![0u8; 5]))));
    until("the call", || server.waiting.load(Ordering::SeqCst) == 1).await;
    waiting.abort();
    until("the cancelled call's end", || server.waiting.load(Ordering::SeqCst) == 0).await;
    until("the count", || server.handled("Wait", Code::Canceled) == 1).await;

    let mut streams = Vec::new();
    for _ in 0..10_000 {
        let silent = request("/test.T/Silent", &[], whole(vec![0u8; 5]));
        streams.push(sender.send_request(silent).await.unwrap());
    }
    until("the streams", || server.waiting.load(Ordering::SeqCst) == 10_000).await;
    streams.truncate(5_000);
    until("the end of those dropped", || server.waiting.load(Ordering::SeqCst) == 5_000).await;
    let reply = call(&mut sender, "/test.T/Empty", &[], vec![0u8; 5]).await;
    assert_eq!(reply.status, "0", "the connection goes on");
    drop((streams, sender));
    until("the end of all", || server.waiting.load(Ordering::SeqCst) == 0).await;
}

/// An HTTP/2 frame (RFC 9113, 4.1).
fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A client that cancels its watches as soon as it has created them opens and resets streams at once.
#[tokio::test]
async fn a_thousand_streams_reset_at_once_do_not_end_the_connection() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    let server = Server::start();
    let path = b"/test.T/Echo";
    // POST, http, :path and content-type as literals (RFC 7541, 6.2.2).
    let headers = [&[0x83, 0x86, 0x04, path.len() as u8], &path[..], &[0x0f, 0x10, 16], b"application/grpc"].concat();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(h2_frame(SETTINGS, 0, 0, &[]));
    for stream in (1..2_000).step_by(2) {
        bytes.extend(h2_frame(HEADERS, 4, stream, &headers));
        bytes.extend(h2_frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    // A last stream that ends at once: its answer shows that the connection is still open.
    bytes.extend(h2_frame(HEADERS, 5, 2_001, &headers));
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    connection.write_all(&bytes).await.unwrap();
    let mut reply = Vec::new();
    let answered = |reply: &[u8]| reply.windows(4).any(|window| window == 2_001u32.to_be_bytes());
    while !answered(&reply) {
        let read = tokio::time::timeout(PATIENCE, connection.read_buf(&mut reply)).await.expect("stuck").unwrap();
        assert_ne!(read, 0, "the server closed the connection");
    }
    until("the end of all", || server.waiting.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn both_sides_stream() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let (messages, body) = channel_body();
    let mut replies = sender.send_request(request("/test.T/Echo", &[], body)).await.unwrap().into_body();
    for service in ["one", "", "three"] {
        let message = framed(&HealthCheckRequest { service: service.into() });
        messages.send(message.clone()).unwrap();
        assert_eq!(replies.frame().await.unwrap().unwrap().into_data().unwrap(), message);
    }
    messages.send(framed(&HealthCheckRequest { service: "enough".into() })).unwrap();
    let trailers = replies.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&"11".parse().unwrap(), &"enough, 100%25".parse().unwrap())
    );
}

#[tokio::test]
async fn a_large_reply_comes_whole() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let reply = call(&mut sender, "/test.T/Large", &[], vec![0u8; 5]).await;
    assert_eq!((reply.status.as_str(), reply.data.len()), ("0", (64 << 20) + 5));
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_stream_and_nothing_else() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    assert_eq!(call(&mut sender, "/test.T/Panic", &[], vec![0u8; 5]).await.status, "13");
    assert_eq!(call(&mut sender, "/test.T/Empty", &[], vec![0u8; 5]).await.status, "0");
}

#[tokio::test]
async fn streams_end_when_the_member_stops() {
    let mut server = Server::start();
    let mut sender = connect(&server).await;
    let (_messages, body) = channel_body();
    let response = sender.send_request(request("/test.T/Echo", &[], body)).await.unwrap();
    let workers = server.workers.take().unwrap();
    let stopper = std::thread::spawn(move || workers.stop());
    let reply = outcome(response).await;
    assert_eq!((reply.status.as_str(), reply.message.as_str()), ("14", "etcdserver: server stopped"));
    stopper.join().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn who_waits_for_an_answer_gets_it_although_the_member_stops() {
    let mut server = Server::start();
    let mut sender = connect(&server).await;
    let millis = format!("{}m", 3 * STOP_PATIENCE.as_millis());
    let waits =
        tokio::spawn(
            async move { call(&mut sender, "/test.T/Wait", &[("grpc-timeout", &millis)], vec![0u8; 5]).await },
        );
    until("a call that waits", || server.waiting.load(Ordering::SeqCst) == 1).await;
    let workers = server.workers.take().unwrap();
    let stopper = std::thread::spawn(move || workers.stop());
    let reply = waits.await.unwrap();
    assert_eq!((reply.status.as_str(), reply.message.as_str()), ("4", "context deadline exceeded"));
    stopper.join().unwrap();
}

#[tokio::test]
async fn http_1_on_the_same_port() {
    let server = Server::start();
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/version").header("host", "test").body(whole("")).unwrap();
    let reply = outcome(sender.send_request(request).await.unwrap()).await;
    assert_eq!((reply.http, &reply.data[..]), (StatusCode::OK, &b"plain"[..]));
}
