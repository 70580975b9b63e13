use http_body_util::BodyExt;

use super::*;
use crate::grpc::Ledger;
use crate::metrics::{Number, NumberKind};

struct Fake {
    alarms: Vec<&'static str>,
    leader: bool,
    read: Result<(), String>,
}

impl Default for Fake {
    fn default() -> Self {
        Fake { alarms: Vec::new(), leader: true, read: Ok(()) }
    }
}

const PUTS: &Number = &Number { name: "etcd_mvcc_put_total", help: "Puts.", kind: NumberKind::Counter };

impl MemberView for Fake {
    fn readings(&self) -> LocalFuture<Readings> {
        Box::pin(std::future::ready(Readings { numbers: vec![(PUTS, 5)], ..Readings::default() }))
    }

    fn alarms(&self) -> Vec<&'static str> {
        self.alarms.clone()
    }

    fn has_leader(&self) -> bool {
        self.leader
    }

    fn awaits_answers(&self) -> bool {
        false
    }

    fn cluster_version(&self) -> Option<String> {
        self.leader.then(|| "3.7.0".to_owned())
    }

    fn cluster_id(&self) -> u64 {
        0xcdf8_181e_3277_5c01
    }

    fn members(&self) -> Vec<Member> {
        vec![Member {
            id: 10276657743932975437,
            peer_urls: vec!["http://localhost:2380".into()],
            is_learner: false,
            name: "default".into(),
            client_urls: vec![],
        }]
    }

    fn try_read(&self, serializable: bool) -> LocalFuture<Result<(), String>> {
        let result = if serializable { Ok(()) } else { self.read.clone() };
        Box::pin(std::future::ready(result))
    }
}

fn site(fake: Fake) -> Site {
    let metrics = Metrics::new("3.7.0".into(), Ledger::default());
    Site { view: Rc::new(fake), metrics, version: "3.7.0".into() }
}

async fn answer(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(path).body(()).unwrap()
}

async fn client(fake: Fake, method: &str, path: &str) -> (u16, String) {
    answer(site(fake).client(&request(method, path)).await).await
}

#[tokio::test]
async fn healthy() {
    let healthy = (200, r#"{"health":"true","reason":""}"#.to_owned());
    assert_eq!(client(Fake::default(), "GET", "/health").await, healthy);
    let blind = Fake { leader: false, read: Err("etcdserver: no leader".into()), ..Fake::default() };
    assert_eq!(client(blind, "GET", "/health?serializable=true").await, healthy);
    let full = Fake { alarms: vec!["NOSPACE"], ..Fake::default() };
    assert_eq!(client(full, "GET", "/health?exclude=X&exclude=NOSPACE").await, healthy);
}

#[tokio::test]
async fn unhealthy() {
    let sick = |reason: &str| (503, format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n"));
    let full = Fake { alarms: vec!["NOSPACE"], ..Fake::default() };
    assert_eq!(client(full, "GET", "/health").await, sick("ALARM NOSPACE"));
    let corrupt = Fake { alarms: vec!["NOSPACE", "CORRUPT"], ..Fake::default() };
    assert_eq!(client(corrupt, "GET", "/health?exclude=NOSPACE").await, sick("ALARM CORRUPT"));
    let headless = Fake { leader: false, ..Fake::default() };
    assert_eq!(client(headless, "GET", "/health").await, sick("RAFT NO LEADER"));
    let stuck = Fake { read: Err("etcdserver: request timed out".into()), ..Fake::default() };
    assert_eq!(client(stuck, "GET", "/health").await, sick("RANGE ERROR:etcdserver: request timed out"));
    assert_eq!(client(Fake::default(), "POST", "/health").await, (405, "Method Not Allowed\n".into()));
}

#[tokio::test]
async fn version() {
    let agreed: serde_json::Value = serde_json::from_str(&client(Fake::default(), "GET", "/version").await.1).unwrap();
    assert_eq!(agreed, serde_json::json!({"etcdserver": "3.7.0", "etcdcluster": "3.7.0", "storage": "3.7.0"}));
    let early = Fake { leader: false, ..Fake::default() };
    let early: serde_json::Value = serde_json::from_str(&client(early, "GET", "/version").await.1).unwrap();
    assert_eq!(early, serde_json::json!({"etcdserver": "3.7.0", "etcdcluster": "not_decided", "storage": "unknown"}));
}

#[tokio::test]
async fn metrics_and_the_rest() {
    assert!(client(Fake::default(), "GET", "/metrics").await.1.contains("\netcd_mvcc_put_total 5\n"));
    assert_eq!(client(Fake::default(), "GET", "/v2/keys").await, (404, "404 page not found\n".into()));
}

#[tokio::test]
async fn the_peer_port() {
    let site = site(Fake::default());
    let response = site.peer(&request("GET", "/members"));
    assert_eq!(response.headers()["x-etcd-cluster-id"], "cdf8181e32775c01");
    let members = r#"[{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"name":"default"}]"#;
    assert_eq!(answer(response).await, (200, members.into()));
    let probe = answer(site.peer(&request("GET", "/raft/probing"))).await.1;
    let probe: serde_json::Value = serde_json::from_str(&probe).unwrap();
    assert_eq!(probe["OK"], true);
    assert_eq!(answer(site.peer(&request("GET", "/version"))).await.0, 200);
    for path in ["/metrics", "/health", "/raft"] {
        assert_eq!(answer(site.peer(&request("GET", path))).await.0, 404, "{path}");
    }
}
