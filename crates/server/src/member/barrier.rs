//! The read barrier. A linearizable read waits until the leader has proven that it still leads, and has said how far
//! the log is committed.
//!
//! Reads of one worker share a read-index round. One round is under way at a time, and it answers all reads that waited
//! when it began. Later reads wait for the next round. So the engine thread is asked once per round and worker, however
//! many reads there are.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{another_question, errors};
use crate::driver::{Answer, EngineHandle, Event, NoAnswer};
use crate::grpc::Status;
use crate::shared::WorkerFlags;

/// The reads of one worker that wait for a round. Clones share the same state.
#[derive(Clone)]
pub struct Barrier(Rc<Inner>);

struct Inner {
    engine: EngineHandle,
    /// The counters of this worker.
    flags: Arc<WorkerFlags>,
    patience: Duration,
    /// The number of the last round that was started, and of the last round that a read waits for.
    asked: Cell<u64>,
    wanted: Cell<u64>,
    asking: Cell<bool>,
    answered: watch::Sender<Round>,
}

/// A round that has ended, with or without success.
#[derive(Clone, Debug)]
struct Round {
    number: u64,
    outcome: Result<(), Status>,
}

impl Barrier {
    /// Asks the engine thread, and gives up each question after `patience`.
    pub fn new(engine: EngineHandle, flags: Arc<WorkerFlags>, patience: Duration) -> Self {
        let answered = watch::Sender::new(Round { number: 0, outcome: Ok(()) });
        let (asked, wanted, asking) = Default::default();
        Self(Rc::new(Inner { engine, flags, patience, asked, wanted, asking, answered }))
    }

    /// Returns once everything that was acknowledged before this call can be read here.
    ///
    /// # Errors
    /// No answer in time: within the client's `deadline` or within `patience`, whichever is shorter. The errors of a
    /// failed round.
    pub async fn pass(&self, deadline: Option<Instant>) -> Result<(), Status> {
        let number = self.0.asked.get() + 1;
        self.0.wanted.set(number);
        let mut answered = self.0.answered.subscribe();
        if !self.0.asking.replace(true) {
            tokio::task::spawn_local(self.clone().ask());
        }
        let answer = async {
            match answered.wait_for(|round| round.number >= number).await {
                Ok(round) => round.outcome.clone(),
                Err(_) => Err(errors::stopped()),
            }
        };
        match deadline {
            Some(deadline) => timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(Status::deadline_exceeded())),
            None => answer.await,
        }
    }

    /// Starts rounds as long as a read waits.
    async fn ask(self) {
        while self.0.asked.get() < self.0.wanted.get() {
            let number = self.0.asked.get() + 1;
            self.0.asked.set(number);
            let outcome = self.ask_once().await;
            self.0.answered.send_replace(Round { number, outcome });
        }
        self.0.asking.set(false);
    }

    async fn ask_once(&self) -> Result<(), Status> {
        let Inner { engine, flags, patience, .. } = &*self.0;
        let counts = &flags.counts;
        match engine.ask(Some(Instant::now() + *patience), 0, |waiter| Event::Read { waiter }).await {
            Ok(Answer::Readable) => Ok(()),
            Ok(Answer::LeaderChanged) => {
                counts.read_indexes_failed.add(1);
                Err(errors::leader_changed())
            }
            Ok(_) => Err(another_question()),
            Err(why) => {
                let count = if why == NoAnswer::Late { &counts.slow_read_indexes } else { &counts.read_indexes_failed };
                count.add(1);
                Err(errors::no_answer(why, errors::timeout))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Waiter;
    use crate::member::fake_engine::FakeEngine;

    fn barrier() -> (Barrier, FakeEngine) {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        (fake.member.barrier.clone(), fake)
    }

    /// The questions that have arrived at the engine thread.
    fn asked(fake: &FakeEngine) -> Vec<Waiter> {
        fake.asked().into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// Lets all tasks run that can.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn who_comes_after_a_question_was_put_waits_for_the_next() {
        let (barrier, fake) = barrier();
        let read = || {
            let barrier = barrier.clone();
            tokio::task::spawn_local(async move { barrier.pass(None).await })
        };
        let early = [read(), read()];
        settle().await;
        let [question] = asked(&fake)[..] else { panic!("not one question") };
        let late = read();
        settle().await;
        assert!(asked(&fake).is_empty(), "one at a time");
        fake.reply(question, Answer::Readable);
        for read in early {
            read.await.unwrap().unwrap();
        }
        settle().await;
        assert!(!late.is_finished());
        let [question] = asked(&fake)[..] else { panic!("not one question") };
        fake.reply(question, Answer::Readable);
        late.await.unwrap().unwrap();
        settle().await;
        assert!(asked(&fake).is_empty(), "nobody waits");
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_read_that_is_under_way_when_the_leader_changes_is_told_so() {
        let (barrier, fake) = barrier();
        let read = tokio::task::spawn_local(async move { barrier.pass(None).await });
        settle().await;
        fake.reply(asked(&fake)[0], Answer::LeaderChanged);
        assert_eq!(read.await.unwrap(), Err(Status::unavailable("etcdserver: leader changed")));
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn no_answer_in_time() {
        let (barrier, _fake) = barrier();
        let theirs = barrier.pass(Some(Instant::now() + Duration::from_secs(1))).await.unwrap_err();
        assert_eq!(theirs.message, "context deadline exceeded");
        let ours = barrier.pass(None).await.unwrap_err();
        assert_eq!(ours.message, "etcdserver: request timed out");
    }
}
