//! Renewals of leases: `POST /leases`, for one lease (etcd: `server/lease/leasehttp`); and `POST /metastore/leases`,
//! for many leases with one request:
//!
//! ```text
//!   request    id, id, ...        8 bytes each, big endian
//!   answer     time, time, ...    8 bytes each, big endian, in the same order: the time to live in seconds;
//!                                 0: there is no such lease; -1: its time is over, and it is not revoked yet
//! ```
//!
//! An etcd answers 404 to that path, and is asked for one lease after the other.

use std::rc::Rc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use metastore_store::lease::Renewal;
use tokio::task::JoinSet;

use super::{Lookup, Question, ask_leader, call, late, not_found, not_primary, protobuf, unreadable};
use crate::driver::{Answer, Event};
use crate::grpc::{Call, Status};
use crate::member::{MemberHandle, another_question};
use crate::peer::client::Reply;
use crate::peer::{HttpError, answer_with};

/// Renews a lease.
pub(super) const PATH: &str = "/leases";
/// Renews many leases.
pub(super) const BATCH_PATH: &str = "/metastore/leases";
/// At most this many renewals are in a batch: about 50 us on the engine thread.
pub(crate) const RENEWALS_AT_ONCE: usize = 1024;
/// Bytes that a renewal counts as in the engine thread's inbox. It takes about as much memory and time as a small write
/// takes there.
const RENEWAL_BYTES: usize = 64;
/// Renewals of a batch that are under way at a time to a leader that takes them only one by one: as many as the
/// connection pool keeps connections.
const SINGLY_AT_ONCE: usize = crate::peer::pool::IDLE;
/// Bytes of an id or a time in a batch.
const NUMBER_BYTES: usize = size_of::<i64>();
/// The time of an expired lease, in the answer to a batch.
const EXPIRED: i64 = -1;
/// Renews leases, here or at the leader; returns the result of each.
pub(crate) async fn renew(
    member: &Rc<MemberHandle>,
    call: &Rc<Call>,
    leases: &[i64],
) -> Result<Vec<(i64, Renewal)>, Status> {
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let renewals = match renew_together(member, call, leases).await? {
        Some(renewals) => renewals,
        None => renew_singly(member, call, leases).await?,
    };
    Ok(leases.iter().copied().zip(renewals).collect())
}

/// Renews leases in one batch; `None` if the leader takes renewals only one by one, as etcd does. This is remembered
/// for the leader's term.
async fn renew_together(member: &MemberHandle, call: &Call, leases: &[i64]) -> Result<Option<Vec<Renewal>>, Status> {
    let led = || Some((member.shared.leader(), member.shared.term()));
    if member.takes_singly.get() == led() && !member.shared.is_leader() {
        return Ok(None);
    }
    let here = async || Ok(renew_here(member, call, leases.to_vec()).await?.map(Some));
    let question = Question { method: Method::POST, path: BATCH_PATH, body: write_batch(leases) };
    let asked = led();
    let read = |reply| read_batch(leases.len(), &reply).map(Ok::<_, Status>);
    let renewals = ask_leader(member, call, question, here, read).await?;
    if renewals.is_none() {
        member.takes_singly.set(asked);
    }
    Ok(renewals)
}

/// Renews leases one by one, several at a time.
async fn renew_singly(member: &Rc<MemberHandle>, call: &Rc<Call>, leases: &[i64]) -> Result<Vec<Renewal>, Status> {
    let mut renewals = vec![Renewal::Unknown; leases.len()];
    let (mut asked, mut left) = (JoinSet::new(), leases.iter().copied().enumerate());
    loop {
        while asked.len() < SINGLY_AT_ONCE
            && let Some((at, lease)) = left.next()
        {
            let (member, call) = (member.clone(), call.clone());
            asked.spawn_local(async move { (at, renew_or_await_end(&member, &call, lease).await) });
        }
        let Some(answer) = asked.join_next().await else { return Ok(renewals) };
        let (at, ttl_s) = joined(answer)?;
        renewals[at] = ttl_s?.map_or(Renewal::Unknown, Renewal::Renewed);
    }
}

/// The result of a task that renews.
pub(crate) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Status> {
    result.map_err(|error| Status::internal(format!("a renewal failed: {error}")))
}

/// Renews one lease, here or at the leader; `None` if there is no such lease. An expired lease is not renewed: the
/// answer comes when it is revoked.
pub(crate) async fn renew_or_await_end(member: &MemberHandle, call: &Call, lease: i64) -> Result<Option<i64>, Status> {
    let here = async || Ok(renew_or_await_end_here(member, call, lease).await?.answered());
    let body = LeaseKeepAliveRequest { id: lease }.encode_to_vec().into();
    let question = Question { method: Method::POST, path: PATH, body };
    ask_leader(member, call, question, here, |reply| read_renewal(lease, &reply).map(Ok)).await
}

/// Renews one lease, if this member leads; returns its time to live in seconds.
async fn renew_or_await_end_here(member: &MemberHandle, call: &Call, lease: i64) -> Result<Lookup<i64>, Status> {
    loop {
        match renew_here(member, call, vec![lease]).await?.as_deref() {
            Some([Renewal::Renewed(ttl_s)]) => return Ok(Lookup::Found(*ttl_s)),
            Some([Renewal::Unknown]) => return Ok(Lookup::NotFound),
            Some([Renewal::Expired]) => {}
            _ => return Ok(Lookup::NotLeader),
        }
        match member.ask(call, 0, |waiter| Event::AwaitEnd { waiter, lease }).await? {
            Answer::LeaseEnded => {}
            Answer::NotLeader => return Ok(Lookup::NotLeader),
            _ => return Err(another_question()),
        }
    }
}

/// Renews leases, if this member leads and has proven that it did; returns all results. `None` if another member leads.
async fn renew_here(member: &MemberHandle, call: &Call, leases: Vec<i64>) -> Result<Option<Vec<Renewal>>, Status> {
    member.check_leader(call)?;
    let bytes = leases.len() * RENEWAL_BYTES;
    match member.ask(call, bytes, |waiter| Event::KeepAlive { waiter, leases }).await? {
        Answer::Renewed(renewals) => {
            let renewed = renewals.iter().filter(|renewal| matches!(renewal, Renewal::Renewed(_))).count();
            member.counts().lease_renewed.add(renewed as u64);
            Ok(Some(renewals))
        }
        Answer::NotLeader => Ok(None),
        _ => Err(another_question()),
    }
}

/// Answers [`PATH`].
pub(super) async fn answer(member: &MemberHandle, body: Bytes) -> Result<Response<Bytes>, HttpError> {
    let LeaseKeepAliveRequest { id } = LeaseKeepAliveRequest::decode(body).map_err(|_| unreadable())?;
    match renew_or_await_end_here(member, &call(), id).await.map_err(late)? {
        Lookup::Found(ttl) => Ok(protobuf(&LeaseKeepAliveResponse { header: None, id, ttl })),
        Lookup::NotFound => Err(not_found()),
        Lookup::NotLeader => Err(not_primary()),
    }
}

/// Answers [`BATCH_PATH`].
pub(super) async fn answer_batch(member: &MemberHandle, body: Bytes) -> Result<Response<Bytes>, HttpError> {
    let leases = numbers(&body).filter(|leases| leases.len() <= RENEWALS_AT_ONCE).ok_or_else(unreadable)?;
    let renewals = renew_here(member, &call(), leases).await.map_err(late)?.ok_or_else(not_primary)?;
    let time = |renewal: &Renewal| match renewal {
        Renewal::Renewed(ttl_s) => *ttl_s,
        Renewal::Expired => EXPIRED,
        Renewal::Unknown | Renewal::NotLeader => 0,
    };
    let times: Vec<i64> = renewals.iter().map(time).collect();
    Ok(answer_with(StatusCode::OK, "application/octet-stream", write_batch(&times)))
}

/// Encodes the ids or times of a batch.
pub(super) fn write_batch(numbers: &[i64]) -> Bytes {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn numbers(body: &[u8]) -> Option<Vec<i64>> {
    let (numbers, []) = body.as_chunks::<NUMBER_BYTES>() else { return None };
    Some(numbers.iter().map(|number| i64::from_be_bytes(*number)).collect())
}

/// Reads the answer to [`BATCH_PATH`] about `count` leases. The inner `None`: the leader does not know that path. The
/// outer `None`: no answer; asking again may help.
pub(super) fn read_batch(count: usize, reply: &Reply) -> Option<Option<Vec<Renewal>>> {
    let renewal = |time| match time {
        EXPIRED => Renewal::Expired,
        ..=0 => Renewal::Unknown,
        ttl_s => Renewal::Renewed(ttl_s),
    };
    match reply.status {
        StatusCode::NOT_FOUND => Some(None),
        StatusCode::OK => {
            let times = numbers(&reply.body).filter(|times| times.len() == count)?;
            Some(Some(times.into_iter().map(renewal).collect()))
        }
        _ => None,
    }
}

/// Reads the answer to [`PATH`]: the time to live in seconds. The inner `None`: there is no such lease. The outer
/// `None`: no answer, or one about another lease; asking again may help.
pub(super) fn read_renewal(lease: i64, reply: &Reply) -> Option<Option<i64>> {
    match reply.status {
        StatusCode::NOT_FOUND => Some(None),
        StatusCode::OK => {
            let answer = LeaseKeepAliveResponse::decode(reply.body.clone()).ok()?;
            (answer.id == lease).then_some(Some(answer.ttl))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::{Duration, Instant};

    use super::*;
    use crate::leader::tests::reply;
    use crate::member::errors;
    use crate::member::fake_engine::FakeEngine;

    fn call() -> Rc<Call> {
        Rc::new(Call::of_member(Instant::now() + Duration::from_secs(60)))
    }

    /// The paths that were requested from a peer, and the number of connections to it.
    #[derive(Default)]
    struct Asked {
        paths: RefCell<Vec<String>>,
        connections: Cell<usize>,
        lease_20: Cell<bool>,
    }

    /// A peer that leads as etcd does: leases 1 to 9 live for 10 s, and batches are not known. The answer about lease 9
    /// comes after the question about lease 20.
    async fn etcd() -> (String, Rc<Asked>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let all = Rc::<Asked>::default();
        let asked = all.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let asked = asked.clone();
                asked.connections.set(asked.connections.get() + 1);
                tokio::task::spawn_local(async move {
                    while let Some((path, body)) = read_request(&mut stream).await {
                        let id = LeaseKeepAliveRequest::decode(&body[..]).map_or(0, |request| request.id);
                        let found = path == PATH && (1..10).contains(&id);
                        let status = if found { "200 OK" } else { "404 Not Found" };
                        let answer = LeaseKeepAliveResponse { header: None, id, ttl: 10 }.encode_to_vec();
                        asked.paths.borrow_mut().push(path);
                        asked.lease_20.set(asked.lease_20.get() || id == 20);
                        while id == 9 && !asked.lease_20.get() {
                            tokio::task::yield_now().await;
                        }
                        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", answer.len());
                        stream.write_all(&[head.as_bytes(), &answer].concat()).await.unwrap();
                    }
                });
            }
        });
        (url, all)
    }

    /// Path and body of the next request of a connection.
    async fn read_request(stream: &mut tokio::net::TcpStream) -> Option<(String, Vec<u8>)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        Some((head.split(' ').nth(1)?.to_owned(), body))
    }

    #[tokio::test(flavor = "local")]
    async fn a_leader_that_takes_no_batches_is_asked_for_one_lease_after_the_other() {
        let (url, asked) = etcd().await;
        let fake = FakeEngine::new(&["http://127.0.0.1:1", &url]);
        fake.led_by(2);
        let leases = [7, 9, 20, 7];
        let renewed = Renewal::Renewed(10);
        let expected = vec![(7, renewed), (9, renewed), (20, Renewal::Unknown), (7, renewed)];
        assert_eq!(renew(&fake.member, &call(), &leases).await.unwrap(), expected);
        assert_eq!(renew(&fake.member, &call(), &leases).await.unwrap(), expected);
        let batches = asked.paths.borrow().iter().filter(|path| *path == BATCH_PATH).count();
        assert_eq!((batches, asked.paths.borrow().len()), (1, 1 + 2 * leases.len()), "it is asked once in its term");
        let many: Vec<i64> = (0..200).map(|at| 1 + at % 8).collect();
        assert!(renew(&fake.member, &call(), &many).await.unwrap().iter().all(|(_, renewal)| *renewal == renewed));
        assert_eq!(asked.connections.get(), SINGLY_AT_ONCE);
    }

    /// The leader that follows it may take batches.
    #[tokio::test(flavor = "local")]
    async fn a_leader_that_took_no_batches_is_remembered_for_its_own_term_only() {
        let (url, asked) = etcd().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let last_words = format!("http://{}", listener.local_addr().unwrap());
        let fake = Rc::new(FakeEngine::new(&["http://127.0.0.1:1", &last_words, &url]));
        fake.led_by(2);
        let replaced = fake.clone();
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await.unwrap();
            replaced.led_by(3);
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        });
        let batches = || asked.paths.borrow().iter().filter(|path| *path == BATCH_PATH).count();
        assert_eq!(renew(&fake.member, &call(), &[7]).await.unwrap(), [(7, Renewal::Renewed(10))]);
        assert_eq!(batches(), 0);
        assert_eq!(renew(&fake.member, &call(), &[7]).await.unwrap(), [(7, Renewal::Renewed(10))]);
        assert_eq!(batches(), 1);
    }

    /// A lease that is renewed on another stream in the meantime goes on, and a new leader may have renewed it, too.
    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_renewal_that_came_too_late_is_made_again_after_the_wait() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        fake.led_by(1);
        let (asked, leads) = (Cell::new(0), Cell::new(true));
        let engine = |event: &Event| match event {
            Event::KeepAlive { .. } => {
                asked.set(asked.get() + 1);
                Answer::Renewed(vec![if asked.get() % 2 == 0 { Renewal::Renewed(10) } else { Renewal::Expired }])
            }
            Event::AwaitEnd { lease: 7, .. } if leads.get() => Answer::LeaseEnded,
            _ => Answer::NotLeader,
        };
        let test = async {
            let renewed = renew_or_await_end_here(&fake.member, &call(), 7).await.unwrap();
            assert!(matches!(renewed, Lookup::Found(10)), "{renewed:?}");
            leads.set(false);
            let lost = renew_or_await_end_here(&fake.member, &call(), 7).await.unwrap();
            assert!(matches!(lost, Lookup::NotLeader), "{lost:?}");
        };
        fake.answer_during(engine, test).await;
    }

    #[tokio::test(flavor = "local")]
    async fn renewals_count_with_their_number_in_the_inbox() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        fake.led_by(1);
        let renew = async || renew_here(&fake.member, &call(), vec![7; 100]).await;
        let test = async {
            let (taken, refused) = tokio::join!(renew(), renew());
            assert_eq!(taken.unwrap(), Some(Vec::new()));
            assert_eq!(refused.unwrap_err(), errors::too_many_requests(), "the inbox has room for 10,000 bytes");
        };
        fake.answer_during(|_| Answer::Renewed(Vec::new()), test).await;
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_renewal_that_comes_too_late_is_answered_when_its_lease_is_gone() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        fake.led_by(1);
        let ended = Cell::new(false);
        let engine = |event: &Event| match event {
            Event::KeepAlive { leases, .. } => {
                let one = if ended.get() { Renewal::Unknown } else { Renewal::Expired };
                Answer::Renewed(vec![one; leases.len()])
            }
            Event::AwaitEnd { lease: 7, .. } => {
                ended.set(true);
                Answer::LeaseEnded
            }
            _ => Answer::NotLeader,
        };
        let test = async {
            assert_eq!(renew(&fake.member, &call(), &[7]).await.unwrap(), [(7, Renewal::Expired)]);
            assert!(!ended.get(), "a batch does not wait for it");
            assert_eq!(renew_or_await_end(&fake.member, &call(), 7).await.unwrap(), None);
            assert!(ended.get());
        };
        fake.answer_during(engine, test).await;
    }

    #[test]
    fn a_renewal_is_believed_only_about_the_lease_that_was_asked_for() {
        let answer = LeaseKeepAliveResponse { header: None, id: 7, ttl: 10 };
        assert_eq!(read_renewal(7, &reply(200, &answer)), Some(Some(10)));
        assert_eq!(read_renewal(8, &reply(200, &answer)), None);
        assert_eq!(read_renewal(7, &reply(404, &answer)), Some(None));
        for status in [400, 408, 412, 500] {
            assert_eq!(read_renewal(7, &reply(status, &answer)), None, "{status}");
        }
        let garbled = Reply { body: Bytes::from_static(&[0xff]), ..reply(200, &answer) };
        assert_eq!(read_renewal(7, &garbled), None);
    }

    #[test]
    fn a_batch_is_read_whole_or_not_at_all() {
        let answer = |status: u16, body: Bytes| Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: Default::default(),
            body,
        };
        let times = write_batch(&[10, 0, EXPIRED, i64::MIN]);
        let renewals = [Renewal::Renewed(10), Renewal::Unknown, Renewal::Expired, Renewal::Unknown];
        assert_eq!(read_batch(4, &answer(200, times.clone())), Some(Some(renewals.to_vec())));
        for (count, body) in [(3, times.clone()), (5, times.clone()), (4, times.slice(..31)), (4, Bytes::new())] {
            assert_eq!(read_batch(count, &answer(200, body)), None);
        }
        assert_eq!(read_batch(4, &answer(404, Bytes::new())), Some(None), "an etcd");
        assert_eq!(read_batch(4, &answer(400, times)), None);
    }
}
