//! Any bytes as input from another member: over the two streams, and in a post of the pipeline. Bytes that decode to
//! messages go to a member that follows, and to one that leads. The fuzz target `peer_message` includes this file, so
//! that a fuzzer and the plain tests check the same.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use metastore_engine::{Engine, Memory};
use metastore_proto::etcdserverpb::PutRequest;
use metastore_proto::raftpb::{Entry, Message, MessageType};
use metastore_replica::disk::SimulatedDisk;
use metastore_replica::wal::Options;
use metastore_replica::{Bootstrap, Fatal, Founder, OpenEngine, Output, Paths, Replica, Settings, Timing, identity};
use metastore_server::peer::codec::source::{Broken, Source};
use metastore_server::peer::codec::{Frame, message, msgapp};
use metastore_store::command::{Command, Kind};

/// Nothing here waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest post that is tried.
const POST_BYTES: u64 = 1 << 20;
/// At most this many messages of one input are used.
const MOST_MESSAGES: usize = 64;
const TOKEN: &str = "token";

/// The body of the fuzz target.
///
/// # Panics
/// If a member does anything with the messages except take them, refuse them, or stop for a reason that they can cause.
pub fn attempt(bytes: &[u8]) {
    let said = [appends(bytes), others(bytes), post(bytes)];
    for messages in said.into_iter().filter(|messages| !messages.is_empty()) {
        let members = members();
        hear(members.0.start(), &messages);
        hear(members.1.start(), &messages);
    }
}

/// How many messages of the append stream a follower takes, and how far they move its commit index; and how many
/// messages of the message stream a leader takes.
pub fn taken(bytes: &[u8]) -> (usize, u64, usize) {
    let (follower, leader) = (members().0.start(), members().1.start());
    let before = follower.standing().commit;
    let (appended, commit) = hear(follower, &appends(bytes));
    (appended, commit - before, hear(leader, &others(bytes)).0)
}

/// A body in pieces that end anywhere.
struct Pieces(VecDeque<Bytes>);

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

fn source(bytes: &[u8]) -> Source<Pieces> {
    let size = 1 + bytes.len() % 61;
    Source::new(Pieces(bytes.chunks(size).map(Bytes::copy_from_slice).collect()), PATIENCE)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

fn keep(frame: Frame, into: &mut Vec<Message>) {
    if let Frame::Message(message, _) = frame {
        into.push(*message);
    }
}

/// The messages of the append stream before it breaks.
fn appends(bytes: &[u8]) -> Vec<Message> {
    let (mut source, mut decoder) = (source(bytes), msgapp::Decoder::new(member(2), member(1)));
    let mut messages = Vec::new();
    run(async {
        while let Ok(frame) = decoder.decode(&mut source).await {
            if messages.len() == MOST_MESSAGES {
                break;
            }
            keep(frame, &mut messages);
        }
    });
    messages
}

/// The messages of the message stream before it breaks.
fn others(bytes: &[u8]) -> Vec<Message> {
    let (mut source, mut messages) = (source(bytes), Vec::new());
    run(async {
        while let Ok(frame) = message::decode(&mut source).await {
            if messages.len() == MOST_MESSAGES {
                break;
            }
            keep(frame, &mut messages);
        }
    });
    messages
}

/// A post has no frame; here it gets one that says its length.
fn post(bytes: &[u8]) -> Vec<Message> {
    let framed = [&(bytes.len() as u64).to_be_bytes()[..], bytes].concat();
    match run(async { message::decode_limited(&mut source(&framed), POST_BYTES).await }) {
        Ok((message, taken)) => {
            assert_eq!(taken, framed.len());
            vec![message]
        }
        Err(broken) => {
            assert!(matches!(broken, Broken::Malformed(_) | Broken::TooLarge { .. } | Broken::Ended), "{broken}");
            Vec::new()
        }
    }
}

fn urls(at: usize) -> Vec<String> {
    vec![format!("http://10.0.0.{at}:2380")]
}

fn member(at: usize) -> u64 {
    identity::member_id(&urls(at), TOKEN)
}

/// The first of three members, stopped; it holds some entries.
struct Stopped {
    disk: SimulatedDisk,
    /// Whether it leads once it is started.
    leads: bool,
}

/// A member that follows, and one that leads.
fn members() -> &'static (Stopped, Stopped) {
    static MEMBERS: OnceLock<(Stopped, Stopped)> = OnceLock::new();
    MEMBERS.get_or_init(|| {
        let stopped = Stopped { disk: SimulatedDisk::new(), leads: true };
        let mut replica = stopped.start();
        for id in 1..=3 {
            replica.propose(put(id)).expect("it leads");
        }
        replica.process(&mut Output::default()).expect("a healthy member");
        drop(replica);
        (Stopped { disk: stopped.disk.fork(), leads: false }, stopped)
    })
}

fn put(id: u64) -> Bytes {
    let put = PutRequest { key: "k".into(), value: vec![b'v'; id as usize].into(), ..PutRequest::default() };
    Command::encode(id, Kind::Put, &put)
}

impl Stopped {
    /// Starts the member on a disk of its own.
    fn start(&self) -> Replica {
        let mut settings = Settings::new("memory", Timing { election_ticks: 10, pre_vote: false }, 8);
        settings.log = Options { segment_bytes: 4096 };
        let founder = |at: usize| Founder { name: at.to_string(), peer_urls: urls(at) };
        let members = (1..=3).map(founder).collect();
        let bootstrap = Bootstrap::Found { members, own: "1".into(), cluster_token: TOKEN.into() };
        let engine: OpenEngine = Arc::new(|_| Ok(Arc::new(Memory::new()) as Arc<dyn Engine>));
        let paths = Paths { data_dir: PathBuf::from("/data"), wal_dir: None };
        let (mut replica, _) =
            Replica::open(settings, Arc::new(self.disk.fork()), paths, || Ok(bootstrap), engine).expect("a member");
        let mut output = Output::default();
        replica.process(&mut output).expect("a healthy member");
        while self.leads && !replica.standing().is_leader() {
            replica.tick();
            replica.process(&mut output).expect("a healthy member");
            let vote = Message { index: Some(0), ..heard(MessageType::MsgVoteResp, replica.standing().term) };
            _ = replica.step(vote).expect("a vote stops nobody");
            replica.process(&mut output).expect("a healthy member");
        }
        replica
    }
}

/// A message of the second member to the first.
fn heard(kind: MessageType, term: u64) -> Message {
    Message {
        r#type: Some(kind.into()),
        to: Some(member(1)),
        from: Some(member(2)),
        term: Some(term),
        ..Message::default()
    }
}

/// Returns how many messages the member took, and its commit index after them.
fn hear(mut replica: Replica, messages: &[Message]) -> (usize, u64) {
    let mut taken = 0;
    let heard = messages.iter().enumerate().try_for_each(|(nth, message)| {
        taken += usize::from(replica.step(message.clone())?.is_ok());
        // Some messages arrive together.
        if nth % 3 == 2 {
            return Ok(());
        }
        replica.read(nth as u64 + 1);
        replica.tick();
        replica.process(&mut Output::default())
    });
    let ended = heard.and_then(|()| replica.process(&mut Output::default()));
    if let Err(fatal) = ended {
        // The log must never be asked for something impossible.
        assert!(matches!(fatal, Fatal::LogLost(_) | Fatal::Inapplicable { .. }), "{fatal}");
    }
    (taken, replica.standing().commit)
}

/// The messages of a leader to a follower that holds nothing of its term: an append, a second one, and a commit index.
pub fn conversation() -> Vec<Message> {
    let replica = members().1.start();
    let standing = replica.standing();
    let (term, last) = (standing.term + 1, standing.commit);
    let entry =
        |nth: u64, data: Bytes| Entry { r#type: Some(0), term: Some(term), index: Some(last + nth), data: Some(data) };
    let append = |after: u64, log_term, entries, commit: u64| Message {
        log_term: Some(log_term),
        index: Some(last + after),
        entries,
        commit: Some(last + commit),
        ..heard(MessageType::MsgApp, term)
    };
    let before = 1;
    vec![
        append(0, before, vec![entry(1, Bytes::new()), entry(2, put(7))], 0),
        append(2, term, vec![entry(3, put(8))], 2),
        append(3, term, vec![], 3),
    ]
}

/// One message of every other kind, as the second member may send it.
pub fn others_of_all_kinds() -> Vec<Message> {
    let term = members().1.start().standing().term;
    let with = |kind, index: u64, context: &'static str| Message {
        index: Some(index),
        log_term: Some(term),
        commit: Some(3),
        context: Some(context.into()),
        ..heard(kind, term)
    };
    let read = Entry { data: Some("\0\0\0\0\0\0\0\x09".into()), ..Entry::default() };
    let forwarded = |kind, entries| Message { term: None, entries, ..heard(kind, term) };
    vec![
        with(MessageType::MsgHeartbeatResp, 0, ""),
        with(MessageType::MsgAppResp, 4, ""),
        Message { reject: Some(true), reject_hint: Some(3), ..with(MessageType::MsgAppResp, 5, "") },
        with(MessageType::MsgVote, 9, ""),
        with(MessageType::MsgPreVote, 9, "CampaignTransfer"),
        with(MessageType::MsgVoteResp, 0, ""),
        with(MessageType::MsgTimeoutNow, 0, ""),
        forwarded(MessageType::MsgProp, vec![Entry { data: Some(put(9)), ..Entry::default() }]),
        forwarded(MessageType::MsgReadIndex, vec![read.clone()]),
        Message { entries: vec![read], ..with(MessageType::MsgReadIndexResp, 5, "") },
        forwarded(MessageType::MsgTransferLeader, vec![]),
        // With this message another member leads, so the other messages must come before it.
        heard(MessageType::MsgHeartbeat, term + 1),
    ]
}

/// Encodes messages as the streams do.
pub fn as_appends(messages: &[Message]) -> Vec<u8> {
    let (mut encoder, mut out) = (msgapp::Encoder::default(), BytesMut::new());
    messages.iter().for_each(|message| encoder.encode(message, &mut out));
    out.to_vec()
}

pub fn as_others(messages: &[Message]) -> Vec<u8> {
    let mut out = BytesMut::new();
    messages.iter().for_each(|said| message::encode(said, &mut out));
    out.to_vec()
}
