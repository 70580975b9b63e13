//! Streams that require a leader: metadata `hasleader`.

use tokio::time::{Duration, Instant};

use super::{MemberHandle, errors};
use crate::grpc::{Call, Status};

/// How often a stream that requires a leader checks that there is one.
const LEADER_TICK: Duration = Duration::from_millis(100);
/// Election timeouts without a leader after which a stream is ended, as in etcd: opening it again costs more than
/// waiting for one election.
const PATIENCE_ELECTIONS: u32 = 3;

/// Ends a stream that requires a leader once there was none for three election timeouts, as etcd does.
pub struct LeaderWatch<'a> {
    member: &'a MemberHandle,
    wanted: bool,
    since: Option<Instant>,
    ticks: tokio::time::Interval,
}

impl<'a> LeaderWatch<'a> {
    pub fn new(member: &'a MemberHandle, call: &Call) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::methods::Need;
    use crate::member::fake_engine::FakeEngine;

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_stream_ends_after_three_elections_without_a_leader() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        let mut call = Call::with_metadata("hasleader", "true");
        assert_eq!(
            fake.member.admit(&mut call, Need::Keys).await,
            Err(errors::no_leader()),
            "and is not opened without one"
        );
        fake.led_by(2);
        fake.member.admit(&mut call, Need::Keys).await.unwrap();
        let mut watch = LeaderWatch::new(&fake.member, &call);
        let mut ended = async |within| tokio::time::timeout(Duration::from_secs(within), watch.lost()).await.ok();
        assert_eq!(ended(100).await, None);
        fake.led_by(0);
        assert_eq!(ended(2).await, None, "an election");
        fake.led_by(3);
        assert_eq!(ended(2).await, None, "has been won");
        fake.led_by(0);
        let began = Instant::now();
        assert_eq!(ended(100).await, Some(errors::no_leader()));
        assert!(began.elapsed() >= Duration::from_secs(3) && began.elapsed() < Duration::from_millis(3300));
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn who_does_not_ask_for_a_leader_stays() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        let mut call = Call::with_metadata("hasleader", "no");
        fake.member.admit(&mut call, Need::Keys).await.unwrap();
        let mut watch = LeaderWatch::new(&fake.member, &call);
        assert!(tokio::time::timeout(Duration::from_secs(100), watch.lost()).await.is_err());
    }

    #[tokio::test(flavor = "local")]
    async fn a_learner_serves_next_to_nothing() {
        let fake = FakeEngine::learner();
        fake.led_by(2);
        let mut call = Call::with_metadata("hasleader", "true");
        assert_eq!(fake.member.admit(&mut call, Need::Keys).await, Err(errors::learner_unsupported()));
    }
}
