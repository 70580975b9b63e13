//! Connections and requests of unknown senders: they are many, slow or large, and hold up no member.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use metastore_proto::raftpb::{Entry, Message};
use metastore_server::config::EngineSettings;
use metastore_server::descriptors::Descriptors;

use crate::member::*;

/// More than the peer port takes.
const CROWD: usize = 1100;

/// A connection on which `head` was sent, and nothing after it.
pub fn send(address: SocketAddr, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// The head of a post of member `from` to `to`, whose body has `length` bytes.
pub fn post_head(path: &str, from: u64, to: u64, length: u64) -> String {
    let headers = headers(from, to);
    let headers = headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
    format!("POST {path} HTTP/1.1\r\nHost: m\r\nContent-Length: {length}\r\n{}\r\n", headers.collect::<String>())
}

/// The status line of the answer.
pub fn status(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        line.push(byte[0]);
    }
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

#[test]
fn a_crowd_of_silent_connections_keeps_no_member_out() {
    Descriptors::share(EngineSettings::Memory).unwrap();
    let (one, two) = (Member::start(1), Member::start(2));
    let mut crowd: Vec<TcpStream> = (0..CROWD).map(|_| send(one.address, "")).collect();
    for member in [&one, &two] {
        member.transport.set_peers(vec![one.peer(), two.peer()], vec![]);
    }
    eventually("connected", || one.is_connected_to(2) && two.is_connected_to(1));
    let append = append(2, 1, 0, 10);
    two.transport.send(append);
    one.double.wait("an append", |told| told.appends.get(&2).cloned());
    // The first connection of the crowd was closed to make room.
    crowd[0].set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(crowd[0].read(&mut [0]).unwrap(), 0, "closed");
    // More of them, once the streams are open, take nothing from the streams.
    crowd.extend((0..CROWD).map(|_| send(one.address, "")));
    two.transport.send(heartbeat(2, 1, 3));
    one.double.wait("a heartbeat", |told| told.messages.get(&2).cloned());
    assert!(one.is_connected_to(2) && two.is_connected_to(1));
}

/// Only a member that is known here is taken out of the crowd, whatever the others ask for.
#[test]
fn a_stranger_makes_room_although_it_asks_and_a_member_does_not() {
    let one = Member::start(1);
    one.transport.set_peers(vec![peer(2, "127.0.0.1:1".parse().unwrap())], vec![]);
    let ask = |from| {
        let head = post_head("/raft/probing", from, 1, 0).replace("POST", "GET");
        let mut stream = send(one.address, &head);
        assert_eq!(status(&mut stream), "HTTP/1.1 200 OK");
        stream
    };
    let (mut member, mut stranger) = (ask(2), ask(9));
    let _crowd: Vec<TcpStream> = (0..300).map(|_| send(one.address, "")).collect();
    let mut rest = Vec::new();
    assert!(stranger.read_to_end(&mut rest).is_ok(), "closed");
    member.write_all(b"GET /raft/nowhere HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").unwrap();
    let mut answers = String::new();
    assert!(member.read_to_string(&mut answers).is_ok() && answers.contains("HTTP/1.1 404 Not Found"), "{answers}");
}

#[test]
fn a_silent_connection_is_closed_after_some_seconds() {
    let one = Member::start(1);
    let (mut silent, mut half) = (send(one.address, ""), send(one.address, "GET /raft/prob"));
    assert_eq!((silent.read(&mut [0]).unwrap(), half.read(&mut [0]).unwrap()), (0, 0));
}

#[test]
fn posts_are_bounded_before_they_are_read() {
    let one = Member::start(1);
    one.transport.set_peers(vec![peer(2, "127.0.0.1:1".parse().unwrap())], vec![]);
    let ask = |from, length| send(one.address, &post_head("/raft", from, 1, length));
    let answer = |from, length| status(&mut ask(from, length));
    assert_eq!(answer(2, 257 << 20), "HTTP/1.1 413 Payload Too Large");
    assert_eq!(answer(9, 33 << 20), "HTTP/1.1 413 Payload Too Large", "a stranger");
    let endless = post_head("/raft", 2, 1, 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    assert_eq!(status(&mut send(one.address, &endless)), "HTTP/1.1 411 Length Required");
    // Announced bytes count, so that all posts together stay within the bound.
    let _open = ask(2, 200 << 20);
    eventually("the announced bytes count", || answer(2, 100 << 20) == "HTTP/1.1 503 Service Unavailable");
    let _open = ask(9, 20 << 20);
    eventually("and those of strangers", || answer(8, 20 << 20) == "HTTP/1.1 503 Service Unavailable");
    let (reply, message) = (|reply: metastore_server::peer::client::Reply| reply.status.as_u16(), heartbeat(2, 1, 7));
    let body = metastore_proto::Message::encode_to_vec(&message);
    assert_eq!(reply(one.ask(Method::POST, "/raft", headers(2, 1), body)), 204, "a member's small one goes through");
}

/// The answer to a post, and the longest time in which a probe was answered while the post was handled.
fn post_beside_probes(member: &Member, from: u64, body: &[u8]) -> (u16, String, Duration) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let probing = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let start = Instant::now();
                assert_eq!(member.ask(Method::GET, "/raft/probing", http::HeaderMap::new(), "").status, 200);
                longest = longest.max(start.elapsed());
            }
            longest
        });
        let reply = member.ask(Method::POST, "/raft", headers(from, member.id), body.to_vec());
        done.store(true, Ordering::Relaxed);
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        (reply.status.as_u16(), text, probing.join().unwrap())
    })
}

#[test]
fn a_post_of_many_empty_entries_holds_up_no_other_request() {
    const BOUND: Duration = Duration::from_secs(1);
    let one = Member::start(1);
    // Empty entries, which would take forty times as much memory.
    let (status, text, longest) = post_beside_probes(&one, 9, &[0x3a, 0].repeat(7_500_000));
    assert!(longest < BOUND, "{longest:?}");
    assert_eq!((status, text.as_str()), (400, "error unmarshalling raft message\n"));
}

#[test]
fn the_largest_append_of_a_stranger_is_taken() {
    let one = Member::start(1);
    let entry = Entry { term: Some(1), index: Some(128), ..Entry::default() };
    let entries = vec![entry; (1 << 20) / 5];
    let body = metastore_proto::Message::encode_to_vec(&Message { entries, ..append(9, 1, 0, 0) });
    assert_eq!(one.ask(Method::POST, "/raft", headers(9, 1), body).status, 204);
}
