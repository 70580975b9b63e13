//! Users and tokens in clusters: every member knows every login, whether it lags or is new.

use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::*;
use metastore_tests::auth::{Admin, CHEAP_PASSWORDS, SigningKey, enable_at, log_in, permission, token};
use metastore_tests::cluster::{Cluster, RARE_ELECTIONS, block_on, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::paths;
use metastore_tests::programs;

use super::{Engines, each_cluster};
use crate::auth::calls::{DENIED, NO_NAME, OK};
use crate::auth::survive::answer;

const LOGINS: usize = 60;
const PAUSES: usize = 5;
/// With these flags a leader keeps less of its log than [`MISSED`] writes.
const SHORT_LOG: [&str; 2] = ["--snapshot-count=100", "--snapshot-catchup-entries=100"];
const MISSED: usize = 2_000;
const IN_FLIGHT: usize = 64;
const SENT_SNAPSHOT: &str = "sent database snapshot";

each_cluster!(
    a_token_of_one_member_is_good_at_all_others_at_once,
    a_token_is_good_at_a_member_that_was_paused_during_the_login,
    a_new_member_knows_the_users_from_the_state_that_it_was_sent,
);

/// Adds alice, who may read and write the keys from a to b, and enables authentication. Returns root's token.
fn set_up(cluster: &Cluster) -> String {
    block_on(async {
        let client = cluster.client(0);
        let admin = Admin(&client);
        admin.add_user_with("alice", "alice's", permission(Type::Readwrite, "a", "b")).await.expect("alice is added");
    });
    enable_at(cluster.address(0))
}

async fn read(client: &Client, key: &str) -> String {
    let request = RangeRequest { key: key.to_string().into(), serializable: true, ..RangeRequest::default() };
    answer(client.unary::<_, RangeResponse>(paths::RANGE, request).await)
}

fn a_token_of_one_member_is_good_at_all_others_at_once(engines: Engines) {
    let flags = [CHEAP_PASSWORDS, RARE_ELECTIONS];
    let Some(cluster) = engines.start("tokens everywhere", 3, &flags) else { return };
    if cluster.member(0).server().is_etcd() {
        println!("tokens everywhere: skipped, because an etcd takes a token for wrong until it has applied the login");
        return;
    }
    set_up(&cluster);
    block_on(async {
        let clients: Vec<Client> = (0..3).map(|node| cluster.client(node)).collect();
        for login in 0..LOGINS {
            let at = login % 3;
            let token = token(&clients[at], "alice", "alice's").await.expect("alice logs in");
            for (node, client) in clients.iter().enumerate() {
                let alice = client.with_token(&token);
                assert_eq!(read(&alice, "a").await, OK, "login {login} at {at} is unknown at {node}");
                assert_eq!(read(&alice, "z").await, DENIED);
            }
        }
    });
}

fn a_token_is_good_at_a_member_that_was_paused_during_the_login(engines: Engines) {
    let flags = [CHEAP_PASSWORDS, RARE_ELECTIONS];
    let Some(mut cluster) = engines.start("tokens at one that lags", 3, &flags) else { return };
    if cluster.member(0).server().is_etcd() {
        println!(
            "tokens at one that lags: skipped, because an etcd takes a token for wrong until it has applied the login"
        );
        return;
    }
    let root = set_up(&cluster);
    cluster.speak_as(&root);
    let leader = cluster.leader();
    let lagging = cluster.followers()[0];
    block_on(async {
        let [there, here] = [leader, lagging].map(|node| Client::new(cluster.address(node)));
        for pause in 0..PAUSES {
            let alice = log_in(&here, "alice", "alice's").await.expect("alice logs in");
            assert_eq!(read(&alice, "a").await, OK);
            cluster.pause(lagging);
            let alice = here.with_token(&token(&there, "alice", "alice's").await.expect("alice logs in"));
            // The call waits in the socket, and is among the first things that the member sees.
            let resume = async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                cluster.resume(lagging);
            };
            let (answer, ()) = tokio::join!(read(&alice, "a"), resume);
            assert_eq!(answer, OK, "pause {pause}");
        }
    });
}

fn a_new_member_knows_the_users_from_the_state_that_it_was_sent(engines: Engines) {
    let key = SigningKey::new();
    let flag = key.flag();
    let flags = [&[CHEAP_PASSWORDS, RARE_ELECTIONS, &flag][..], &SHORT_LOG].concat();
    let Some(mut cluster) = engines.start("users for a new member", 1, &flags) else { return };
    let root = set_up(&cluster);
    cluster.speak_as(&root);
    cluster.put_many(0, MISSED, IN_FLIGHT);
    let joiner = programs::or_skip("users for a new member", engines.server(1)).expect("the other one is there");
    let new = cluster.add(&joiner, true);
    let sent = |cluster: &Cluster| cluster.member(0).log().iter().any(|line| line.contains(SENT_SNAPSHOT));
    assert!(sent(&cluster), "the log was enough: this test must write more");
    cluster.promote(new);
    let expect = |cluster: &Cluster| {
        cluster.leader();
        block_on(async {
            let client = Client::new(cluster.address(new));
            assert_eq!(read(&client, "a").await, NO_NAME);
            let alice = log_in(&client, "alice", "alice's").await.expect("alice logs in");
            assert_eq!([read(&alice, "a").await, read(&alice, "z").await], [OK, DENIED]);
            let put = async |key| answer(alice.unary::<_, PutResponse>(paths::PUT, put_request(key, "v")).await);
            assert_eq!([put("a").await, put("z").await], [OK, DENIED]);
        });
    };
    expect(&cluster);
    cluster.kill(new);
    cluster.restart(new);
    expect(&cluster);
    cluster.agree();
}
