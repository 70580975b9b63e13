//! The simulator's share of the tests: a fixed number of seeds for each engine, on all processors.
//!
//! More: `cargo run --release -p metastore-sim -- --first-seed 100000 --seeds 100000`.

use metastore_sim::machine::EngineKind;
use metastore_sim::runner::{Seeds, Summary, catch_panics, run_all};
use metastore_sim::world::{Plan, lie};

const MEMORY: &[EngineKind] = &[EngineKind::Memory];
const MIXED: &[EngineKind] = &[EngineKind::RocksDb, EngineKind::Memory];
const ROCKSDB: &[EngineKind] = &[EngineKind::RocksDb];

fn run(engines: &'static [EngineKind], count: u64) -> Summary {
    catch_panics();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let seeds = Seeds { first: 1, count, time: None, threads, until_found: false };
    let plan = Plan { engines, ..Plan::default() };
    let summary = run_all(seeds, &plan, &|_, _| ());
    println!("{count} seeds, {:.0} a minute: {:#?}", summary.seeds_per_minute(), summary.counts);
    let failed: Vec<_> = summary.failures.iter().map(|failure| format!("{}: {}", failure.seed, failure.what)).collect();
    assert!(
        failed.is_empty(),
        "seeds fail; play one again: cargo run --release -p metastore-sim -- --engine {} --seeds 1 --trace \
            --first-seed N\n{}",
        if engines == MIXED { "mixed" } else { engines[0].name() },
        failed.join("\n")
    );
    summary
}

/// One test for all engines: each uses all processors.
#[test]
fn clusters_keep_their_promises() {
    let summary = run(MEMORY, 3000);
    let never: Vec<_> =
        summary.counts.all().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    assert!(never.is_empty(), "never happened: {never:?}");
    assert!(run(MIXED, 12).counts.missing().is_empty());
    run(ROCKSDB, 6);
}

/// Whatever messages the others send, a member continues or stops with a reason.
#[test]
fn a_liar_brings_nobody_down() {
    let plan = Plan { members: Some(3), ticks: 60, ..Plan::default() };
    let (mut taken, mut refused) = (0, 0);
    for seed in 1..=150 {
        let lies = lie(seed, &plan);
        (taken, refused) = (taken + lies.0, refused + lies.1);
    }
    assert!(taken > 1500 && refused > 1500, "{taken} taken, {refused} refused");
}
