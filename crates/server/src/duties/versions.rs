//! The cluster version: the leader asks every member for its version, and settles on the lowest one (etcd: `monitor.go`
//! in `server/etcdserver/version`).

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use metastore_store::Member as ClusterMember;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::url;
use crate::driver::Event;
use crate::grpc::Call;
use crate::member::MemberHandle;
use crate::peer::client::request;
use crate::shared::Shared;
use crate::tls::Connector;

/// How often the members are asked, as in etcd.
const INTERVAL: Duration = Duration::from_secs(4);
/// How long a member may take to answer; one that takes longer counts as unreachable until it is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// The version of a cluster whose members cannot all be asked, as in etcd.
const LEAST: Version = Version { major: 3, minor: 0 };

/// The parts of a version that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u64,
    minor: u64,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut number = || parts.next()?.parse().ok();
        Some(Self { major: number()?, minor: number()? })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.0", self.major, self.minor)
    }
}

/// Keeps the cluster version at the lowest that a member runs, as long as this member leads. Runs for ever, in a local
/// runtime, once in a process.
pub async fn monitor(member: Rc<MemberHandle>) {
    let shared = &member.shared;
    loop {
        let _ = tokio::time::timeout(INTERVAL, shared.elected.notified()).await;
        // A new leader may not know yet which version the leader before it has set.
        let call = Call::of_member(Instant::now() + INTERVAL);
        if !shared.is_leader() || member.read_barrier(&call).await.is_err() || shared.downgrade().is_some() {
            continue;
        }
        let versions = ask_all(shared, member.transport.tls(), &member.limits.version).await;
        let now = shared.cluster_version();
        let Some(version) = decide(now.as_deref().and_then(Version::parse), &versions) else { continue };
        match &now {
            None => {
                seldom!(
                    CHANGES: info, shared.member_id,
                    "cluster-version" = %version, "setting up initial cluster version using v3 API"
                );
            }
            Some(from) => {
                seldom!(
                    CHANGES: info, shared.member_id,
                    from = %from, to = %version, "updating cluster version using v3 API"
                );
            }
        }
        if !member.engine.tell(Event::ClusterVersion(version.to_string())) {
            return;
        }
    }
}

/// The version to change to, if there is one: the lowest that a member runs, and never one below the current version.
fn decide(now: Option<Version>, members: &[Option<Version>]) -> Option<Version> {
    let all: Option<Vec<Version>> = members.iter().copied().collect();
    let least = all.and_then(|all| all.into_iter().min());
    match now {
        None => Some(least.unwrap_or(LEAST)),
        Some(now) => least.filter(|least| least.major == now.major && *least > now),
    }
}

/// The version of each member; `None` where it is not known.
async fn ask_all(shared: &Shared, tls: &Connector, own: &str) -> Vec<Option<Version>> {
    let mut asking = JoinSet::new();
    let mut versions = Vec::new();
    for member in shared.members() {
        if member.id == shared.member_id {
            versions.push(Version::parse(own));
        } else {
            asking.spawn_local(ask(tls.clone(), member));
        }
    }
    while let Some(answer) = asking.join_next().await {
        versions.push(answer.unwrap_or_default());
    }
    versions
}

async fn ask(tls: Connector, member: ClusterMember) -> Option<Version> {
    let id = format!("{:x}", member.id);
    for text in &member.peer_urls {
        match ask_at(&tls, text).await {
            Ok(version) => return Some(version),
            Err(error) => {
                seldom!(warn, member.id, "remote-member-id" = %id, error = %error, "failed to get version");
            }
        }
    }
    None
}

/// The part of an answer to `/version` that matters here.
#[derive(Deserialize)]
struct Versions {
    etcdserver: String,
}

async fn ask_at(tls: &Connector, peer_url: &str) -> Result<Version, String> {
    let url = url::parse(peer_url)?;
    let reply = request(tls, &url, Method::GET, "/version", HeaderMap::new(), Bytes::new(), PATIENCE);
    let reply = reply.await.map_err(|error| error.to_string())?;
    if reply.status != StatusCode::OK {
        return Err(format!("{peer_url} answered {}", reply.status));
    }
    let versions: Versions = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
    Version::parse(&versions.etcdserver).ok_or_else(|| format!("{peer_url} has version {:?}", versions.etcdserver))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::driver::Answer;
    use crate::member::fake_engine::FakeEngine;

    /// A member that runs etcd 3.5.17.
    async fn peer() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                seen.push(stream.read_u8().await.unwrap());
            }
            assert!(seen.starts_with(b"GET /version "));
            let body = r#"{"etcdserver":"3.5.17","etcdcluster":"3.5.0"}"#;
            let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(reply.as_bytes()).await.unwrap();
        });
        url
    }

    #[tokio::test(flavor = "local")]
    async fn a_new_leader_asks_everyone_and_says_what_all_understand() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", &peer().await]);
        tokio::task::spawn_local(monitor(fake.member.clone()));
        fake.led_by(1);
        let decided = async {
            let mut asked = false;
            loop {
                for event in fake.events() {
                    if let Some(waiter) = event.waiter() {
                        fake.reply(waiter, Answer::Readable);
                        asked = true;
                    } else if let Event::ClusterVersion(version) = event {
                        return (version, asked);
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let decided = tokio::time::timeout(Duration::from_secs(60), decided).await.expect("stuck");
        assert_eq!(decided, ("3.5.0".to_owned(), true));
    }

    #[test]
    fn the_least_version_counts_and_never_falls() {
        let decided = |now: Option<&str>, members: &[Option<&str>]| {
            let members: Vec<_> = members.iter().map(|text| text.and_then(Version::parse)).collect();
            decide(now.and_then(Version::parse), &members).map(|version| version.to_string())
        };
        let all = [Some("3.7.0"), Some("3.5.17"), Some("3.6.1-rc.0")];
        assert_eq!(decided(None, &all).as_deref(), Some("3.5.0"));
        assert_eq!(decided(None, &[Some("3.7.0"), None]).as_deref(), Some("3.0.0"));
        assert_eq!(decided(Some("3.0.0"), &all).as_deref(), Some("3.5.0"));
        assert_eq!(decided(Some("3.0.0"), &[Some("3.7.0"), None]), None);
        assert_eq!(decided(Some("3.5.0"), &all), None);
        assert_eq!(decided(Some("3.6.0"), &all), None);
        assert_eq!(decided(Some("3.6.0"), &[Some("4.0.0")]), None, "one minor version after the other");
        assert_eq!(decided(None, &[Some("x")]).as_deref(), Some("3.0.0"));
    }
}
