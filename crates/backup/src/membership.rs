//! The members in the form of etcd's old store, as JSON. It stands in the snapshots of the log of every etcd; versions
//! up to 3.6 start from it.

use metastore_engine::{EngineError, Table};
use metastore_store::Member;
use metastore_store::schema::CLUSTER_VERSION;
use metastore_store::snapshot::TableRow;
use serde_json::{Map, Value, json};

/// A node that never expires, as Go writes it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// etcd's old store with the members of a state, whose rows `rows` reads.
///
/// # Errors
/// If the medium failed, or a row is damaged.
pub fn v2_store(rows: impl Fn(Table) -> Result<Vec<TableRow>, EngineError>) -> Result<Vec<u8>, EngineError> {
    let members = rows(Table::Members)?.iter().map(|(id, row)| member(id, row)).collect::<Result<_, _>>()?;
    let removed = rows(Table::MembersRemoved)?.into_iter().map(|(id, _)| {
        let id = String::from_utf8_lossy(&id);
        (id.to_string(), file(&format!("/0/removed_members/{id}"), ""))
    });
    let mut cluster = Map::new();
    cluster.insert("members".into(), directory("/0/members", members));
    cluster.insert("removed_members".into(), directory("/0/removed_members", removed.collect()));
    if let Some((_, version)) = rows(Table::Cluster)?.iter().find(|(key, _)| key == CLUSTER_VERSION) {
        cluster.insert("version".into(), file("/0/version", &String::from_utf8_lossy(version)));
    }
    let mut root = Map::new();
    root.insert("0".into(), directory("/0", cluster));
    root.insert("1".into(), directory("/1", Map::new()));
    let store = json!({"Root": directory("/", root), "CurrentIndex": 0, "CurrentVersion": 2});
    Ok(store.to_string().into_bytes())
}

/// The directory of a member.
fn member(id: &[u8], row: &[u8]) -> Result<(String, Value), EngineError> {
    let (id, member) = (String::from_utf8_lossy(id), Member::from_row(id, row)?);
    let Member { peer_urls, is_learner, name, client_urls, .. } = member;
    let path = format!("/0/members/{id}");
    let mut raft = json!({"peerURLs": peer_urls});
    if is_learner {
        raft["isLearner"] = true.into();
    }
    let mut files = Map::new();
    files.insert("raftAttributes".into(), file(&format!("{path}/raftAttributes"), &raft.to_string()));
    let own = json!({"name": name, "clientURLs": client_urls});
    files.insert("attributes".into(), file(&format!("{path}/attributes"), &own.to_string()));
    let directory = directory(&path, files);
    Ok((id.into_owned(), directory))
}

fn directory(path: &str, children: Map<String, Value>) -> Value {
    node(path, "", Value::Object(children))
}

fn file(path: &str, value: &str) -> Value {
    node(path, value, Value::Null)
}

fn node(path: &str, value: &str, children: Value) -> Value {
    json!({
        "Path": path, "CreatedIndex": 0, "ModifiedIndex": 0, "ExpireTime": NEVER, "Value": value, "Children": children,
    })
}
