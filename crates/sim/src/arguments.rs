//! The command line.

use std::time::Duration;

use metastore_sim::clients::Workload;
use metastore_sim::faults::FaultKind;
use metastore_sim::machine::EngineKind;
use metastore_sim::runner::Seeds;
use metastore_sim::world::{Plan, Tracing};

pub const USAGE: &str = "\
metastore-sim: runs a simulated cluster from one seed after the other, and checks what its clients saw

  --first-seed N       the first seed (default 1)
  --seeds N            how many (default 1000)
  --minutes M          begin no seed after M minutes
  --threads N          seeds that run side by side (default: one for each processor)
  --engine E           memory (default), rocksdb, or mixed: one after the other
  --members N          of the cluster (default: the seed says 1, 3 or 5)
  --profile P          all (default): the seed draws workload and faults; kubernetes, mixed: that workload;
                       calm: no faults; network, disk, membership: these faults alone
  --rate KIND=N        so many thousandths, per message or per tick; 0 switches a kind of fault off; may be repeated
  --trace              prints everything that happens; for one seed
  --counts             prints all counts at the end
  --mutants LIST       all, or numbers: switches on one deliberate bug after the other, each of which must be found
  --list-mutants       prints them

KIND is one of: ";

/// The work that the command line asks for.
pub enum Invocation {
    Run { seeds: Seeds, plan: Plan, counts: bool },
    Mutants { seeds: Seeds, plan: Plan, numbers: Vec<u32> },
    Print(String),
}

/// Reads the command line.
///
/// # Errors
/// The argument that cannot be read.
pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Invocation, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut seeds = Seeds { first: 1, count: 1000, time: None, threads, until_found: false };
    let (mut plan, mut counts, mut mutants) = (Plan::default(), false, None);
    let mut arguments = arguments.flat_map(|argument| {
        let parts: Vec<String> = argument.splitn(2, '=').map(str::to_owned).collect();
        if argument.starts_with("--") { parts } else { vec![argument] }
    });
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--first-seed" => seeds.first = number(&name, &value()?)?,
            "--seeds" => seeds.count = number(&name, &value()?)?,
            "--minutes" => {
                let minutes: f64 = number(&name, &value()?)?;
                seeds.time = Some(Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| error.to_string())?);
            }
            "--threads" => seeds.threads = number(&name, &value()?)?,
            "--members" => plan.members = Some(number(&name, &value()?)?).filter(|members| *members > 0),
            "--engine" => plan.engines = engines(&value()?)?,
            "--profile" => profile(&value()?, &mut plan)?,
            "--rate" => plan.rates.push(rate(&value()?)?),
            "--trace" => (plan.trace, seeds.threads) = (Tracing::Print, 1),
            "--counts" => counts = true,
            "--mutants" => mutants = Some(numbers(&value()?)?),
            "--list-mutants" => return Ok(Invocation::Print(list())),
            "--help" | "-h" => return Ok(Invocation::Print(usage())),
            _ => return Err(format!("unknown argument {name:?}\n\n{}", usage())),
        }
    }
    Ok(match mutants {
        Some(numbers) => Invocation::Mutants { seeds, plan, numbers },
        None => Invocation::Run { seeds, plan, counts },
    })
}

fn usage() -> String {
    let kinds: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
    format!("{USAGE}{}", kinds.join(", "))
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name} {text:?} is not a number that fits"))
}

fn engines(text: &str) -> Result<&'static [EngineKind], String> {
    Ok(match text {
        "memory" => &[EngineKind::Memory],
        "rocksdb" => &[EngineKind::RocksDb],
        "mixed" => &[EngineKind::RocksDb, EngineKind::Memory],
        _ => return Err(format!("--engine {text:?}: memory, rocksdb or mixed")),
    })
}

fn profile(text: &str, plan: &mut Plan) -> Result<(), String> {
    let only = |wanted: &[FaultKind]| -> Vec<(FaultKind, u64)> {
        FaultKind::ALL.iter().filter(|kind| !wanted.contains(kind)).map(|kind| (*kind, 0)).collect()
    };
    plan.kinds_of_fault = 0;
    match text {
        "all" => *plan = Plan { trace: plan.trace, engines: plan.engines, members: plan.members, ..Plan::default() },
        "kubernetes" => plan.workload = Some(Workload::Kubernetes),
        "mixed" => plan.workload = Some(Workload::Mixed),
        "calm" => plan.rates.extend(only(&[])),
        "network" => plan.rates.extend(only(&[
            FaultKind::Loss,
            FaultKind::Doubling,
            FaultKind::Straggling,
            FaultKind::Partition,
            FaultKind::Flapping,
            FaultKind::Pause,
        ])),
        "disk" => plan.rates.extend(only(&[
            FaultKind::Crash,
            FaultKind::FailedSync,
            FaultKind::FailedWrite,
            FaultKind::FullDisk,
            FaultKind::HungSync,
            FaultKind::SlowSync,
            FaultKind::FlippedBit,
            FaultKind::MisdirectedWrite,
            FaultKind::OlderCopies,
        ])),
        "membership" => {
            plan.rates.extend(only(&[FaultKind::Reshape, FaultKind::Transfer, FaultKind::Crash, FaultKind::Pause]))
        }
        _ => return Err(format!("--profile {text:?}: all, kubernetes, mixed, calm, network, disk or membership")),
    }
    Ok(())
}

fn rate(text: &str) -> Result<(FaultKind, u64), String> {
    let wrong = || format!("--rate {text:?}: KIND=N, as in crash=20");
    let (name, rate) = text.split_once('=').ok_or_else(wrong)?;
    let kind = FaultKind::ALL.iter().find(|kind| kind.name() == name).ok_or_else(wrong)?;
    Ok((*kind, rate.parse().map_err(|_| wrong())?))
}

fn numbers(text: &str) -> Result<Vec<u32>, String> {
    let all = || metastore_mutants::Mutant::ALL.iter().map(|mutant| mutant.number()).collect();
    if text == "all" { Ok(all()) } else { text.split(',').map(|text| number("--mutants", text)).collect() }
}

fn list() -> String {
    let line = |mutant: &metastore_mutants::Mutant| format!("{:3} {}", mutant.number(), mutant.name());
    metastore_mutants::Mutant::ALL.iter().map(line).collect::<Vec<_>>().join("\n")
}
