//! Operations with an unknown outcome.

use super::{check, violation};
use crate::model::story::{Story, compact, delete, get, get_at, grant, put, put_with_lease, revoke};

fn assert_fine(story: &Story) {
    assert_eq!(check(&story.operations, &story.revisions), Ok(()));
}

#[test]
fn a_write_may_have_happened_or_not() {
    for happened in [false, true] {
        let mut story = Story::of([put("a", "1")]);
        story.ask_in_vain(put("a", "2"), happened);
        story.ask(get("a"));
        assert_fine(&story);
    }
}

#[test]
fn a_write_may_happen_long_after_its_client_gave_up() {
    let mut story = Story::of([put("a", "1")]);
    let late = story.call(1, put("a", "2"));
    story.ask(get("a"));
    story.execute(late);
    story.ask(get("a"));
    assert_fine(&story);
}

#[test]
fn a_write_does_not_happen_before_it_is_asked_for() {
    let mut story = Story::of([put("a", "1")]);
    let late = story.call(1, put("a", "2"));
    story.execute(late);
    story.ask(get("a"));
    story.operations[late].called = 100;
    let text = violation(&story);
    assert!(text.contains("nobody asked for revision 3 before it was seen by operation 2"), "{text}");
}

#[test]
fn retries_of_one_revocation_happen_once() {
    let mut story = Story::of([grant(7), put_with_lease("a", "1", 7)]);
    story.ask_in_vain(revoke(7), false);
    story.ask_in_vain(revoke(7), true);
    story.ask_in_vain(revoke(7), true);
    story.ask(revoke(7));
    story.ask(put_with_lease("a", "1", 7));
    assert_fine(&story);
}

#[test]
fn what_no_revision_shows_is_found_by_its_effects() {
    let mut story = Story::of([put("a", "1"), put("a", "2"), put("a", "3")]);
    story.ask_in_vain(grant(7), true);
    story.ask_in_vain(grant(8), false);
    story.ask_in_vain(compact(2), false);
    story.ask_in_vain(compact(3), true);
    story.ask_in_vain(compact(4), false);
    story.ask(put_with_lease("b", "1", 7));
    story.ask(get_at("a", 2));
    story.ask(get_at("a", 3));
    story.ask(delete("b"));
    story.ask_in_vain(revoke(7), true);
    story.ask(grant(7));
    assert_fine(&story);
    story.ask(put_with_lease("b", "2", 8));
    assert_fine(&story);
    story.ask(get_at("a", 1));
    assert_fine(&story);
}

#[test]
fn many_of_them_are_no_reason_to_try_them_all() {
    let mut story = Story::of([put("a", "1")]);
    for id in 1..200 {
        story.ask_in_vain(grant(id), false);
        story.ask_in_vain(compact(1), false);
        story.ask_in_vain(put("a", "2"), false);
        story.ask_in_vain(delete("a"), false);
    }
    for _ in 0..200 {
        story.ask(put("a", "1"));
    }
    assert_fine(&story);
    story.ask(put("b", "1"));
    story.revisions.pop_last();
    let at = story.operations.len() - 1;
    story.operations[at].returned = story.operations[at - 1].returned.clone().map(|(moment, r)| (moment + 2, r));
    violation(&story);
}
