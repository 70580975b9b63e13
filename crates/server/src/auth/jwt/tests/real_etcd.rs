//! A real etcd takes the tokens that are signed here, and its own tokens are valid here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;

/// How long a real etcd may take on a busy machine.
const ETCD_PATIENCE: Duration = Duration::from_secs(60);

struct Etcd {
    process: Child,
    data_dir: PathBuf,
    client: SocketAddr,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.data_dir);
    }
}

/// The program of the newest etcd that is installed for comparison; none on most machines.
fn newest() -> Option<PathBuf> {
    let versions = Path::new(&std::env::var_os("HOME")?).join(".cache/metastore/etcd");
    let programs = std::fs::read_dir(versions).into_iter().flatten().flatten();
    let newest = programs.map(|entry| entry.path().join("bin/etcd")).filter(|program| program.exists()).max();
    if newest.is_none() {
        println!("skipped: no etcd under ~/.cache/metastore/etcd");
    }
    newest
}

impl Etcd {
    /// An etcd with a user root and authentication enabled.
    fn start(program: &Path, method: &str, options: &str) -> Etcd {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (client, peer) = (free(), format!("http://{}", free()));
        let url = format!("http://{client}");
        let data_dir = std::env::temp_dir().join(format!("metastore-jwt-etcd-{method}-{}", std::process::id()));
        let process = Command::new(program)
            .args(["--name", "jwt", "--initial-cluster", &format!("jwt={peer}"), "--bcrypt-cost", "4"])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--auth-token", &format!("jwt,{options}")])
            .arg("--data-dir")
            .arg(&data_dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let etcd = Etcd { process, data_dir, client };
        let deadline = Instant::now() + ETCD_PATIENCE;
        while !etcd.ask("auth/user/add", r#"{"name":"root","password":"secret"}"#, "").contains("header") {
            assert!(Instant::now() < deadline, "{options}: it does not start");
            std::thread::yield_now();
        }
        etcd.ask("auth/user/grant", r#"{"user":"root","role":"root"}"#, "");
        let enabled = etcd.ask("auth/enable", "{}", "");
        assert!(enabled.contains("header"), "{enabled}");
        etcd
    }

    /// The answer to a request to the JSON gateway; empty if there is none.
    fn ask(&self, path: &str, body: &str, token: &str) -> String {
        let mut answer = String::new();
        let Ok(mut stream) = TcpStream::connect(self.client) else { return answer };
        let authorization = if token.is_empty() { String::new() } else { format!("authorization: {token}\r\n") };
        let head = format!("POST /v3/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{authorization}");
        let asked = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
        _ = asked.and_then(|()| stream.read_to_string(&mut answer));
        answer
    }
}

#[test]
fn a_real_etcd_and_this_server_accept_the_tokens_of_each_other() {
    let Some(program) = newest() else { return };
    for (method, key) in
        [("RS256", "rsa.pem"), ("PS512", "rsa1.pem"), ("ES512", "ec521.pem"), ("EdDSA", "ed.pem"), ("HS384", "hs.key")]
    {
        let options = format!("sign-method={method},priv-key={}", path(key).display());
        let (etcd, jwt) = (Etcd::start(&program, method, &options), Jwt::new(&options).unwrap());
        let answer = etcd.ask("auth/authenticate", r#"{"name":"root","password":"secret"}"#, "");
        let token = answer.split(r#""token":""#).nth(1).and_then(|rest| rest.split('"').next()).expect(&answer);
        let (user, revision) = jwt.verify(token, SystemTime::now()).expect(token);
        assert_eq!(user, "root", "{method}");
        let own = jwt.sign("root", revision, SystemTime::now()).unwrap();
        let range = |token: &str| etcd.ask("kv/range", r#"{"key":"YQ=="}"#, token);
        assert!(range(&own).starts_with("HTTP/1.1 200 "), "{method}: {}", range(&own));
        let (text, signature) = own.rsplit_once('.').unwrap();
        let mut damaged = decode(signature).unwrap();
        damaged[7] ^= 1;
        let refused = range(&format!("{text}.{}", encode(&damaged)));
        assert!(refused.contains("invalid auth token"), "{method}: {refused}");
        let earlier = jwt.sign("root", revision, SystemTime::now() - Duration::from_secs(600)).unwrap();
        assert!(range(&earlier).contains("invalid auth token"), "{method}: expired");
    }
}
