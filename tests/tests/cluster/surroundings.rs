//! A disk that hangs, and host names that do not resolve yet.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use metastore_tests::load::Load;
use metastore_tests::member::{Directory, Identity, Member, signal};
use metastore_tests::mount::is_root;
use metastore_tests::programs;

use super::Engines;

const WRITES: usize = 200;
/// From some moment on each sync of the leader takes this long.
const HANG: &str = "inject=fdatasync,fsync:delay_enter=60000000";
/// Another member must lead within this time. If the leader had died, an election would need less than half of it.
const HANDOVER: Duration = Duration::from_secs(5);
/// How long a member may take to log the expected line.
const PATIENCE: Duration = Duration::from_secs(40);
/// Starts a program with a file of its own in place of /etc/hosts.
const WITH_HOSTS: &str = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;

#[test]
fn a_leader_whose_disk_hangs_is_replaced() {
    let Some(strace) = programs::or_skip("hanging disk of a leader", programs::tool("strace")) else { return };
    let Some(mut cluster) = Engines::Mixed.start("hanging disk of a leader", 3, &[]) else { return };
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    let old = cluster.leader();
    let began = Instant::now();
    let hanging = hang(strace, cluster.member(old).pid());
    let new = cluster.within(HANDOVER, "another leads", |cluster| {
        let leads = |node: &usize| cluster.status(*node).is_ok_and(|status| status.leader == cluster.id(*node));
        cluster.voters().into_iter().filter(|node| *node != old).find(leads)
    });
    println!("hanging disk: node {new} leads after {:?}", began.elapsed());
    load.progress(WRITES);
    end(hanging);
    // The process may still hang in its writes; the kill ends them at the latest.
    cluster.kill(old);
    cluster.restart(old);
    load.progress(WRITES);
    load.stop().check(&cluster);
}

/// From now on the syncs of a process hang.
fn hang(strace: PathBuf, pid: u32) -> Child {
    let pid = pid.to_string();
    let arguments = ["-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", HANG, "-o", "/dev/null", "-p", &pid];
    Command::new(strace).args(arguments).stdin(Stdio::null()).spawn().expect("strace runs")
}

/// Ends the delay.
fn end(mut strace: Child) {
    signal(strace.id(), "KILL");
    strace.wait().expect("a child can be waited for");
}

#[test]
fn names_that_do_not_resolve_yet_are_tried_again() {
    let needed = if is_root() { programs::tool("unshare") } else { Err("only root may mount".into()) };
    let servers = needed.and_then(|_| (0..2).map(|node| Engines::Mixed.server(node)).collect::<Result<Vec<_>, _>>());
    let Some(servers) = programs::or_skip("names that do not resolve", servers) else { return };
    let directory = Directory::new("hosts");
    let hosts = |node: usize| directory.path().join(format!("hosts{node}"));
    let identities = [0, 1].map(|node| Identity::local(&format!("m{node}")));
    let name = |node: usize| format!("m{node}.metastore.test");
    let url = |node: usize| format!("http://{}", identities[node].peer_address.replace("127.0.0.1", &name(node)));
    let all = format!("--initial-cluster=m0={},m1={}", url(0), url(1));
    let mut members: Vec<Member> = servers
        .iter()
        .enumerate()
        .map(|(node, server)| {
            // Each member can resolve only its own name.
            std::fs::write(hosts(node), format!("127.0.0.1 localhost {}\n", name(node))).expect("writable");
            let advertised = format!("--initial-advertise-peer-urls={}", url(node));
            let mut member = Member::with_identity(server, identities[node].clone(), &[&all, &advertised]);
            let hosts = hosts(node).display().to_string();
            member.wrap_in(&["unshare", "--mount", "sh", "-c", WITH_HOSTS, "sh", &hosts].map(String::from));
            member.launch().expect("it starts");
            member
        })
        .collect();
    for (node, member) in members.iter().enumerate() {
        let deadline = Instant::now() + PATIENCE;
        let complains = |line: &String| line.contains("\"warn\"") && line.contains(&name(1 - node));
        while !member.log().iter().any(complains) {
            assert!(Instant::now() < deadline, "nobody misses {}: {:#?}", name(1 - node), member.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
    for node in 0..2 {
        // In place, because the mount refers to the file itself, not to its name.
        std::fs::write(hosts(node), format!("127.0.0.1 localhost {} {}\n", name(0), name(1))).expect("writable");
    }
    for member in &mut members {
        member.wait_until_ready().unwrap_or_else(|reason| panic!("with all names known: {reason}"));
    }
}
