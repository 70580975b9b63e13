//! The end of tokens.

use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::*;
use metastore_tests::auth::{Admin, CHEAP_PASSWORDS, ROOT_PASSWORD, enable, log_in, permission};
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind};

use super::calls::{BAD_TOKEN, DENIED, OK};
use super::survive::answer;

each_engine!(tokens_end_with_the_password_the_user_and_authentication);

async fn read(client: &Client) -> String {
    let request = RangeRequest { key: "a".into(), ..RangeRequest::default() };
    answer(client.unary::<_, RangeResponse>(paths::RANGE, request).await)
}

fn tokens_end_with_the_password_the_user_and_authentication(engine: EngineKind) {
    let Some(server) = programs::or_skip("ends of tokens", programs::subject(engine)) else { return };
    let member = Member::start(&server, &[CHEAP_PASSWORDS]);
    block_on(async {
        let client = Client::new(member.client_address());
        let admin = Admin(&client);
        for name in ["alice", "bob", "carol"] {
            admin.add_user_with(name, "first", permission(Type::Read, "a", "")).await.expect("a user is added");
        }
        let root = enable(&client).await.expect("authentication is enabled");
        let admin = Admin(&root);
        let enter = async |name: &str, password: &str| log_in(&client, name, password).await.expect("the login");
        let [alice, again] = [enter("alice", "first").await, enter("alice", "first").await];
        let [bob, carol] = [enter("bob", "first").await, enter("carol", "first").await];
        let all = async |clients: &[&Client]| {
            let mut answers = Vec::new();
            for client in clients {
                answers.push(read(client).await);
            }
            answers
        };
        assert_eq!(all(&[&alice, &again, &bob, &carol]).await, [OK; 4]);

        admin.change_password("alice", "second").await.expect("root may");
        assert_eq!(all(&[&alice, &again, &bob, &carol]).await, [BAD_TOKEN, BAD_TOKEN, OK, OK]);
        let refused = log_in(&client, "alice", "first").await.err().expect("the password is another one");
        assert_eq!(refused.message(), "etcdserver: authentication failed, invalid user ID or password");
        assert_eq!(read(&enter("alice", "second").await).await, OK);

        admin.delete_user("bob").await.expect("root may");
        assert_eq!(all(&[&bob, &carol]).await, [BAD_TOKEN, OK]);
        admin.add_user_with("bob", "first", permission(Type::Read, "b", "")).await.expect_err("the role is there");
        assert_eq!(read(&bob).await, BAD_TOKEN, "a new user of the old name is another one");
        assert_eq!(read(&enter("bob", "first").await).await, DENIED);

        // Without its role the user is still logged in.
        admin.revoke_role("carol", "carol").await.expect("root may");
        assert_eq!(read(&carol).await, DENIED);
        admin.grant_role("carol", "carol").await.expect("root may");
        assert_eq!(read(&carol).await, OK);

        admin.disable().await.expect("root may");
        assert_eq!(all(&[&carol, &root, &client]).await, [OK; 3], "nothing is asked for");
        admin.make(paths::AUTH_ENABLE, AuthEnableRequest {}).await.expect("anybody may");
        assert_eq!(all(&[&carol, &root]).await, [BAD_TOKEN; 2]);
        assert_eq!(read(&enter("root", ROOT_PASSWORD).await).await, OK);
    });
}
