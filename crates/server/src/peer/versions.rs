//! The version that the cluster speaks: the leader asks every member which version it runs, and settles on the least
//! (etcd: `server/etcdserver/version/monitor.go`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use metastore_store::Member as ClusterMember;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::client::request;
use crate::config::url;
use crate::driver::Event;
use crate::io::inbox::Inbox;
use crate::shared::Shared;

/// How often the members are asked, as in etcd.
const INTERVAL: Duration = Duration::from_secs(4);
/// How long a member may take to answer; one that takes longer counts as unreachable until it is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a cluster speaks whose members cannot all be asked, as in etcd.
const LEAST: Version = Version { major: 3, minor: 0 };

/// What matters of a version.
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

/// Keeps the cluster's version at what all members understand, as long as this member leads. Runs for ever, inside a
/// runtime that can spawn local tasks. `own` is the version that this member reports.
pub async fn monitor(shared: Arc<Shared>, inbox: Inbox<Event>, own: String) {
    loop {
        let _ = tokio::time::timeout(INTERVAL, shared.elected.notified()).await;
        if !shared.is_leader() {
            continue;
        }
        let versions = ask_all(&shared, &own).await;
        let now = shared.cluster_version();
        if let Some(version) = decide(now.as_deref().and_then(Version::parse), &versions) {
            match &now {
                None => tracing::info!("cluster-version" = %version, "setting up initial cluster version using v3 API"),
                Some(from) => {
                    tracing::info!(from = %from, to = %version, "updating cluster version using v3 API");
                }
            }
            if !inbox.push_control(Event::ClusterVersion(version.to_string())) {
                return;
            }
        }
    }
}

/// The version to change to, if there is one: the least that a member runs, and never one below that of now.
fn decide(now: Option<Version>, members: &[Option<Version>]) -> Option<Version> {
    let all: Option<Vec<Version>> = members.iter().copied().collect();
    let least = all.and_then(|all| all.into_iter().min());
    match now {
        None => Some(least.unwrap_or(LEAST)),
        Some(now) => least.filter(|least| least.major == now.major && *least > now),
    }
}

/// The version of each member; `None` where it is not known.
async fn ask_all(shared: &Shared, own: &str) -> Vec<Option<Version>> {
    let mut asking = JoinSet::new();
    let mut versions = Vec::new();
    for member in shared.members() {
        if member.id == shared.member_id {
            versions.push(Version::parse(own));
        } else {
            asking.spawn_local(ask(member));
        }
    }
    while let Some(answer) = asking.join_next().await {
        versions.push(answer.unwrap_or_default());
    }
    versions
}

async fn ask(member: ClusterMember) -> Option<Version> {
    let id = format!("{:x}", member.id);
    for text in &member.peer_urls {
        match ask_at(text).await {
            Ok(version) => return Some(version),
            Err(error) => tracing::warn!("remote-member-id" = %id, error = %error, "failed to get version"),
        }
    }
    None
}

/// The part of a `/version` that matters here.
#[derive(Deserialize)]
struct Versions {
    etcdserver: String,
}

async fn ask_at(peer_url: &str) -> Result<Version, String> {
    let url = url::parse(peer_url)?;
    let reply = request(&url, Method::GET, "/version", HeaderMap::new(), Bytes::new(), PATIENCE);
    let reply = reply.await.map_err(|error| error.to_string())?;
    if reply.status != StatusCode::OK {
        return Err(format!("{peer_url} answered {}", reply.status));
    }
    let versions: Versions = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
    Version::parse(&versions.etcdserver).ok_or_else(|| format!("{peer_url} has version {:?}", versions.etcdserver))
}

#[cfg(test)]
mod tests {
    use super::*;

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
