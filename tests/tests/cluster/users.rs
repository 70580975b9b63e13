//! Users and tokens in clusters: every member knows every login, whether it lags, is new, or is an etcd.

use std::time::{Duration, Instant};

use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::*;
use metastore_tests::auth::{
    Admin, CHEAP_PASSWORDS, HeaderOnly, ROOT_PASSWORD, SigningKey, enable_at, log_in, permission, token, token_at,
};
use metastore_tests::cluster::{Cluster, RARE_ELECTIONS, block_on, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind, Server};

use super::{Engines, each_cluster};
use crate::auth::calls::{BAD_TOKEN, DENIED, NO_NAME, OK};
use crate::auth::survive::answer;
use crate::bad_days::observe::eventually;

const LOGINS: usize = 60;
const PAUSES: usize = 5;
/// With these flags a leader keeps less of its log than [`MISSED`] writes.
const SHORT_LOG: [&str; 2] = ["--snapshot-count=100", "--snapshot-catchup-entries=100"];
const MISSED: usize = 2_000;
/// More than fits into the connections to a paused member.
const MISSED_BY_PAUSED: usize = 30_000;
const IN_FLIGHT: usize = 64;
const SENT_SNAPSHOT: &str = "sent database snapshot";
const ROUNDS: usize = 12;
/// The number of the etcd among the members.
const ETCD: usize = 0;
const PATIENCE: Duration = Duration::from_secs(20);

each_cluster!(
    a_token_of_one_member_is_good_at_all_others_at_once,
    a_token_is_good_at_a_member_that_was_paused_during_the_login,
    a_new_member_knows_the_users_from_the_state_that_it_was_sent,
    a_token_ends_although_its_member_was_sent_the_state_in_which_it_has_ended,
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

fn a_token_ends_although_its_member_was_sent_the_state_in_which_it_has_ended(engines: Engines) {
    let flags = [&[CHEAP_PASSWORDS, RARE_ELECTIONS][..], &SHORT_LOG].concat();
    let Some(mut cluster) = engines.start("tokens of a state", 3, &flags) else { return };
    if cluster.member(0).server().is_etcd() {
        println!("tokens of a state: skipped, because an etcd that is sent a state keeps its tokens");
        return;
    }
    let root = set_up(&cluster);
    cluster.speak_as(&root);
    let (leader, lagging) = (cluster.leader(), cluster.followers()[0]);
    let alice = token_at(cluster.address(lagging), "alice", "alice's").expect("alice logs in");
    let read_as_alice = |address: &str| block_on(async { read(&Client::new(address).with_token(&alice), "a").await });
    assert_eq!(read_as_alice(cluster.address(lagging)), OK);
    cluster.pause(lagging);
    cluster.put_many(leader, MISSED_BY_PAUSED, IN_FLIGHT);
    block_on(async {
        let name = "alice".into();
        let request = AuthUserChangePasswordRequest { name, password: "new".into(), ..Default::default() };
        let admin = Client::new(cluster.address(leader)).with_token(&root);
        admin.unary::<_, HeaderOnly>(paths::USER_CHANGE_PASSWORD, request).await.expect("it is changed");
    });
    cluster.put_many(leader, MISSED, IN_FLIGHT);
    cluster.resume(lagging);
    eventually("a state is sent", || {
        cluster.running().iter().any(|node| cluster.member(*node).log().iter().any(|line| line.contains(SENT_SNAPSHOT)))
    });
    eventually("the token ends", || read_as_alice(cluster.address(lagging)) == BAD_TOKEN);
}

/// The users that a member knows, with their roles, and the permissions of those.
async fn users(client: &Client) -> Result<String, tonic::Status> {
    let status: AuthStatusResponse = client.unary(paths::AUTH_STATUS, AuthStatusRequest {}).await?;
    let list: AuthUserListResponse = client.unary(paths::USER_LIST, AuthUserListRequest {}).await?;
    let mut all = format!("{} {}", status.enabled, status.auth_revision);
    for name in list.users {
        let user: AuthUserGetResponse =
            client.unary(paths::USER_GET, AuthUserGetRequest { name: name.clone() }).await?;
        all += &format!("\n{name} {:?}", user.roles);
    }
    let list: AuthRoleListResponse = client.unary(paths::ROLE_LIST, AuthRoleListRequest {}).await?;
    for role in list.roles {
        let got: AuthRoleGetResponse = client.unary(paths::ROLE_GET, AuthRoleGetRequest { role: role.clone() }).await?;
        all += &format!("\n{role} {:?}", got.perm);
    }
    Ok(all)
}

#[test]
fn users_and_tokens_beside_an_etcd() {
    let found = programs::etcd("newest").and_then(|etcd| {
        Ok([Server::etcd(&etcd), programs::subject(EngineKind::Memory)?, programs::subject(EngineKind::RocksDb)?])
    });
    let Some(servers) = programs::or_skip("users beside an etcd", found) else { return };
    let mut cluster = Cluster::start(&servers, &[CHEAP_PASSWORDS, RARE_ELECTIONS]);
    // Authentication is enabled through the second member, which is no etcd.
    let root = enable_at(cluster.address(1));
    cluster.speak_as(&root);
    block_on(async {
        let plain: Vec<Client> = (0..3).map(|node| Client::new(cluster.address(node))).collect();
        let began = Instant::now();
        // An etcd serves everybody until it has applied that authentication is enabled, and then takes a token for
        // wrong until it has applied the login.
        let [wrong, right] = [&plain[ETCD].with_token("wrong"), &plain[ETCD].with_token(&root)];
        loop {
            let answers = [read(wrong, "a").await, read(right, "a").await];
            if answers == [BAD_TOKEN, OK] {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "the etcd never knows the token of root: {answers:?}");
        }
        for round in 0..ROUNDS {
            let (one, other) = (round % 3, (round + 1) % 3);
            let [name, key, foreign] = ["user", "key", "foreign"].map(|word| format!("{word}{round}"));
            let root = plain[one].with_token(&root);
            let admin = Admin(&root);
            admin.add_user_with(&name, "first", permission(Type::Readwrite, &key, "")).await.expect("a user is added");
            let shown = token(&plain[other], &name, "first").await.expect("the user is known to the other member");
            let users: Vec<Client> = plain.iter().map(|client| client.with_token(&shown)).collect();
            while read(&users[ETCD], &key).await == BAD_TOKEN {
                assert!(began.elapsed() < PATIENCE, "the etcd never knows the token");
            }
            for (node, user) in users.iter().enumerate() {
                let put =
                    async |key: &str| answer(user.unary::<_, PutResponse>(paths::PUT, put_request(key, "v")).await);
                assert_eq!([put(&key).await, put(&foreign).await], [OK, DENIED], "round {round} at {node}");
                assert_eq!(
                    [read(user, &key).await, read(user, &foreign).await],
                    [OK, DENIED],
                    "round {round} at {node}"
                );
            }
            match round % 3 {
                0 => admin.change_password(&name, "second").await.expect("root may"),
                1 => admin.delete_user(&name).await.expect("root may"),
                _ => admin.forbid(&name, &permission(Type::Read, &key, "")).await.expect("root may"),
            }
            let expected = if round % 3 == 2 { DENIED } else { BAD_TOKEN };
            for (node, user) in users.iter().enumerate() {
                let linearizable = RangeRequest { key: key.clone().into(), ..RangeRequest::default() };
                // etcd and MetaStore look at a token before they wait for the log: the first read may be too early.
                let _ = user.unary::<_, RangeResponse>(paths::RANGE, linearizable.clone()).await;
                let read = answer(user.unary::<_, RangeResponse>(paths::RANGE, linearizable).await);
                assert_eq!(read, expected, "round {round} at {node}");
            }
        }
        let mut known = Vec::new();
        for client in &plain {
            let root = log_in(client, "root", ROOT_PASSWORD).await.expect("root logs in");
            known.push(users(&root).await.expect("root may"));
        }
        assert!(known.iter().all(|users| users == &known[0]), "{known:#?}");
    });
    cluster.agree();
    for node in 0..3 {
        cluster.kill(node);
        // Root's token is unknown to a member that was restarted, so only the log says that it is ready.
        cluster.launch(node);
        cluster.member(node).wait_until_ready().expect("it serves clients");
    }
    let root = token_at(cluster.address(0), "root", ROOT_PASSWORD).expect("root logs in");
    cluster.speak_as(&root);
    cluster.agree();
}
