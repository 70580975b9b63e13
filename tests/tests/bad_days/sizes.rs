//! Requests that are too large.

use metastore_proto::etcdserverpb::PutResponse;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;
use tonic::Code;

use super::observe::memory_kib;
use super::raw::{Raw, framed};
use super::{block_on, put_request, subject};

/// The default of --max-request-bytes.
const MAX_REQUEST: usize = 1_572_864;
/// That limit, and the 512 KiB that etcd adds for the parts around a request.
const MAX_MESSAGE: usize = MAX_REQUEST + 512 * 1024;
/// A message that is much too large.
const ANNOUNCED: usize = 100_000_000;
const ATTEMPTS: usize = 50;
/// The memory that the attempts may take: connections and windows, far less than one message.
const ALLOWED_KIB: u64 = 32 * 1024;
/// RESOURCE_EXHAUSTED.
const RESOURCE_EXHAUSTED: u32 = 8;

#[test]
fn an_over_large_request_is_refused_before_it_costs_memory() {
    let Some(subject) = subject("over-large requests", EngineKind::Memory) else { return };
    let member = Member::start(&subject, &[]);
    block_on(async {
        let client = Client::new(member.client_address());
        let put = |length: usize| client.unary::<_, PutResponse>(paths::PUT, put_request("k", &"v".repeat(length)));
        put(MAX_REQUEST - 1024).await.expect("just small enough");
        let refused = put(MAX_REQUEST + 1).await.expect_err("too large for a request");
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
        let refused = put(MAX_MESSAGE).await.expect_err("too large for a message");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let text = format!("grpc: received message larger than max ({} vs. {MAX_MESSAGE})", MAX_MESSAGE + 8);
        assert_eq!(refused.message(), text);

        let (before, _) = memory_kib(member.pid());
        let mut open = Vec::new();
        for attempt in 0..ATTEMPTS {
            let mut raw = Raw::connect(member.client_address()).await;
            let path = if attempt % 2 == 0 { paths::PUT } else { paths::WATCH };
            let mut call = raw.open(path, &[]).await;
            // The first 60 KB: no more than a client may send before the server opens the window.
            call.body.send_data(framed(ANNOUNCED, &[0; 60_000]), false).expect("the connection lives");
            let (status, text) = call.status().await;
            let expected = format!("grpc: received message larger than max ({ANNOUNCED} vs. {MAX_MESSAGE})");
            assert_eq!((status, text), (RESOURCE_EXHAUSTED, expected), "{path}");
            open.push(raw);
        }
        let (_, peak) = memory_kib(member.pid());
        let grown = peak.saturating_sub(before);
        assert!(grown < ALLOWED_KIB, "{ATTEMPTS} attempts took {grown} KiB");
        println!("over-large: {ATTEMPTS} x {ANNOUNCED} bytes announced took {grown} KiB");
        put(10).await.expect("others are served as before");
    });
}
