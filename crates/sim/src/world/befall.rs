//! The effects of faults on the cluster, and their end.

use metastore_replica::disk::CrashPolicy;

use super::World;
use crate::disasters::Partition;
use crate::faults::{Fault, Power};
use crate::member::Member;
use crate::network::Weather;

/// Moments between the sending of a message and the answer to it, once the world is healed.
const ROUND_TRIP: u64 = 2;

impl World {
    pub(super) fn befall(&mut self, fault: Fault) {
        self.note(|| format!("{fault:?}"));
        if fault.whom().is_some_and(|at| !self.members[at].started || self.members[at].gone) {
            return;
        }
        match fault {
            Fault::Crash { member, operations, policy, down } => {
                self.disasters.dooms.insert(member, (policy, down));
                match operations {
                    Some(operations) => self.members[member].doom(operations),
                    None => self.crashes(member),
                }
            }
            Fault::Kill { member, operations, down, power } => {
                self.disasters.dooms.insert(member, (CrashPolicy::Kill, down));
                self.disasters.power.extend(power.map(|power| (member, power)));
                match operations {
                    Some(operations) => self.members[member].doom(operations),
                    None => self.crashes(member),
                }
            }
            Fault::Pause { member, moments, deaf } => {
                let member = &mut self.members[member];
                member.asleep_until = member.asleep_until.max(self.now + moments);
                member.deaf_until = member.asleep_until + deaf;
                self.counts.pauses += 1;
            }
            Fault::ClockJump { member, ticks } => {
                (0..ticks).for_each(|_| self.members[member].jump());
                self.counts.clock_jumps += 1;
            }
            Fault::Partition { ways, moments, turn } if !ways.is_empty() => {
                self.disasters.partition = Some(Partition { ways, ends: self.now + moments, turn });
                self.counts.partitions += 1;
            }
            Fault::Partition { .. } => {}
            Fault::Transfer { to } => self.transfer(to),
            Fault::Reshape => self.reshape(),
            Fault::EventsLost { member } => self.members[member].loses_events = true,
            Fault::OlderCopy { member } => self.copy_disk(member),
            Fault::FlippedBit { member } => self.flip_bit(member),
            Fault::MisdirectedWrite { member } => self.misdirect_write(member),
            fault => self.spoil_disk(fault),
        }
    }

    /// The disk of a member fails from now on, in the way that the fault says.
    fn spoil_disk(&mut self, fault: Fault) {
        let Some(at) = fault.whom() else { return };
        if self.members[at].replica.is_none() || self.members[at].may_stop() {
            return;
        }
        let (machine, counts) = (self.members[at].machine(), &mut self.counts);
        let down = match fault {
            Fault::FailedSync { nth, down, .. } => {
                machine.fail_sync(nth);
                counts.failed_syncs += 1;
                down
            }
            Fault::FailedWrite { nth, down, .. } => {
                machine.fail_write(nth);
                counts.failed_writes += 1;
                down
            }
            Fault::FullDisk { bytes, down, .. } => {
                machine.limit_bytes(machine.total_bytes() + bytes);
                counts.full_disks += 1;
                down
            }
            Fault::SlowSync { moments, hung, .. } => {
                *(if hung { &mut counts.hung_syncs } else { &mut counts.slow_syncs }) += 1;
                return self.members[at].slow_down(moments);
            }
            _ => return,
        };
        self.members[at].faulty = true;
        // A kernel that could not write a page still shows it until the power fails. After that the page is on the
        // disk, or is not.
        let policy = match self.random.permille(500) {
            true => CrashPolicy::Kill,
            false => CrashPolicy::Random(self.random.number()),
        };
        self.disasters.dooms.insert(at, (policy, down));
        if policy == CrashPolicy::Kill {
            self.disasters.power.extend(self.faults.power_after_kill().map(|power| (at, power)));
        }
    }

    pub(super) fn crashes(&mut self, at: usize) {
        let (policy, down) = self.disasters.dooms.remove(&at).unwrap_or((CrashPolicy::DropUnsynced, 1));
        self.note(|| format!("{at} crashes: {policy:?}"));
        let sender = self.members[at].beside.sender();
        self.disconnect_watchers(at);
        let held = self.members[at].held.take();
        self.members[at].crash(policy);
        self.counts.crashes += 1;
        self.counts.kills += u64::from(policy == CrashPolicy::Kill);
        if let Some(from) = sender {
            self.report_state(from, at, false);
        }
        self.disasters.restarts.insert(at, self.now + down);
        for asked in self.clients.give_up(self.now, |asked| asked.member == at) {
            self.unknown(&asked);
        }
        // The log holds the entries whose answers waited for a slow sync. A state on disk may hold their changes, too.
        // Then the restart does not report them again.
        if let Some(held) = held {
            self.publish(at, &held.output);
            held.output.outcomes.iter().for_each(|outcome| self.answer(at, outcome));
        }
    }

    /// A member that was killed starts; the power may fail soon.
    pub(super) fn doom_after_kill(&mut self, at: usize) {
        match self.disasters.power.remove(&at) {
            Some(Power::Operations(operations)) => {
                let down = self.random.between(1, 20);
                self.disasters.dooms.insert(at, (CrashPolicy::DropUnsynced, down));
                self.members[at].doom(operations);
                self.counts.kills_and_crashes += 1;
            }
            Some(Power::Promise) => _ = self.disasters.promising.insert(at),
            None => {}
        }
    }

    /// Members lose power that were killed, started, and have promised something since. Nothing remains of their
    /// unsynced writes. Often the leader loses power, too, so that the others depend on these promises.
    pub(super) fn darken_promised(&mut self) {
        for at in std::mem::take(&mut self.disasters.promised) {
            if self.members[at].replica.is_none() {
                continue;
            }
            self.counts.kills_and_crashes += 1;
            let leader = self.members.iter().rposition(Member::leads);
            let down = self.random.between(1, 20);
            self.goes_dark(at, down);
            if let Some(leader) = leader.filter(|leader| *leader != at && self.random.permille(500)) {
                let down = self.random.between(50, 300);
                self.goes_dark(leader, down);
            }
        }
    }

    fn goes_dark(&mut self, at: usize, down: u64) {
        self.disasters.dooms.insert(at, (CrashPolicy::DropUnsynced, down));
        self.crashes(at);
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

    /// Opens and closes the links of a partition.
    pub(super) fn turn_partition(&mut self) {
        let Some(Partition { ways, ends, turn }) = &self.disasters.partition else { return };
        let over = *ends <= self.now;
        let open = over || turn.is_some_and(|turn| (self.now / turn) % 2 == 1);
        self.network.cut(if open { Vec::new() } else { ways.clone() });
        if over {
            self.disasters.partition = None;
        }
    }

    /// Ends all faults.
    pub(super) fn heal(&mut self) {
        self.note(|| "heals".into());
        self.disasters.partition = None;
        (self.disasters.power, self.disasters.promising) = Default::default();
        self.network.cut([]);
        self.network.weather = Weather::FAIR;
        self.healed = true;
        self.diligence = 1000;
        if let Some(users) = &mut self.users {
            users.restore();
        }
        if let Some(alarms) = &mut self.alarms {
            alarms.restore();
        }
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            // Hanging syncs end now.
            (member.asleep_until, member.deaf_until) = (0, 0);
            if let Some(held) = &mut member.held {
                held.until = self.now;
            }
            member.heal();
            if member.doomed || (member.faulty && member.replica.is_some()) {
                self.crashes(at);
            }
        }
        // With few messages under way, a link carries an entry or two per round trip. A follower stays in step only if
        // the clients ask for less.
        let inflight = self.settings.portions.inflight_messages as u64;
        self.clients.slow_down(2 * ROUND_TRIP / inflight);
        self.leaves.values_mut().for_each(|moment| *moment = self.now + 1);
        self.disasters.restarts.values_mut().for_each(|moment| *moment = self.now + 1);
    }
}
