//! gzip, for clients that ask for it (etcd: `google.golang.org/grpc/encoding/gzip`).
//!
//! A client names the encoding of its messages in `grpc-encoding`; each message says in its prefix whether it is
//! compressed. As in grpc-go, answers are compressed in the same way, whatever the client says it accepts.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::bufread::{GzDecoder, MultiGzDecoder};
use http::HeaderMap;

use super::status::Status;

/// How the messages of a call are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Identity,
    Gzip,
}

impl Encoding {
    /// The encoding that a request names. If there are several, the last one counts; none is identity.
    ///
    /// # Errors
    /// `Unimplemented`, with grpc-go's text, for any other encoding.
    pub(super) fn of(headers: &HeaderMap) -> Result<Encoding, Status> {
        match headers.get_all("grpc-encoding").iter().next_back().map(|value| value.as_bytes()) {
            None | Some(b"" | b"identity") => Ok(Encoding::Identity),
            Some(b"gzip") => Ok(Encoding::Gzip),
            Some(other) => {
                let name = String::from_utf8_lossy(other);
                let text = format!("grpc: Decompressor is not installed for grpc-encoding {name:?}");
                Err(Status::unimplemented(text))
            }
        }
    }
}

/// Decompresses one message of at most `max_bytes`. Nothing beyond that is decompressed.
///
/// # Errors
/// grpc-go's codes and texts, for a message that is no gzip, and for one that is larger.
pub(super) fn inflate(message: &[u8], max_bytes: usize) -> Result<Bytes, Status> {
    let mut inflated = Vec::new();
    let most = max_bytes as u64 + 1;
    if let Err(error) = MultiGzDecoder::new(message).take(most).read_to_end(&mut inflated) {
        let what = match GzDecoder::new(message).header() {
            Some(_) => "read decompressed data",
            None => "decompress the message",
        };
        return Err(Status::internal(format!("grpc: failed to {what}: {}", cause(message, &error))));
    }
    if inflated.len() > max_bytes {
        let text = format!("grpc: received message after decompression larger than max {max_bytes}");
        return Err(Status::resource_exhausted(text));
    }
    Ok(inflated.into())
}

/// The error text of Go's gzip for such bytes. Go adds an offset to the last of these texts.
fn cause(message: &[u8], error: &io::Error) -> &'static str {
    let text = error.to_string();
    match error.kind() {
        _ if message.is_empty() => "EOF",
        io::ErrorKind::UnexpectedEof => "unexpected EOF",
        _ if text.contains("checksum") => "gzip: invalid checksum",
        _ if text.contains("header") => "gzip: invalid header",
        _ => "flate: corrupt input",
    }
}
