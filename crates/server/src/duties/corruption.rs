//! Corruption: a member whose state differs from that of the others, because of a disk, a memory or a bug. Members
//! compare the hashes of their keys, and the alarm CORRUPT names the member that differs (etcd:
//! `server/etcdserver/corrupt.go`).
//!
//! ```text
//!   initial      at the start, before the first message   own hash ── hashes of the others at that revision
//!                                                         differs: the member ends
//!   periodic     the leader, each --corrupt-check-time    own hash ── hashes of the others at that revision
//!                                                         ── read barrier ── own hash again
//!   compactions  the leader, each                         own hashes of compactions, the newest first
//!                --compact-hash-check-time                ── hashes of the others at these revisions
//!                                                         differs: the alarm goes through the log
//! ```
//!
//! Rules:
//! - Only hashes of one revision, and after one compaction, are compared: others differ on sound members, too.
//! - A member that does not answer, or that lacks the revision, is passed over: nothing is known about it.
//! - Hashes are computed on the pool, or by the other members; nothing here holds up the engine thread once it works.
//!   The initial check comes before that.
//! - The answer of another member is bounded, in size and time. It is believed: members trust each other.
//!
//! Deliberately absent: repair. An operator replaces the member.

mod compactions;
pub mod initial;
mod periodic;
pub mod question;

use std::rc::Rc;
use std::time::Duration;

use metastore_proto::etcdserverpb::AlarmType;
use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_store::mvcc::HashKv;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::grpc::Status;
use crate::member::{MemberHandle, errors, on_pool};
use question::{Peer, ask_all};

/// Compares the states of all members as long as this member leads. Runs for ever, in a local runtime, once in a
/// process.
pub async fn compare_states(member: Rc<MemberHandle>, every: Duration) {
    seldom!(
        info, (),
        "local-member-id" = %format_args!("{:x}", member.shared.member_id), interval = ?every,
        "enabled corruption checking"
    );
    let mut ticks = ticks(every);
    loop {
        ticks.tick().await;
        if !member.shared.is_leader() {
            continue;
        }
        if let Err(error) = periodic::check(&member).await {
            seldom!(warn, (), error = %error.message, "failed to check hash KV");
        }
    }
}

/// Compares the hashes of compactions of all members as long as this member leads. Runs for ever, in a local runtime,
/// once in a process.
pub async fn compare_compactions(member: Rc<MemberHandle>, every: Duration) {
    let (mut ticks, mut checked) = (ticks(every), 0);
    loop {
        ticks.tick().await;
        if member.shared.is_leader() {
            compactions::check(&member, &mut checked).await;
        }
    }
}

/// The first tick comes after the interval, and no tick follows at once after a check that took longer.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The hash of this member's current state.
async fn own_hash(member: &MemberHandle) -> Result<HashKv, Status> {
    let view = member.view();
    on_pool(move || view.hash_kv(0).map_err(errors::unreadable)).await
}

/// The hashes of all other members at this revision.
async fn hashes_of_others(member: &MemberHandle, revision: i64) -> Vec<Peer> {
    ask_all(&member.shared, &member.transport, revision, member.limits.request_timeout).await
}

/// Raises the alarm CORRUPT in the name of a member (0: of the whole cluster), unless it stands already.
async fn raise(member: &MemberHandle, member_id: u64) {
    if member.has_alarm(AlarmType::Corrupt, member_id) {
        return;
    }
    let id = format!("{member_id:x}");
    match member.set_alarm(AlarmAction::Activate, AlarmType::Corrupt, member_id).await {
        Ok(()) => seldom!(warn, member_id, alarm = "CORRUPT", from = %id, "alarm raised"),
        Err(error) => {
            seldom!(warn, member_id, from = %id, error = %error.message, "cannot raise the alarm CORRUPT");
        }
    }
}

#[cfg(test)]
mod tests {
    use metastore_proto::Message;
    use metastore_proto::etcdserverpb::AlarmRequest;
    use metastore_store::command::Command;
    use metastore_store::{Outcome, Reply};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::driver::{Answer, Event};
    use crate::member::fake_engine::FakeEngine;

    const NOW_AND_THEN: Duration = Duration::from_millis(1);
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A member that gives this answer again and again.
    async fn peer(body: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut seen = Vec::new();
                while !seen.ends_with(br#"{"revision":1}"#) {
                    seen.push(stream.read_u8().await.unwrap());
                }
                let text = String::from_utf8(seen).unwrap();
                assert!(
                    text.starts_with("GET /members/hashkv ") && text.contains("x-etcd-cluster-id: 9\r\n"),
                    "{text}"
                );
                let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        url
    }

    #[tokio::test(flavor = "local")]
    async fn a_leader_proposes_an_alarm_for_the_member_that_differs_after_a_read_barrier() {
        // A member that holds nothing, as this one, hashes to 1084519789.
        let sound =
            peer(r#"{"header":{"revision":1},"hash":1084519789,"compact_revision":-1,"hash_revision":1}"#).await;
        let corrupt =
            peer(r#"{"header":{"revision":1},"hash":1084519788,"compact_revision":-1,"hash_revision":1}"#).await;
        let fake = FakeEngine::new(&["http://127.0.0.1:1", &sound, &corrupt]);
        fake.led_by(1);
        tokio::task::spawn_local(compare_states(fake.member.clone(), NOW_AND_THEN));
        let proposed = async {
            let mut barriers = 0;
            loop {
                for event in fake.events() {
                    if let Event::Propose { waiter, id, data } = event {
                        let outcome = Outcome { id, revision: 1, reply: Ok(Reply::Alarms(Vec::new())) };
                        fake.reply(waiter, Answer::Outcome(outcome));
                        return (AlarmRequest::decode(Command::decode(data).unwrap().body).unwrap(), barriers);
                    } else if let Some(waiter) = event.waiter() {
                        fake.reply(waiter, Answer::Readable);
                        barriers += 1;
                    }
                }
                tokio::time::sleep(NOW_AND_THEN).await;
            }
        };
        let (request, barriers) = tokio::time::timeout(PATIENCE, proposed).await.expect("no alarm");
        let expected = (AlarmAction::Activate, 3, AlarmType::Corrupt);
        assert_eq!((request.action(), request.member_id, request.alarm()), expected);
        assert_eq!(barriers, 1);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_follower_compares_nothing() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        fake.led_by(2);
        tokio::task::spawn_local(compare_states(fake.member.clone(), NOW_AND_THEN));
        tokio::task::spawn_local(compare_compactions(fake.member.clone(), NOW_AND_THEN));
        tokio::time::sleep(PATIENCE).await;
        assert!(fake.events().is_empty());
    }
}
