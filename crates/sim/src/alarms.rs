//! Alarms in the simulated cluster: the quotas of its members, what members do when they run out of space, and an
//! operator who raises and disarms alarms and defragments members.

use std::collections::BTreeSet;

use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::request_op::Request as Op;
use metastore_proto::etcdserverpb::{AlarmRequest, AlarmType, PutRequest, RequestOp, TxnRequest};

use crate::history::Request;
use crate::invariants::alarms::Standing;
use crate::random::Random;

/// The stream of random choices about alarms.
const STREAM: u64 = 80;
/// The share of seeds with alarms, in thousandths.
const PERMILLE: u64 = 250;
/// The size of a member without keys, and the pages beyond it that a quota allows: what clients write in a minute takes
/// more than that.
const EMPTY_BYTES: u64 = 5 * PAGE_BYTES;
const PAGE_BYTES: u64 = 4096;
const PAGES: (u64, u64) = (2, 12);
/// Moments between two acts of the operator, at most.
const PAUSE: u64 = 120;
/// Moments for which an act of a member or of the operator may be under way before it is tried again.
const PATIENCE: u64 = 50;
/// Bytes that a lease takes, and those that a put takes beside its key and value, as etcd reckons.
const COST_OF_LEASE: u64 = 64;
const COST_OF_PUT: u64 = 256;

pub struct Alarms {
    random: Random,
    /// The quotas of the members, in turn; `None`: without.
    quotas: Vec<Option<u64>>,
    /// A member below this share of its quota, in percent, takes back its alarm. With 0 the operator must do it.
    pub disarm_percent: u64,
    /// The moment of the operator's next act.
    next: u64,
    /// Whether the operator only disarms, and no member has a quota any more.
    ends: bool,
}

/// An act of the operator at one member.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    Ask(AlarmRequest),
    Defragment,
}

/// The alarm of a member that is under way: the proposal, and the moment from which another one may be made.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub id: u64,
    pub until: u64,
}

impl Setting {
    pub fn new(id: u64, now: u64) -> Self {
        Self { id, until: now + PATIENCE }
    }
}

impl Alarms {
    /// The alarms of a seed, if it has any.
    pub fn draw(seed: u64) -> Option<Self> {
        let mut random = Random::new(seed, STREAM);
        if !random.permille(PERMILLE) {
            return None;
        }
        let mut quota = |_| {
            let pages = random.between(PAGES.0, PAGES.1);
            random.permille(800).then_some(EMPTY_BYTES + pages * PAGE_BYTES)
        };
        let quotas = (0..3).map(&mut quota).collect();
        let disarm_percent = *random.pick(&[0, 90, 99]).unwrap_or(&0);
        Some(Self { random, quotas, disarm_percent, next: PAUSE, ends: false })
    }

    /// The quota of a member in bytes.
    pub fn quota(&self, at: usize) -> Option<u64> {
        self.quotas[at % self.quotas.len()].filter(|_| !self.ends)
    }

    /// Whether a member that uses so many bytes is small enough to take back its alarm by itself.
    pub fn disarms(&self, at: usize, used: u64) -> bool {
        self.disarm_percent > 0 && self.quota(at).is_none_or(|quota| used * 100 < quota * self.disarm_percent)
    }

    /// The next act of the operator, at one of these members; `ids` are those of all members.
    pub fn next_act(&mut self, now: u64, members: &[usize], ids: &[u64]) -> Option<(usize, Act)> {
        if now < self.next || self.ends {
            return None;
        }
        self.next = now + 1 + self.random.below(PAUSE);
        let (at, id) = (*self.random.pick(members)?, *self.random.pick(ids)?);
        let corrupt = AlarmType::Corrupt;
        let act = match self.random.below(100) {
            0..35 => Act::Defragment,
            35..60 => ask(AlarmAction::Deactivate, AlarmType::Nospace, id),
            60..68 => ask(AlarmAction::Activate, AlarmType::Nospace, id),
            68..85 => ask(AlarmAction::Deactivate, corrupt, id),
            85..90 => ask(AlarmAction::Activate, corrupt, id),
            90..95 => ask(AlarmAction::Activate, AlarmType::None, id),
            _ => ask(AlarmAction::Get, AlarmType::None, id),
        };
        Some((at, act))
    }

    /// The next alarm that the operator of a healed world disarms, of those that a member knows.
    pub fn next_to_disarm(&mut self, now: u64, standing: &Standing) -> Option<AlarmRequest> {
        if !self.is_disarming() || now < self.next {
            return None;
        }
        let left_to_members = |kind: i32| kind == AlarmType::Nospace as i32 && self.disarm_percent > 0;
        let &(alarm, member_id) = standing.iter().find(|(kind, _)| !left_to_members(*kind))?;
        self.next = now + PATIENCE;
        Some(AlarmRequest { action: AlarmAction::Deactivate.into(), member_id, alarm })
    }

    /// Whether the operator only disarms: the world is healed.
    pub fn is_disarming(&self) -> bool {
        self.ends
    }

    /// From now on no alarm is raised, and all that stand are taken back: the members have space enough.
    pub fn restore(&mut self) {
        (self.ends, self.next) = (true, 0);
    }
}

fn ask(action: AlarmAction, alarm: AlarmType, member_id: u64) -> Act {
    Act::Ask(AlarmRequest { action: action.into(), member_id, alarm: alarm.into() })
}

/// The alarms that a member knows.
pub fn standing(alarms: &metastore_store::Alarms) -> Standing {
    let all = alarms.of(AlarmType::None.into());
    all.into_iter().map(|alarm| (alarm.alarm, alarm.member_id)).collect::<BTreeSet<_>>()
}

/// Bytes that a request takes, as etcd reckons; 0 if it writes nothing.
pub fn cost(request: &Request) -> u64 {
    match request {
        Request::Put(put) => cost_of_put(put),
        Request::Txn(txn) => cost_of_txn(txn),
        Request::LeaseGrant(_) => COST_OF_LEASE,
        Request::DeleteRange(_) | Request::Range(_) | Request::Compact(_) | Request::LeaseRevoke(_) => 0,
    }
}

fn cost_of_put(put: &PutRequest) -> u64 {
    COST_OF_PUT + (put.key.len() + put.value.len()) as u64
}

/// The branch that takes more counts.
fn cost_of_txn(txn: &TxnRequest) -> u64 {
    let op = |op: &RequestOp| match &op.request {
        Some(Op::RequestPut(put)) => cost_of_put(put),
        Some(Op::RequestTxn(txn)) => cost_of_txn(txn),
        _ => 0,
    };
    let branch = |ops: &[RequestOp]| ops.iter().map(op).sum::<u64>();
    branch(&txn.success).max(branch(&txn.failure))
}
