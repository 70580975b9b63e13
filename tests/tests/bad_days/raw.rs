//! One HTTP/2 connection with which a test can send data that no client library would send.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Window of a client that sends all its requests before it reads any answer.
const ROOM_BYTES: u32 = 64 << 20;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Raw(SendRequest<Bytes>);

/// A request whose headers were sent. The caller sends the body.
pub struct Open {
    pub response: ResponseFuture,
    pub body: SendStream<Bytes>,
}

impl Raw {
    pub async fn connect(address: &str) -> Raw {
        let stream = TcpStream::connect(address).await.expect("the server accepts");
        let (send, connection) = h2::client::handshake(stream).await.expect("the server speaks HTTP/2");
        tokio::spawn(connection);
        Raw(send)
    }

    /// A client whose windows hold all answers before it reads the first.
    pub async fn with_room(address: &str) -> Raw {
        let stream = TcpStream::connect(address).await.expect("the server accepts");
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(ROOM_BYTES).initial_connection_window_size(ROOM_BYTES);
        builder.data_frame_budget(ROOM_BYTES as usize);
        let (send, connection) = builder.handshake(stream).await.expect("the server speaks HTTP/2");
        tokio::spawn(connection);
        Raw(send)
    }

    /// Sends the headers of a call, with additional ones from `more`.
    pub async fn open(&mut self, path: &str, more: &[(&'static str, &'static str)]) -> Open {
        let mut request = Request::post(format!("http://m{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        self.0.clone_from(&self.0.clone().ready().await.expect("the connection lives"));
        let request = request.body(()).expect("valid headers");
        let (response, body) = self.0.send_request(request, false).expect("the connection lives");
        Open { response, body }
    }

    /// A whole call with one message. Returns status and text.
    pub async fn call(&mut self, path: &str, more: &[(&'static str, &'static str)], message: &[u8]) -> (u32, String) {
        let mut open = self.open(path, more).await;
        open.body.send_data(framed(message.len(), message), true).expect("the connection lives");
        open.status().await
    }
}

impl Open {
    /// Waits for the end of the call. Returns status and text.
    pub async fn status(self) -> (u32, String) {
        let ended = timeout(PATIENCE, async {
            let response = self.response.await.expect("an answer");
            if let Some(status) = status_in(response.headers()) {
                return status;
            }
            let mut body = response.into_body();
            drain(&mut body).await;
            let trailers = body.trailers().await.expect("the stream ends well").expect("gRPC has trailers");
            status_in(&trailers).expect("gRPC has a status")
        });
        let status = ended.await.expect("the call ends");
        drop(self.body);
        status
    }
}

async fn drain(body: &mut RecvStream) {
    while let Some(data) = body.data().await {
        let length = data.expect("the stream goes on").len();
        body.flow_control().release_capacity(length).expect("what was received can be given back");
    }
}

fn status_in(headers: &HeaderMap) -> Option<(u32, String)> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().expect("ASCII").to_string());
    Some((text("grpc-status")?.parse().expect("a number"), text("grpc-message").unwrap_or_default()))
}

/// `message` after a prefix that announces `length` bytes.
pub fn framed(length: usize, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(length as u32);
    frame.put_slice(message);
    frame.freeze()
}
