//! The append stream ("msgappv2"): a frame for a follower that keeps up contains only what is new.

use bytes::{BufMut, Bytes, BytesMut};
use http_body::Body;
use metastore_proto::Message as _;
use metastore_proto::raftpb::{self, MessageType};

use super::measure::MAX_ENTRIES;
use super::source::{Broken, Source};
use super::{Frame, MAX_FRAME_BYTES, is_link_heartbeat, message};

const HEARTBEAT: u8 = 0;
const ENTRIES: u8 = 1;
const WHOLE: u8 = 2;

/// The position of the stream: the fields that a frame of entries leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    /// After a whole message.
    fn after(message: &raftpb::Message) -> Position {
        let index = message.entries.last().map_or(message.index(), raftpb::Entry::index);
        Position { term: message.term(), index }
    }
}

/// The writing side of one connection.
#[derive(Debug, Default)]
pub struct Encoder(Position);

impl Encoder {
    /// Appends a frame. `message` is a MsgApp, or a link heartbeat.
    pub fn encode(&mut self, message: &raftpb::Message, out: &mut BytesMut) {
        if is_link_heartbeat(message) {
            out.put_u8(HEARTBEAT);
        } else if self.is_continued_by(message) {
            out.put_u8(ENTRIES);
            out.put_u64(message.entries.len() as u64);
            for entry in &message.entries {
                let length = entry.encoded_len();
                out.reserve(8 + length);
                out.put_u64(length as u64);
                entry.encode_raw(out);
                self.0.index += 1;
            }
            out.put_u64(message.commit());
        } else {
            out.put_u8(WHOLE);
            message::encode(message, out);
            self.0 = Position::after(message);
        }
    }

    /// The reader fills in the remembered term for both terms, and the remembered index: the message must have these.
    /// Reader and writer both count the index on by the number of entries.
    fn is_continued_by(&self, message: &raftpb::Message) -> bool {
        let Position { term, index } = self.0;
        index == message.index() && term == message.log_term() && term == message.term() && says_no_more(message)
    }
}

/// Whether a frame of entries would lose no field of the message. raft sets none of these in an append.
fn says_no_more(message: &raftpb::Message) -> bool {
    !message.reject() && message.reject_hint() == 0 && message.context().is_empty() && message.snapshot.is_none()
}

/// The reading side of one connection.
#[derive(Debug)]
pub struct Decoder {
    position: Position,
    from: u64,
    to: u64,
}

impl Decoder {
    /// `from` and `to` are filled into messages whose frames leave them out.
    pub fn new(from: u64, to: u64) -> Decoder {
        Decoder { position: Position::default(), from, to }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`Broken`]; the stream cannot be read on.
    pub async fn decode<B>(&mut self, source: &mut Source<B>) -> Result<Frame, Broken>
    where
        B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
    {
        match source.byte().await? {
            HEARTBEAT => Ok(Frame::Heartbeat),
            ENTRIES => self.entries(source).await,
            WHOLE => {
                let length = source.number().await?;
                let message = message::parse(source.bytes(length, MAX_FRAME_BYTES).await?).await?;
                self.position = Position::after(&message);
                Ok(Frame::Message(message.into(), 9 + length as usize))
            }
            kind => Err(Broken::Malformed(format!("failed to parse type {kind} in msgappv2 stream"))),
        }
    }

    async fn entries<B>(&mut self, source: &mut Source<B>) -> Result<Frame, Broken>
    where
        B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
    {
        let Position { term, index } = self.position;
        let count = source.number().await?;
        if count > MAX_ENTRIES {
            return Err(Broken::Malformed(format!("{count} entries in one frame; at most {MAX_ENTRIES}")));
        }
        let mut entries = Vec::new();
        let mut left = MAX_FRAME_BYTES;
        for _ in 0..count {
            let length = source.number().await?;
            let bytes = source.bytes(length, left).await?;
            left -= length;
            let entry = raftpb::Entry::decode(bytes).map_err(|error| Broken::Malformed(error.to_string()))?;
            entries.push(entry);
        }
        let commit = source.number().await?;
        self.position.index = index.saturating_add(count);
        let taken = 17 + 8 * count + (MAX_FRAME_BYTES - left);
        let message = raftpb::Message {
            r#type: Some(MessageType::MsgApp as i32),
            from: Some(self.from),
            to: Some(self.to),
            term: Some(term),
            log_term: Some(term),
            index: Some(index),
            commit: Some(commit),
            entries,
            ..Default::default()
        };
        Ok(Frame::Message(message.into(), taken as usize))
    }
}
