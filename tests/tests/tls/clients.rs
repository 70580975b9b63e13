//! Connections of clients.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use metastore_tests::certificates::Authority;
use metastore_tests::programs::EngineKind;

use super::{Etcdctl, member, programs, says, shows, url};
use crate::bad_days::observe::{eventually, http_get, memory_kib};

/// Connections that begin a handshake and say nothing more.
const SILENT: usize = 1_000;
/// The most memory that each of them may take.
const SILENT_KIB: u64 = 40;

fn put_and_get(etcdctl: &Etcdctl, url: &str, flags: &[String]) {
    assert_eq!(etcdctl.run(url, flags, &["put", "a", "1"]), Ok("OK".into()));
    assert_eq!(etcdctl.run(url, flags, &["get", "a"]), Ok("a\n1".into()));
}

each_engine!(only_clients_with_a_certificate_of_the_ca_are_served, a_revoked_certificate_is_refused);

fn only_clients_with_a_certificate_of_the_ca_are_served(engine: EngineKind) {
    let Some((subject, etcdctl)) = programs("client certificates", engine) else { return };
    let (ca, other) = (Authority::new(), Authority::new());
    let flags = [ca.flag("trusted-ca-file", "ca.crt"), "--client-cert-auth".into()];
    let mut member = member(&subject, &ca, &flags);
    member.restart();
    ca.sign("alice");
    ca.sign_expired("old");
    other.sign("foreign");
    put_and_get(&etcdctl, &url(&member), &shows(&ca, "alice"));
    let foreign = [ca.flag("cacert", "ca.crt"), other.flag("cert", "foreign.crt"), other.flag("key", "foreign.key")];
    for (flags, why) in [
        (vec![ca.flag("cacert", "ca.crt")], "tls: client didn't provide a certificate"),
        (shows(&ca, "old"), "x509: certificate has expired or is not yet valid"),
        (foreign.to_vec(), "x509: certificate signed by unknown authority"),
    ] {
        etcdctl.run(&url(&member), &flags, &["get", "a"]).expect_err(why);
        let said = || says(&member, &["rejected connection on client endpoint", "remote-addr", "server-name", why]);
        eventually(why, said);
    }
    // The client checks the server, too.
    etcdctl.run(&url(&member), &shows(&other, "foreign"), &["get", "a"]).expect_err("another CA");
    put_and_get(&etcdctl, &url(&member), &shows(&ca, "alice"));
}

fn a_revoked_certificate_is_refused(engine: EngineKind) {
    let Some((subject, etcdctl)) = programs("revoked certificates", engine) else { return };
    let ca = Authority::new();
    let [alice, bob] = ["alice", "bob"].map(|name| ca.sign(name));
    ca.revoke(&[bob]);
    let flags = [ca.flag("trusted-ca-file", "ca.crt"), "--client-cert-auth".into(), ca.flag("client-crl-file", "crl")];
    let mut member = member(&subject, &ca, &flags);
    member.restart();
    let get = |name: &str| etcdctl.run(&url(&member), &shows(&ca, name), &["get", "a"]);
    put_and_get(&etcdctl, &url(&member), &shows(&ca, "alice"));
    get("bob").expect_err("a revoked certificate");
    let refused = ["rejected connection on client endpoint", "transport: certificate serial", "revoked"];
    eventually("the reason is logged", || says(&member, &refused));
    // The list is read again.
    ca.revoke(&[alice]);
    eventually("alice is refused", || get("alice").is_err());
    assert_eq!(get("bob"), Ok("a\n1".into()));
    ca.revoke(&[]);
    eventually("alice is served", || get("alice").is_ok());
}

#[test]
fn the_common_name_of_a_certificate_is_a_user() {
    let Some((subject, etcdctl)) = programs("users by certificate", EngineKind::Memory) else { return };
    let ca = Authority::new();
    let flags = [ca.flag("trusted-ca-file", "ca.crt"), "--client-cert-auth".into()];
    let mut member = member(&subject, &ca, &flags);
    member.restart();
    for name in ["root", "alice", "nobody"] {
        ca.sign(name);
    }
    let as_user = |name: &str, arguments: &[&str]| etcdctl.run(&url(&member), &shows(&ca, name), arguments);
    for arguments in [
        &["user", "add", "root", "--no-password"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "alice", "--no-password"],
        &["role", "add", "app"],
        &["role", "grant-permission", "app", "readwrite", "--prefix", "app/"],
        &["user", "grant-role", "alice", "app"],
        &["auth", "enable"],
    ] {
        as_user("root", arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    }
    assert_eq!(as_user("alice", &["put", "app/a", "1"]), Ok("OK".into()));
    for (name, key) in [("alice", "other"), ("nobody", "app/a")] {
        let error = as_user(name, &["put", key, "1"]).unwrap_err();
        assert!(error.contains("permission denied"), "{name}: {error}");
    }
    assert_eq!(as_user("root", &["get", "app/a"]), Ok("app/a\n1".into()));
}

#[test]
fn one_port_takes_plain_text_and_tls() {
    let Some((subject, etcdctl)) = programs("one port", EngineKind::Memory) else { return };
    let ca = Authority::new();
    let mut member = member(&subject, &ca, &[]);
    let (plain, encrypted) = (member.client_url(), url(&member));
    member.add_flag(&format!("--listen-client-urls={plain},{encrypted}"));
    member.restart();
    put_and_get(&etcdctl, &plain, &[]);
    put_and_get(&etcdctl, &encrypted, &[ca.flag("cacert", "ca.crt")]);
    assert!(http_get(member.client_address(), "/health").contains("\"health\":\"true\""));
}

#[test]
fn the_wrong_kind_of_connection_is_refused_and_logged() {
    let Some((subject, etcdctl)) = programs("wrong kinds", EngineKind::Memory) else { return };
    let ca = Authority::new();
    let mut encrypted = member(&subject, &ca, &[]);
    encrypted.restart();
    let mut stream = TcpStream::connect(encrypted.client_address()).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let why = "first record does not look like a TLS handshake";
    eventually(why, || says(&encrypted, &["rejected connection on client endpoint", why]));

    let mut plain = metastore_tests::member::Member::start(&subject, &[]);
    etcdctl.run(&url(&plain), &[ca.flag("cacert", "ca.crt")], &["get", "a"]).expect_err("a port of plain text");
    let why = "a TLS handshake, and this URL is for plain text";
    eventually(why, || says(&plain, &["rejected connection on client endpoint", why]));
    plain.stop();
}

#[test]
fn a_thousand_silent_handshakes_hold_up_nobody_and_end() {
    let Some((subject, etcdctl)) = programs("silent handshakes", EngineKind::Memory) else { return };
    let ca = Authority::new();
    let mut member = member(&subject, &ca, &[]);
    member.restart();
    let flags = [ca.flag("cacert", "ca.crt")];
    put_and_get(&etcdctl, &url(&member), &flags);
    let (before, _) = memory_kib(member.pid());
    let begin = |number: usize| {
        let mut stream = TcpStream::connect(member.client_address()).unwrap();
        // Some say nothing at all, others begin a record of 512 bytes.
        let first: &[u8] = if number.is_multiple_of(2) { b"" } else { b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" };
        stream.write_all(first).unwrap();
        stream
    };
    let silent: Vec<_> = (0..SILENT).map(begin).collect();
    put_and_get(&etcdctl, &url(&member), &flags);
    let (now, _) = memory_kib(member.pid());
    assert!(now.saturating_sub(before) < SILENT as u64 * SILENT_KIB, "{before} KiB before, {now} KiB with them");
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let waits = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!waits, "the server waits for ever");
    }
    assert!(says(&member, &["rejected connection on client endpoint", "handshake was not finished within"]));
    put_and_get(&etcdctl, &url(&member), &flags);
}

#[test]
fn a_certificate_is_replaced_without_a_restart() {
    let Some((subject, etcdctl)) = programs("rotation", EngineKind::Memory) else { return };
    let (ca, next) = (Authority::new(), Authority::new());
    let mut member = member(&subject, &ca, &[]);
    member.restart();
    let (old, new) = ([ca.flag("cacert", "ca.crt")], [next.flag("cacert", "ca.crt")]);
    put_and_get(&etcdctl, &url(&member), &old);
    fs::write(ca.path("server.crt"), "garbage").unwrap();
    let why = "failed to find any PEM data in certificate input";
    eventually("garbage is noticed", || {
        put_and_get(&etcdctl, &url(&member), &old);
        says(&member, &["\"level\":\"error\"", "server.crt", why])
    });
    next.sign("server");
    for file in ["server.key", "server.crt"] {
        fs::copy(next.path(file), ca.path(file)).unwrap();
    }
    eventually("the new certificate", || etcdctl.run(&url(&member), &new, &["get", "a"]).is_ok());
    etcdctl.run(&url(&member), &old, &["get", "a"]).expect_err("the old CA has not signed it");
}

#[test]
fn a_member_makes_its_own_certificate() {
    let Some((subject, etcdctl)) = programs("auto TLS", EngineKind::Memory) else { return };
    let ca = Authority::new();
    let mut member = member(&subject, &ca, &["--cert-file=".into(), "--key-file=".into(), "--auto-tls".into()]);
    member.restart();
    // It is its own CA, as in etcd.
    let own = member.data_directory().join("fixtures/client/cert.pem");
    let flags = [format!("--cacert={}", own.display())];
    put_and_get(&etcdctl, &url(&member), &flags);
    let before = fs::read(&own).unwrap();
    member.stop();
    member.restart();
    assert_eq!(etcdctl.run(&url(&member), &flags, &["get", "a"]), Ok("a\n1".into()));
    assert_eq!(fs::read(&own).unwrap(), before);
}

#[test]
fn what_cannot_be_served_stops_the_start_with_its_reason() {
    let Some((subject, _)) = programs("refused starts", EngineKind::Memory) else { return };
    for (flag, why) in [
        ("--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA", "unexpected TLS cipher suite"),
        ("--tls-min-version=TLS1.1", "unexpected TLS version"),
        ("--key-file=/nonexistent", "open /nonexistent: no such file or directory"),
        ("--key-file=", "KeyFile and CertFile must both be present"),
        ("--trusted-ca-file=/nonexistent", "open /nonexistent: no such file or directory"),
    ] {
        let ca = Authority::new();
        let mut member = member(&subject, &ca, &[flag.to_owned()]);
        member.launch().unwrap();
        let status = member.wait_exit(Duration::from_secs(30)).expect("it ends");
        assert_eq!(status.code(), Some(1), "{flag}");
        assert!(says(&member, &[why]), "{flag}: {:?}", member.log());
    }
}
