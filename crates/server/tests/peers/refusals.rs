//! Senders that are refused, and how they are answered.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use http::{HeaderMap, HeaderValue, Method};
use metastore_proto::Message as _;
use metastore_proto::raftpb::{Message, MessageType};
use metastore_server::peer::Identity;

use crate::member::*;

fn text(member: &Member, method: Method, path: &str, headers: HeaderMap, body: Vec<u8>) -> (u16, String) {
    let reply = member.ask(method, path, headers, body);
    (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned())
}

fn get(member: &Member, path: &str, headers: HeaderMap) -> (u16, String) {
    text(member, Method::GET, path, headers, vec![])
}

fn post(member: &Member, from: u64, message: &Message) -> (u16, String) {
    text(member, Method::POST, "/raft", headers(from, member.id), message.encode_to_vec())
}

#[test]
fn streams_are_for_members_of_this_cluster() {
    let one = Member::start(1);
    one.transport.set_peers(vec![peer(2, "127.0.0.1:1".parse().unwrap())], vec![5]);
    let with = |change: &dyn Fn(&mut HeaderMap)| {
        let mut headers = headers(2, 1);
        change(&mut headers);
        get(&one, "/raft/stream/message/2", headers)
    };
    let put = |name: &'static str, value: &'static str| {
        with(&|headers| _ = headers.insert(name, HeaderValue::from_static(value)))
    };
    assert_eq!(put("x-etcd-cluster-id", "c2"), (412, "cluster ID mismatch\n".into()));
    assert_eq!(put("x-server-version", "2.1.0"), (412, "incompatible version\n".into()));
    assert_eq!(put("x-min-cluster-version", "3.8.0"), (412, "incompatible version\n".into()));
    assert_eq!(put("x-raft-to", "7"), (412, "to field mismatch\n".into()));
    assert_eq!(with(&HeaderMap::clear), (412, "incompatible version\n".into()));
    assert_eq!(get(&one, "/raft/stream/message/5", headers(5, 1)), (410, "removed member\n".into()));
    assert_eq!(get(&one, "/raft/stream/msgapp/6", headers(6, 1)), (404, "error sender not found\n".into()));
    assert_eq!(get(&one, "/raft/stream/msgapp/x", headers(2, 1)), (404, "invalid from\n".into()));
    assert_eq!(get(&one, "/raft/stream/other/2", headers(2, 1)), (404, "invalid path\n".into()));
    let posted = text(&one, Method::POST, "/raft/stream/message/2", headers(2, 1), vec![]);
    assert_eq!(posted, (405, "Method Not Allowed\n".into()));
    let reply = one.ask(Method::GET, "/raft/stream/message/6", headers(6, 1), "");
    assert_eq!(
        (&reply.headers["x-etcd-cluster-id"], &reply.headers["x-server-version"]),
        (&"c1".parse().unwrap(), &"3.7.0".parse().unwrap())
    );
}

#[test]
fn only_what_members_send_reaches_the_member() {
    let one = Member::start(1);
    one.transport.set_peers(vec![peer(2, "127.0.0.1:1".parse().unwrap())], vec![5]);
    assert_eq!(post(&one, 2, &heartbeat(2, 1, 7)), (204, String::new()));
    one.double.wait("the message", |told| told.messages.get(&2).cloned());
    for kind in [MessageType::MsgHup, MessageType::MsgBeat, MessageType::MsgUnreachable, MessageType::MsgSnap] {
        let message = Message { r#type: Some(kind as i32), ..heartbeat(2, 1, 7) };
        assert_eq!(post(&one, 2, &message).0, 412, "{kind:?}");
    }
    assert_eq!(post(&one, 2, &heartbeat(2, 3, 7)), (412, "message to 3, which is not this member\n".into()));
    assert_eq!(post(&one, 2, &heartbeat(4, 1, 7)).0, 412);
    assert_eq!(post(&one, 5, &heartbeat(5, 1, 7)), (403, "cannot process message from removed member\n".into()));
    let garbage = text(&one, Method::POST, "/raft", headers(2, 1), vec![0xff; 40]);
    assert_eq!(garbage, (400, "error unmarshalling raft message\n".into()));
    assert_eq!(get(&one, "/raft", headers(2, 1)), (405, "Method Not Allowed\n".into()));
    assert_eq!(get(&one, "/nothing", headers(2, 1)).0, 404);
    let probe: serde_json::Value = serde_json::from_str(&get(&one, "/raft/probing", HeaderMap::new()).1).unwrap();
    assert_eq!(probe["OK"], true);
    one.double.change(|told| told.full = true);
    assert_eq!(post(&one, 2, &heartbeat(2, 1, 8)), (500, "error processing raft message\n".into()));
    assert_eq!(one.double.counts(2), (0, 1));
    let failures = one.figure(r#"etcd_network_peer_received_failures_total{From="2"}"#);
    assert_eq!(failures, Some(8.0));
}

#[test]
fn another_cluster_is_left_alone() {
    let one = Member::start(1);
    let two = Member::start_with(2, 0xc2, "127.0.0.1:0".parse().unwrap(), std::sync::Arc::new(NoIntake));
    one.transport.set_peers(vec![two.peer()], vec![]);
    two.transport.set_peers(vec![one.peer()], vec![]);
    one.transport.send(heartbeat(1, 2, 1));
    one.double.wait("reported", |told| told.unreachable.get(&2).copied());
    assert_eq!((one.is_connected_to(2), two.double.counts(1)), (false, (0, 0)));
}

#[test]
fn a_removed_member_is_told_so() {
    let (one, two) = pair();
    eventually("connected", || one.is_connected_to(2) && two.is_connected_to(1));
    two.transport.set_peers(vec![two.peer()], vec![1]);
    one.double.wait("the removal", |told| (told.removed > 0).then_some(()));
    eventually("inactive", || !one.is_connected_to(2));
    assert!(!two.transport.meters().render().contains(r#"Remote="1""#));
    // The same by post, which is used if no stream was ever open.
    one.double.change(|told| told.removed = 0);
    one.transport.send(heartbeat(1, 2, 1));
    one.double.wait("the removal", |told| (told.removed > 0).then_some(()));
}

#[test]
fn a_member_that_is_not_known_yet_is_answered() {
    let (one, two) = (Member::start(1), Member::start(2));
    // The first member knows the second from the log, which the second has not read yet.
    one.transport.set_peers(vec![two.peer()], vec![]);
    one.transport.send(append(1, 2, 0, 10));
    two.double.wait("an append of a stranger", |told| told.appends.get(&1).cloned());
    let answer = Message { r#type: Some(MessageType::MsgAppResp as i32), ..heartbeat(2, 1, 1) };
    two.transport.send(answer);
    let answered = one.double.wait("the answer", |told| told.messages.get(&2).cloned());
    assert_eq!(answered, [(MessageType::MsgAppResp, 1)]);
    assert_eq!(two.transport.connected_since(1), None, "it is no peer");
    two.transport.set_peers(vec![one.peer()], vec![]);
    eventually("a peer now", || two.is_connected_to(1) && one.is_connected_to(2));
}

#[test]
fn strangers_are_remembered_up_to_a_bound() {
    let one = Member::start(1);
    for id in 100..200 {
        let peer_urls = vec!["http://127.0.0.1:1".to_owned()];
        let stranger = Identity { id, cluster_id: CLUSTER, directory: None, version: "3.7.0".into(), peer_urls };
        assert_eq!(get(&one, &format!("/raft/stream/message/{id:x}"), stranger.headers(1)).0, 404);
    }
    let known = one.transport.meters().render();
    assert_eq!(known.lines().filter(|line| line.starts_with("etcd_network_known_peers{")).count(), 33, "itself too");
}

/// Answers every request for a stream of messages with `body`, and holds the connection open.
fn peer_that_says(body: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for socket in listener.incoming() {
            let (mut socket, mut head, mut byte) = (socket.unwrap(), Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            if head.starts_with(b"GET /raft/stream/message/") {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.0\r\nContent-Length: 9999\r\n\r\n");
                let _ = socket.write_all(&body);
                open.push(socket);
            }
        }
    });
    address
}

fn frames(messages: &[Message]) -> Vec<u8> {
    let frame = |message: &Message| {
        let bytes = message.encode_to_vec();
        [&(bytes.len() as u64).to_be_bytes(), &bytes[..]].concat()
    };
    messages.iter().flat_map(frame).collect()
}

#[test]
fn a_peer_that_says_what_no_member_says_is_not_listened_to() {
    let one = Member::start(1);
    let hup = Message { r#type: Some(MessageType::MsgHup as i32), ..heartbeat(4, 1, 7) };
    let said = [hup, heartbeat(2, 1, 7), heartbeat(4, 2, 7), heartbeat(4, 1, 8)];
    one.transport.set_peers(vec![peer(4, peer_that_says(frames(&said)))], vec![]);
    let heard = one.double.wait("the honest one", |told| told.messages.get(&4).cloned());
    assert_eq!(heard[0], (MessageType::MsgHeartbeat, 8));
    assert!(one.figure(r#"etcd_network_peer_received_failures_total{From="4"}"#) >= Some(3.0));
    assert_eq!(one.double.counts(2), (0, 0));
}

#[test]
fn a_stream_that_cannot_be_read_is_asked_for_again() {
    let one = Member::start(1);
    let garbage = [frames(&[heartbeat(4, 1, 8)]), vec![0xff; 20]].concat();
    one.transport.set_peers(vec![peer(4, peer_that_says(garbage))], vec![]);
    one.double.wait("the stream, again and again", |told| (told.messages.get(&4)?.len() >= 3).then_some(()));
}
