use http_body_util::BodyExt;

use super::*;
use crate::grpc::Ledger;
use crate::metrics::{Number, NumberKind};

struct Fake {
    alarms: Vec<&'static str>,
    leader: bool,
    learner: bool,
    read: Result<(), String>,
}

impl Default for Fake {
    fn default() -> Self {
        Fake { alarms: Vec::new(), leader: true, learner: false, read: Ok(()) }
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

    fn is_learner(&self) -> bool {
        self.learner
    }

    fn raft_status(&self) -> RaftStatus {
        RaftStatus { id: 0xabc, term: 2, commit: 5, applied: 4, leader: if self.leader { 0xabc } else { 0 } }
    }

    fn auth_enabled(&self) -> bool {
        false
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
    let any = ["*".to_owned()];
    let browsers = Arc::new(Browsers::new(&any, &any));
    Site { view: Rc::new(fake), metrics, version: "3.7.0".into(), browsers, gateway: false }
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
    answer(site(fake).client(&request(method, path), &Origin::default()).await).await
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
async fn a_live_member_reads_its_own_state() {
    let stuck = || Fake { leader: false, learner: true, alarms: vec!["CORRUPT"], read: Err("stuck".into()) };
    let ok = |text: &str| (200, text.to_owned());
    assert_eq!(client(stuck(), "GET", "/livez").await, ok("ok\n"));
    assert_eq!(
        client(stuck(), "GET", "/livez/serializable_read?verbose=false").await,
        ok("[+]serializable_read ok\nok\n")
    );
    for missing in ["/livez/", "/livez/linearizable_read", "/readyz/nope", "/readyz/non_learner/", "/livezx"] {
        assert_eq!(client(stuck(), "POST", missing).await.0, 404, "{missing}");
    }
    assert_eq!(client(stuck(), "POST", "/readyz/non_learner").await, (405, "Method Not Allowed\n".into()));
}

#[tokio::test]
async fn a_ready_member_serves_everything() {
    let list = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\n";
    assert_eq!(client(Fake::default(), "GET", "/readyz").await, (200, "ok\n".into()));
    assert_eq!(client(Fake::default(), "GET", "/readyz?exclude=x&verbose").await, (200, format!("{list}ok\n")));
    let full = Fake { alarms: vec!["NOSPACE"], ..Fake::default() };
    assert_eq!(client(full, "GET", "/readyz").await, (200, "ok\n".into()), "it still serves reads");

    let sick = || Fake { leader: false, learner: true, alarms: vec!["CORRUPT"], read: Err("stuck".into()) };
    let list = "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
                [-]linearizable_read failed: stuck\n[-]non_learner failed: not supported for learner\n";
    assert_eq!(client(sick(), "GET", "/readyz").await, (503, format!("{list}\n")));
    let one = "[-]data_corruption failed: alarm activated: CORRUPT\n\n";
    let but_one = "/readyz?exclude=linearizable_read&exclude=non_learner&exclude=serializable_read";
    for path in ["/readyz/data_corruption?exclude=data_corruption", but_one] {
        assert_eq!(client(sick(), "GET", path).await, (503, one.into()), "{path}");
    }
    let none = format!("{but_one}&exclude=data_corruption&verbose");
    assert_eq!(client(sick(), "GET", &none).await, (200, "ok\n".into()));
}

#[tokio::test]
async fn results_of_checks_are_metrics() {
    let site = site(Fake { learner: true, ..Fake::default() });
    for _ in 0..2 {
        site.client(&request("GET", "/readyz"), &Origin::default()).await;
    }
    let page = answer(site.client(&request("GET", "/metrics"), &Origin::default()).await).await.1;
    for line in [
        r#"etcd_server_healthcheck{name="non_learner",type="readyz"} 0"#,
        r#"etcd_server_healthcheck{name="linearizable_read",type="readyz"} 1"#,
        r#"etcd_server_healthchecks_total{name="non_learner",status="error",type="readyz"} 2"#,
        r#"etcd_server_healthchecks_total{name="linearizable_read",status="success",type="readyz"} 2"#,
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\nnot in\n{page}");
    }
}

#[tokio::test]
async fn variables_show_the_standing() {
    let vars = |fake| async { serde_json::from_str::<serde_json::Value>(&client(fake, "GET", "/debug/vars").await.1) };
    let led = vars(Fake::default()).await.unwrap();
    let standing = serde_json::json!({
        "id": "abc", "term": 2, "commit": 5, "applied": 4, "lead": "abc", "raftState": "StateLeader",
    });
    assert_eq!(led["raft.status"], standing);
    assert!(led["memstats"]["Sys"].as_u64() > Some(1 << 20) && led["file_descriptor_limit"].is_u64(), "{led}");
    let cut_off = vars(Fake { leader: false, ..Fake::default() }).await.unwrap();
    assert_eq!(
        (&cut_off["raft.status"]["lead"], &cut_off["raft.status"]["raftState"]),
        (&"0".into(), &"StateFollower".into())
    );
    for path in ["/debug/pprof", "/debug/pprof/heap"] {
        let (status, body) = client(Fake::default(), "GET", path).await;
        assert!(status == 404 && body.contains("no profiles of Go"), "{path}: {body}");
    }
}

#[tokio::test]
async fn the_metrics_port_has_what_observers_need_and_no_more() {
    let names = ["localhost".to_owned()];
    let site = Site { browsers: Arc::new(Browsers::new(&names, &names)), ..site(Fake::default()) };
    let by_another_name = |method: &str, path: &str| {
        let mut request = request(method, path);
        request.headers_mut().insert("host", "evil.com".parse().unwrap());
        request
    };
    for (method, path, status) in [
        ("GET", "/metrics", 200),
        ("GET", "/health", 200),
        ("GET", "/livez/serializable_read", 200),
        ("GET", "/readyz?verbose", 200),
        ("OPTIONS", "/readyz", 405),
        ("GET", "/version", 404),
        ("GET", "/debug/vars", 404),
        ("GET", "/v3/kv/range", 404),
        ("GET", "/", 404),
    ] {
        let response = site.observed(&by_another_name(method, path)).await;
        assert_eq!(response.status(), status, "{method} {path}");
        assert!(!response.headers().contains_key("access-control-allow-origin"), "{method} {path}");
    }
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

/// The site with these lists, as a page of a browser asks it: status, headers as text, body.
async fn browser(lists: (&str, &str), origin: &Origin, method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let browsers = Arc::new(Browsers::new(&list(lists.0), &list(lists.1)));
    let mut request = request(method, path);
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = Site { browsers, ..site(Fake::default()) }.client(&request, origin).await;
    let mut lines: Vec<_> =
        response.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    let (status, body) = answer(response).await;
    format!("{status}\n{}\n\n{body}", lines.join("\n"))
}

const ALLOWED: &str = "access-control-allow-headers: accept, content-type, authorization\n\
                       access-control-allow-methods: POST, GET, OPTIONS, PUT, DELETE\n\
                       access-control-allow-origin: ";

#[tokio::test]
async fn a_request_by_another_name_is_refused() {
    let plain = Origin::default();
    let ask = async |names: &str, method: &str, path: &str, host: &str| {
        browser((names, "*"), &plain, method, path, &[("host", host)]).await
    };
    let names = "localhost,example.com";
    for host in ["localhost", "localhost:9", "example.com:80"] {
        assert!(ask(names, "GET", "/version", host).await.starts_with("200\n"), "{host}");
    }
    for (host, named) in [
        ("evil.com", "evil.com"),
        ("evil.com:80", "evil.com"),
        ("LOCALHOST", "LOCALHOST"),
        ("sub.example.com", "sub.example.com"),
        ("[::1]:80", "::1"),
        ("[::1]", "[::1]"),
        ("localhost:1:2", "localhost:1:2"),
        ("", ""),
    ] {
        for (method, path) in
            [("GET", "/version"), ("OPTIONS", "/version"), ("GET", "/metrics"), ("POST", "/v3/kv/range")]
        {
            let text = ask(names, method, path, host).await;
            let head = "421\ncontent-type: text/plain; charset=utf-8\nx-content-type-options: nosniff\n\n";
            assert!(text.starts_with(head), "{host}: {text}");
            assert!(text.contains(&format!("--host-whitelist {named:?}")) && text.contains("CVE-2018-5702"), "{text}");
        }
    }
    assert!(ask("[::1],::1", "GET", "/version", "[::1]:80").await.starts_with("200\n"));
    for names in ["*", "a,*"] {
        assert!(ask(names, "GET", "/version", "evil.com").await.starts_with("200\n"), "{names}");
    }
    assert!(ask("a, b", "GET", "/version", "b").await.starts_with("421\n"), "not trimmed, as in etcd");
    let encrypted = Origin { encrypted: true, ..Origin::default() };
    let text = browser((names, "*"), &encrypted, "GET", "/version", &[("host", "evil.com")]).await;
    assert!(text.starts_with("200\n"), "a certificate has the name: {text}");
}

#[tokio::test]
async fn the_name_of_http2_is_its_authority() {
    let list = ["localhost".to_owned()];
    let site = Site { browsers: Arc::new(Browsers::new(&list, &list)), ..site(Fake::default()) };
    for (name, status) in [("http://localhost:2379/version", 200), ("http://evil.com:2379/version", 421)] {
        let mut request = request("GET", name);
        request.headers_mut().insert("host", "localhost".parse().unwrap());
        assert_eq!(site.client(&request, &Origin::default()).await.status(), status, "{name}");
    }
}

#[tokio::test]
async fn pages_of_listed_origins_may_ask() {
    let plain = Origin::default();
    let ask = async |origins: &str, method: &str, path: &str, headers: &[(&str, &str)]| {
        browser(("*", origins), &plain, method, path, headers).await
    };
    let json = "content-type: application/json";
    let body = r#"{"etcdserver":"3.7.0","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
    let every = format!("200\n{ALLOWED}*\n{json}\n\n{body}");
    assert_eq!(ask("*", "GET", "/version", &[]).await, every);
    assert_eq!(ask("*", "GET", "/version", &[("origin", "http://a.com")]).await, every);
    assert_eq!(ask("*", "OPTIONS", "/nope", &[]).await, format!("200\n{ALLOWED}*\n\n"));
    let missing = ask("*", "GET", "/nope", &[]).await;
    assert!(missing.starts_with(&format!("404\n{ALLOWED}*\ncontent-type: ")), "{missing}");
    assert!(missing.contains("\nx-content-type-options: nosniff\n"), "{missing}");

    let listed = "http://a.com:80,https://c.com:8080";
    for origin in ["http://a.com:80", "https://c.com:8080"] {
        let named = [("origin", origin)];
        assert_eq!(ask(listed, "GET", "/version", &named).await, format!("200\n{ALLOWED}{origin}\n{json}\n\n{body}"));
        assert_eq!(ask(listed, "OPTIONS", "/v3/kv/range", &named).await, format!("200\n{ALLOWED}{origin}\n\n"));
    }
    let unlisted = format!("200\n{json}\n\n{body}");
    for origin in ["http://a.com", "http://A.com:80", "http://b.com", "*", ""] {
        assert_eq!(ask(listed, "GET", "/version", &[("origin", origin)]).await, unlisted, "{origin}");
        assert_eq!(ask(listed, "OPTIONS", "/version", &[("origin", origin)]).await, "200\n\n\n", "{origin}");
    }
    assert_eq!(ask(listed, "GET", "/version", &[]).await, unlisted);
}
