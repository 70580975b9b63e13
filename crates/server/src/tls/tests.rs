//! Handshakes between both sides, over TCP, with certificates made on the spot.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::logging::Level;
use crate::logging::tests::lines;

const DAY: Duration = Duration::days(1);

/// A directory of its own, with a CA and the certificates that it signs.
struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    serials: AtomicU32,
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A certificate to sign.
#[derive(Clone)]
struct Leaf {
    purposes: Vec<ExtendedKeyUsagePurpose>,
    names: Vec<&'static str>,
    until: OffsetDateTime,
}

impl Default for Leaf {
    fn default() -> Self {
        Leaf {
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            names: vec!["127.0.0.1", "localhost"],
            until: OffsetDateTime::now_utc() + DAY,
        }
    }
}

impl Authority {
    fn new() -> Authority {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("metastore-tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(unique);
        fs::create_dir_all(&directory).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the CA of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        fs::write(directory.join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { directory, issuer: Issuer::new(params, key), serials: AtomicU32::new(1) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a pair with this common name, and returns its serial number.
    fn sign(&self, name: &str, leaf: Leaf) -> u32 {
        let serial = self.serials.fetch_add(1, Ordering::Relaxed);
        let names: Vec<_> = leaf.names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.serial_number = Some(SerialNumber::from(u64::from(serial)));
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = leaf.purposes;
        (params.not_before, params.not_after) = (leaf.until - 2 * DAY, leaf.until);
        let key = KeyPair::generate().unwrap();
        fs::write(self.path(&format!("{name}.crt")), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        serial
    }

    fn revoke(&self, serials: &[u32]) {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u32| RevokedCertParams {
            serial_number: SerialNumber::from(u64::from(*serial)),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + DAY,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        fs::write(self.path("crl"), list.signed_by(&self.issuer).unwrap().der()).unwrap();
    }

    fn pair(&self, name: &str) -> PairPaths {
        PairPaths { certificate: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) }
    }

    /// The settings of a side that has the certificate `name` and demands one.
    fn settings(&self, name: &str) -> Settings {
        Settings {
            server: self.pair(name),
            trusted_ca_file: Some(self.path("ca.crt")),
            client_cert_auth: true,
            ..Settings::default()
        }
    }
}

/// [`Acceptor::accept`], with the reason of a refusal in place of its line in the log.
async fn try_accept<S: AsyncRead + AsyncWrite + Unpin>(
    acceptor: &Acceptor,
    socket: S,
    remote: Option<SocketAddr>,
) -> Result<(Stream<S>, Option<String>), String> {
    acceptor.within_time(socket, remote, &mut accept::Known::default()).await.map_err(|refused| refused.error)
}

/// One connection. Returns the user that the server knows the client as, or the words of the server's log.
async fn meet(acceptor: &Acceptor, connector: &Connector) -> Result<Option<String>, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = async {
        let socket = TcpStream::connect(address).await.unwrap();
        // With TLS 1.3 a client that is refused learns it from the first bytes that it reads.
        let mut stream = connector.connect(socket, "127.0.0.1").await.map_err(|error| error.to_string())?;
        let _ = stream.write_all(b"ping").await;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.map(|_| answer).map_err(|error| error.to_string())
    };
    let server = async {
        let (socket, remote) = listener.accept().await.unwrap();
        let (mut stream, user) = try_accept(acceptor, socket, Some(remote)).await?;
        let mut asked = [0; 4];
        stream.read_exact(&mut asked).await.map_err(|error| error.to_string())?;
        stream.write_all(b"pong").await.map_err(|error| error.to_string())?;
        stream.shutdown().await.map_err(|error| error.to_string())?;
        Ok(user)
    };
    let (heard, user) = tokio::join!(client, server);
    assert_eq!(heard.as_ref().ok(), user.as_ref().ok().map(|_| b"pong"), "{heard:?} {user:?}");
    user
}

fn acceptor(settings: &Settings) -> Acceptor {
    Acceptor::new(settings, Endpoint::Client).unwrap()
}

fn connector(settings: &Settings) -> Connector {
    Connector::new(settings).unwrap()
}

/// Whether this version of a file has been read: two connections of which the second finds a fresh look.
async fn replaced() {
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
}

#[tokio::test]
async fn a_client_is_known_by_the_common_name_of_its_certificate() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    ca.sign("alice", Leaf::default());
    let alice = connector(&ca.settings("alice"));
    assert_eq!(meet(&acceptor(&ca.settings("server")), &alice).await, Ok(Some("alice".into())));
    // As in etcd, the CA alone demands a certificate, but names nobody.
    let without = Settings { client_cert_auth: false, ..ca.settings("server") };
    assert_eq!(meet(&acceptor(&without), &alice).await, Ok(None));
}

#[tokio::test]
async fn wrong_certificates_are_refused_with_the_words_of_etcd() {
    let (ca, other) = (Authority::new(), Authority::new());
    ca.sign("server", Leaf::default());
    ca.sign("old", Leaf { until: OffsetDateTime::now_utc() - DAY, ..Leaf::default() });
    ca.sign("purpose", Leaf { purposes: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Leaf::default() });
    other.sign("foreign", Leaf::default());
    let acceptor = acceptor(&ca.settings("server"));
    let foreign = Settings { server: other.pair("foreign"), ..ca.settings("server") };
    let verify = "tls: failed to verify certificate: x509: ";
    for (settings, text) in [
        (foreign, format!("{verify}certificate signed by unknown authority")),
        (ca.settings("purpose"), format!("{verify}certificate specifies an incompatible key usage")),
        (ca.settings("old"), format!("{verify}certificate has expired or is not yet valid: ")),
    ] {
        let error = meet(&acceptor, &connector(&settings)).await.unwrap_err();
        assert!(error.starts_with(&text), "{error}");
    }
    let nobody = Settings { server: PairPaths::default(), ..ca.settings("server") };
    let error = meet(&acceptor, &connector(&nobody)).await.unwrap_err();
    assert_eq!(error, "tls: client didn't provide a certificate");
}

#[tokio::test]
async fn the_certificate_of_a_server_is_checked_too() {
    let (ca, other) = (Authority::new(), Authority::new());
    ca.sign("server", Leaf { names: vec!["10.0.0.1"], ..Leaf::default() });
    other.sign("foreign", Leaf::default());
    let client = connector(&ca.settings("server"));
    for pair in [ca.pair("server"), other.pair("foreign")] {
        let settings = Settings { server: pair, ..ca.settings("server") };
        assert!(meet(&acceptor(&settings), &client).await.unwrap_err().starts_with("remote error: tls: "));
    }
}

#[tokio::test]
async fn allowed_names() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    ca.sign("alice", Leaf { names: vec!["alice.example"], ..Leaf::default() });
    let alice = connector(&ca.settings("alice"));
    let refused = Err("client certificate authentication failed".to_owned());
    let with = |names: &[&str], hosts: &[&str]| Settings {
        allowed_common_names: names.iter().map(ToString::to_string).collect(),
        allowed_hostnames: hosts.iter().map(ToString::to_string).collect(),
        ..ca.settings("server")
    };
    for (settings, good) in [
        (with(&["bob", "alice"], &[]), true),
        (with(&["bob"], &[]), false),
        (with(&[], &["bob.example", "alice.example"]), true),
        (with(&[], &["bob.example"]), false),
    ] {
        let expected = if good { Ok(Some("alice".to_owned())) } else { refused.clone() };
        assert_eq!(meet(&acceptor(&settings), &alice).await, expected);
    }
    // The certificate of a server must have an allowed name as well.
    for (name, good) in [("server", true), ("bob", false)] {
        let client = connector(&with(&[name], &[]));
        assert_eq!(meet(&acceptor(&ca.settings("server")), &client).await.is_ok(), good, "{name}");
    }
    let error = Acceptor::new(&with(&["a"], &["b"]), Endpoint::Peer).unwrap_err();
    assert_eq!(error, "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], hostnames=[\"b\"])");
}

#[tokio::test]
async fn revoked_certificates_are_refused_in_resumed_sessions_too() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    let serial = ca.sign("alice", Leaf::default());
    ca.sign("bob", Leaf::default());
    let settings = Settings { crl_file: Some(ca.path("crl")), ..ca.settings("server") };
    let (alice, bob) = (connector(&ca.settings("alice")), connector(&ca.settings("bob")));
    let acceptor = acceptor(&settings);
    let missing = meet(&acceptor, &alice).await.unwrap_err();
    assert_eq!(missing, format!("open {}: no such file or directory", ca.path("crl").display()));
    ca.revoke(&[]);
    replaced().await;
    assert_eq!(meet(&acceptor, &alice).await, Ok(Some("alice".into())));
    assert_eq!(meet(&acceptor, &alice).await, Ok(Some("alice".into())), "a resumed session has a user, too");
    ca.revoke(&[1000, serial]);
    replaced().await;
    let revoked = Err(format!("transport: certificate serial {serial:02x} revoked"));
    assert_eq!(meet(&acceptor, &alice).await, revoked);
    assert_eq!(meet(&acceptor, &bob).await, Ok(Some("bob".into())));
    fs::write(ca.path("crl"), "no list").unwrap();
    replaced().await;
    assert_eq!(meet(&acceptor, &bob).await, Err("x509: malformed crl".into()));
}

#[tokio::test]
async fn a_session_is_resumed_until_its_certificate_expires() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    ca.sign("alice", Leaf { until: OffsetDateTime::now_utc() + Duration::seconds(3), ..Leaf::default() });
    let (acceptor, alice) = (acceptor(&ca.settings("server")), connector(&ca.settings("alice")));
    meet(&acceptor, &alice).await.unwrap();
    let refused = async {
        loop {
            match meet(&acceptor, &alice).await {
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                Err(error) => break error,
            }
        }
    };
    let error = tokio::time::timeout(std::time::Duration::from_secs(20), refused).await.unwrap();
    assert_eq!(error, "tls: failed to verify certificate: x509: certificate has expired or is not yet valid");
}

#[tokio::test]
async fn a_replaced_certificate_is_used_and_garbage_is_not() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    let acceptor = acceptor(&Settings { client_cert_auth: false, trusted_ca_file: None, ..ca.settings("server") });
    // Each has no session that it could resume.
    let nobody = Settings { server: PairPaths::default(), client_cert_auth: false, ..ca.settings("server") };
    let anyone = || connector(&nobody);
    meet(&acceptor, &anyone()).await.unwrap();
    // The pair of another server, for another address: the client notices it.
    ca.sign("server", Leaf { names: vec!["10.0.0.1"], ..Leaf::default() });
    replaced().await;
    assert_eq!(meet(&acceptor, &anyone()).await.unwrap_err(), "remote error: tls: bad certificate");
    ca.sign("server", Leaf::default());
    replaced().await;
    meet(&acceptor, &anyone()).await.unwrap();
    fs::write(ca.path("server.crt"), "garbage").unwrap();
    replaced().await;
    meet(&acceptor, &anyone()).await.expect("the certificate that was read before");
    fs::remove_file(ca.path("server.crt")).unwrap();
    replaced().await;
    meet(&acceptor, &anyone()).await.expect("the certificate that was read before");
}

#[test]
fn garbage_in_place_of_a_certificate_is_logged_with_the_name_of_the_file() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    let acceptor = acceptor(&ca.settings("server"));
    fs::write(ca.path("server.crt"), "garbage").unwrap();
    let anyone = Connector::new(&Settings { server: PairPaths::default(), ..ca.settings("server") }).unwrap();
    let lines = lines(Level::Info, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            replaced().await;
            meet(&acceptor, &anyone).await.unwrap_err();
        });
    });
    let line = lines.iter().find(|line| line["level"] == "error").unwrap();
    assert_eq!(line["cert-file"], ca.path("server.crt").to_str().unwrap());
    assert_eq!(line["error"], "tls: failed to find any PEM data in certificate input");
}

#[test]
fn a_refused_connection_is_logged_with_the_fields_of_etcd() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    let serial = ca.sign("alice", Leaf { names: vec!["10.0.0.1", "alice.example"], ..Leaf::default() });
    ca.revoke(&[serial]);
    let settings = Settings { crl_file: Some(ca.path("crl")), ..ca.settings("server") };
    let lines = lines(Level::Info, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for endpoint in [Endpoint::Client, Endpoint::Peer] {
                let settings = Settings { skip_client_san_verification: true, ..settings.clone() };
                let acceptor = Acceptor::new(&settings, endpoint).unwrap();
                for _ in 0..100 {
                    let (near, far) = connected().await;
                    let connector = connector(&ca.settings("alice"));
                    let connect = connector.connect(far, "localhost");
                    let (_, accepted) = tokio::join!(connect, acceptor.accept(near.0, Some(near.1)));
                    assert!(accepted.is_err());
                }
            }
        });
    });
    for kind in ["client", "peer"] {
        let text = format!("rejected connection on {kind} endpoint");
        let lines: Vec<_> = lines.iter().filter(|line| line["msg"] == text).collect();
        assert_eq!(lines.len(), crate::seldom::CHANGES as usize);
        assert!(lines[0]["remote-addr"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert_eq!(lines[0]["server-name"], "localhost");
        assert_eq!(lines[0]["error"], format!("transport: certificate serial {serial:02x} revoked"));
        assert_eq!(lines[0]["ip-addresses"], "[\"10.0.0.1\"]");
        assert_eq!(lines[0]["dns-names"], "[\"alice.example\"]");
    }
}

async fn connected() -> ((TcpStream, SocketAddr), TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap(), far)
}

#[tokio::test]
async fn what_is_no_handshake_is_refused() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    let acceptor = acceptor(&ca.settings("server"));
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let ((near, remote), mut far) = connected().await;
        far.write_all(bytes).await.unwrap();
        let error = try_accept(&acceptor, near, Some(remote)).await.unwrap_err();
        assert_eq!(error, "tls: first record does not look like a TLS handshake");
    }
    let ((near, remote), far) = connected().await;
    drop(far);
    assert_eq!(try_accept(&acceptor, near, Some(remote)).await.unwrap_err(), "EOF");
}

#[tokio::test(start_paused = true)]
async fn silence_in_a_handshake_is_given_up() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    let acceptor = acceptor(&ca.settings("server"));
    for bytes in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let (near, mut far) = tokio::io::duplex(1024);
        far.write_all(bytes).await.unwrap();
        let before = tokio::time::Instant::now();
        let error = try_accept(&acceptor, near, None).await.unwrap_err();
        assert_eq!(error, "tls: handshake was not finished within 10s");
        assert_eq!(before.elapsed().as_secs(), 10);
    }
}

#[tokio::test]
async fn versions_and_suites_that_the_flags_allow() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    let with = |min: &str, max: &str, suites: &[&str]| {
        let suites: Vec<_> = suites.iter().map(ToString::to_string).collect();
        let protocol = ProtocolSettings::parse(min, max, &suites).unwrap();
        Settings { protocol, ..ca.settings("server") }
    };
    let (old, new) = (with("", "TLS1.2", &[]), with("TLS1.3", "", &[]));
    let ecdsa = with("", "TLS1.2", &["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]);
    let rsa = with("", "TLS1.2", &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
    for (server, client, error) in [
        (&old, &old, None),
        (&new, &new, None),
        (&old, &new, Some("tls: client offered only unsupported versions")),
        (&new, &old, Some("tls: client offered only unsupported versions")),
        (&ecdsa, &old, None),
        (&ecdsa, &rsa, Some("tls: no cipher suite supported by both client and server")),
    ] {
        let met = meet(&acceptor(server), &connector(client)).await;
        assert_eq!(met.err().as_deref(), error);
    }
}

#[tokio::test]
async fn members_check_from_where_a_member_connects() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    ca.sign("far", Leaf { names: vec!["10.0.0.1"], ..Leaf::default() });
    let far = connector(&ca.settings("far"));
    let peer = |settings: &Settings| Acceptor::new(settings, Endpoint::Peer).unwrap();
    let error = meet(&peer(&ca.settings("server")), &far).await.unwrap_err();
    assert_eq!(error, "x509: certificate is valid for 10.0.0.1, not 127.0.0.1");
    let lenient = Settings { skip_client_san_verification: true, ..ca.settings("server") };
    assert_eq!(meet(&peer(&lenient), &far).await, Ok(Some("far".into())));
    assert_eq!(
        meet(&acceptor(&ca.settings("server")), &far).await,
        Ok(Some("far".into())),
        "clients come from anywhere"
    );
}

#[tokio::test]
async fn a_pair_of_ones_own_is_made_once_and_nobody_checks_it() {
    let ca = Authority::new();
    let directory = ca.path("fixtures/peer");
    let own = |years| {
        let mut settings = Settings { auto: true, self_signed_years: years, ..Settings::default() };
        settings.complete(&directory, &["127.0.0.1".into(), "localhost".into()]).map(|()| settings)
    };
    assert_eq!(own(0).unwrap_err(), "selfSignedCertValidity is invalid,it should be greater than 0");
    let settings = own(1).unwrap();
    assert_eq!(meet(&acceptor(&settings), &connector(&settings)).await, Ok(None));
    let key = fs::read(directory.join("key.pem")).unwrap();
    own(1).unwrap();
    assert_eq!(fs::read(directory.join("key.pem")).unwrap(), key);
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join("key.pem"))), (0o700, 0o600));
}

#[test]
fn files_that_are_none_are_named_at_the_start() {
    let ca = Authority::new();
    ca.sign("server", Leaf::default());
    ca.sign("alice", Leaf::default());
    let start = |settings: &Settings| Acceptor::new(settings, Endpoint::Client).map(|_| ()).unwrap_err();
    let missing = PairPaths { key: ca.path("nokey"), ..ca.pair("server") };
    let error = start(&Settings { server: missing, ..ca.settings("server") });
    assert_eq!(error, format!("open {}: no such file or directory", ca.path("nokey").display()));
    let mixed = PairPaths { key: ca.path("alice.key"), ..ca.pair("server") };
    let error = start(&Settings { server: mixed, ..ca.settings("server") });
    assert_eq!(error, "tls: private key does not match public key");
    let no_ca = Settings { trusted_ca_file: Some(ca.path("server.key")), ..ca.settings("server") };
    assert!(start(&no_ca).contains("server.key: no certificate of a CA in it"));
}
