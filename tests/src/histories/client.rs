//! A client that sends requests, and records the answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use metastore_proto::etcdserverpb::LeaseRevokeRequest;
use metastore_sim::clients::{User, Wish, Workload};
use metastore_sim::history::{Moment, Operation, Request, Response};
use metastore_sim::random::Random;
use tokio::time::timeout;
use tonic::Status;

use super::answer::{Outcome, judge};
use super::{CLIENTS, RecordingState};
use crate::grpc::Client;
use crate::lease::KeepAliveStream;
use crate::paths;

/// The client number under which lease expirations by the cluster are recorded.
const CLUSTER: usize = CLIENTS + 1;
/// How long a client waits for an answer. A client that gives up early sends its next request before the
/// first one has arrived.
const PATIENCE: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(8)];
/// How often a client gives the member that failed it last another chance: in so many of a thousand requests. Without
/// this limit all clients would soon wait for the one member that is stopped, and send no requests until it runs again.
const TRUST_PERMILLE: u64 = 20;
/// The longest pause between an answer and the next request, in milliseconds.
const PAUSE_MS: u64 = 10;
/// The first random stream for clients, which draw members and pauses from it.
const STREAM: u64 = 1000;

struct Recording {
    number: usize,
    random: Random,
    user: User,
    members: Vec<Client>,
    /// The member that did not answer this client's last failed request.
    failed: Option<usize>,
    shared: Arc<RecordingState>,
    operations: Vec<Operation>,
}

/// Sends one request after the other until the recording is over.
pub async fn run(seed: u64, number: usize, workload: Workload, shared: Arc<RecordingState>) -> Vec<Operation> {
    let mut client = Recording {
        number,
        random: Random::new(seed, STREAM + number as u64),
        user: User::new(seed, workload, number as u64),
        members: shared.addresses.iter().map(|address| Client::new(address)).collect(),
        failed: None,
        shared,
        operations: Vec::new(),
    };
    while !client.shared.is_over.load(Ordering::SeqCst) {
        let wish = client.user.wish(client.shared.next_id(), client.shared.heard.load(Ordering::SeqCst));
        match wish {
            Wish::Do(request) => client.ask(request).await,
            Wish::KeepAlive(lease) => client.renew(lease).await,
        }
        let pause = client.random.below(PAUSE_MS + 1);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    client.operations
}

impl Recording {
    fn choose(&mut self) -> (usize, Duration) {
        let distrusted = self.failed.filter(|_| !self.random.permille(TRUST_PERMILLE));
        let trusted: Vec<usize> = (0..self.members.len()).filter(|member| Some(*member) != distrusted).collect();
        let member = self.random.pick(&trusted).expect("a cluster has several members");
        (*member, *self.random.pick(&PATIENCE).expect("it is not empty"))
    }

    /// Records whether a member has answered. A refusal is an answer, too.
    fn is_answered(&mut self, member: usize, is_answered: bool) {
        match is_answered {
            true => self.failed = self.failed.filter(|failed| *failed != member),
            false => self.failed = Some(member),
        }
    }

    async fn ask(&mut self, request: Request) {
        let (member, patience) = self.choose();
        if let Request::Compact(compaction) = &request {
            self.shared.compacted.fetch_max(compaction.revision, Ordering::SeqCst);
        }
        let called = self.shared.now();
        let answer = timeout(patience, send(&self.members[member], request.clone())).await.ok();
        let returned = self.shared.now();
        let outcome = judge(&request, answer);
        self.is_answered(member, matches!(outcome, Outcome::Answered(_)));
        self.record(request, called, returned, outcome);
    }

    fn record(&mut self, request: Request, called: Moment, returned: Moment, outcome: Outcome) {
        let returned = match outcome {
            Outcome::Answered(response) => {
                self.user.told(&request, &response);
                self.shared.answered.fetch_add(1, Ordering::SeqCst);
                Some((returned, response))
            }
            Outcome::Unknown => None,
            Outcome::Nothing => return,
            Outcome::Strange(why) => {
                self.shared.blame(why);
                None
            }
        };
        if let Request::LeaseGrant(grant) = &request {
            let expiry = Request::LeaseRevoke(LeaseRevokeRequest { id: grant.id });
            self.operations.push(Operation { client: CLUSTER, request: expiry, called, returned: None });
        }
        self.operations.push(Operation { client: self.number, request, called, returned });
    }

    /// Renews a lease. This is not part of the history: it changes nothing that a client reads.
    async fn renew(&mut self, lease: i64) {
        let (member, patience) = self.choose();
        let answer = timeout(patience, KeepAliveStream::open(&self.members[member], lease)).await;
        self.is_answered(member, matches!(answer, Ok(Ok(_))));
        if let Ok(Ok((_, answer))) = answer {
            self.user.renewed(lease, answer.ttl > 0);
        }
    }
}

async fn send(member: &Client, request: Request) -> Result<Response, Status> {
    Ok(match request {
        Request::Put(put) => Response::Put(member.unary(paths::PUT, put).await?),
        Request::DeleteRange(delete) => Response::DeleteRange(member.unary(paths::DELETE_RANGE, delete).await?),
        Request::Txn(txn) => Response::Txn(member.unary(paths::TXN, txn).await?),
        Request::Range(range) => Response::Range(member.unary(paths::RANGE, range).await?),
        Request::Compact(compaction) => Response::Compact(member.unary(paths::COMPACT, compaction).await?),
        Request::LeaseGrant(grant) => Response::LeaseGrant(member.unary(paths::LEASE_GRANT, grant).await?),
        Request::LeaseRevoke(revoke) => Response::LeaseRevoke(member.unary(paths::LEASE_REVOKE, revoke).await?),
    })
}
