//! The cluster changes its members while it runs: learners join, become voters, and members leave, the leader among
//! them.
//!
//! A member is started when it was added, as with etcd, and stopped a while after it was removed. Until it stops it
//! may not know of its removal, and may disturb the others. Two voters are never reduced to one. If the removed one
//! stopped before the other learned that the removal is committed, no member could tell the other one, here as in etcd.

use metastore_proto::raftpb::{ConfChange, ConfChangeType};
use metastore_store::{Member as Description, Members};

use super::{World, take_due};
use crate::member::Member;
use crate::time::MOMENTS_PER_TICK;

/// Members that a run adds, at most.
const MAX_ADDED: usize = 6;
/// The number of voters during the storm, even if every proposed removal takes effect.
const VOTERS: std::ops::RangeInclusive<usize> = 2..=5;
/// Ticks for which a removed member continues, at most.
const LINGERING_TICKS: u64 = 40;

impl World {
    /// Proposes a membership change at any running member.
    pub(super) fn reshape(&mut self) {
        let now = self.now;
        let awake: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].awake(now)).collect();
        let Some(&at) = self.random.pick(&awake) else { return };
        let Some(members) = self.known_members(at) else { return };
        let (voters, learners): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| !member.is_learner);
        let choice = self.random.below(4);
        let change = match learners.first() {
            Some(learner) if choice < 2 => promotion(learner),
            // The learner may have become a voter.
            Some(learner) if choice == 2 && self.stay_without(learner.id) >= *VOTERS.start() => {
                self.removal(learner.id)
            }
            None if voters.len() < *VOTERS.end() && choice < 2 && self.members.len() < self.founders + MAX_ADDED => {
                self.new_member()
            }
            _ => {
                // The member that proposes the change may lag.
                let staying: Vec<u64> = self.voters.1.difference(&self.removing).copied().collect();
                match self.random.pick(&staying).copied() {
                    Some(id) if self.stay_without(id) >= *VOTERS.start() => self.removal(id),
                    _ => return,
                }
            }
        };
        self.note(|| format!("{at} proposes {:?} of {:x}", change.r#type(), change.node_id()));
        let member = &mut self.members[at];
        let Some(replica) = &mut member.replica else { return };
        member.due = true;
        self.counts.changes_proposed += u64::from(replica.propose_change(&change).is_ok());
    }

    /// The lowest number of voters that remain if this member is removed, too.
    fn stay_without(&self, id: u64) -> usize {
        self.voters.1.difference(&self.removing).filter(|voter| **voter != id).count()
    }

    /// The members, as known by one of them.
    fn known_members(&self, at: usize) -> Option<Vec<Description>> {
        let members = self.members[at].replica.as_ref()?.store().members();
        Some(members.iter().cloned().collect())
    }

    /// Creates a member that joins, and the change that adds it.
    fn new_member(&mut self) -> ConfChange {
        let at = self.members.len();
        let member = Member::joining(at, self.founders, self.new_machine(at), self.settings.clone());
        let description = Description { is_learner: true, ..member.description() };
        self.members.push(member);
        change(ConfChangeType::ConfChangeAddLearnerNode, description.id, &serde_json::to_value(description).unwrap())
    }

    pub(super) fn removal(&mut self, id: u64) -> ConfChange {
        self.removing.insert(id);
        change(ConfChangeType::ConfChangeRemoveNode, id, &serde_json::Value::Null)
    }

    /// Starts members that were added, and stops members that were removed.
    pub(super) fn follow_changes(&mut self) {
        for at in 0..self.members.len() {
            let id = self.members[at].id;
            let knows = |what: fn(&Members, u64) -> bool| {
                let mut replicas = self.members.iter().filter_map(|member| member.replica.as_ref());
                replicas.any(|replica| what(replica.store().members(), id))
            };
            let (added, removed) = (knows(|members, id| members.get(id).is_some()), knows(Members::is_removed));
            let member = &mut self.members[at];
            if removed && !member.left {
                self.counts.members_removed += 1;
                self.leaves.insert(at, self.now + self.random.between(1, LINGERING_TICKS * MOMENTS_PER_TICK));
                member.left = true;
            } else if added && !member.started {
                self.counts.members_added += 1;
                self.start(at);
            }
        }
        for at in take_due(&mut self.leaves, self.now) {
            self.crashes(at);
            self.disasters.restarts.remove(&at);
            self.members[at].gone = true;
        }
    }
}

/// A promotion in etcd's form: the learner is added once more, with a flag.
fn promotion(learner: &Description) -> ConfChange {
    let mut context = serde_json::to_value(learner).unwrap();
    context["isPromote"] = true.into();
    change(ConfChangeType::ConfChangeAddNode, learner.id, &context)
}

fn change(kind: ConfChangeType, id: u64, context: &serde_json::Value) -> ConfChange {
    let context = (!context.is_null()).then(|| context.to_string().into());
    ConfChange { r#type: Some(kind as i32), node_id: Some(id), context, ..ConfChange::default() }
}
