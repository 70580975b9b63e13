//! The same in the name of users: by password, with signed tokens, and by certificate.

use std::path::PathBuf;

use metastore_tests::auth::{CHEAP_PASSWORDS, SigningKey};
use metastore_tests::certificates::Authority;
use metastore_tests::member::Member;
use metastore_tests::programs::{EngineKind, Server};

use super::run::Shell;
use super::script::Step::{self, Background, Feed, Run, Watch};
use super::{OFTEN, compare};
use crate::tls::{member, shows, url};

each_engine!(users_by_password, users_by_password_with_signed_tokens, users_by_certificate);

fn users_by_password(engine: EngineKind) {
    compare(engine, STEPS, |server, etcdctl| by_password(server, etcdctl, &[OFTEN, CHEAP_PASSWORDS]));
}

fn users_by_password_with_signed_tokens(engine: EngineKind) {
    let key = SigningKey::pair();
    compare(engine, STEPS, |server, etcdctl| by_password(server, etcdctl, &[OFTEN, CHEAP_PASSWORDS, &key.flag()]));
}

fn by_password(server: &Server, etcdctl: PathBuf, flags: &[&str]) -> Vec<String> {
    let member = Member::start(server, flags);
    run(Shell::new(etcdctl, member.client_address()), |name| match name {
        ANYBODY => Vec::new(),
        name => vec![format!("--user={name}:{name}'s")],
    })
}

fn users_by_certificate(engine: EngineKind) {
    compare(engine, STEPS, |server, etcdctl| {
        let ca = Authority::new();
        let mut flags = vec![ca.flag("trusted-ca-file", "ca.crt"), "--client-cert-auth".into()];
        flags.extend([OFTEN, CHEAP_PASSWORDS].map(String::from));
        let mut member = member(server, &ca, &flags);
        member.restart();
        for name in ["root", "alice", "bob", "carol", ANYBODY] {
            ca.sign(name);
        }
        run(Shell::new(etcdctl, &url(&member)), |name| shows(&ca, name))
    });
}

/// Runs the script. `flags` are those with which a user calls.
fn run(mut shell: Shell, flags: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let step = |(name, step): &(&str, Step)| {
        shell.speak_as(flags(name));
        shell.run(step)
    };
    STEPS.iter().map(step).collect()
}

/// A caller without a password, or with a certificate whose common name is no user.
const ANYBODY: &str = "anybody";
const ROOT: &str = "root";
/// A user with a role for the keys below app/, for one key and for a range.
const ALICE: &str = "alice";
/// A user with a role for reads of the keys below app/.
const BOB: &str = "bob";
/// A user without roles.
const CAROL: &str = "carol";

/// Callers, and what they call.
const STEPS: &[(&str, Step)] = &[
    // Users and roles, before authentication is enabled.
    (ANYBODY, Run(&["auth", "status"])),
    (ANYBODY, Run(&["auth", "status", "-w", "json"])),
    (ANYBODY, Run(&["auth", "enable"])),
    (ANYBODY, Run(&["auth", "disable"])),
    (ANYBODY, Run(&["user", "add", "root:root's"])),
    (ANYBODY, Run(&["user", "add", "alice", "--new-user-password=alice's"])),
    (ANYBODY, Feed(&["user", "add", "bob", "--interactive=false"], "bob's\n")),
    (ANYBODY, Run(&["user", "add", "carol:carol's", "-w", "json"])),
    (ANYBODY, Run(&["user", "add", "dave", "--no-password"])),
    (ANYBODY, Run(&["user", "add", "alice:again"])),
    (ANYBODY, Run(&["user", "add", ":x"])),
    (ANYBODY, Run(&["user", "add", "empty:"])),
    (ANYBODY, Run(&["role", "add", "app"])),
    (ANYBODY, Run(&["role", "add", "app"])),
    (ANYBODY, Run(&["role", "add", "reader", "-w", "json"])),
    (ANYBODY, Run(&["role", "add", "gone"])),
    (ANYBODY, Run(&["role", "grant-permission", "app", "readwrite", "--prefix", "app/"])),
    (ANYBODY, Run(&["role", "grant-permission", "app", "read", "one"])),
    (ANYBODY, Run(&["role", "grant-permission", "app", "write", "m", "n", "-w", "json"])),
    (ANYBODY, Run(&["role", "grant-permission", "reader", "read", "--prefix", "app/"])),
    (ANYBODY, Run(&["role", "grant-permission", "gone", "readwrite", "--from-key", "z"])),
    (ANYBODY, Run(&["role", "grant-permission", "missing", "read", "a"])),
    (ANYBODY, Run(&["role", "grant-permission", "app", "everything", "a"])),
    (ANYBODY, Run(&["role", "grant-permission", "app", "read", "b", "a"])),
    (ANYBODY, Run(&["role", "get", "app"])),
    (ANYBODY, Run(&["role", "get", "app", "-w", "json"])),
    (ANYBODY, Run(&["role", "get", "app", "-w", "fields"])),
    (ANYBODY, Run(&["role", "get", "gone"])),
    (ANYBODY, Run(&["role", "get", "missing"])),
    (ANYBODY, Run(&["role", "list"])),
    (ANYBODY, Run(&["role", "list", "-w", "json"])),
    (ANYBODY, Run(&["user", "grant-role", "alice", "app"])),
    (ANYBODY, Run(&["user", "grant-role", "alice", "gone", "-w", "json"])),
    (ANYBODY, Run(&["user", "grant-role", "bob", "reader"])),
    (ANYBODY, Run(&["user", "grant-role", "alice", "missing"])),
    (ANYBODY, Run(&["user", "grant-role", "missing", "app"])),
    (ANYBODY, Run(&["user", "get", "alice"])),
    (ANYBODY, Run(&["user", "get", "alice", "--detail"])),
    (ANYBODY, Run(&["user", "get", "alice", "-w", "json"])),
    (ANYBODY, Run(&["user", "get", "missing"])),
    (ANYBODY, Run(&["user", "revoke-role", "alice", "gone"])),
    (ANYBODY, Run(&["user", "revoke-role", "alice", "gone"])),
    (ANYBODY, Run(&["role", "revoke-permission", "gone", "--from-key", "z"])),
    (ANYBODY, Run(&["role", "revoke-permission", "gone", "--from-key", "z"])),
    (ANYBODY, Run(&["role", "delete", "gone"])),
    (ANYBODY, Run(&["role", "delete", "gone"])),
    (ANYBODY, Run(&["user", "list"])),
    (ANYBODY, Run(&["user", "list", "-w", "json"])),
    (ANYBODY, Run(&["put", "zz", "foreign"])),
    (ROOT, Run(&["auth", "enable"])),
    // A caller that is no user, and wrong logins.
    (ANYBODY, Run(&["auth", "status", "-w", "json"])),
    (ANYBODY, Run(&["get", "app/a"])),
    (ANYBODY, Run(&["put", "app/a", "1"])),
    (ANYBODY, Run(&["user", "list"])),
    (ANYBODY, Run(&["member", "list"])),
    (ANYBODY, Run(&["endpoint", "health"])),
    (ANYBODY, Run(&["lease", "grant", "600"])),
    (ANYBODY, Run(&["watch", "app/a"])),
    (ANYBODY, Run(&["--user=alice:wrong", "get", "app/a"])),
    (ANYBODY, Run(&["--user=nobody:nobody's", "get", "app/a"])),
    (ANYBODY, Run(&["--user=dave:", "get", "app/a"])),
    (ANYBODY, Run(&["--user=alice:wrong", "endpoint", "health"])),
    (ANYBODY, Run(&["--user=alice:wrong", "endpoint", "status"])),
    (ANYBODY, Run(&["--user=alice", "--password=alice's", "get", "app/a"])),
    (BOB, Run(&["--user=alice:alice's", "put", "app/a", "0"])),
    // Keys.
    (ALICE, Run(&["put", "app/a", "1"])),
    (ALICE, Run(&["put", "app/a", "2", "--prev-kv", "-w", "json"])),
    (ALICE, Run(&["put", "zz", "1"])),
    (ALICE, Run(&["put", "m1", "1"])),
    (ALICE, Run(&["put", "m1", "2", "--prev-kv"])),
    (ALICE, Run(&["put", "one", "1"])),
    (ALICE, Run(&["get", "app/a"])),
    (ALICE, Run(&["get", "app/a", "-w", "json"])),
    (ALICE, Run(&["get", "--prefix", "app/"])),
    (ALICE, Run(&["get", "--prefix", "app"])),
    (ALICE, Run(&["get", "one"])),
    (ALICE, Run(&["get", "m1"])),
    (ALICE, Run(&["get", "zz", "--consistency=s"])),
    (BOB, Run(&["get", "app/a"])),
    (BOB, Run(&["put", "app/a", "1"])),
    (BOB, Run(&["del", "app/a"])),
    (CAROL, Run(&["get", "app/a"])),
    (ALICE, Run(&["del", "zz"])),
    (ALICE, Run(&["put", "app/b", "1"])),
    (ALICE, Run(&["del", "app/b", "--prev-kv"])),
    (ALICE, Run(&["del", "m1", "--prev-kv"])),
    (ALICE, Run(&["del", "--prefix", "app"])),
    (ROOT, Run(&["get", "--prefix", "", "--keys-only"])),
    (ALICE, Feed(&["txn"], "mod(\"app/a\") > \"0\"\n\nput app/a txn\nget app/a\n\nget app/b\n\n")),
    (ALICE, Feed(&["txn"], "mod(\"app/a\") > \"0\"\n\nput app/a txn\n\nput zz other\n\n")),
    (ALICE, Feed(&["txn"], "value(\"zz\") = \"foreign\"\n\n\n\n")),
    (BOB, Feed(&["txn"], "value(\"app/a\") = \"txn\"\n\nget app/a\n\n\n")),
    (BOB, Feed(&["txn"], "value(\"app/a\") = \"txn\"\n\nput app/a bob\n\n\n")),
    // Watches.
    (ALICE, Watch { typed: "watch app/a", then: &[&["put", "app/a", "w1"], &["del", "app/a"]], more: 5 }),
    (ALICE, Watch { typed: "watch --prefix app/", then: &[&["put", "app/c", "w2"]], more: 3 }),
    (BOB, Background { command: &["watch", "app/a", "--rev=2"], lines: 9, then: &[], more: 0 }),
    (ALICE, Run(&["watch", "zz"])),
    (ALICE, Run(&["watch", "--prefix", "app"])),
    (CAROL, Run(&["watch", "app/a", "--rev=2"])),
    // The hash, before keys have leases: their ids are part of it.
    (ROOT, Run(&["endpoint", "hashkv"])),
    (ALICE, Run(&["endpoint", "hashkv"])),
    (ROOT, Run(&["snapshot", "save", "backup.db"])),
    (ALICE, Run(&["snapshot", "save", "backup.db"])),
    // Leases.
    (ALICE, Run(&["lease", "grant", "600"])),
    (ALICE, Run(&["put", "app/leased", "1", "--lease=$lease"])),
    (ALICE, Run(&["lease", "timetolive", "$lease"])),
    (ALICE, Run(&["lease", "timetolive", "$lease", "--keys"])),
    (BOB, Run(&["lease", "timetolive", "$lease", "--keys"])),
    (CAROL, Run(&["lease", "timetolive", "$lease"])),
    (CAROL, Run(&["lease", "timetolive", "$lease", "--keys"])),
    (ALICE, Run(&["lease", "keep-alive", "--once", "$lease"])),
    (CAROL, Run(&["lease", "keep-alive", "--once", "$lease"])),
    (ALICE, Run(&["lease", "list"])),
    (ROOT, Run(&["lease", "list"])),
    (BOB, Run(&["lease", "revoke", "$lease"])),
    (ALICE, Run(&["lease", "revoke", "$lease"])),
    (ALICE, Run(&["lease", "revoke", "$lease"])),
    (ALICE, Run(&["get", "app/leased"])),
    (ROOT, Run(&["lease", "grant", "600", "-w", "json"])),
    // The cluster.
    (CAROL, Run(&["member", "list"])),
    (ROOT, Run(&["member", "list", "-w", "json"])),
    (CAROL, Run(&["endpoint", "status"])),
    (ROOT, Run(&["endpoint", "status", "-w", "json"])),
    (CAROL, Run(&["endpoint", "health"])),
    (ROOT, Run(&["endpoint", "health", "-w", "json"])),
    (ALICE, Run(&["member", "add", "new", "--peer-urls=http://127.0.0.1:1"])),
    (ALICE, Run(&["member", "remove", "1"])),
    (ALICE, Run(&["move-leader", "1"])),
    (ALICE, Run(&["defrag"])),
    (ROOT, Run(&["defrag"])),
    (CAROL, Run(&["alarm", "list"])),
    (ALICE, Run(&["alarm", "disarm"])),
    (ALICE, Run(&["compact", "3"])),
    (ROOT, Run(&["compact", "3"])),
    (ROOT, Run(&["compact", "3"])),
    (ALICE, Run(&["get", "app/a", "--rev=2"])),
    (ALICE, Run(&["get", "zz", "--rev=2"])),
    // Users and roles, in the name of users.
    (ALICE, Run(&["user", "get", "alice"])),
    (ALICE, Run(&["user", "get", "alice", "--detail"])),
    (ALICE, Run(&["user", "get", "bob"])),
    (ALICE, Run(&["user", "list"])),
    (ALICE, Run(&["role", "get", "app"])),
    (ALICE, Run(&["role", "get", "reader"])),
    (ALICE, Run(&["role", "list"])),
    (ALICE, Run(&["user", "add", "eve:eve's"])),
    (ALICE, Run(&["user", "delete", "bob"])),
    (ALICE, Run(&["user", "grant-role", "alice", "root"])),
    (ALICE, Run(&["user", "revoke-role", "alice", "app"])),
    (ALICE, Feed(&["user", "passwd", "alice", "--interactive=false"], "other\n")),
    (ALICE, Run(&["role", "add", "own"])),
    (ALICE, Run(&["role", "grant-permission", "app", "readwrite", "zz"])),
    (ALICE, Run(&["role", "revoke-permission", "app", "one"])),
    (ALICE, Run(&["role", "delete", "app"])),
    (ALICE, Run(&["auth", "status"])),
    (ALICE, Run(&["auth", "enable"])),
    (ALICE, Run(&["auth", "disable"])),
    (ROOT, Run(&["user", "get", "root", "--detail"])),
    (ROOT, Run(&["user", "get", "bob", "--detail"])),
    (ROOT, Run(&["auth", "status"])),
    (ROOT, Run(&["user", "delete", "root"])),
    (ROOT, Run(&["user", "revoke-role", "root", "root"])),
    (ROOT, Run(&["role", "delete", "root"])),
    (ROOT, Run(&["role", "grant-permission", "reader", "read", "zz"])),
    (BOB, Run(&["get", "zz"])),
    (ROOT, Run(&["role", "revoke-permission", "reader", "--prefix", "app/"])),
    (BOB, Run(&["get", "app/c"])),
    (ROOT, Run(&["role", "get", "reader"])),
    (ROOT, Feed(&["user", "passwd", "alice", "--interactive=false"], "new\n")),
    (ALICE, Run(&["get", "app/c"])),
    (ANYBODY, Run(&["--user=alice:new", "get", "app/c"])),
    (ROOT, Feed(&["user", "passwd", "missing", "--interactive=false"], "new\n")),
    (ROOT, Run(&["user", "revoke-role", "bob", "reader", "-w", "json"])),
    (BOB, Run(&["get", "zz"])),
    (ROOT, Run(&["role", "delete", "app"])),
    (ANYBODY, Run(&["--user=alice:new", "get", "app/c"])),
    (ROOT, Run(&["user", "get", "alice"])),
    (ROOT, Run(&["user", "delete", "bob"])),
    (ROOT, Run(&["user", "delete", "bob"])),
    (BOB, Run(&["get", "zz"])),
    (ROOT, Run(&["user", "list"])),
    (ROOT, Run(&["auth", "disable"])),
    (ANYBODY, Run(&["get", "zz", "-w", "json"])),
    (BOB, Run(&["get", "zz"])),
    (ANYBODY, Run(&["auth", "status", "-w", "json"])),
];
