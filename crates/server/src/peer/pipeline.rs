//! The pipeline: while there is no stream, each message is posted by itself.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use metastore_proto::Message as _;
use metastore_proto::raftpb::Message;

use super::client::{self, ClientError, Reply};
use super::link::Link;
use super::transport::TransportState;
use crate::config::Url;

/// Why a message or a state was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error("the peer has no URL that can be used")]
    NoUrl,
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("unexpected http status {status}: {text}")]
    Status { status: StatusCode, text: String },
    #[error("{0}")]
    State(String),
}

/// A connection that is kept for the next request, and the URL that it leads to.
pub(super) struct Kept {
    sender: SendRequest<Full<Bytes>>,
    url: Url,
}

/// Posts the queued messages, one after the other, until the queue is finished. When one fails, the messages after it
/// are dropped with it: they would arrive too late.
pub(super) async fn keep_posting(shared: Arc<TransportState>, link: Arc<Link>) {
    let (mut batch, mut kept) = (Vec::new(), None);
    while poll_fn(|cx| link.pipeline.poll_take(link.posting, &mut batch, 1, cx)).await {
        for message in batch.drain(..) {
            match post(&shared, &link, &mut kept, &message).await {
                Ok(bytes) => {
                    link.activate();
                    link.meters.sent_bytes.inc_by(bytes as u64);
                }
                Err(error) => {
                    if matches!(error, PostError::Removed) {
                        shared.sink.removed();
                    }
                    link.deactivate("write", "pipeline", &error);
                    link.lost(1 + link.pipeline.empty());
                }
            }
        }
    }
}

async fn post(
    shared: &TransportState,
    link: &Link,
    kept: &mut Option<Kept>,
    message: &Message,
) -> Result<usize, PostError> {
    let url = link.urls.pick().ok_or(PostError::NoUrl)?;
    let mut headers = shared.settings.identity.headers(link.id);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
    let body = Bytes::from(message.encode_to_vec());
    let bytes = body.len();
    let posted = match ask(shared, kept, &url, Method::POST, "/raft", headers, body).await {
        Ok(reply) => judge(reply),
        Err(error) => Err(error.into()),
    };
    if posted.is_err() {
        link.urls.failed(&url);
    }
    posted.map(|()| bytes)
}

/// Evaluates the answer to a post.
pub(super) fn judge(reply: Reply) -> Result<(), PostError> {
    if reply.status == StatusCode::NO_CONTENT {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&reply.body).trim_end().to_owned();
    // etcd answers 403 to a removed member, and also to a message that was meant for another member.
    let removed = reply.status == StatusCode::GONE || reply.status == StatusCode::FORBIDDEN;
    match removed && text.contains("removed") {
        true => Err(PostError::Removed),
        false => Err(PostError::Status { status: reply.status, text }),
    }
}

/// One request on a kept connection, or on a new one, which is kept.
pub(super) async fn ask(
    shared: &TransportState,
    kept: &mut Option<Kept>,
    url: &Url,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Reply, ClientError> {
    let mut request = client::new_request(url, method, path, headers, Full::new(body));
    let settings = &shared.settings;
    let broken = |error| ClientError::Http { url: url.text.clone(), error };
    let exchange = async {
        let used = kept.take().filter(|kept| kept.url == *url);
        if let Some(Kept { mut sender, .. }) = used
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((sender, client::read_reply(url, response).await?)),
                // The peer had closed the connection, and has not seen the request. Otherwise it may have seen it, and
                // a proposal must not be posted twice.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(broken(error.into_error())),
                },
            }
        }
        let mut sender = client::open(&settings.tls, url, settings.dial_timeout, settings.read_timeout).await?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((sender, client::read_reply(url, response).await?))
    };
    let limit = settings.dial_timeout + settings.read_timeout;
    let late = |_elapsed| ClientError::Timeout { url: url.text.clone(), after: limit };
    let (sender, reply) = tokio::time::timeout(limit, exchange).await.map_err(late)??;
    *kept = Some(Kept { sender, url: url.clone() });
    Ok(reply)
}
