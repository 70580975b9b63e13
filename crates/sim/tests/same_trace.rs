//! Nothing but the seed decides what happens: two processes print the same trace, to the byte.

use std::process::{Command, Output};

fn trace(seed: u64, engine: &str) -> Vec<u8> {
    let seed = seed.to_string();
    let arguments = ["--seeds", "1", "--trace", "--engine", engine, "--first-seed", &seed];
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_metastore-sim")).args(arguments).output().expect("the simulator runs");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    // The last line contains the duration.
    let end = stdout.strip_suffix(b"\n").and_then(|text| text.iter().rposition(|byte| *byte == b'\n'));
    stdout[..end.expect("more than a line")].to_vec()
}

#[test]
fn the_same_seed_gives_the_same_trace_in_another_process() {
    for (seed, engine) in [(1, "memory"), (2, "memory"), (3, "memory"), (4, "mixed")] {
        let (first, second) = (trace(seed, engine), trace(seed, engine));
        let lines = |trace: &[u8]| String::from_utf8_lossy(trace).lines().map(str::to_owned).collect::<Vec<_>>();
        let (one, other) = (lines(&first), lines(&second));
        assert!(one.len() > 1000, "a trace of {} lines", one.len());
        let differs = one.iter().zip(&other).position(|(one, other)| one != other);
        assert!(
            first == second,
            "seed {seed} on {engine} differs at line {differs:?} of {} and {}",
            one.len(),
            other.len()
        );
        assert!(trace(seed + 100, engine) != first, "another seed gives another trace");
    }
}
