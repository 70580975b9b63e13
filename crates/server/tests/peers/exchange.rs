//! Messages between members, while other members are dead, stalled, or come back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use metastore_proto::raftpb::MessageType;

use crate::member::*;

/// Messages that are sent without waiting for their arrival: fewer than a queue holds.
const BURST: u64 = 2_000;

/// A peer that opens a stream, and reads from it only if the test does.
fn open_stream(to: &Member, id: u64, stream: &str) -> TcpStream {
    let mut socket = TcpStream::connect(to.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("GET /raft/stream/{stream}/{id:x} HTTP/1.1\r\nhost: a\r\n");
    for (name, value) in &headers(id, to.id) {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    socket.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    read_until(&mut socket, b"\r\n\r\n");
    socket
}

fn read_until(socket: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(end) {
        socket.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    seen
}

fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn ten_thousand_messages_arrive_in_order_while_one_peer_is_dead_and_another_stalls() {
    let (one, two) = pair();
    let (dead, stalled) = (peer(3, nobody()), peer(4, nobody()));
    for member in [&one, &two] {
        member.transport.set_peers(vec![one.peer(), two.peer(), dead.clone(), stalled.clone()], vec![]);
    }
    let _silent: Vec<TcpStream> =
        [&one, &two].iter().flat_map(|to| [open_stream(to, 4, "msgapp"), open_stream(to, 4, "message")]).collect();
    wait_for_streams(&one, &two);
    wait_for_streams(&two, &one);
    for burst in 0..10_000 / BURST {
        for index in burst * BURST..(burst + 1) * BURST {
            for (from, to) in [(&one, &two), (&two, &one)] {
                for id in [to.id, 3, 4] {
                    from.transport.send(append(from.id, id, index + 1, 100));
                    from.transport.send(heartbeat(from.id, id, index + 1));
                }
            }
        }
        let expected = 1 + ((burst + 1) * BURST) as usize;
        for (from, to) in [(&one, &two), (&two, &one)] {
            to.double.wait("a burst", |told| {
                let appends = told.appends.get(&from.id)?.len();
                (appends == expected && told.messages.get(&from.id)?.len() == expected).then_some(())
            });
        }
    }
    for (from, to) in [(1, &two), (2, &one)] {
        to.double.wait("order", |told| {
            let appends = (0..10_001).map(|index| (index, 1));
            assert!(told.appends[&from].iter().copied().eq(appends));
            let messages = (0..10_001).map(|index| (MessageType::MsgHeartbeat, index));
            assert!(told.messages[&from].iter().copied().eq(messages));
            Some(())
        });
    }
    one.double.wait("the dead one is reported", |told| told.unreachable.get(&3).copied());
    assert_eq!(one.figure(r#"etcd_network_peer_sent_failures_total{To="2"}"#), Some(0.0));
    assert!(one.figure(r#"etcd_network_peer_sent_failures_total{To="3"}"#) > Some(10_000.0));
    assert!(one.transport.connected_since(3).is_none());
}

/// Waits until both streams from one member to the other are open: one message goes on each.
fn wait_for_streams(from: &Member, to: &Member) {
    eventually("both streams", || from.transport.has_streams(to.id));
    from.transport.send(append(from.id, to.id, 0, 100));
    from.transport.send(heartbeat(from.id, to.id, 0));
    to.double.wait("the first messages", |told| {
        (told.appends.contains_key(&from.id) && told.messages.contains_key(&from.id)).then_some(())
    });
}

#[test]
fn a_heartbeat_overtakes_a_full_queue_of_appends() {
    let one = Member::start(1);
    one.transport.set_peers(vec![peer(4, nobody())], vec![]);
    let _stalled = open_stream(&one, 4, "msgapp");
    let mut messages = open_stream(&one, 4, "message");
    // 400 MB: messages that neither the queue nor the sockets can hold are dropped.
    for index in 0..400 {
        one.transport.send(append(1, 4, index, 1 << 20));
    }
    let failures = one.figure(r#"etcd_network_peer_sent_failures_total{To="4"}"#).unwrap();
    assert!(failures > 250.0, "{failures}");
    one.double.wait("raft is told", |told| told.unreachable.get(&4).copied());
    let before = Instant::now();
    one.transport.send(heartbeat(1, 4, 77));
    read_until(&mut messages, &[0x30, 77]);
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

#[test]
fn a_peer_that_reads_nothing_is_given_up() {
    let one = Member::start(1);
    one.transport.set_peers(vec![peer(4, nobody())], vec![]);
    let _stalled = open_stream(&one, 4, "msgapp");
    eventually("the stream stands", || one.figure(r#"etcd_network_active_peers{Local="1",Remote="4"}"#) == Some(1.0));
    for index in 0..100 {
        one.transport.send(append(1, 4, index, 1 << 20));
    }
    // Its own stream is lost now, and the queued messages with it.
    let before = one.figure(r#"etcd_network_peer_sent_failures_total{To="4"}"#).unwrap();
    eventually("the connection is given up", || {
        one.figure(r#"etcd_network_peer_sent_failures_total{To="4"}"#).unwrap() >= before + 50.0
    });
}

#[test]
fn a_peer_that_comes_back_is_found() {
    let (one, mut two) = pair();
    eventually("connected", || one.is_connected_to(2) && two.is_connected_to(1));
    two.stop();
    eventually("lost", || !one.is_connected_to(2));
    assert!(one.figure(r#"etcd_network_disconnected_peers_total{Local="1",Remote="2"}"#) >= Some(1.0));
    let again = Member::start_with(2, CLUSTER, two.address, std::sync::Arc::new(NoIntake));
    again.transport.set_peers(vec![one.peer(), again.peer()], vec![]);
    eventually("found", || one.is_connected_to(2) && again.is_connected_to(1));
    one.transport.send(heartbeat(1, 2, 8));
    again.double.wait("a message", |told| told.messages.get(&1).cloned());
}

#[test]
fn a_peer_that_moves_is_followed() {
    let (one, two) = (Member::start(1), Member::start(2));
    two.transport.set_peers(vec![one.peer()], vec![]);
    one.transport.set_peers(vec![peer(2, nobody())], vec![]);
    one.transport.set_peers(vec![two.peer()], vec![]);
    eventually("followed", || one.is_connected_to(2));
    let ways = vec!["http://no-such-name.invalid:1".to_owned(), format!("http://{}", two.address)];
    let three = Member::start(3);
    two.transport.set_peers(vec![one.peer(), three.peer()], vec![]);
    three.transport.set_peers(vec![metastore_server::peer::Peer { id: 2, urls: ways }], vec![]);
    eventually("the second URL", || two.transport.has_streams(3));
    two.transport.send(heartbeat(2, 3, 1));
    three.double.wait("a message", |told| told.messages.get(&2).cloned());
}

#[test]
fn a_new_stream_of_a_peer_replaces_its_old_one() {
    let one = Member::start(1);
    one.transport.set_peers(vec![peer(4, nobody())], vec![]);
    let mut old = open_stream(&one, 4, "message");
    let mut new = open_stream(&one, 4, "message");
    one.transport.send(heartbeat(1, 4, 77));
    read_until(&mut new, &[0x30, 77]);
    assert_eq!(read_until(&mut old, b"\r\n\r\n"), b"0\r\n\r\n", "the old one ends, and carried nothing");
}

#[test]
fn a_silent_stream_carries_link_heartbeats() {
    let one = Member::start(1);
    one.transport.set_peers(vec![peer(4, nobody())], vec![]);
    let (mut appends, mut messages) = (open_stream(&one, 4, "msgapp"), open_stream(&one, 4, "message"));
    assert_eq!(read_until(&mut appends, b"\0\r\n"), b"1\r\n\0\r\n");
    assert_eq!(read_until(&mut messages, b"\x08\x08\r\n"), b"A\r\n\0\0\0\0\0\0\0\x02\x08\x08\r\n");
}

#[test]
fn what_the_member_has_no_room_for_is_dropped_and_counted() {
    let (one, two) = pair();
    two.double.change(|told| told.full = true);
    eventually("connected", || one.is_connected_to(2) && two.is_connected_to(1));
    for index in 0..5 {
        one.transport.send(heartbeat(1, 2, index));
    }
    eventually("counted", || two.figure(r#"etcd_network_peer_received_failures_total{From="1"}"#) >= Some(5.0));
}

#[test]
fn messages_to_nobody_are_dropped() {
    let one = Member::start(1);
    one.transport.set_peers(vec![one.peer()], vec![]);
    one.transport.send(heartbeat(1, 9, 0));
    one.transport.send(heartbeat(1, 1, 0));
    one.transport.send(heartbeat(1, 0, 0));
    assert_eq!(one.double.counts(1), (0, 0));
    assert_eq!(one.transport.connected_since(1), None);
}
