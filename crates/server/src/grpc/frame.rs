//! gRPC's framing of messages: one flag byte, four bytes of length, the message.

use std::io::Write;

use bytes::{Buf, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use metastore_proto::Message;

use super::encoding::{self, Encoding};
use super::status::Status;

/// Bytes in front of every message.
pub const PREFIX_BYTES: usize = 5;

/// The largest message that is sent. etcd sets grpc-go's limit to the largest signed 32-bit number.
pub const MAX_SEND_BYTES: usize = i32::MAX as usize;

/// One encoded message with its prefix, ready for the wire.
#[derive(Clone, Debug)]
pub struct Frame(Bytes);

impl Frame {
    /// Encodes `message`. Fails when it is longer than [`MAX_SEND_BYTES`].
    pub fn of(message: &impl Message) -> Result<Frame, Status> {
        let length = message.encoded_len();
        check_send(length)?;
        Frame::write(length, |buffer| message.encode(buffer).expect("a Vec grows"))
    }

    /// For replies that are put together from stored bytes: `fill` appends the message. `capacity_bytes` is the
    /// message's expected length; when it is exact, the bytes are allocated once and never moved.
    pub fn write(capacity_bytes: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Result<Frame, Status> {
        let mut buffer = Vec::with_capacity(PREFIX_BYTES + capacity_bytes);
        buffer.extend_from_slice(&[0; PREFIX_BYTES]);
        fill(&mut buffer);
        let length = buffer.len() - PREFIX_BYTES;
        check_send(length)?;
        buffer[1..PREFIX_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
        Ok(Frame(buffer.into()))
    }

    /// Only the prefix, for a message of `length` bytes that follows in pieces.
    pub(super) fn prefix(length: usize) -> Result<Bytes, Status> {
        check_send(length)?;
        let mut prefix = [0; PREFIX_BYTES];
        prefix[1..].copy_from_slice(&(length as u32).to_be_bytes());
        Ok(Bytes::copy_from_slice(&prefix))
    }

    /// The same message in gzip. An empty one stays as it is, as in grpc-go.
    pub(super) fn deflated(self) -> Frame {
        if self.message_bytes() == 0 {
            return self;
        }
        let mut deflater = Deflater::new();
        deflater.push(&self.0[PREFIX_BYTES..]);
        deflater.finish()
    }

    /// Prefix and message.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Bytes of the message, without the prefix.
    pub fn message_bytes(&self) -> usize {
        self.0.len() - PREFIX_BYTES
    }
}

/// A message that is compressed while its pieces arrive.
#[derive(Debug)]
pub(super) struct Deflater(GzEncoder<Vec<u8>>);

impl Deflater {
    pub(super) fn new() -> Deflater {
        Deflater(GzEncoder::new(vec![1, 0, 0, 0, 0], Compression::default()))
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.0.write_all(piece).expect("a Vec grows");
    }

    pub(super) fn finish(self) -> Frame {
        let mut buffer = self.0.finish().expect("a Vec grows");
        // Deflate adds at most a thousandth, so a prefix holds the length of every message that may be sent.
        let length = (buffer.len() - PREFIX_BYTES) as u32;
        buffer[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        Frame(buffer.into())
    }
}

fn check_send(length: usize) -> Result<(), Status> {
    if length <= MAX_SEND_BYTES {
        return Ok(());
    }
    let text = format!("grpc: trying to send message larger than max ({length} vs. {MAX_SEND_BYTES})");
    Err(Status::resource_exhausted(text))
}

/// Cuts a byte stream into messages. Holds the bytes that were pushed and not cut yet.
///
/// A message that lies whole in one chunk is a slice of that chunk: nothing is copied. The length is checked as soon as
/// the prefix has arrived, before any byte of the message is kept.
#[derive(Debug)]
pub struct Cutter {
    whole: Bytes,
    joined: BytesMut,
    max_bytes: usize,
    encoding: Encoding,
}

/// A message as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Plain(Bytes),
    /// Still compressed.
    Gzip(Bytes),
}

impl Cutter {
    /// For messages that are not compressed.
    pub fn new(max_bytes: usize) -> Cutter {
        Cutter::with(Encoding::Identity, max_bytes)
    }

    pub(super) fn with(encoding: Encoding, max_bytes: usize) -> Cutter {
        Cutter { whole: Bytes::new(), joined: BytesMut::new(), max_bytes, encoding }
    }

    /// Adds bytes that were received.
    pub fn push(&mut self, chunk: Bytes) {
        if self.joined.is_empty() && self.whole.is_empty() {
            self.whole = chunk;
            return;
        }
        self.joined.extend_from_slice(&std::mem::take(&mut self.whole));
        self.joined.extend_from_slice(&chunk);
    }

    fn held(&self) -> &[u8] {
        if self.joined.is_empty() { &self.whole } else { &self.joined }
    }

    /// Bytes that are held.
    pub(super) fn len(&self) -> usize {
        self.held().len()
    }

    /// Whether a message has begun and was not cut yet. As in grpc-go, an incomplete prefix begins no message.
    pub(super) fn is_torn(&self) -> bool {
        self.held().len() >= PREFIX_BYTES
    }

    /// The next message, `None` when more bytes are needed.
    ///
    /// # Errors
    /// With grpc-go's texts: a message that is compressed in another way than the request said, or cannot be
    /// decompressed, or exceeds the limit before or after decompression.
    pub fn cut_next(&mut self) -> Result<Option<Bytes>, Status> {
        match self.cut_raw()? {
            Some(Cut::Gzip(message)) => encoding::inflate(&message, self.max_bytes).map(Some),
            Some(Cut::Plain(message)) => Ok(Some(message)),
            None => Ok(None),
        }
    }

    /// The same, without decompressing it.
    pub(super) fn cut_raw(&mut self) -> Result<Option<Cut>, Status> {
        let held = self.held();
        let Some(prefix) = held.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let compressed = match (prefix[0], self.encoding) {
            (0, _) => false,
            (1, Encoding::Gzip) => true,
            (1, Encoding::Identity) => {
                return Err(Status::internal("grpc: compressed flag set with identity or empty encoding"));
            }
            (flag, _) => return Err(Status::internal(format!("grpc: received unexpected payload format {flag}"))),
        };
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        self.check_received(length)?;
        if held.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let message = self.cut(length);
        Ok(Some(if compressed { Cut::Gzip(message) } else { Cut::Plain(message) }))
    }

    /// A message that comes whole and without prefix, if it is within the limit.
    pub(super) fn whole(&self, message: Bytes) -> Result<Bytes, Status> {
        self.check_received(message.len())?;
        Ok(message)
    }

    fn check_received(&self, length: usize) -> Result<(), Status> {
        if length <= self.max_bytes {
            return Ok(());
        }
        let text = format!("grpc: received message larger than max ({length} vs. {})", self.max_bytes);
        Err(Status::resource_exhausted(text))
    }

    fn cut(&mut self, length: usize) -> Bytes {
        if self.joined.is_empty() {
            self.whole.advance(PREFIX_BYTES);
            self.whole.split_to(length)
        } else {
            self.joined.advance(PREFIX_BYTES);
            self.joined.split_to(length).freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::status::Code;

    fn framed(message: &[u8]) -> Bytes {
        Frame::write(message.len(), |buffer| buffer.extend_from_slice(message)).unwrap().into_bytes()
    }

    #[test]
    fn a_message_in_one_chunk_is_not_copied() {
        let chunk = framed(b"hello");
        let address = chunk[PREFIX_BYTES..].as_ptr();
        let mut cutter = Cutter::new(10);
        cutter.push(chunk);
        let message = cutter.cut_next().unwrap().unwrap();
        assert_eq!((&message[..], message.as_ptr()), (&b"hello"[..], address));
        assert_eq!(cutter.len(), 0);
    }

    #[test]
    fn messages_come_out_whole_however_the_bytes_arrive() {
        let stream = [framed(b"one"), framed(b""), framed(b"three")].concat();
        for size in 1..=stream.len() {
            let mut cutter = Cutter::new(10);
            let mut messages = Vec::new();
            for chunk in stream.chunks(size) {
                cutter.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = cutter.cut_next().unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, ["one", "", "three"], "in chunks of {size}");
            assert_eq!(cutter.len(), 0);
        }
    }

    #[test]
    fn the_length_is_refused_before_the_message_is_there() {
        let mut cutter = Cutter::new(2_097_152);
        cutter.push(Bytes::from_static(&[0, 0x7f, 0, 0, 0]));
        let status = cutter.cut_next().unwrap_err();
        assert_eq!(status.code, Code::ResourceExhausted);
        assert_eq!(status.message, "grpc: received message larger than max (2130706432 vs. 2097152)");
    }

    #[test]
    fn messages_compressed_otherwise_than_announced_are_refused() {
        let mut cutter = Cutter::new(10);
        cutter.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(cutter.cut_next().unwrap_err().code, Code::Internal);
        let mut cutter = Cutter::new(10);
        cutter.push(Bytes::from_static(&[7, 0, 0, 0, 0]));
        assert_eq!(cutter.cut_next().unwrap_err().message, "grpc: received unexpected payload format 7");
    }
}
