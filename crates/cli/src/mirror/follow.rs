//! Applies every change of the source, in the order of the revisions.

use metastore_proto::etcdserverpb::watch_request::RequestUnion;
use metastore_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use metastore_proto::mvccpb::event::EventType;
use tokio::sync::watch::Receiver;
use tokio_stream::StreamExt;
use tonic::Status;

use super::position::Position;
use super::{Batch, Both, Trouble};

/// Runs until it is told to end, between two answers.
pub(super) async fn run(both: &mut Both, position: &mut Position, end: &mut Receiver<bool>) -> Result<(), Trouble> {
    let Both { source, destination, range } = both;
    let from = position.revision().unwrap_or_default() + 1;
    let create = WatchCreateRequest {
        key: range.start.clone().into(),
        range_end: range.end.clone().into(),
        start_revision: from,
        progress_notify: true,
        ..WatchCreateRequest::default()
    };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The end of the requests would be the end of the watch.
    let requests = tokio_stream::once(create).chain(tokio_stream::pending());
    let mut answers = source.exchange("/etcdserverpb.Watch/Watch", requests).await?;
    loop {
        let answer = tokio::select! {
            answer = answers.message() => answer?,
            _ = end.wait_for(|end| *end) => return Ok(()),
        };
        let Some(answer): Option<WatchResponse> = answer else {
            return Err(Status::unavailable("the source has ended the watch").into());
        };
        if answer.compact_revision != 0 {
            return Err(Trouble::Compacted);
        }
        if answer.canceled {
            return Err(Status::unavailable(format!("the watch was cancelled: {}", answer.cancel_reason)).into());
        }
        let mut batch = Batch::default();
        for event in &answer.events {
            let Some(kv) = &event.kv else { continue };
            if event.r#type == EventType::Delete as i32 {
                batch.delete(destination, &kv.key).await?;
            } else {
                batch.put(destination, &kv.key, &kv.value).await?;
            }
        }
        batch.flush(destination).await?;
        let last = answer.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
        // An answer without events tells how far the source is.
        let reached = last.or_else(|| answer.header.filter(|_| !answer.created).map(|header| header.revision));
        if let Some(revision) = reached {
            position.reach(revision)?;
        }
    }
}
