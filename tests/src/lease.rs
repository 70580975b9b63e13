//! Leases: granting many at once, and the stream that keeps them alive.

use metastore_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::grpc::Client;
use crate::paths;

/// The number of grants in flight.
const GRANTS_AT_ONCE: usize = 64;
/// The number of leases that are granted between two renewals of all.
const GRANTED_AT_ONCE: usize = 2_000;
/// The number of renewals in flight on one stream.
const RENEWALS_AT_ONCE: usize = 1000;

/// Grants leases with these ids.
///
/// # Panics
/// If one is refused.
pub async fn grant_all(client: &Client, ids: &[i64], ttl_s: i64) {
    for ids in ids.chunks(GRANTS_AT_ONCE) {
        let mut grants = tokio::task::JoinSet::new();
        for &id in ids {
            let client = client.clone();
            grants.spawn(async move {
                let granted = client.unary(paths::LEASE_GRANT, LeaseGrantRequest { ttl: ttl_s, id }).await;
                let granted: LeaseGrantResponse = granted.unwrap_or_else(|status| panic!("lease {id}: {status}"));
                granted
            });
        }
        grants.join_all().await;
    }
}

/// Grants leases with these ids. Keeps the leases granted so far alive on a stream, and returns the stream.
///
/// # Panics
/// If a lease is refused or lost.
pub async fn grant_and_keep(client: &Client, ids: &[i64], ttl_s: i64) -> KeepAliveStream {
    grant_all(client, &ids[..1], ttl_s).await;
    let (mut stream, _) = KeepAliveStream::open(client, ids[0]).await.expect("keepalives begin");
    let mut granted = 1;
    for ids_of_now in ids[1..].chunks(GRANTED_AT_ONCE) {
        grant_all(client, ids_of_now, ttl_s).await;
        granted += ids_of_now.len();
        assert_eq!(stream.renew_all(&ids[..granted]).await.expect("the stream lives"), [0; 0], "lost at the start");
    }
    stream
}

/// One open keepalive stream. Each request gets one answer. Answers are in order, except for a lease that has ended.
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

    /// Renews all these leases, many at a time, and returns those that no longer exist.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn renew_all(&mut self, ids: &[i64]) -> Result<Vec<i64>, Status> {
        let mut lost = Vec::new();
        for ids in ids.chunks(RENEWALS_AT_ONCE) {
            for &id in ids {
                let sent = self.requests.send(LeaseKeepAliveRequest { id });
                sent.map_err(|_| Status::unavailable("the keepalive stream has ended"))?;
            }
            for _ in ids {
                let answer = self.next().await?;
                lost.extend((answer.ttl <= 0).then_some(answer.id));
            }
        }
        Ok(lost)
    }

    async fn next(&mut self) -> Result<LeaseKeepAliveResponse, Status> {
        self.answers.message().await?.ok_or_else(|| Status::unavailable("the server ended the keepalive stream"))
    }
}
