//! Tests of hostile input from outside. It is refused or accepted, but it never makes a member panic or take more
//! memory than the input justifies.
//!
//! The inputs are in `fuzz/corpus`: small real ones, and some that are cut short or garbled. Each input is tried as it
//! is, and so are some thousands of mutations of them ([`mutator`]). `UPDATE=1 cargo test -p metastore-replica --test
//! hostile` writes the generated inputs anew. `MUTATIONS=1000000` in the environment makes the test run for a long
//! time. `cargo fuzz` runs the same targets, and is guided by the code that inputs reach.
//!
//! This is a separate binary because its allocator counts bytes ([`meter`]).

mod meter;
mod mutator;
mod states;

use mutator::Memory;

/// Number of inputs made from a corpus.
const MUTATIONS: u64 = 2000;
/// Most of the base is for members with their logs. The stream is held one block at a time, and the state made from it
/// once.
const MEMORY: Memory = Memory { base_bytes: 16 << 20, per_byte: 200 };

#[test]
fn states_and_snapshots() {
    mutator::run("snapshot", MUTATIONS, MEMORY, states::attempt);
}

/// If real inputs were refused, the tests would reach only the first checks.
#[test]
fn real_inputs_come_through() {
    let (newest, more) = (9, 6);
    assert_eq!(states::arrive(&states::stream_of(&states::script())), Some(newest + more));
    let written = states::written();
    assert!(states::start_with("state", &written.file("state")).is_some_and(|revision| revision > newest + more));
    assert!(states::start_with("snap", &written.file("snap")).is_some_and(|revision| revision > newest + more));
    assert_eq!(states::start_with("state", &states::stream_of(&states::script())), None, "the state at another entry");
}

#[test]
fn the_corpus_of_states_is_what_the_code_makes() {
    let (state, record) = (states::stream_of(&states::script()), states::written().file("snap"));
    let after = |bytes: &[u8], at: usize, put: &[u8]| [&bytes[..at], put, &bytes[at + put.len()..]].concat();
    let end = state.len();
    let operation =
        1 + state.windows(9).position(|bytes| bytes == b"_\0\0\0\0\0\0\0\0").expect("the first of a revision");
    let seeds = [
        ("state-empty", states::stream_of(&[])),
        ("state", state.clone()),
        ("state-on-disk", states::written().file("state")),
        ("record", record.clone()),
        ("nothing", Vec::new()),
        ("cut-in-the-header", state[..20].to_vec()),
        ("cut-in-a-block", state[..end / 2].to_vec()),
        ("cut-before-the-end", state[..end - 16].to_vec()),
        ("more-behind-the-end", [&state[..], b"more"].concat()),
        ("another-format", after(&state, 8, &[9])),
        ("entry-of-all-ones", after(&state, 12, &[0xff; 8])),
        ("term-of-all-ones", after(&state, 20, &[0xff; 8])),
        ("revision-of-all-ones", after(&state, 28, &[0xff; 8])),
        ("revision-zero", after(&state, 28, &[0; 8])),
        ("operation-of-all-ones", after(&state, operation, &[0xff; 8])),
        ("block-of-a-gibibyte", after(&state, 36, &(1u32 << 30).to_le_bytes())),
        ("block-of-all-ones", after(&state, 36, &[0xff; 4])),
        ("rows-of-all-ones", after(&state, end - 8, &[0xff; 8])),
        ("record-cut", record[..record.len() / 2].to_vec()),
        ("record-flipped", after(&record, record.len() - 3, &[0x55])),
    ];
    mutator::check_seeds("snapshot", &seeds);
}
