//! Alarms: what members do when they run out of space, the acts of the operator, and what alarms refuse.

use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::{AlarmRequest, AlarmType};
use metastore_replica::Output;
use metastore_store::Outcome;
use metastore_store::command::{Command, Kind};

use super::{MOMENTS_PER_TICK, World};
use crate::alarms::{Act, Setting, cost, standing};
use crate::clients::Asked;
use crate::invariants::alarms::is_refusal;
use crate::member::Member;

const NOSPACE: i32 = AlarmType::Nospace as i32;

impl World {
    /// The members look at their space, and the operator acts.
    pub(super) fn mind_alarms(&mut self) {
        if self.alarms.is_none() {
            return;
        }
        let members = self.serving();
        let ids: Vec<u64> = self.members.iter().map(|member| member.id).collect();
        let Some(alarms) = &mut self.alarms else { return };
        let disarms = alarms.is_disarming();
        match alarms.next_act(self.now, &members, &ids) {
            Some((at, Act::Ask(request))) => _ = self.ask_for_alarm(at, request),
            Some((at, Act::Defragment)) => self.defragment(at),
            None => {}
        }
        for at in members {
            if disarms {
                self.disarm_at(at);
            }
            if self.now.is_multiple_of(MOMENTS_PER_TICK) {
                self.look_at_space(at);
            }
        }
    }

    /// The operator disarms the alarms that a member of the healed world knows.
    fn disarm_at(&mut self, at: usize) {
        let (Some(alarms), Some(replica)) = (&mut self.alarms, &self.members[at].replica) else { return };
        if let Some(request) = alarms.next_to_disarm(self.now, &standing(replica.store().alarms())) {
            self.ask_for_alarm(at, request);
        }
    }

    /// A member raises its alarm if its state has become too large, or takes it back if there is room again. As in
    /// etcd, only a write raises an alarm again that was taken back. A leader also takes back those of members that
    /// were removed.
    fn look_at_space(&mut self, at: usize) {
        let Some(alarms) = &self.alarms else { return };
        let Member { replica: Some(replica), id: own, seen_revision, .. } = &mut self.members[at] else { return };
        let store = replica.store();
        let used = store.view().engine().sizes().allocated;
        let written = std::mem::replace(seen_revision, store.revision()) != store.revision();
        let known = standing(store.alarms());
        let is_full = alarms.quota(at).is_some_and(|quota| used >= quota);
        let is_member = |id: u64| store.members().iter().any(|member| member.id == id);
        let takes_back =
            |id: &u64| alarms.disarms(at, used) && (id == own || replica.standing().is_leader() && !is_member(*id));
        if is_full && written && !known.contains(&(NOSPACE, *own)) {
            let own = *own;
            self.set_no_space(at, AlarmAction::Activate, own);
        } else if let Some((_, id)) = known.iter().find(|(kind, id)| *kind == NOSPACE && takes_back(id)) {
            self.set_no_space(at, AlarmAction::Deactivate, *id);
        }
    }

    /// A member proposes to raise or take back an alarm NOSPACE, unless such a proposal of its own is under way.
    fn set_no_space(&mut self, at: usize, action: AlarmAction, member_id: u64) {
        let (now, setting) = (self.now, &self.members[at].setting);
        if setting.is_some_and(|setting| setting.until > now) {
            return;
        }
        let request = AlarmRequest { action: action.into(), member_id, alarm: NOSPACE };
        self.members[at].setting = self.ask_for_alarm(at, request).map(|id| Setting::new(id, now));
    }

    /// Proposes a request for an alarm; returns its id if the member takes it.
    fn ask_for_alarm(&mut self, at: usize, request: AlarmRequest) -> Option<u64> {
        let id = self.clients.next_id();
        let member = &mut self.members[at];
        let proposed = member.replica.as_mut()?.propose(Command::encode(id, Kind::Alarm, &request));
        proposed.ok()?;
        member.due = true;
        self.judge.alarms.asked_for(id, request);
        match request.action() {
            AlarmAction::Activate => self.counts.alarms_raised += 1,
            AlarmAction::Deactivate => self.counts.alarms_taken_back += 1,
            AlarmAction::Get => {}
        }
        self.note(|| format!("{at} is asked by {id}: {request:?}"));
        Some(id)
    }

    /// A member is defragmented: its size falls to what it uses.
    fn defragment(&mut self, at: usize) {
        let member = &mut self.members[at];
        let Some(replica) = &mut member.replica else { return };
        let done = replica.lower_mark().map(|job| job());
        self.counts.defragmented += 1;
        self.note(|| format!("{at} is defragmented: {:?}", done.as_ref().is_ok_and(Result::is_ok)));
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                assert!(self.members[at].may_stop(), "member {at} cannot lower the mark of its size: {error}");
                self.crashes(at);
            }
            Err(error) => self.stopped(at, &error),
        }
    }

    /// Whether a member has room for what a request writes. Otherwise it refuses the request, and raises its alarm.
    pub(super) fn has_room(&mut self, asked: &Asked) -> bool {
        let at = asked.member;
        let (Some(alarms), Some(replica)) = (&self.alarms, &self.members[at].replica) else { return true };
        let (Some(quota), bytes) = (alarms.quota(at), asked.request().map_or(0, cost)) else { return true };
        let used = replica.store().view().engine().sizes().allocated;
        if bytes == 0 || used + bytes < quota {
            return true;
        }
        let own = self.members[at].id;
        if !standing(replica.store().alarms()).contains(&(NOSPACE, own)) {
            self.set_no_space(at, AlarmAction::Activate, own);
        }
        self.note(|| format!("{at} has no room for {}", asked.id));
        self.counts.refused_without_room += 1;
        self.refuse(asked);
        false
    }

    /// Follows the alarms through the outcomes of a member, and checks what they decide.
    pub(super) fn follow_alarms(&mut self, at: usize, output: &Output) {
        if self.alarms.is_none() {
            return;
        }
        let member = &mut self.members[at];
        member.setting.take_if(|setting| output.outcomes.iter().any(|outcome| outcome.id == setting.id));
        // A state of another member came before, between or after the outcomes.
        let mut known = Some(member.alarms.clone()).filter(|_| !output.state_replaced);
        for outcome in &output.outcomes {
            let Some(before) = known else { break };
            match self.judge.alarms.applied(at, before, outcome) {
                Ok(after) => known = Some(after),
                Err(violation) => return self.verdicts.must(Err(violation)),
            }
        }
        let Some(replica) = &self.members[at].replica else { return };
        let found = standing(replica.store().alarms());
        if let Some(known) = known.filter(|known| *known != found) {
            let why = format!("the outcomes of member {at} lead to the alarms {known:?}, it has {found:?}");
            self.verdicts.must(Err(why));
        }
        self.hold_alarms(at);
    }

    /// Compares the alarms of a member with those of the others after the same entry.
    pub(super) fn hold_alarms(&mut self, at: usize) {
        let Some(replica) = self.members[at].replica.as_ref().filter(|_| self.alarms.is_some()) else { return };
        let (index, found) = (replica.store().applied().index, standing(replica.store().alarms()));
        self.verdicts.must(self.judge.alarms.holds(at, index, &found));
        self.members[at].alarms = found;
    }

    /// Ends a request that was refused because an alarm stands. It takes no part in the history of the keys.
    pub(super) fn refuse_for_alarm(&mut self, asked: &Asked) {
        self.note(|| format!("{} refuses {}: an alarm stands", asked.member, asked.id));
        assert!(!self.calm, "a healed cluster without alarms refuses {asked:?}");
        self.judge.denied(asked);
        self.clients.end(self.now, asked.id);
        self.counts.refused_for_alarms += 1;
    }

    /// Whether no alarm stands on any member.
    pub(super) fn is_unalarmed(&self) -> bool {
        let is_unalarmed =
            |member: &Member| member.replica.as_ref().is_none_or(|replica| replica.store().alarms().is_empty());
        self.members.iter().all(is_unalarmed)
    }
}

/// Whether an outcome refuses a command because an alarm stands.
pub(super) fn is_alarmed(outcome: &Outcome) -> bool {
    outcome.reply.as_ref().is_err_and(|refusal| is_refusal(&refusal.to_string()))
}
