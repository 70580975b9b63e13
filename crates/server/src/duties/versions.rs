//! The cluster version: the leader asks every member for its version, and settles on the lowest one (etcd: `monitor.go`
//! in `server/etcdserver/version`). During a downgrade it settles on the target, and ends the downgrade once every
//! member runs the target.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use metastore_proto::membershippb::DowngradeInfoSetRequest;
use metastore_store::Member as ClusterMember;
use metastore_store::command::Kind;
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
pub struct Version {
    major: u64,
    minor: u64,
}

impl Version {
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut number = || parts.next()?.parse().ok();
        Some(Self { major: number()?, minor: number()? })
    }

    /// The version in a request: X.Y, or X.Y.Z with what semantic versioning allows after it. As strict as etcd.
    pub fn of_request(text: &str) -> Option<Self> {
        Self::semantic(text).or_else(|| Self::semantic(&format!("{text}.0")))
    }

    fn semantic(text: &str) -> Option<Self> {
        let (text, build) = text.split_once('+').unwrap_or((text, ""));
        let (text, pre_release) = text.split_once('-').unwrap_or((text, ""));
        let is_name =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let is_list = |list: &str| list.is_empty() || list.split('.').all(is_name);
        let numbers: Vec<u64> =
            text.split('.').map(|part| part.parse::<i64>().ok()?.try_into().ok()).collect::<Option<_>>()?;
        let [major, minor, _] = numbers[..] else { return None };
        (is_list(build) && is_list(pre_release)).then_some(Self { major, minor })
    }

    /// The version to which a cluster may be downgraded.
    pub fn before(self) -> Option<Self> {
        Some(Self { minor: self.minor.checked_sub(1)?, ..self })
    }

    /// `X.Y`.
    pub fn without_patch(self) -> String {
        format!("{}.{}", self.major, self.minor)
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
        if !shared.is_leader() || member.read_barrier(&call).await.is_err() {
            continue;
        }
        let versions = ask_all(shared, member.transport.tls(), &member.limits.version).await;
        let (now, target) = (shared.cluster_version(), shared.downgrade());
        let current = now.as_deref().and_then(Version::parse);
        let decided = match &target {
            None => decide(current, &versions),
            Some(target) => decide_downgrade(current, Version::parse(target), &versions),
        };
        if target.is_some() && decided.is_some() && decided == current {
            end_downgrade(&member).await;
            continue;
        }
        let Some(version) = decided else { continue };
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

/// The version to which a downgrade brings the cluster next, if it does: the target, if it is at most one minor version
/// below that of the cluster and those of the members. Once it is the version of the cluster, that of each member must
/// be the target as well.
fn decide_downgrade(now: Option<Version>, target: Option<Version>, members: &[Option<Version>]) -> Option<Version> {
    let (now, target) = (now?, target?);
    let all = members.iter().copied().collect::<Option<Vec<_>>>()?;
    let least = all.iter().copied().min()?;
    let is_valid = |from: Version| from == target || from.before() == Some(target);
    let is_next = if now == target { all.iter().all(|version| *version == target) } else { is_valid(least) };
    (is_valid(now) && is_next).then_some(target)
}

/// All members run the target of the downgrade.
async fn end_downgrade(member: &MemberHandle) {
    seldom!(
        CHANGES: info, member.shared.member_id,
        "cluster-version" = member.shared.downgrade(), "the cluster has been downgraded"
    );
    let ended = member.propose(&member.own_call(), Kind::DowngradeInfoSet, &DowngradeInfoSetRequest::default()).await;
    if let Err(error) = ended {
        seldom!(warn, member.shared.member_id, error = %error.message, "failed to end the downgrade; trying again");
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

    #[test]
    fn a_downgrade_goes_one_version_down_and_ends_with_the_last_member() {
        let decided = |now: &str, target: &str, members: &[Option<&str>]| {
            let members: Vec<_> = members.iter().map(|text| text.and_then(Version::parse)).collect();
            let decided = decide_downgrade(Version::parse(now), Version::parse(target), &members);
            decided.map(|version| version.to_string())
        };
        let (target, mixed) = ("3.6.0", [Some("3.7.3"), Some("3.6.1")]);
        assert_eq!(decided("3.7.0", target, &[Some("3.7.0"); 2]).as_deref(), Some(target), "the cluster first");
        assert_eq!(decided("3.7.0", target, &mixed).as_deref(), Some(target));
        assert_eq!(decided("3.7.0", target, &[Some("3.7.0"), None]), None, "a member is away");
        assert_eq!(decided("3.7.0", target, &[Some("3.7.0"), Some("3.5.0")]), None);
        assert_eq!(decided("3.8.0", target, &[Some("3.7.0")]), None);
        assert_eq!(decided("3.6.0", target, &mixed), None, "one member still runs the higher version");
        assert_eq!(decided("3.6.0", target, &[Some("3.6.0"), None]), None);
        assert_eq!(decided("3.6.0", target, &[Some("3.6.0"), Some("3.6.9")]).as_deref(), Some(target), "it is over");
        assert_eq!(decided("3.7.0", "", &mixed), None);
    }

    #[test]
    fn the_version_in_a_request_is_read_as_strictly_as_by_etcd() {
        // The answers of etcd 3.7.3.
        let good = [
            "3.6",
            "3.6.0",
            "3.6.5",
            "3.6.0-rc.1",
            "03.6",
            "3.06",
            "3.6.00",
            "3.6.0+b",
            "3.6.0-",
            "3.6.0+",
            "3.6.9223372036854775807",
        ];
        for text in good {
            assert_eq!(Version::of_request(text), Some(Version { major: 3, minor: 6 }), "{text}");
        }
        let bad = [
            "",
            "3",
            "x",
            "v3.6",
            "3.6.x",
            "3.6.0.1",
            "3.6-rc",
            "+3.6",
            "3.6+b",
            "3.",
            ".6",
            "3.-1",
            "3..6",
            "3.6.",
            " 3.6",
            "99999999999999999999.6",
            "3.6.0-a_b",
            "3.6.0-a..b",
            "3.6.0-a b",
            "3.6.0+a+b",
            "3.6.0 ",
            "3.6.-1",
            "3.6.0-é",
            "3.6.9223372036854775808",
        ];
        for text in bad {
            assert_eq!(Version::of_request(text), None, "{text}");
        }
    }
}
