//! Reads of former revisions, right and wrong.

use metastore_proto::etcdserverpb::{RangeRequest, RangeResponse};

use super::check;
use crate::history::{Request, Response};
use crate::model::story::{Story, compact, delete, get_at, put};
use crate::model::{COMPACTED, FUTURE_REVISION};

/// Adds a read of every key, as answered by a member at revision `at`; returns its position in the history.
fn lagging(story: &mut Story, at: i64) -> usize {
    let request = RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        serializable: true,
        revision: at,
        ..RangeRequest::default()
    };
    let mut response = story.model.execute(&Request::Range(request.clone())).response;
    if let Response::Range(RangeResponse { header: Some(header), .. }) = &mut response {
        header.revision = at;
    }
    let place = story.call(0, Request::Range(RangeRequest { revision: 0, ..request }));
    story.give(place, response);
    place
}

fn story() -> Story {
    Story::of([put("a", "1"), put("b", "1"), put("a", "2"), delete("b"), put("b", "2")])
}

fn range(story: &mut Story, at: usize) -> &mut RangeResponse {
    match story.response(at) {
        Response::Range(response) => response,
        other => panic!("{other:?}"),
    }
}

fn assert_wrong(story: &Story, part: &str) {
    let text = check(&story.operations, &story.revisions).expect_err("accepted");
    assert!(text.contains(part), "expected {part:?} in: {text}");
}

#[test]
fn every_former_state_may_be_read() {
    let mut story = story();
    for at in 1..=6 {
        lagging(&mut story, at);
        story.ask(get_at("b", at));
    }
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
}

#[test]
fn what_is_of_another_revision_is_wrong() {
    for at in 1..=6 {
        for wrong in (1..=6).filter(|wrong| *wrong != at) {
            let mut story = story();
            let (read, other) = (lagging(&mut story, at), lagging(&mut story, wrong));
            let (kvs, count) = (range(&mut story, other).kvs.clone(), range(&mut story, other).count);
            let response = range(&mut story, read);
            (response.kvs, response.count) = (kvs, count);
            assert_wrong(&story, &format!("operation {read}, "));
        }
    }
}

#[test]
fn a_deleted_key_does_not_come_back() {
    let mut story = story();
    story.ask(get_at("b", 3));
    story.ask(get_at("b", 5));
    let response = story.response(5).clone();
    *story.response(6) = response;
    assert_wrong(&story, "operation 6, ");
}

#[test]
fn a_revision_that_there_is_not_is_not_answered() {
    for wrong in [0, 7, -1, i64::MAX] {
        let mut story = story();
        let read = lagging(&mut story, 6);
        range(&mut story, read).header.as_mut().unwrap().revision = wrong;
        assert_wrong(&story, "the revisions are 1 to 6");
    }
    let mut story = story();
    story.ask(get_at("b", 5));
    range(&mut story, 5).header.as_mut().unwrap().revision = 4;
    assert_wrong(&story, "before the one that was asked for");
}

#[test]
fn refusals_have_reasons() {
    let mut story = story();
    story.ask(compact(4));
    story.ask(get_at("b", 3));
    story.ask(get_at("b", 9));
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
    let mut bad = story.clone();
    bad.operations.remove(5);
    assert_wrong(&bad, "nobody had asked for a compaction");
    for (text, revision) in [(COMPACTED, 4), (COMPACTED, 0), (FUTURE_REVISION, 1), (FUTURE_REVISION, 0), ("another", 3)]
    {
        let mut bad = story.clone();
        let Request::Range(request) = &mut bad.operations[6].request else { panic!() };
        (request.revision, request.serializable) = (revision, true);
        *bad.response(6) = Response::Refused(text.to_string());
        assert_wrong(&bad, "operation 6, ");
    }
}
