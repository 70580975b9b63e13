use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use metastore_proto::raftpb::{Entry, Message, MessageType};
use proptest::prelude::*;

use super::source::{Broken, Source};
use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

/// A body in pieces of any size.
struct Pieces(VecDeque<Bytes>);

impl Pieces {
    fn new(bytes: &[u8], size: usize) -> Pieces {
        Pieces(bytes.chunks(size).map(Bytes::copy_from_slice).collect())
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(http_body::Frame::data(piece))))
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

#[test]
fn a_frame_takes_no_more_memory_than_it_is_long() {
    const PIECE_BYTES: usize = 10_000;
    for pieces in [1, 7, 100, 1000] {
        let mut source = Source::new(Pieces::new(&vec![7; PIECE_BYTES * pieces], PIECE_BYTES), PATIENCE);
        let length = PIECE_BYTES * pieces - 1;
        let bytes = run(source.bytes(length as u64, u64::MAX)).unwrap().try_into_mut().unwrap();
        assert_eq!((bytes.len(), bytes.capacity()), (length, length), "{pieces} pieces");
    }
}

fn entry(term: u64, index: u64, data: &'static [u8]) -> Entry {
    Entry { r#type: None, term: Some(term), index: Some(index), data: Some(Bytes::from_static(data)) }
}

/// An append of member 1 to member 2 at term 5.
fn append(log_term: u64, index: u64, entries: Vec<Entry>, commit: u64) -> Message {
    Message {
        r#type: Some(MessageType::MsgApp as i32),
        to: Some(2),
        from: Some(1),
        term: Some(5),
        log_term: Some(log_term),
        index: Some(index),
        commit: Some(commit),
        entries,
        ..Message::default()
    }
}

fn encoded(messages: &[Message]) -> (Vec<usize>, BytesMut) {
    let (mut encoder, mut out, mut ends) = (msgapp::Encoder::default(), BytesMut::new(), Vec::new());
    for message in messages {
        encoder.encode(message, &mut out);
        ends.push(out.len());
    }
    (ends, out)
}

/// Reads appends until the stream breaks.
fn decoded(bytes: &[u8], size: usize) -> (Vec<Frame>, Broken) {
    run(async {
        let (mut source, mut decoder) = (Source::new(Pieces::new(bytes, size), PATIENCE), msgapp::Decoder::new(1, 2));
        let mut frames = Vec::new();
        loop {
            match decoder.decode(&mut source).await {
                Ok(frame) => frames.push(frame),
                Err(broken) => return (frames, broken),
            }
        }
    })
}

fn messages(bytes: &[u8], size: usize) -> (Vec<Frame>, Broken) {
    run(async {
        let mut source = Source::new(Pieces::new(bytes, size), PATIENCE);
        let mut frames = Vec::new();
        loop {
            match message::decode(&mut source).await {
                Ok(frame) => frames.push(frame),
                Err(broken) => return (frames, broken),
            }
        }
    })
}

/// The appends of a leader: its first one, one that continues it, an empty one with the commit index, one that does not
/// continue, and again one that does.
fn conversation() -> Vec<Message> {
    vec![
        append(4, 9, vec![entry(4, 10, b"a"), entry(5, 11, b"b")], 9),
        append(5, 11, vec![entry(5, 12, b"c"), entry(5, 13, b"")], 11),
        append(5, 13, vec![], 13),
        link_heartbeat(),
        append(5, 11, vec![entry(5, 12, b"c")], 13),
        append(5, 12, vec![entry(5, 13, b"d")], 13),
    ]
}

#[test]
fn the_bytes_of_both_streams_are_etcds() {
    let (ends, bytes) = encoded(&conversation());
    let kinds: Vec<u8> = [0].iter().chain(&ends[..ends.len() - 1]).map(|&at| bytes[at]).collect();
    assert_eq!(kinds, [2, 1, 1, 0, 2, 1]);
    let whole = b"\x08\x03\x10\x02\x18\x01\x20\x05\x28\x04\x30\x09\
        \x3a\x07\x10\x04\x18\x0a\x22\x01a\x3a\x07\x10\x05\x18\x0b\x22\x01b\x40\x09";
    assert_eq!(bytes[..ends[0]], [&[2, 0, 0, 0, 0, 0, 0, 0, 32][..], whole].concat());
    let entries = b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x07\x10\x05\x18\x0c\x22\x01c\
        \0\0\0\0\0\0\0\x06\x10\x05\x18\x0d\x22\x00\0\0\0\0\0\0\0\x0b";
    assert_eq!(bytes[ends[0]..ends[1]], entries[..]);
    assert_eq!(bytes[ends[1]..ends[2]], b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0d"[..]);
    let mut out = BytesMut::new();
    message::encode(&link_heartbeat(), &mut out);
    message::encode(&conversation()[0], &mut out);
    assert_eq!(out[..], [&[0, 0, 0, 0, 0, 0, 0, 2, 8, 8, 0, 0, 0, 0, 0, 0, 0, 32][..], whole].concat());
}

#[test]
fn a_conversation_arrives_in_pieces_of_any_size() {
    let conversation = conversation();
    let (_, bytes) = encoded(&conversation);
    for size in [1, 2, 7, 64, bytes.len()] {
        let (frames, broken) = decoded(&bytes, size);
        assert_eq!(broken, Broken::Ended);
        assert_eq!(frames.len(), conversation.len());
        for (frame, message) in frames.iter().zip(&conversation) {
            match frame {
                Frame::Heartbeat => assert!(is_link_heartbeat(message)),
                Frame::Message(read, _) => assert_eq!(&**read, message),
            }
        }
        let taken: usize = frames.iter().map(|f| if let Frame::Message(_, bytes) = f { *bytes } else { 1 }).sum();
        assert_eq!(taken, bytes.len());
    }
}

#[test]
fn what_the_short_form_cannot_say_is_said_in_full() {
    let first = append(5, 9, vec![entry(5, 10, b"a")], 9);
    let kind_of = |second: Message| {
        let (ends, bytes) = encoded(&[first.clone(), second]);
        bytes[ends[0]]
    };
    assert_eq!(kind_of(append(5, 10, vec![], 9)), 1);
    assert_eq!(kind_of(append(5, 9, vec![], 9)), 2, "another index");
    assert_eq!(kind_of(append(4, 10, vec![], 9)), 2, "another term of the entry before");
    assert_eq!(kind_of(Message { term: Some(6), ..append(5, 10, vec![], 9) }), 2, "a new term");
    assert_eq!(kind_of(Message { term: Some(6), ..append(6, 10, vec![], 9) }), 2, "a term that was never said");
    assert_eq!(kind_of(Message { context: Some("x".into()), ..append(5, 10, vec![], 9) }), 2, "a context");
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_cut() {
    let (ends, bytes) = encoded(&conversation());
    for length in 0..bytes.len() {
        let expected = if length == 0 || ends.contains(&length) { Broken::Ended } else { Broken::Cut };
        assert_eq!(decoded(&bytes[..length], 5).1, expected, "{length}");
    }
    assert_eq!(messages(b"\0\0\0", 1).1, Broken::Cut);
}

#[test]
fn what_is_too_large_is_refused_before_it_comes() {
    let (huge, limit) = (u64::MAX.to_be_bytes(), MAX_FRAME_BYTES);
    let too_large = Broken::TooLarge { bytes: u64::MAX, limit };
    assert_eq!(messages(&huge, 3).1, too_large);
    let one_more = limit + 1;
    assert_eq!(messages(&one_more.to_be_bytes(), 3).1, Broken::TooLarge { bytes: one_more, limit });
    assert_eq!(decoded(&[&[2][..], &huge].concat(), 3).1, too_large);
    assert_eq!(decoded(&[&[1][..], &1u64.to_be_bytes(), &huge].concat(), 3).1, too_large);
    let entries = decoded(&[&[1][..], &huge].concat(), 3).1;
    assert!(matches!(&entries, Broken::Malformed(why) if why.contains("entries in one frame")), "{entries}");
    // The largest length that is allowed, and then nothing: memory is taken only for bytes that arrived.
    assert_eq!(messages(&limit.to_be_bytes(), 8).1, Broken::Cut);
}

#[test]
fn an_unknown_kind_is_refused() {
    let broken = decoded(&[3], 1).1;
    assert_eq!(broken, Broken::Malformed("failed to parse type 3 in msgappv2 stream".into()));
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed() {
    struct Silent;
    impl http_body::Body for Silent {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }
    let mut source = Source::new(Silent, PATIENCE);
    assert_eq!(message::decode(&mut source).await, Err(Broken::Silent(PATIENCE)));
}

fn any_append() -> impl Strategy<Value = Message> {
    let entries = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4);
    (0..3u64, 0..3u64, 0..4u64, 0..9u64, entries).prop_map(|(term, log_term, index, commit, data)| {
        let next = |at: usize| index + 1 + at as u64;
        let entry = |(at, data): (usize, Vec<u8>)| Entry {
            r#type: Some(0),
            term: Some(term),
            index: Some(next(at)),
            data: Some(data.into()),
        };
        let entries = data.into_iter().enumerate().map(entry).collect();
        Message { term: Some(term), ..append(log_term, index, entries, commit) }
    })
}

proptest! {
    /// Messages of a few terms and indexes, so that many continue each other by chance.
    #[test]
    fn whatever_is_appended_arrives(sent in prop::collection::vec(any_append(), 0..12), size in 1..50usize) {
        let (_, bytes) = encoded(&sent);
        let (frames, broken) = decoded(&bytes, size);
        prop_assert_eq!(broken, Broken::Ended);
        let read: Vec<Message> = frames.into_iter().map(|frame| match frame {
            Frame::Message(message, _) => *message,
            Frame::Heartbeat => link_heartbeat(),
        }).collect();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn hostile_bytes_break_the_stream_and_nothing_else(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        honest in prop::collection::vec(any_append(), 0..3),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        decoded(&bytes, 11);
        messages(&bytes, 11);
        let mut damaged = encoded(&honest).1;
        for (at, flip) in flips {
            if !damaged.is_empty() {
                let at = at.index(damaged.len());
                damaged[at] ^= flip;
            }
        }
        decoded(&damaged, 11);
        messages(&damaged, 11);
    }
}
