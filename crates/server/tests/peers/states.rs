//! States that are sent to a follower.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use http::Method;
use metastore_proto::Message as _;
use metastore_proto::raftpb::{Message, MessageType, Snapshot, SnapshotMetadata};
use metastore_server::peer::{Form, StateBody, StateIntake, StateStream, StateTaker};
use parking_lot::{Condvar, Mutex};

use crate::member::*;
use crate::strangers::{post_head, send, status};

const MIB: usize = 1 << 20;

#[derive(Default)]
struct Taken {
    /// The calls of the intake, in order.
    story: Mutex<Vec<String>>,
    changed: Condvar,
    bytes: AtomicU64,
    /// Pieces are held up while this is set.
    hold: Mutex<bool>,
    /// The error that ends the taking.
    refuse: Mutex<Option<String>>,
}

impl Taken {
    fn tell(&self, what: String) {
        self.story.lock().push(what);
        self.changed.notify_all();
    }

    fn wait(&self, what: &str) {
        let mut story = self.story.lock();
        while !story.iter().any(|told| told == what) {
            assert!(!self.changed.wait_for(&mut story, PATIENCE).timed_out(), "in vain: {what}; {story:?}");
        }
    }

    fn let_go(&self) {
        *self.hold.lock() = false;
        self.changed.notify_all();
    }
}

struct Intake(Arc<Taken>);

struct Taker {
    taken: Arc<Taken>,
    sum: u8,
    finished: bool,
}

impl StateIntake for Intake {
    fn begin(&self, message: Message) -> Result<Box<dyn StateTaker>, String> {
        let index = message.snapshot.unwrap_or_default().metadata.unwrap_or_default().index();
        if index == 13 {
            return Err("13 is refused".into());
        }
        self.0.tell(format!("begin {index}"));
        Ok(Box::new(Taker { taken: self.0.clone(), sum: 0, finished: false }))
    }
}

impl StateTaker for Taker {
    fn take(&mut self, piece: &[u8]) -> Result<(), String> {
        let mut hold = self.taken.hold.lock();
        while *hold {
            assert!(!self.taken.changed.wait_for(&mut hold, PATIENCE).timed_out(), "held for ever");
        }
        drop(hold);
        self.taken.bytes.fetch_add(piece.len() as u64, Ordering::SeqCst);
        self.sum = piece.iter().fold(self.sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), String> {
        self.finished = true;
        self.taken.tell(format!("finish {}", self.sum));
        self.taken.refuse.lock().take().map_or(Ok(()), Err)
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        if !self.finished {
            self.taken.tell("dropped".into());
        }
    }
}

fn announcement(index: u64) -> Message {
    let metadata = Some(SnapshotMetadata { index: Some(index), ..Default::default() });
    let snapshot = Some(Snapshot { metadata, data: None });
    Message { r#type: Some(MessageType::MsgSnap as i32), snapshot, ..heartbeat(1, 2, 0) }
}

/// A leader and a follower that takes states.
fn cluster() -> (Member, Member, Arc<Taken>) {
    let taken = Arc::<Taken>::default();
    let one = Member::start(1);
    let two = Member::start_with(2, CLUSTER, "127.0.0.1:0".parse().unwrap(), Arc::new(Intake(taken.clone())));
    one.transport.set_peers(vec![two.peer()], vec![]);
    two.transport.set_peers(vec![one.peer()], vec![]);
    (one, two, taken)
}

fn sent(member: &Member) -> (u64, bool) {
    member.double.wait("the end of the sending", |told| told.states_sent.pop())
}

fn byte(mebibyte: usize) -> u8 {
    (mebibyte % 251) as u8
}

#[test]
fn a_state_arrives_whole_and_no_faster_than_it_is_taken() {
    const MEBIBYTES: usize = 200;
    let (one, two, taken) = cluster();
    *taken.hold.lock() = true;
    let written = Arc::new(AtomicU64::new(0));
    let counter = written.clone();
    let write = move |out: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| {
        for mebibyte in 0..MEBIBYTES {
            out(&vec![byte(mebibyte); MIB]).map_err(|error| error.to_string())?;
            counter.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    one.transport.send_state(2, Box::new(State { announcement: announcement(7), write }));
    taken.wait("begin 7");
    // Bytes that are written and not taken lie in queues and sockets: a few MiB, and never the whole state.
    eventually("something is written", || written.load(Ordering::SeqCst) > 0);
    two.transport.send(heartbeat(2, 1, 1));
    one.double.wait("messages go on meanwhile", |told| told.messages.get(&2).cloned());
    one.transport.send(heartbeat(1, 2, 2));
    two.double.wait("messages go on meanwhile", |told| told.messages.get(&1).cloned());
    assert!(written.load(Ordering::SeqCst) < 50, "{written:?}");
    assert_eq!(one.figure(r#"etcd_network_snapshot_send_inflights_total{To="2"}"#), Some(1.0));
    // Another state for the same follower would have to wait for ever.
    let empty =
        State { announcement: announcement(8), write: |_: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| Ok(()) };
    one.transport.send_state(2, Box::new(empty));
    assert_eq!(sent(&one), (2, false));
    taken.let_go();
    assert_eq!(sent(&one), (2, true));
    assert_eq!(taken.bytes.load(Ordering::SeqCst), (MEBIBYTES * MIB) as u64);
    let step = |sum: u8, byte: u8| sum.wrapping_mul(31).wrapping_add(byte);
    let bytes = (0..MEBIBYTES).flat_map(|mebibyte| std::iter::repeat_n(byte(mebibyte), MIB));
    assert_eq!(*taken.story.lock(), ["begin 7".to_owned(), format!("finish {}", bytes.fold(0, step))]);
    assert_eq!(one.figure(r#"etcd_network_snapshot_send_success{To="2"}"#), Some(1.0));
    assert_eq!(two.figure(r#"etcd_network_snapshot_receive_success{From="1"}"#), Some(1.0));
    assert!(two.figure(r#"etcd_network_peer_received_bytes_total{From="1"}"#) > Some((MEBIBYTES * MIB) as f64));
}

#[test]
fn a_state_that_cannot_be_read_to_its_end_never_looks_whole() {
    let (one, _two, taken) = cluster();
    let write = |out: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| {
        out(&vec![1; 3 * MIB]).map_err(|error| error.to_string())?;
        Err("the disk is gone".to_owned())
    };
    one.transport.send_state(2, Box::new(State { announcement: announcement(7), write }));
    assert_eq!(sent(&one), (2, false));
    taken.wait("dropped");
    assert!(one.double.wait("raft is told", |told| told.unreachable.get(&2).copied()) > 0);
}

#[test]
fn a_state_that_the_member_refuses_is_not_sent() {
    let (one, two, taken) = cluster();
    let state = |index| {
        let write = |out: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| out(&[1; 100]).map_err(|e| e.to_string());
        Box::new(State { announcement: announcement(index), write })
    };
    one.transport.send_state(2, state(13));
    assert_eq!(sent(&one), (2, false));
    *taken.refuse.lock() = Some("too old".into());
    one.transport.send_state(2, state(7));
    assert_eq!(sent(&one), (2, false));
    assert_eq!(two.figure(r#"etcd_network_snapshot_receive_failures{From="1"}"#), Some(2.0));
    one.transport.send_state(2, state(8));
    assert_eq!(sent(&one), (2, true));
    one.transport.send_state(9, state(8));
    assert_eq!(sent(&one), (9, false));
}

#[test]
fn what_is_no_state_is_refused() {
    let (_one, two, taken) = cluster();
    let post = |message: &Message| {
        let bytes = message.encode_to_vec();
        let body = [&(bytes.len() as u64).to_be_bytes(), &bytes[..], b"state"].concat();
        let reply = two.ask(Method::POST, "/raft/snapshot", headers(1, 2), body);
        (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned())
    };
    assert_eq!(post(&heartbeat(1, 2, 0)).0, 400);
    assert_eq!(post(&Message { to: Some(3), ..announcement(1) }).0, 400);
    assert_eq!(post(&Message { from: Some(3), ..announcement(1) }).0, 400);
    let huge = two.ask(Method::POST, "/raft/snapshot", headers(1, 2), vec![0xff; 20]);
    assert_eq!(huge.status.as_u16(), 400);
    let (status, text) = post(&announcement(13));
    assert_eq!((status, text.as_str()), (500, "failed to save KV snapshot (13 is refused)\n"));
    assert_eq!(post(&announcement(1)), (204, String::new()));
    assert_eq!(taken.bytes.load(Ordering::SeqCst), 5);
    let got = two.ask(Method::GET, "/raft/snapshot", headers(1, 2), "");
    assert_eq!(got.status.as_u16(), 405);
}

#[test]
fn unfinished_states_of_strangers_hold_up_no_member() {
    let (one, two, taken) = cluster();
    let begin = |from: u64| {
        let mut message = announcement(from);
        message.from = Some(from);
        let bytes = message.encode_to_vec();
        let mut stream = send(two.address, &post_head("/raft/snapshot", from, 2, 1000));
        stream.write_all(&[&(bytes.len() as u64).to_be_bytes(), &bytes[..]].concat()).unwrap();
        stream
    };
    // Neither of these two continues its announcement.
    let _silent = [8, 9].map(|from| send(two.address, &post_head("/raft/snapshot", from, 2, 1000)));
    let _unfinished = begin(10);
    taken.wait("begin 10");
    assert_eq!(status(&mut begin(11)), "HTTP/1.1 503 Service Unavailable", "one stranger at a time");
    let write = |out: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| out(&[1; 100]).map_err(|e| e.to_string());
    one.transport.send_state(2, Box::new(State { announcement: announcement(7), write }));
    assert_eq!(sent(&one), (2, true));
}

/// A peer that answers probes as an etcd does, and everything else with 404.
fn etcd() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let (status, body) =
                if first.contains("/raft/probing") { ("200 OK", "{\"OK\":true}") } else { ("404 Not Found", "") };
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nX-Server-Version: 3.7.3\r\n");
            let _ = write!(&stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    address
}

/// A state that says in which form it was asked for, and is not sent.
struct Asked(mpsc::Sender<Form>);

impl StateStream for Asked {
    fn open(self: Box<Self>, form: Form) -> Result<(Message, Box<dyn StateBody>), String> {
        self.0.send(form).expect("the test waits for it");
        Err("that was all".into())
    }
}

/// Regression: an etcd that received a state of MetaStore's own never started again.
#[test]
fn a_peer_that_does_not_say_that_it_takes_states_is_sent_a_database() {
    let (one, two, _) = cluster();
    one.transport.set_peers(vec![two.peer(), peer(3, etcd())], vec![]);
    for (id, expected) in [(3, Form::Database), (2, Form::Stream)] {
        let (asked, form) = mpsc::channel();
        one.transport.send_state(id, Box::new(Asked(asked)));
        assert_eq!(form.recv_timeout(PATIENCE), Ok(expected), "member {id}");
        assert_eq!(sent(&one), (id, false));
    }
}
