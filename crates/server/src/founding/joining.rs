//! How a new member begins: it founds a cluster with others, or joins a running cluster. Used only while the data
//! directory holds no log.
//!
//! ```text
//!   --initial-cluster ──▶ initial_members ──▶ new:      does the cluster run already, with this member? ──▶ Found
//!                                             existing: who is in the cluster, under which ids? ─────────▶ Join
//! ```
//!
//! Both questions go to the other members' peer URLs, one after the other until one answers. No URL is tried twice, as
//! in etcd: the operator or the service manager starts the member again. All time limits are below.
//!
//! Deliberately absent: discovery.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use metastore_replica::{Bootstrap, Founder, identity};
use metastore_store::Member;
use serde::Deserialize;

use super::initial_cluster::{InitialMember, initial_members, same_place};
use crate::config::{ClusterState, Config, url};
use crate::peer::client;
use crate::tls::Connector;

/// How long a member of the cluster that is joined may take to answer with the list of members, as in etcd.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a member of the cluster that is founded may take to answer whether the cluster runs already, as in etcd.
/// Most often no process listens there yet.
const FOUND_TIMEOUT: Duration = Duration::from_secs(1);
/// The oldest cluster version that can be joined, as in etcd.
const OLDEST_CLUSTER: (u64, u64) = (3, 0);

/// Decides how a new member begins. Blocks for the other members' answers, and must not be called where a runtime runs.
///
/// # Errors
/// Why there can be no such member; the texts are etcd's.
pub fn bootstrap(config: &Config, tls: &Connector) -> Result<Bootstrap, String> {
    let members = initial_members(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot ask other members: {error}"))?;
    match config.initial_cluster_state {
        ClusterState::New => runtime.block_on(found(config, tls, members)),
        ClusterState::Existing => runtime.block_on(join(config, tls, &members)),
    }
}

async fn found(config: &Config, tls: &Connector, members: Vec<InitialMember>) -> Result<Bootstrap, String> {
    let (own, cluster_token) = (config.name.clone(), config.initial_cluster_token.clone());
    let own_urls = members.iter().find(|member| member.name == own).map(|member| &member.peer_urls);
    let id = own_urls.map_or(0, |urls| identity::member_id(urls, &cluster_token));
    if let Ok(cluster) = ask(tls, &other_urls(&members, &own), FOUND_TIMEOUT).await
        && cluster.members.iter().any(|member| member.id == id && !member.client_urls.is_empty())
    {
        return Err(format!("member {id:x} has already been bootstrapped"));
    }
    let founder = |InitialMember { name, peer_urls }| Founder { name, peer_urls };
    Ok(Bootstrap::Found { members: members.into_iter().map(founder).collect(), own, cluster_token })
}

async fn join(config: &Config, tls: &Connector, members: &[InitialMember]) -> Result<Bootstrap, String> {
    let asked = ask(tls, &other_urls(members, &config.name), JOIN_TIMEOUT).await;
    let cluster = asked.map_err(|why| format!("cannot fetch cluster info from peer urls: {why}"))?;
    let id = own_id(config, members, &cluster.members)
        .map_err(|why| format!("error validating peerURLs {}: {why}", cluster.describe()))?;
    let others = cluster.members.iter().filter(|member| member.id != id);
    let version = ask_version(tls, others, timeout_of(config)).await;
    if !version.is_some_and(|version| compatible(config, version)) {
        return Err("incompatible with current running cluster".into());
    }
    Ok(Bootstrap::Join { id, cluster_id: cluster.id })
}

/// How long etcd gives a request to another member: five seconds, and two elections.
fn timeout_of(config: &Config) -> Duration {
    Duration::from_secs(5) + 2 * Duration::from_millis(config.election_ms)
}

/// A cluster as one of its members describes it.
struct Cluster {
    id: u64,
    members: Vec<Member>,
}

impl Cluster {
    fn describe(&self) -> String {
        let members = self.members.iter().map(|member| format!("{:x} {:?}", member.id, member.peer_urls));
        format!("{{ClusterID:{:x} Members:[{}]}}", self.id, members.collect::<Vec<_>>().join(" "))
    }
}

/// The peer URLs of all members but `own`, in order.
fn other_urls(members: &[InitialMember], own: &str) -> Vec<String> {
    let others = members.iter().filter(|member| member.name != own);
    let mut urls: Vec<String> = others.flat_map(|member| member.peer_urls.clone()).collect();
    urls.sort_unstable();
    urls
}

/// Asks one URL after the other; the first answer counts.
async fn ask(tls: &Connector, urls: &[String], timeout: Duration) -> Result<Cluster, String> {
    for url in urls {
        match ask_one(tls, url, timeout).await {
            Ok(cluster) if cluster.members.is_empty() => {
                return Err("failed to get raft cluster member(s) from the given URLs".into());
            }
            Ok(cluster) => return Ok(cluster),
            // Where a cluster is founded, the others most often do not run yet.
            Err(error) if timeout == FOUND_TIMEOUT => tracing::debug!(url, error, "no running cluster here"),
            Err(error) => tracing::warn!(url, error, "failed to get cluster response"),
        }
    }
    Err("could not retrieve cluster information from the given URLs".into())
}

async fn ask_one(tls: &Connector, url: &str, timeout: Duration) -> Result<Cluster, String> {
    let reply = get(tls, url, "/members", timeout).await?;
    let members =
        serde_json::from_slice(&reply.body).map_err(|error| format!("the answer is no list of members: {error}"))?;
    let id = reply.headers.get("x-etcd-cluster-id").and_then(|id| id.to_str().ok());
    let id = id.and_then(|id| u64::from_str_radix(id, 16).ok());
    Ok(Cluster { id: id.ok_or("the answer has no X-Etcd-Cluster-ID in hex")?, members })
}

async fn get(tls: &Connector, url: &str, path: &str, timeout: Duration) -> Result<client::Reply, String> {
    let url = url::parse(url)?;
    let reply = client::request(tls, &url, Method::GET, path, HeaderMap::new(), Bytes::new(), timeout).await;
    let reply = reply.map_err(|error| error.to_string())?;
    match reply.status {
        StatusCode::OK => Ok(reply),
        status => Err(format!("the answer is {status}")),
    }
}

/// The id under which the cluster knows this member. The lists must have the same members, as their peer URLs show.
fn own_id(config: &Config, listed: &[InitialMember], existing: &[Member]) -> Result<u64, String> {
    if listed.len() != existing.len() {
        return Err("member count is unequal".into());
    }
    let mut own = None;
    for member in existing {
        let mut why = None;
        let mut is = |listed: &&InitialMember| {
            let compared = same_place(&member.peer_urls, &listed.peer_urls);
            compared.inspect_err(|error| why = Some(error.clone())).unwrap_or(false)
        };
        let Some(found) = listed.iter().find(&mut is) else {
            let why = why.map(|why| format!(", last resolver error ({why})")).unwrap_or_default();
            let (id, urls) = (member.id, member.peer_urls.join(" "));
            return Err(format!("PeerURLs: no match found for existing member ({id:x}, [{urls}]){why}"));
        };
        if found.name == config.name {
            own = Some(member.id);
        }
    }
    own.ok_or_else(|| format!("no existing member has the peer URLs of {:?}", config.name))
}

#[derive(Deserialize)]
struct Versions {
    etcdcluster: String,
}

/// The cluster version, from the first of these members that knows it; all of them have the same.
async fn ask_version<'a>(
    tls: &Connector,
    members: impl Iterator<Item = &'a Member>,
    timeout: Duration,
) -> Option<(u64, u64)> {
    for url in members.flat_map(|member| &member.peer_urls) {
        let version = match get(tls, url, "/version", timeout).await {
            Ok(reply) => serde_json::from_slice::<Versions>(&reply.body).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        match version {
            Ok(Versions { etcdcluster }) => match parse_version(&etcdcluster) {
                Some(version) => return Some(version),
                None => tracing::warn!(url, version = etcdcluster, "failed to parse cluster version of remote member"),
            },
            Err(error) => tracing::warn!(url, error, "failed to get version"),
        }
    }
    None
}

/// Major and minor number.
fn parse_version(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// Whether a member of this version may join a cluster of that version: a newer cluster may write entries that the
/// member cannot apply.
fn compatible(config: &Config, cluster: (u64, u64)) -> bool {
    let own = parse_version(&config.reported_version).unwrap_or(OLDEST_CLUSTER);
    let compatible = (OLDEST_CLUSTER..=own).contains(&cluster);
    if !compatible {
        let version = format!("{}.{}", cluster.0, cluster.1);
        tracing::warn!(
            "cluster-version" = version,
            "own-version" = config.reported_version,
            "cannot join this cluster"
        );
    }
    compatible
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::config::{Invocation, load};

    fn config(line: &str) -> Config {
        match load(line.split_whitespace().map(str::to_owned), []).unwrap() {
            Invocation::Start(config, _) => *config,
            other => panic!("{other:?}"),
        }
    }

    /// A member that answers on the peer port, until the test ends. Returns its URL.
    fn member(answer: impl Fn(&str) -> Option<(String, &'static str)> + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut request) = (stream.unwrap(), Vec::new());
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                let line = String::from_utf8(request).unwrap();
                let path = line.split(' ').nth(1).unwrap();
                let (body, header) = answer(path).unwrap_or(("404 page not found".into(), ""));
                let status = if header.is_empty() { "404 Not Found" } else { "200 OK" };
                let length = body.len();
                write!(stream, "HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\n\r\n{body}").unwrap();
            }
        });
        url
    }

    const CLUSTER_ID: &str = "X-Etcd-Cluster-Id: 3d3fd201ef4996ab\r\n";
    const NO_ID: &str = "Content-Type: application/json\r\n";
    const OWN: &str = "http://127.0.0.1:1";

    /// A member that knows itself and this one.
    fn knows(id: u64, own: &'static str, client: &'static str, version: &'static str) -> String {
        let listener = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
        let known = listener.clone();
        let url = member(move |path| match path {
            "/members" => {
                let peer = known.wait();
                let body = format!(
                    r#"[{{"id":5,"peerURLs":["{peer}"],"name":"m2","clientURLs":["http://c:1"]}},{{"id":{id},"peerURLs":["{own}"],"name":""{client}}}]"#
                );
                Some((body, CLUSTER_ID))
            }
            "/version" => Some((format!(r#"{{"etcdserver":"3.7.3","etcdcluster":"{version}"}}"#), NO_ID)),
            _ => None,
        });
        listener.set(url.clone()).unwrap();
        url
    }

    fn start(state: &str, other: &str) -> Result<Bootstrap, String> {
        let config = config(&format!(
            "--name m1 --initial-cluster-token tok --initial-advertise-peer-urls={OWN} --initial-cluster-state={state} \
             --initial-cluster=m1={OWN},m2={other}"
        ));
        bootstrap(&config, &Connector::default())
    }

    #[test]
    fn a_cluster_is_founded_while_the_others_are_away() {
        // No process listens on this port: it was released.
        let away = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let founder = |name: &str, url: &str| Founder { name: name.into(), peer_urls: vec![url.into()] };
        let members = vec![founder("m1", OWN), founder("m2", &away)];
        let expected = Bootstrap::Found { members, own: "m1".into(), cluster_token: "tok".into() };
        assert_eq!(start("new", &away), Ok(expected));
    }

    #[test]
    fn a_member_that_ran_before_does_not_found_the_cluster_again() {
        let id = identity::member_id(&[OWN.into()], "tok");
        let error = start("new", &knows(id, OWN, r#","clientURLs":["http://c:2"]"#, "3.7.0")).unwrap_err();
        assert_eq!(error, format!("member {id:x} has already been bootstrapped"));
        // The others may have started first: then they know this member, but not its client URLs.
        assert!(start("new", &knows(id, OWN, "", "3.7.0")).is_ok());
    }

    #[test]
    fn who_joins_is_told_its_id() {
        let joined = Ok(Bootstrap::Join { id: 9, cluster_id: 0x3d3f_d201_ef49_96ab });
        assert_eq!(start("existing", &knows(9, OWN, "", "3.7.0")), joined);
        // The cluster may know it by another name for the same place.
        assert_eq!(start("existing", &knows(9, "http://localhost:1", "", "3.0.0")), joined);
    }

    #[test]
    fn a_cluster_that_is_another_one_is_not_joined() {
        let error = start("existing", &knows(9, "http://127.0.0.1:2", "", "3.7.0")).unwrap_err();
        assert!(error.starts_with("error validating peerURLs {ClusterID:3d3fd201ef4996ab Members:[5 ["), "{error}");
        assert!(error.ends_with("PeerURLs: no match found for existing member (9, [http://127.0.0.1:2])"), "{error}");
        let alone = member(|_| Some((r#"[{"id":5,"peerURLs":["http://a:1"],"name":"m2"}]"#.into(), CLUSTER_ID)));
        assert!(start("existing", &alone).unwrap_err().ends_with(": member count is unequal"));
        for version in ["3.8.0", "2.3.0", "not_decided", "4.0.0"] {
            let error = start("existing", &knows(9, OWN, "", version)).unwrap_err();
            assert_eq!(error, "incompatible with current running cluster", "{version}");
        }
    }

    #[test]
    fn answers_that_are_none_are_passed_over() {
        let why = "cannot fetch cluster info from peer urls: ";
        let nothing = format!("{why}could not retrieve cluster information from the given URLs");
        for answer in [None, Some(("[]", NO_ID)), Some(("{", CLUSTER_ID)), Some((r#"[{"id":"x"}]"#, CLUSTER_ID))] {
            let url = member(move |_| answer.map(|(body, header)| (body.to_owned(), header)));
            assert_eq!(start("existing", &url).unwrap_err(), nothing, "{answer:?}");
        }
        let empty = member(|_| Some(("[]".into(), CLUSTER_ID)));
        let error = start("existing", &empty).unwrap_err();
        assert_eq!(error, format!("{why}failed to get raft cluster member(s) from the given URLs"));
        // The first URL that answers counts.
        let both = format!("http://127.0.0.1:2,m2={}", knows(9, OWN, "", "3.7.0"));
        assert!(start("existing", &both).unwrap_err().contains("no match found for existing member (5"));
    }
}
