//! Histories that are impossible for a correct etcd.

use metastore_proto::etcdserverpb::{PutResponse, ResponseHeader};

use super::{check, violation};
use crate::history::Response;
use crate::model::story::{
    Story, compact, delete, get, get_at, grant, put, put_request, put_with_lease, revoke, update,
};
use crate::model::{COMPACTED, LEASE_NOT_FOUND};

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

fn assert_says(story: &Story, part: &str) {
    let text = violation(story);
    assert!(text.contains(part), "expected {part:?} in: {text}");
}

#[test]
fn a_stale_read() {
    let mut story = Story::of([put("a", "1"), get("a"), put("a", "2"), get("a")]);
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
    *story.response(3) = story.response(1).clone();
    assert_says(&story, "operation 3 ");
}

#[test]
fn a_stale_value_under_a_new_revision() {
    let mut story = Story::of([put("a", "1"), get("a"), put("a", "2"), get("a")]);
    *story.response(3) = story.response(1).clone();
    if let Response::Range(response) = story.response(3) {
        response.header = header(3);
    }
    assert_says(&story, "operation 3 ");
}

#[test]
fn an_acknowledged_write_that_is_lost() {
    let mut story = Story::of([put("a", "1")]);
    let lost = story.call(1, put("a", "2"));
    story.give(lost, Response::Put(PutResponse { header: header(3), prev_kv: None }));
    story.ask(get("a"));
    assert_says(&story, "operation 1 ");
    story.ask(put("a", "3"));
    assert_says(&story, "operation 1 ");
}

#[test]
fn a_write_that_took_effect_twice() {
    for is_known in [false, true] {
        let mut story = Story::of([put("a", "1")]);
        let twice = story.call(1, put("a", "2"));
        let response = story.execute(twice);
        if is_known {
            story.give(twice, response);
        }
        story.ask(put("a", "3"));
        story.execute(twice);
        story.ask(get("a"));
        assert_says(&story, "asked for revision 5");
    }
}

#[test]
fn a_write_that_took_effect_after_it_was_refused() {
    let mut story = Story::of([grant(7), put("a", "1")]);
    let refused = story.call(1, put_with_lease("a", "2", 7));
    story.execute(refused);
    story.give(refused, Response::Refused(LEASE_NOT_FOUND.to_string()));
    story.ask(get("a"));
    assert_says(&story, "operation 2 ");
}

#[test]
fn a_value_that_nobody_wrote() {
    let mut story = Story::of([put("a", "1"), get("a")]);
    if let Response::Range(response) = story.response(1) {
        response.kvs[0].value = "2".into();
    }
    assert_says(&story, "operation 1 ");
}

#[test]
fn an_unknown_write_that_is_seen_and_then_is_not() {
    let mut story = Story::of([put("a", "1"), get("a")]);
    story.ask_in_vain(put("a", "2"), true);
    story.ask(get("a"));
    story.ask(get("a"));
    *story.response(4) = story.response(1).clone();
    assert_says(&story, "operation 4 ");
}

#[test]
fn a_transaction_that_succeeded_against_its_comparison() {
    let mut story = Story::of([put("a", "1"), put("a", "2"), update("a", 3, "3")]);
    story.operations[2].request = update("a", 2, "3");
    assert_says(&story, "operation 2 ");
}

#[test]
fn a_transaction_that_failed_against_its_comparison() {
    let mut story = Story::of([put("a", "1"), put("a", "2"), update("a", 2, "3")]);
    story.operations[2].request = update("a", 3, "3");
    assert_says(&story, "operation 2 ");
}

#[test]
fn a_wrong_count_of_deleted_keys() {
    let mut story = Story::of([put("a", "1"), delete("a"), delete("a")]);
    for at in [1, 2] {
        let mut bad = story.clone();
        if let Response::DeleteRange(response) = bad.response(at) {
            response.deleted += 1;
        }
        assert_says(&bad, &format!("operation {at} "));
    }
    story.ask(delete("b"));
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
}

#[test]
fn a_wrong_revision_in_a_header() {
    let story = Story::of([put("a", "1"), put("a", "2"), put("a", "3")]);
    for wrong in [0, 1, 2, 4, 5, -1, i64::MAX, i64::MIN] {
        let mut bad = story.clone();
        if let Response::Put(response) = bad.response(1) {
            response.header = header(wrong);
        }
        violation(&bad);
    }
}

#[test]
fn a_read_from_the_future() {
    let mut story = Story::of([put("a", "1"), get("b"), put("a", "2")]);
    if let Response::Range(response) = story.response(1) {
        response.header = header(3);
    }
    assert_says(&story, "operation 1 ");
}

#[test]
fn a_compaction_that_does_not_last() {
    let mut story = Story::of([put("a", "1"), put("a", "2"), get_at("a", 2), compact(3), get_at("a", 2)]);
    assert_eq!(story.response(4), &Response::Refused(COMPACTED.to_string()));
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
    *story.response(4) = story.response(2).clone();
    assert_says(&story, "operation 4 ");
}

#[test]
fn a_compaction_that_nobody_asked_for() {
    let mut story = Story::of([put("a", "1"), put("a", "2"), get_at("a", 2)]);
    *story.response(2) = Response::Refused(COMPACTED.to_string());
    assert_says(&story, "operation 2 ");
}

#[test]
fn a_put_with_a_lease_that_is_gone() {
    let mut story = Story::of([grant(7), revoke(7), grant(7), put_with_lease("b", "1", 7)]);
    story.operations.remove(2);
    assert_says(&story, "operation 2 ");
}

#[test]
fn a_lease_that_is_granted_twice() {
    let mut story = Story::of([grant(7), grant(7)]);
    *story.response(1) = story.response(0).clone();
    assert_says(&story, "operation 1 ");
}

#[test]
fn a_revision_that_nobody_asked_for() {
    let mut story = Story::of([put("a", "1"), put("a", "2"), get("b")]);
    story.operations.remove(1);
    assert_says(&story, "asked for revision 3");
    let mut story = Story::of([put("a", "1"), put("a", "2")]);
    story.operations.remove(1);
    assert_says(&story, "asked for revision 3");
}

#[test]
fn a_revision_that_is_missing() {
    let mut story = Story::of([put("a", "1"), put("a", "2"), put("a", "3")]);
    story.revisions.remove(&3);
    assert_says(&story, "revision 3 was told to no watcher");
}

#[test]
fn two_operations_in_one_revision() {
    let mut story = Story::of([put("a", "1"), put("b", "1")]);
    let events = story.revisions.remove(&3).unwrap();
    story.revisions.get_mut(&2).unwrap().extend(events);
    if let Response::Put(response) = story.response(1) {
        response.header = header(2);
    }
    violation(&story);
}

#[test]
fn one_operation_in_two_revisions() {
    let mut story = Story::of([put("a", "1"), put("b", "1"), delete("a"), delete("b")]);
    story.operations.remove(3);
    let Response::DeleteRange(response) = story.response(2) else { panic!() };
    (response.header, response.deleted) = (header(5), 2);
    story.operations[2].request = Story::of([delete("a")]).operations[0].request.clone();
    violation(&story);
}

#[test]
fn events_that_tell_what_nobody_wrote() {
    let story = Story::of([put("a", "1"), put("a", "2"), delete("a")]);
    for revision in 2..=4 {
        let mut bad = story.clone();
        let event = &mut bad.revisions.get_mut(&revision).unwrap()[0];
        event.kv.as_mut().unwrap().version += 1;
        violation(&bad);
        let mut bad = story.clone();
        let event = &mut bad.revisions.get_mut(&revision).unwrap()[0];
        event.prev_kv = if revision == 2 { event.kv.clone() } else { None };
        violation(&bad);
    }
}

#[test]
fn a_previous_value_that_was_another() {
    let mut story = Story::of([put("a", "1")]);
    let request = crate::history::Request::Put(metastore_proto::etcdserverpb::PutRequest {
        prev_kv: true,
        ..put_request("a", "2")
    });
    story.ask(request);
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
    if let Response::Put(response) = story.response(1) {
        response.prev_kv = None;
    }
    assert_says(&story, "operation 1 ");
}

#[test]
fn two_reads_that_saw_two_writes_in_two_orders() {
    let mut story = Story::default();
    let (first, second) = (story.call(1, put("a", "1")), story.call(2, put("a", "2")));
    let read = story.call(3, get("a"));
    for write in [first, second] {
        let response = story.execute(write);
        story.give(write, response);
    }
    let response = story.execute(read);
    story.give(read, response);
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
    let mut other = Story::of([put("a", "2"), put("a", "1"), get("a")]);
    *story.response(read) = other.response(2).clone();
    assert_says(&story, "operation 2 ");
}

#[test]
fn a_refusal_that_no_state_explains() {
    let mut story = Story::of([put("a", "1"), put("a", "2")]);
    story.operations.pop();
    story.revisions.remove(&3);
    let refused = story.call(1, put("a", "2"));
    story.give(refused, Response::Refused("etcdserver: not today".to_string()));
    assert_says(&story, "operation 1 ");
}

#[test]
fn a_lease_that_comes_back_by_itself() {
    let mut story = Story::of([grant(7)]);
    story.ask_in_vain(revoke(7), true);
    story.ask(put_with_lease("a", "1", 7));
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
    let mut accepted = Story::of([grant(7), put_with_lease("a", "1", 7)]);
    let at = story.call(0, put_with_lease("a", "1", 7));
    story.give(at, accepted.response(1).clone());
    story.revisions = accepted.revisions.clone();
    assert_says(&story, "operation 3 ");
}
