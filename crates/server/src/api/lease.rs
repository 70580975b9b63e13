//! The Lease service (etcd: `server/lease`, `v3_server.go`).
//!
//! Leases are granted and revoked through the log. Only the leader knows how long they have to live, so the other
//! members ask it for their clients ([`super::forward`], [`crate::peer::leases`]).
//!
//! Renewals go in batches. A batch is all that a client has sent when its stream is read: the first message never waits
//! for a second. One event takes a batch to the engine thread. One proof of leadership serves all batches that came
//! before it. One request takes a batch from a follower to the leader. Renewals that arrive while a batch is under way
//! form the next batch.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use http::Method;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    ResponseHeader,
};
use metastore_proto::leasepb::LeaseInternalRequest;
use metastore_store::command::Kind;
use metastore_store::lease::{MAX_TTL_S, Renewal, keys_of};
use metastore_store::{Refusal, Reply};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::encode::{self, Header};
use super::forward::{Question, ask_leader};
use super::leader::LeaderWatch;
use super::{MemberHandle, another_question, errors, kv, unary};
use crate::driver::{Answer, Event, LEASES_AT_ONCE, TimeToLive};
use crate::grpc::{Call, Frame, Inbound, Outbound, Router, Status};
use crate::peer::leases as peer;

const SERVICE: &str = "etcdserverpb.Lease";
/// At most this many renewals are in a batch: about 50 us on the engine thread.
pub(crate) const RENEWALS_AT_ONCE: usize = 1024;
/// Bytes that a renewal counts as in the engine thread's inbox. It takes about as much memory and time as a small write
/// takes there.
const RENEWAL_BYTES: usize = 64;
/// At most this many renewals of one stream wait for the end of an expired lease. At this number, no more are read.
const LATE_AT_ONCE: usize = 1024;
/// Renewals of a batch that are under way at a time to a leader that takes them only one by one: as many as the
/// connection pool keeps connections.
const SINGLY_AT_ONCE: usize = crate::peer::pool::IDLE;

pub fn register(router: &mut Router, member: &Rc<MemberHandle>) {
    unary!(router, member, SERVICE, "LeaseGrant", grant);
    unary!(router, member, SERVICE, "LeaseRevoke", revoke);
    unary!(router, member, SERVICE, "LeaseTimeToLive", time_to_live);
    unary!(router, member, SERVICE, "LeaseLeases", leases);
    let member = member.clone();
    router.bidi(SERVICE, "LeaseKeepAlive", move |call, inbound, outbound| {
        keep_alive(member.clone(), call, inbound, outbound)
    });
}

/// The id is chosen here, so that every member applies the same id. The time to live is raised to the minimum when it
/// is applied.
async fn grant(member: &MemberHandle, call: Call, request: LeaseGrantRequest) -> Result<Frame, Status> {
    if request.ttl > MAX_TTL_S {
        return Err(errors::refused(Refusal::LeaseTtlTooLarge));
    }
    let ttl = request.ttl;
    let id = if request.id == 0 { (member.shared.next_id() & i64::MAX as u64) as i64 } else { request.id };
    match member.propose(&call, Kind::LeaseGrant, &LeaseGrantRequest { id, ttl }).await? {
        (revision, Reply::LeaseGrant { id, ttl_s }) => {
            let header = Some(member.header(revision));
            Frame::of(&LeaseGrantResponse { header, id, ttl: ttl_s, error: String::new() })
        }
        (_, other) => Err(kv::mismatch(&other)),
    }
}

async fn revoke(member: &MemberHandle, call: Call, request: LeaseRevokeRequest) -> Result<Frame, Status> {
    match member.propose(&call, Kind::LeaseRevoke, &request).await? {
        (revision, Reply::LeaseRevoke { .. }) => encode::header_only(Header::new(&member.shared, revision)),
        (_, other) => Err(kv::mismatch(&other)),
    }
}

async fn time_to_live(member: &MemberHandle, call: Call, request: LeaseTimeToLiveRequest) -> Result<Frame, Status> {
    let LeaseTimeToLiveRequest { id: lease, keys } = request;
    let found = time_left(member, &call, lease, keys).await?;
    let header = Some(member.header(member.view().revision()));
    let mut reply = LeaseTimeToLiveResponse { header, id: lease, ttl: -1, ..Default::default() };
    if let Some(TimeLeft { time, keys }) = found {
        (reply.ttl, reply.granted_ttl, reply.keys) = (time.remaining_s, time.granted_s, keys);
    }
    Frame::of(&reply)
}

/// How long a lease has to live, as the leader knows it; `None` if there is no such lease.
async fn time_left(member: &MemberHandle, call: &Call, lease: i64, keys: bool) -> Result<Option<TimeLeft>, Status> {
    let here = async || Ok(time_left_here(member, call, lease, keys).await?.found());
    let request = LeaseTimeToLiveRequest { id: lease, keys };
    let body = LeaseInternalRequest { lease_time_to_live_request: Some(request) }.encode_to_vec().into();
    let question = Question { method: Method::POST, path: peer::INTERNAL_PATH, body };
    ask_leader(member, call, question, here, |reply| peer::read_time_left(lease, &reply).map(Ok)).await
}

/// The state of one lease.
#[derive(Debug)]
pub(crate) struct TimeLeft {
    pub time: TimeToLive,
    /// Empty unless the keys were asked for.
    pub keys: Vec<bytes::Bytes>,
}

/// The answer of this member about a lease.
#[derive(Debug)]
pub(crate) enum Told<T> {
    Known(T),
    Unknown,
    NotLeader,
}

impl<T> Told<T> {
    /// `None` if this member cannot say; inside, `None` if there is no such lease.
    fn found(self) -> Option<Option<T>> {
        match self {
            Self::Known(known) => Some(Some(known)),
            Self::Unknown => Some(None),
            Self::NotLeader => None,
        }
    }
}

/// The time left of a lease, if this member leads. Everything that was acknowledged before is taken into account.
pub(crate) async fn time_left_here(
    member: &MemberHandle,
    call: &Call,
    lease: i64,
    keys: bool,
) -> Result<Told<TimeLeft>, Status> {
    // The keys may have been attached under another leader, too.
    match member.read_barrier(call).await {
        Err(status) if status == errors::leader_changed() => return Ok(Told::NotLeader),
        passed => passed?,
    }
    let time = match member.ask(call, 0, |waiter| Event::TimeToLive { waiter, lease }).await? {
        Answer::TimeToLive(Some(time)) => time,
        Answer::TimeToLive(None) => return Ok(Told::Unknown),
        Answer::NotLeader => return Ok(Told::NotLeader),
        _ => return Err(another_question()),
    };
    let keys = if keys { keys_here(member, lease).await? } else { Vec::new() };
    Ok(Told::Known(TimeLeft { time, keys }))
}

/// The keys of a lease. There may be any number of them, so they are read in steps and on the pool.
async fn keys_here(member: &MemberHandle, lease: i64) -> Result<Vec<bytes::Bytes>, Status> {
    let view = member.view();
    kv::on_pool(move || {
        let keys = keys_of(view.engine(), lease).map_err(|error| Status::unknown(error.to_string()))?;
        Ok(keys.into_iter().map(bytes::Bytes::from).collect())
    })
    .await
}

/// All leases, ordered by when they end. They come from the engine thread in pieces, and each I/O thread makes one list
/// at a time, so that a list of any length holds up nothing. A lease that is granted or revoked while the list is made
/// may be in it or not.
async fn leases(member: &MemberHandle, call: Call, _request: LeaseLeasesRequest) -> Result<Frame, Status> {
    let limit = member.time_limit(&call);
    let _turn = timeout_at(limit.at, member.listing.lock()).await.map_err(|_| limit.passed())?;
    let (mut leases, mut after) = (Vec::new(), None);
    loop {
        let answer = member.ask(&call, 0, |waiter| Event::Leases { waiter, after }).await?;
        let Answer::Leases(piece) = answer else { return Err(another_question()) };
        let is_last = piece.len() < LEASES_AT_ONCE;
        after = piece.last().map(|lease| lease.id);
        leases.extend(piece);
        if is_last {
            break;
        }
    }
    let header = Some(member.header(member.view().revision()));
    let encode = move || {
        leases.sort_unstable();
        let leases = leases.into_iter().map(|lease| LeaseStatus { id: lease.id }).collect();
        Frame::of(&LeaseLeasesResponse { header, leases })
    };
    kv::on_pool(encode).await
}

async fn keep_alive(
    member: Rc<MemberHandle>,
    call: Call,
    inbound: Inbound<LeaseKeepAliveRequest>,
    outbound: Outbound,
) -> Result<(), Status> {
    member.admit(&call)?;
    let mut leader = LeaderWatch::new(&member, &call);
    let call = Rc::new(call);
    tokio::select! {
        ended = renew_all(&member, &call, inbound, outbound) => ended,
        status = leader.lost() => Err(status),
    }
}

/// The renewals that a client has sent since the last batch.
struct Batch {
    leases: Vec<i64>,
    /// How its half of the stream has ended, if it has.
    end: Option<Result<(), Status>>,
}

/// Waits for the next messages of a client. Safe to drop and call again: no message is lost.
async fn next_batch(inbound: &mut Inbound<LeaseKeepAliveRequest>) -> Batch {
    poll_fn(|cx| {
        let mut batch = Batch { leases: Vec::new(), end: None };
        while batch.end.is_none() && batch.leases.len() < RENEWALS_AT_ONCE {
            match inbound.poll_next(cx) {
                Poll::Ready(Ok(Some(request))) => batch.leases.push(request.id),
                Poll::Ready(Ok(None)) => batch.end = Some(Ok(())),
                Poll::Ready(Err(status)) => batch.end = Some(Err(status)),
                Poll::Pending if batch.leases.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(batch)
    })
    .await
}

async fn renew_all(
    member: &Rc<MemberHandle>,
    call: &Rc<Call>,
    mut inbound: Inbound<LeaseKeepAliveRequest>,
    mut outbound: Outbound,
) -> Result<(), Status> {
    // A renewal that comes too late is answered when its lease is gone, and holds up no other renewal.
    let mut late: JoinSet<Result<LeaseKeepAliveResponse, Status>> = JoinSet::new();
    let mut end = None;
    while end.is_none() || !late.is_empty() {
        let batch = tokio::select! {
            batch = next_batch(&mut inbound), if end.is_none() && late.len() < LATE_AT_ONCE => batch,
            Some(answer) = late.join_next() => {
                if outbound.send(Frame::of(&joined(answer)??)?).await.is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        end = batch.end;
        // The header has the revision from before the renewal, as in etcd.
        let header = Some(member.header(member.view().revision()));
        for (id, renewal) in renew(member, call, &batch.leases).await? {
            let ttl = match renewal {
                Renewal::Expired => {
                    late.spawn_local(answer_late(member.clone(), call.clone(), header, id));
                    continue;
                }
                Renewal::Renewed(ttl_s) => ttl_s,
                Renewal::Unknown | Renewal::NotLeader => 0,
            };
            if outbound.send(Frame::of(&LeaseKeepAliveResponse { header, id, ttl })?).await.is_err() {
                return Ok(());
            }
        }
    }
    end.unwrap_or(Ok(()))
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Status> {
    result.map_err(|error| Status::internal(format!("a renewal failed: {error}")))
}

async fn answer_late(
    member: Rc<MemberHandle>,
    call: Rc<Call>,
    header: Option<ResponseHeader>,
    id: i64,
) -> Result<LeaseKeepAliveResponse, Status> {
    let ttl = renew_or_await_end(&member, &call, id).await?.unwrap_or(0);
    Ok(LeaseKeepAliveResponse { header, id, ttl })
}

/// Renews leases, here or at the leader; returns the result of each.
async fn renew(member: &Rc<MemberHandle>, call: &Rc<Call>, leases: &[i64]) -> Result<Vec<(i64, Renewal)>, Status> {
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
    let question = Question { method: Method::POST, path: peer::BATCH_PATH, body: peer::write_batch(leases) };
    let asked = led();
    let read = |reply| peer::read_batch(leases.len(), &reply).map(Ok::<_, Status>);
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

/// Renews one lease, here or at the leader; `None` if there is no such lease. An expired lease is not renewed: the
/// answer comes when it is revoked.
async fn renew_or_await_end(member: &MemberHandle, call: &Call, lease: i64) -> Result<Option<i64>, Status> {
    let here = async || Ok(renew_or_await_end_here(member, call, lease).await?.found());
    let body = LeaseKeepAliveRequest { id: lease }.encode_to_vec().into();
    let question = Question { method: Method::POST, path: peer::PATH, body };
    ask_leader(member, call, question, here, |reply| peer::read_renewal(lease, &reply).map(Ok)).await
}

/// Renews one lease, if this member leads; returns its time to live in seconds.
pub(crate) async fn renew_or_await_end_here(
    member: &MemberHandle,
    call: &Call,
    lease: i64,
) -> Result<Told<i64>, Status> {
    loop {
        match renew_here(member, call, vec![lease]).await?.as_deref() {
            Some([Renewal::Renewed(ttl_s)]) => return Ok(Told::Known(*ttl_s)),
            Some([Renewal::Unknown]) => return Ok(Told::Unknown),
            Some([Renewal::Expired]) => {}
            _ => return Ok(Told::NotLeader),
        }
        match member.ask(call, 0, |waiter| Event::AwaitEnd { waiter, lease }).await? {
            Answer::LeaseEnded => {}
            Answer::NotLeader => return Ok(Told::NotLeader),
            _ => return Err(another_question()),
        }
    }
}

/// Renews leases, if this member leads and has proven that it did; returns all results. `None` if another member leads.
pub(crate) async fn renew_here(
    member: &MemberHandle,
    call: &Call,
    leases: Vec<i64>,
) -> Result<Option<Vec<Renewal>>, Status> {
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use metastore_proto::etcdserverpb::InternalRaftRequest;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::{Duration, Instant};

    use super::*;
    use crate::api::fake_engine::FakeEngine;
    use crate::driver::LeaseEnd;

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
                        let found = path == peer::PATH && (1..10).contains(&id);
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
        let batches = asked.paths.borrow().iter().filter(|path| *path == peer::BATCH_PATH).count();
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
        let batches = || asked.paths.borrow().iter().filter(|path| *path == peer::BATCH_PATH).count();
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
            assert!(matches!(renewed, Told::Known(10)), "{renewed:?}");
            leads.set(false);
            let lost = renew_or_await_end_here(&fake.member, &call(), 7).await.unwrap();
            assert!(matches!(lost, Told::NotLeader), "{lost:?}");
        };
        fake.answer_during(engine, test).await;
    }

    /// Each member raises the time to its own minimum when it applies the entry, as in etcd.
    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_grant_is_proposed_with_the_time_that_the_client_asked_for() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        fake.led_by(1);
        let proposed = RefCell::new(Vec::new());
        let engine = |event: &Event| {
            let Event::Propose { id, data, .. } = event else { panic!("another question") };
            let grant = InternalRaftRequest::decode(&data[..]).unwrap().lease_grant.unwrap();
            proposed.borrow_mut().push((grant.id, grant.ttl));
            let reply = Ok(Reply::LeaseGrant { id: grant.id, ttl_s: 15 });
            Answer::Outcome(metastore_store::Outcome { id: *id, revision: 1, reply })
        };
        let ask = async |id, ttl| {
            let call = Call::of_member(Instant::now() + Duration::from_secs(60));
            let frame = grant(&fake.member, call, LeaseGrantRequest { id, ttl }).await.unwrap().into_bytes();
            let granted = LeaseGrantResponse::decode(frame.slice(crate::grpc::frame::PREFIX_BYTES..)).unwrap();
            (granted.id, granted.ttl)
        };
        let test = async {
            assert_eq!((ask(7, 1).await, ask(8, -3).await), ((7, 15), (8, 15)));
            let (chosen, _) = ask(0, 20).await;
            assert!(chosen > 0);
            assert_eq!(proposed.take(), [(7, 1), (8, -3), (chosen, 20)]);
        };
        fake.answer_during(engine, test).await;
    }

    /// The keys may have been attached by another leader, whose last entries are not applied here yet.
    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_time_to_live_is_read_behind_everything_that_was_acknowledged() {
        let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        fake.led_by(1);
        let asked = RefCell::new(String::new());
        let engine = |event: &Event| {
            let first = asked.borrow().is_empty();
            asked.borrow_mut().push_str(if matches!(event, Event::Read { .. }) { "read " } else { "time " });
            match event {
                Event::Read { .. } if first => Answer::LeaderChanged,
                Event::Read { .. } => Answer::Readable,
                _ => Answer::TimeToLive(Some(TimeToLive { granted_s: 10, remaining_s: 3 })),
            }
        };
        let test = async {
            let found = time_left(&fake.member, &call(), 7, false).await.unwrap().unwrap();
            assert_eq!((found.time.remaining_s, asked.borrow().as_str()), (3, "read read time "), "after an election");
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

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn all_leases_are_listed_piece_by_piece_in_the_order_of_their_ends() {
        const COUNT: i64 = 2 * LEASES_AT_ONCE as i64 + 3;
        let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
        let pieces = RefCell::new(Vec::new());
        let engine = |event: &Event| match event {
            Event::Leases { after, .. } => {
                pieces.borrow_mut().push(*after);
                let from = after.map_or(1, |after| after + 1);
                let end = |id| LeaseEnd { ends_ms: (id as u64 * 7919) % 1000, id };
                Answer::Leases((from..=COUNT).take(LEASES_AT_ONCE).map(end).collect())
            }
            _ => Answer::NotLeader,
        };
        let list = async || {
            let call = Call::of_member(Instant::now() + Duration::from_secs(60));
            let frame = leases(&fake.member, call, LeaseLeasesRequest {}).await.unwrap().into_bytes();
            let listed = LeaseLeasesResponse::decode(frame.slice(crate::grpc::frame::PREFIX_BYTES..)).unwrap().leases;
            listed.into_iter().map(|lease| lease.id).collect::<Vec<_>>()
        };
        let test = async {
            let listed = list().await;
            assert!(listed.is_sorted_by_key(|id| ((*id as u64 * 7919) % 1000, *id)));
            assert_eq!(listed.len(), COUNT as usize);
            let one_list = pieces.take();
            tokio::join!(list(), list());
            assert_eq!(pieces.take(), [&one_list[..], &one_list].concat(), "one list after the other");
        };
        fake.answer_during(engine, test).await;
    }
}
