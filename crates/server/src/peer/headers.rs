//! The headers by which members identify themselves to each other.
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::http_answer::HttpError;

/// The oldest cluster version that is supported: etcd's, and so MetaStore's.
const MIN_CLUSTER_VERSION: &str = "3.0.0";

/// The version of a member that names none, as in etcd.
const UNSAID_VERSION: &str = "2.0.0";

pub const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub(super) const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
const MIN_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
pub const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");
/// Not etcd's: the random name that a process takes when it starts.
pub const PROCESS: HeaderName = HeaderName::from_static("x-metastore-process");
/// Not etcd's: the name of the data directory.
pub const DIRECTORY: HeaderName = HeaderName::from_static("x-metastore-directory");
/// Not etcd's: the format of the states that a member takes, and sends. A member that does not name this format counts
/// as an etcd, and is sent a database: an etcd could not start from such a state.
const STATE_FORMAT: HeaderName = HeaderName::from_static("x-metastore-state");
const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");

/// The state format of this version.
const OWN_STATE_FORMAT: &str = "1";

/// Texts that other members compare, word by word.
pub const CLUSTER_ID_MISMATCH: &str = "cluster ID mismatch";
pub(super) const INCOMPATIBLE_VERSION: &str = "incompatible version";

/// The identity of this member, as other members see it.
#[derive(Clone, Debug)]
pub struct Identity {
    pub id: u64,
    pub cluster_id: u64,
    /// The name of the data directory.
    pub directory: Option<u64>,
    /// The etcd version that is reported.
    pub version: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
}

/// The sender of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// `None` if the request does not name it.
    pub id: Option<u64>,
    /// The URLs at which it can be reached, as it says.
    pub urls: Vec<String>,
}

impl Identity {
    /// The headers of a request to member `to`.
    pub fn headers(&self, to: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SERVER_FROM, hex(self.id));
        headers.insert(SERVER_VERSION, text(&self.version));
        headers.insert(MIN_VERSION, HeaderValue::from_static(MIN_CLUSTER_VERSION));
        headers.insert(CLUSTER_ID, hex(self.cluster_id));
        headers.insert(RAFT_TO, hex(to));
        headers.insert(STATE_FORMAT, HeaderValue::from_static(OWN_STATE_FORMAT));
        if !self.peer_urls.is_empty() {
            headers.insert(PEER_URLS, text(&self.peer_urls.join(",")));
        }
        headers
    }

    /// Adds the headers to an answer that the asking side checks.
    pub fn sign(&self, headers: &mut HeaderMap) {
        headers.insert(SERVER_VERSION, text(&self.version));
        headers.insert(CLUSTER_ID, hex(self.cluster_id));
        headers.insert(STATE_FORMAT, HeaderValue::from_static(OWN_STATE_FORMAT));
    }

    /// Adds to the answer to a probe which process answers, as which member, and on which data directory.
    pub fn introduce(&self, process: &str, headers: &mut HeaderMap) {
        self.sign(headers);
        headers.insert(SERVER_FROM, hex(self.id));
        headers.insert(PROCESS, text(process));
        if let Some(directory) = self.directory {
            headers.insert(DIRECTORY, hex(directory));
        }
    }

    /// The sender's id, if it says that it belongs to this cluster.
    pub(super) fn same_cluster(&self, headers: &HeaderMap) -> Option<u64> {
        let same = said(headers, &CLUSTER_ID)? == format!("{:x}", self.cluster_id);
        same.then(|| u64::from_str_radix(said(headers, &SERVER_FROM)?, 16).ok()).flatten()
    }

    /// Whether the sender of these headers is accepted: by its version, then by its cluster.
    ///
    /// # Errors
    /// 412 with etcd's text. The log has the reason.
    pub fn admit(&self, headers: &HeaderMap) -> Result<Sender, HttpError> {
        let name = said(headers, &SERVER_FROM).unwrap_or_default();
        let server = said(headers, &SERVER_VERSION).unwrap_or(UNSAID_VERSION);
        let minimum = said(headers, &MIN_VERSION).unwrap_or(UNSAID_VERSION);
        if !compatible(server, minimum, &self.version) {
            seldom!(
                warn, (self.id, name),
                "local-member-id" = %format_args!("{:x}", self.id), "local-member-server-version" = %self.version,
                "local-member-server-minimum-cluster-version" = MIN_CLUSTER_VERSION, "remote-peer-server-name" = name,
                "remote-peer-server-version" = server, "remote-peer-server-minimum-cluster-version" = minimum,
                "failed version compatibility check"
            );
            return Err(HttpError::new(StatusCode::PRECONDITION_FAILED, INCOMPATIBLE_VERSION));
        }
        let cluster = said(headers, &CLUSTER_ID).unwrap_or_default();
        if cluster != format!("{:x}", self.cluster_id) {
            seldom!(
                warn, (self.id, name),
                "local-member-id" = %format_args!("{:x}", self.id),
                "local-member-cluster-id" = %format_args!("{:x}", self.cluster_id),
                "remote-peer-server-name" = name, "remote-peer-cluster-id" = cluster,
                "remote-peer-urls" = said(headers, &PEER_URLS).unwrap_or_default(),
                "request cluster ID mismatch: that member was founded as part of another cluster, or this one was. \
                 Compare --initial-cluster and --initial-cluster-token of both; the one that is wrong starts with an \
                 empty data directory and the right flags (to join a running cluster: etcdctl member add, then \
                 --initial-cluster-state=existing)"
            );
            return Err(HttpError::new(StatusCode::PRECONDITION_FAILED, CLUSTER_ID_MISMATCH));
        }
        let urls = said(headers, &PEER_URLS).unwrap_or_default();
        let urls = urls.split(',').filter(|url| !url.is_empty()).map(str::to_owned).collect();
        Ok(Sender { id: u64::from_str_radix(name, 16).ok(), urls })
    }

    /// Whether a request is meant for this member; one that names no member is not.
    pub fn is_meant(&self, headers: &HeaderMap) -> bool {
        said(headers, &RAFT_TO).is_some_and(|to| to == format!("{:x}", self.id))
    }
}

/// Whether a peer that answers with these headers knows the streams: etcd 3 does, whatever its version.
pub(super) fn knows_streams(headers: &HeaderMap) -> bool {
    major_minor(said(headers, &SERVER_VERSION).unwrap_or(UNSAID_VERSION)) >= major_minor(MIN_CLUSTER_VERSION)
}

/// Whether the member that sent these headers takes states of this version's format.
pub(super) fn takes_states(headers: &HeaderMap) -> bool {
    said(headers, &STATE_FORMAT) == Some(OWN_STATE_FORMAT)
}

/// The value of a header, as text.
pub fn said<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty())
}

/// Whether neither side is older than the other's minimum. A text that is no version is incompatible.
fn compatible(server: &str, minimum: &str, local: &str) -> bool {
    let (server, minimum, local) = (major_minor(server), major_minor(minimum), major_minor(local));
    server.is_some() && minimum.is_some() && server >= major_minor(MIN_CLUSTER_VERSION) && minimum <= local
}

fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn hex(id: u64) -> HeaderValue {
    text(&format!("{id:x}"))
}

/// A URL or version with characters that no header can hold is left out rather than sent wrong.
fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(id: u64) -> Identity {
        let peer_urls = vec!["http://a:1".to_owned(), "http://b:2".to_owned()];
        Identity { id, cluster_id: 0xcdf, directory: None, version: "3.7.0".into(), peer_urls }
    }

    #[test]
    fn the_headers_are_etcds() {
        let headers = identity(0xab).headers(0x1f);
        let shown: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        let expected = [
            "x-server-from: ab",
            "x-server-version: 3.7.0",
            "x-min-cluster-version: 3.0.0",
            "x-etcd-cluster-id: cdf",
            "x-raft-to: 1f",
            "x-metastore-state: 1",
            "x-peerurls: http://a:1,http://b:2",
        ];
        assert_eq!(shown, expected);
        let sender = Sender { id: Some(0xab), urls: identity(0xab).peer_urls };
        assert_eq!(identity(0x1f).admit(&headers), Ok(sender));
        assert!(identity(0x1f).is_meant(&headers) && !identity(0x2f).is_meant(&headers));
    }

    #[test]
    fn another_cluster_and_another_time_are_refused() {
        let with = |name: HeaderName, value: &'static str| {
            let mut headers = identity(1).headers(2);
            headers.insert(name, HeaderValue::from_static(value));
            identity(2)
                .admit(&headers)
                .map(|_| ())
                .map_err(|refusal| (refusal.status.as_u16(), refusal.text.into_owned()))
        };
        assert_eq!(with(CLUSTER_ID, "cde"), Err((412, "cluster ID mismatch".into())));
        let incompatible = Err((412, "incompatible version".to_owned()));
        assert_eq!(with(SERVER_VERSION, "2.3.8"), incompatible);
        assert_eq!(with(SERVER_VERSION, "new"), incompatible);
        assert_eq!(with(MIN_VERSION, "3.8.0"), incompatible);
        assert_eq!(with(SERVER_VERSION, "4.0.0-alpha.1"), Ok(()));
        assert_eq!(with(MIN_VERSION, "3.7.9"), Ok(()));
        assert_eq!(identity(2).admit(&HeaderMap::new()).unwrap_err().text, "incompatible version");
    }
}
