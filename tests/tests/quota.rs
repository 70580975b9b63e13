//! A member whose quota is used up refuses what needs space, and nothing else, until space is freed and the alarm is
//! taken back. The same steps are made with a real etcd.

mod disk;

use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::*;
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind, Server};
use tonic::{Code, Status};

use crate::bad_days::observe::{self, eventually};

const QUOTA: &str = "--quota-backend-bytes=4194304";
const VALUE_BYTES: usize = 100_000;
/// Puts of that size, of which the quota refuses the last ones.
const PUTS: usize = 200;
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

each_engine!(a_quota_refuses_what_needs_space, an_alarm_is_taken_back_by_itself_below_a_share_of_the_quota);

fn put_request(bytes: usize) -> PutRequest {
    PutRequest { key: "k".into(), value: vec![b'x'; bytes].into(), ..PutRequest::default() }
}

async fn put(client: &Client, bytes: usize) -> Result<PutResponse, Status> {
    client.unary(paths::PUT, put_request(bytes)).await
}

fn refused<T: std::fmt::Debug>(result: Result<T, Status>) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, NO_SPACE));
}

/// Puts until one is refused. Returns the revision before it.
async fn fill(client: &Client) -> i64 {
    let mut revision = 0;
    for _ in 0..PUTS {
        match put(client, VALUE_BYTES).await {
            Ok(done) => revision = done.header.expect("a header").revision,
            error => {
                refused(error);
                return revision;
            }
        }
    }
    panic!("{PUTS} puts were taken");
}

async fn alarms(client: &Client) -> Vec<AlarmMember> {
    let all: AlarmResponse = client.unary(paths::ALARM, AlarmRequest::default()).await.expect("alarms are listed");
    all.alarms
}

async fn disarm(client: &Client, alarm: AlarmMember) {
    let AlarmMember { member_id, alarm } = alarm;
    let disarm = AlarmRequest { action: AlarmAction::Deactivate.into(), member_id, alarm };
    let done: AlarmResponse = client.unary(paths::ALARM, disarm).await.expect("the alarm is taken back");
    assert_eq!(done.alarms, [AlarmMember { member_id, alarm }]);
}

/// Drops old revisions, and gives their space back.
async fn free(client: &Client, revision: i64) {
    let compact = CompactionRequest { revision, physical: true };
    client.unary::<_, CompactionResponse>(paths::COMPACT, compact).await.expect("a compaction needs no space");
    defragment(client).await;
}

async fn defragment(client: &Client) {
    client.unary::<_, DefragmentResponse>(paths::DEFRAGMENT, DefragmentRequest {}).await.expect("nor does Defragment");
}

fn a_quota_refuses_what_needs_space(engine: EngineKind) {
    let Some(subject) = programs::or_skip("quota", programs::subject(engine)) else { return };
    a_quota_is_used_up(&subject);
}

#[test]
fn a_quota_of_an_etcd_refuses_the_same() {
    let etcd = programs::etcd("newest").map(|etcd| Server::etcd(&etcd));
    let Some(etcd) = programs::or_skip("a quota of etcd", etcd) else { return };
    a_quota_is_used_up(&etcd);
}

fn a_quota_is_used_up(server: &Server) {
    let mut member = Member::start(server, &[QUOTA]);
    let address = member.client_address().to_owned();
    let revision = block_on(async { fill(&Client::new(&address)).await });
    // An etcd that notices it when it applies a write raises the alarm a little later.
    eventually("an alarm is raised", || block_on(async { !alarms(&Client::new(&address)).await.is_empty() }));
    let alarm = block_on(async {
        let client = Client::new(&address);
        let alarms = alarms(&client).await;
        assert_eq!(alarms.iter().map(AlarmMember::alarm).collect::<Vec<_>>(), [AlarmType::Nospace]);
        let status: StatusResponse = client.unary(paths::STATUS, StatusRequest {}).await.expect("a status");
        assert_eq!(status.db_size_quota, 4_194_304);
        assert!(status.errors.iter().any(|error| error.contains("NOSPACE")), "{:?}", status.errors);
        what_needs_space_is_refused(&client).await;
        alarms[0]
    });
    assert!(observe::http_get(&address, "/health").contains("ALARM NOSPACE"));
    assert_eq!(observe::metrics(&address)["etcd_server_quota_backend_bytes"], 4_194_304.0);
    member.kill();
    member.restart();
    block_on(async {
        let client = Client::new(&address);
        assert_eq!(alarms(&client).await, [alarm], "after kill -9");
        refused(put(&client, 1).await);
        free(&client, revision).await;
        refused(put(&client, 1).await);
        disarm(&client, alarm).await;
        put(&client, VALUE_BYTES).await.expect("there is space again");
        assert_eq!(alarms(&client).await, []);
    });
}

async fn what_needs_space_is_refused(client: &Client) {
    let op = |request| vec![RequestOp { request: Some(request) }];
    let txn = |success, failure| TxnRequest { success, failure, ..TxnRequest::default() };
    let write = || op(Request::RequestPut(put_request(1)));
    let delete = || op(Request::RequestDeleteRange(DeleteRangeRequest { key: "none".into(), ..Default::default() }));
    refused(put(client, 1).await);
    refused(client.unary::<_, TxnResponse>(paths::TXN, txn(delete(), write())).await);
    refused(client.unary::<_, LeaseGrantResponse>(paths::LEASE_GRANT, LeaseGrantRequest { ttl: 60, id: 0 }).await);
    client.unary::<_, TxnResponse>(paths::TXN, txn(delete(), delete())).await.expect("a delete frees space");
    let all = RangeRequest { key: "k".into(), ..RangeRequest::default() };
    client.unary::<_, RangeResponse>(paths::RANGE, all).await.expect("reads go on");
}

fn an_alarm_is_taken_back_by_itself_below_a_share_of_the_quota(engine: EngineKind) {
    let Some(subject) = programs::or_skip("a quota that disarms", programs::subject(engine)) else { return };
    let member = Member::start(&subject, &[QUOTA, "--quota-auto-disarm-percent=90"]);
    let address = member.client_address();
    let revision = block_on(async { fill(&Client::new(address)).await });
    block_on(async { free(&Client::new(address), revision).await });
    eventually("the alarm is taken back", || block_on(async { alarms(&Client::new(address)).await.is_empty() }));
    block_on(async { put(&Client::new(address), VALUE_BYTES).await }).expect("there is space again");
}
