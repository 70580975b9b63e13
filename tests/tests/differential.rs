//! The same random calls to the subject and to a real etcd: the answers must be equal.
//!
//! ```text
//!   seed --> grammar --> call --+--> subject ----> answer --+--> normalise --> equal? --> new state for the grammar
//!                               +--> reference --> answer --+                  |
//!                                                                              +--> coverage table
//! ```
//!
//! A run consists of several *worlds*: independent pairs of servers with seeds of their own. Each world makes one call
//! at a time, so that every answer is determined and a seed can be replayed. The comparison covers all fields of all
//! answers, the codes and texts of errors, and the events of every watcher. `normalise` lists the few differences that
//! are allowed between two correct servers. At the end of a world the whole store is read and hashed on both.
//!
//! - `CALLS=n`   the number of calls in all worlds together (default 50,000), or in the one world of `SEED`
//! - `SEED=n`    replays the world with this seed
//! - `ETCD_FLAVOR=3.5.1`   compares with the old etcd; `known` lists its differences
//!
//! One more world has users (`users`): calls are made in the name of any of them, while users, roles and permissions
//! change.
//!
//! Not compared: indexes and sizes in Status, and answers that depend on ports (members, Hash).

mod call;
mod coverage;
mod features;
mod grammar;
mod known;
mod normalise;
mod txns;
mod users;
mod watching;
mod world;

use coverage::Coverage;
use known::KNOWN;
use metastore_tests::programs::{self, EngineKind, Server};
use world::Plan;

const DEFAULT_CALLS: usize = 50_000;
/// The number of steps in the world with users.
const USER_STEPS: usize = 6_000;
/// The number of pairs of servers that run at the same time.
const WORLDS: usize = 4;
/// The first seed. The seeds are fixed, and so is their number.
const FIRST_SEED: u64 = 1;

each_engine!(the_subject_answers_like_etcd, the_subject_answers_users_like_etcd);

fn the_subject_answers_like_etcd(engine: EngineKind) {
    let flavor = programs::reference_flavor();
    let found = programs::subject(engine);
    let found = found.and_then(|subject| Ok((subject, Server::etcd(&programs::etcd(&flavor)?))));
    let Some((subject, reference)) = programs::or_skip("differential", found) else { return };
    let calls = number("CALLS").unwrap_or(DEFAULT_CALLS as u64) as usize;
    let old_reference = flavor == "3.5.1";
    match number("SEED") {
        Some(seed) => {
            let plan = Plan { seed, calls, old_reference };
            if let Err(report) = world::run(&subject, &reference, plan) {
                panic!("{report}");
            }
        }
        None => compare(&subject, &reference, calls, old_reference),
    }
}

fn compare(subject: &Server, reference: &Server, calls: usize, old_reference: bool) {
    let plans = (0..WORLDS as u64).map(|n| Plan { seed: FIRST_SEED + n, calls: calls.div_ceil(WORLDS), old_reference });
    let results: Vec<_> = std::thread::scope(|scope| {
        let worlds: Vec<_> = plans.map(|plan| scope.spawn(|| world::run(subject, reference, plan))).collect();
        worlds.into_iter().map(|world| world.join().expect("a world does not panic")).collect()
    });
    let mut coverage = Coverage::new(features::cells());
    let mut hits = vec![0; KNOWN.len()];
    let mut reports = Vec::new();
    for result in results {
        match result {
            Ok((world, known)) => {
                coverage.add(&world);
                hits.iter_mut().zip(known).for_each(|(sum, hits)| *sum += hits);
            }
            Err(report) => reports.push(report),
        }
    }
    println!("{}", coverage.table());
    assert!(reports.is_empty(), "{} of {WORLDS} worlds differ:\n\n{}", reports.len(), reports.join("\n\n"));
    if old_reference {
        let unused = KNOWN.iter().zip(&hits).filter(|(_, hits)| **hits == 0).map(|(known, _)| known.name);
        let unused: Vec<&str> = unused.collect();
        assert!(unused.is_empty(), "known differences that no call showed: {unused:?}");
    }
    let mut missing = coverage.missing();
    // Cells that calls to 3.5.1 leave out cannot be covered with it.
    missing.retain(|cell| !old_reference || !grammar::SPARED.iter().any(|spared| cell.starts_with(spared)));
    assert!(missing.is_empty(), "not tested often enough:\n  {}", missing.join("\n  "));
}

fn the_subject_answers_users_like_etcd(engine: EngineKind) {
    if programs::reference_flavor() != "newest" {
        println!("differential, users: skipped, because etcd 3.5 lets callers do other things");
        return;
    }
    let found = programs::subject(engine).and_then(|subject| Ok((subject, Server::etcd(&programs::etcd("newest")?))));
    let Some((subject, reference)) = programs::or_skip("differential, users", found) else { return };
    let steps = number("CALLS").map_or(USER_STEPS, |calls| calls as usize);
    let seed = number("SEED").unwrap_or(FIRST_SEED);
    if let Err(report) = users::run(&subject, &reference, seed, steps) {
        panic!("{report}");
    }
}

/// The number in an environment variable. Panics if its value is not a number.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
