//! Random histories, and what a member holds afterwards.

use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::*;
use metastore_proto::mvccpb::KeyValue;
use metastore_tests::auth::{Admin, permission};
use metastore_tests::grpc::Client;
use metastore_tests::paths;
use metastore_tests::random::Random;

use crate::backup::hash_kv;

const STEPS: usize = 250;
const KEYS: usize = 25;
const LEASES: i64 = 4;

/// Everything that a client can read.
#[derive(Debug, PartialEq)]
pub struct Content {
    revision: i64,
    /// HashKV at each revision that is kept, but for the compacted one, whose hash a member may remember from before.
    hashes: Vec<(u32, i64)>,
    keys: Vec<KeyValue>,
    /// Id, granted time and keys of each lease.
    leases: Vec<(i64, i64, Vec<Vec<u8>>)>,
    users: Vec<AuthUserGetResponse>,
    roles: Vec<String>,
    alarms: Vec<AlarmMember>,
}

impl Content {
    /// The lines of `metactl migrate` about it.
    pub fn summary(&self) -> String {
        let (hash, compacted) = self.hashes.last().expect("a hash");
        let keys = self.keys.len();
        format!("  {keys} keys, revision {}, compacted at {compacted}\n  HashKV {hash} ", self.revision)
    }
}

/// Changes a cluster at random: puts, deletes, transactions, leases, and compactions, one of them at a tombstone.
pub async fn change(client: &Client, seed: u64) {
    let mut random = Random::new(seed);
    let mut revision = 0;
    for _ in 0..STEPS {
        let key = format!("k{}", random.below(KEYS));
        match random.below(20) {
            0 => {
                let id = random.between(1, LEASES);
                let grant = LeaseGrantRequest { id, ttl: 3_600 + id };
                // It may be there already.
                let _ = client.unary::<_, LeaseGrantResponse>(paths::LEASE_GRANT, grant).await;
            }
            1 => {
                let revoke = LeaseRevokeRequest { id: random.between(1, LEASES) };
                let _ = client.unary::<_, LeaseRevokeResponse>(paths::LEASE_REVOKE, revoke).await;
            }
            2..=5 => {
                let delete = DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() };
                let done: DeleteRangeResponse = client.unary(paths::DELETE_RANGE, delete).await.expect("a delete");
                revision = done.header.expect("a header").revision;
            }
            6 | 7 => {
                let puts = (0..3)
                    .map(|at| RequestOp { request: Some(Request::RequestPut(put(&format!("t{at}"), &mut random))) });
                let txn = TxnRequest { success: puts.collect(), ..TxnRequest::default() };
                let done: TxnResponse = client.unary(paths::TXN, txn).await.expect("a transaction");
                revision = done.header.expect("a header").revision;
            }
            _ => {
                let request = put(&key, &mut random);
                let lease = random.between(0, LEASES);
                let leased = PutRequest { lease, ..request.clone() };
                let done = match client.unary::<_, PutResponse>(paths::PUT, leased).await {
                    // The lease is not there.
                    Err(_) => client.unary(paths::PUT, request).await.expect("a put"),
                    Ok(done) => done,
                };
                revision = done.header.expect("a header").revision;
            }
        }
        if random.one_in(80) {
            compact(client, revision - random.between(0, 20).min(revision - 1)).await;
        }
    }
    let delete = DeleteRangeRequest { key: "t0".into(), ..DeleteRangeRequest::default() };
    client.unary::<_, PutResponse>(paths::PUT, put("t0", &mut random)).await.expect("a put");
    let done: DeleteRangeResponse = client.unary(paths::DELETE_RANGE, delete).await.expect("a delete");
    compact(client, done.header.expect("a header").revision).await;
    for _ in 0..10 {
        client.unary::<_, PutResponse>(paths::PUT, put("after", &mut random)).await.expect("a put");
    }
    let name = format!("user{seed}");
    Admin(client).add_user_with(&name, "password", permission(Type::Readwrite, "a", "b")).await.expect("a user");
}

fn put(key: &str, random: &mut Random) -> PutRequest {
    let value = vec![random.below(256) as u8; random.below(5_000)];
    PutRequest { key: key.to_owned().into(), value: value.into(), ..PutRequest::default() }
}

async fn compact(client: &Client, revision: i64) {
    let compact = CompactionRequest { revision, physical: true };
    // It may be compacted already.
    let _ = client.unary::<_, CompactionResponse>(paths::COMPACT, compact).await;
}

/// Reads everything.
pub async fn read(client: &Client) -> Content {
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
    let range: RangeResponse = client.unary(paths::RANGE, all).await.expect("all keys");
    let revision = range.header.expect("a header").revision;
    let (_, compacted) = hash_kv(client, 0).await;
    let mut hashes = Vec::new();
    for revision in compacted + 1..=revision {
        hashes.push(hash_kv(client, revision).await);
    }
    let listed: LeaseLeasesResponse = client.unary(paths::LEASE_LEASES, LeaseLeasesRequest {}).await.expect("leases");
    let mut ids: Vec<i64> = listed.leases.iter().map(|lease| lease.id).collect();
    ids.sort_unstable();
    let mut leases = Vec::new();
    for id in ids {
        let request = LeaseTimeToLiveRequest { id, keys: true };
        let left: LeaseTimeToLiveResponse = client.unary(paths::LEASE_TIME_TO_LIVE, request).await.expect("a lease");
        let mut keys: Vec<_> = left.keys.iter().map(|key| key.to_vec()).collect();
        keys.sort_unstable();
        leases.push((id, left.granted_ttl, keys));
    }
    let names: AuthUserListResponse = client.unary(paths::USER_LIST, AuthUserListRequest {}).await.expect("users");
    let mut users = Vec::new();
    for name in names.users {
        let user: AuthUserGetResponse =
            client.unary(paths::USER_GET, AuthUserGetRequest { name }).await.expect("a user");
        users.push(AuthUserGetResponse { header: None, ..user });
    }
    let roles: AuthRoleListResponse = client.unary(paths::ROLE_LIST, AuthRoleListRequest {}).await.expect("roles");
    let alarms: AlarmResponse = client.unary(paths::ALARM, AlarmRequest::default()).await.expect("alarms");
    Content { revision, hashes, keys: range.kvs, leases, users, roles: roles.roles, alarms: alarms.alarms }
}
