//! One call, and one side that answers it.
//!
//! A call is written once and sent to both servers. The two requests differ only in lease ids that a server chose
//! itself. Calls name such a lease by a number of this test, and each side maps the number to its own id.

use std::collections::BTreeMap;
use std::time::Instant;

use metastore_proto::etcdserverpb::*;
use metastore_tests::grpc::Client;
use metastore_tests::lease::KeepAliveStream;
use metastore_tests::paths;
use tonic::{Code, Status};

/// Lease ids from here on are numbers of this test for leases whose ids the servers chose: `FIRST_CHOSEN + n` is the
/// n-th. Such a lease is never attached to a key, because its true id would become part of the hash of the store.
pub const FIRST_CHOSEN: i64 = 1 << 40;

#[derive(Clone, Debug)]
pub enum Call {
    Range(RangeRequest),
    RangeStream(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    HashKv(HashKvRequest),
    Grant(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    KeepAlive(LeaseKeepAliveRequest),
    TimeToLive(LeaseTimeToLiveRequest),
    Leases(LeaseLeasesRequest),
    Status(StatusRequest),
    /// A request to a path that no server has.
    Unknown(&'static str),
    Watch(WatchCall),
}

/// The calls on watch streams; `stream` is the index of one of a few slots.
#[derive(Clone, Debug)]
pub enum WatchCall {
    Create {
        stream: usize,
        request: WatchCreateRequest,
    },
    /// Cancels the n-th live watcher of the stream, modulo their number; an id that does not exist if there is none.
    Cancel {
        stream: usize,
        nth: usize,
    },
    Progress {
        stream: usize,
    },
    Close {
        stream: usize,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(RangeResponse),
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    HashKv(HashKvResponse),
    Grant(LeaseGrantResponse),
    Revoke(LeaseRevokeResponse),
    KeepAlive(LeaseKeepAliveResponse),
    TimeToLive(LeaseTimeToLiveResponse),
    Leases(LeaseLeasesResponse),
    Status(StatusResponse),
    Watch(WatchResponse),
    Error(Code, String),
}

/// One of the two servers, as seen by one client.
pub struct Side {
    pub client: Client,
    pub cluster_id: u64,
    pub member_id: u64,
    pub raft_term: u64,
    /// When the run began: before the first lease was granted.
    pub since: Instant,
    /// The lease ids that this server chose, by the numbers that calls use.
    chosen: BTreeMap<i64, i64>,
    keep_alive: Option<KeepAliveStream>,
}

impl Side {
    /// Connects, and learns the ids that this server puts into its headers.
    pub async fn connect(address: &str) -> Result<Side, Status> {
        let (client, since) = (Client::new(address), Instant::now());
        let status: StatusResponse = client.unary(paths::STATUS, StatusRequest {}).await?;
        let header = status.header.ok_or_else(|| Status::internal("the answer to Status has no header"))?;
        let ResponseHeader { cluster_id, member_id, raft_term, .. } = header;
        Ok(Side { client, cluster_id, member_id, raft_term, since, chosen: BTreeMap::new(), keep_alive: None })
    }

    /// The next calls are made by this client.
    pub fn speak_as(&mut self, client: Client) {
        (self.client, self.keep_alive) = (client, None);
    }

    /// The answer of the server before normalisation, or the error.
    pub async fn execute(&mut self, call: &Call) -> Answer {
        let client = self.client.clone();
        let outcome = match call.clone() {
            Call::Range(request) => client.unary(paths::RANGE, request).await.map(Answer::Range),
            Call::RangeStream(request) => client.server_stream(paths::RANGE_STREAM, request).await.map(merge),
            Call::Put(request) => client.unary(paths::PUT, request).await.map(Answer::Put),
            Call::Delete(request) => client.unary(paths::DELETE_RANGE, request).await.map(Answer::Delete),
            Call::Txn(request) => client.unary(paths::TXN, request).await.map(Answer::Txn),
            Call::Compact(request) => client.unary(paths::COMPACT, request).await.map(Answer::Compact),
            Call::HashKv(request) => client.unary(paths::HASH_KV, request).await.map(Answer::HashKv),
            Call::Status(request) => client.unary(paths::STATUS, request).await.map(Answer::Status),
            Call::Unknown(path) => client.unary(path, StatusRequest {}).await.map(Answer::Status),
            Call::Watch(_) => unreachable!("watch calls go to the watch streams"),
            lease => self.lease(lease).await,
        };
        outcome.unwrap_or_else(|status| Answer::Error(status.code(), status.message().to_string()))
    }

    async fn lease(&mut self, call: Call) -> Result<Answer, Status> {
        let client = self.client.clone();
        match call {
            Call::Grant(request) => client.unary(paths::LEASE_GRANT, request).await.map(Answer::Grant),
            Call::Revoke(LeaseRevokeRequest { id }) => {
                let request = LeaseRevokeRequest { id: self.true_id(id) };
                client.unary(paths::LEASE_REVOKE, request).await.map(Answer::Revoke)
            }
            Call::TimeToLive(LeaseTimeToLiveRequest { id, keys }) => {
                let request = LeaseTimeToLiveRequest { id: self.true_id(id), keys };
                client.unary(paths::LEASE_TIME_TO_LIVE, request).await.map(Answer::TimeToLive)
            }
            Call::Leases(request) => client.unary(paths::LEASE_LEASES, request).await.map(Answer::Leases),
            Call::KeepAlive(LeaseKeepAliveRequest { id }) => self.renew(self.true_id(id)).await.map(Answer::KeepAlive),
            other => unreachable!("not a lease call: {other:?}"),
        }
    }

    /// All renewals go over one stream. It is opened when it is first needed, and again after an error.
    async fn renew(&mut self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        if let Some(mut stream) = self.keep_alive.take() {
            let answer = stream.renew(id).await?;
            self.keep_alive = Some(stream);
            return Ok(answer);
        }
        let (stream, answer) = KeepAliveStream::open(&self.client, id).await?;
        self.keep_alive = Some(stream);
        Ok(answer)
    }

    /// Records that the lease with this number in calls has the id `id` on this server.
    pub fn learn_lease(&mut self, number: i64, id: i64) {
        self.chosen.insert(number, id);
    }

    fn true_id(&self, number: i64) -> i64 {
        self.chosen.get(&number).copied().unwrap_or(number)
    }

    /// The number that calls use for this server's lease `id`.
    pub fn number_of(&self, id: i64) -> i64 {
        self.chosen.iter().find(|(_, chosen)| **chosen == id).map_or(id, |(number, _)| *number)
    }
}

/// A streamed range as one answer: the keys in order, and header, count and more from its messages.
fn merge(messages: Vec<RangeStreamResponse>) -> Answer {
    let mut whole = RangeResponse::default();
    for part in messages.into_iter().filter_map(|message| message.range_response) {
        whole.kvs.extend(part.kvs);
        whole.header = part.header.or(whole.header);
        whole.more |= part.more;
        whole.count += part.count;
    }
    Answer::Range(whole)
}
