//! The timeout cause of a proposal, as far as this member can guess (etcd: `parseProposeCtxErr`). The proposal may have
//! been committed or not.

use std::time::{Duration, Instant};

use metastore_store::Member as ClusterMember;

use super::reconfiguration::quorum;
use super::{MemberHandle, errors};
use crate::grpc::Status;

impl MemberHandle {
    /// The error of a proposal that was made at `began` and has no answer.
    pub(super) fn why_late(&self, began: tokio::time::Instant) -> Status {
        let began = began.into_std();
        if during_election(began, self.shared.led_since(), self.limits.election_timeout) {
            return errors::timeout_due_to_leader_failure();
        }
        let members = self.shared.members();
        let connected = |id| self.transport.connected_since(id).is_some_and(|since| since < began);
        match reached(self.shared.leader(), self.shared.member_id, &members, connected) {
            true => errors::timeout(),
            false => errors::timeout_due_to_connection_lost(),
        }
    }
}

/// Whether the proposal was made so shortly before the election at `led_since` that the leader before may already have
/// been lost.
fn during_election(began: Instant, led_since: Option<Instant>, election_timeout: Duration) -> bool {
    led_since.is_some_and(|elected| began < elected && began + 2 * election_timeout > elected)
}

/// Whether the proposal could reach its next stop: from the leader to a quorum, from any other member to the leader.
/// Without a leader nothing is known about connections, and the result is true.
fn reached(leader: u64, own: u64, members: &[ClusterMember], connected: impl Fn(u64) -> bool) -> bool {
    if leader == own {
        let count = members.iter().filter(|member| member.id == own || connected(member.id)).count();
        return count >= quorum(members.len());
    }
    leader == 0 || connected(leader)
}

#[cfg(test)]
mod tests {
    use metastore_proto::etcdserverpb::PutRequest;
    use metastore_store::command::Kind;
    use tokio::time::timeout;

    use super::*;
    use crate::driver::{Answer, Event};
    use crate::grpc::Call;
    use crate::member::fake_engine::FakeEngine;

    /// The error of a put that runs out of time. After that, the engine thread answers `held`: whether the put was
    /// withdrawn before it was proposed.
    async fn ends(call: Call, held: bool) -> Status {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        let request = PutRequest::default();
        let put = fake.member.propose(&call, Kind::Put, &request);
        let mut put = std::pin::pin!(put);
        let mut proposed = 0;
        loop {
            let ended = timeout(Duration::from_millis(10), &mut put).await;
            if let Ok(ended) = ended {
                return ended.unwrap_err();
            }
            for (event, waiter) in fake.asked() {
                match event {
                    Event::Propose { id, .. } => proposed = id,
                    Event::Withdraw { id, .. } => {
                        assert_eq!(id, proposed);
                        fake.reply(waiter, Answer::Withdrawn(held));
                    }
                    _ => panic!("another question"),
                }
            }
        }
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_write_that_was_not_proposed_in_time_has_passed_its_deadline() {
        let call = || Call::of_member(tokio::time::Instant::now() + Duration::from_secs(100));
        assert_eq!(ends(call(), true).await, Status::deadline_exceeded());
        assert_eq!(ends(call(), false).await, errors::timeout(), "it may still be committed");
        let hasty = Call::of_member(tokio::time::Instant::now() + Duration::from_secs(1));
        assert_eq!(ends(hasty, false).await, Status::deadline_exceeded(), "the client's own deadline");
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_write_whose_client_has_gone_is_withdrawn() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        let call = Call::of_member(tokio::time::Instant::now() + Duration::from_secs(100));
        let request = PutRequest::default();
        let put = fake.member.propose(&call, Kind::Put, &request);
        assert!(timeout(Duration::from_millis(10), put).await.is_err());
        let events = fake.events();
        let [Event::Propose { id: proposed, .. }, Event::Withdraw { waiter: None, id }] = &events[..] else {
            panic!("not a proposal and its end")
        };
        assert_eq!(id, proposed);
    }

    /// Waits for the end of a compaction that is applied. Returns the result, and how long it took, in seconds; the
    /// compaction takes 1,000.
    async fn compacted(call: Call) -> (Result<(), Status>, u64) {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        let began = tokio::time::Instant::now();
        let engine = async {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            fake.answer(|_| Answer::Compacted).await
        };
        let result = tokio::select! {
            result = fake.member.compacted(&call) => result,
            _ = engine => unreachable!(),
        };
        (result, began.elapsed().as_secs())
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn the_end_of_a_compaction_is_awaited_as_long_as_the_client_waits() {
        let call = |secs| Call::of_member(tokio::time::Instant::now() + Duration::from_secs(secs));
        let mut patient = call(0);
        patient.deadline = None;
        for call in [patient, call(3000)] {
            assert_eq!(compacted(call).await, (Ok(()), 1000));
        }
        assert_eq!(compacted(call(100)).await, (Err(Status::deadline_exceeded()), 100));
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_client_that_no_longer_waits_for_the_end_of_a_compaction_is_forgotten() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        let call = Call::of_member(tokio::time::Instant::now() + Duration::from_secs(100));
        assert!(timeout(Duration::from_millis(10), fake.member.compacted(&call)).await.is_err());
        let events = fake.events();
        let [Event::AwaitCompaction { id: asked, .. }, Event::Withdraw { waiter: None, id }] = &events[..] else {
            panic!("not a question and its end")
        };
        assert_eq!(id, asked);
    }

    #[test]
    fn a_new_leader_excuses_what_was_proposed_shortly_before() {
        let timeout = Duration::from_secs(1);
        let began = Instant::now();
        let after = |ms| Some(began + Duration::from_millis(ms));
        assert!(during_election(began, after(1999), timeout));
        assert!(!during_election(began, after(2000), timeout), "long after");
        assert!(!during_election(began + timeout, after(1000), timeout), "the leader was there already");
        assert!(!during_election(began, None, timeout));
    }

    #[test]
    fn a_lost_connection_is_one_that_the_proposal_needed() {
        let members: Vec<_> = (1..=3).map(|id| ClusterMember { id, ..ClusterMember::default() }).collect();
        assert!(reached(1, 1, &members, |id| id == 2), "two of three");
        assert!(!reached(1, 1, &members, |_| false));
        assert!(reached(2, 1, &members, |id| id == 2));
        assert!(!reached(2, 1, &members, |id| id == 3), "to the leader");
        assert!(reached(0, 1, &members, |_| false), "nobody to be connected to");
    }
}
