//! The JSON gateway: the same requests to the server under test and to a real etcd.
//!
//! ```text
//!   table ──▶ exchange ──┬──▶ subject ──▶ answer ──┬──▶ status, headers, JSON: equal?
//!                        └──▶ etcd ─────▶ answer ──┘
//! ```
//!
//! Both servers have the same ids, so that whole answers are compared; [`UNSTEADY`] names what two servers cannot have
//! in common. Streams are compared chunk by chunk.
//! The walk of all methods by all kinds of callers takes the gateway, too ([`super::auth`]).

mod exchange;
mod streams;
mod table;

use std::collections::BTreeMap;

use metastore_tests::member::{Member, SAME_IDENTITY};
use metastore_tests::programs::{self, EngineKind, Server};
use serde_json::Value;

pub use exchange::{Answer, Connection, post};
use table::Row;

/// Members of objects whose values are those of one server: sizes, log indexes, versions, and tokens.
const UNSTEADY: [&str; 8] =
    ["version", "dbSize", "dbSizeInUse", "dbSizeQuota", "raftIndex", "raftAppliedIndex", "storageVersion", "token"];

/// Headers that are compared. The date is not, nor how a body is transferred.
const HEADERS: [&str; 8] = [
    "content-type",
    "grpc-metadata-content-type",
    "www-authenticate",
    "trailer",
    "x-content-type-options",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
];

each_engine!(requests_are_answered_as_by_etcd, the_gateway_can_be_turned_off);

/// The server under test and a real etcd, for the test `name`.
fn pair(name: &str, engine: EngineKind) -> Option<[Server; 2]> {
    programs::beside_etcd(name, engine, "newest")
}

/// Starts both, with the same ids.
fn start(servers: &[Server; 2]) -> [Member; 2] {
    programs::with_both(servers, |server| Member::start(server, &SAME_IDENTITY))
}

fn requests_are_answered_as_by_etcd(engine: EngineKind) {
    let Some(servers) = pair("gateway", engine) else { return };
    let mut wrong = Vec::new();
    for rows in [table::valid(), table::invalid()] {
        let members = start(&servers);
        let mut sides = members.each_ref().map(Side::new);
        for row in rows {
            let [subject, etcd] = sides.each_mut().map(|side| side.make(&row));
            if subject != etcd {
                let shown: String = row.body.chars().take(300).collect();
                wrong.push(format!(
                    "{} {} {:?} {shown}\n  {subject}\n  etcd: {etcd}",
                    row.method, row.path, row.headers
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// One server, and what it has answered.
struct Side {
    address: String,
    known: BTreeMap<&'static str, String>,
}

impl Side {
    fn new(member: &Member) -> Side {
        Side { address: member.client_address().to_string(), known: BTreeMap::new() }
    }

    /// Makes a request; what is compared of the answer.
    fn make(&mut self, row: &Row) -> String {
        let filled =
            |text: &str| self.known.iter().fold(text.to_string(), |text, (name, value)| text.replace(name, value));
        let headers: Vec<(&str, String)> = row.headers.iter().map(|(name, value)| (*name, filled(value))).collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &value[..])).collect();
        let mut connection = Connection::open(&self.address);
        connection.send(row.method, &row.path, &headers, filled(&row.body).as_bytes());
        let answer = connection.answer();
        self.learn(&answer.json());
        self.compared(&answer)
    }

    fn learn(&mut self, json: &Value) {
        if let Some(token) = json["token"].as_str() {
            self.known.insert("@TOKEN", token.into());
        }
        if let Some(id) = json["member"]["ID"].as_str() {
            self.known.insert("@ID", id.into());
        }
    }

    fn compared(&self, answer: &Answer) -> String {
        let headers = HEADERS.iter().filter_map(|name| Some(format!("{name}: {}", answer.head.headers.get(*name)?)));
        let headers: Vec<String> = headers.collect();
        let chunks: Vec<String> = answer.chunks.iter().map(|chunk| self.steady(chunk)).collect();
        format!("{} {headers:?} {chunks:?}", answer.head.status)
    }

    /// A JSON value without what belongs to this server alone.
    fn steady(&self, chunk: &str) -> String {
        let Ok(mut value) = serde_json::from_str(chunk) else { return chunk.to_string() };
        soften(&mut value);
        let mut text = value.to_string();
        if let Some(id) = self.known.get("@ID") {
            text = text.replace(&format!("\"{id}\""), "\"@ID\"");
        }
        // The spaces in the messages of `protojson` depend on the program that it is in.
        text.replace('\u{a0}', " ")
    }
}

/// Takes out what is [`UNSTEADY`]. A hash over all files has no revision beside it, and is one of them.
fn soften(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if members.contains_key("hash") && !members.contains_key("hash_revision") {
                members.insert("hash".into(), Value::Null);
            }
            for (name, value) in members {
                if UNSTEADY.contains(&&name[..]) { *value = Value::Null } else { soften(value) }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(soften),
        _ => {}
    }
}

fn the_gateway_can_be_turned_off(engine: EngineKind) {
    let Some(servers) = pair("gateway turned off", engine) else { return };
    let answers = servers.map(|server| {
        let member = Member::start(&server, &["--enable-grpc-gateway=false"]);
        ["/v3/kv/range", "/v3beta/kv/range", "/v3/nope"].map(|path| {
            let answer = post(member.client_address(), path, &[], "{}");
            (answer.head.status, answer.head.headers["content-type"].clone(), answer.body())
        })
    });
    assert_eq!(answers[0], answers[1], "left is the subject, right is etcd");
}
