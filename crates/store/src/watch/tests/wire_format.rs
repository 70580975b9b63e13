//! Fragments and large responses.

use super::*;

const LARGE: usize = 100;

fn large_revision(fixture: &mut Fixture, value_bytes: usize) {
    let puts: Vec<_> = (0..LARGE).map(|i| Op::Put(format!("k{i:03}").into_bytes(), vec![b'x'; value_bytes])).collect();
    let events = fixture.store.apply(&puts).unwrap();
    fixture.hub.publish(&events);
}

fn watch_all(fragment: bool) -> WatchSpec<'static> {
    WatchSpec { key: b"k", range_end: b"l", fragment, ..WatchSpec::default() }
}

#[test]
fn large_responses_are_fragmented_for_those_who_asked() {
    // Small events are encoded once; large ones are encoded during sending.
    for value_bytes in [100, 2000] {
        let limit = 10 * value_bytes;
        let mut fixture = Fixture::new(Limits { fragment_bytes: limit, ..Limits::default() });
        fixture.create(watch_all(false));
        fixture.create(watch_all(true));
        large_revision(&mut fixture, value_bytes);
        let responses = fixture.take();
        let of = |id| responses.iter().filter(move |r| r.watch_id == id && !r.created);
        assert_eq!(of(0).map(|r| (r.events.len(), r.fragment)).collect::<Vec<_>>(), [(LARGE, false)]);
        let fragments: Vec<_> = of(1).collect();
        assert!(fragments.len() > 10);
        let (last, others) = fragments.split_last().unwrap();
        assert!(!last.fragment && others.iter().all(|r| r.fragment), "all but the last say that more follows");
        assert!(fragments.iter().all(|r| r.encode_to_vec().len() < limit && revision(r) == 2));
        let joined: Vec<_> = fragments.iter().flat_map(|r| r.events.clone()).collect();
        assert_eq!(joined, of(0).next().unwrap().events);
    }
}

#[test]
fn a_single_event_is_never_fragmented() {
    let mut fixture = Fixture::new(Limits { fragment_bytes: 100, ..Limits::default() });
    fixture.create(watch_all(true));
    fixture.put("k", &"x".repeat(1000));
    let responses = fixture.take();
    assert_eq!((responses.len(), responses[1].fragment, responses[1].events.len()), (2, false, 1));
}

#[test]
fn events_larger_than_a_fragment_come_one_by_one() {
    let mut fixture = Fixture::new(Limits { fragment_bytes: 100, ..Limits::default() });
    fixture.create(watch_all(true));
    large_revision(&mut fixture, 200);
    let responses = fixture.take();
    assert!(responses[1..].iter().all(|r| r.events.len() == 1));
    assert_eq!(responses[1..].iter().filter(|r| r.fragment).count(), LARGE - 1);
}

#[test]
fn a_large_response_comes_in_pieces_of_bounded_size() {
    let mut fixture = Fixture::new(Limits::default());
    fixture.create(watch_all(false));
    large_revision(&mut fixture, 20_000);
    fixture.hub.take(fixture.stream);
    let response = fixture.hub.take(fixture.stream).unwrap();
    let (len, events) = (response.encoded_len(&HEADER), response.events.as_ref().unwrap().count());
    let pieces: Vec<_> = response.pieces(&HEADER).collect();
    assert_eq!(events, LARGE);
    assert!(pieces.len() > 20 && pieces.iter().all(|piece| piece.len() < crate::watch::PIECE_BYTES + 21_000));
    assert_eq!(pieces.iter().map(|piece| piece.len()).sum::<usize>(), len);
}

#[test]
fn watchers_of_one_group_share_the_encoded_events() {
    let mut fixture = Fixture::new(Limits::default());
    (0..3).for_each(|_| fixture.create(watch_all(false)));
    fixture.put("k", "v");
    let taken: Vec<_> = std::iter::from_fn(|| fixture.hub.take(fixture.stream)).filter_map(|r| r.events).collect();
    assert!(taken.len() == 3 && taken.iter().all(|events| events.shares_with(&taken[0])));
}
