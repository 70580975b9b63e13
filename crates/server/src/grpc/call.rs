//! Metadata and deadline of a call.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use metastore_store::command::Caller;
use tokio::time::Instant;

use super::encoding::Encoding;
use super::status::Status;
use crate::grpc::Origin;

/// The longest `grpc-timeout` that is kept as a deadline; a longer one (up to 11,000 years are possible) is none.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// One call of a client. It holds only the metadata that handlers read: all that the client sent may be large.
#[derive(Debug)]
pub struct Call {
    /// When the client stops waiting; `None` if it did not say.
    pub deadline: Option<Instant>,
    /// The message as it came, without the prefix and not compressed: a slice of the receive buffer, to be copied if
    /// kept. Empty for calls whose client streams.
    pub raw: Bytes,
    /// The other end of the connection; `None` for the call of another member.
    pub origin: Option<Rc<Origin>>,
    /// The token by which the client says who it is.
    pub token: Option<Box<[u8]>>,
    /// The user in whose name the call is made, once it was admitted; empty while authentication is disabled.
    pub caller: Caller,
    pub(super) encoding: Encoding,
    requires_leader: bool,
}

impl Call {
    /// Takes the headers of a request. A `grpc-timeout` that cannot be read is Internal, as in grpc-go; an encoding
    /// other than identity and gzip is Unimplemented.
    pub(super) fn new(headers: &HeaderMap, origin: Rc<Origin>) -> Result<Call, Status> {
        let encoding = Encoding::of(headers)?;
        let deadline = match headers.get("grpc-timeout") {
            None => None,
            Some(value) => {
                let timeout = parse_timeout(value.as_bytes())
                    .map_err(|error| Status::internal(format!("malformed grpc-timeout: {error}")))?;
                (timeout <= LONGEST_TIMEOUT).then(|| Instant::now() + timeout)
            }
        };
        let requires_leader = headers.get("hasleader").is_some_and(|value| value == "true");
        let token = token(headers);
        let caller = Caller::default();
        Ok(Call { deadline, raw: Bytes::new(), origin: Some(origin), token, caller, encoding, requires_leader })
    }

    /// A call that another member makes for its client.
    pub fn of_member(deadline: Instant) -> Call {
        let encoding = Encoding::Identity;
        let deadline = Some(deadline);
        let caller = Caller::default();
        Call { deadline, raw: Bytes::new(), origin: None, token: None, caller, encoding, requires_leader: false }
    }

    #[cfg(test)]
    pub(crate) fn with_metadata(name: &'static str, value: &'static str) -> Call {
        let entry = (http::HeaderName::from_static(name), http::HeaderValue::from_static(value));
        Call::new(&HeaderMap::from_iter([entry]), Rc::default()).unwrap()
    }

    /// True if the client wants an error rather than a wait while there is no leader: metadata `hasleader: true`.
    pub fn requires_leader(&self) -> bool {
        self.requires_leader
    }
}

/// The token of a call. As in etcd, `token` comes before `authorization`, in which `Bearer` may precede it.
fn token(headers: &HeaderMap) -> Option<Box<[u8]>> {
    let value = headers.get("token").or_else(|| headers.get(AUTHORIZATION))?.as_bytes();
    Some(value.strip_prefix(b"Bearer ").unwrap_or(value).into())
}

/// Whether a text is a `grpc-timeout`.
pub fn is_timeout(text: &[u8]) -> bool {
    parse_timeout(text).is_ok()
}

/// `grpc-timeout`: at most eight digits and a unit, with grpc-go's error texts.
fn parse_timeout(text: &[u8]) -> Result<Duration, String> {
    let shown = || String::from_utf8_lossy(text).into_owned();
    if text.len() < 2 {
        return Err(format!("transport: timeout string is too short: {:?}", shown()));
    }
    if text.len() > 9 {
        return Err(format!("transport: timeout string is too long: {:?}", shown()));
    }
    let (digits, unit) = text.split_at(text.len() - 1);
    let scale: fn(u64) -> Duration = match unit[0] {
        b'H' => |n| Duration::from_secs(n * 3600),
        b'M' => |n| Duration::from_secs(n * 60),
        b'S' => Duration::from_secs,
        b'm' => Duration::from_millis,
        b'u' => Duration::from_micros,
        b'n' => Duration::from_nanos,
        _ => return Err(format!("transport: timeout unit is not recognized: {:?}", shown())),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(format!("strconv.ParseInt: parsing {:?}: invalid syntax", String::from_utf8_lossy(digits)));
    }
    Ok(scale(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::status::Code;
    use http::HeaderValue;

    #[test]
    fn timeouts() {
        assert_eq!(parse_timeout(b"7S"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_timeout(b"99999999H"), Ok(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse_timeout(b"250m"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_timeout(b"1M"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_timeout(b"0n"), Ok(Duration::ZERO));
        assert_eq!(parse_timeout(b"S").unwrap_err(), "transport: timeout string is too short: \"S\"");
        assert_eq!(parse_timeout(b"123456789S").unwrap_err(), "transport: timeout string is too long: \"123456789S\"");
        assert_eq!(parse_timeout(b"5x").unwrap_err(), "transport: timeout unit is not recognized: \"5x\"");
        assert!(parse_timeout(b"-5S").is_err());
    }

    fn call(name: &'static str, value: &'static str) -> Result<Call, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        Call::new(&headers, Rc::default())
    }

    #[test]
    fn metadata() {
        assert!(call("hasleader", "true").unwrap().requires_leader());
        assert!(!call("hasleader", "1").unwrap().requires_leader());
        assert_eq!(call("token", "a.1").unwrap().token.as_deref(), Some(&b"a.1"[..]));
        assert_eq!(call("authorization", "Bearer a.1").unwrap().token.as_deref(), Some(&b"a.1"[..]));
        assert_eq!(call("authorization", "a.1").unwrap().token.as_deref(), Some(&b"a.1"[..]));
        assert_eq!(call("grpc-timeout", "99999999H").unwrap().deadline, None);
        assert_eq!(call("grpc-timeout", "later").unwrap_err().code, Code::Internal);
    }

    #[test]
    fn encodings() {
        for (name, encoding) in [("identity", Encoding::Identity), ("", Encoding::Identity), ("gzip", Encoding::Gzip)] {
            assert_eq!(call("grpc-encoding", name).unwrap().encoding, encoding);
        }
        for other in ["snappy", "GZIP"] {
            let text = format!("grpc: Decompressor is not installed for grpc-encoding {other:?}");
            assert_eq!(call("grpc-encoding", other).unwrap_err(), Status::unimplemented(text));
        }
        assert_eq!(call("te", "trailers").unwrap().encoding, Encoding::Identity);
    }
}
