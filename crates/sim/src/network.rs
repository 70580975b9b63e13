//! The network between members: messages are lost, duplicated, delayed, overtaken or cut off.
//!
//! Messages travel as the bytes that go over a real connection, so the encoding is tested, too. A forwarded proposal is
//! never duplicated: it travels on one connection in order, and a transport that sent it twice would cause it to be
//! applied twice.

use std::collections::{BTreeMap, BTreeSet};

use metastore_proto::Message as _;
use metastore_proto::raftpb::{Message, MessageType};

use crate::faults::{FaultKind, Rates};
use crate::random::Random;

/// The quality of the network; rates are in thousandths of messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub loss: u64,
    pub doubling: u64,
    /// Messages that are delayed so long that newer ones overtake them.
    pub straggling: u64,
    /// The longest delay of a message, in moments; the shortest is one.
    pub delay: u64,
    /// The longest delay of a straggling message, in moments.
    pub long_delay: u64,
}

impl Weather {
    /// A network in which no message is lost.
    pub const FAIR: Self = Self { loss: 0, doubling: 0, straggling: 0, delay: 1, long_delay: 1 };

    /// Draws a fast or a slow network from the seed.
    pub fn draw(random: &mut Random, rates: &Rates) -> Self {
        Self {
            loss: rates.of(FaultKind::Loss),
            doubling: rates.of(FaultKind::Doubling),
            straggling: rates.of(FaultKind::Straggling),
            delay: 1 + random.below(6),
            long_delay: 10 + random.below(150),
        }
    }
}

/// Counts of messages by their fate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub sent: u64,
    pub lost: u64,
    pub cut_off: u64,
    pub doubled: u64,
    pub overtaken: u64,
}

#[derive(Debug)]
pub struct Arrival {
    pub from: usize,
    pub to: usize,
    pub message: Message,
}

struct InTransit {
    from: usize,
    to: usize,
    number: u64,
    bytes: Vec<u8>,
}

pub struct Network {
    pub weather: Weather,
    pub traffic: Traffic,
    random: Random,
    posted: u64,
    /// By the moment of arrival, and the order of sending.
    under_way: BTreeMap<(u64, u64), InTransit>,
    /// Links (from, to) on which no message passes.
    cut: BTreeSet<(usize, usize)>,
    /// The number of the newest message that has arrived on each link.
    newest: BTreeMap<(usize, usize), u64>,
}

impl Network {
    pub fn new(seed: u64, weather: Weather) -> Self {
        let random = Random::new(seed, 1);
        let (under_way, cut, newest) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { weather, traffic: Traffic::default(), random, posted: 0, under_way, cut, newest }
    }

    /// Sends a message at this moment. Returns whether the sender notices that it is lost.
    pub fn send(&mut self, now: u64, (from, to): (usize, usize), message: &Message) -> bool {
        self.traffic.sent += 1;
        if self.cut.contains(&(from, to)) {
            self.traffic.cut_off += 1;
            return self.random.permille(300);
        }
        if self.random.permille(self.weather.loss) {
            self.traffic.lost += 1;
            return self.random.permille(300);
        }
        let bytes = message.encode_to_vec();
        let proposal = message.r#type() == MessageType::MsgProp;
        if !proposal && self.random.permille(self.weather.doubling) {
            self.traffic.doubled += 1;
            self.post(now, (from, to), bytes.clone());
        }
        self.post(now, (from, to), bytes);
        false
    }

    /// Whether a transfer on a connection of its own is lost.
    pub fn loses(&mut self, way: (usize, usize)) -> bool {
        self.cut.contains(&way) || self.random.permille(self.weather.loss)
    }

    fn post(&mut self, now: u64, (from, to): (usize, usize), bytes: Vec<u8>) {
        let late = self.random.permille(self.weather.straggling);
        let delay = if late { self.weather.long_delay } else { self.weather.delay };
        let arrival = now + self.random.between(1, delay);
        self.posted += 1;
        self.under_way.insert((arrival, self.posted), InTransit { from, to, number: self.posted, bytes });
    }

    /// Takes the messages that arrive at this moment.
    pub fn arrive(&mut self, now: u64) -> Vec<Arrival> {
        let later = self.under_way.split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut self.under_way, later);
        due.into_values().filter_map(|letter| self.open(letter)).collect()
    }

    fn open(&mut self, letter: InTransit) -> Option<Arrival> {
        let InTransit { from, to, number, bytes } = letter;
        if self.cut.contains(&(from, to)) {
            self.traffic.cut_off += 1;
            return None;
        }
        let newest = self.newest.entry((from, to)).or_default();
        self.traffic.overtaken += u64::from(number < *newest);
        *newest = number.max(*newest);
        let message = Message::decode(&bytes[..]).expect("a message is read as it was written");
        Some(Arrival { from, to, message })
    }

    /// Loses all messages that are on their way from or to a member.
    pub fn forget(&mut self, member: usize) {
        self.under_way.retain(|_, letter| letter.from != member && letter.to != member);
    }

    /// Closes these links, and opens all others.
    pub fn cut(&mut self, ways: impl IntoIterator<Item = (usize, usize)>) {
        self.cut = ways.into_iter().collect();
    }
}
