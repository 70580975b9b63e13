//! Calls beyond one request and one answer: compressed ones, very short or very long ones, and silent ones.

use std::io::Read;

use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder};

use super::*;

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    GzEncoder::new(message, Compression::default()).read_to_end(&mut compressed).unwrap();
    [&[1], &(compressed.len() as u32).to_be_bytes()[..], &compressed].concat()
}

fn gunzip(frame: &[u8]) -> Vec<u8> {
    assert_eq!((frame[0], frame.len()), (1, 5 + u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize));
    let mut message = Vec::new();
    GzDecoder::new(&frame[5..]).read_to_end(&mut message).unwrap();
    message
}

#[tokio::test]
async fn a_client_that_compresses_is_answered_compressed() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let headers = [("grpc-encoding", "gzip")];
    let message = HealthCheckRequest { service: "x".repeat(MAX_BYTES - 4) }.encode_to_vec();
    for body in [gzip(&message), framed(&HealthCheckRequest { service: "x".repeat(MAX_BYTES - 4) }).to_vec()] {
        let response = sender.send_request(request("/test.T/Length", &headers, whole(body))).await.unwrap();
        assert_eq!(response.headers()["grpc-encoding"], "gzip");
        let reply = outcome(response).await;
        assert_eq!((reply.status.as_str(), gunzip(&reply.data)), ("0", (MAX_BYTES as u64).to_be_bytes().to_vec()));
    }
    let reply = call(&mut sender, "/test.T/Length", &[("grpc-accept-encoding", "gzip")], vec![0; 5]).await;
    assert_eq!(reply.data[..6], [0, 0, 0, 0, 8, 0], "who does not compress is not answered compressed");
    let over = HealthCheckRequest { service: "x".repeat(MAX_BYTES - 3) }.encode_to_vec();
    let reply = call(&mut sender, "/test.T/Length", &headers, gzip(&over)).await;
    let text = "grpc: received message after decompression larger than max 2097152";
    assert_eq!((reply.status.as_str(), reply.message.as_str()), ("8", text));
}

#[tokio::test]
async fn a_stream_that_compresses_is_answered_compressed() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let (messages, body) = channel_body();
    let echo = request("/test.T/Echo", &[("grpc-encoding", "gzip")], body);
    let response = sender.send_request(echo).await.unwrap();
    assert_eq!(response.headers()["grpc-encoding"], "gzip");
    let mut replies = response.into_body();
    for service in ["one".to_owned(), "x".repeat(100_000)] {
        let message = HealthCheckRequest { service }.encode_to_vec();
        messages.send(gzip(&message).into()).unwrap();
        let reply = replies.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(gunzip(&reply), message);
    }
    let reply = call(&mut sender, "/test.T/Large", &[("grpc-encoding", "gzip")], gzip(b"")).await;
    assert_eq!((reply.status.as_str(), gunzip(&reply.data).len()), ("0", 64 << 20));
}

#[tokio::test]
async fn a_unary_call_is_answered_although_its_client_may_say_more() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let (messages, body) = channel_body();
    messages.send(Bytes::from_static(&[0; 5])).unwrap();
    let response = sender.send_request(request("/test.T/Empty", &[], body));
    let response = tokio::time::timeout(PATIENCE, response).await.expect("stuck").unwrap();
    let reply = tokio::time::timeout(PATIENCE, outcome(response)).await.expect("stuck");
    assert_eq!(reply.status, "0");
    drop(messages);
    assert_eq!(call(&mut sender, "/test.T/Empty", &[], vec![0u8; 5]).await.status, "0", "the connection goes on");
}

/// Clients that have many leases to renew, or many watches to open, send each message in a frame of its own.
#[tokio::test]
async fn a_hundred_thousand_small_messages_at_once_are_all_answered() {
    const MESSAGES: usize = 100_000;
    let server = Server::start();
    let mut sender = connect(&server).await;
    let (messages, body) = channel_body();
    let message = framed(&HealthCheckRequest { service: "ten bytes!".into() });
    for _ in 0..MESSAGES {
        messages.send(message.clone()).unwrap();
    }
    drop(messages);
    let response = sender.send_request(request("/test.T/Echo", &[], body)).await.unwrap();
    let reply = tokio::time::timeout(PATIENCE, outcome(response)).await.expect("stuck");
    assert_eq!((reply.status.as_str(), reply.data.len()), ("0", MESSAGES * message.len()));
}

/// A handler that takes no messages must neither hold all of them nor hold up the other streams.
#[tokio::test]
async fn a_handler_that_is_behind_makes_its_own_client_wait() {
    const MESSAGE_BYTES: usize = 20;
    /// More than a stream may send before its handler takes something.
    const MORE: usize = 4 << 20;
    let server = Server::start();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str| {
        let request = Request::post(format!("http://test{path}")).header("content-type", "application/grpc");
        request.body(()).unwrap()
    };
    client = client.ready().await.unwrap();
    let (response, mut deaf) = client.send_request(request("/test.T/Deaf"), false).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    let (mut sent, mut stuck) = (0, false);
    while sent < MORE && !stuck {
        deaf.reserve_capacity(MESSAGE_BYTES);
        let room = async {
            while deaf.capacity() < MESSAGE_BYTES {
                std::future::poll_fn(|cx| deaf.poll_capacity(cx)).await.unwrap().unwrap();
            }
        };
        // Room that the server has given may be on its way. Room that does not arrive within this time is never given.
        stuck = tokio::time::timeout(Duration::from_secs(2), room).await.is_err();
        if !stuck {
            deaf.send_data(Bytes::from_static(&[0, 0, 0, 0, 15, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]), false)
                .unwrap();
            sent += MESSAGE_BYTES;
        }
    }
    assert!(stuck && sent >= 1 << 20, "{sent} bytes were sent to a handler that takes none");
    client = client.ready().await.unwrap();
    let (response, mut other) = client.send_request(request("/test.T/Empty"), false).unwrap();
    other.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    let mut body = tokio::time::timeout(PATIENCE, response).await.expect("stuck").unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap().len(), 5, "another stream of the connection is answered");
}

/// Otherwise a client holds its calls open for ever.
#[tokio::test]
async fn a_client_that_keeps_its_message_back_is_answered_at_its_deadline() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    // A method whose server streams waits for the end of its client's half, too.
    for (path, begun) in [("/test.T/Empty", &b""[..]), ("/test.T/Large", b""), ("/test.T/Large", &[0; 5])] {
        let (messages, body) = channel_body();
        messages.send(Bytes::from_static(begun)).unwrap();
        let response = sender.send_request(request(path, &[("grpc-timeout", "50m")], body));
        let reply = async { outcome(response.await.unwrap()).await };
        let reply = tokio::time::timeout(PATIENCE, reply).await.expect("stuck");
        assert_eq!((reply.status.as_str(), reply.message.as_str()), ("4", "context deadline exceeded"), "{path}");
    }
}

#[tokio::test]
async fn the_messages_of_all_kinds_of_calls_are_bounded() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let over = HealthCheckRequest { service: "x".repeat(MAX_BYTES - 3) };
    let compressed =
        ("grpc: received message after decompression larger than max 2097152", gzip(&over.encode_to_vec()));
    let plain = ("grpc: received message larger than max (2097153 vs. 2097152)", framed(&over).to_vec());
    for path in ["/test.T/Length", "/test.T/Large", "/test.T/Echo"] {
        for (text, body) in [&plain, &compressed] {
            let reply = call(&mut sender, path, &[("grpc-encoding", "gzip")], body.clone()).await;
            assert_eq!((reply.status.as_str(), reply.message.as_str()), ("8", *text), "{path}");
        }
    }
}

#[tokio::test]
async fn metadata_of_up_to_sixteen_mebibytes_is_accepted() {
    let server = Server::start();
    let mut sender = connect(&server).await;
    let names: Vec<String> = (0..16).map(|at| format!("token{at}")).collect();
    let large = "t".repeat(1 << 20);
    let metadata: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), large.as_str())).collect();
    let reply = call(&mut sender, "/test.T/Empty", &metadata[1..], vec![0u8; 5]).await;
    assert_eq!(reply.status, "0");
    let reply = call(&mut sender, "/test.T/Empty", &metadata, vec![0u8; 5]).await;
    assert_eq!(reply.http, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "16 MiB and some names");
}

#[tokio::test]
async fn a_client_is_told_how_many_requests_may_be_open() {
    let server = Server::start_with(Protocol { max_concurrent_streams: 7, ..Protocol::default() });
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    until("the settings of the server", || client.current_max_send_streams() == 7).await;
}

#[tokio::test]
async fn a_connection_that_does_not_answer_a_ping_is_closed() {
    const PING: u8 = 6;
    const SETTINGS: u8 = 4;
    let ping = Protocol {
        ping_interval: Some(Duration::from_millis(100)),
        ping_timeout: Duration::from_millis(300),
        ..Protocol::default()
    };
    let server = Server::start_with(ping);
    // A client that uses the library answers by itself.
    let mut answers = connect(&server).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    silent
        .write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &h2_frame(SETTINGS, 0, 0, &[])[..]].concat())
        .await
        .unwrap();
    let mut heard = Vec::new();
    let end = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut heard)).await.expect("it is still open");
    end.unwrap();
    let pinged = heard.windows(5).any(|window| window == [0, 0, 8, PING, 0]);
    assert!(pinged, "closed without a ping: {heard:?}");
    assert_eq!(call(&mut answers, "/test.T/Empty", &[], vec![0u8; 5]).await.status, "0", "who answers stays");
}

/// A client that sends pings one by one.
struct Pinger {
    stream: TcpStream,
    calls: u32,
}

impl Pinger {
    const HEADERS: u8 = 1;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;

    async fn connect(server: &Server) -> Pinger {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &h2_frame(4, 0, 0, &[])[..]].concat()).await.unwrap();
        Pinger { stream, calls: 0 }
    }

    /// Opens a call, and with `ends` closes this side of it.
    async fn call(&mut self, path: &str, ends: bool) {
        let fields = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")];
        let literal = |(name, value): (&str, &str)| {
            [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
        };
        let headers: Vec<u8> = fields.into_iter().flat_map(literal).collect();
        let stream = 2 * self.calls + 1;
        self.calls += 1;
        let mut frames = h2_frame(Self::HEADERS, 4, stream, &headers);
        if ends {
            frames.extend(h2_frame(0, 1, stream, &[0; 5]));
        }
        self.stream.write_all(&frames).await.unwrap();
    }

    /// The kind, flags and content of the next frame; `None` at the end.
    async fn frame(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut header = [0; 9];
        let read = self.stream.read_exact(&mut header);
        tokio::time::timeout(PATIENCE, read).await.expect("an answer").ok()?;
        let mut content = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        self.stream.read_exact(&mut content).await.unwrap();
        Some((header[3], header[4], content))
    }

    /// Reads until headers with such flags: those of an answer, or its trailers, which end the stream.
    async fn read_until(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.frame().await.is_some_and(|(kind, flags, _)| kind != Self::HEADERS || !wanted(flags)) {}
    }

    /// Pings, and waits for the answer. The error is the frame that ends the connection.
    async fn ping(&mut self) -> Result<(), Vec<u8>> {
        // Fails if the connection has ended.
        _ = self.stream.write_all(&h2_frame(Self::PING, 0, 0, &[7; 8])).await;
        loop {
            match self.frame().await.expect("a GOAWAY before the end") {
                (Self::GOAWAY, _, content) => return Err(content),
                (Self::PING, 1, content) => {
                    assert_eq!(content, [7; 8]);
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// The last frame of a connection that is ended.
    async fn end(mut self) -> Vec<u8> {
        let mut last = (0, 0, Vec::new());
        while let Some(frame) = self.frame().await {
            last = frame;
        }
        assert_eq!(last.0, Self::GOAWAY);
        last.2
    }
}

#[tokio::test]
async fn a_client_that_pings_too_often_is_disconnected_with_the_words_that_its_library_knows() {
    let often = |min_time| Server::start_with(Protocol { ping_min_time: min_time, ..Protocol::default() });
    let farewell = |stream: u8| [&[0, 0, 0, stream, 0, 0, 0, 0xb], &b"too_many_pings"[..]].concat();
    let (strict, mild) = (often(Duration::from_secs(3600)), often(Duration::from_nanos(1)));
    for (server, open, end) in
        [(&strict, false, Some(0)), (&mild, false, Some(0)), (&strict, true, Some(1)), (&mild, true, None)]
    {
        let mut client = Pinger::connect(server).await;
        if open {
            client.call("/test.T/Echo", false).await;
            // Its headers, which are sent at once, wipe out what came before.
            client.read_until(|flags| flags & 1 == 0).await;
        }
        for _ in 0..4 {
            assert_eq!(client.ping().await, Ok(()));
        }
        match end {
            Some(stream) => assert_eq!(client.end().await, farewell(stream), "open: {open}"),
            None => assert_eq!(client.ping().await, Ok(())),
        }
    }
}

#[tokio::test]
async fn a_client_may_ping_after_each_answer() {
    let server = Server::start_with(Protocol { ping_min_time: Duration::from_secs(3600), ..Protocol::default() });
    let mut client = Pinger::connect(&server).await;
    for _ in 0..5 {
        client.call("/test.T/Empty", true).await;
        client.read_until(|flags| flags & 1 == 1).await;
        assert_eq!((client.ping().await, client.ping().await), (Ok(()), Ok(())));
    }
    assert_eq!((client.ping().await, client.ping().await), (Ok(()), Ok(())));
    assert_eq!(client.end().await[4..8], [0, 0, 0, 0xb]);
}
