//! Listeners apart from each other: HTTP, gRPC and metrics, sockets of the file system, and TLS on each.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use metastore_proto::etcdserverpb::{PutRequest, PutResponse};
use metastore_tests::certificates::Authority;
use metastore_tests::cluster::block_on;
use metastore_tests::grpc::Client;
use metastore_tests::member::{Directory, Member, free_address};
use metastore_tests::programs::with_both;
use metastore_tests::{cluster, paths};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{PATIENCE, ask, ask_through, servers};
use crate::bad_days::observe::eventually;
use crate::tls;

/// The beginning of a connection of HTTP/2.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How the server takes these bytes.
fn reaction(address: &str, bytes: &[u8]) -> &'static str {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.write_all(bytes).expect("it is sent");
    let mut received = [0; 9];
    match stream.read_exact(&mut received) {
        Err(_) => "closed",
        Ok(()) if received.starts_with(b"HTTP/1.1 ") => "HTTP/1.1",
        // A frame of SETTINGS.
        Ok(()) if received[3] == 4 => "HTTP/2",
        Ok(()) => "something else",
    }
}

/// Whether a write through gRPC succeeds.
fn takes_a_put(address: &str) -> bool {
    let request: PutRequest = cluster::put_request("a", "b");
    block_on(async { Client::new(address).unary::<_, PutResponse>(paths::PUT, request).await.is_ok() })
}

#[test]
fn http_apart_from_grpc_is_as_in_etcd() {
    let Some(servers) = servers("HTTP apart from gRPC") else { return };
    let [subject, etcd] = with_both(&servers, |server| {
        let (http, metrics) = (free_address(), free_address());
        let flags =
            [format!("--listen-client-http-urls=http://{http}"), format!("--listen-metrics-urls=http://{metrics}")];
        let member = Member::start(server, &flags.each_ref().map(|flag| &**flag));
        let get = b"GET /health HTTP/1.1\r\nHost: m\r\n\r\n";
        let each = [member.client_address(), &http, &metrics]
            .map(|address| (takes_a_put(address), reaction(address, get), reaction(address, HTTP2) == "HTTP/2"));
        // A call without the content type of gRPC.
        let refused = block_on(async {
            let stream = tokio::net::TcpStream::connect(member.client_address()).await.expect("it accepts");
            let (send, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
            tokio::spawn(connection);
            let request = http::Request::get("http://m/health").body(()).expect("a request");
            let answer = send.ready().await.expect("it lives").send_request(request, true).expect("it lives").0;
            let answer = answer.await.expect("an answer");
            (answer.status().as_u16(), answer.headers().get("grpc-status").cloned())
        });
        let paths = ["/health", "/version", "/debug/vars", "/metrics", "/nothing"];
        let http = paths.map(|path| ask(&http, "GET", path, "").status);
        let metrics = paths.map(|path| ask(&metrics, "GET", path, "").status);
        (each, refused, http, metrics)
    });
    assert_eq!(subject, etcd, "left is the subject, right is etcd");
    let expected = [(true, "HTTP/2", true), (false, "HTTP/1.1", false), (false, "HTTP/1.1", false)];
    assert_eq!(etcd.0, expected, "the client port, the HTTP port, the metrics port");
}

#[test]
fn a_url_may_be_named_twice_and_a_port_may_take_both() {
    let Some(servers) = servers("URLs named twice") else { return };
    let [subject, etcd] = with_both(&servers, |server| {
        let (ca, [http, metrics]) = (Authority::new(), [free_address(), free_address()]);
        let flags = [
            format!("--listen-client-http-urls=http://{http},https://{http},http://{http}"),
            format!("--listen-metrics-urls=http://{metrics},http://{metrics}"),
        ];
        let mut member = tls::member(server, &ca, &flags);
        member.restart();
        let plain = [&http, &metrics].map(|address| ask(address, "GET", "/health", "").status);
        (plain, over_tls(&http, &ca, None))
    });
    assert_eq!(subject, etcd, "left is the subject, right is etcd");
    assert_eq!(etcd, ([200; 2], Some(200)));
}

/// The status of GET /health over TLS, with the certificate of a name or without one; `None` if the connection fails.
fn over_tls(address: &str, ca: &Authority, certificate: Option<&str>) -> Option<u16> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(ca.path("ca.crt")).expect("a certificate");
    roots.add(authority).expect("a CA");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_root_certificates(roots);
    let config = match certificate {
        None => config.with_no_client_auth(),
        Some(name) => {
            let chain = vec![CertificateDer::from_pem_file(ca.path(&format!("{name}.crt"))).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_file(ca.path(&format!("{name}.key"))).expect("a key");
            config.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let socket = TcpStream::connect(address).expect("the server accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let mut stream = StreamOwned::new(session, socket);
    write!(stream, "GET /health HTTP/1.0\r\nHost: m\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}

/// etcd asks for certificates at every port with TLS, that of the metrics included, and at none without.
#[test]
fn certificates_are_asked_for_where_etcd_asks() {
    let Some(servers) = servers("certificates at every port") else { return };
    let [subject, etcd] = with_both(&servers, |server| {
        let (ca, ports) = (Authority::new(), [free_address(), free_address(), free_address(), free_address()]);
        ca.sign("alice");
        let [http, plain_http, metrics, plain_metrics] = &ports;
        let flags = [
            format!("--listen-client-http-urls=https://{http},http://{plain_http}"),
            format!("--listen-metrics-urls=https://{metrics},http://{plain_metrics}"),
            ca.flag("trusted-ca-file", "ca.crt"),
            "--client-cert-auth".to_owned(),
        ];
        let mut member = tls::member(server, &ca, &flags);
        member.restart();
        eventually("a healthy member", || ask(plain_metrics, "GET", "/health", "").status == 200);
        let encrypted = [http, metrics].map(|port| [None, Some("alice")].map(|name| over_tls(port, &ca, name)));
        let plain = [plain_http, plain_metrics].map(|port| ask(port, "GET", "/health", "").status);
        (encrypted, plain)
    });
    assert_eq!(subject, etcd, "left is the subject, right is etcd");
    assert_eq!(etcd, ([[None, Some(200)]; 2], [200; 2]));
}

#[test]
fn sockets_of_the_file_system_serve_as_ports_do() {
    let Some(servers) = servers("sockets of the file system") else { return };
    let Some((_, etcdctl)) = tls::programs("sockets", metastore_tests::programs::EngineKind::Memory) else { return };
    let [subject, etcd] = with_both(&servers, |server| {
        let (ca, directory) = (Authority::new(), Directory::new("sockets"));
        let path = |name: &str| directory.path().join(name);
        let url = |scheme: &str, name: &str| format!("{scheme}://{}", path(name).display());
        let (plain, encrypted, observed) = (url("unix", "plain"), url("unixs", "tls"), url("unix", "metrics"));
        let mut member = tls::member(server, &ca, &[format!("--listen-metrics-urls={observed}")]);
        member.add_flag(&format!("--listen-client-urls={},{plain},{encrypted}", tls::url(&member)));
        member.restart();
        let unix = |name: &str| UnixStream::connect(path(name)).expect("the server accepts");
        let paths = ["/health", "/version", "/metrics"];
        let statuses = |name: &str| paths.map(|path| ask_through(unix(name), "GET", path, "").status);
        // etcd takes only the host of this URL, so it has no metrics at a path.
        if !server.is_etcd() {
            assert_eq!(statuses("metrics"), [200, 404, 200]);
        }
        let statuses = statuses("plain");
        // The certificate names addresses, and no file.
        let unchecked = ["--insecure-skip-tls-verify".to_owned()];
        let ctl = |url: &str, arguments: &[&str]| {
            let flags = if url.starts_with("unixs:") { &unchecked[..] } else { &[] };
            etcdctl.run(url, flags, arguments).map_err(|_| "refused")
        };
        let put = ctl(&plain, &["put", "a", "b"]);
        let got = ctl(&encrypted, &["get", "a", "--print-value-only"]);
        // The files that a killed member leaves are in nobody's way.
        member.kill();
        let left = path("plain").exists();
        member.restart();
        (statuses, put, got, left, ctl(&plain, &["get", "a", "--print-value-only"]))
    });
    assert_eq!(subject, etcd, "left is the subject, right is etcd");
    assert_eq!((&etcd.1, &etcd.4), (&Ok("OK".to_owned()), &Ok("b".to_owned())));
}
