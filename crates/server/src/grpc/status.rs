//! The status of a call: a gRPC code and a message, written into the trailers.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderMap, HeaderValue};

/// The codes of gRPC, by number (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// Every code, in the order of its number.
    pub const ALL: [Code; 17] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The name that metrics and error strings of Go programs use: `OK`, `Canceled`, `DeadlineExceeded`.
    pub fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Canceled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        }
    }

    fn header(self) -> HeaderValue {
        const TEXT: [&str; 17] =
            ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
        HeaderValue::from_static(TEXT[self as usize])
    }
}

/// The status of a failed call. The message reaches the client byte for byte; clients of etcd compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl Status {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Status {
        Status { code, message: message.into() }
    }

    pub fn unknown(message: impl Into<Cow<'static, str>>) -> Status {
        Status::new(Code::Unknown, message)
    }

    pub fn invalid_argument(message: impl Into<Cow<'static, str>>) -> Status {
        Status::new(Code::InvalidArgument, message)
    }

    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Status {
        Status::new(Code::NotFound, message)
    }

    pub fn resource_exhausted(message: impl Into<Cow<'static, str>>) -> Status {
        Status::new(Code::ResourceExhausted, message)
    }

    pub fn unimplemented(message: impl Into<Cow<'static, str>>) -> Status {
        Status::new(Code::Unimplemented, message)
    }

    pub fn internal(message: impl Into<Cow<'static, str>>) -> Status {
        Status::new(Code::Internal, message)
    }

    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Status {
        Status::new(Code::Unavailable, message)
    }

    /// The text of Go's `context.DeadlineExceeded`, which etcd passes through without its own prefix.
    pub fn deadline_exceeded() -> Status {
        Status::new(Code::DeadlineExceeded, "context deadline exceeded")
    }

    /// The status with which streams end when the member stops.
    pub fn stopped() -> Status {
        Status::unavailable("etcdserver: server stopped")
    }

    /// The headers that close a call with this status.
    pub fn trailers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(2);
        self.write(&mut headers);
        headers
    }

    /// Reads what [`Status::write`] has written; `None` if it is OK, or if there is none.
    pub(super) fn read(headers: &HeaderMap) -> Option<Status> {
        let number: usize = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        let code = *Code::ALL.get(number)?;
        let message = headers.get("grpc-message").map_or_else(String::new, |text| percent_decode(text.as_bytes()));
        (code != Code::Ok).then(|| Status::new(code, message))
    }

    /// Adds `grpc-status` and `grpc-message` to `headers`.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert("grpc-status", self.code.header());
        if !self.message.is_empty() {
            headers.insert("grpc-message", percent_encode(&self.message));
        }
    }
}

/// The trailers of a successful call.
pub fn ok_trailers() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(1);
    headers.insert("grpc-status", Code::Ok.header());
    headers
}

impl fmt::Display for Status {
    /// As Go's client prints it: etcd puts this text into a watch's `cancel_reason`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rpc error: code = {} desc = {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Status {}

/// `grpc-message` as the gRPC specification wants it: printable ASCII without `%` as it is, every other byte as `%XX`.
fn percent_encode(message: &str) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(message.len());
    for &byte in message.as_bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte),
            _ => encoded.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
    HeaderValue::from_bytes(&encoded).expect("printable ASCII is a header value")
}

/// Takes back [`percent_encode`].
fn percent_decode(encoded: &[u8]) -> String {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, digit(after.first()), digit(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_order_agree() {
        for (number, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, number);
            assert_eq!(code.header().to_str().unwrap(), number.to_string());
        }
    }

    #[test]
    fn the_message_is_percent_encoded() {
        let trailers = Status::unknown("100% of \"größe\"\n~").trailers();
        assert_eq!(trailers["grpc-message"], "100%25 of \"gr%C3%B6%C3%9Fe\"%0A~");
        assert_eq!(trailers["grpc-status"], "2");
        assert_eq!(Status::read(&trailers), Some(Status::unknown("100% of \"größe\"\n~")));
        assert_eq!(Status::read(&ok_trailers()), None);
    }

    #[test]
    fn display_is_what_go_prints() {
        let status = Status::new(Code::PermissionDenied, "etcdserver: permission denied");
        assert_eq!(status.to_string(), "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
    }
}
