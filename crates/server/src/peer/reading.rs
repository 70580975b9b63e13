//! The dialing side of a stream: asks the peer for it, reads it, and asks again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::check::{Way, check};
use super::client::{self, ClientError, Reply};
use super::codec::source::{Broken, Source};
use super::codec::{Frame, message, msgapp};
use super::headers::{self, CLUSTER_ID, CLUSTER_ID_MISMATCH, INCOMPATIBLE_VERSION};
use super::link::{Link, StreamKind};
use super::transport::TransportState;
use crate::config::Url;

/// The time between the beginnings of two attempts, as in etcd.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("the peer has no URL that can be used")]
    NoUrl,
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("peer {peer:x} failed to find local node {local:x}")]
    Unknown { peer: u64, local: u64 },
    #[error("cluster ID mismatch: the peer's is {0:?}")]
    ClusterId(String),
    #[error("incompatible version")]
    Version,
    #[error("the peer is older than etcd 3 and knows no such stream")]
    Unsupported,
    #[error("unhandled http status {status}: {text:?}")]
    Status { status: StatusCode, text: String },
}

/// Keeps a stream of the peer open, for ever. If a name does not resolve yet or a peer does not answer yet, it tries
/// again. Only changes are logged.
pub(super) async fn keep_reading(shared: Arc<TransportState>, link: Arc<Link>, kind: StreamKind) {
    let mut last_error = String::new();
    loop {
        let started = Instant::now();
        match dial(&shared, &link, kind).await {
            Ok(body) => {
                last_error.clear();
                link.activate();
                log_stream!(
                    info,
                    "stream-reader-type",
                    link,
                    kind,
                    "established TCP streaming connection with remote peer"
                );
                let broken = read(&shared, &link, kind, body).await;
                seldom!(
                    CHANGES: warn, (link.local, link.id, kind.name()),
                    "stream-reader-type" = kind.name(), "local-member-id" = %format_args!("{:x}", link.local),
                    "remote-peer-id" = %format_args!("{:x}", link.id), error = %broken,
                    "lost TCP streaming connection with remote peer"
                );
                // A stream that was ended in order may be about to be replaced; the next attempt will show that.
                if broken != Broken::Ended {
                    link.deactivate("read", kind.name(), &broken);
                }
            }
            Err(error) => {
                let text = error.to_string();
                if text != last_error {
                    complain(&shared, &link, &error);
                    last_error = text;
                }
                if matches!(error, DialError::Removed) {
                    shared.sink.removed();
                }
                link.deactivate("dial", kind.name(), &error);
            }
        }
        tokio::time::sleep_until(started + RETRY_INTERVAL).await;
    }
}

fn complain(shared: &TransportState, link: &Link, error: &DialError) {
    let identity = &shared.settings.identity;
    let (local, remote) = (format_args!("{:x}", identity.id), format_args!("{:x}", link.id));
    match error {
        DialError::ClusterId(theirs) => seldom!(
            warn, (identity.id, link.id),
            "remote-peer-id" = %remote, "remote-peer-cluster-id" = theirs, "local-member-id" = %local,
            "local-member-cluster-id" = %format_args!("{:x}", identity.cluster_id), error = CLUSTER_ID_MISMATCH,
            "request sent was ignored by remote peer due to cluster ID mismatch: at its URL runs a member of another \
             cluster. Compare --initial-cluster and --initial-cluster-token of both members"
        ),
        DialError::Version => seldom!(
            warn, (identity.id, link.id),
            "local-member-id" = %local, "remote-peer-id" = %remote, error = INCOMPATIBLE_VERSION,
            "request sent was ignored by remote peer due to server version incompatibility"
        ),
        error => tracing::debug!(
            "local-member-id" = %local, "remote-peer-id" = %remote, error = %error, "cannot open a stream; trying on"
        ),
    }
}

async fn dial(shared: &TransportState, link: &Link, kind: StreamKind) -> Result<Incoming, DialError> {
    let url = link.urls.pick().ok_or(DialError::NoUrl)?;
    let dialed = dial_url(shared, link, kind, &url).await;
    if dialed.is_err() {
        link.urls.failed(&url);
    }
    dialed
}

async fn dial_url(shared: &TransportState, link: &Link, kind: StreamKind, url: &Url) -> Result<Incoming, DialError> {
    let settings = &shared.settings;
    let path = format!("{}{:x}", kind.path(), settings.identity.id);
    let mut sender =
        client::open::<Empty<Bytes>>(&settings.tls, url, settings.dial_timeout, settings.read_timeout).await?;
    let request = client::new_request(url, Method::GET, &path, settings.identity.headers(link.id), Empty::new());
    let late = |_elapsed| ClientError::Timeout { url: url.text.clone(), after: settings.read_timeout };
    let broken = |error| ClientError::Http { url: url.text.clone(), error };
    let answer = tokio::time::timeout(settings.read_timeout, sender.send_request(request));
    let response = answer.await.map_err(late)?.map_err(broken)?;
    if response.status() == StatusCode::OK {
        return if headers::knows_streams(response.headers()) {
            Ok(response.into_body())
        } else {
            Err(DialError::Unsupported)
        };
    }
    let reply = tokio::time::timeout(settings.read_timeout, client::read_reply(url, response));
    Err(why(reply.await.map_err(late)??, link))
}

/// The meaning of an answer other than 200.
fn why(reply: Reply, link: &Link) -> DialError {
    let text = String::from_utf8_lossy(&reply.body).trim_end().to_owned();
    match reply.status {
        StatusCode::GONE => DialError::Removed,
        StatusCode::NOT_FOUND => DialError::Unknown { peer: link.id, local: link.local },
        StatusCode::PRECONDITION_FAILED if text == CLUSTER_ID_MISMATCH => {
            DialError::ClusterId(headers::said(&reply.headers, &CLUSTER_ID).unwrap_or_default().to_owned())
        }
        StatusCode::PRECONDITION_FAILED if text == INCOMPATIBLE_VERSION => DialError::Version,
        status => DialError::Status { status, text },
    }
}

/// Reads until the stream breaks.
async fn read(shared: &TransportState, link: &Link, kind: StreamKind, body: Incoming) -> Broken {
    let own = shared.settings.identity.id;
    let mut source = Source::new(body, shared.settings.read_timeout);
    let mut decoder = msgapp::Decoder::new(link.id, own);
    let way = match kind {
        StreamKind::Appends => Way::Appends,
        StreamKind::Messages => Way::Messages,
    };
    loop {
        let frame = match kind {
            StreamKind::Appends => decoder.decode(&mut source).await,
            StreamKind::Messages => message::decode(&mut source).await,
        };
        match frame {
            Ok(Frame::Heartbeat) => {}
            Ok(Frame::Message(message, bytes)) => {
                link.meters.received_bytes.inc_by(bytes as u64);
                if let Err(unfit) = check(&message, way, link.id, own) {
                    link.unfit(&unfit);
                    continue;
                }
                if !shared.sink.message(*message, bytes) {
                    link.refused();
                }
            }
            Err(broken) => return broken,
        }
    }
}
