//! Alarms: all members refuse the same commands at the same place in the log, and no others (etcd,
//! `server/etcdserver/apply`, and <https://etcd.io/docs/v3.6/op-guide/maintenance/>, "Space quota").
//!
//! While any member's NOSPACE stands, commands that may put a key or grant a lease are refused, a transaction by either
//! branch; deletes, compactions and revocations are not. While any member's CORRUPT stands, every command that changes
//! keys or leases is refused. Everything else is done at any time: alarms themselves, changes of users and of members,
//! checkpoints of leases. That a refused command changes nothing is the matter of the checks of the history, which does
//! not contain it.
//!
//! The model of the alarms follows the commands at their places. Members hold the same alarms after the same entry,
//! whether they have applied the log, started from what they had stored, or received the state of another member.

use std::collections::{BTreeMap, BTreeSet};

use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::request_op::Request as Op;
use metastore_proto::etcdserverpb::{AlarmRequest, AlarmType, RequestOp, TxnRequest};
use metastore_store::{Outcome, Reply};

use crate::history::{Request, Violation};

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const CORRUPT: &str = "etcdserver: corrupt cluster";

/// The alarms that stand: kinds and members, by etcd's numbers.
pub type Standing = BTreeSet<(i32, u64)>;

/// The conditions that a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Members that agree.
    Soundness,
    /// That, and space.
    Space,
}

#[derive(Default)]
pub struct Alarms {
    /// The needs of commands, by id. Commands that are not named here need nothing.
    needs: BTreeMap<u64, Need>,
    requests: BTreeMap<u64, AlarmRequest>,
    /// The alarms at the place of each command, and the member that told it first.
    places: BTreeMap<u64, (usize, Standing)>,
    /// The alarms that a member was the first to hold after an entry.
    held: BTreeMap<u64, (usize, Standing)>,
}

impl Alarms {
    /// A client, or the cluster itself, proposes a command.
    pub fn called(&mut self, id: u64, request: &Request) {
        self.needs.extend(need_of(request).map(|need| (id, need)));
    }

    /// A member or an operator asks for an alarm.
    pub fn asked_for(&mut self, id: u64, request: AlarmRequest) {
        self.requests.insert(id, request);
    }

    /// A member tells the outcome of a command that it has applied while these alarms stood. Returns those that stand
    /// after it.
    pub fn applied(&mut self, member: usize, standing: Standing, outcome: &Outcome) -> Result<Standing, Violation> {
        let id = outcome.id;
        if id != 0 {
            let (first, place) = self.places.entry(id).or_insert_with(|| (member, standing.clone()));
            if *place != standing {
                return Err(format!("command {id} met the alarms {place:?} on {first}, {standing:?} on {member}"));
            }
        }
        if let Some(request) = self.requests.get(&id) {
            return answered(request, standing, outcome);
        }
        let expected = self.needs.get(&id).and_then(|need| refusal(*need, &standing));
        let told = outcome.reply.as_ref().err().map(ToString::to_string).filter(|text| is_refusal(text));
        if told.as_deref() != expected {
            return Err(format!("command {id} is told {told:?}, not {expected:?}, while {standing:?} stand"));
        }
        Ok(standing)
    }

    /// A member holds these alarms after the entry at `index`.
    pub fn holds(&mut self, member: usize, index: u64, standing: &Standing) -> Result<(), Violation> {
        let (first, known) = self.held.entry(index).or_insert_with(|| (member, standing.clone()));
        if known == standing {
            return Ok(());
        }
        Err(format!("after entry {index}, member {first} has the alarms {known:?}, {member} has {standing:?}"))
    }
}

/// Whether a command is refused with this text because an alarm stands.
pub fn is_refusal(text: &str) -> bool {
    [NO_SPACE, CORRUPT].contains(&text)
}

/// The conditions that a request needs where it is applied; `None`: it needs none.
fn need_of(request: &Request) -> Option<Need> {
    match request {
        Request::Put(_) | Request::LeaseGrant(_) => Some(Need::Space),
        Request::Txn(txn) if puts(txn) => Some(Need::Space),
        Request::Txn(_) | Request::DeleteRange(_) | Request::Compact(_) | Request::LeaseRevoke(_) => {
            Some(Need::Soundness)
        }
        Request::Range(_) => None,
    }
}

/// Whether a transaction may put a key, whichever branch is taken.
fn puts(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|RequestOp { request }| match request {
        Some(Op::RequestPut(_)) => true,
        Some(Op::RequestTxn(txn)) => puts(txn),
        _ => false,
    })
}

/// The refusal of a command with this need while these alarms stand.
fn refusal(need: Need, standing: &Standing) -> Option<&'static str> {
    let stands = |kind: AlarmType| standing.iter().any(|(standing, _)| *standing == kind as i32);
    match need {
        _ if stands(AlarmType::Corrupt) => Some(CORRUPT),
        Need::Space if stands(AlarmType::Nospace) => Some(NO_SPACE),
        _ => None,
    }
}

/// Checks the answer to a request for an alarm, and returns the alarms after it.
fn answered(request: &AlarmRequest, mut standing: Standing, outcome: &Outcome) -> Result<Standing, Violation> {
    let alarm = (request.alarm, request.member_id);
    let expected = match request.action() {
        AlarmAction::Get => {
            let wanted = |(kind, _): &&(i32, u64)| request.alarm == AlarmType::None as i32 || *kind == request.alarm;
            standing.iter().filter(wanted).copied().collect()
        }
        AlarmAction::Activate if request.alarm != AlarmType::None as i32 => {
            standing.insert(alarm);
            vec![alarm]
        }
        AlarmAction::Deactivate if standing.remove(&alarm) => vec![alarm],
        AlarmAction::Activate | AlarmAction::Deactivate => Vec::new(),
    };
    let told: Option<Vec<_>> = match &outcome.reply {
        Ok(Reply::Alarms(alarms)) => Some(alarms.iter().map(|alarm| (alarm.alarm, alarm.member_id)).collect()),
        _ => None,
    };
    if told.as_ref() != Some(&expected) {
        return Err(format!("{request:?} is answered {outcome:?}, not {expected:?}"));
    }
    Ok(standing)
}

#[cfg(test)]
mod tests {
    use metastore_proto::etcdserverpb::{
        AlarmMember, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    };
    use metastore_store::Refusal;

    use super::*;

    const NOSPACE: (i32, u64) = (AlarmType::Nospace as i32, 7);
    const OF_CORRUPTION: (i32, u64) = (AlarmType::Corrupt as i32, 8);

    fn outcome(id: u64, reply: Result<Reply, Refusal>) -> Outcome {
        Outcome { id, revision: 2, reply }
    }

    fn put() -> Request {
        Request::Put(PutRequest::default())
    }

    fn op(request: Op) -> Vec<RequestOp> {
        vec![RequestOp { request: Some(request) }]
    }

    /// Whether the check accepts that a command is refused in this way.
    fn accepts(standing: &[(i32, u64)], request: &Request, refused: Option<Refusal>) -> bool {
        let mut check = Alarms::default();
        check.called(5, request);
        let standing: Standing = standing.iter().copied().collect();
        let after = check.applied(0, standing.clone(), &outcome(5, refused.map_or(Ok(Reply::Recorded), Err)));
        after.is_ok_and(|after| after == standing)
    }

    #[test]
    fn alarms_refuse_exactly_what_they_must() {
        let put_in = |failure| TxnRequest { failure, ..TxnRequest::default() };
        let nested = put_in(op(Op::RequestTxn(put_in(op(Op::RequestPut(PutRequest::default()))))));
        let space = [put(), Request::LeaseGrant(LeaseGrantRequest::default()), Request::Txn(nested)];
        let delete = DeleteRangeRequest::default();
        let others = [
            Request::DeleteRange(delete.clone()),
            Request::Txn(put_in(op(Op::RequestDeleteRange(delete)))),
            Request::Compact(CompactionRequest::default()),
            Request::LeaseRevoke(LeaseRevokeRequest::default()),
        ];
        for (requests, by_space) in [(&space[..], true), (&others[..], false)] {
            for request in requests {
                let judged = |standing: &[(i32, u64)]| {
                    [None, Some(Refusal::NoSpace), Some(Refusal::Corrupt)]
                        .map(|refused| accepts(standing, request, refused))
                };
                assert_eq!(judged(&[]), [true, false, false], "{request:?}");
                assert_eq!(judged(&[NOSPACE]), [!by_space, by_space, false], "{request:?}");
                assert_eq!(judged(&[OF_CORRUPTION]), [false, false, true], "{request:?}");
                assert_eq!(judged(&[NOSPACE, OF_CORRUPTION]), [false, false, true], "{request:?}");
            }
        }
    }

    #[test]
    fn other_refusals_are_no_concern() {
        assert!(accepts(&[], &put(), Some(Refusal::LeaseNotFound)));
        assert!(!accepts(&[NOSPACE], &put(), Some(Refusal::LeaseNotFound)));
    }

    #[test]
    fn what_the_cluster_does_for_itself_is_never_refused() {
        let all: Standing = [NOSPACE, OF_CORRUPTION].into();
        let mut check = Alarms::default();
        check.applied(0, all.clone(), &outcome(9, Ok(Reply::LeaseCheckpoint))).unwrap();
        check.applied(0, all.clone(), &outcome(10, Err(Refusal::Corrupt))).unwrap_err();
        check.applied(0, all, &outcome(11, Err(Refusal::NoSpace))).unwrap_err();
    }

    #[test]
    fn members_apply_a_command_to_the_same_alarms() {
        let mut check = Alarms::default();
        check.applied(0, Standing::new(), &outcome(5, Ok(Reply::Recorded))).unwrap();
        check.applied(1, Standing::new(), &outcome(5, Ok(Reply::Recorded))).unwrap();
        check.applied(1, [NOSPACE].into(), &outcome(5, Ok(Reply::Recorded))).unwrap_err();
    }

    #[test]
    fn members_hold_the_same_alarms_after_the_same_entry() {
        let mut check = Alarms::default();
        check.holds(0, 4, &Standing::new()).unwrap();
        check.holds(0, 5, &[NOSPACE].into()).unwrap();
        check.holds(1, 5, &[NOSPACE].into()).unwrap();
        check.holds(1, 4, &Standing::new()).unwrap();
        check.holds(2, 5, &Standing::new()).unwrap_err();
    }

    #[test]
    fn alarms_are_raised_and_taken_back() {
        let steps = [
            (AlarmAction::Deactivate, NOSPACE, vec![], vec![]),
            (AlarmAction::Activate, NOSPACE, vec![NOSPACE], vec![NOSPACE]),
            (AlarmAction::Activate, (0, 7), vec![], vec![NOSPACE]),
            (AlarmAction::Activate, OF_CORRUPTION, vec![OF_CORRUPTION], vec![NOSPACE, OF_CORRUPTION]),
            (AlarmAction::Get, (0, 7), vec![NOSPACE, OF_CORRUPTION], vec![NOSPACE, OF_CORRUPTION]),
            (AlarmAction::Get, (2, 7), vec![OF_CORRUPTION], vec![NOSPACE, OF_CORRUPTION]),
            (AlarmAction::Deactivate, (1, 8), vec![], vec![NOSPACE, OF_CORRUPTION]),
            (AlarmAction::Deactivate, NOSPACE, vec![NOSPACE], vec![OF_CORRUPTION]),
        ];
        let (mut check, mut standing) = (Alarms::default(), Standing::new());
        for (id, (action, (alarm, member_id), told, after)) in (1..).zip(steps) {
            check.asked_for(id, AlarmRequest { action: action.into(), member_id, alarm });
            let reply = |told: &[(i32, u64)]| {
                let alarms = told.iter().map(|&(alarm, member_id)| AlarmMember { member_id, alarm });
                outcome(id, Ok(Reply::Alarms(alarms.collect())))
            };
            check.applied(0, standing.clone(), &reply(&[(2, 99)])).unwrap_err();
            check.applied(0, standing.clone(), &outcome(id, Err(Refusal::NoSpace))).unwrap_err();
            standing = check.applied(0, standing, &reply(&told)).unwrap();
            assert_eq!(standing, after.into_iter().collect());
        }
    }
}
