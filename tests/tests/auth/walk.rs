//! The walk: every method of every service, and every path of HTTP, by every kind of caller.
//!
//! Each call is made by each caller to the server under test and to a real etcd. Both must give the answer of the
//! table in [`super::calls`]; [`DIFFERENCES`] names the exceptions. The servers name the methods that they have on
//! `/metrics`: a method that the walk does not call is an error.
//! The same callers come with certificates as well: those have the answers of the callers with tokens.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::*;
use metastore_tests::auth::{Admin, CHEAP_PASSWORDS, SigningKey, enable, log_in, permission, token};
use metastore_tests::certificates::Authority;
use metastore_tests::cluster::{block_on, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::member::{Member, free_address};
use metastore_tests::programs::{self, EngineKind, Server, with_both};
use metastore_tests::{lease, paths};
use tonic::Status;

use super::calls::{
    At, BAD_TOKEN, DENIED, EMPTY, FOREIGN, NO_NAME, OLD_REVISION, OWN, OWN_TOO, Row, TTL_S, refuses_the_token, rows,
};
use super::gateway;
use crate::bad_days::observe::http_get;
use crate::tls;

const NO_USER: &str = "FailedPrecondition etcdserver: user name not found";
/// The form of a simple token, of a login that never was.
const WRONG_TOKEN: &str = "noSuchTokenAtAll.1";
const CALLERS: [&str; 5] = ["no token", "wrong token", "nobody", "alice", "root"];
/// The columns of [`CALLERS`].
const NONE: usize = 0;
const WRONG: usize = 1;
const NOBODY: usize = 2;
const ALICE: usize = 3;
const ROOT: usize = 4;
const EXPIRY_FLAG: &str = "--auth-token-ttl=1";
/// A use of a simple token prolongs it, so uses must be further apart than its time.
const TRY_AGAIN: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer of the server under test that is not that of the table.
struct Difference {
    call: &'static str,
    callers: &'static [usize],
    answer: &'static str,
    /// Why the answer is another one.
    _why: &'static str,
}

const SILENT: &str = "etcd ends the stream of an observer that it refuses as if it had gone well";

const DIFFERENCES: &[Difference] = &[
    Difference {
        call: "/etcdserverpb.KV/Range no key",
        callers: &[WRONG],
        answer: BAD_TOKEN,
        _why: "the token is looked at before the arguments",
    },
    Difference {
        call: "/etcdserverpb.KV/Put no key",
        callers: &[WRONG],
        answer: BAD_TOKEN,
        _why: "the token is looked at before the arguments",
    },
    Difference {
        call: "/v3electionpb.Election/Observe",
        callers: &[NONE],
        answer: "Unknown etcdserver: user name is empty",
        _why: SILENT,
    },
    Difference {
        call: "/v3electionpb.Election/Observe",
        callers: &[WRONG],
        answer: "Unknown etcdserver: invalid auth token",
        _why: SILENT,
    },
    Difference {
        call: "/v3electionpb.Election/Observe",
        callers: &[NOBODY],
        answer: "Unknown etcdserver: permission denied",
        _why: SILENT,
    },
];

/// Paths of HTTP on the client port, on the metrics port and on the peer port. No token is looked at.
const CLIENT_PATHS: [&str; 7] = ["/health", "/livez", "/readyz", "/version", "/metrics", "/debug/vars", "/nothing"];
const METRICS_PATHS: [&str; 6] =
    ["/health", "/livez", "/readyz/linearizable_read", "/metrics", "/version", "/v3/kv/range"];
const PEER_PATHS: [&str; 4] = ["/version", "/members", "/raft/probing", "/nothing"];

each_engine!(
    every_method_asks_for_what_etcd_asks,
    every_method_takes_a_certificate_as_etcd_does,
    every_method_asks_for_the_same_through_the_gateway,
    an_expired_token_opens_nothing,
    a_token_of_an_old_revision_is_refused
);

/// The server under test, and a real etcd.
fn pair(test: &str, engine: EngineKind) -> Option<[Server; 2]> {
    programs::beside_etcd(test, engine, "newest")
}

/// Runs `work` on both servers, each a new member with these flags.
fn on_both<T: Send>(servers: &[Server; 2], flags: &[&str], work: impl Fn(&Member) -> T + Sync) -> [T; 2] {
    with_both(servers, |server| work(&Member::start(server, &[&[CHEAP_PASSWORDS][..], flags].concat())))
}

fn every_method_asks_for_what_etcd_asks(engine: EngineKind) {
    let Some(servers) = pair("permission walk", engine) else { return };
    let key = SigningKey::new();
    for flags in [vec![], vec![key.flag()]] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let [subject, reference] = with_both(&servers, |server| {
            let metrics_port = free_address();
            let observed = format!("--listen-metrics-urls=http://{metrics_port}");
            let member = Member::start(server, &[&[CHEAP_PASSWORDS, &observed][..], &flags].concat());
            let paths = || answers_over_http(&member, &metrics_port);
            let before = paths();
            let walked = block_on(walk(&member, by_token));
            assert_eq!(paths(), before, "paths of HTTP are as open as without authentication");
            (walked, methods(&member), before)
        });
        assert_eq!(subject.2, reference.2, "left is the subject, right is etcd");
        compare(&rows(), &subject.0, &reference.0, [NONE, WRONG, NOBODY, ALICE, ROOT]);
        let walked: BTreeSet<String> = rows().iter().map(|row| row.path.to_string()).collect();
        let missed: Vec<_> = subject.1.difference(&walked).collect();
        assert!(missed.is_empty(), "the walk calls these methods by no caller: {missed:?}");
        let missing: Vec<_> = reference.1.difference(&subject.1).collect();
        assert!(missing.is_empty(), "methods of etcd that are missing: {missing:?}");
    }
}

/// The gateway has no rule of its own: the answers are those of the table.
fn every_method_asks_for_the_same_through_the_gateway(engine: EngineKind) {
    let Some(servers) = pair("permission walk through the gateway", engine) else { return };
    let through = || -> Vec<Row> { rows().into_iter().filter(|row| gateway::is_served(row.path)).collect() };
    let [subject, reference] = on_both(&servers, &[], |member| {
        block_on(async {
            let at = set_up(member).await.expect("users are added");
            let mut answers = Vec::new();
            for row in through() {
                let mut by_caller = Vec::new();
                for caller in 0..CALLERS.len() {
                    let user = async |name: &'static str| {
                        Some(token(&at.client, name, password(name)).await.expect("a user logs in"))
                    };
                    let token = match caller {
                        NONE => None,
                        WRONG => Some(WRONG_TOKEN.to_string()),
                        NOBODY => user("nobody").await,
                        ALICE => user("alice").await,
                        _ => user("root").await,
                    };
                    by_caller.push(gateway::make(member.client_address(), &row, &at, token.as_deref()));
                }
                answers.push(by_caller);
            }
            answers
        })
    });
    compare(&through(), &subject, &reference, [NONE, WRONG, NOBODY, ALICE, ROOT]);
    let walked: BTreeSet<&str> = through().iter().map(|row| row.path).collect();
    assert_eq!(walked, gateway::served().collect(), "the walk makes each call of the gateway");
}

/// Certificates without a common name, and with one that is no user's, have the answers of nobody. The wrong token
/// comes with the certificate of alice, and is what counts.
fn every_method_takes_a_certificate_as_etcd_does(engine: EngineKind) {
    let Some(servers) = pair("permission walk by certificate", engine) else { return };
    let mut walked = with_both(&servers, |server| {
        let ca = Authority::new();
        ca.sign_nameless("nameless");
        for name in ["stranger", "alice", "root"] {
            ca.sign(name);
        }
        let flags = [CHEAP_PASSWORDS.into(), ca.flag("trusted-ca-file", "ca.crt"), "--client-cert-auth".into()];
        let mut member = tls::member(server, &ca, &flags);
        // The users are set up without TLS.
        member.add_flag(&format!("--listen-client-urls={},{}", member.client_url(), tls::url(&member)));
        member.restart();
        block_on(async {
            let names = ["nameless", "alice", "stranger", "alice", "root"];
            let mut callers = names.map(|name| Client::with_certificate(member.client_address(), &ca, name));
            callers[WRONG] = callers[WRONG].with_token(WRONG_TOKEN);
            walk(&member, async |_: &Client, caller| callers[caller].clone()).await
        })
    });
    for ((row, subject), reference) in rows().iter().zip(&walked[0]).zip(&walked[1]) {
        if difference(row, NOBODY).is_some() {
            continue;
        }
        let strangers = |answers: &[String]| [NONE, NOBODY].map(|caller| answers[caller].clone());
        assert_eq!(strangers(subject), strangers(reference), "{}: left is the subject, right is etcd", row.name());
    }
    // Where the role root is asked for, etcd says that there is no such user.
    for row in walked.iter_mut().flatten() {
        for (caller, why) in [(NONE, NO_NAME), (NOBODY, NO_USER)] {
            if row[caller] == why {
                row[caller] = DENIED.into();
            }
        }
    }
    compare(&rows(), &walked[0], &walked[1], [NOBODY, WRONG, NOBODY, ALICE, ROOT]);
}

/// Compares the answers of both servers with the table, of which each caller has a column. Each difference must be a
/// known one, and be found.
fn compare(rows: &[Row], subject: &[Vec<String>], reference: &[Vec<String>], columns: [usize; CALLERS.len()]) {
    let (mut wrong, mut found) = (Vec::new(), vec![0; DIFFERENCES.len()]);
    for ((row, subject), reference) in rows.iter().zip(subject).zip(reference) {
        for (caller, column) in columns.into_iter().enumerate() {
            let answer = row.answers[column];
            let known = difference(row, column);
            known.into_iter().for_each(|known| found[known] += 1);
            let expected = known.map_or(answer, |known| DIFFERENCES[known].answer);
            let name = format!("{} by {}", row.name(), CALLERS[caller]);
            if reference[caller] != answer {
                wrong.push(format!("{name}: etcd answers {:?}, and the table has {answer:?}", reference[caller]));
            }
            if subject[caller] != expected {
                wrong.push(format!("{name}: the answer is {:?}, and not {expected:?}", subject[caller]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    for (known, found) in DIFFERENCES.iter().zip(found) {
        let walked = known.callers.iter().any(|caller| columns.contains(caller));
        assert_eq!(found > 0, walked, "the difference {} is not of a call of the walk", known.call);
    }
}

/// The known difference in the answer to a caller of this column.
fn difference(row: &Row, column: usize) -> Option<usize> {
    DIFFERENCES.iter().position(|known| known.call == row.name().trim() && known.callers.contains(&column))
}

/// The client of a caller, who logs in. A change of users ends signed tokens, so each call has one of its own.
async fn by_token(client: &Client, caller: usize) -> Client {
    let user = |name: &'static str| log_in(client, name, password(name));
    match caller {
        NONE => client.clone(),
        WRONG => client.with_token(WRONG_TOKEN),
        NOBODY => user("nobody").await.expect("nobody logs in"),
        ALICE => user("alice").await.expect("alice logs in"),
        _ => user("root").await.expect("root logs in"),
    }
}

/// Makes every call by every caller; the answers by row.
async fn walk(member: &Member, as_caller: impl AsyncFn(&Client, usize) -> Client) -> Vec<Vec<String>> {
    let at = set_up(member).await.expect("users are added");
    let mut answers = Vec::new();
    for row in rows() {
        let mut by_caller = Vec::new();
        for caller in 0..CALLERS.len() {
            let client = as_caller(&at.client, caller).await;
            by_caller.push(row.make(At { client, ..at.clone() }).await);
        }
        answers.push(by_caller);
    }
    answers
}

fn password(name: &str) -> &'static str {
    match name {
        "root" => metastore_tests::auth::ROOT_PASSWORD,
        "alice" => "alice's",
        _ => "nobody's",
    }
}

/// Keys, leases and users, and authentication enabled. The client of the result shows no token.
async fn set_up(member: &Member) -> Result<At, Status> {
    let client = Client::new(member.client_address());
    let status: StatusResponse = client.unary(paths::STATUS, StatusRequest {}).await?;
    let member_id = status.header.unwrap_or_default().member_id;
    lease::grant_all(&client, &[FOREIGN, OWN, OWN_TOO, EMPTY], TTL_S).await;
    for (key, lease) in [("a1", 0), ("a5", OWN), ("a6", OWN_TOO), ("zz", FOREIGN)] {
        let put = PutRequest { lease, ..put_request(key, "v") };
        client.unary::<_, PutResponse>(paths::PUT, put).await?;
    }
    let admin = Admin(&client);
    admin.add_user("nobody", password("nobody")).await?;
    admin.add_user("alice", password("alice")).await?;
    admin.add_role("r").await?;
    admin.permit("r", permission(Type::Readwrite, "a", "b")).await?;
    admin.grant_role("alice", "r").await?;
    enable(&client).await?;
    Ok(At { client, member_id, peer_url: member.peer_url() })
}

/// The methods that a server counts the calls of.
fn methods(member: &Member) -> BTreeSet<String> {
    let page = http_get(member.client_address(), "/metrics");
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value.to_string())
    };
    let counters = page.lines().filter(|line| line.starts_with("grpc_server_started_total{"));
    let paths =
        counters.filter_map(|line| Some(format!("/{}/{}", label(line, "grpc_service")?, label(line, "grpc_method")?)));
    let methods: BTreeSet<String> = paths.collect();
    assert!(methods.len() > 30, "{methods:?}");
    methods
}

/// The status lines of GET without a token and with wrong ones.
fn answers_over_http(member: &Member, metrics_port: &str) -> Vec<String> {
    let peer_address = member.peer_url().trim_start_matches("http://").to_string();
    let client = CLIENT_PATHS.iter().map(|path| (member.client_address(), path));
    let metrics = METRICS_PATHS.iter().map(|path| (metrics_port, path));
    let peer = PEER_PATHS.iter().map(|path| (&peer_address[..], path));
    let headers = ["", "Authorization: Bearer wrong\r\n", "Token: wrong\r\n"];
    let all =
        client.chain(metrics).chain(peer).flat_map(|(address, path)| headers.map(|header| (address, path, header)));
    all.map(|(address, path, header)| {
        let mut stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: m\r\n{header}Connection: close\r\n\r\n").expect("it reads");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("it answers");
        format!("{path} {header:?} {line}")
    })
    .collect()
}

/// Every call that looks at a token refuses one that has expired, even that of root.
fn an_expired_token_opens_nothing(engine: EngineKind) {
    let Some(servers) = pair("walk with an expired token", engine) else { return };
    let walked = on_both(&servers, &[EXPIRY_FLAG], |member| {
        block_on(async {
            let at = set_up(member).await.expect("users are added");
            let root = log_in(&at.client, "root", password("root")).await.expect("root logs in");
            let read = || root.unary::<_, RangeResponse>(paths::RANGE, metastore_tests::cluster::everything());
            read().await.expect("the token is good at first");
            let deadline = Instant::now() + PATIENCE;
            loop {
                tokio::time::sleep(TRY_AGAIN).await;
                match read().await {
                    Err(status) if format!("{:?} {}", status.code(), status.message()) == BAD_TOKEN => break,
                    answer => assert!(Instant::now() < deadline, "the token does not expire: {answer:?}"),
                }
            }
            let at = At { client: root, ..at };
            by_one(at).await
        })
    });
    expect_refused(&walked, WRONG);
}

/// A signed token is of one revision of the users. etcd lets an older one through where no keys are asked for.
fn a_token_of_an_old_revision_is_refused(engine: EngineKind) {
    let Some(servers) = pair("walk with an old token", engine) else { return };
    let key = SigningKey::new();
    let [subject, reference] = on_both(&servers, &[&key.flag()], |member| {
        block_on(async {
            let at = set_up(member).await.expect("users are added");
            let old = token(&at.client, "root", password("root")).await.expect("root logs in");
            let old = at.client.with_token(&old);
            Admin(&old).add_user("another", "").await.expect("the token is good at first");
            by_one(At { client: old, ..at }).await
        })
    });
    let (mut wrong, mut refused_by_etcd) = (Vec::new(), BTreeSet::new());
    for ((row, subject), reference) in rows().iter().zip(&subject).zip(&reference) {
        let old = if row.path.starts_with("/etcdserverpb.") { OLD_REVISION } else { OLD_REVISION_INSIDE };
        let expected = if ASK_FOR_NO_USER.contains(&row.path) { row.answers[ROOT] } else { old };
        if subject != expected {
            wrong.push(format!("{}: {subject:?}, and not {expected:?}", row.name()));
        }
        match &reference[..] {
            other if other == old => drop(refused_by_etcd.insert(row.path)),
            // Alice, who was first in the table, is not here.
            other if [row.answers[ALICE], row.answers[ROOT]].contains(&other) => {}
            other => wrong.push(format!("{}: etcd answers {other:?}", row.name())),
        }
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(refused_by_etcd.into_iter().collect::<Vec<_>>(), REFUSED_BY_ETCD);
}

/// Methods for which the revision of a token does not matter.
const ASK_FOR_NO_USER: [&str; 5] =
    [paths::AUTH_STATUS, paths::AUTHENTICATE, paths::HEALTH_CHECK, paths::HEALTH_LIST, paths::HEALTH_WATCH];
/// Where etcd refuses a token of an old revision.
const REFUSED_BY_ETCD: [&str; 12] = [
    paths::DELETE_RANGE,
    paths::PUT,
    paths::RANGE,
    paths::RANGE_STREAM,
    paths::TXN,
    paths::WATCH,
    paths::CAMPAIGN,
    paths::LEADER,
    paths::PROCLAIM,
    paths::RESIGN,
    paths::LOCK,
    paths::UNLOCK,
];
/// The refusal by a method that a method of another service calls.
const OLD_REVISION_INSIDE: &str = "Unknown etcdserver: revision of auth store is old";

/// Makes every call by one caller.
async fn by_one(at: At) -> Vec<String> {
    let mut answers = Vec::new();
    for row in rows() {
        answers.push(row.make(at.clone()).await);
    }
    answers
}

/// Whether both servers answered each call as the table says for the caller of a column.
fn expect_refused(walked: &[Vec<String>; 2], column: usize) {
    for (server, answers) in ["subject", "etcd"].iter().zip(walked) {
        let wrong = |(row, answer): &(&Row, &String)| {
            let own = difference(row, column).filter(|_| *server == "subject").map(|known| DIFFERENCES[known].answer);
            *answer != own.unwrap_or(row.answers[column])
        };
        let rows = rows();
        let wrong: Vec<String> =
            rows.iter().zip(answers).filter(wrong).map(|(row, answer)| format!("{}: {answer:?}", row.name())).collect();
        assert!(wrong.is_empty(), "{} wrong answers of {server}:\n{}", wrong.len(), wrong.join("\n"));
        let refused = answers.iter().filter(|answer| refuses_the_token(answer)).count();
        assert!(refused > 50, "the walk shows nothing: {refused}");
    }
}
