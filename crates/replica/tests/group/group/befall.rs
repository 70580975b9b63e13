//! What befalls the group, and its end.

use metastore_replica::disk::CrashPolicy;

use super::Group;
use crate::faults::Fault;
use crate::network::Weather;

impl Group {
    pub(super) fn befall(&mut self, fault: Fault) {
        self.note(|| format!("{fault:?}"));
        if fault.whom().is_some_and(|at| !self.members[at].started || self.members[at].gone) {
            return;
        }
        match fault {
            Fault::Crash { member, operations, policy, down } => {
                self.dooms.insert(member, (policy, down));
                match operations {
                    Some(operations) => self.members[member].doom(operations),
                    None => self.crashes(member),
                }
            }
            Fault::Pause { member, moments, ticks } => {
                self.members[member].asleep_until = self.now + moments;
                self.counts.pauses += 1;
                for _ in 0..ticks {
                    self.members[member].jump();
                }
            }
            Fault::Partition { ways, moments } => {
                self.network.cut(ways);
                self.join_at = self.now + moments;
                self.counts.partitions += 1;
            }
            Fault::Transfer { to } => self.transfer(to),
            Fault::Reshape => self.reshape(),
        }
    }

    pub(super) fn crashes(&mut self, at: usize) {
        let (policy, down) = self.dooms.remove(&at).unwrap_or((CrashPolicy::DropUnsynced, 1));
        self.note(|| format!("{at} crashes: {policy:?}"));
        let sender = self.members[at].beside.sender();
        self.members[at].crash(policy);
        self.counts.crashes += 1;
        if let Some(from) = sender {
            self.report_state(from, at, false);
        }
        self.restarts.insert(at, self.now + down);
        for request in self.clients.give_up(self.now, |request| request.member == at) {
            self.unknown(&request);
        }
    }

    fn transfer(&mut self, to: usize) {
        let (now, id) = (self.now, self.members[to].id);
        for member in self.members.iter_mut().filter(|member| member.awake(now)) {
            if let Some(replica) = &mut member.replica
                && replica.standing().is_leader()
            {
                replica.transfer_leader(id);
                member.due = true;
                self.counts.transfers += 1;
            }
        }
    }

    /// The world is good from now on.
    pub(super) fn heal(&mut self) {
        self.note(|| "heals".into());
        self.network.join();
        self.network.weather = Weather::FAIR;
        self.healed = true;
        (self.join_at, self.diligence) = (u64::MAX, 1000);
        for at in 0..self.members.len() {
            self.members[at].asleep_until = 0;
            if self.members[at].doomed {
                self.crashes(at);
            }
        }
        self.leaves.values_mut().for_each(|moment| *moment = self.now + 1);
        self.restarts.values_mut().for_each(|moment| *moment = self.now + 1);
    }
}
