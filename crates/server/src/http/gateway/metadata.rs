//! The headers of a request as the metadata of a call.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use crate::grpc::Status;
use crate::grpc::call::is_timeout;

/// The metadata that calls read. A client sends it in headers that have this name after [`PREFIX`].
const METADATA: [&str; 4] = ["token", "authorization", "hasleader", "client-api-version"];

const PREFIX: &str = "grpc-metadata-";

/// Takes the metadata out of the headers of a request: `Authorization`, `Grpc-Timeout`, and `Grpc-Metadata-*`.
///
/// # Errors
/// `InvalidArgument`, with grpc-gateway's text, for a timeout that cannot be read.
pub fn metadata(headers: &HeaderMap) -> Result<HeaderMap, Status> {
    let mut metadata = HeaderMap::new();
    if let Some(timeout) = headers.get("grpc-timeout") {
        if !is_timeout(timeout.as_bytes()) {
            let shown = String::from_utf8_lossy(timeout.as_bytes());
            return Err(Status::invalid_argument(format!("invalid grpc-timeout: {shown}")));
        }
        metadata.insert("grpc-timeout", timeout.clone());
    }
    if let Some(value) = headers.get(AUTHORIZATION) {
        metadata.insert(AUTHORIZATION, value.clone());
    }
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        if let Some(known) = METADATA.iter().find(|known| **known == name) {
            metadata.entry(HeaderName::from_static(known)).or_insert_with(|| value.clone());
        }
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pairs: &[(&'static str, &'static str)]) -> Result<HeaderMap, Status> {
        let entry = |&(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), http::HeaderValue::from_static(value))
        };
        metadata(&pairs.iter().map(entry).collect())
    }

    #[test]
    fn only_what_calls_read_is_taken() {
        let headers = [
            ("authorization", "a"),
            ("grpc-metadata-authorization", "b"),
            ("grpc-metadata-token", "c"),
            ("grpc-metadata-grpc-encoding", "gzip"),
            ("grpc-encoding", "gzip"),
            ("token", "d"),
            ("hasleader", "true"),
        ];
        let taken = taken(&headers).unwrap();
        let pairs: Vec<_> = taken.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(pairs, [("authorization", "a"), ("token", "c")]);
    }

    #[test]
    fn a_timeout_is_checked() {
        assert_eq!(taken(&[("grpc-timeout", "1S")]).unwrap()["grpc-timeout"], "1S");
        let refused = taken(&[("grpc-timeout", "zz")]).unwrap_err();
        assert_eq!(refused, Status::invalid_argument("invalid grpc-timeout: zz"));
    }
}
