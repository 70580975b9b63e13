//! From a path to a handler. One router per I/O thread; its handlers and their futures never leave that thread.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use h2::RecvStream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use metastore_proto::Message;
use tokio::sync::watch;

use super::body::Body;
use super::call::Call;
use super::compression;
use super::counts::{Clients, Counted, GrpcType, Ledger, MethodCounts};
use super::encoding::Encoding;
use super::frame::Frame;
use super::inbound::{self, Inbound, Reader, decode_request, decode_streamed, read_first, read_only};
use super::outbound::{self, Outbound};
use super::source::Source;
use super::status::{Code, Status};
use crate::grpc::Origin;

/// A future that stays on its thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

type Handler = Box<dyn Fn(HeaderMap, Source, &Rc<Origin>) -> LocalFuture<Response<Body>>>;

/// The methods that are served.
pub struct Router {
    methods: HashMap<String, Handler>,
    services: HashSet<&'static str>,
    max_receive_bytes: usize,
    ledger: Ledger,
    clients: Rc<Clients>,
    stopping: watch::Receiver<bool>,
}

impl Router {
    /// `max_receive_bytes` bounds each incoming message; streams end with [`Status::stopped`] once `stopping` is true.
    pub fn new(max_receive_bytes: usize, ledger: Ledger, stopping: watch::Receiver<bool>) -> Router {
        let clients = Rc::new(Clients::new(ledger.clone()));
        Router { methods: HashMap::new(), services: HashSet::new(), max_receive_bytes, ledger, clients, stopping }
    }

    /// Adds a method with one request and one reply. The handler's future is dropped when the client goes away.
    pub fn unary<T, H, F>(&mut self, service: &'static str, method: &'static str, handler: H)
    where
        T: Message + Default + 'static,
        H: Fn(Call, T) -> F + 'static,
        F: Future<Output = Result<Frame, Status>> + 'static,
    {
        let max_bytes = self.max_receive_bytes;
        let (handler, clients) = (Rc::new(handler), self.clients.clone());
        self.add(service, method, GrpcType::Unary, move |headers, mut body, origin, counts| {
            let (handler, counts, clients) = (handler.clone(), counts.clone(), clients.clone());
            Box::pin(async move {
                let counted = Counted::start(counts.clone());
                let call = clients.count(&headers, false).and_then(|()| Call::new(&headers, origin));
                drop(headers);
                let result = async {
                    let mut call = call?;
                    let encoding = call.encoding;
                    call.raw = read_first(&mut body, encoding, max_bytes, call.deadline).await?;
                    counts.message_received(call.raw.len());
                    let message = decode_request(call.raw.clone())?;
                    let frame = handler(call, message).await?;
                    Ok((frame, encoding))
                };
                let result = result.await;
                counted.end(code_of(&result));
                match result {
                    Ok((frame, encoding)) => {
                        counts.message_sent(frame.message_bytes());
                        let frame = compression::encode(frame, encoding).await;
                        respond(encoding, Body::Reply(frame.into_bytes()))
                    }
                    Err(status) => fail(&status),
                }
            })
        });
    }

    /// Adds a method with one request and many replies. The handler runs as a task of its own, which is dropped when
    /// the client goes away, the deadline passes or the member stops.
    pub fn server_stream<T, H, F>(&mut self, service: &'static str, method: &'static str, handler: H)
    where
        T: Message + Default + 'static,
        H: Fn(Call, T, Outbound) -> F + 'static,
        F: Future<Output = Result<(), Status>> + 'static,
    {
        let max_bytes = self.max_receive_bytes;
        let stopping = self.stopping.clone();
        let (handler, clients) = (Rc::new(handler), self.clients.clone());
        self.add(service, method, GrpcType::ServerStream, move |headers, mut body, origin, counts| {
            let (handler, counts, stopping) = (handler.clone(), counts.clone(), stopping.clone());
            let clients = clients.clone();
            Box::pin(async move {
                let counted = Counted::start(counts.clone());
                let call = clients.count(&headers, true).and_then(|()| Call::new(&headers, origin));
                drop(headers);
                let read = async {
                    let mut call = call?;
                    call.raw = read_only(&mut body, call.encoding, max_bytes, call.deadline).await?;
                    counts.message_received(call.raw.len());
                    let message = decode_streamed(call.raw.clone())?;
                    Ok::<_, Status>((call, message))
                };
                match read.await {
                    Ok((call, message)) => {
                        let end = End { counted, deadline: call.deadline, stopping };
                        let (encoding, run) = (call.encoding, |outbound| handler(call, message, outbound));
                        stream(encoding, counts, end, None, run)
                    }
                    Err(status) => {
                        counted.end(status.code);
                        fail(&status)
                    }
                }
            })
        });
    }

    /// Adds a method whose client and server both stream; otherwise like [`Router::server_stream`].
    pub fn bidi<T, H, F>(&mut self, service: &'static str, method: &'static str, handler: H)
    where
        T: Message + Default + 'static,
        H: Fn(Call, Inbound<T>, Outbound) -> F + 'static,
        F: Future<Output = Result<(), Status>> + 'static,
    {
        let max_bytes = self.max_receive_bytes;
        let stopping = self.stopping.clone();
        let (handler, clients) = (Rc::new(handler), self.clients.clone());
        self.add(service, method, GrpcType::BidiStream, move |headers, body, origin, counts| {
            let counted = Counted::start(counts.clone());
            let call = clients.count(&headers, true).and_then(|()| Call::new(&headers, origin));
            let response = match call {
                Ok(call) => {
                    let encoding = call.encoding;
                    let (inbound, reader) = inbound::channel(body, encoding, max_bytes, counts.clone());
                    let end = End { counted, deadline: call.deadline, stopping: stopping.clone() };
                    let run = |outbound| handler(call, inbound, outbound);
                    stream(encoding, counts.clone(), end, Some(reader), run)
                }
                Err(status) => {
                    counted.end(status.code);
                    fail(&status)
                }
            };
            Box::pin(std::future::ready(response))
        });
    }

    fn add(
        &mut self,
        service: &'static str,
        method: &'static str,
        kind: GrpcType,
        handler: impl Fn(HeaderMap, Source, Rc<Origin>, &Arc<MethodCounts>) -> LocalFuture<Response<Body>> + 'static,
    ) {
        let counts = self.ledger.open(service, method, kind);
        self.services.insert(service);
        let earlier = self.methods.insert(
            format!("/{service}/{method}"),
            Box::new(move |headers, source, origin| handler(headers, source, origin.clone(), &counts)),
        );
        assert!(earlier.is_none(), "/{service}/{method} is registered twice");
    }

    /// True if `path` has a handler.
    pub fn serves(&self, path: &str) -> bool {
        self.methods.contains_key(path)
    }

    /// The longest message that is received.
    pub fn max_receive_bytes(&self) -> usize {
        self.max_receive_bytes
    }

    /// The paths of all methods.
    #[cfg(test)]
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.methods.keys().map(String::as_str)
    }

    /// Answers a request that [`is_grpc`] accepts.
    pub fn call(&self, request: Request<RecvStream>, origin: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        let (head, body) = request.into_parts();
        // A query is part of the name, as in grpc-go.
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        self.dispatch(path, head.headers, Source::Http2(body), origin)
    }

    /// Calls a method by its path.
    pub(super) fn dispatch(
        &self,
        path: &str,
        headers: HeaderMap,
        source: Source,
        origin: &Rc<Origin>,
    ) -> LocalFuture<Response<Body>> {
        match self.methods.get(path) {
            Some(handler) => handler(headers, source, origin),
            None => Box::pin(std::future::ready(fail(&self.unknown(path)))),
        }
    }

    /// The texts of grpc-go for an unknown path.
    fn unknown(&self, path: &str) -> Status {
        match path.strip_prefix('/').unwrap_or(path).rsplit_once('/') {
            None => Status::unimplemented(format!("malformed method name: {path:?}")),
            Some((service, method)) if self.services.contains(service) => {
                Status::unimplemented(format!("unknown method {method} for service {service}"))
            }
            Some((service, _)) => Status::unimplemented(format!("unknown service {service}")),
        }
    }
}

/// The ways in which a stream ends besides its handler, and the counters that record the end.
struct End {
    counted: Counted,
    deadline: Option<tokio::time::Instant>,
    stopping: watch::Receiver<bool>,
}

/// Runs a streaming handler as a task that lives as long as the response does, and reads its requests as they arrive.
fn stream<F>(
    encoding: Encoding,
    counts: Arc<MethodCounts>,
    end: End,
    reader: Option<Reader>,
    handler: impl FnOnce(Outbound) -> F,
) -> Response<Body>
where
    F: Future<Output = Result<(), Status>> + 'static,
{
    let (outbound, mut outgoing) = outbound::channel(encoding, counts);
    let closer = outbound.closer();
    let run = handler(outbound);
    let End { counted, deadline, mut stopping } = end;
    let task = tokio::task::spawn_local(async move {
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let read = async {
            match reader {
                Some(reader) => reader.read().await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            biased;
            never = read => match never {},
            result = run => result,
            () = expired => Err(Status::deadline_exceeded()),
            _ = stopping.wait_for(|stopping| *stopping) => Err(Status::stopped()),
        };
        counted.end(code_of(&result));
        closer.finish(result);
    });
    outgoing.set_handler(task.abort_handle());
    respond(encoding, Body::Stream(outgoing))
}

/// True if the content type says gRPC: `application/grpc`, alone or followed by `+` or `;`.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    match value.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// The answer to a request for a gRPC method with another content type.
pub fn not_grpc(headers: &HeaderMap) -> Response<Body> {
    let given = headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let status = Status::invalid_argument(format!("invalid gRPC request content-type {given:?}"));
    let mut response = fail(&status);
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

fn code_of<T>(result: &Result<T, Status>) -> Code {
    result.as_ref().map_or_else(|status| status.code, |_| Code::Ok)
}

fn respond(encoding: Encoding, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if encoding == Encoding::Gzip {
        response.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
    }
    response
}

/// Headers and trailers in one: the whole answer to a call that failed before it had a reply.
fn fail(status: &Status) -> Response<Body> {
    let mut response = respond(Encoding::Identity, Body::Done);
    status.write(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let grpc = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            is_grpc(&headers)
        };
        assert!(grpc("application/grpc") && grpc("application/grpc+proto") && grpc("application/grpc;x=y"));
        assert!(!grpc("application/grpc-web") && !grpc("application/json") && !is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn unknown_paths_get_the_texts_of_grpc_go() {
        let mut router = Router::new(1, Ledger::default(), watch::channel(false).1);
        router.unary("a.B", "C", |_, (): ()| async { Frame::of(&()) });
        assert_eq!(router.unknown("/a.B/D").message, "unknown method D for service a.B");
        assert_eq!(router.unknown("/x.Y/D").message, "unknown service x.Y");
        assert_eq!(router.unknown("/x").message, "malformed method name: \"/x\"");
    }
}
