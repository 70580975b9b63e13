use metastore_proto::etcdserverpb::ResponseHeader;

use super::*;

fn key_value(key: &str, (create_revision, mod_revision, version): (i64, i64, i64)) -> KeyValue {
    let value = mod_revision.to_string().into();
    KeyValue { key: key.to_owned().into(), create_revision, mod_revision, version, value, lease: 0 }
}

fn put(key: &str, numbers: (i64, i64, i64), prev_kv: Option<KeyValue>) -> Event {
    Event { r#type: EventType::Put.into(), kv: Some(key_value(key, numbers)), prev_kv }
}

fn delete(key: &str, mod_revision: i64, prev_kv: KeyValue) -> Event {
    let kv = KeyValue { key: key.to_owned().into(), mod_revision, ..KeyValue::default() };
    Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: Some(prev_kv) }
}

/// Revisions 2 to 4 put `a`, `b` and `c`; 5 changes `b`, `a` and `c` together, 6 deletes `b`, 7 puts `d`, 8 changes
/// `a`.
fn revisions() -> Revisions {
    let (a, b, c) = (key_value("a", (2, 2, 1)), key_value("b", (3, 3, 1)), key_value("c", (4, 4, 1)));
    let (a5, b5) = (key_value("a", (2, 5, 2)), key_value("b", (3, 5, 2)));
    let at_once = vec![
        put("b", (3, 5, 2), Some(b)), //
        put("a", (2, 5, 2), Some(a)),
        put("c", (4, 5, 2), Some(c)),
    ];
    Revisions::from([
        (2, vec![put("a", (2, 2, 1), None)]),
        (3, vec![put("b", (3, 3, 1), None)]),
        (4, vec![put("c", (4, 4, 1), None)]),
        (5, at_once),
        (6, vec![delete("b", 6, b5)]),
        (7, vec![put("d", (7, 7, 1), None)]),
        (8, vec![put("a", (2, 8, 3), Some(a5))]),
    ])
}

/// All keys from `key` on, up to `end`.
fn request(key: &'static str, end: &'static str, start_revision: i64) -> WatchCreateRequest {
    let (key, range_end) = (key.into(), end.into());
    WatchCreateRequest { key, range_end, start_revision, prev_kv: true, ..WatchCreateRequest::default() }
}

fn response(revision: i64, events: Vec<Event>) -> WatchResponse {
    let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
    WatchResponse { header, watch_id: 3, events, ..WatchResponse::default() }
}

fn created(revision: i64) -> WatchResponse {
    WatchResponse { created: true, ..response(revision, Vec::new()) }
}

fn progress(revision: i64) -> WatchResponse {
    response(revision, Vec::new())
}

fn compacted(compact_revision: i64) -> WatchResponse {
    WatchResponse { canceled: true, compact_revision, ..response(0, Vec::new()) }
}

fn fragment(revision: i64, events: &[Event]) -> WatchResponse {
    WatchResponse { fragment: true, ..response(revision, events.to_vec()) }
}

/// The events of one revision, as a response.
fn live(revision: i64) -> WatchResponse {
    response(revision, revisions()[&revision].clone())
}

fn watch(request: WatchCreateRequest, responses: Vec<WatchResponse>) -> Watch {
    Watch { client: 4, request, responses, complete_to: None, compacted: 0 }
}

/// A watch of all keys from revision 2 on that received every change.
fn whole() -> Watch {
    let responses = [created(8)].into_iter().chain((2..=8).map(live)).collect();
    Watch { complete_to: Some(8), ..watch(request("", "\0", 2), responses) }
}

#[track_caller]
fn accepts(watch: &Watch) {
    assert_eq!(check(watch, &revisions()), Ok(()));
}

#[track_caller]
fn rejects(watch: &Watch, why: &str) {
    let violation = check(watch, &revisions()).unwrap_err();
    assert!(violation.starts_with("client 4 watches") && violation.contains(why), "{violation}");
}

/// Checks that a good watch is rejected after a change.
#[track_caller]
fn rejects_changed(change: impl Fn(&mut Vec<WatchResponse>), why: &str) {
    let mut watch = whole();
    accepts(&watch);
    change(&mut watch.responses);
    rejects(&watch, why);
}

fn events(revision: i64, keys: &[&str]) -> Vec<Event> {
    let wanted = |event: &&Event| keys.iter().any(|key| event.kv.as_ref().unwrap().key == key.as_bytes());
    revisions()[&revision].iter().filter(wanted).cloned().collect()
}

#[test]
fn a_watch_that_lives_through_everything() {
    accepts(&whole());
    accepts(&watch(request("", "\0", 2), Vec::new()));
    accepts(&watch(request("", "\0", 2), vec![created(8), live(2), live(3)]));
}

#[test]
fn a_watch_that_catches_up() {
    let past = (2..=6).flat_map(|revision| revisions()[&revision].clone()).collect();
    accepts(&watch(request("", "\0", 2), vec![created(6), response(6, past), live(7), progress(8 - 1), live(8)]));
}

#[test]
fn ranges() {
    let one = response(8, [events(5, &["a"]), events(8, &["a"])].concat());
    accepts(&Watch { complete_to: Some(8), ..watch(request("a", "", 3), vec![created(8), one.clone()]) });
    accepts(&Watch { complete_to: Some(8), ..watch(request("a", "b", 3), vec![created(8), one.clone()]) });
    let from_c = response(8, [events(4, &["c"]), events(5, &["c"]), events(7, &["d"])].concat());
    accepts(&Watch { complete_to: Some(8), ..watch(request("c", "\0", 3), vec![created(8), from_c]) });
    rejects(&watch(request("b", "", 3), vec![created(8), one]), "is missing");
    rejects(&watch(request("e", "\0", 3), vec![created(8), live(7)]), "not what this watcher asked for");
    rejects(&watch(request("a", "d", 7), vec![created(8), live(7)]), "not what this watcher asked for");
}

#[test]
fn filters() {
    let filtered = |filter: FilterType, responses: Vec<WatchResponse>| {
        let request = WatchCreateRequest { filters: vec![filter.into()], ..request("", "\0", 6) };
        Watch { complete_to: Some(8), ..watch(request, responses) }
    };
    accepts(&filtered(FilterType::Noput, vec![created(8), live(6), progress(8)]));
    accepts(&filtered(FilterType::Nodelete, vec![created(8), live(7), live(8)]));
    rejects(&filtered(FilterType::Noput, vec![created(8), live(6), live(7)]), "not what this watcher asked for");
    rejects(&filtered(FilterType::Nodelete, vec![created(8), live(6), live(7)]), "not what this watcher asked for");
    rejects(&filtered(FilterType::Nodelete, vec![created(8), live(8)]), "of revision 7 is missing");
}

#[test]
fn an_event_that_is_left_out() {
    rejects_changed(|responses| drop(responses.remove(3)), "of revision 4 is missing");
    rejects_changed(|responses| drop(responses.remove(1)), "of revision 2 is missing");
    // The last response.
    rejects_changed(|responses| drop(responses.pop()), "up to 8 should be here");
}

#[test]
fn events_that_come_again_or_in_another_order() {
    rejects_changed(|responses| responses.insert(3, live(3)), "comes again, or out of order");
    rejects_changed(|responses| responses.push(live(8)), "comes again, or out of order");
    rejects_changed(|responses| responses.swap(2, 3), "of revision 3 is missing");
    rejects_changed(|responses| responses[4].events.swap(0, 1), "comes in the place of");
    rejects_changed(|responses| responses[1].events.push(events(2, &["a"]).remove(0)), "comes again");
}

#[test]
fn a_revision_that_is_torn() {
    let torn = |responses: &mut Vec<WatchResponse>| {
        let last = responses[4].events.pop().unwrap();
        responses.insert(5, response(5, vec![last]));
    };
    rejects_changed(torn, "revision 5 is torn");
}

#[test]
fn an_event_is_not_what_it_was() {
    let kv = |event: &mut Event, change: fn(&mut KeyValue)| change(event.kv.as_mut().unwrap());
    let changes: [fn(&mut KeyValue); 5] = [
        |kv| kv.value = "x".into(),
        |kv| kv.key = "bb".into(),
        |kv| kv.create_revision += 1,
        |kv| kv.version += 1,
        |kv| kv.lease = 9,
    ];
    for change in changes {
        rejects_changed(|responses| kv(&mut responses[4].events[0], change), "comes in the place of");
    }
    rejects_changed(|responses| responses[5].events[0].r#type = EventType::Put.into(), "comes in the place of");
    rejects_changed(|responses| responses[7].events[0].kv = None, "comes again, or out of order");
}

#[test]
fn previous_values() {
    rejects_changed(|responses| responses[4].events[0].prev_kv = None, "has the previous value None");
    rejects_changed(|responses| responses[4].events[0].prev_kv.as_mut().unwrap().version = 7, "has the previous value");
    let previous = Some(key_value("a", (2, 2, 1)));
    rejects_changed(|responses| responses[2].events[0].prev_kv = previous.clone(), "and it was None");
    // The previous value was not requested.
    let mut silent = whole();
    silent.request.prev_kv = false;
    rejects(&silent, "and it was None");
    silent.responses.iter_mut().flat_map(|response| &mut response.events).for_each(|event| event.prev_kv = None);
    accepts(&silent);
}

#[test]
fn previous_values_that_are_compacted() {
    let without = |revision: i64| {
        let mut event = events(revision, &["b"]).remove(0);
        event.prev_kv = None;
        event
    };
    let past = |compacted| {
        let responses = vec![created(8), response(8, vec![without(5), without(6)])];
        Watch { compacted, ..watch(request("b", "", 5), responses) }
    };
    accepts(&past(6));
    rejects(&past(5), "revision 6 has the previous value None");
    // From now on, as a live event.
    let now = |header| Watch {
        compacted: 8,
        ..watch(request("b", "", 0), vec![created(5), response(header, vec![without(6)])])
    };
    accepts(&now(7));
    rejects(&now(6), "revision 6 has the previous value None");
    // A wrong value is never accepted, only a missing one.
    let mut wrong = past(8);
    wrong.responses[1].events[0].prev_kv = Some(key_value("b", (3, 4, 1)));
    rejects(&wrong, "has the previous value Some");
}

#[test]
fn from_now_on() {
    accepts(&Watch { complete_to: Some(8), ..watch(request("", "\0", 0), vec![created(6), live(7), live(8)]) });
    rejects(&watch(request("", "\0", 0), vec![created(6), live(6)]), "comes again, or out of order");
    rejects(&watch(request("", "\0", 0), vec![created(6), live(8)]), "of revision 7 is missing");
    let nothing = Watch { complete_to: Some(7), ..watch(request("", "\0", 0), vec![created(6)]) };
    rejects(&nothing, "up to 7 should be here");
}

#[test]
fn from_a_revision_to_come() {
    accepts(&watch(request("", "\0", 8), vec![created(4), live(8)]));
    accepts(&Watch { complete_to: Some(8), ..watch(request("", "\0", 20), vec![created(4)]) });
    rejects(&watch(request("", "\0", 8), vec![created(4), live(5)]), "comes again, or out of order");
    rejects(&watch(request("", "\0", 8), vec![created(4), progress(5)]), "progress is at 5");
}

#[test]
fn progress_that_is_ahead_or_goes_back() {
    accepts(&watch(request("d", "", 2), vec![created(4), progress(6), live(7), progress(7), progress(8), progress(8)]));
    rejects(&watch(request("d", "", 2), vec![created(4), progress(7), live(7)]), "up to 7 should be here");
    rejects(&watch(request("d", "", 2), vec![created(4), progress(6), progress(5)]), "progress is at 5");
    rejects(&watch(request("", "\0", 2), vec![created(4), live(2), live(3), progress(2)]), "progress is at 2");
    rejects_changed(|responses| responses.insert(3, progress(4)), "up to 4 should be here");
}

#[test]
fn progress_of_a_whole_stream() {
    let all = |events| WatchResponse { watch_id: ALL_WATCHERS, ..response(7, events) };
    accepts(&watch(request("d", "", 2), vec![created(4), live(7), all(Vec::new())]));
    rejects(&watch(request("d", "", 2), vec![created(4), all(Vec::new())]), "up to 7 should be here");
    rejects(&watch(request("d", "", 2), vec![created(4), all(events(7, &["d"]))]), "it is for watcher -1");
}

#[test]
fn headers() {
    rejects_changed(|responses| responses[4].header = None, "the header has no revision");
    rejects_changed(|responses| responses[4] = response(4, events(5, &["a", "b", "c"])), "the header says 4");
    rejects_changed(|responses| responses[4].watch_id = 9, "it is for watcher 9, this one is 3");
}

#[test]
fn creations() {
    rejects_changed(|responses| drop(responses.remove(0)), "is not created yet");
    rejects_changed(|responses| responses.insert(1, created(8)), "it was created before");
    rejects_changed(|responses| responses[0].events = events(2, &["a"]), "more than a creation");
    rejects_changed(|responses| responses[0].header = None, "the header has no revision");
    let numbered = WatchCreateRequest { watch_id: 5, ..request("a", "", 2) };
    rejects(&watch(numbered, vec![created(8)]), "it got the id 3, and asked for 5");
    let unanswered = Watch { complete_to: Some(8), ..watch(request("a", "", 2), Vec::new()) };
    rejects(&unanswered, "its creation was never answered");
}

#[test]
fn creations_that_are_refused() {
    let refused = WatchResponse { canceled: true, watch_id: -1, ..created(8) };
    for request in [request("b", "a", 2), request("b", "b", 2), request("", "\0", -1)] {
        accepts(&Watch { complete_to: Some(8), ..watch(request.clone(), vec![refused.clone()]) });
        rejects(&watch(request, vec![created(8)]), "should have been refused");
    }
    rejects(&watch(request("a", "", 2), vec![refused, live(2)]), "it was canceled before");
}

#[test]
fn cancellations() {
    let canceled = WatchResponse { canceled: true, ..response(8, Vec::new()) };
    accepts(&Watch {
        complete_to: Some(8),
        ..watch(request("", "\0", 2), vec![created(8), live(2), canceled.clone()])
    });
    rejects_changed(|responses| responses.insert(3, canceled.clone()), "it was canceled before");
    let with_events = WatchResponse { canceled: true, ..live(2) };
    rejects(&watch(request("", "\0", 2), vec![created(8), with_events]), "it is canceled, with events");
}

#[test]
fn cancellations_by_a_compaction() {
    let overtaken = |to, newest| Watch {
        compacted: newest,
        ..watch(request("", "\0", 2), vec![created(8), live(2), live(3), compacted(to)])
    };
    accepts(&overtaken(5, 7));
    rejects(&overtaken(4, 7), "4 is compacted, and is at 4 already");
    rejects(&overtaken(3, 7), "3 is compacted, and is at 4 already");
    rejects(&overtaken(6, 5), "the newest compaction is 5");
}

#[test]
fn fragments() {
    let (five, six) = (revisions()[&5].clone(), revisions()[&6].clone());
    let fragments = |responses: &[WatchResponse]| {
        let request = WatchCreateRequest { fragment: true, ..request("", "\0", 5) };
        watch(request, [&[created(8)], responses].concat())
    };
    let begin = fragment(6, &five[..2]);
    accepts(&fragments(&[begin.clone(), response(6, [&five[2..], &six].concat())]));
    accepts(&fragments(&[begin.clone(), fragment(6, &five[2..]), response(6, six.clone()), live(7)]));
    // The connection broke.
    accepts(&fragments(std::slice::from_ref(&begin)));
    let broken = Watch { complete_to: Some(5), ..fragments(std::slice::from_ref(&begin)) };
    rejects(&broken, "the last fragments have no end");
    rejects(&fragments(&[begin.clone(), progress(6)]), "the fragments before it have no end");
    rejects(&fragments(&[begin.clone(), compacted(8)]), "the fragments before it have no end");
    rejects(&fragments(&[begin.clone(), response(6, six)]), "is missing");
    rejects(&fragments(&[begin.clone(), begin.clone()]), "comes in the place of");
    rejects(&fragments(&[response(6, five[..2].to_vec())]), "revision 5 is torn");
    rejects(&watch(request("", "\0", 5), vec![created(8), begin]), "a fragment, which was not asked for");
}

#[test]
fn an_event_that_never_was() {
    let invented = response(9, vec![put("z", (9, 9, 1), None)]);
    rejects_changed(|responses| responses.push(invented.clone()), "or never was");
}

#[test]
fn where_a_client_watches_on() {
    let next = |start, responses: &[WatchResponse]| next_revision(&watch(request("", "\0", start), responses.to_vec()));
    assert_eq!((next(0, &[]), next(5, &[])), (0, 5));
    assert_eq!((next(0, &[created(6)]), next(5, &[created(6)]), next(9, &[created(6)])), (7, 5, 9));
    assert_eq!(next(5, &[created(8), live(5)]), 6);
    assert_eq!(next(5, &[created(8), live(5), progress(7)]), 8);
    // These events are read from history: more of them may follow, up to the header's revision.
    assert_eq!(next(2, &[created(8), response(8, events(3, &["b"]))]), 4);
    let five = revisions()[&5].clone();
    assert_eq!(next(4, &[created(8), live(4), fragment(5, &five[..2])]), 5);
    assert_eq!(next(4, &[created(8), live(4), fragment(5, &five[..2]), response(5, five[2..].to_vec())]), 6);
    assert_eq!((next(4, &[created(8), compacted(7)]), next(4, &[created(8), live(4)])), (7, 5));
    let refused = WatchResponse { canceled: true, watch_id: -1, ..created(8) };
    assert_eq!((next(4, std::slice::from_ref(&refused)), next(0, &[refused])), (4, 0));
}

#[test]
fn chains() {
    let first = watch(request("", "\0", 0), vec![created(3), live(4), live(5)]);
    let second = watch(request("", "\0", 6), vec![created(4)]);
    let third =
        Watch { complete_to: Some(8), ..watch(request("", "\0", 6), vec![created(8), live(6), live(7), live(8)]) };
    let chain = [first, second, third];
    assert_eq!(check_chain(&chain, &revisions()), Ok(()));
    assert_eq!(check_chain(&[], &revisions()), Ok(()));
    let rejects = |change: fn(&mut [Watch; 3]), why: &str| {
        let mut chain = chain.clone();
        change(&mut chain);
        let violation = check_chain(&chain, &revisions()).unwrap_err();
        assert!(violation.contains(why), "{violation}");
    };
    rejects(|chain| drop(chain[0].responses.pop()), "does not watch on from 5");
    rejects(|chain| chain[1].request.start_revision = 7, "does not watch on from 6");
    rejects(|chain| chain[2].request.key = "b".into(), "does not watch on from 6");
    rejects(|chain| chain[2].request.filters = vec![1], "does not watch on from 6");
    rejects(|chain| drop(chain[2].responses.remove(1)), "of revision 6 is missing");
    rejects(|chain| chain[1].responses.push(live(5)), "comes again, or out of order");
}
