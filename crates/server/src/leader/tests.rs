//! Both ends of the questions to the leader: asked here, and answered for other members.

use std::cell::Cell;
use std::rc::Rc;

use metastore_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseTimeToLiveRequest};
use metastore_proto::leasepb::LeaseInternalRequest;
use metastore_store::lease::Renewal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::renewal::{RENEWALS_AT_ONCE, read_batch, read_renewal, write_batch};
use super::*;
use crate::driver::{Answer, Event, TimeToLive};
use crate::member::fake_engine::FakeEngine;

/// An answer of the leader.
pub(super) fn reply(status: u16, message: &impl Message) -> Reply {
    let (status, body) = (StatusCode::from_u16(status).unwrap(), message.encode_to_vec().into());
    Reply { status, headers: Default::default(), body }
}

/// The answer of this member to the question of another one.
async fn ask_here(fake: &FakeEngine, path: &str, body: impl Into<Bytes>) -> Reply {
    assert!(concerns(path));
    let response = answer(&fake.member, path, body.into()).await.unwrap_or_else(Response::from);
    let (head, body) = response.into_parts();
    Reply { status: head.status, headers: head.headers, body }
}

/// Lease 7 exists, lease 8 does not, and for lease 9 this member is not the leader.
fn engine(event: &Event) -> Answer {
    match event {
        Event::Read { .. } => Answer::Readable,
        Event::KeepAlive { leases, .. } if !leases.contains(&9) => {
            let renewal = |lease: &i64| if *lease == 7 { Renewal::Renewed(10) } else { Renewal::Unknown };
            Answer::Renewed(leases.iter().map(renewal).collect())
        }
        Event::TimeToLive { lease: 7, .. } => Answer::TimeToLive(Some(TimeToLive { granted_s: 10, remaining_s: 3 })),
        Event::TimeToLive { lease: 8, .. } => Answer::TimeToLive(None),
        _ => Answer::NotLeader,
    }
}

/// Answers each connection with the next of `replies`, and all further ones with the last.
async fn peer(replies: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::task::spawn_local(async move {
        for at in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\nq") {
                seen.push(stream.read_u8().await.unwrap());
            }
            assert!(seen.starts_with(b"POST /leases HTTP/1.1\r\n"));
            let body = replies[at.min(replies.len() - 1)];
            let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    url
}

/// The answer to a question that is asked again until a reply begins with "yes".
async fn ask(fake: &FakeEngine, call: &Call, here: Option<&'static str>) -> Result<String, Status> {
    let question = Question { method: Method::POST, path: "/leases", body: Bytes::from_static(b"q") };
    let here = async || Ok(here.map(str::to_owned));
    let read = |reply: Reply| {
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        text.starts_with("yes").then_some(Ok(text))
    };
    ask_leader(&fake.member, call, question, here, read).await
}

fn call() -> Call {
    Call::of_member(Instant::now() + Duration::from_secs(60))
}

#[tokio::test(flavor = "local")]
async fn the_leader_is_asked_until_it_answers() {
    let fake = FakeEngine::new(&["http://127.0.0.1:1", &peer(&["no", "no", "yes"]).await]);
    fake.led_by(2);
    assert_eq!(ask(&fake, &call(), Some("not asked")).await.unwrap(), "yes");
}

#[tokio::test(flavor = "local")]
async fn each_url_of_the_leader_is_tried() {
    let urls: [&str; 3] = ["http://127.0.0.1:2", &peer(&["no"]).await, &peer(&["yes, the third"]).await];
    let fake = FakeEngine::new(&["http://127.0.0.1:1", &urls.join(",")]);
    fake.led_by(2);
    assert_eq!(ask(&fake, &call(), None).await.unwrap(), "yes, the third");
}

#[tokio::test(flavor = "local")]
async fn who_leads_after_all_answers_here() {
    let fake = FakeEngine::new(&["http://127.0.0.1:1", &peer(&["no"]).await]);
    fake.led_by(1);
    assert_eq!(ask(&fake, &call(), Some("here")).await.unwrap(), "here");
}

#[tokio::test(flavor = "local")]
async fn a_leader_that_is_silent_is_left_for_the_next() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let fake = Rc::new(FakeEngine::new(&["http://127.0.0.1:1", &silent_url, &peer(&["yes, the third"]).await]));
    fake.led_by(2);
    let asked = Rc::new(Cell::new(false));
    let (replacing, seen) = (fake.clone(), asked.clone());
    tokio::task::spawn_local(async move {
        let _open = silent.accept().await.unwrap();
        seen.set(true);
        replacing.led_by(3);
        std::future::pending::<()>().await;
    });
    assert_eq!(ask(&fake, &call(), None).await.unwrap(), "yes, the third");
    assert!(asked.get());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_time_is_limited() {
    let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
    let began = Instant::now();
    assert_eq!(ask(&fake, &call(), None).await.unwrap_err(), errors::no_leader());
    assert!(began.elapsed() >= Duration::from_secs(7) && began.elapsed() < Duration::from_secs(8));
    fake.led_by(1);
    assert_eq!(ask(&fake, &call(), None).await.unwrap_err(), errors::timeout(), "it never says that it leads");
    let impatient = Call::of_member(Instant::now() + Duration::from_secs(1));
    assert_eq!(ask(&fake, &impatient, None).await.unwrap_err(), Status::deadline_exceeded());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn leases_are_renewed_in_batches() {
    let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
    fake.led_by(1);
    fake.answer_during(engine, async {
        let renew = async |body| ask_here(&fake, renewal::BATCH_PATH, body).await;
        let answer = renew(write_batch(&[7, 8, 7])).await;
        let renewals = vec![Renewal::Renewed(10), Renewal::Unknown, Renewal::Renewed(10)];
        assert_eq!(read_batch(3, &answer), Some(Some(renewals)));
        assert_eq!(read_batch(0, &renew(Bytes::new()).await), Some(Some(Vec::new())));
        let most = vec![7; RENEWALS_AT_ONCE];
        assert_eq!(renew(write_batch(&most)).await.status.as_u16(), 200);
        let more = [&most[..], &[7]].concat();
        assert_eq!(renew(write_batch(&more)).await.status.as_u16(), 400);
        assert_eq!(renew(Bytes::from_static(b"1234567")).await.status.as_u16(), 400);
    })
    .await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn leases_are_renewed_as_etcd_asks() {
    let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
    fake.led_by(1);
    fake.answer_during(engine, async {
        let renew = async |id| ask_here(&fake, renewal::PATH, LeaseKeepAliveRequest { id }.encode_to_vec()).await;
        assert_eq!(read_renewal(7, &renew(7).await), Some(Some(10)));
        let unknown = renew(8).await;
        assert_eq!((unknown.status, &unknown.body[..]), (StatusCode::NOT_FOUND, &b"lease not found\n"[..]));
        let follower = renew(9).await;
        assert_eq!((follower.status.as_u16(), &follower.body[..]), (400, &b"not a primary lessor\n"[..]));
        assert_eq!(ask_here(&fake, renewal::PATH, &b"\xff"[..]).await.status.as_u16(), 400);
    })
    .await;
}

/// The leader was held up during an election, and the engine thread learns that between the renewal and the proof.
#[tokio::test(flavor = "local", start_paused = true)]
async fn a_deposed_leader_renews_nothing() {
    let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
    fake.led_by(1);
    let engine = |event: &Event| {
        assert!(matches!(event, Event::KeepAlive { .. }));
        Answer::NotLeader
    };
    let test = async {
        let one = LeaseKeepAliveRequest { id: 7 }.encode_to_vec();
        for (path, body) in [(renewal::PATH, one.into()), (renewal::BATCH_PATH, write_batch(&[7, 8]))] {
            let reply = ask_here(&fake, path, body).await;
            assert_eq!((reply.status.as_u16(), &reply.body[..]), (400, &b"not a primary lessor\n"[..]));
        }
    };
    fake.answer_during(engine, test).await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn times_to_live_are_told_as_etcd_asks() {
    let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
    let key_of_lease = [&7i64.to_be_bytes()[..], b"k"].concat();
    fake.member.view().engine().put(metastore_engine::Table::LeaseKeys, &key_of_lease, b"").unwrap();
    fake.answer_during(engine, async {
        let tell = async |id, keys| {
            let request = Some(LeaseTimeToLiveRequest { id, keys });
            let request = LeaseInternalRequest { lease_time_to_live_request: request };
            ask_here(&fake, time_to_live::PATH, request.encode_to_vec()).await
        };
        let found = time_to_live::read_reply(7, &tell(7, true).await).unwrap().unwrap();
        assert_eq!((found.time.granted_s, found.time.remaining_s, found.keys), (10, 3, vec![Bytes::from("k")]));
        assert!(time_to_live::read_reply(7, &tell(7, false).await).unwrap().unwrap().keys.is_empty());
        assert_eq!(tell(8, false).await.status.as_u16(), 404);
        assert_eq!(tell(9, false).await.status.as_u16(), 500);
    })
    .await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn no_answer_in_time_is_worth_another_try() {
    let fake = FakeEngine::new(&["http://127.0.0.1:1"]);
    let body = LeaseKeepAliveRequest { id: 7 }.encode_to_vec();
    let late = ask_here(&fake, renewal::PATH, body).await;
    assert_eq!(late.status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(read_renewal(7, &late), None);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_learner_is_promoted_as_etcd_asks() {
    let fake = FakeEngine::new(&["http://127.0.0.1:1", "http://127.0.0.1:2"]);
    fake.led_by(1);
    let engine = |event: &Event| match event {
        Event::Promote { change, .. } if change.node_id() == 2 => {
            assert_eq!(change.context(), br#"{"id":2,"peerURLs":null,"isPromote":true}"#);
            let reply = Ok(metastore_store::Reply::MembersChanged);
            Answer::Outcome(metastore_store::Outcome { id: change.id(), revision: 1, reply })
        }
        _ => Answer::LearnerNotReady,
    };
    let test = async {
        let promoted = ask_here(&fake, &promotion::path(2), "").await;
        assert_eq!(promoted.headers["x-etcd-cluster-id"], "9");
        let members: Vec<metastore_store::Member> = serde_json::from_slice(&promoted.body).unwrap();
        assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 2]);
        let lagging = ask_here(&fake, &promotion::path(1), "").await;
        assert_eq!(lagging.status.as_u16(), 412);
        assert_eq!(ask_here(&fake, &promotion::path(3), "").await.status.as_u16(), 404);
        assert_eq!(ask_here(&fake, "/members/promote/x", "").await.status.as_u16(), 404);
    };
    fake.answer_during(engine, test).await;
}
