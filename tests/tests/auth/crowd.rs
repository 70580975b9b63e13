//! Many clients at once: logins that must not hold up others, and readers whose permission is revoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::response_op::Response;
use metastore_proto::etcdserverpb::*;
use metastore_tests::auth::{Admin, CHEAP_PASSWORDS, enable, log_in, permission, token};
use metastore_tests::cluster::{block_on, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind};
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// Logins at once, on [`CONNECTIONS`]. Each takes about 60 ms of a core.
const LOGINS: usize = 1_000;
/// More than wait at a member.
const TOO_MANY_LOGINS: usize = 5_000;
/// The number of them that is refused at least: 4,096 wait, and a few are finished meanwhile.
const REFUSED: usize = 500;
const CONNECTIONS: usize = 10;
/// Puts while the logins are under way, and the time of all but one in a hundred.
const PUTS: usize = 200;
const PUT_P99: Duration = Duration::from_secs(1);
/// The time of the slowest: a tenth of what the logins of one I/O thread take.
const SLOWEST_PUT: Duration = Duration::from_secs(3);

/// Readers of each kind, and rounds in which the permission is granted and revoked.
const READERS: usize = 4;
const ROUNDS: usize = 60;
/// The keys beside the secret one. Such a long read takes several steps, so changes come in between.
const KEYS: usize = 3_000;
const SECRET: &str = "secret";
const PATIENCE: Duration = Duration::from_secs(120);

each_engine!(
    a_thousand_logins_do_not_hold_up_puts,
    more_logins_than_may_wait_are_refused,
    nothing_is_read_that_was_written_after_the_permission_was_revoked
);

/// A member with the user alice, who may do everything with the keys from a to z.
async fn set_up(client: &Client) -> Client {
    Admin(client).add_user_with("alice", "alice's", permission(Type::Readwrite, "a", "z")).await.expect("alice");
    enable(client).await.expect("authentication is enabled")
}

/// Starts logins of alice on several connections.
fn storm(member: &Member, logins: usize) -> JoinSet<Result<String, Status>> {
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::new(member.client_address())).collect();
    let mut storm = JoinSet::new();
    for client in clients.iter().cycle().take(logins) {
        let client = client.clone();
        storm.spawn(async move { token(&client, "alice", "alice's").await });
    }
    storm
}

fn a_thousand_logins_do_not_hold_up_puts(engine: EngineKind) {
    let Some(server) = programs::or_skip("logins at once", programs::subject(engine)) else { return };
    let member = Member::start(&server, &[]);
    block_on(async {
        let client = Client::new(member.client_address());
        set_up(&client).await;
        let alice = log_in(&client, "alice", "alice's").await.expect("alice logs in");
        let mut storm = storm(&member, LOGINS);
        storm.join_next().await.expect("they run").expect("no panic").expect("the first login");
        let mut times = Vec::new();
        for number in 0..PUTS {
            let began = Instant::now();
            let put = put_request("a", &number.to_string());
            alice.unary::<_, PutResponse>(paths::PUT, put).await.expect("alice may put");
            times.push(began.elapsed());
        }
        while storm.try_join_next().is_some() {}
        let under_way = storm.len();
        times.sort_unstable();
        let p99 = times[PUTS - 1 - PUTS / 100];
        println!("puts beside logins: p50 {:?}, p99 {p99:?}; {under_way} logins were still under way", times[PUTS / 2]);
        assert!(under_way > 0, "the logins were over before the puts");
        assert!(p99 < PUT_P99 && times[PUTS - 1] < SLOWEST_PUT, "p99 {p99:?}, {times:?}");
    });
}

fn more_logins_than_may_wait_are_refused(engine: EngineKind) {
    let Some(server) = programs::or_skip("too many logins", programs::subject(engine)) else { return };
    if server.is_etcd() {
        println!("too many logins: skipped, because etcd has no bound for them");
        return;
    }
    let member = Member::start(&server, &[]);
    block_on(async {
        let client = Client::new(member.client_address());
        set_up(&client).await;
        let mut storm = storm(&member, TOO_MANY_LOGINS);
        let mut refused = 0;
        while refused < REFUSED {
            match storm.join_next().await.expect("some are refused").expect("no panic") {
                Ok(_) => {}
                Err(status) => {
                    let text = "etcdserver: too many requests";
                    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
                    refused += 1;
                }
            }
        }
        // Clients that go away leave the queue, so this one does not wait for four thousand others.
        let began = Instant::now();
        storm.shutdown().await;
        token(&client, "alice", "alice's").await.expect("there is room again");
        println!("a login after the storm took {:?}", began.elapsed());
        assert!(began.elapsed() < PUT_P99 * 10, "{:?}", began.elapsed());
    });
}

/// One read of everything that alice might see, in one of several ways; the values.
async fn read(client: &Client, how: usize) -> Result<Vec<Bytes>, Status> {
    let range = RangeRequest { key: "a".into(), range_end: "z".into(), serializable: how == 1, ..Default::default() };
    let values = |range: RangeResponse| range.kvs.into_iter().map(|kv| kv.value).collect();
    match how {
        0 | 1 => client.unary::<_, RangeResponse>(paths::RANGE, range).await.map(values),
        2 => {
            let success = vec![RequestOp { request: Some(Request::RequestRange(range)) }];
            let txn = TxnRequest { success, ..TxnRequest::default() };
            let answer: TxnResponse = client.unary(paths::TXN, txn).await?;
            let answers = answer.responses.into_iter().filter_map(|answer| match answer.response {
                Some(Response::ResponseRange(range)) => Some(range),
                _ => None,
            });
            Ok(answers.flat_map(values).collect())
        }
        3 => {
            let answers: Vec<RangeStreamResponse> = client.server_stream(paths::RANGE_STREAM, range).await?;
            Ok(answers.into_iter().filter_map(|answer| answer.range_response).flat_map(values).collect())
        }
        _ => {
            let short = RangeRequest { key: SECRET.into(), range_end: Bytes::new(), ..range };
            client.unary::<_, RangeResponse>(paths::RANGE, short).await.map(values)
        }
    }
}

/// Ways of [`read`].
const WAYS: usize = 5;

fn nothing_is_read_that_was_written_after_the_permission_was_revoked(engine: EngineKind) {
    let Some(server) = programs::or_skip("revoked readers", programs::subject(engine)) else { return };
    let member = Member::start(&server, &[CHEAP_PASSWORDS, "--unsafe-no-fsync"]);
    let address = member.client_address().to_string();
    // 0 until the reads of a round may begin.
    let (over, permitted) = (AtomicBool::new(false), Arc::new([const { AtomicUsize::new(0) }; WAYS]));
    let (token, root_token) = block_on(async {
        let client = Client::new(&address);
        crate::bad_days::load(&client, KEYS, |number| put_request(&format!("key/{number:05}"), "v"))
            .await
            .expect("keys");
        set_up(&client).await;
        let root = token(&client, "root", metastore_tests::auth::ROOT_PASSWORD).await.expect("root logs in");
        (token(&client, "alice", "alice's").await.expect("alice logs in"), root)
    });
    std::thread::scope(|scope| {
        for reader in 0..READERS * WAYS {
            let (address, token, over, permitted) = (&address, &token, &over, permitted.clone());
            scope.spawn(move || {
                block_on(async {
                    let alice = Client::new(address).with_token(token);
                    while !over.load(Ordering::Relaxed) {
                        let Ok(values) = read(&alice, reader % WAYS).await else { continue };
                        permitted[reader % WAYS].fetch_add(1, Ordering::Relaxed);
                        let secret = values.iter().find(|value| value.starts_with(b"secret"));
                        assert_eq!(secret, None, "way {}", reader % WAYS);
                    }
                });
            });
        }
        let deadline = Instant::now() + PATIENCE;
        block_on(async {
            let root = Client::new(&address).with_token(&root_token);
            let (admin, all) = (Admin(&root), permission(Type::Readwrite, "a", "z"));
            let put = async |value: &str| {
                root.unary::<_, PutResponse>(paths::PUT, put_request(SECRET, value)).await.expect("root may put");
            };
            for round in 0..ROUNDS {
                // Readers of every kind are at it.
                let before: Vec<usize> = permitted.iter().map(|count| count.load(Ordering::Relaxed)).collect();
                while permitted.iter().zip(&before).any(|(now, before)| now.load(Ordering::Relaxed) == *before) {
                    assert!(Instant::now() < deadline, "the readers do not read");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                admin.forbid("alice", &all).await.expect("root may");
                put(&format!("secret {round}")).await;
                put("known").await;
                admin.permit("alice", all.clone()).await.expect("root may");
            }
            over.store(true, Ordering::Relaxed);
        });
    });
}
