//! Anything that clients and other members send is refused, or handled. It never makes a member panic, nor take memory
//! out of proportion. `crates/replica/tests/hostile` explains how this works, and has the tests of states.
//!
//! `UPDATE=1 cargo test -p metastore-server --test hostile` rewrites the inputs that the code makes.

mod messages;
#[path = "../../../replica/tests/hostile/meter.rs"]
mod meter;
#[path = "../../../replica/tests/hostile/mutator.rs"]
mod mutator;
mod requests;

use metastore_proto::Message as _;
use mutator::Memory;

/// Inputs that are made from a corpus; they are short.
const MUTATIONS: u64 = 20_000;
/// A member with its log takes most of this.
const MEMORY: Memory = Memory { base_bytes: 16 << 20, per_byte: 200 };

#[test]
fn messages_of_other_members() {
    mutator::run("peer_message", MUTATIONS, MEMORY, messages::attempt);
}

#[test]
fn requests_of_clients() {
    mutator::run("request", MUTATIONS, MEMORY, requests::attempt);
}

/// Otherwise only the first lines of the checks would be tried.
#[test]
fn real_inputs_come_through() {
    let (appends, others) = (messages::conversation(), messages::others_of_all_kinds());
    assert_eq!(messages::taken(&messages::as_appends(&appends)), (3, 3, 0));
    assert_eq!(messages::taken(&messages::as_others(&others)), (0, 0, others.len() - 1), "one is for followers only");
    let revisions = requests::seeds().into_iter().map(|(name, bytes)| (name, requests::revision_after(&bytes)));
    let written = ["puts-on-a-lease", "ranges", "transaction", "compacted-and-watched", "all-together"];
    for (name, revision) in revisions.filter(|(name, _)| written.contains(name)) {
        assert!(revision >= 4, "{name} comes to revision {revision}");
    }
}

#[test]
fn the_corpus_of_messages_is_what_the_code_makes() {
    let (appends, others) = (messages::conversation(), messages::others_of_all_kinds());
    let stream = messages::as_appends(&appends);
    let after = |at: usize, put: &[u8]| [&stream[..at], put, &stream[at + put.len()..]].concat();
    let seeds = [
        ("appends", stream.clone()),
        ("appends-over-the-other-stream", messages::as_others(&appends)),
        ("all-other-kinds", messages::as_others(&others)),
        ("post-of-an-append", appends[0].encode_to_vec()),
        ("post-of-a-vote", others[3].encode_to_vec()),
        ("link-heartbeats", vec![0; 7]),
        ("nothing", Vec::new()),
        ("cut-in-a-frame", stream[..stream.len() / 2].to_vec()),
        ("length-of-all-ones", after(1, &[0xff; 8])),
        ("entries-without-number", [&[1][..], &[0xff; 8], &stream].concat()),
        ("a-million-empty-entries", [&[1, 0, 0, 0, 0, 0, 0x10, 0, 0][..], &[0; 256]].concat()),
        ("unknown-kind", after(0, &[3])),
        (
            "unknown-type",
            messages::as_others(&[metastore_proto::raftpb::Message { r#type: Some(77), ..others[0].clone() }]),
        ),
    ];
    mutator::check_seeds("peer_message", &seeds);
}

#[test]
fn the_corpus_of_requests_is_what_the_code_makes() {
    mutator::check_seeds("request", &requests::seeds());
}
