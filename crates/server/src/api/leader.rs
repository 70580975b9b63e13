//! Streams of clients that want a leader or nothing: metadata `hasleader`.

use tokio::time::{Duration, Instant};

use super::{Member, errors};
use crate::grpc::{Call, Status};

/// How often a stream that wants a leader looks whether there is one.
const LEADER_TICK: Duration = Duration::from_millis(100);
/// Election timeouts without a leader after which a stream is ended, as in etcd: opening it again costs more than waiting
/// for one election.
const PATIENCE_ELECTIONS: u32 = 3;

/// Ends a stream that wants a leader once there was none for three election timeouts, as etcd does.
pub struct LeaderWatch<'a> {
    member: &'a Member,
    wanted: bool,
    since: Option<Instant>,
    ticks: tokio::time::Interval,
}

impl<'a> LeaderWatch<'a> {
    pub fn new(member: &'a Member, call: &Call) -> Self {
        let ticks = tokio::time::interval(LEADER_TICK);
        Self { member, wanted: call.requires_leader(), since: None, ticks }
    }

    /// Ready only when the leader was lost for too long. Safe to drop and call again.
    pub async fn lost(&mut self) -> Status {
        if !self.wanted {
            return std::future::pending().await;
        }
        loop {
            let now = self.ticks.tick().await;
            match (self.member.shared.leader(), self.since) {
                (0, Some(since)) if now - since >= self.member.limits.election_timeout * PATIENCE_ELECTIONS => {
                    return errors::no_leader();
                }
                (0, Some(_)) => {}
                (0, None) => self.since = Some(now),
                _ => self.since = None,
            }
        }
    }
}
