//! Good histories, and bad ones that must be found.

mod bad;
mod exhaustive;
mod random;
mod unknown;

use super::check;
use crate::history::Response;
use crate::model::story::{Story, compact, delete, get, get_at, grant, put, put_with_lease, revoke, update};

/// The text of the violation.
fn violation(story: &Story) -> String {
    match check(&story.operations, &story.revisions) {
        Ok(()) => panic!("accepted: {:#?}", story.operations),
        Err(text) => text,
    }
}

#[test]
fn an_empty_history_is_fine() {
    assert_eq!(check(&[], &Default::default()), Ok(()));
}

#[test]
fn what_a_model_answers_is_fine() {
    let story = Story::of([
        grant(7),
        put("a", "1"),
        put_with_lease("b", "1", 7),
        get("a"),
        update("a", 2, "2"),
        update("a", 2, "3"),
        get_at("a", 2),
        compact(3),
        get_at("a", 2),
        compact(3),
        revoke(7),
        revoke(7),
        put_with_lease("b", "1", 7),
        delete("b"),
        delete("a"),
        get_at("a", 100),
    ]);
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
    assert!(matches!(story.operations[8].returned, Some((_, Response::Refused(_)))), "compacted");
}

#[test]
fn headers_count_for_their_revision_alone() {
    let mut story = Story::of([put("a", "1")]);
    if let Response::Put(response) = story.response(0)
        && let Some(header) = &mut response.header
    {
        (header.member_id, header.cluster_id, header.raft_term) = (1, 2, 3);
    }
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
}

#[test]
fn a_read_beside_a_write_may_see_either_state() {
    for is_late in [false, true] {
        let mut story = Story::of([put("a", "1")]);
        let write = story.call(1, put("a", "2"));
        let read = story.call(2, get("a"));
        let early = story.model.execute(&get("a")).response;
        let written = story.execute(write);
        let late = story.model.execute(&get("a")).response;
        story.give(write, written);
        story.give(read, if is_late { late } else { early });
        assert_eq!(check(&story.operations, &story.revisions), Ok(()));
    }
}

#[test]
fn a_refusal_fits_where_its_reason_held() {
    let mut story = Story::default();
    let refused = story.call(1, put_with_lease("a", "1", 7));
    let text = story.model.execute(&put_with_lease("a", "1", 7)).response;
    story.ask(grant(7));
    story.ask(put_with_lease("b", "1", 7));
    story.give(refused, text);
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
}
