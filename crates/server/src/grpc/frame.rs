//! gRPC's framing of messages: one flag byte, four bytes of length, the message.

use bytes::{Buf, Bytes, BytesMut};
use metastore_proto::Message;

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

    /// Prefix and message.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Bytes of the message, without the prefix.
    pub fn message_bytes(&self) -> usize {
        self.0.len() - PREFIX_BYTES
    }
}

fn check_send(length: usize) -> Result<(), Status> {
    if length <= MAX_SEND_BYTES {
        return Ok(());
    }
    let text = format!("grpc: trying to send message larger than max ({length} vs. {MAX_SEND_BYTES})");
    Err(Status::resource_exhausted(text))
}

/// Cuts a byte stream into messages. Holds at most one message of `max_bytes` and one chunk of the connection's.
///
/// A message that lies whole in one chunk is a slice of that chunk: nothing is copied. The length is checked as soon
/// as the prefix is there, before anything of the message is kept.
#[derive(Debug)]
pub struct Cutter {
    whole: Bytes,
    joined: BytesMut,
    max_bytes: usize,
}

impl Cutter {
    pub fn new(max_bytes: usize) -> Cutter {
        Cutter { whole: Bytes::new(), joined: BytesMut::new(), max_bytes }
    }

    /// Adds what the connection delivered.
    pub fn push(&mut self, chunk: Bytes) {
        if self.joined.is_empty() && self.whole.is_empty() {
            self.whole = chunk;
            return;
        }
        self.joined.extend_from_slice(&std::mem::take(&mut self.whole));
        self.joined.extend_from_slice(&chunk);
    }

    /// True when nothing is left over from the last message.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.joined.is_empty()
    }

    /// The next message, `None` when more bytes are needed.
    /// Errors, with grpc-go's texts: a compressed message (nothing here decompresses), and one over the limit.
    pub fn cut_next(&mut self) -> Result<Option<Bytes>, Status> {
        let held: &[u8] = if self.joined.is_empty() { &self.whole } else { &self.joined };
        let Some(prefix) = held.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        match prefix[0] {
            0 => {}
            1 => return Err(Status::internal("grpc: compressed flag set with identity or empty encoding")),
            flag => return Err(Status::internal(format!("grpc: received unexpected payload format {flag}"))),
        }
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > self.max_bytes {
            let text = format!("grpc: received message larger than max ({length} vs. {})", self.max_bytes);
            return Err(Status::resource_exhausted(text));
        }
        if held.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        Ok(Some(self.cut(length)))
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
        assert!(cutter.is_empty());
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
            assert!(cutter.is_empty());
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
    fn compressed_messages_are_refused() {
        let mut cutter = Cutter::new(10);
        cutter.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(cutter.cut_next().unwrap_err().code, Code::Internal);
        let mut cutter = Cutter::new(10);
        cutter.push(Bytes::from_static(&[7, 0, 0, 0, 0]));
        assert_eq!(cutter.cut_next().unwrap_err().message, "grpc: received unexpected payload format 7");
    }
}
