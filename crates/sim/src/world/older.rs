//! Members come back with older copies of their disks, as when an operator restores a backup.
//!
//! A member that has forgotten its promises is outside of Raft's guarantees. So this fault happens in a cluster that
//! has healed and settled. The guarantees depend on how many members come back:
//!
//! - **One member**, while the others, enough to elect a leader, hold everything that was acknowledged. Nothing may be
//!   lost, and no other member may stop because of it. The returned member may stop, with proof that its log has lost
//!   entries; then it is removed from the cluster, as its message says.
//! - **All voters but one that holds everything**, from copies that were taken one after the other. They may elect a
//!   leader that lacks acknowledged entries. Then a member must notice at once, and stop. That ends the run, because
//!   answers given before the stop may contradict earlier ones. If no member stops, nothing may be missing.
//!
//! Not guaranteed, and not tried: copies from before a membership change; and, where several members come back, copies
//! of earlier terms, or copies taken long apart. Members that received a whole state since the copies do not notice
//! (`crates/replica/src/consensus/loss.rs`).

use metastore_replica::disk::CrashPolicy;

use super::{Fatal, World};
use crate::disasters::{Copied, Older};
use crate::member::Member;
use crate::time::MOMENTS_PER_TICK;

/// Ticks within which the others hold everything that one member has applied: messages take a few moments.
const IN_STEP_TICKS: u64 = 100;
/// Ticks between the copies of two members, at most.
const COPYING_TICKS: u64 = 40;
/// Moments within which members that stop together start again: before any of them gives up waiting for a leader.
const RESTART_MOMENTS: u64 = 9 * MOMENTS_PER_TICK;
/// Ticks for which the members of a cluster that has lost entries may contradict each other before one of them stops.
const UNNOTICED_TICKS: u64 = 5;
/// Ticks between two attempts to remove a member.
const REMOVAL_TICKS: u64 = 10;

impl World {
    /// Copies the stored data of a member, while it runs.
    pub(super) fn copy_disk(&mut self, at: usize) {
        let Some(copied) = self.copied(at) else { return };
        self.disasters.copies.insert(at, copied);
    }

    fn copied(&self, at: usize) -> Option<Copied> {
        let member = &self.members[at];
        let replica = member.replica.as_ref().filter(|_| !member.may_stop())?;
        let voters = replica.voters().iter().copied().collect();
        Some(Copied { machine: member.machine().fork(), term: member.term(), voters })
    }

    /// If copies were taken during the storm, lets members come back with older copies. Returns whether the run
    /// continues.
    pub(super) fn come_back_older(&mut self) -> bool {
        let copies = std::mem::take(&mut self.disasters.copies);
        if copies.is_empty() {
            return true;
        }
        if self.random.permille(500) {
            let mut usable: Vec<_> = copies.into_iter().filter(|(at, copied)| self.fits(*at, copied)).collect();
            if !usable.is_empty() {
                let (at, copied) = usable.swap_remove(self.random.below(usable.len() as u64) as usize);
                self.one_comes_back(at, copied);
            }
            return true;
        }
        self.most_come_back()
    }

    /// Whether a member may come back with this copy: its voters are still the voters of the cluster.
    fn fits(&self, at: usize, copied: &Copied) -> bool {
        let member = &self.members[at];
        member.is_there() && copied.voters == self.voters.1 && copied.voters.contains(&member.id)
    }

    fn one_comes_back(&mut self, at: usize, copied: Copied) {
        let mut ticks = 0;
        while !self.do_others_hold_all(at) {
            ticks += 1;
            if ticks > IN_STEP_TICKS {
                return;
            }
            self.ticks(1);
        }
        self.disasters.older = Older::One(at);
        self.comes_back(at, Some(copied));
        self.settle();
    }

    /// Whether enough other members to elect a leader hold everything that was applied anywhere.
    fn do_others_hold_all(&self, at: usize) -> bool {
        let newest = self.members.iter().map(Member::applied).max().unwrap_or(0);
        let others = self.members.iter().filter(|member| member.at != at && self.voters.1.contains(&member.id));
        others.filter(|member| member.applied() == newest).count() > self.voters.1.len() / 2
    }

    /// A voter that holds everything that was applied anywhere.
    fn newest_voter(&self) -> Option<&Member> {
        let newest = self.members.iter().map(Member::applied).max()?;
        self.members.iter().rfind(|member| member.applied() == newest && self.voters.1.contains(&member.id))
    }

    fn most_come_back(&mut self) -> bool {
        let mut voters: Vec<usize> =
            (0..self.members.len()).filter(|at| self.voters.1.contains(&self.members[*at].id)).collect();
        let first = self.random.below(voters.len() as u64) as usize;
        voters.rotate_left(first);
        let mut copies = Vec::new();
        for at in voters {
            copies.extend(self.copied(at).map(|copied| (at, copied)));
            let ticks = self.random.between(1, COPYING_TICKS);
            self.ticks(ticks);
        }
        let Some(newest) = self.newest_voter() else { return true };
        let (newest, term) = (newest.at, newest.term());
        copies.retain(|(at, copied)| *at != newest && self.fits(*at, copied));
        // A change of leaders since the copies is rare; it makes them copies of an earlier term. A single voter has no
        // other member that could notice.
        let voters = self.voters.1.len();
        if voters < 2 || copies.len() + 1 < voters || copies.iter().any(|(_, copied)| copied.term != term) {
            return true;
        }
        self.disasters.older = Older::Most;
        for at in 0..self.members.len() {
            if self.members[at].is_there() {
                let copied = copies.extract_if(.., |(member, _)| *member == at).next();
                self.comes_back(at, copied.map(|(_, copied)| copied));
            }
        }
        self.verdicts.hold();
        self.settle();
        if self.is_lost() {
            return false;
        }
        self.verdicts.pronounce();
        true
    }

    /// A member stops, and starts again soon: with this copy, or with all its stored data.
    fn comes_back(&mut self, at: usize, copied: Option<Copied>) {
        let down = self.random.between(1, RESTART_MOMENTS);
        self.disasters.dooms.insert(at, (CrashPolicy::Kill, down));
        self.crashes(at);
        self.network.forget(at);
        if let Some(copied) = copied {
            self.note(|| format!("{at} comes back with an older copy"));
            self.counts.older_copies += 1;
            self.members[at].put_back(copied.machine);
        }
    }

    /// A member has proof that entries are lost, and stops for good.
    pub(super) fn stops_for_loss(&mut self, at: usize, error: &Fatal) {
        let expected = match self.disasters.older {
            Older::None => false,
            Older::One(older) => at == older,
            Older::Most => self.verdicts.is_holding(),
        };
        assert!(expected, "member {at} has stopped: {error}");
        self.note(|| format!("{at} stops: {error}"));
        self.counts.stopped_for_loss += 1;
        self.crashes(at);
        self.disasters.restarts.remove(&at);
        self.disasters.lost.insert(at);
    }

    /// Whether acknowledged entries are lost, and a member has said so.
    pub(super) fn is_lost(&self) -> bool {
        self.disasters.older == Older::Most && !self.disasters.lost.is_empty()
    }

    /// Handles, once in a tick, the members that came back older. Stopped members are removed. A contradiction that
    /// lasts too long counts as unnoticed.
    pub(super) fn follow_loss(&mut self) {
        self.verdicts.tick(UNNOTICED_TICKS);
        if !self.now.is_multiple_of(REMOVAL_TICKS * MOMENTS_PER_TICK) {
            return;
        }
        let Some(&lost) = self.disasters.lost.iter().find(|at| !self.members[**at].left) else { return };
        let removal = self.removal(self.members[lost].id);
        let Some(leader) = self.members.iter_mut().rfind(|member| member.leads()) else { return };
        leader.due = true;
        // If the change is not accepted now, there is another attempt.
        _ = leader.replica.as_mut().map(|replica| replica.propose_change(&removal));
    }
}
