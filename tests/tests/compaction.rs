//! Automatic compaction, of this server and of a real etcd.

use metastore_proto::etcdserverpb::{PutResponse, RangeRequest, RangeResponse};
use metastore_tests::cluster::{block_on, put_request};
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::{self, EngineKind, Server};

use crate::bad_days::observe::eventually;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const DONE: &str = "completed auto periodic compaction";

each_engine!(revisions_older_than_a_period_are_compacted);

fn revisions_older_than_a_period_are_compacted(engine: EngineKind) {
    let Some(subject) = programs::or_skip("automatic compaction", programs::subject(engine)) else { return };
    old_revisions_go(&subject);
}

#[test]
fn an_etcd_compacts_the_same() {
    let etcd = programs::etcd("newest").map(|etcd| Server::etcd(&etcd));
    let Some(etcd) = programs::or_skip("automatic compaction of etcd", etcd) else { return };
    old_revisions_go(&etcd);
}

fn old_revisions_go(server: &Server) {
    let member = Member::start(server, &["--auto-compaction-retention=2s"]);
    let client = || Client::new(member.client_address());
    let put = || block_on(async { client().unary::<_, PutResponse>(paths::PUT, put_request("k", "v")).await });
    let read = |revision| {
        let request = RangeRequest { key: "k".into(), revision, ..RangeRequest::default() };
        block_on(async { client().unary::<_, RangeResponse>(paths::RANGE, request).await })
    };
    put().expect("the first put");
    put().expect("the second put");
    read(2).expect("nothing is compacted yet");
    eventually("the first revision is compacted", || read(2).is_err_and(|status| status.message() == COMPACTED));
    read(3).expect("the current revision stays");
    assert!(member.log().iter().any(|line| line.contains(DONE)), "the log says so");
}
