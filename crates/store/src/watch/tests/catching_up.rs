//! Unsynced watchers: slow clients, overflowed mailboxes, large revisions, compaction.

use super::*;

fn all_revisions(responses: &[WatchResponse]) -> Vec<i64> {
    responses.iter().flat_map(|r| &r.events).map(|e| e.kv.as_ref().unwrap().mod_revision).collect()
}

#[test]
fn a_slow_stream_delays_only_itself() {
    let limits = Limits { queue_responses: 2, ..Limits::default() };
    let mut fixture = Fixture::new(limits);
    fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    let fast = fixture.hub.open_stream(0);
    fixture.hub.create(fast, &WatchSpec { key: b"a", ..WatchSpec::default() });
    let mut seen = Vec::new();
    for i in 0..50 {
        fixture.put("a", &i.to_string());
        fixture.catch_up();
        while let Some(response) = fixture.hub.take(fast) {
            seen.push(decode(response));
        }
    }
    assert_eq!(all_revisions(&seen), (2..52).collect::<Vec<_>>());
    let counts = fixture.hub.counts();
    assert_eq!((counts.unsynced, counts.queued), (1, 3), "two responses and one for the watcher");
    let slow = fixture.drain();
    assert_eq!(all_revisions(&slow), (2..52).collect::<Vec<_>>());
    assert_eq!(slow.len(), 4, "what was missed comes in one response");
    assert_eq!(revision(&slow[3]), 51, "which names the current revision");
    assert_eq!(fixture.hub.counts().unsynced, 0);
}

#[test]
fn bytes_bound_a_queue_too() {
    let mut fixture = Fixture::new(Limits { queue_bytes: 1000, ..Limits::default() });
    fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    for _ in 0..10 {
        fixture.put("a", &"x".repeat(400));
    }
    assert_eq!(fixture.hub.counts().queued, 4, "the answer and three events, the third across the line");
    assert_eq!(all_revisions(&fixture.drain()), (2..12).collect::<Vec<_>>());
}

#[test]
fn a_gap_in_what_is_published_sends_everyone_to_history() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    fixture.put("a", "1");
    let lost = fixture.store.put("a", "2");
    fixture.put("a", "3");
    fixture.hub.publish(&lost);
    fixture.put("a", "4");
    assert_eq!(all_revisions(&fixture.drain()), [2, 3, 4, 5]);
    fixture.put("a", "5");
    assert_eq!(all_revisions(&fixture.take()), [6], "live again");
}

#[test]
fn history_may_be_ahead_of_what_is_published() {
    let mut fixture = Fixture::new(Limits::default());
    let late: Vec<_> = (0..4).map(|i| fixture.store.put("a", &i.to_string())).collect();
    fixture.create(WatchSpec { key: b"a", start_revision: 2, ..WatchSpec::default() });
    fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    let mut responses = fixture.drain();
    late.iter().for_each(|events| fixture.hub.publish(events));
    fixture.put("a", "live");
    responses.extend(fixture.drain());
    let of = |id| responses.iter().filter(|r| r.watch_id == id).cloned().collect::<Vec<_>>();
    assert_eq!(all_revisions(&of(0)), [2, 3, 4, 5, 6]);
    assert_eq!(all_revisions(&of(1)), [6], "what was current when it was created is not its");
}

#[test]
fn a_response_from_history_holds_a_thousand_revisions_at_most() {
    let mut fixture = Fixture::new(Limits::default());
    for i in 0..2500 {
        fixture.put("a", &i.to_string());
    }
    fixture.create(WatchSpec { key: b"a", start_revision: 2, ..WatchSpec::default() });
    let responses = fixture.drain();
    let sizes: Vec<_> = responses[1..].iter().map(|r| r.events.len()).collect();
    assert_eq!(sizes, [1000, 1000, 500]);
    assert!(responses[1..].iter().all(|r| revision(r) == 2501));
}

#[test]
fn a_revision_larger_than_a_chunk_comes_whole() {
    let mut fixture = Fixture::new(Limits { chunk_rows: 10, ..Limits::default() });
    let keys: Vec<_> = (0..335).map(|i| format!("k{i:04}").into_bytes()).collect();
    fixture.store.apply(&keys.iter().map(|key| Op::Put(key.clone(), vec![])).collect::<Vec<_>>());
    fixture.store.put("k0", "");
    fixture.store.apply(&keys.iter().map(|key| Op::Delete(key.clone())).collect::<Vec<_>>());
    fixture.store.put("k1", "");
    fixture.hub.lost();
    fixture.create(WatchSpec { key: b"k", range_end: b"l", start_revision: 2, ..WatchSpec::default() });
    fixture.create(WatchSpec { key: b"k", range_end: b"l", start_revision: 4, prev_kv: true, ..WatchSpec::default() });
    let responses = fixture.drain();
    let sizes = |id| {
        let of_id = responses.iter().filter(|r| r.watch_id == id && !r.created);
        of_id.map(|r| r.events.len()).collect::<Vec<_>>()
    };
    assert_eq!(sizes(0), [335, 1, 335, 1]);
    assert_eq!(sizes(1), [335, 1]);
    let deletes = responses.iter().find(|r| r.watch_id == 1 && r.events.len() == 335).unwrap();
    assert!(deletes.events.iter().all(|e| e.r#type == 1 && e.prev_kv.is_some()));
    assert!(fixture.hub.chunk.is_none());
}

#[test]
fn previous_values_count_towards_the_bytes_of_a_step() {
    let mut fixture = Fixture::new(Limits { chunk_bytes: 2000, ..Limits::default() });
    for key in ["a", "b", "c", "d", "e"] {
        fixture.put(key, &"x".repeat(900));
    }
    for key in ["a", "b", "c", "d", "e"] {
        fixture.delete(key);
    }
    fixture.create(WatchSpec { key: b"a", range_end: b"z", start_revision: 7, prev_kv: true, ..WatchSpec::default() });
    fixture.create(WatchSpec { key: b"d", range_end: b"f", start_revision: 11, ..WatchSpec::default() });
    fixture.hub.from_head = true;
    let responses = fixture.drain();
    let of = |id| responses.iter().filter(move |r| r.watch_id == id && !r.created);
    assert_eq!(of(0).map(|r| r.events.len()).collect::<Vec<_>>(), [3, 2]);
    assert!(of(0).flat_map(|r| &r.events).all(|e| e.prev_kv.is_some()));
    assert_eq!(of(1).map(|r| text(&r.events)).collect::<Vec<_>>(), [["del e@11"]], "it begins behind the early end");
}

#[test]
fn compaction_ends_a_watcher_that_is_too_slow() {
    let mut fixture = Fixture::new(Limits { queue_responses: 1, ..Limits::default() });
    fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    for i in 0..10 {
        fixture.put("a", &i.to_string());
    }
    fixture.store.compact(8);
    let responses = fixture.drain();
    let last = responses.last().unwrap();
    assert_eq!((last.canceled, last.compact_revision, revision(last)), (true, 8, 0));
    assert!(last.cancel_reason.is_empty());
    assert_eq!(all_revisions(&responses), [2], "what was queued before is delivered");
    assert_eq!(fixture.hub.counts().watchers, 0);
}

#[test]
fn compaction_within_an_unfinished_revision_ends_its_watchers() {
    let mut fixture = Fixture::new(Limits { chunk_rows: 4, ..Limits::default() });
    let puts: Vec<_> = (0..20).map(|i| Op::Put(vec![b'k', i], vec![])).collect();
    fixture.store.apply(&puts);
    fixture.store.apply(&puts);
    fixture.hub.lost();
    fixture.create(WatchSpec { key: b"k", range_end: b"l", start_revision: 2, ..WatchSpec::default() });
    assert!(fixture.hub.catch_up().unwrap() && fixture.hub.chunk.is_some());
    fixture.store.compact(3);
    let responses = fixture.drain();
    assert_eq!((responses.len(), responses[1].compact_revision), (2, 3));
    assert!(fixture.hub.chunk.is_none());
}

#[test]
fn compaction_between_two_reads_of_a_step_leaves_no_gap() {
    let mut fixture = Fixture::new(Limits::default());
    for i in 0..30 {
        fixture.put("a", &i.to_string());
    }
    fixture.create(WatchSpec { key: b"a", start_revision: 2, ..WatchSpec::default() });
    fixture.create(WatchSpec { key: b"a", start_revision: 25, ..WatchSpec::default() });
    fixture.hub.from_head = true;
    fixture.store.compact_after_read(20);
    let responses = fixture.drain();
    assert!(responses.iter().any(|r| r.watch_id == 0 && r.compact_revision == 20));
    assert_eq!(all_revisions(&responses), (25..32).collect::<Vec<_>>(), "of the other");
}

#[test]
fn members_of_a_group_may_be_slow_and_leave_in_any_order() {
    let mut fixture = Fixture::new(Limits { queue_responses: 0, ..Limits::default() });
    let streams: Vec<_> = (0..6).map(|_| fixture.hub.open_stream(0)).collect();
    for stream in &streams {
        fixture.hub.create(*stream, &WatchSpec { key: b"a", ..WatchSpec::default() });
    }
    // The answer to its creation fills the queue of a stream: take the answers of all streams but two.
    let slow = [streams[0], streams[3]];
    streams.iter().filter(|stream| !slow.contains(stream)).for_each(|stream| _ = fixture.hub.take(*stream));
    fixture.put("a", "1");
    assert_eq!(fixture.hub.counts().unsynced, 2);
    for (left, closed) in [(5, 5), (4, 0), (3, 4), (2, 1), (1, 3), (0, 2)] {
        fixture.hub.close_stream(streams[closed]);
        fixture.put("a", "more");
        for stream in &streams {
            while fixture.hub.take(*stream).is_some() {}
        }
        fixture.catch_up();
        assert_eq!(fixture.hub.counts().watchers, left);
    }
}

#[test]
fn watchers_that_wait_for_room_are_not_kept_by_those_that_need_none() {
    let mut fixture = Fixture::new(Limits { queue_responses: 2, ..Limits::default() });
    for _ in 0..10 {
        fixture.create(WatchSpec { key: b"a", start_revision: 100, ..WatchSpec::default() });
    }
    for _ in 0..10 {
        fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    }
    fixture.put("a", "1");
    fixture.hub.lost();
    let responses = fixture.drain();
    assert_eq!(all_revisions(&responses), [2; 10]);
    assert_eq!(fixture.hub.counts().unsynced, 0);
}

#[test]
fn one_step_serves_a_bounded_number_of_watchers() {
    let mut fixture = Fixture::new(Limits { chunk_watchers: 10, chunk_rows: 5, ..Limits::default() });
    for i in 0..20 {
        fixture.put("k", &i.to_string());
    }
    // More groups than are compared one by one, and more watchers than one step serves.
    for i in 0..20u8 {
        fixture.create(WatchSpec { key: b"k", range_end: &[b'l', i], start_revision: 2, ..WatchSpec::default() });
    }
    fixture.take();
    fixture.hub.catch_up().unwrap();
    assert_eq!(fixture.take().len(), 10);
    let responses = fixture.drain();
    for id in 0..20 {
        let of_id: Vec<_> = responses.iter().filter(|r| r.watch_id == id).cloned().collect();
        let from = 22 - all_revisions(&of_id).len() as i64;
        assert!(from == 2 || from == 7, "watcher {id} begins at {from}");
        assert_eq!(all_revisions(&of_id), (from..22).collect::<Vec<_>>(), "watcher {id}");
    }
}

#[test]
fn a_watcher_near_the_head_does_not_wait_for_one_far_behind() {
    let mut fixture = Fixture::new(Limits { chunk_rows: 10, ..Limits::default() });
    for i in 0..1000 {
        fixture.put("a", &i.to_string());
    }
    fixture.create(WatchSpec { key: b"a", start_revision: 2, ..WatchSpec::default() });
    fixture.create(WatchSpec { key: b"a", start_revision: 995, ..WatchSpec::default() });
    fixture.hub.catch_up().unwrap();
    fixture.hub.catch_up().unwrap();
    let responses = fixture.take();
    assert!(responses.iter().any(|r| r.watch_id == 1 && r.events.len() == 7), "served in the first two steps");
    assert!(responses.iter().any(|r| r.watch_id == 0 && r.events.len() == 10), "and so is the other");
}

#[test]
fn watchers_at_one_place_share_one_pass_and_one_encoding() {
    let mut fixture = Fixture::new(Limits::default());
    for i in 0..10 {
        fixture.put("a", &i.to_string());
    }
    for _ in 0..100 {
        fixture.create(WatchSpec { key: b"a", start_revision: 5, ..WatchSpec::default() });
    }
    assert!(!fixture.hub.catch_up().unwrap());
    let counts = fixture.hub.counts();
    assert_eq!((counts.unsynced, counts.groups, counts.events), (0, 1, 700));
}
