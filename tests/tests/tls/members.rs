//! Connections of members.

use std::io::{Read, Write};
use std::net::TcpStream;

use metastore_tests::certificates::Authority;
use metastore_tests::cluster::Cluster;
use metastore_tests::load::Load;
use metastore_tests::programs::{self, EngineKind, Server};

use super::says;
use crate::bad_days::observe::eventually;

const WRITES: usize = 500;
/// So few entries that a member that was away is sent the whole state.
const FEW_ENTRIES: [&str; 2] = ["--snapshot-count=100", "--snapshot-catchup-entries=100"];
const IN_FLIGHT: usize = 64;

/// Flags of members that demand certificates from each other.
pub fn flags(ca: &Authority) -> Vec<String> {
    ca.sign("peer");
    vec![
        ca.flag("peer-cert-file", "peer.crt"),
        ca.flag("peer-key-file", "peer.key"),
        ca.flag("peer-trusted-ca-file", "ca.crt"),
        "--peer-client-cert-auth".into(),
    ]
}

fn start(servers: &[Server], flags: &[String], more: &[&str]) -> Cluster {
    let flags: Vec<_> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Cluster::start(servers, &flags)
}

/// Writes go on while each member is away in turn; then all have the same.
fn takes_turns(mut cluster: Cluster) {
    let load = Load::start(&cluster.addresses());
    for node in cluster.running() {
        load.progress(WRITES);
        cluster.kill(node);
        load.progress(WRITES);
        cluster.restart(node);
    }
    load.progress(WRITES);
    load.stop().check(&cluster);
}

fn subjects() -> Result<Vec<Server>, String> {
    [EngineKind::Memory, EngineKind::RocksDb, EngineKind::Memory].into_iter().map(programs::subject).collect()
}

#[test]
fn members_demand_certificates_from_each_other() {
    let Some(servers) = programs::or_skip("peer TLS", subjects()) else { return };
    let ca = Authority::new();
    takes_turns(start(&servers, &flags(&ca), &["--peer-cert-allowed-cn=other,peer"]));
}

#[test]
fn a_whole_state_is_sent_with_tls() {
    let Some(servers) = programs::or_skip("states with TLS", subjects()) else { return };
    let ca = Authority::new();
    let mut cluster = start(&servers, &flags(&ca), &FEW_ENTRIES);
    let away = cluster.followers()[0];
    cluster.kill(away);
    cluster.put_many(cluster.leader(), 5_000, IN_FLIGHT);
    cluster.restart(away);
    cluster.agree();
    eventually("a state is sent", || {
        cluster.running().iter().any(|node| says(cluster.member(*node), &["sent database snapshot"]))
    });
}

each_engine!(a_member_joins_a_cluster_with_certificates);

fn a_member_joins_a_cluster_with_certificates(engine: EngineKind) {
    let found = programs::subject(engine).and_then(|own| Ok((own, programs::subject(engine.other())?)));
    let Some((own, joiner)) = programs::or_skip("joining with TLS", found) else { return };
    let (ca, other) = (Authority::new(), Authority::new());
    let mut cluster = start(&[own.clone(), own], &flags(&ca), &FEW_ENTRIES);
    let load = Load::start(&cluster.addresses());
    load.progress(WRITES);
    // A certificate of another CA is not let in, although the member was added.
    let new = cluster.intruder(&joiner);
    cluster.announce(new, true);
    other.sign("peer");
    let shown = |ca: &Authority| [ca.flag("peer-cert-file", "peer.crt"), ca.flag("peer-key-file", "peer.key")];
    shown(&other).iter().for_each(|flag| cluster.add_flag(new, flag));
    cluster.launch(new);
    let refused = ["rejected connection on peer endpoint", "x509: certificate signed by unknown authority"];
    eventually("the joiner is refused", || says(cluster.member(0), &refused));
    cluster.kill(new);
    shown(&ca).iter().for_each(|flag| cluster.add_flag(new, flag));
    cluster.join(new);
    load.progress(WRITES);
    cluster.promote(new);
    cluster.move_leader(new);
    load.progress(WRITES);
    cluster.kill(new);
    load.progress(WRITES);
    cluster.restart(new);
    load.progress(WRITES);
    load.stop().check(&cluster);
}

#[test]
fn members_make_their_own_certificates() {
    let Some(servers) = programs::or_skip("peer auto TLS", subjects()) else { return };
    takes_turns(start(&servers, &[], &["--peer-auto-tls"]));
}

/// Two members of etcd and one of MetaStore.
fn beside(test: &str, flags: &[String]) {
    let found = programs::etcd("newest").and_then(|etcd| {
        let etcd = Server::etcd(&etcd);
        Ok([etcd.clone(), programs::subject(EngineKind::Memory)?, etcd])
    });
    let Some(servers) = programs::or_skip(test, found) else { return };
    let mut cluster = start(&servers, flags, &[]);
    let load = Load::start(&cluster.addresses());
    cluster.move_leader(1);
    load.progress(WRITES);
    cluster.move_leader(0);
    load.progress(WRITES);
    cluster.kill(0);
    load.progress(WRITES);
    cluster.restart(0);
    load.progress(WRITES);
    load.stop().check(&cluster);
}

#[test]
fn a_member_beside_two_of_etcd_with_certificates() {
    let ca = Authority::new();
    beside("etcd and peer TLS", &flags(&ca));
}

#[test]
fn a_member_beside_two_of_etcd_with_certificates_of_their_own() {
    beside("etcd and peer auto TLS", &["--peer-auto-tls".into()]);
}

#[test]
fn a_stranger_is_refused_at_the_peer_port() {
    let found = programs::subject(EngineKind::Memory);
    let Some(subject) = programs::or_skip("strangers", found) else { return };
    let ca = Authority::new();
    let cluster = start(&[subject], &flags(&ca), &[]);
    let member = cluster.member(0);
    let mut stream = TcpStream::connect(&member.identity().peer_address).unwrap();
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let why = "first record does not look like a TLS handshake";
    eventually(why, || says(member, &["rejected connection on peer endpoint", why]));
}
