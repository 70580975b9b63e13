//! The message stream: a length and a message, again and again.

use bytes::{BufMut, Bytes, BytesMut};
use http_body::Body;
use metastore_proto::Message as _;
use metastore_proto::raftpb;

use super::measure::Measured;
use super::source::{Broken, Source};
use super::{Frame, MAX_FRAME_BYTES, is_link_heartbeat};

/// Bytes of the length before a message.
const LENGTH_BYTES: usize = 8;

/// Appends a frame.
pub fn encode(message: &raftpb::Message, out: &mut BytesMut) {
    let length = message.encoded_len();
    out.reserve(LENGTH_BYTES + length);
    out.put_u64(length as u64);
    message.encode_raw(out);
}

/// Reads a frame.
///
/// # Errors
/// [`Broken`]; the stream cannot be read on.
pub async fn decode<B>(source: &mut Source<B>) -> Result<Frame, Broken>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    let (message, bytes) = decode_limited(source, MAX_FRAME_BYTES).await?;
    Ok(if is_link_heartbeat(&message) { Frame::Heartbeat } else { Frame::Message(message.into(), bytes) })
}

/// Reads a message of at most `limit` bytes, of any kind, and the number of bytes that its frame took.
///
/// # Errors
/// [`Broken`]
pub async fn decode_limited<B>(source: &mut Source<B>, limit: u64) -> Result<(raftpb::Message, usize), Broken>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    let length = source.first_number().await?;
    let bytes = source.bytes(length, limit).await?;
    let taken = LENGTH_BYTES + bytes.len();
    Ok((parse(bytes).await?, taken))
}

pub(super) async fn parse(bytes: Bytes) -> Result<raftpb::Message, Broken> {
    Measured::new(bytes)?.decode(()).await
}
