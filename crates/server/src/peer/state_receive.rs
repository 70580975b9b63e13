//! A state that is received: from the request's body to a blocking thread that takes it. The body is read no faster
//! than that thread takes it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use metastore_proto::raftpb::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::check::{Way, check};
use super::codec::message::decode_limited;
use super::codec::source::{Broken, Source};
use super::headers::Sender;
use super::http_answer::HttpError;
use super::meters::StateMeters;
use super::state_send::index;
use super::traits::StateIntake;
use super::transport::TransportState;
use crate::io::lobby::Pass;

/// The longest announcement of a member, as in etcd; the state after it may have any size.
const ANNOUNCEMENT_BYTES: u64 = 64 << 20;

/// The longest announcement of a sender that is not known here: it names an index and the members.
const STRANGERS_ANNOUNCEMENT_BYTES: u64 = 64 << 10;

/// An announcement must arrive within this time, counted from the beginning of the request.
const ANNOUNCEMENT_PATIENCE: Duration = Duration::from_secs(10);

/// At most this many pieces wait between the connection and the thread that takes them.
const PIECES: usize = 8;

/// A sender from which nothing arrives for this time is given up. It reads from a disk that may be behind.
const SILENCE: Duration = Duration::from_secs(60);

/// At most this many states of members are received at a time. There is one leader; a former one may still be sending.
const STATES_AT_ONCE: usize = 2;

/// At most this many states of unknown senders at a time: a leader may have joined while this member was away.
const STRANGERS_STATES_AT_ONCE: usize = 1;

/// A state of an unknown sender that arrives more slowly than this, counted from its beginning and after
/// [`STRANGERS_GRACE`], is given up: it holds the only place.
const STRANGERS_BYTES_PER_S: u64 = 256 << 10;
const STRANGERS_GRACE: Duration = Duration::from_secs(30);

/// The members that are sending now, one state at a time for each, and the unknown senders.
#[derive(Clone, Default)]
pub(super) struct Senders {
    members: Rc<RefCell<HashSet<u64>>>,
    strangers: Rc<RefCell<HashSet<u64>>>,
}

enum Piece {
    Bytes(Bytes),
    End,
}

impl Senders {
    /// Receives a state, to the end.
    ///
    /// # Errors
    /// [`HttpError`]; nothing of the state remains.
    pub async fn receive<B>(
        &self,
        shared: &TransportState,
        sender: &Sender,
        pass: Option<Pass>,
        body: B,
    ) -> Result<(), HttpError>
    where
        B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
    {
        let start = Instant::now();
        let bad = |text: String| HttpError::new(StatusCode::BAD_REQUEST, text);
        let from = sender.id.ok_or_else(|| bad("the request does not say who sends it".into()))?;
        let known = shared.peer(from).is_some();
        // A member gets its place before anything is read, because its announcement may be large. An unknown sender
        // gets its place only with an announcement that is whole.
        let mut turn = if known { Some(self.enter(from, known)?) } else { None };
        let limit = if known { ANNOUNCEMENT_BYTES } else { STRANGERS_ANNOUNCEMENT_BYTES };
        let mut source = Source::new(body, SILENCE);
        let announced = tokio::time::timeout(ANNOUNCEMENT_PATIENCE, decode_limited(&mut source, limit)).await;
        let (message, _) = announced
            .unwrap_or(Err(Broken::Silent(ANNOUNCEMENT_PATIENCE)))
            .map_err(|error| bad(format!("failed to decode raft message ({error})")))?;
        check(&message, Way::State, from, shared.settings.identity.id).map_err(|unfit| bad(unfit.to_string()))?;
        if !known {
            turn = Some(self.enter(from, known)?);
        }
        let _turn = turn;
        // From now on its time is limited here, not by the lobby.
        pass.iter().for_each(Pass::admit);
        let pace = (!known).then_some(Pace { began: start });
        let link = shared.link(from);
        let meters = link.as_ref().map(|link| &link.meters.state_received);
        let (index, id) = (index(&message), format!("{from:x}"));
        seldom!(
            CHANGES: info, from,
            "remote-snapshot-sender-id" = id,
            "incoming-snapshot-index" = index,
            "receiving database snapshot"
        );
        let taken = {
            let _inflight = meters.map(Inflight::new);
            take(shared.intake.clone(), message, source, pace).await
        };
        match taken {
            Ok(bytes) => {
                if let Some(link) = &link {
                    link.meters.received_bytes.inc_by(bytes);
                    link.meters.state_received.success.inc();
                    link.meters.state_received.seconds.observe(start.elapsed().as_secs_f64());
                }
                seldom!(
                    CHANGES: info, from,
                    "remote-snapshot-sender-id" = id, "incoming-snapshot-index" = index,
                    "incoming-snapshot-size-bytes" = bytes, "download-took" = ?start.elapsed(),
                    "received and saved database snapshot"
                );
                Ok(())
            }
            Err(error) => {
                if let Some(meters) = meters {
                    meters.failures.inc();
                }
                seldom!(
                    CHANGES: warn, from,
                    "remote-snapshot-sender-id" = id,
                    "incoming-snapshot-index" = index,
                    error,
                    "failed to save incoming database snapshot"
                );
                Err(HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to save KV snapshot ({error})")))
            }
        }
    }

    fn enter(&self, from: u64, known: bool) -> Result<Turn, HttpError> {
        let (senders, most) = match known {
            true => (&self.members, STATES_AT_ONCE),
            false => (&self.strangers, STRANGERS_STATES_AT_ONCE),
        };
        let mut entered = senders.borrow_mut();
        if entered.len() >= most || !entered.insert(from) {
            let text = "another snapshot is being received; try again when it has ended";
            return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        Ok(Turn { senders: senders.clone(), from })
    }
}

/// The place of one sender.
struct Turn {
    senders: Rc<RefCell<HashSet<u64>>>,
    from: u64,
}

/// How fast a state of an unknown sender must arrive.
#[derive(Clone, Copy)]
struct Pace {
    began: Instant,
}

impl Pace {
    /// The moment at which the bytes after the first `received` must have begun to arrive.
    fn deadline(self, received: u64) -> Instant {
        self.began + STRANGERS_GRACE + Duration::from_secs(received / STRANGERS_BYTES_PER_S)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.senders.borrow_mut().remove(&self.from);
    }
}

struct Inflight<'a>(&'a StateMeters);

impl<'a> Inflight<'a> {
    fn new(meters: &'a StateMeters) -> Inflight<'a> {
        meters.inflight.inc();
        Inflight(meters)
    }
}

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        self.0.inflight.dec();
    }
}

/// Passes the body to the intake on a blocking thread, and waits for its result. Returns the number of bytes.
async fn take<B>(
    intake: Arc<dyn StateIntake>,
    message: Message,
    mut source: Source<B>,
    pace: Option<Pace>,
) -> Result<u64, String>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    let (pieces, inlet) = mpsc::channel(PIECES);
    let taking = tokio::task::spawn_blocking(move || take_all(&*intake, message, inlet));
    let bytes = AtomicU64::new(0);
    let feed = async {
        loop {
            let next = source.piece();
            let piece = match pace {
                None => next.await,
                Some(pace) => tokio::time::timeout_at(pace.deadline(bytes.load(Ordering::Relaxed)), next)
                    .await
                    .map_err(|_| format!("it comes more slowly than {STRANGERS_BYTES_PER_S} bytes a second"))?,
            };
            let piece = piece.map_err(|error| error.to_string())?;
            let end = piece.is_none();
            let length = piece.as_ref().map_or(0, Bytes::len);
            let piece = piece.map_or(Piece::End, Piece::Bytes);
            // If the intake has given up, its error says why.
            if pieces.send(piece).await.is_err() || end {
                return Ok(());
            }
            bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
    };
    let fed: Result<(), String> = feed.await;
    drop(pieces);
    let taken = taking.await.unwrap_or_else(|_panic| Err("taking the snapshot panicked".into()));
    fed.and(taken).map(|()| bytes.into_inner())
}

fn take_all(intake: &dyn StateIntake, message: Message, mut inlet: mpsc::Receiver<Piece>) -> Result<(), String> {
    let mut taker = intake.begin(message)?;
    while let Some(piece) = inlet.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => taker.take(&bytes)?,
            Piece::End => return taker.finish(),
        }
    }
    Err("the sender went away in the middle of the snapshot".into())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::BytesMut;
    use http_body::Frame;
    use metastore_proto::raftpb::MessageType;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
    use tokio::time::{advance, timeout};

    use super::super::codec::message::encode;
    use super::super::{Identity, Peer, Settings, Sink, StateTaker, Transport};
    use super::*;
    use crate::io::lobby::{Limits, Lobby};

    /// Takes every state, and counts its bytes.
    #[derive(Clone, Default)]
    struct Double(Arc<AtomicU64>);

    impl Sink for Double {
        fn message(&self, _: Message, _: usize) -> bool {
            false
        }

        fn unreachable(&self, _: u64) {}

        fn snapshot_sent(&self, _: u64, _: bool) {}

        fn removed(&self) {}
    }

    impl StateIntake for Double {
        fn begin(&self, _: Message) -> Result<Box<dyn StateTaker>, String> {
            Ok(Box::new(self.clone()))
        }
    }

    impl StateTaker for Double {
        fn take(&mut self, piece: &[u8]) -> Result<(), String> {
            self.0.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(())
        }

        fn finish(self: Box<Self>) -> Result<(), String> {
            Ok(())
        }
    }

    /// A body that the test writes.
    struct Written(UnboundedReceiver<Bytes>);

    impl Body for Written {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    fn body() -> (UnboundedSender<Bytes>, Written) {
        let (sender, receiver) = unbounded_channel();
        (sender, Written(receiver))
    }

    /// The beginning of a request of `from` to member 1: a message of this type.
    fn begin(from: u64, kind: MessageType) -> Bytes {
        let mut bytes = BytesMut::new();
        let (r#type, from, to) = (Some(kind as i32), Some(from), Some(1));
        encode(&Message { r#type, from, to, ..Message::default() }, &mut bytes);
        bytes.freeze()
    }

    /// The text of the refusal of a request of `from` to member 1, which knows member 2.
    async fn receive(double: &Double, from: u64, pass: Option<Pass>, body: Written) -> Result<(), String> {
        let (second, double) = (Duration::from_secs(1), Arc::new(double.clone()));
        let identity =
            Identity { id: 1, cluster_id: 9, directory: None, version: "3.7.0".into(), peer_urls: Vec::new() };
        let settings = Settings { identity, dial_timeout: second, read_timeout: second, tls: Default::default() };
        let transport = Transport::new(settings, double.clone(), double);
        transport.set_peers(vec![Peer { id: 2, urls: vec!["http://127.0.0.1:1".into()] }], Vec::new());
        let sender = Sender { id: Some(from), urls: Vec::new() };
        let received = Senders::default().receive(&transport.shared, &sender, pass, body).await;
        received.map_err(|refusal| refusal.text.into_owned())
    }

    /// The only place for states of strangers would otherwise be taken for ever, by a byte now and then.
    #[tokio::test(start_paused = true)]
    async fn a_state_of_a_stranger_must_keep_its_pace_from_its_beginning_on() {
        const INTERVAL: Duration = Duration::from_secs(20);
        let fast = (STRANGERS_BYTES_PER_S * INTERVAL.as_secs()) as usize;
        let too_slow = "failed to save KV snapshot (it comes more slowly than 262144 bytes a second)".to_owned();
        for (from, piece_bytes, expected) in [(9, 1, Err(too_slow)), (9, fast, Ok(())), (2, 1, Ok(()))] {
            let (double, (writer, written)) = (Double::default(), body());
            writer.send(begin(from, MessageType::MsgSnap)).unwrap();
            let write = async {
                for pieces in 1..=4 {
                    writer.send(vec![0; piece_bytes].into()).unwrap();
                    while double.0.load(Ordering::Relaxed) < pieces * piece_bytes as u64 {
                        tokio::task::yield_now().await;
                    }
                    advance(INTERVAL).await;
                }
                drop(writer);
                std::future::pending::<()>().await;
            };
            let received = tokio::select! {
                received = receive(&double, from, None, written) => received,
                () = write => unreachable!(),
            };
            assert_eq!(received, expected, "of {from}, {piece_bytes} bytes at a time");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_announcement_is_bounded_in_time_and_a_strangers_in_bytes() {
        let (double, (writer, written)) = (Double::default(), body());
        let write = async move {
            for byte in begin(2, MessageType::MsgSnap) {
                tokio::time::sleep(Duration::from_secs(1)).await;
                writer.send(Bytes::copy_from_slice(&[byte])).unwrap();
            }
            drop(writer);
            std::future::pending::<()>().await;
        };
        let received = tokio::select! {
            received = receive(&double, 2, None, written) => received,
            () = write => unreachable!(),
        };
        let slow = "failed to decode raft message (i/o timeout: nothing was received for 10s)";
        assert_eq!(received, Err(slow.into()));
        let (writer, written) = body();
        writer.send(Bytes::copy_from_slice(&(STRANGERS_ANNOUNCEMENT_BYTES + 1).to_be_bytes())).unwrap();
        let large = "failed to decode raft message (a frame of 65537 bytes exceeds the limit of 65536)";
        assert_eq!(receive(&double, 9, None, written).await, Err(large.into()));
    }

    /// Its time in the lobby is shorter than many states take.
    #[tokio::test(start_paused = true)]
    async fn a_stranger_leaves_the_lobby_with_a_whole_announcement_and_not_before() {
        let second = Duration::from_secs(1);
        for (kind, admitted) in [(MessageType::MsgHeartbeat, false), (MessageType::MsgSnap, true)] {
            let guest = Lobby::new(Limits { connections: 1, first_request: second, stay: second }).enter();
            let (writer, written) = body();
            writer.send(begin(9, kind)).unwrap();
            drop(writer);
            assert_eq!(receive(&Double::default(), 9, Some(guest.pass()), written).await.is_ok(), admitted);
            assert_eq!(timeout(10 * second, guest.shown_out()).await.is_err(), admitted);
        }
    }
}
