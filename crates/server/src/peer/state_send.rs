//! A state on its way to a follower: read on a blocking thread, posted piece by piece.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use http_body::Frame;
use metastore_proto::raftpb::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::client::{self, ClientError};
use super::codec::message;
use super::headers;
use super::link::Link;
use super::pipeline::{PostError, judge};
use super::probe;
use super::traits::{Form, StateStream};
use super::transport::TransportState;
use crate::config::Url;

/// At most this many states are sent at a time. More wait: each reads a whole state from the disk.
pub(super) const STATES_AT_ONCE: usize = 2;

/// Bytes that are passed on at a time; smaller pieces are gathered.
const PIECE_BYTES: usize = 64 << 10;

/// At most this many pieces wait between the thread that reads and the connection.
const PIECES: usize = 8;

/// A follower that takes nothing for this time is given up. While its disk is behind, it holds up the stream.
pub(super) const STALL: Duration = Duration::from_secs(60);

/// How long a follower may take to finish with a whole state.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Where states are posted.
pub(super) const PATH: &str = "/raft/snapshot";

/// The request's body. It ends in order only if the reading did: a state that is cut short must not look whole.
struct Pieces(mpsc::Receiver<Result<Bytes, String>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        self.get_mut().0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Sends one state, and reports the result.
pub(super) async fn send(
    shared: Arc<TransportState>,
    link: Arc<Link>,
    places: Arc<Semaphore>,
    state: Box<dyn StateStream>,
) {
    let Ok(_place) = places.acquire().await else { return link.state_sent(false) };
    let (meters, start) = (&link.meters.state_sent, Instant::now());
    let id = format_args!("{:x}", link.id);
    meters.inflight.inc();
    let sent = post(&shared, &link, state).await;
    meters.inflight.dec();
    match sent {
        Ok((index, bytes)) => {
            meters.success.inc();
            meters.seconds.observe(start.elapsed().as_secs_f64());
            link.meters.sent_bytes.inc_by(bytes);
            link.activate();
            seldom!(
                CHANGES: info, (link.local, link.id),
                "snapshot-index" = index, "remote-peer-id" = %id, bytes, "sent database snapshot"
            );
            link.state_sent(true);
        }
        Err(error) => {
            meters.failures.inc();
            seldom!(
                CHANGES: warn, (link.local, link.id),
                "remote-peer-id" = %id, error = %error, "failed to send database snapshot"
            );
            if matches!(error, PostError::Removed) {
                shared.sink.removed();
            }
            link.deactivate("post", "sendMsgSnap", &error);
            link.lost(1);
            link.state_sent(false);
        }
    }
}

/// The index of the state, and its bytes.
async fn post(shared: &TransportState, link: &Link, state: Box<dyn StateStream>) -> Result<(u64, u64), PostError> {
    let url = link.urls.pick().ok_or(PostError::NoUrl)?;
    let form = recognise(shared, link, &url).await?;
    let (pieces, body) = mpsc::channel(PIECES);
    let (announce, announced) = oneshot::channel();
    let reading = tokio::task::spawn_blocking(move || read(state, form, announce, &pieces));
    let Ok(index) = announced.await else { return Err(PostError::State(outcome(reading.await).unwrap_err())) };
    seldom!(
        CHANGES: info, (link.local, link.id),
        "snapshot-index" = index, "remote-peer-id" = %format_args!("{:x}", link.id), "sending database snapshot"
    );
    let mut headers = shared.settings.identity.headers(link.id);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let request = client::new_request(&url, Method::POST, PATH, headers, Pieces(body));
    let exchange = async {
        let mut sender = client::open(&shared.settings.tls, &url, shared.settings.dial_timeout, STALL).await?;
        let broken = |error| ClientError::Http { url: url.text.clone(), error };
        // While the body is sent, the connection notices a peer that takes nothing. After the body, only this time
        // limit does.
        let mut answer = std::pin::pin!(sender.send_request(request));
        let (bytes, response) = tokio::select! {
            response = answer.as_mut() => (None, response),
            read = reading => {
                let bytes = outcome(read);
                let late = |_elapsed| ClientError::Timeout { url: url.text.clone(), after: ANSWER_TIMEOUT };
                (Some(bytes), tokio::time::timeout(ANSWER_TIMEOUT, answer).await.map_err(late)?)
            }
        };
        if let Some(Err(error)) = bytes {
            return Err(PostError::State(error));
        }
        let reply = tokio::time::timeout(STALL, client::read_reply(&url, response.map_err(broken)?));
        let late = |_elapsed| ClientError::Timeout { url: url.text.clone(), after: STALL };
        judge(reply.await.map_err(late)??)?;
        // A success that is answered before everything was sent does not count.
        match bytes {
            Some(Ok(bytes)) => Ok((index, bytes)),
            _ => Err(PostError::State("the peer answered before it had all of it".into())),
        }
    };
    let exchange = exchange.await;
    if exchange.is_err() {
        link.urls.failed(&url);
    }
    exchange
}

/// The form of states that the peer takes. It is asked at the very address to which the state will go: an etcd may have
/// replaced the peer since its last message. Only MetaStore reads its own form, and says so in its headers; it reads a
/// database as well.
async fn recognise(shared: &TransportState, link: &Link, url: &Url) -> Result<Form, PostError> {
    let (timeout, headers) = (shared.settings.dial_timeout, shared.settings.identity.headers(link.id));
    let reply =
        client::request(&shared.settings.tls, url, Method::GET, probe::PATH, headers, Bytes::new(), timeout).await?;
    Ok(if headers::takes_states(&reply.headers) { Form::Stream } else { Form::Database })
}

fn outcome(read: Result<Result<u64, String>, tokio::task::JoinError>) -> Result<u64, String> {
    read.unwrap_or_else(|_panic| Err("reading the state panicked".into()))
}

/// On a blocking thread: opens the state, announces it, and passes it on. Returns the number of bytes.
fn read(
    state: Box<dyn StateStream>,
    form: Form,
    announce: oneshot::Sender<u64>,
    pieces: &mpsc::Sender<Result<Bytes, String>>,
) -> Result<u64, String> {
    let (announcement, mut body) = state.open(form)?;
    let mut out = Gather { pieces, gathered: BytesMut::new(), bytes: 0 };
    let _ = announce.send(index(&announcement));
    message::encode(&announcement, &mut out.gathered);
    let written = body.write(&mut |piece| out.push(piece));
    match written {
        Ok(()) => {
            out.flush().map_err(|error| error.to_string())?;
            Ok(out.bytes)
        }
        Err(error) => {
            // The receiver sees a broken connection instead of an end.
            let _ = pieces.blocking_send(Err(error.clone()));
            Err(error)
        }
    }
}

/// The index of the state that a MsgSnap announces.
pub(super) fn index(message: &Message) -> u64 {
    message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref()).map_or(0, |metadata| metadata.index())
}

struct Gather<'a> {
    pieces: &'a mpsc::Sender<Result<Bytes, String>>,
    gathered: BytesMut,
    bytes: u64,
}

impl Gather<'_> {
    fn push(&mut self, mut piece: &[u8]) -> io::Result<()> {
        while !piece.is_empty() {
            let room = PIECE_BYTES.saturating_sub(self.gathered.len());
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.gathered.put_slice(now);
            piece = later;
            if self.gathered.len() >= PIECE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.gathered).freeze();
        self.bytes += piece.len() as u64;
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the peer is gone"))
    }
}
