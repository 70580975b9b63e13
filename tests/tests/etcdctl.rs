//! The real etcdctl, scripted: its output against the subject must be its output against etcd.
//!
//! One list of steps runs on both servers, on each from an empty store. `text` removes the parts that two servers
//! cannot have in common (ids, versions, sizes, times). Everything else on stdout and stderr must be equal, and
//! so must the exit codes. `users` does the same with authentication enabled.

mod run;
mod script;
mod text;
mod users;

use std::fmt::Debug;
use std::path::PathBuf;

use metastore_tests::member::Member;
use metastore_tests::programs::{self, EngineKind, Server};
use run::Shell;

/// The server sends progress notifications often, so that steps do not wait long for them.
const OFTEN: &str = "--watch-progress-notify-interval=200ms";

each_engine!(etcdctl_prints_what_it_prints_against_etcd);

fn etcdctl_prints_what_it_prints_against_etcd(engine: EngineKind) {
    compare(engine, script::STEPS, |server, etcdctl| {
        let member = Member::start(server, &[OFTEN]);
        let mut shell = Shell::new(etcdctl, member.client_address());
        script::STEPS.iter().map(|step| shell.run(step)).collect()
    });
}

/// Runs the steps on the server under test and on a real etcd, and compares what they print.
fn compare<S: Debug>(engine: EngineKind, steps: &[S], transcript: impl Fn(&Server, PathBuf) -> Vec<String> + Sync) {
    let newest = programs::etcd("newest");
    let found = programs::subject(engine).and_then(|subject| Ok((subject, newest?)));
    let Some((subject, etcd)) = programs::or_skip("etcdctl", found) else { return };
    let etcdctl = || etcd.join("etcdctl");
    let (subject, reference) = std::thread::scope(|scope| {
        let reference = scope.spawn(|| transcript(&Server::etcd(&etcd), etcdctl()));
        (transcript(&subject, etcdctl()), reference.join().expect("the script runs against etcd"))
    });
    let steps = || steps.iter().zip(subject.iter().zip(&reference));
    let starved = steps().filter(|(_, (_, reference))| reference.contains(run::GAVE_UP));
    let starved: Vec<String> = starved.map(|(step, (_, reference))| format!("{step:?}\n{reference}")).collect();
    assert!(starved.is_empty(), "the script waits for lines that etcd does not print:\n{}", starved.join("\n\n"));
    let different = steps().filter(|(_, (subject, reference))| subject != reference);
    let different: Vec<String> = different
        .map(|(step, (subject, reference))| format!("{step:?}\n--- subject\n{subject}\n--- etcd\n{reference}"))
        .collect();
    assert!(different.is_empty(), "{} steps differ:\n{}", different.len(), different.join("\n\n"));
}
