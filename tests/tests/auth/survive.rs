//! Users and permissions after kill -9, in another engine, and for a client that goes on after a restart.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::*;
use metastore_tests::auth::{Admin, CHEAP_PASSWORDS, ROOT_PASSWORD, enable, log_in, permission};
use metastore_tests::cluster::{block_on, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind};
use tonic::Status;

use super::calls::{DENIED, NO_NAME, OK};
use crate::bad_days::engines::{convert, member_on};
use crate::bad_days::observe::{eventually, metrics};

/// How often the member is killed.
const KILLS: usize = 3;
const LINE_PATIENCE: Duration = Duration::from_secs(30);

each_engine!(
    users_and_refusals_survive_a_kill,
    users_and_refusals_survive_a_conversion,
    etcdctl_logs_in_again_after_a_restart
);

/// Adds alice, who may read and write the keys from a to b, and nobody; and enables authentication.
async fn set_up(client: &Client) -> Result<(), Status> {
    let admin = Admin(client);
    admin.add_user_with("alice", "alice's", permission(Type::Readwrite, "a", "b")).await?;
    admin.add_user("nobody", "nobody's").await?;
    admin.add_user_without_password("certificate").await?;
    client.unary::<_, PutResponse>(paths::PUT, put_request("zz", "foreign")).await?;
    enable(client).await.map(|_| ())
}

/// Users, roles, the auth revision, and the answers to calls that some may make and others not.
async fn known(client: &Client) -> Result<Vec<String>, Status> {
    let root = log_in(client, "root", ROOT_PASSWORD).await?;
    let alice = log_in(client, "alice", "alice's").await?;
    let nobody = log_in(client, "nobody", "nobody's").await?;
    let status: AuthStatusResponse = client.unary(paths::AUTH_STATUS, AuthStatusRequest {}).await?;
    let users: AuthUserListResponse = root.unary(paths::USER_LIST, AuthUserListRequest {}).await?;
    let role: AuthRoleGetResponse = root.unary(paths::ROLE_GET, AuthRoleGetRequest { role: "alice".into() }).await?;
    let mut known = vec![format!("{} {} {:?} {:?}", status.enabled, status.auth_revision, users.users, role.perm)];
    for (name, caller) in [("none", client), ("nobody", &nobody), ("alice", &alice), ("root", &root)] {
        for key in ["a1", "zz"] {
            let put = answer(caller.unary::<_, PutResponse>(paths::PUT, put_request(key, "v")).await);
            let read = RangeRequest { key: key.into(), serializable: true, ..RangeRequest::default() };
            let read = answer(caller.unary::<_, RangeResponse>(paths::RANGE, read).await);
            known.push(format!("{name} {key}: {put}, {read}"));
        }
    }
    Ok(known)
}

pub fn answer<T>(answer: Result<T, Status>) -> String {
    answer.map_or_else(|status| format!("{:?} {}", status.code(), status.message()), |_| OK.to_string())
}

fn known_at(member: &Member) -> Vec<String> {
    block_on(async { known(&Client::new(member.client_address())).await }).expect("the users log in")
}

/// The lines of [`known`] after [`set_up`], except for the first line.
fn expected() -> Vec<String> {
    let answers = [("none", [NO_NAME; 2]), ("nobody", [DENIED; 2]), ("alice", [OK, DENIED]), ("root", [OK; 2])];
    let lines = answers.into_iter().flat_map(|(name, [own, foreign])| [(name, "a1", own), (name, "zz", foreign)]);
    lines.map(|(name, key, answer)| format!("{name} {key}: {answer}, {answer}")).collect()
}

fn users_and_refusals_survive_a_kill(engine: EngineKind) {
    let Some(server) = programs::or_skip("users after a kill", programs::subject(engine)) else { return };
    let mut member = Member::start(&server, &[CHEAP_PASSWORDS]);
    block_on(async { set_up(&Client::new(member.client_address())).await }).expect("users are added");
    let before = known_at(&member);
    assert_eq!(before[1..], expected());
    for _ in 0..KILLS {
        member.kill();
        member.restart();
        assert_eq!(known_at(&member), before);
    }
}

fn users_and_refusals_survive_a_conversion(engine: EngineKind) {
    let found = programs::subject(engine).and_then(|own| Ok((own, programs::subject(engine.other())?)));
    let Some((own, other)) = programs::or_skip("users after a conversion", found) else { return };
    if own.is_etcd() {
        println!("users after a conversion: skipped, because an etcd has one engine");
        return;
    }
    let mut member = Member::start(&own, &[CHEAP_PASSWORDS]);
    block_on(async { set_up(&Client::new(member.client_address())).await }).expect("users are added");
    let before = known_at(&member);
    assert_eq!(before[1..], expected());
    member.terminate();
    for (server, to) in [(&other, engine.other()), (&own, engine)] {
        let output = convert(&own, &member, to);
        assert!(output.status.success(), "{output:?}");
        let mut converted = member_on(server, &member);
        converted.restart();
        assert_eq!(known_at(&converted), before, "after the conversion to {}", to.name());
        converted.terminate();
    }
}

/// An etcdctl that runs on.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(etcdctl: &std::path::Path, member: &Member, arguments: &[&str]) -> Running {
        let mut command = Command::new(etcdctl);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCDCTL_")) {
            command.env_remove(name);
        }
        command.args(["--endpoints", member.client_address(), "--user", &format!("root:{ROOT_PASSWORD}")]);
        let command = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("etcdctl runs");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        Running { child, lines }
    }

    /// Reads lines up to one that contains `text`.
    fn expect(&self, text: &str) {
        let mut read = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(LINE_PATIENCE) {
            if line.contains(text) {
                return;
            }
            read.push(line);
        }
        panic!("etcdctl does not print {text:?}, only {read:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The token that etcdctl holds is unknown after the restart. It logs in again by itself.
fn etcdctl_logs_in_again_after_a_restart(engine: EngineKind) {
    let found = programs::subject(engine).and_then(|subject| Ok((subject, programs::etcd("newest")?.join("etcdctl"))));
    let Some((server, etcdctl)) = programs::or_skip("etcdctl after a restart", found) else { return };
    let mut member = Member::start(&server, &[CHEAP_PASSWORDS]);
    let put = |member: &Member, value: &str| {
        block_on(async {
            let client = Client::new(member.client_address());
            let root = log_in(&client, "root", ROOT_PASSWORD).await.expect("root logs in");
            root.unary::<_, PutResponse>(paths::PUT, put_request("watched", value)).await.expect("root may put");
        });
    };
    block_on(async {
        let client = Client::new(member.client_address());
        set_up(&client).await.expect("users are added");
        let root = log_in(&client, "root", ROOT_PASSWORD).await.expect("root logs in");
        let grant = LeaseGrantRequest { id: 0x1234, ttl: 60 };
        root.unary::<_, LeaseGrantResponse>(paths::LEASE_GRANT, grant).await.expect("root may grant");
    });
    let watch = Running::start(&etcdctl, &member, &["watch", "watched"]);
    let keep_alive = Running::start(&etcdctl, &member, &["lease", "keep-alive", "1234"]);
    let watched = |member: &Member| {
        metrics(member.client_address()).get("etcd_debugging_mvcc_watcher_total").is_some_and(|count| *count == 1.0)
    };
    eventually("etcdctl watches", || watched(&member));
    put(&member, "before");
    watch.expect("before");
    keep_alive.expect("keepalived");
    member.kill();
    member.restart();
    eventually("etcdctl watches again", || watched(&member));
    put(&member, "after");
    watch.expect("after");
    // The lines that it printed before the restart are dropped first.
    while keep_alive.lines.try_recv().is_ok() {}
    keep_alive.expect("keepalived");
}
