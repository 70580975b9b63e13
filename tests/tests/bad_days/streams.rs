//! Streams of clients that close their half early, or send everything at once.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use h2::RecvStream;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::range_request::SortTarget;
use metastore_proto::etcdserverpb::watch_request::RequestUnion;
use metastore_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutResponse, RangeRequest,
    RangeStreamResponse, StatusRequest, WatchRequest, WatchResponse,
};
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;
use tokio::time::timeout;

use super::raw::{Raw, framed};
use super::{block_on, end_of, put_request, subject, watch_prefix};

const PATIENCE: Duration = Duration::from_secs(60);

/// The answers of a stream, one after the other.
struct Answers {
    body: RecvStream,
    bytes: BytesMut,
}

impl Answers {
    fn of(body: RecvStream) -> Answers {
        Answers { body, bytes: BytesMut::new() }
    }

    /// The next answer; `None` at the end of the stream.
    async fn next<T: Message + Default>(&mut self) -> Option<T> {
        loop {
            if let Some(prefix) = self.bytes.first_chunk::<5>() {
                let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
                if self.bytes.len() >= 5 + length {
                    self.bytes.advance(5);
                    return Some(T::decode(self.bytes.split_to(length)).expect("an answer"));
                }
            }
            let data = timeout(PATIENCE, self.body.data()).await.expect("the server goes on")?;
            let data = data.expect("the stream goes on");
            self.body.flow_control().release_capacity(data.len()).expect("what was received can be given back");
            self.bytes.extend_from_slice(&data);
        }
    }
}

fn create(prefix: &str) -> Vec<u8> {
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(watch_prefix(prefix))) }.encode_to_vec()
}

#[test]
fn a_watch_goes_on_after_its_client_has_closed_its_half() {
    let Some(subject) = subject("half-closed watches", EngineKind::Memory) else { return };
    let member = Member::start(&subject, &[]);
    block_on(async {
        let client = Client::new(member.client_address());
        let mut raw = Raw::connect(member.client_address()).await;
        let mut watch = raw.open(paths::WATCH, &[]).await;
        let request = create("k");
        watch.body.send_data(framed(request.len(), &request), true).expect("the connection lives");
        let mut answers = Answers::of(watch.response.await.expect("an answer").into_body());
        assert!(answers.next::<WatchResponse>().await.expect("an answer").created);
        for round in 0..3 {
            let value = round.to_string();
            let _: PutResponse = client.unary(paths::PUT, put_request("k", &value)).await.expect("a put");
            let answer: WatchResponse = answers.next().await.expect("the watch goes on");
            let found = answer.events.iter().map(|event| event.kv.as_ref().expect("a key").value.clone());
            assert_eq!(found.collect::<Vec<_>>(), [value.as_bytes()]);
        }
        drop(answers);
    });
    super::gone::wait_until_idle(member.client_address());
}

#[test]
fn renewals_end_with_their_clients_half_after_all_were_answered() {
    let Some(subject) = subject("renewals at once", EngineKind::Memory) else { return };
    const RENEWALS: usize = 20_000;
    let member = Member::start(&subject, &[]);
    block_on(async {
        let client = Client::new(member.client_address());
        let grant = LeaseGrantRequest { id: 7, ttl: 600 };
        let _: LeaseGrantResponse = client.unary(paths::LEASE_GRANT, grant).await.expect("a lease");
        let mut raw = Raw::with_room(member.client_address()).await;
        let mut renewals = raw.open(paths::LEASE_KEEP_ALIVE, &[]).await;
        let request = LeaseKeepAliveRequest { id: 7 }.encode_to_vec();
        for sent in 1..=RENEWALS {
            renewals.body.send_data(framed(request.len(), &request), sent == RENEWALS).expect("the connection lives");
        }
        let mut answers = Answers::of(renewals.response.await.expect("an answer").into_body());
        for _ in 0..RENEWALS {
            assert_eq!(answers.next::<LeaseKeepAliveResponse>().await.expect("an answer").ttl, 600);
        }
        assert!(answers.next::<LeaseKeepAliveResponse>().await.is_none(), "the stream ends");
    });
}

#[test]
fn watches_that_are_opened_at_once_hold_up_no_other_call() {
    let Some(subject) = subject("watches at once", EngineKind::Memory) else { return };
    const WATCHES: usize = 50_000;
    let member = Member::start(&subject, &[]);
    block_on(async {
        let mut raw = Raw::with_room(member.client_address()).await;
        let mut watches = raw.open(paths::WATCH, &[]).await;
        for number in 0..WATCHES {
            let request = create(&format!("{number}/"));
            watches.body.send_data(framed(request.len(), &request), false).expect("the connection lives");
        }
        let (status, text) = raw.call(paths::STATUS, &[], &StatusRequest {}.encode_to_vec()).await;
        assert_eq!((status, &*text), (0, ""));
        let mut answers = Answers::of(watches.response.await.expect("an answer").into_body());
        for number in 0..WATCHES {
            let answer: WatchResponse = answers.next().await.expect("an answer");
            assert_eq!((answer.created, answer.watch_id), (true, number as i64));
        }
    });
}

/// The keys of a RangeStream with sort target version and no order, the sum of its counts, and whether there are more.
async fn by_version(client: &Client, limit: i64) -> (Vec<String>, i64, bool) {
    let request = RangeRequest {
        key: "k".into(),
        range_end: end_of("k"),
        sort_target: SortTarget::Version.into(),
        limit,
        ..RangeRequest::default()
    };
    let parts: Vec<RangeStreamResponse> = client.server_stream(paths::RANGE_STREAM, request).await.expect("a range");
    let parts = || parts.iter().filter_map(|part| part.range_response.as_ref());
    let keys = parts().flat_map(|part| &part.kvs).map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
    (keys, parts().map(|part| part.count).sum(), parts().any(|part| part.more))
}

#[test]
fn a_short_stream_is_sorted_by_its_target_and_a_long_one_by_key() {
    let Some(subject) = subject("sorted streams", EngineKind::Memory) else { return };
    let member = Member::start(&subject, &[]);
    block_on(async {
        let client = Client::new(member.client_address());
        let key = |number: usize| format!("k{number:02}");
        let put = async |number: usize| {
            let _: PutResponse = client.unary(paths::PUT, put_request(&key(number), "v")).await.expect("a put");
        };
        for number in 0..10 {
            for _ in number..10 {
                put(number).await;
            }
        }
        let sorted: Vec<_> = (0..10).rev().map(key).collect();
        assert_eq!(by_version(&client, 0).await, (sorted.clone(), 10, false));
        // As in etcd: the first keys are sorted, one more than the limit. The count goes on after the last key sent, so
        // that it includes some keys twice.
        assert_eq!(by_version(&client, 3).await, (vec![key(3), key(2), key(1)], 3 + 8, true));
        put(10).await;
        let all: Vec<_> = (0..11).map(key).collect();
        assert_eq!(by_version(&client, 0).await, (all.clone(), 11, false));
        assert_eq!(by_version(&client, 11).await, (all, 11, false));
    });
}
