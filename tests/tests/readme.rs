//! The examples of README.md and of the guides do what they say.

use std::path::Path;
use std::process::Command;

use metastore_tests::member::Member;
use metastore_tests::programs::{self, EngineKind};

const SECURITY: &str = include_str!("../../docs/security.md");
const README: &str = include_str!("../../README.md");
const RUST: &str = include_str!("../src/bin/readme.rs");
const ADDRESS: &str = "127.0.0.1:2379";
/// The greeting is the first write.
const PRINTED: &str = "hello at revision 2\n";

/// The code of the example in a language.
fn example(language: &str) -> &'static str {
    let (_, from) = README.split_once(&format!("```{language}\n")).expect("README.md has an example");
    from.split_once("```").expect("an example ends").0
}

/// The output of a program.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_rust_example_puts_and_gets() {
    assert!(RUST.ends_with(example("rust")), "README.md and tests/src/bin/readme.rs differ");
    let Some(server) = programs::or_skip("readme", programs::subject(EngineKind::Memory)) else { return };
    let member = Member::start(&server, &[]);
    let printed = output(Command::new(env!("CARGO_BIN_EXE_readme")).arg(member.client_address()));
    assert_eq!(printed, PRINTED);
}

/// The modules are those with which the real etcd was built, so that nothing has to be loaded.
#[test]
fn the_go_example_puts_and_gets() {
    let go = Command::new("go").arg("version").output().map_err(|error| format!("no go: {error}"));
    let found = programs::subject(EngineKind::Memory).and_then(|server| go.map(|_| server));
    let Ok(server) = found.inspect_err(|reason| eprintln!("SKIPPED readme: {reason}")) else { return };
    let member = Member::start(&server, &[]);
    let directory = std::env::temp_dir().join(format!("metastore-readme-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    let code = example("go").replace(ADDRESS, member.client_address());
    std::fs::write(directory.join("main.go"), code).expect("the disk takes the example");
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("etcd");
    for file in ["go.mod", "go.sum"] {
        std::fs::copy(modules.join(file), directory.join(file)).expect("the modules are named");
    }
    let run = ["run", "-mod=mod", "-trimpath", "-buildvcs=false", "."];
    let printed = output(Command::new("go").args(run).current_dir(&directory));
    _ = std::fs::remove_dir_all(&directory);
    assert_eq!(printed, PRINTED);
}

/// Each command of a guide prints the lines below it. Lines that etcdctl logs are left out.
#[test]
fn the_commands_of_the_guide_to_security_print_what_it_shows() {
    let etcdctl = || programs::etcd(&programs::reference_flavor()).map(|etcd| etcd.join("etcdctl"));
    let found = programs::subject(EngineKind::Memory).and_then(|server| Ok((server, etcdctl()?)));
    let Some((server, etcdctl)) = programs::or_skip("security", found) else { return };
    let member = Member::start(&server, &["--bcrypt-cost=4"]);
    let (_, from) = SECURITY.split_once("```console\n").expect("the guide has commands");
    let shown = from.split_once("```").expect("the commands end").0;
    let (mut printed, mut commands) = (String::new(), 0);
    for command in shown.lines().filter_map(|line| line.strip_prefix("$ etcdctl ")) {
        let output = Command::new(&etcdctl)
            .args(["--endpoints", member.client_address()])
            .args(command.split_whitespace())
            .output()
            .unwrap_or_else(|error| panic!("cannot run etcdctl: {error}"));
        printed.push_str(&format!("$ etcdctl {command}\n{}", String::from_utf8_lossy(&output.stdout)));
        let stderr = String::from_utf8_lossy(&output.stderr);
        stderr.lines().filter(|line| !line.starts_with('{')).for_each(|line| printed.push_str(&format!("{line}\n")));
        commands += 1;
    }
    assert!(commands > 5, "{commands} commands");
    assert_eq!(printed, shown);
}
