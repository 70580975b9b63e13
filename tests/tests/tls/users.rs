//! Users in a cluster whose connections are all encrypted: by password, and by certificate.

use metastore_tests::auth::{Admin, CHEAP_PASSWORDS, ROOT_PASSWORD, token_at};
use metastore_tests::certificates::Authority;
use metastore_tests::cluster::{Cluster, RARE_ELECTIONS, block_on};
use metastore_tests::programs::{self, EngineKind, Server};

use super::{Etcdctl, members, shows};

const DENIED: &str = "permission denied";
const MEMBERS: usize = 3;

each_engine!(changes_of_users_at_one_member_hold_at_all_others);

fn changes_of_users_at_one_member_hold_at_all_others(engine: EngineKind) {
    everywhere("users with TLS", programs::subject(engine).map(|server| vec![server; MEMBERS]));
}

#[test]
fn changes_of_users_beside_an_etcd_hold_at_all_members() {
    let found = programs::etcd("newest").and_then(|etcd| {
        Ok(vec![Server::etcd(&etcd), programs::subject(EngineKind::Memory)?, programs::subject(EngineKind::RocksDb)?])
    });
    everywhere("users with TLS beside an etcd", found);
}

/// A cluster with TLS for clients and members, as etcdctl sees it.
struct Encrypted {
    ca: Authority,
    cluster: Cluster,
    etcdctl: Etcdctl,
}

impl Encrypted {
    fn start(servers: &[Server], etcdctl: Etcdctl) -> Encrypted {
        let ca = Authority::new();
        // A device is no user.
        for name in ["server", "device"] {
            ca.sign(name);
        }
        let mut flags = members::flags(&ca);
        flags.extend(
            [("cert-file", "server.crt"), ("key-file", "server.key"), ("trusted-ca-file", "ca.crt")]
                .map(|(flag, file)| ca.flag(flag, file)),
        );
        flags.extend(["--client-cert-auth", CHEAP_PASSWORDS, RARE_ELECTIONS].map(String::from));
        let cluster = Cluster::start(servers, &flags.iter().map(String::as_str).collect::<Vec<_>>());
        Encrypted { ca, cluster, etcdctl }
    }

    fn by_certificate(&self, node: usize, name: &str, arguments: &[&str]) -> Result<String, String> {
        self.etcdctl.run(&format!("https://{}", self.cluster.address(node)), &shows(&self.ca, name), arguments)
    }

    fn by_password(&self, node: usize, user: &str, arguments: &[&str]) -> Result<String, String> {
        self.by_certificate(node, "device", &[&["--user", user], arguments].concat())
    }

    /// The answer to root, who has a password.
    fn root(&self, node: usize, arguments: &str) -> String {
        let words: Vec<&str> = arguments.split(' ').collect();
        let answer = self.by_password(node, &format!("root:{ROOT_PASSWORD}"), &words);
        answer.unwrap_or_else(|error| panic!("root at {node}: {arguments}: {error}"))
    }
}

fn everywhere(test: &str, servers: Result<Vec<Server>, String>) {
    let etcdctl = programs::etcd("newest").map(|directory| Etcdctl(directory.join("etcdctl")));
    let found = servers.and_then(|servers| Ok((servers, etcdctl?)));
    let Some((servers, etcdctl)) = programs::or_skip(test, found) else { return };
    let mut at = Encrypted::start(&servers, etcdctl);
    let root = format!("root:{ROOT_PASSWORD}");
    for arguments in [&["user", "add", &root][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]] {
        at.by_certificate(1, "device", arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    }
    let token = token_at(at.cluster.address(0), "root", ROOT_PASSWORD).expect("root logs in");
    at.cluster.speak_as(&token);
    (0..MEMBERS).for_each(|node| changes_at(&at, node));
    let known = (0..MEMBERS).map(|node| {
        ["auth status -w json", "user list", "role list", "user get user2 --detail"].map(|what| {
            let told = at.root(node, what);
            // The header of JSON has the id of the member.
            told.split_once("\"enabled\"").map_or(told.clone(), |(_, rest)| rest.to_owned())
        })
    });
    let known: Vec<_> = known.collect();
    assert!(known.iter().all(|told| told == &known[0]), "{known:#?}");
    at.cluster.agree();
}

/// Changes users through one member. Every member must know each change.
fn changes_at(at: &Encrypted, node: usize) {
    let [user, card, other, key] = ["user", "card", "other", "key"].map(|word| format!("{word}{node}"));
    at.ca.sign(&card);
    for change in [
        format!("user add {user}:first"),
        format!("user add {card} --no-password"),
        format!("user add {other}:first"),
        format!("role add {key}"),
        format!("role grant-permission {key} readwrite {key}"),
        format!("user grant-role {user} {key}"),
        format!("user grant-role {card} {key}"),
        format!("user grant-role {other} {key}"),
    ] {
        at.root(node, &change);
    }
    let (first, second) = (format!("{user}:first"), format!("{user}:second"));
    for node in 0..MEMBERS {
        for (name, login) in [("device", &["--user", &first][..]), (&card, &[])] {
            let call = |words: &[&str]| at.by_certificate(node, name, &[login, words].concat());
            assert_eq!(call(&["put", &key, "v"]), Ok("OK".into()), "at {node}");
            assert_eq!(call(&["get", &key]), Ok(format!("{key}\nv")), "at {node}");
            denied(call(&["put", "foreign", "v"]));
            denied(call(&["get", "foreign"]));
        }
        denied(at.by_certificate(node, "device", &["get", &key]));
    }
    block_on(async {
        Admin(&at.cluster.client(node)).change_password(&user, "second").await.expect("root may");
    });
    at.root(node, &format!("user revoke-role {card} {key}"));
    at.root(node, &format!("user delete {other}"));
    for node in 0..MEMBERS {
        let refused = at.by_password(node, &first, &["get", &key]).expect_err("the password is another one");
        assert!(refused.contains("invalid user ID or password"), "at {node}: {refused}");
        assert_eq!(at.by_password(node, &second, &["get", &key]), Ok(format!("{key}\nv")), "at {node}");
        denied(at.by_certificate(node, &card, &["get", &key]));
    }
}

fn denied(answer: Result<String, String>) {
    let error = answer.expect_err("this is not permitted");
    assert!(error.contains(DENIED), "{error}");
}
