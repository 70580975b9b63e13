//! A watch stream: many watchers, requests in, answers out in order of arrival.

use std::time::Duration;

use bytes::Bytes;
use metastore_proto::etcdserverpb::watch_request::RequestUnion;
use metastore_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::grpc::Client;
use crate::paths;

/// A watch of all keys, from a revision on.
pub fn everything_from(start_revision: i64) -> WatchCreateRequest {
    let all = Bytes::from_static(b"\0");
    WatchCreateRequest { key: all.clone(), range_end: all, start_revision, ..WatchCreateRequest::default() }
}

/// One open watch stream. Dropping it ends the stream and all its watchers.
///
/// Answers are taken off the connection as they arrive. Left there, they would use up the connection's flow control
/// window, and the answers to other calls on the same connection would never come.
pub struct WatchStream {
    requests: UnboundedSender<WatchRequest>,
    answers: UnboundedReceiver<Result<WatchResponse, Status>>,
    reader: JoinHandle<()>,
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl WatchStream {
    /// Opens the stream with a first watcher, because a server may send no headers before its first answer.
    pub async fn open(client: &Client, first: WatchCreateRequest) -> Result<WatchStream, Status> {
        let (requests, outgoing) = unbounded_channel();
        requests.send(wrap(RequestUnion::CreateRequest(first))).expect("the receiver is alive");
        let incoming = client.bidirectional(paths::WATCH, UnboundedReceiverStream::new(outgoing)).await?;
        let (arrived, answers) = unbounded_channel();
        let reader = tokio::spawn(read(incoming, arrived));
        Ok(WatchStream { requests, answers, reader })
    }

    pub fn create(&self, request: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(request));
    }

    pub fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    pub fn request_progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    fn send(&self, request: RequestUnion) {
        // If the stream has ended, the next `next` returns its status.
        let _ = self.requests.send(wrap(request));
    }

    /// The next answer; `Ok(None)` if none arrives within `patience`.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<WatchResponse>, Status> {
        match timeout_at(Instant::now() + patience, self.answers.recv()).await {
            Err(_) => Ok(None),
            Ok(Some(answer)) => answer.map(Some),
            Ok(None) => Err(Status::unavailable("the server ended the watch stream")),
        }
    }
}

/// Passes answers on until the stream or its receiver ends.
async fn read(mut incoming: Streaming<WatchResponse>, arrived: UnboundedSender<Result<WatchResponse, Status>>) {
    while let Some(answer) = incoming.message().await.transpose() {
        if arrived.send(answer).is_err() {
            return;
        }
    }
}

fn wrap(request: RequestUnion) -> WatchRequest {
    WatchRequest { request_union: Some(request) }
}
