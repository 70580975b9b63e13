//! A failed sync stops the member, and nothing is acknowledged after it.

use std::path::Path;
use std::time::Duration;

use metastore_proto::etcdserverpb::*;
use metastore_tests::grpc::Client;
use metastore_tests::injected::Injected;
use metastore_tests::member::Member;
use metastore_tests::programs::{EngineKind, Server};
use metastore_tests::{paths, programs};
use tonic::Status;

use super::put_request;

/// How long a member may run after its disk has failed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// The number of writes that are tried while the disk fails. The member should end at the first.
const TRIES: usize = 50;

each_engine!(a_failed_sync_stops_the_member);

fn a_failed_sync_stops_the_member(engine: EngineKind) {
    let found = programs::subject(engine).and_then(|subject| Ok((subject, programs::tool("strace")?)));
    let Some((subject, strace)) = programs::or_skip("failed sync", found) else { return };
    fail_syncs(&subject, &strace, "1+");
    // A member that retries a failed sync would survive a single failure. etcd is not tested with that: its store syncs
    // besides its log, and the single failure may hit the store while the log is intact.
    if !subject.is_etcd() {
        fail_syncs(&subject, &strace, "1");
    }
}

/// `when` selects the syncs that fail, counted from now on, in strace's syntax.
fn fail_syncs(subject: &Server, strace: &Path, when: &str) {
    let mut member = Member::start(subject, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let address = member.client_address().to_string();
    let put = async |key: &str| -> Result<PutResponse, Status> {
        Client::new(&address).unary(paths::PUT, put_request(key, "1")).await
    };
    runtime.block_on(put("before")).expect("a healthy member acknowledges");

    let mut tracer = Injected::into_syncs(strace, member.pid(), &format!("error=EIO:when={when}"));
    for number in 0..TRIES {
        let outcome = runtime.block_on(put(&format!("after/{number}")));
        assert!(outcome.is_err(), "write {number} was acknowledged after a sync had failed (when={when})");
    }
    let status = member.wait_exit(STOP_PATIENCE).expect("the member stops after a failed sync");
    assert!(!status.success(), "a member whose disk failed ends with {status}");
    tracer.wait();

    member.restart();
    let range = RangeRequest { key: "before".into(), ..RangeRequest::default() };
    let found = runtime.block_on(async { Client::new(&address).unary(paths::RANGE, range).await });
    let found: RangeResponse = found.expect("the restarted member answers");
    assert_eq!(found.count, 1, "what was acknowledged before the failure is there");
}
