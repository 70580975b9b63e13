//! A member that receives arbitrary messages from the others: it refuses, ignores, or stops with a reason, and does
//! nothing else.

use bytes::Bytes;
use metastore_proto::etcdserverpb::PutRequest;
use metastore_proto::raftpb::{Entry, Message, MessageType};
use metastore_replica::Replica;
use metastore_store::command::{Command, Kind};

use super::{Fatal, Output, Plan, World};
use crate::random::Random;

/// The number of messages that the member receives.
const MESSAGES: u64 = 300;

/// The information that a liar has about the member.
struct Target {
    id: u64,
    others: Vec<u64>,
    /// The leader that the member knows; 0 if it knows none.
    leader: u64,
    term: u64,
    index: u64,
}

/// Runs a cluster for a while, and then sends false messages to one of its members. Returns how many it accepted, and
/// how many it refused.
///
/// # Panics
/// If the member does anything but accept, refuse, or stop with a reason.
pub fn lie(seed: u64, plan: &Plan) -> (u64, u64) {
    World::new(seed, plan).lie(seed, plan)
}

impl World {
    fn lie(mut self, seed: u64, plan: &Plan) -> (u64, u64) {
        let world = &mut self;
        let mut random = Random::new(seed, 3);
        world.storm(random.between(1, plan.ticks), 0);
        world.heal();
        world.ticks(random.between(1, 30));
        let leads = |at: &usize| world.members[*at].leads();
        let leader = (0..world.members.len()).find(leads).filter(|_| random.permille(500));
        let at = leader.unwrap_or_else(|| random.below(world.members.len() as u64) as usize);
        let others = world.members.iter().map(|member| member.id).collect();
        let Some(replica) = &mut world.members[at].replica else { return (0, 0) };
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..MESSAGES {
            let standing = replica.standing();
            let (term, index) = (standing.term, standing.commit);
            let target = Target { id: replica.id(), others: Vec::clone(&others), leader: standing.leader, term, index };
            let lies = if random.permille(50) { target.coup(&mut random) } else { vec![target.message(&mut random)] };
            for lie in lies {
                match replica.step(lie) {
                    Ok(Ok(())) => taken += 1,
                    Ok(Err(_)) => refused += 1,
                    Err(error) => return (taken, refused + stopped(&error)),
                }
            }
            if let Err(error) = work(replica, &mut random) {
                return (taken, refused + stopped(&error));
            }
        }
        (taken, refused)
    }
}

fn work(replica: &mut Replica, random: &mut Random) -> Result<(), Fatal> {
    if random.permille(100) {
        (0..random.below(25)).for_each(|_| replica.tick());
    }
    if random.permille(100) {
        _ = replica.propose(put(random.number()));
        replica.read(random.number());
    }
    if random.permille(600) { replica.process(&mut Output::default()) } else { Ok(()) }
}

/// A member may stop only with these reasons. The log itself must never receive an impossible request.
fn stopped(error: &Fatal) -> u64 {
    assert!(matches!(error, Fatal::LogLost(_) | Fatal::Inapplicable { .. }), "{error}");
    1
}

fn put(choice: u64) -> Bytes {
    Command::encode(choice, Kind::Put, &PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() })
}

impl Target {
    fn message(&self, random: &mut Random) -> Message {
        let from = match random.below(10) {
            0 => 0,
            1 => random.number(),
            _ => *random.pick(&self.others).unwrap_or(&0),
        };
        let (term, index) = (near(random, self.term), near(random, self.index));
        let log_term = if random.permille(700) { self.term } else { near(random, self.term) };
        let count = if random.permille(500) { 0 } else { random.below(4) };
        Message {
            r#type: Some(random.below(20) as i32),
            to: Some(if random.permille(980) { self.id } else { random.number() }),
            from: Some(from),
            term: Some(term),
            log_term: Some(log_term),
            index: Some(index),
            entries: (1..=count).map(|nth| self.entry(random, index.wrapping_add(nth))).collect(),
            commit: Some(near(random, self.index)),
            snapshot: None,
            reject: Some(random.permille(300)),
            reject_hint: Some(near(random, self.index)),
            context: random.permille(300).then(|| Bytes::copy_from_slice(&random.number().to_be_bytes())),
        }
    }

    /// Messages that arrive together, and would make the member a leader before any of them is on its disk: an entry of
    /// the leader, the leader's request to take over, and the votes of all others.
    fn coup(&self, random: &mut Random) -> Vec<Message> {
        let said = |kind: MessageType, from, term| Message {
            r#type: Some(kind as i32),
            to: Some(self.id),
            from: Some(from),
            term: Some(term),
            ..Message::default()
        };
        let append = Message {
            index: Some(self.index),
            log_term: Some(self.term),
            entries: vec![self.entry(random, self.index + 1)],
            ..said(MessageType::MsgApp, self.leader, self.term)
        };
        let takes_over = said(MessageType::MsgTimeoutNow, self.leader, self.term);
        let votes = self.others.iter().flat_map(|other| {
            [MessageType::MsgPreVoteResp, MessageType::MsgVoteResp].map(|kind| said(kind, *other, self.term + 1))
        });
        [append, takes_over].into_iter().chain(votes).collect()
    }

    fn entry(&self, random: &mut Random, index: u64) -> Entry {
        let data = match random.below(4) {
            0 => Bytes::new(),
            1 => Bytes::copy_from_slice(&random.number().to_be_bytes()),
            _ => put(random.number()),
        };
        let index = if random.permille(900) { index } else { near(random, index) };
        let term = if random.permille(800) { self.term } else { near(random, self.term) };
        Entry { term: Some(term), index: Some(index), r#type: Some((random.below(12) / 10) as i32), data: Some(data) }
    }
}

/// The number itself, a neighbour of it, or a number near the limits of arithmetic.
fn near(random: &mut Random, number: u64) -> u64 {
    match random.below(20) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX - random.below(3),
        3 => u64::MAX / 2,
        4 => random.number(),
        5..=7 => number.wrapping_add(random.between(1, 3)),
        8..=10 => number.wrapping_sub(random.between(1, 3)),
        _ => number,
    }
}
