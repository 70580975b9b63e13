//! A lease keepalive stream.

use metastore_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::grpc::Client;
use crate::paths;

/// One open keepalive stream: each request gets one answer, in order.
pub struct KeepAliveStream {
    requests: UnboundedSender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAliveStream {
    /// Opens the stream with a first request, because etcd sends no headers before its first answer.
    pub async fn open(client: &Client, first: i64) -> Result<(KeepAliveStream, LeaseKeepAliveResponse), Status> {
        let (requests, outgoing) = unbounded_channel();
        requests.send(LeaseKeepAliveRequest { id: first }).expect("the receiver is alive");
        let answers = client.bidirectional(paths::LEASE_KEEP_ALIVE, UnboundedReceiverStream::new(outgoing)).await?;
        let mut stream = KeepAliveStream { requests, answers };
        let answer = stream.next().await?;
        Ok((stream, answer))
    }

    /// Renews lease `id` and waits for the answer; TTL 0 in it means that there is no such lease.
    pub async fn renew(&mut self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        self.requests
            .send(LeaseKeepAliveRequest { id })
            .map_err(|_| Status::unavailable("the keepalive stream has ended"))?;
        self.next().await
    }

    async fn next(&mut self) -> Result<LeaseKeepAliveResponse, Status> {
        self.answers.message().await?.ok_or_else(|| Status::unavailable("the server ended the keepalive stream"))
    }
}
