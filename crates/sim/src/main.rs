//! `metastore-sim`: see [`metastore_sim`].

use std::process::ExitCode;

#[cfg(feature = "mutants")]
use metastore_sim::machine::EngineKind;
use metastore_sim::runner::{Failure, Seeds, Summary, catch_panics, run_all};
use metastore_sim::world::{Plan, Tracing};

mod arguments;

use arguments::Invocation;

/// Characters of a failure text that the table shows.
#[cfg(feature = "mutants")]
const WORDS: usize = 160;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments::parse(arguments.iter().cloned()) {
        Ok(Invocation::Run { seeds, plan, counts }) => run(seeds, &plan, counts, &arguments),
        Ok(Invocation::Mutants { seeds, plan, numbers }) => find_mutants(seeds, &plan, &numbers),
        Ok(Invocation::Print(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn run(seeds: Seeds, plan: &Plan, counts: bool, arguments: &[String]) -> ExitCode {
    catch_panics();
    let tell = |so_far: &Summary, failure: Option<&Failure>| match failure {
        Some(failure) => {
            println!(
                "seed {} fails: {}\n  play it again: {}",
                failure.seed,
                failure.what,
                again(failure.seed, arguments)
            );
        }
        None => println!(
            "{} seeds, {} failures, {:.0} seeds/min",
            so_far.seeds,
            so_far.failures.len(),
            so_far.seeds_per_minute()
        ),
    };
    let summary = run_all(seeds, plan, &tell);
    if counts {
        summary.counts.all().iter().for_each(|(name, count)| println!("{name:20} {count}"));
    }
    let missing = if plan.trace == Tracing::Off { summary.counts.missing() } else { Vec::new() };
    if !missing.is_empty() {
        println!("never happened: {}", missing.join(", "));
    }
    println!("{}", last_line(&summary));
    if summary.failures.is_empty() && missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn last_line(summary: &Summary) -> String {
    let counts = &summary.counts;
    format!(
        "seeds {}, failures {}, seeds/min {:.0}, operations {}, faults {}, elections {}, snapshots sent {}, unknown \
            outcomes {}",
        summary.seeds,
        summary.failures.len(),
        summary.seeds_per_minute(),
        counts.operations,
        counts.faults(),
        counts.elections,
        counts.states_sent,
        counts.unknown
    )
}

/// Switches on one bug after the other. Each must be found. A table shows the seed that found it, and the failure text.
#[cfg(feature = "mutants")]
fn find_mutants(seeds: Seeds, plan: &Plan, numbers: &[u32]) -> ExitCode {
    catch_panics();
    let mut missed = 0;
    for number in numbers {
        let Some(mutant) = metastore_mutants::Mutant::with_number(*number) else {
            eprintln!("there is no mutant {number}");
            return ExitCode::from(2);
        };
        metastore_mutants::choose(Some(mutant));
        let engines = if mutant.needs_rocksdb() { &[EngineKind::RocksDb] } else { plan.engines };
        let plan = Plan { engines, ..plan.clone() };
        let summary = run_all(Seeds { until_found: true, ..seeds }, &plan, &|_, _| ());
        let (took, name) = (summary.took.as_secs_f64(), mutant.name());
        match summary.failures.iter().find(|failure| !failure.by_itself) {
            Some(Failure { seed, what, .. }) => {
                let what: String = what.chars().take(WORDS).collect();
                println!("{number:3} {name:34} found by seed {seed} after {took:.1} s: {what}");
            }
            None => {
                missed += 1;
                println!("{number:3} {name:34} NOT FOUND by {} seeds in {took:.1} s", summary.seeds);
            }
        }
    }
    println!("mutants {}, found {}", numbers.len(), numbers.len() - missed);
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(feature = "mutants"))]
fn find_mutants(_: Seeds, _: &Plan, _: &[u32]) -> ExitCode {
    eprintln!(
        "built without the deliberate bugs: cargo run --release -p metastore-sim --features mutants -- --mutants all"
    );
    ExitCode::from(2)
}

/// The command that runs one seed and prints its trace.
fn again(seed: u64, arguments: &[String]) -> String {
    let mut kept = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let name = argument.split('=').next().unwrap_or_default();
        match name {
            "--first-seed" | "--seeds" | "--minutes" | "--threads" if name.len() == argument.len() => {
                _ = arguments.next()
            }
            "--first-seed" | "--seeds" | "--minutes" | "--threads" | "--counts" | "--trace" => {}
            _ => kept.push(format!(" {argument}")),
        }
    }
    format!("cargo run --release -p metastore-sim -- --first-seed {seed} --seeds 1 --trace{}", kept.concat())
}
