//! Strict reconfiguration checks (`--strict-reconfig-check`): a change of the membership is refused when the cluster
//! might be unable to commit anything after it (etcd: `mayAddMember`, `mayRemoveMember`, `mayPromoteMember`).
//!
//! A member counts as started once it has published its name, and as connected when it has been reached for
//! [`HEALTH_INTERVAL`] without a break.

use std::time::{Duration, Instant};

use metastore_store::{Member as ClusterMember, Refusal};

use super::{MemberHandle, errors};
use crate::grpc::Status;

/// How long a member must have been connected to be relied upon, as in etcd.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// The number of members that form a majority of `members`.
pub(super) fn quorum(members: usize) -> usize {
    members / 2 + 1
}

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Danger {
    NotEnoughStarted,
    Unhealthy,
}

impl From<Danger> for Status {
    fn from(danger: Danger) -> Status {
        match danger {
            Danger::NotEnoughStarted => errors::refused(Refusal::NotEnoughMembers),
            Danger::Unhealthy => errors::unhealthy(),
        }
    }
}

/// The members, as one of them sees them.
struct Electorate<'a> {
    own: u64,
    members: &'a [ClusterMember],
    /// Whether a member is connected at all, and whether it has been for [`HEALTH_INTERVAL`].
    connected: &'a dyn Fn(u64) -> (bool, bool),
}

impl MemberHandle {
    /// Whether a voter or learner may join.
    pub fn may_add(&self, learner: bool) -> Result<(), Status> {
        self.check_electorate("member add", |electorate| electorate.may_add(learner))
    }

    /// Whether the member `id` may be removed.
    pub fn may_remove(&self, id: u64) -> Result<(), Status> {
        self.check_electorate("member remove", |electorate| electorate.may_remove(id))
    }

    /// Whether a learner may become a voter.
    pub fn may_promote(&self) -> Result<(), Status> {
        self.check_electorate("member promote", |electorate| electorate.may_promote())
    }

    fn check_electorate(
        &self,
        what: &str,
        check: impl FnOnce(&Electorate<'_>) -> Result<(), Danger>,
    ) -> Result<(), Status> {
        if !self.limits.strict_reconfig_check {
            return Ok(());
        }
        let connected = |id| {
            let since: Option<Instant> = self.transport.connected_since(id);
            (since.is_some(), since.is_some_and(|since| since.elapsed() > HEALTH_INTERVAL))
        };
        let (own, members) = (self.shared.member_id, self.shared.members());
        check(&Electorate { own, members: &members, connected: &connected }).map_err(|danger| {
            let status = Status::from(danger);
            seldom!(
                warn, (own, &status.message),
                "local-member-id" = %format!("{own:x}"), error = %status.message,
                "rejecting {what} request; it might leave the cluster without a quorum"
            );
            status
        })
    }
}

impl Electorate<'_> {
    fn voters(&self) -> impl Iterator<Item = &ClusterMember> {
        self.members.iter().filter(|member| !member.is_learner)
    }

    /// Voters that have been connected for a while.
    fn reliable(&self) -> usize {
        self.voters().filter(|voter| voter.id == self.own || (self.connected)(voter.id).1).count()
    }

    fn may_add(&self, learner: bool) -> Result<(), Danger> {
        let (voters, started) = (self.voters().count(), count_started(self.voters()));
        // A member that is alone may always get a second one, as when a cluster is restored.
        let alone = started == 1 && voters == 1;
        if !learner && !alone && started < quorum(voters + 1) {
            return Err(Danger::NotEnoughStarted);
        }
        // The new member counts as a voter, but is not connected yet.
        if voters != 1 && self.reliable() < quorum(voters + 1) { Err(Danger::Unhealthy) } else { Ok(()) }
    }

    fn may_remove(&self, id: u64) -> Result<(), Danger> {
        if self.members.iter().any(|member| member.id == id && member.is_learner) {
            return Ok(());
        }
        let staying = || self.voters().filter(|voter| voter.id != id);
        if count_started(staying()) < quorum(staying().count()) {
            return Err(Danger::NotEnoughStarted);
        }
        // A member that is down is not part of any quorum.
        if id != self.own && !(self.connected)(id).0 {
            return Ok(());
        }
        let needed = 1 + self.voters().count().saturating_sub(1) / 2;
        if self.reliable() < needed + 1 { Err(Danger::Unhealthy) } else { Ok(()) }
    }

    /// The learner counts as a started voter.
    fn may_promote(&self) -> Result<(), Danger> {
        let started = count_started(self.voters()) + 1;
        if started < quorum(self.voters().count() + 1) { Err(Danger::NotEnoughStarted) } else { Ok(()) }
    }
}

fn count_started<'a>(members: impl Iterator<Item = &'a ClusterMember>) -> usize {
    members.filter(|member| !member.name.is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster in short: `s`tarted and connected, `n`ew (nameless, never seen), `d`own, `r`ecently connected,
    /// `l`earner. This member is the first.
    fn check<T>(cluster: &str, check: impl Fn(&Electorate<'_>) -> T) -> T {
        let member = |(at, kind): (usize, char)| ClusterMember {
            id: at as u64 + 1,
            name: if kind == 'n' { String::new() } else { kind.into() },
            is_learner: kind == 'l',
            ..ClusterMember::default()
        };
        let members: Vec<_> = cluster.chars().enumerate().map(member).collect();
        let connected = |id: u64| match cluster.chars().nth(id as usize - 1) {
            Some('s' | 'l') => (true, true),
            Some('r') => (true, false),
            _ => (false, false),
        };
        check(&Electorate { own: 1, members: &members, connected: &connected })
    }

    #[test]
    fn a_voter_joins_only_started_and_connected_ones() {
        for (cluster, expected) in [
            ("s", Ok(())),
            ("sn", Err(Danger::NotEnoughStarted)),
            ("ss", Ok(())),
            ("sr", Err(Danger::Unhealthy)),
            ("ssd", Err(Danger::Unhealthy)),
            ("sss", Ok(())),
            ("ssssd", Ok(())),
            ("sssdd", Err(Danger::Unhealthy)),
            ("ssl", Ok(())),
        ] {
            assert_eq!(check(cluster, |electorate| electorate.may_add(false)), expected, "{cluster}");
        }
        assert_eq!(check("sn", |electorate| electorate.may_add(true)), Err(Danger::Unhealthy));
        assert_eq!(check("s", |electorate| electorate.may_add(true)), Ok(()));
    }

    #[test]
    fn a_removal_leaves_a_connected_quorum() {
        for (cluster, id, expected) in [
            ("s", 1, Err(Danger::NotEnoughStarted)),
            ("sn", 1, Err(Danger::NotEnoughStarted)),
            ("sn", 2, Ok(())),
            ("sss", 3, Ok(())),
            ("ssd", 3, Ok(())),
            ("ssd", 2, Err(Danger::Unhealthy)),
            ("ssd", 1, Err(Danger::Unhealthy)),
            ("ss", 2, Ok(())),
            ("sl", 2, Ok(())),
            ("sss", 9, Ok(())),
        ] {
            assert_eq!(check(cluster, |electorate| electorate.may_remove(id)), expected, "{cluster} without {id}");
        }
    }

    #[test]
    fn a_promotion_needs_started_voters() {
        assert_eq!(check("sl", |electorate| electorate.may_promote()), Ok(()));
        assert_eq!(check("snnl", |electorate| electorate.may_promote()), Err(Danger::NotEnoughStarted));
    }
}
