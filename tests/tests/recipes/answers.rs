//! The same calls to this server and to a real etcd: the answers are equal.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use metastore_proto::etcdserverpb::{LeaseRevokeRequest, LeaseRevokeResponse, ResponseHeader};
use metastore_proto::v3electionpb::*;
use metastore_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::programs::{self, EngineKind};
use metastore_tests::{lease, paths};
use prost::Message;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{lock, queued, unlock};
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
const TTL_S: i64 = 600;

each_engine!(locks_and_elections_answer_as_those_of_etcd, a_waiter_whose_lease_has_ended_does_not_get_the_lock);

fn locks_and_elections_answer_as_those_of_etcd(engine: EngineKind) {
    let Some(servers) = programs::beside_etcd("answers of locks and elections", engine, "newest") else { return };
    let [subject, etcd] = servers.map(|server| {
        let member = Member::start(&server, &[]);
        block_on(async { all(&Client::new(member.client_address())).await })
    });
    for (subject, etcd) in subject.iter().zip(&etcd) {
        assert_eq!(subject, etcd, "left is the subject, right is etcd");
    }
    assert_eq!(subject.len(), etcd.len());
}

/// The answers, as texts without the ids of cluster and member.
struct Answers<'a>(&'a Client, Vec<String>);

impl Answers<'_> {
    async fn of<Q: Message + Debug + Clone + 'static, R: Message + Debug + Default + 'static>(
        &mut self,
        path: &'static str,
        request: Q,
        header: fn(&mut R) -> &mut Option<ResponseHeader>,
    ) {
        let answer = timeout(PATIENCE, self.0.unary::<Q, R>(path, request.clone())).await.expect("an answer");
        self.add(format!("{path} {request:?}"), answer, header);
    }

    fn add<R: Debug>(
        &mut self,
        name: String,
        answer: Result<R, Status>,
        header: fn(&mut R) -> &mut Option<ResponseHeader>,
    ) {
        self.1.push(match answer {
            Err(status) => format!("{name}: {:?} {}", status.code(), status.message()),
            Ok(mut answer) => {
                let header = header(&mut answer).as_mut().expect("a header");
                (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
                format!("{name}: {answer:?}")
            }
        });
    }
}

impl Answers<'_> {
    /// Takes the next answer of an observer.
    async fn observe(&mut self, observed: &mut Streaming<LeaderResponse>) {
        let next = timeout(PATIENCE, observed.message()).await.expect("an observed leader");
        self.add("observed".into(), next.map(|leader| leader.expect("the stream goes on")), leader_header);
    }
}

async fn all(client: &Client) -> Vec<String> {
    lease::grant_all(client, &[7, 8, 9], TTL_S).await;
    let mut answers = Answers(client, Vec::new());
    let mut locks = Vec::new();
    // Names with a slash and without; a lock that is held by the same lease; leases that do not exist.
    for (name, lease) in [("x", 7), ("x", 7), ("y/", 7), ("", 7), ("x", 99), ("x", -1)] {
        locks.push(LockRequest { name: name.into(), lease });
    }
    for request in locks {
        answers.of(paths::LOCK, request, |answer: &mut LockResponse| &mut answer.header).await;
    }
    for key in ["", "nothing", "y//7"] {
        let request = UnlockRequest { key: key.into() };
        answers.of(paths::UNLOCK, request, |answer: &mut UnlockResponse| &mut answer.header).await;
    }
    second_in_the_queue(&mut answers).await;
    elections(&mut answers).await;
    answers.1
}

/// A waiter that gets the lock, and one that is in the queue twice.
async fn second_in_the_queue(answers: &mut Answers<'_>) {
    let client = answers.0.clone();
    let waiting = tokio::spawn(async move { lock(&client, "x", 8).await });
    until_queued(answers.0, "x", 2).await;
    unlock(answers.0, "x/7".into()).await.expect("the lock is given back");
    let answer = timeout(PATIENCE, waiting).await.expect("a lock").expect("no panic");
    answers.add("the second".into(), answer, |answer: &mut LockResponse| &mut answer.header);
    unlock(answers.0, "x/8".into()).await.expect("the lock is given back");
}

async fn until_queued(client: &Client, name: &str, count: i64) {
    while queued(client, name).await.count != count {
        tokio::task::yield_now().await;
    }
}

async fn elections(answers: &mut Answers<'_>) {
    let name = || Bytes::from("e");
    let campaign = move |lease, value: &'static str| CampaignRequest { name: name(), lease, value: value.into() };
    answers.of(paths::LEADER, LeaderRequest { name: name() }, leader_header).await;
    let first: CampaignResponse = answers.0.unary(paths::CAMPAIGN, campaign(7, "v1")).await.expect("the first leads");
    let leader = first.leader.clone().expect("a leader");
    answers.add("the first".into(), Ok(first), campaign_header);
    let mut observed: Streaming<LeaderResponse> =
        answers.0.open_server_stream(paths::OBSERVE, LeaderRequest { name: name() }).await.expect("an observer");
    answers.observe(&mut observed).await;
    for request in [campaign(7, "v2"), campaign(99, "")] {
        answers.of(paths::CAMPAIGN, request, campaign_header).await;
    }
    answers.observe(&mut observed).await;
    answers.of(paths::LEADER, LeaderRequest { name: name() }, leader_header).await;
    let client = answers.0.clone();
    let second = tokio::spawn(async move { client.unary(paths::CAMPAIGN, campaign(8, "w")).await });
    until_queued(answers.0, "e", 2).await;
    let others = [
        Some(leader.clone()),
        Some(LeaderKey { rev: 1, ..leader.clone() }),
        Some(LeaderKey { lease: 99, ..leader.clone() }),
        Some(LeaderKey { lease: 9, ..LeaderKey::default() }),
        None,
    ];
    for leader in others {
        let request = ProclaimRequest { leader, value: "v3".into() };
        answers.of(paths::PROCLAIM, request, |answer: &mut ProclaimResponse| &mut answer.header).await;
    }
    answers.observe(&mut observed).await;
    for leader in [Some(leader.clone()), Some(leader.clone()), Some(LeaderKey::default()), None] {
        let request = ResignRequest { leader };
        answers.of(paths::RESIGN, request, |answer: &mut ResignResponse| &mut answer.header).await;
    }
    let second = timeout(PATIENCE, second).await.expect("the second leads").expect("no panic");
    answers.add("the second".into(), second, campaign_header);
    answers.observe(&mut observed).await;
    let late = ProclaimRequest { leader: Some(leader), value: "v4".into() };
    answers.of(paths::PROCLAIM, late, |answer: &mut ProclaimResponse| &mut answer.header).await;
    // Nobody leads, and then somebody does.
    let revoked = answers.0.unary::<_, LeaseRevokeResponse>(paths::LEASE_REVOKE, LeaseRevokeRequest { id: 8 }).await;
    revoked.expect("the lease ends");
    answers.of(paths::LEADER, LeaderRequest { name: name() }, leader_header).await;
    answers.of(paths::CAMPAIGN, campaign(9, "third"), campaign_header).await;
    answers.observe(&mut observed).await;
}

fn leader_header(answer: &mut LeaderResponse) -> &mut Option<ResponseHeader> {
    &mut answer.header
}

fn campaign_header(answer: &mut CampaignResponse) -> &mut Option<ResponseHeader> {
    &mut answer.header
}

/// etcd takes the end of the wait for the lock, and then finds its key gone.
fn a_waiter_whose_lease_has_ended_does_not_get_the_lock(engine: EngineKind) {
    let Some(subject) = programs::or_skip("locks of ended leases", programs::subject(engine)) else { return };
    let member = Member::start(&subject, &[]);
    block_on(async {
        let client = Client::new(member.client_address());
        lease::grant_all(&client, &[7, 8], TTL_S).await;
        lock(&client, "x", 7).await.expect("the first lock");
        let other = client.clone();
        let waiting = tokio::spawn(async move { lock(&other, "x", 8).await });
        let other = client.clone();
        let campaign = CampaignRequest { name: "x".into(), lease: 8, value: "".into() };
        until_queued(&client, "x", 2).await;
        let campaigning =
            tokio::spawn(async move { other.unary::<_, CampaignResponse>(paths::CAMPAIGN, campaign).await });
        let revoked = client.unary::<_, LeaseRevokeResponse>(paths::LEASE_REVOKE, LeaseRevokeRequest { id: 8 }).await;
        revoked.expect("the lease ends");
        unlock(&client, "x/7".into()).await.expect("the lock is given back");
        let ended = timeout(PATIENCE, waiting).await.expect("an answer").expect("no panic").expect_err("no lock");
        assert_eq!((ended.code(), ended.message()), (tonic::Code::Unknown, "mutex: session is expired"));
        let ended = timeout(PATIENCE, campaigning).await.expect("an answer").expect("no panic");
        let ended = ended.expect_err("no leadership").message().to_string();
        // The revocation may come before the campaign does.
        assert!(["election: not leader", "etcdserver: requested lease not found"].contains(&&ended[..]), "{ended}");
    });
}
