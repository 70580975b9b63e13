//! A consistent history, and the verdict when one thing in it is changed.

use metastore_proto::etcdserverpb::{
    PutResponse, RangeRequest, RangeResponse, ResponseHeader, WatchCreateRequest, WatchResponse,
};
use metastore_proto::mvccpb::KeyValue;
use metastore_sim::history::Moment;

use super::*;
use crate::cluster::put_request;

const KEY: &str = "a";
const WRITES: i64 = 3;

fn header(revision: i64) -> Option<ResponseHeader> {
    // The checks ignore the fields that depend on the member.
    Some(ResponseHeader { revision, member_id: revision as u64, cluster_id: 7, raft_term: 2 })
}

fn kv(revision: i64) -> KeyValue {
    let (key, value) = (KEY.to_string().into(), revision.to_string().into());
    KeyValue { key, value, create_revision: 2, mod_revision: revision, version: revision - 1, lease: 0 }
}

fn event(revision: i64) -> Event {
    Event { kv: Some(kv(revision)), prev_kv: (revision > 2).then(|| kv(revision - 1)), ..Event::default() }
}

fn operation(request: Request, called: Moment, response: Response) -> Operation {
    Operation { client: 0, request, called, returned: Some((called + 5, response)) }
}

fn write(revision: i64) -> Operation {
    let request = Request::Put(put_request(KEY, &revision.to_string()));
    operation(request, revision as Moment * 100, Response::Put(PutResponse { header: header(revision), prev_kv: None }))
}

fn read(revision: i64) -> Operation {
    let request = Request::Range(RangeRequest { key: KEY.to_string().into(), ..RangeRequest::default() });
    let response = RangeResponse { header: header(revision), kvs: vec![kv(revision)], more: false, count: 1 };
    operation(request, revision as Moment * 100 + 10, Response::Range(response))
}

/// A watch from `start` that has received `revisions`, and a progress notification that these are all.
fn watch(start: i64, revisions: impl Iterator<Item = i64>) -> Watch {
    let request = WatchCreateRequest {
        key: KEY.to_string().into(),
        start_revision: start,
        prev_kv: true,
        ..WatchCreateRequest::default()
    };
    let answer = |revision| WatchResponse { header: header(revision), ..WatchResponse::default() };
    let mut responses = vec![WatchResponse { created: true, ..answer(1) }];
    responses.extend(revisions.map(|revision| WatchResponse { events: vec![event(revision)], ..answer(revision) }));
    responses.push(WatchResponse { watch_id: -1, ..answer(WRITES + 1) });
    Watch { client: 1, request, responses, complete_to: Some(WRITES + 1), compacted: 0 }
}

/// Three writes, each followed by a read; a watcher has received the last two.
fn history() -> History {
    let revisions = || 2..=WRITES + 1;
    let operations = revisions().flat_map(|revision| [write(revision), read(revision)]).collect();
    let chains = vec![vec![watch(3, revisions().skip(1))]];
    let oracle = vec![watch(1, revisions())];
    let hash = HashKvResponse { header: header(WRITES + 1), hash: 9, compact_revision: 0, hash_revision: WRITES + 1 };
    let (hashes, logs, strange) = (vec![(0, hash), (1, hash)], Vec::new(), Vec::new());
    History { seed: 1, operations, chains, oracle, hashes, logs, strange }
}

/// The violation in a history that `change` has altered.
fn violation(change: impl FnOnce(&mut History)) -> String {
    let mut doctored = history();
    change(&mut doctored);
    doctored.judge().expect_err("it is accepted")
}

#[test]
fn a_true_history_is_accepted() {
    history().check();
    assert!(
        history()
            .summary()
            .starts_with("seed 1: 6 answered and 0 unknown requests, 0 compactions, 0 leases, 3 revisions")
    );
}

#[test]
fn a_write_without_an_answer_may_have_happened() {
    let mut history = history();
    history.operations[2].returned = None;
    history.check();
}

#[test]
fn a_read_that_is_stale() {
    let stale = violation(|history| history.operations[3].returned = Some((312, read(2).returned.unwrap().1)));
    assert!(stale.starts_with("not linearizable"), "{stale}");
}

#[test]
fn an_acknowledged_write_that_is_lost() {
    violation(|history| {
        let lost = write(WRITES + 1);
        history.operations.insert(2, Operation { request: Request::Put(put_request(KEY, "lost")), ..lost });
    });
}

#[test]
fn a_write_that_nobody_asked_for() {
    violation(|history| drop(history.operations.remove(2)));
}

#[test]
fn an_event_that_a_watcher_missed() {
    let missed = violation(|history| drop(history.chains[0][0].responses.remove(1)));
    assert!(missed.contains("is missing"), "{missed}");
}

#[test]
fn an_event_that_the_oracle_heard_twice() {
    let twice = violation(|history| {
        let again = history.oracle[0].responses[2].clone();
        history.oracle[0].responses.insert(3, again);
    });
    assert!(twice.starts_with("the oracle was told everything up to revision 3"), "{twice}");
}

#[test]
fn a_revision_that_the_oracle_never_heard() {
    violation(|history| drop(history.oracle[0].responses.remove(2)));
}

#[test]
fn members_that_differ() {
    let parted = violation(|history| history.hashes[1].1.hash += 1);
    assert!(parted.contains("members 0 and 1 have the hashes 9 and 10"), "{parted}");
}

#[test]
fn an_answer_that_is_strange() {
    violation(|history| history.strange.push("why?".to_string()));
}

#[test]
fn what_fails_is_written_down() {
    let mut doctored = history();
    doctored.operations.remove(2);
    let path = doctored.write_down("the violation");
    let text = std::fs::read_to_string(&path).expect("it is there");
    std::fs::remove_dir_all(path.parent().expect("it is in a directory")).expect("it can be removed");
    assert!(text.starts_with("the violation\n"));
    assert_eq!(text.lines().filter(|line| line.contains("Operation {")).count(), doctored.operations.len());
    assert_eq!(text.lines().filter(|line| line.starts_with("WatchResponse {")).count(), 4 + 5);
}
