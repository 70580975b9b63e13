//! Automatic compaction: the leader drops old revisions by itself, those older than a time or beyond a number (etcd:
//! `server/etcdserver/api/v3compactor`).

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use metastore_proto::etcdserverpb::CompactionRequest;
use metastore_store::Refusal;
use metastore_store::command::Kind;
use tokio::time::Instant;

use crate::config::AutoCompaction;
use crate::grpc::Status;
use crate::member::{MemberHandle, errors};

/// The longest pause between two compactions by time, as in etcd.
const LONGEST_PERIOD: Duration = Duration::from_secs(60 * 60);
/// The revision is sampled this often in a period.
const SAMPLES: u32 = 10;
/// The pause between two compactions by number.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Compacts whenever that is due and this member leads. Runs for ever, in a local runtime, once in a process.
pub async fn run(member: Rc<MemberHandle>, settings: AutoCompaction) {
    match settings {
        AutoCompaction::Periodic(period) => by_time(&member, period).await,
        AutoCompaction::Revision(kept) => by_number(&member, kept).await,
    }
}

/// Keeps the revisions of the last `period`. The first compaction comes after a period, further ones follow at least
/// each hour. Members that do not lead sample their revisions, too, for the case that they are elected.
async fn by_time(member: &MemberHandle, period: Duration) {
    let between = period.min(LONGEST_PERIOD);
    let pause = between / SAMPLES;
    let samples = (period.as_nanos() / pause.as_nanos().max(1)) as usize;
    let mut revisions = VecDeque::new();
    let (mut compacted, mut last, mut wait) = (0, Instant::now(), period);
    loop {
        revisions.push_back(member.view().revision());
        if revisions.len() > samples {
            revisions.pop_front();
        }
        tokio::time::sleep(pause).await;
        let revision = revisions[0];
        if !member.shared.is_leader() || last.elapsed() < wait || revision == compacted {
            continue;
        }
        wait = between;
        seldom!(
            CHANGES: info, (), revision, "compact-period" = ?period, "starting auto periodic compaction"
        );
        let began = Instant::now();
        match compact(member, revision).await {
            Ok(()) => {
                let took = began.elapsed();
                seldom!(
                    CHANGES: info, (), revision, "compact-period" = ?period, took = ?took,
                    "completed auto periodic compaction"
                );
                (compacted, last) = (revision, Instant::now());
            }
            Err(error) => seldom!(
                warn, (), revision, "compact-period" = ?period, "retry-interval" = ?pause, error = %error.message,
                "failed auto periodic compaction"
            ),
        }
    }
}

/// Keeps this number of revisions.
async fn by_number(member: &MemberHandle, kept: i64) {
    let mut compacted = 0;
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        let revision = member.view().revision().saturating_sub(kept);
        if !member.shared.is_leader() || revision <= 0 || revision == compacted {
            continue;
        }
        seldom!(
            CHANGES: info, (), revision, "revision-compaction-retention" = kept, "starting auto revision compaction"
        );
        let began = Instant::now();
        match compact(member, revision).await {
            Ok(()) => {
                let took = began.elapsed();
                seldom!(
                    CHANGES: info, (), revision, "revision-compaction-retention" = kept, took = ?took,
                    "completed auto revision compaction"
                );
                compacted = revision;
            }
            Err(error) => seldom!(
                warn, (), revision, "revision-compaction-retention" = kept, "retry-interval" = ?REVISION_INTERVAL,
                error = %error.message, "failed auto revision compaction"
            ),
        }
    }
}

/// A revision that somebody else has compacted already is as good.
async fn compact(member: &MemberHandle, revision: i64) -> Result<(), Status> {
    let request = CompactionRequest { revision, physical: false };
    match member.propose(&member.own_call(), Kind::Compaction, &request).await {
        Err(error) if error == errors::refused(Refusal::Compacted) => Ok(()),
        result => result.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use metastore_proto::Message;
    use metastore_store::command::Command;
    use metastore_store::{Outcome, Reply};

    use super::*;
    use crate::driver::{Answer, Event};
    use crate::member::fake_engine::FakeEngine;

    const SECOND: Duration = Duration::from_secs(1);

    const STEP: Duration = Duration::from_millis(100);

    /// Runs for a time, in which one revision is made each second, and answers each compaction. Returns the seconds at
    /// which they came, and their revisions.
    async fn compactions(
        settings: AutoCompaction,
        seconds: u64,
        leads: impl Fn(u64) -> bool,
        answer: impl Fn(u64) -> Result<(), Refusal>,
    ) -> Vec<(u64, i64)> {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        let task = tokio::task::spawn_local(run(fake.member.clone(), settings));
        let (began, mut found) = (Instant::now(), Vec::new());
        for second in 0..seconds {
            fake.led_by(if leads(second) { 1 } else { 2 });
            while began.elapsed() < SECOND * (second as u32 + 1) {
                tokio::time::sleep(STEP).await;
                for event in fake.events() {
                    let Event::Propose { waiter, id, data } = event else { continue };
                    let revision = CompactionRequest::decode(Command::decode(data).unwrap().body).unwrap().revision;
                    found.push((second, revision));
                    let reply = answer(second).map(|()| Reply::Compact { revision, physical: false });
                    fake.reply(waiter, Answer::Outcome(Outcome { id, revision: 1, reply }));
                }
            }
            fake.put("k");
        }
        task.abort();
        found
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn the_revisions_of_the_last_period_stay() {
        let period = AutoCompaction::Periodic(30 * SECOND);
        let found = compactions(period, 100, |_| true, |_| Ok(())).await;
        assert_eq!(found, [(30, 1), (60, 31), (90, 61)]);
        // Hours are compacted each hour.
        let period = AutoCompaction::Periodic(2 * LONGEST_PERIOD);
        let found = compactions(period, 4 * 60 * 60 + 60, |_| true, |_| Ok(())).await;
        assert_eq!(found, [(7200, 1), (10800, 3601), (14400, 7201)]);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_number_of_revisions_stays() {
        let found = compactions(AutoCompaction::Revision(100), 1000, |_| true, |_| Ok(())).await;
        assert_eq!(found, [(300, 201), (600, 501), (900, 801)]);
        let found = compactions(AutoCompaction::Revision(400), 1000, |_| true, |_| Ok(())).await;
        assert_eq!(found, [(600, 201), (900, 501)]);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn only_the_leader_compacts() {
        let period = AutoCompaction::Periodic(30 * SECOND);
        let found = compactions(period, 60, |second| second >= 40, |_| Ok(())).await;
        assert_eq!(found, [(42, 13)], "an elected one has sampled revisions before");
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_compaction_that_fails_is_tried_again_and_one_of_somebody_else_is_none() {
        let period = AutoCompaction::Periodic(30 * SECOND);
        let refused = |second| if second < 34 { Err(Refusal::Corrupt) } else { Err(Refusal::Compacted) };
        let found = compactions(period, 65, |_| true, refused).await;
        assert_eq!(found, [(30, 1), (33, 4), (36, 7)]);
    }
}
