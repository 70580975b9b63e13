//! Clients that ping too often: each ping costs this member an answer, and a packet.
//!
//! The HTTP/2 library answers pings by itself, and tells nobody. So the frames are followed in the byte stream below
//! it ([`Frames`]): there pings are counted ([`Traffic`]), and there the last frame of a connection that is ended gets
//! the words by which gRPC's clients learn to ping less often ([`farewell`]).
//!
//! The rule is that of etcd's gRPC library. A ping that comes too early is a strike, and a third strike ends the
//! connection. Whatever this member sends to a call of the client wipes the strikes out, because clients also measure
//! the connection with pings when they receive something.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// The bytes before the content of each frame: its length (3), kind, flags, and stream (4).
const HEADER_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

/// The reason ENHANCE_YOUR_CALM.
const CALM: [u8; 4] = [0, 0, 0, 0xb];

/// The words of gRPC's servers in the last frame of such a connection.
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// Strikes that a client may have. One more ends its connection.
const MAX_STRIKES: u8 = 2;

/// A client without a call needs no ping more often than this.
const IDLE_TIME: Duration = Duration::from_secs(2 * 60 * 60);

/// The facts seen in the two byte streams of a connection, and the way in which it ends.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Pings of the client since [`Strikes::exceeded`] has last looked.
    pings: Cell<u32>,
    /// Something was sent to a call of the client since then.
    sent: Cell<bool>,
    /// The connection ends because of pings.
    ends: Cell<bool>,
}

impl Traffic {
    pub(super) fn received(&self, header: &[u8; HEADER_BYTES]) {
        if header[3] == PING && header[4] & ACK == 0 {
            self.pings.set(self.pings.get() + 1);
        }
    }

    pub(super) fn sends(&self, header: &[u8; HEADER_BYTES]) {
        if [DATA, HEADERS].contains(&header[3]) {
            self.sent.set(true);
        }
    }

    /// From now on a GOAWAY that asks for calm says why.
    pub(super) fn end(&self) {
        self.ends.set(true);
    }

    pub(super) fn ends(&self) -> bool {
        self.ends.get()
    }
}

/// The calls of a connection that are open.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(Rc<()>);

impl Calls {
    /// One call more, until the result is dropped.
    pub(super) fn open(&self) -> Calls {
        self.clone()
    }

    fn any(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }
}

/// The pings of a client that came too early.
#[derive(Debug)]
pub(super) struct Strikes {
    min_time: Duration,
    last: Option<Instant>,
    strikes: u8,
}

impl Strikes {
    pub(super) fn new(min_time: Duration) -> Strikes {
        Strikes { min_time, last: None, strikes: 0 }
    }

    /// Judges the pings that have arrived. To be called when all that was read has been handled: a ping may arrive
    /// together with the call that allows it.
    pub(super) fn exceeded(&mut self, traffic: &Traffic, calls: &Calls, now: Instant) -> bool {
        for _ in 0..traffic.pings.take() {
            let pause = if calls.any() { self.min_time } else { IDLE_TIME };
            if traffic.sent.take() {
                self.strikes = 0;
            } else if self.last.is_some_and(|last| now < last + pause) {
                self.strikes += 1;
            }
            self.last = Some(now);
            if self.strikes > MAX_STRIKES {
                return true;
            }
        }
        false
    }
}

/// The place in a byte stream of frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that have come.
    known: usize,
    /// Bytes of the content that are still to come.
    left: usize,
}

impl Frames {
    /// Follows the stream, and names the header of each frame that begins.
    pub(super) fn follow(&mut self, mut bytes: &[u8], mut begun: impl FnMut(&[u8; HEADER_BYTES])) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let content = self.left.min(bytes.len());
                self.left -= content;
                bytes = &bytes[content..];
                continue;
            }
            let part = (HEADER_BYTES - self.known).min(bytes.len());
            self.header[self.known..][..part].copy_from_slice(&bytes[..part]);
            self.known += part;
            bytes = &bytes[part..];
            if self.known == HEADER_BYTES {
                (self.known, self.left) = (0, length(&self.header));
                begun(&self.header);
            }
        }
    }

    /// The number of these bytes that belong to the frame that has begun. 0 if a frame begins with them.
    pub(super) fn rest(&self, bytes: &[u8]) -> usize {
        let rest = if self.known > 0 { HEADER_BYTES - self.known } else { self.left };
        rest.min(bytes.len())
    }
}

fn length(header: &[u8]) -> usize {
    usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2])
}

/// The first frame of `bytes`: its length, and what is to be sent in its place, if it is the GOAWAY that asks for calm.
/// The library can give it no words.
pub(super) fn farewell(bytes: &[u8]) -> (usize, Option<Vec<u8>>) {
    const BYTES: usize = HEADER_BYTES + 8;
    let frame = bytes.get(..HEADER_BYTES).map_or(bytes.len(), |header| HEADER_BYTES + length(header)).min(bytes.len());
    if frame != BYTES || bytes[3] != GOAWAY || bytes[BYTES - CALM.len()..BYTES] != CALM {
        return (frame, None);
    }
    let mut worded = bytes[..BYTES].to_vec();
    worded[2] += TOO_MANY_PINGS.len() as u8;
    worded.extend(TOO_MANY_PINGS);
    (frame, Some(worded))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN_TIME: Duration = Duration::from_secs(5);

    fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
        [&[0, 0, content.len() as u8, kind, flags, 0, 0, 0, 1], content].concat()
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let frames =
            [frame(4, 0, &[]), frame(PING, 0, &[6; 8]), frame(DATA, 1, &[PING; 30]), frame(PING, ACK, &[0; 8])];
        let stream = frames.concat();
        for size in 1..=stream.len() {
            let (mut place, mut found) = (Frames::default(), Vec::new());
            for part in stream.chunks(size) {
                place.follow(part, |header| found.push((header[3], length(header))));
            }
            assert_eq!(found, [(4, 0), (PING, 8), (DATA, 30), (PING, 8)], "in parts of {size}");
            assert_eq!(place.rest(b"x"), 0);
        }
        let mut place = Frames::default();
        place.follow(&stream[..12], |_| {});
        assert_eq!((place.rest(&stream[12..]), place.rest(&stream[12..14])), (6, 2));
        place.follow(&stream[12..20], |_| {});
        assert_eq!(place.rest(&stream[20..]), 6);
    }

    /// Pings at these seconds, and whether they end the connection.
    fn ends(calls: &Calls, seconds: &[u64]) -> Vec<bool> {
        let (traffic, begin) = (Traffic::default(), Instant::now());
        let mut strikes = Strikes::new(MIN_TIME);
        let ping = |second: &u64| {
            traffic.received(&[0, 0, 8, PING, 0, 0, 0, 0, 0]);
            strikes.exceeded(&traffic, calls, begin + Duration::from_secs(*second))
        };
        seconds.iter().map(ping).collect()
    }

    #[test]
    fn the_fourth_ping_in_too_short_a_time_ends_a_connection() {
        let (none, one) = (Calls::default(), Calls::default());
        let _call = one.open();
        assert_eq!(ends(&one, &[0, 1, 2, 3]), [false, false, false, true]);
        assert_eq!(ends(&one, &[0, 5, 10, 15, 20]), [false; 5], "as often as allowed");
        assert_eq!(ends(&one, &[0, 1, 6, 7, 12, 13]), [false, false, false, false, false, true], "strikes stay");
        assert_eq!(ends(&none, &[0, 60, 120, 180]), [false, false, false, true], "no call");
        assert_eq!(ends(&none, &[0, 7200, 14400, 21600, 28800]), [false; 5]);
        drop(one.open());
        assert!(one.any() && !none.any());
    }

    #[test]
    fn answers_wipe_strikes_out_and_other_frames_do_not() {
        let (traffic, calls, now) = (Traffic::default(), Calls::default(), Instant::now());
        let mut strikes = Strikes::new(MIN_TIME);
        let ping = [0, 0, 8, PING, 0, 0, 0, 0, 0];
        for kind in [DATA, HEADERS] {
            for _ in 0..10 {
                traffic.received(&ping);
                traffic.received(&ping);
                assert!(!strikes.exceeded(&traffic, &calls, now));
                traffic.sends(&[0, 0, 8, kind, 0, 0, 0, 0, 1]);
            }
        }
        traffic.received(&[0, 0, 8, PING, ACK, 0, 0, 0, 0]);
        assert_eq!(traffic.pings.get(), 0, "the answer to a ping is none");
        traffic.received(&ping);
        assert!(!strikes.exceeded(&traffic, &calls, now));
        for kind in [PING, 4, 8] {
            traffic.sends(&[0, 0, 8, kind, 0, 0, 0, 0, 0]);
            traffic.received(&ping);
        }
        assert!(strikes.exceeded(&traffic, &calls, now));
    }

    #[test]
    fn only_the_goaway_that_asks_for_calm_is_worded() {
        let calm = frame(GOAWAY, 0, &[0, 0, 0, 7, 0, 0, 0, 0xb]);
        let worded = frame(GOAWAY, 0, b"\0\0\0\x07\0\0\0\x0btoo_many_pings");
        assert_eq!(farewell(&[&calm[..], b"more"].concat()), (17, Some(worded)));
        let other = frame(GOAWAY, 0, &[0; 8]);
        assert_eq!(farewell(&other), (17, None));
        assert_eq!(farewell(&[frame(PING, 0, &[0xb; 8]), calm.clone()].concat()), (17, None));
        for cut in 0..17 {
            assert_eq!(farewell(&calm[..cut]), (cut, None));
        }
    }
}
