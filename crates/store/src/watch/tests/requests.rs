//! Creation, cancellation and progress requests, and the peculiarities of etcd's answers.

use std::time::{Duration, Instant};

use super::*;

fn prefix<'a>(key: &'a [u8], range_end: &'a [u8]) -> WatchSpec<'a> {
    WatchSpec { key, range_end, ..WatchSpec::default() }
}

#[test]
fn a_watcher_without_a_start_sees_what_happens_from_now_on() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.put("a", "before");
    fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    fixture.put("a", "1");
    fixture.put("b", "other");
    fixture.delete("a");
    let responses = fixture.take();
    assert!(responses[0].created && !responses[0].canceled && responses[0].events.is_empty());
    assert_eq!((responses[0].watch_id, revision(&responses[0])), (0, 2));
    let events: Vec<_> = responses[1..].iter().map(|r| (revision(r), text(&r.events))).collect();
    assert_eq!(events, [(3, vec!["put a=1@3".to_string()]), (5, vec!["del a@5".to_string()])]);
}

#[test]
fn ranges_are_read_as_in_etcd() {
    for (key, range_end, expected) in [
        (&b"b"[..], &b""[..], vec!["b"]),
        (b"b", b"d", vec!["b", "c"]),
        (b"b", b"\0", vec!["b", "c", "d"]),
        (b"", b"\0", vec!["a", "b", "c", "d"]),
        (b"\0", b"\0", vec!["a", "b", "c", "d"]),
        (b"", b"c", vec!["a", "b"]),
    ] {
        let mut fixture = Fixture::new(Limits::default());
        fixture.create(prefix(key, range_end));
        ["a", "b", "c", "d"].iter().for_each(|key| fixture.put(key, ""));
        let keys: Vec<_> = fixture.take()[1..].iter().map(|r| r.events[0].kv.clone().unwrap().key).collect();
        assert_eq!(keys, expected, "{key:?} to {range_end:?}");
    }
}

#[test]
fn refused_creations_answer_with_id_minus_one_and_leave_the_stream_alone() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.put("a", "1");
    fixture.create(WatchSpec { key: b"a", watch_id: 5, ..WatchSpec::default() });
    fixture.create(WatchSpec { key: b"b", watch_id: 5, ..WatchSpec::default() });
    fixture.create(prefix(b"b", b"b"));
    fixture.create(prefix(b"b", b"a"));
    fixture.create(WatchSpec { key: b"a", start_revision: -1, ..WatchSpec::default() });
    fixture.hub.refuse(fixture.stream, "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
    let responses = fixture.take();
    let refused: Vec<_> = responses[1..].iter().map(|r| r.cancel_reason.as_str()).collect();
    assert_eq!(
        refused,
        [
            "mvcc: duplicate watch ID provided on the WatchStream",
            "mvcc: watcher range is empty",
            "mvcc: watcher range is empty",
            "etcdserver: mvcc: required revision has been compacted",
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
        ]
    );
    for r in &responses[1..] {
        assert!(r.created && r.canceled, "{r:?}");
        assert_eq!((r.watch_id, revision(r), r.compact_revision), (-1, 2, 0));
    }
    fixture.put("a", "2");
    assert_eq!(text(&fixture.take()[0].events), ["put a=2@3"]);
    assert_eq!(fixture.hub.counts().watchers, 1);
}

#[test]
fn ids_count_from_zero_and_skip_those_that_the_client_chose() {
    let mut fixture = Fixture::new(Limits::default());
    for watch_id in [0, 1, 2, 0, 7, 0] {
        fixture.create(WatchSpec { key: b"a", watch_id, ..WatchSpec::default() });
    }
    fixture.hub.cancel(fixture.stream, 0);
    fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    let ids: Vec<_> = fixture.take().iter().filter(|r| r.created).map(|r| r.watch_id).collect();
    assert_eq!(ids, [0, 1, 2, 3, 7, 4, 5], "a cancelled id is not given again");
}

#[test]
fn a_compacted_start_is_created_and_then_cancelled() {
    let mut fixture = Fixture::new(Limits::default());
    for i in 0..5 {
        fixture.put("a", &i.to_string());
    }
    fixture.store.compact(4);
    fixture.create(WatchSpec { key: b"a", start_revision: 3, ..WatchSpec::default() });
    fixture.create(WatchSpec { key: b"a", start_revision: 4, ..WatchSpec::default() });
    let responses = fixture.drain();
    assert!(responses[0].created && !responses[0].canceled);
    let canceled = &responses[1];
    assert!(canceled.canceled && !canceled.created && canceled.cancel_reason.is_empty());
    assert_eq!((canceled.watch_id, revision(canceled), canceled.compact_revision), (0, 0, 4));
    assert_eq!(
        text(&responses[3].events),
        ["put a=2@4", "put a=3@5", "put a=4@6"],
        "the compacted revision itself is readable"
    );
}

#[test]
fn a_tombstone_at_the_compacted_revision_is_delivered() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.put("a", "1");
    fixture.delete("a");
    fixture.store.compact(3);
    fixture.create(WatchSpec { key: b"a", start_revision: 3, prev_kv: true, ..WatchSpec::default() });
    let responses = fixture.drain();
    assert_eq!(text(&responses[1].events), ["del a@3"], "and its previous value is compacted");
}

#[test]
fn a_future_start_begins_at_its_revision() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.create(WatchSpec { key: b"a", start_revision: 4, ..WatchSpec::default() });
    for i in 0..4 {
        fixture.put("a", &i.to_string());
    }
    let responses = fixture.take();
    assert_eq!(responses[1..].iter().map(revision).collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn a_future_start_survives_a_loss() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.create(WatchSpec { key: b"a", start_revision: 5, ..WatchSpec::default() });
    fixture.store.put("a", "2");
    fixture.hub.lost();
    fixture.catch_up();
    for i in 3..7 {
        fixture.put("a", &i.to_string());
    }
    assert_eq!(fixture.drain()[1..].iter().map(revision).collect::<Vec<_>>(), [5, 6]);
}

#[test]
fn filters_and_previous_values() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.put("a", "0");
    let spec = WatchSpec { key: b"a", ..WatchSpec::default() };
    fixture.create(WatchSpec { no_put: true, ..spec });
    fixture.create(WatchSpec { no_delete: true, ..spec });
    fixture.create(WatchSpec { no_put: true, no_delete: true, ..spec });
    fixture.create(WatchSpec { prev_kv: true, ..spec });
    fixture.create(WatchSpec { prev_kv: true, start_revision: 2, ..spec });
    fixture.put("a", "1");
    fixture.delete("a");
    let responses = fixture.drain();
    let of = |id| {
        let of_id = responses.iter().filter(|r| r.watch_id == id && !r.created);
        of_id.flat_map(|r| text(&r.events)).collect::<Vec<_>>()
    };
    assert_eq!(of(0), ["del a@4"]);
    assert_eq!(of(1), ["put a=1@3"]);
    assert!(!responses.iter().any(|r| r.watch_id == 2 && !r.created), "nothing is sent where all is filtered");
    assert_eq!(of(3), ["put a=1@3 prev=0", "del a@4 prev=1"]);
    assert_eq!(of(4), ["put a=0@2", "put a=1@3 prev=0", "del a@4 prev=1"], "the same from history");
}

#[test]
fn a_delete_event_has_the_key_and_the_revision_alone() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    fixture.put("a", "1");
    fixture.delete("a");
    let event = fixture.take().pop().unwrap().events.remove(0);
    let expected = KeyValue { key: "a".into(), mod_revision: 3, ..KeyValue::default() };
    assert_eq!((event.r#type, event.kv, event.prev_kv), (1, Some(expected), None));
}

#[test]
fn cancelling_answers_only_for_a_watcher_that_exists() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    fixture.hub.cancel(fixture.stream, 9);
    fixture.hub.cancel(fixture.stream, 0);
    fixture.hub.cancel(fixture.stream, 0);
    fixture.put("a", "1");
    let responses = fixture.take();
    assert_eq!(responses.len(), 2);
    assert!(responses[1].canceled && responses[1].cancel_reason.is_empty() && responses[1].watch_id == 0);
    assert_eq!(fixture.hub.counts().groups, 0);
}

#[test]
fn requested_progress_is_for_streams_whose_watchers_are_all_synced() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.hub.progress(fixture.stream);
    assert!(fixture.take().is_empty(), "no watchers");
    fixture.put("a", "1");
    fixture.create(WatchSpec { key: b"a", start_revision: 2, ..WatchSpec::default() });
    fixture.take();
    fixture.hub.progress(fixture.stream);
    assert!(fixture.take().is_empty(), "dropped silently while a watcher is behind");
    fixture.drain();
    fixture.hub.progress(fixture.stream);
    let responses = fixture.take();
    assert_eq!(responses.len(), 1);
    assert_eq!((responses[0].watch_id, revision(&responses[0])), (-1, 2));
    assert!(!responses[0].created && !responses[0].canceled && responses[0].events.is_empty());
    fixture.create(WatchSpec { key: b"a", start_revision: 9, ..WatchSpec::default() });
    fixture.take();
    fixture.hub.progress(fixture.stream);
    assert!(fixture.take().is_empty(), "a watcher begins in the future");
}

#[test]
fn requested_progress_waits_for_events_that_are_on_their_way() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    fixture.take();
    let first = fixture.store.put("b", "1");
    let second = fixture.store.put("a", "2");
    fixture.hub.progress(fixture.stream);
    fixture.hub.progress(fixture.stream);
    assert!(fixture.take().is_empty(), "revision 3 is current, but its event has not come");
    fixture.hub.publish(&first);
    assert!(fixture.take().is_empty());
    fixture.hub.publish(&second);
    let responses = fixture.take();
    assert_eq!(text(&responses[0].events), ["put a=2@3"]);
    assert_eq!((responses.len(), responses[1].watch_id, revision(&responses[1])), (2, -1, 3));
}

#[test]
fn a_progress_request_is_answered_together_with_an_earlier_one_that_waits() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
    fixture.take();
    let events = [(); 2].map(|()| {
        let events = fixture.store.put("b", "1");
        fixture.hub.progress(fixture.stream);
        events
    });
    fixture.hub.publish(&events[0]);
    let answers: Vec<_> = fixture.take().iter().map(|r| (r.watch_id, revision(r))).collect();
    assert_eq!(answers, [(-1, 2)]);
    fixture.hub.publish(&events[1]);
    assert!(fixture.take().is_empty(), "one answer for both");
    fixture.hub.progress(fixture.stream);
    assert_eq!(fixture.take().len(), 1, "no request waits any more");
}

#[test]
fn requests_for_progress_cost_the_same_however_many_streams_wait() {
    const STREAMS: u64 = 20_000;
    let mut fixture = Fixture::new(Limits::default());
    let streams: Vec<_> = (0..STREAMS).map(|now| fixture.hub.open_stream(now)).collect();
    for stream in &streams {
        fixture.hub.create(*stream, &WatchSpec { key: b"a", ..WatchSpec::default() });
        fixture.hub.take(*stream);
    }
    let events: Vec<_> = (0..10).map(|_| fixture.store.put("b", "1")).collect();
    let began = Instant::now();
    for stream in &streams {
        fixture.hub.progress(*stream);
    }
    for published in &events {
        assert!(fixture.hub.take(streams[0]).is_none(), "the revision of the request is not published yet");
        fixture.hub.publish(published);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for stream in streams {
        let response = fixture.hub.take(stream).expect("progress");
        assert_eq!((response.watch_id, response.revision), (-1, 11));
        assert!(fixture.hub.take(stream).is_none(), "one answer");
    }
}

#[test]
fn a_hub_that_was_left_out_while_it_had_no_watchers_knows_where_it_is() {
    let mut fixture = Fixture::new(Limits::new(1 << 20, 1000));
    fixture.store.put("a", "1");
    fixture.create(WatchSpec { key: b"a", progress_notify: true, ..WatchSpec::default() });
    fixture.hub.progress(fixture.stream);
    fixture.hub.tick(1100);
    let progress: Vec<_> = fixture.take()[1..].iter().map(|r| (r.watch_id, revision(r))).collect();
    assert_eq!(progress, [(-1, 2), (0, 2)]);
    fixture.put("a", "2");
    assert_eq!(text(&fixture.take()[0].events), ["put a=2@3"]);
}

#[test]
fn quiet_watchers_hear_of_progress() {
    let mut fixture = Fixture::new(Limits::new(1 << 20, 1000));
    let interval_ms = 1100;
    let spec = WatchSpec { key: b"a", progress_notify: true, ..WatchSpec::default() };
    fixture.create(spec);
    fixture.create(WatchSpec { key: b"b", ..spec });
    fixture.create(WatchSpec { key: b"a", progress_notify: false, ..spec });
    fixture.create(WatchSpec { start_revision: 100, ..spec });
    fixture.put("a", "1");
    fixture.take();
    fixture.hub.tick(999);
    assert!(fixture.take().is_empty(), "not before the interval is over");
    fixture.hub.tick(interval_ms);
    let ids: Vec<_> = fixture.take().iter().map(|r| (r.watch_id, revision(r))).collect();
    assert_eq!(ids, [(1, 2)], "watcher 0 had an event, 2 did not ask, 3 begins in the future");
    fixture.hub.tick(2 * interval_ms);
    let ids: Vec<_> = fixture.take().iter().map(|r| (r.watch_id, revision(r))).collect();
    assert_eq!(ids, [(0, 2), (1, 2)]);
    assert!(fixture.hub.next_deadline_ms().is_some_and(|at| at >= 2 * interval_ms + 1000));
}

#[test]
fn closed_streams_leave_nothing_behind() {
    let mut fixture = Fixture::new(Limits { queue_responses: 1, ..Limits::default() });
    fixture.hub.close_stream(fixture.stream);
    let empty = fixture.hub.counts();
    fixture.put("k", "0");
    for round in 0..10_000 {
        let stream = fixture.hub.open_stream(round);
        let key = format!("k{}", round % 7);
        fixture.hub.create(stream, &WatchSpec { key: key.as_bytes(), ..WatchSpec::default() });
        fixture
            .hub
            .create(stream, &WatchSpec { key: b"k", range_end: b"l", progress_notify: true, ..WatchSpec::default() });
        fixture.hub.create(stream, &WatchSpec { key: b"k", start_revision: 2, ..WatchSpec::default() });
        fixture.hub.create(stream, &WatchSpec { key: b"k", start_revision: 1 << 40, ..WatchSpec::default() });
        fixture.hub.progress(stream);
        match round % 3 {
            0 => fixture.catch_up(),
            1 => fixture.hub.lost(),
            _ => fixture.put(&key, ""),
        }
        assert_eq!(fixture.hub.counts().watchers, 4);
        fixture.hub.close_stream(stream);
        fixture.hub.create(stream, &WatchSpec { key: b"k", ..WatchSpec::default() });
        assert!(fixture.hub.take(stream).is_none(), "a closed stream gives nothing");
    }
    let counts = fixture.hub.counts();
    assert_eq!(counts.queued, 0);
    assert_eq!(super::super::Counts { events: 0, ..counts }, empty);
    assert!(fixture.hub.ready.is_empty() && fixture.hub.next_woken().is_none());
    assert!(fixture.hub.deadlines.is_empty() && fixture.hub.progress_waiting.is_empty());
}

#[test]
fn a_closed_stream_is_not_mistaken_for_the_stream_that_took_its_place() {
    let mut fixture = Fixture::new(Limits::default());
    let closed = fixture.stream;
    let spec = WatchSpec { key: b"a", ..WatchSpec::default() };
    fixture.create(spec);
    // With a watcher of another stream, the hub waits for the revisions that it was not told of.
    let other = fixture.hub.open_stream(0);
    fixture.hub.create(other, &spec);
    let events = fixture.store.put("b", "1");
    fixture.hub.progress(closed);
    fixture.hub.close_stream(closed);
    fixture.stream = fixture.hub.open_stream(0);
    assert_eq!(fixture.stream.slot, closed.slot);
    fixture.create(spec);
    assert_eq!(fixture.take().len(), 1);

    fixture.hub.publish(&events);
    assert!(fixture.take().is_empty(), "the progress request was another stream's");
    fixture.hub.create(closed, &spec);
    fixture.hub.refuse(closed, "refused");
    fixture.hub.cancel(closed, 0);
    fixture.hub.progress(closed);
    assert!(fixture.take().is_empty(), "and so are these requests");
    assert!(!fixture.hub.accepts_requests(closed) && fixture.hub.accepts_requests(fixture.stream));
    fixture.put("a", "2");
    assert!(fixture.hub.take(closed).is_none());
    fixture.hub.close_stream(closed);
    assert_eq!(text(&fixture.take()[0].events), ["put a=2@3"]);
}

#[test]
fn a_client_that_asks_without_reading_is_made_to_wait() {
    let mut fixture = Fixture::new(Limits { queue_responses: 3, ..Limits::default() });
    let mut asked = 0;
    while fixture.hub.accepts_requests(fixture.stream) {
        fixture.create(WatchSpec { key: b"a", ..WatchSpec::default() });
        asked += 1;
    }
    assert_eq!(asked, 3);
    fixture.take();
    assert!(fixture.hub.accepts_requests(fixture.stream));
}
