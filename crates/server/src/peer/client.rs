//! Requests to another member: HTTP/1.1 over connections of their own.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use crate::config::Url;
use crate::io::socket::Socket;
use crate::io::timed::Timed;
use crate::tls::Connector;

/// The longest body that is read from a reply. The largest valid one holds the keys of a lease.
pub const MAX_REPLY_BYTES: usize = 64 << 20;

/// A TCP connection without traffic is probed this often, as etcd does.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// The answer of a peer, with any status.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The name does not resolve, or no process listens there.
    #[error("cannot connect to {url}: {error}")]
    Connect { url: String, error: io::Error },
    /// The connection broke, or the answer is not HTTP.
    #[error("request to {url} failed: {}", chain(.error))]
    Http { url: String, error: hyper::Error },
    #[error("request to {url} was not answered within {after:?}")]
    Timeout { url: String, after: Duration },
    #[error("the answer of {url} is larger than {limit} bytes")]
    TooLong { url: String, limit: usize },
}

/// One request on a connection of its own. `path` begins with a slash and may have a query. The time limit covers
/// everything: name, connection, request, answer. Dropping the future ends the connection. Needs a tokio runtime and
/// nothing else.
///
/// # Errors
/// [`ClientError`]. An answer of any status is no error.
pub async fn request(
    tls: &Connector,
    url: &Url,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
    timeout: Duration,
) -> Result<Reply, ClientError> {
    request_up_to(tls, url, method, path, (headers, body), timeout, MAX_REPLY_BYTES).await
}

/// Like [`request`], for an answer of at most `limit` bytes.
///
/// # Errors
/// [`ClientError`]. An answer of any status is no error.
pub async fn request_up_to(
    tls: &Connector,
    url: &Url,
    method: Method,
    path: &str,
    (headers, body): (HeaderMap, Bytes),
    timeout: Duration,
    limit: usize,
) -> Result<Reply, ClientError> {
    let exchange = async {
        let socket = connect(tls, url).await?;
        let broken = |error| ClientError::Http { url: url.text.clone(), error };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(Timed::new(socket, timeout))).await.map_err(broken)?;
        let answer = async {
            let response = sender.send_request(new_request(url, method, path, headers, Full::new(body))).await;
            read_up_to(url, response.map_err(broken)?, limit).await
        };
        // This future drives the connection, too, so that no task outlives the request.
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            biased;
            answer = answer.as_mut() => answer,
            ended = connection.as_mut() => match ended {
                // The peer closed the connection after its answer, which may still be in the channel.
                Ok(()) => answer.await,
                Err(error) => Err(broken(error)),
            },
        }
    };
    let late = |_elapsed| ClientError::Timeout { url: url.text.clone(), after: timeout };
    tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

/// A request in origin form, with the host that HTTP/1.1 demands.
pub(super) fn new_request<B>(url: &Url, method: Method, path: &str, headers: HeaderMap, body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap_or_else(|error| panic!("no path to ask a peer for: {path:?}: {error}"));
    *request.headers_mut() = headers;
    let host = url.text.split_once("://").map_or("", |(_, rest)| rest);
    let host = host.split_once(['?', '#']).map_or(host, |(host, _)| host);
    let host = HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("localhost"));
    request.headers_mut().insert(HOST, host);
    request
}

/// Connects; if a name has several addresses, each is tried.
pub(super) async fn connect(tls: &Connector, url: &Url) -> Result<Socket, ClientError> {
    let failed = |error| ClientError::Connect { url: url.text.clone(), error };
    let socket = match url.port {
        Some(port) => {
            let stream = TcpStream::connect((url.host.as_str(), port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(failed)?;
            Socket::Tcp(stream)
        }
        None => Socket::Unix(UnixStream::connect(&url.host).await.map_err(failed)?),
    };
    if !url.scheme.is_tls() {
        return Ok(socket);
    }
    Ok(Socket::Tls(Box::new(tls.connect(socket, url.server_name()).await.map_err(failed)?)))
}

/// A connection that a task of this thread drives, until the sender and the answers are dropped. It ends if nothing can
/// be written for `stall`.
pub(super) async fn open<B>(
    tls: &Connector,
    url: &Url,
    timeout: Duration,
    stall: Duration,
) -> Result<SendRequest<B>, ClientError>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    let late = || ClientError::Timeout { url: url.text.clone(), after: timeout };
    let socket = tokio::time::timeout(timeout, connect(tls, url)).await.map_err(|_elapsed| late())??;
    let (sender, connection) = http1::handshake(TokioIo::new(Timed::new(socket, stall)))
        .await
        .map_err(|error| ClientError::Http { url: url.text.clone(), error })?;
    tokio::task::spawn_local(async move {
        // A request that waits for an answer gets the error; nothing else needs it.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Reads a whole answer, up to [`MAX_REPLY_BYTES`].
pub(super) async fn read_reply(url: &Url, response: Response<Incoming>) -> Result<Reply, ClientError> {
    read_up_to(url, response, MAX_REPLY_BYTES).await
}

async fn read_up_to(url: &Url, response: Response<Incoming>, limit: usize) -> Result<Reply, ClientError> {
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ClientError::Http { url: url.text.clone(), error })?;
        let Ok(piece) = frame.into_data() else { continue };
        if bytes.len() + piece.len() > limit {
            return Err(ClientError::TooLong { url: url.text.clone(), limit });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Reply { status: head.status, headers: head.headers, body: bytes.freeze() })
}

/// The error with its causes, which hyper does not print by itself.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::url::parse;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Answers one connection with `reply` after the head of a request, and returns that request.
    async fn peer(reply: &'static [u8]) -> (Url, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"ping") {
                seen.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(reply).await.unwrap();
            String::from_utf8(seen).unwrap()
        });
        (url, asked)
    }

    async fn ask(url: &Url, timeout: Duration) -> Result<Reply, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert("x-server-from", HeaderValue::from_static("1f"));
        request(&Connector::default(), url, Method::POST, "/leases?x=1", headers, Bytes::from_static(b"ping"), timeout)
            .await
    }

    #[tokio::test]
    async fn an_answer_of_any_status_comes_back_whole() {
        let (url, asked) = peer(b"HTTP/1.1 412 No\r\nX-Etcd-Cluster-ID: a\r\nContent-Length: 4\r\n\r\npong").await;
        let reply = ask(&url, PATIENCE).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (412, &b"pong"[..]));
        assert_eq!(reply.headers["x-etcd-cluster-id"], "a");
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("POST /leases?x=1 HTTP/1.1\r\n"), "{asked}");
        let host = url.text.strip_prefix("http://").unwrap();
        for header in ["x-server-from: 1f".to_owned(), format!("host: {host}"), "content-length: 4".into()] {
            assert!(asked.lines().any(|line| line == header), "{header} not in {asked}");
        }
    }

    #[test]
    fn the_host_is_what_a_url_names_between_its_scheme_and_its_query() {
        for text in ["http://a.example:1", "HTTP://a.example:1?x", "http://a.example:1#x", "http://a.example:1?x#y"] {
            let request = new_request(&parse(text).unwrap(), Method::GET, "/version", HeaderMap::new(), ());
            assert_eq!(request.headers()[HOST], "a.example:1", "{text}");
        }
    }

    #[tokio::test]
    async fn a_body_that_ends_with_the_connection_is_whole_too() {
        let (url, _) = peer(b"HTTP/1.0 200 OK\r\n\r\nall of it").await;
        assert_eq!(&ask(&url, PATIENCE).await.unwrap().body[..], b"all of it");
    }

    #[tokio::test]
    async fn an_answer_beyond_its_limit_is_not_read() {
        let asked = async |limit| {
            let (url, _) = peer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong").await;
            let what = (HeaderMap::new(), Bytes::from_static(b"ping"));
            request_up_to(&Connector::default(), &url, Method::POST, "/", what, PATIENCE, limit).await
        };
        assert_eq!(&asked(4).await.unwrap().body[..], b"pong");
        assert!(matches!(asked(3).await, Err(ClientError::TooLong { limit: 3, .. })));
    }

    #[tokio::test]
    async fn what_goes_wrong_is_named_with_the_url() {
        let (url, _) = peer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
        let error = ask(&url, PATIENCE).await.unwrap_err();
        assert!(matches!(error, ClientError::Http { .. }) && error.to_string().contains(&url.text), "{error}");
        let gone = ask(&url, PATIENCE).await.unwrap_err().to_string();
        assert!(gone.starts_with(&format!("cannot connect to {}: ", url.text)), "{gone}");
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = parse(&format!("http://{}", silent.local_addr().unwrap())).map(|url| (silent, url)).unwrap();
        let error = ask(&silent.1, Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
        let unknown = parse("http://no-such-name.invalid:1").unwrap();
        assert!(matches!(ask(&unknown, PATIENCE).await, Err(ClientError::Connect { .. })));
    }
}
