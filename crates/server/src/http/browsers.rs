//! Which browsers may ask this member: `--host-whitelist` and `--cors`.
//!
//! A page that a user of a browser visits can make the browser send requests, also to addresses that only the browser
//! reaches. Two rules of browsers keep the page from reading the answers, and each needs the help of the server. A page
//! may read the answers of its own origin: so a request by a name that is not this member's is refused, because an
//! attacker can let his own name point here (DNS rebinding). A page may read answers that say so: so the answers name
//! the origins that may.

use std::collections::HashSet;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST, ORIGIN,
};
use http::{HeaderValue, Request, Response, StatusCode};

use super::refusing;
use crate::grpc::{Body, Origin};

/// The names by which browsers may ask, and the origins whose pages may read the answers.
#[derive(Debug)]
pub struct Browsers {
    names: List,
    origins: List,
}

#[derive(Debug)]
enum List {
    All,
    Only(HashSet<String>),
}

impl List {
    /// `*` in a list stands for everything.
    fn new(texts: &[String]) -> List {
        if texts.iter().any(|text| text == "*") { List::All } else { List::Only(texts.iter().cloned().collect()) }
    }

    fn holds(&self, text: &str) -> bool {
        match self {
            List::All => true,
            List::Only(texts) => texts.contains(text),
        }
    }
}

/// The origin that may read an answer.
#[derive(Debug)]
pub(super) struct Allowed(HeaderValue);

impl Allowed {
    /// Adds to an answer that it may be read.
    pub(super) fn tell(self, mut answer: Response<Body>) -> Response<Body> {
        let headers = answer.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.0);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
        answer
    }
}

impl Browsers {
    /// `names` are compared with the name in a request, without its port; `origins` with the `Origin` of a request.
    pub fn new(names: &[String], origins: &[String]) -> Browsers {
        Browsers { names: List::new(names), origins: List::new(origins) }
    }

    /// The origin that may read the answer, if there is one; or the answer that refuses the request. On an encrypted
    /// connection the client has compared the name with the certificate.
    pub(super) fn judge<B>(
        &self,
        request: &Request<B>,
        origin: &Origin,
    ) -> Result<Option<Allowed>, Box<Response<Body>>> {
        let name = name(request);
        if !origin.encrypted && !self.names.holds(name) {
            seldom!(warn, name, host = name, "rejecting HTTP request to prevent DNS rebinding attacks");
            return Err(Box::new(misdirected(name)));
        }
        if matches!(self.origins, List::All) {
            return Ok(Some(Allowed(HeaderValue::from_static("*"))));
        }
        let origin = request.headers().get(ORIGIN);
        let listed = |origin: &&HeaderValue| origin.to_str().is_ok_and(|origin| self.origins.holds(origin));
        Ok(origin.filter(listed).cloned().map(Allowed))
    }
}

/// The name by which a request addresses this member, without the port. As in etcd, a name with a port that cannot be
/// read is left as it is.
fn name<B>(request: &Request<B>) -> &str {
    let header = || request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = request.uri().authority().map_or_else(header, |authority| authority.as_str());
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").unwrap_or((host, ":")),
        None => host.split_once(':').unwrap_or((host, "")),
    };
    if port.contains(':') { host } else { name }
}

fn misdirected(name: &str) -> Response<Body> {
    let body = format!(
        "This request addresses the server as {name:?}, which is not one of its names.\n\n\
         To have such requests answered:\n\
         - use HTTPS, after TLS was enabled on the server; or\n\
         - add the name to the host whitelist in the settings of the server, like --host-whitelist {name:?}.\n\n\
         Names are checked to prevent DNS rebinding attacks (CVE-2018-5702).\n"
    );
    refusing(StatusCode::MISDIRECTED_REQUEST, body)
}
