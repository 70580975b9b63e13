//! `metactl`: from etcd to MetaStore and back, with the same content on both sides.

mod amid;
mod bad_files;
mod content;
mod hostile;
mod interrupted;
mod migration;
mod mirror;
mod restore;
mod secured;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use metastore_tests::programs::{self, EngineKind, Server};

/// The programs of a test: the server under test, `metactl`, and the directory of a real etcd.
struct Programs {
    subject: Server,
    metactl: Metactl,
    etcd: PathBuf,
}

impl Programs {
    /// `None` if one is missing.
    fn find(test: &str, engine: EngineKind, etcd: &str) -> Option<Programs> {
        let found = programs::subject(engine).and_then(|subject| {
            Ok(Programs { subject, metactl: Metactl(programs::metactl()?), etcd: programs::etcd(etcd)? })
        });
        programs::or_skip(test, found).filter(|found| !found.subject.is_etcd())
    }

    fn etcdutl(&self) -> PathBuf {
        self.etcd.join("etcdutl")
    }

    fn reference(&self) -> Server {
        Server::etcd(&self.etcd)
    }
}

struct Metactl(PathBuf);

impl Metactl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        command.args(arguments);
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("metactl runs")
    }

    /// Its output.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Its error, when it fails with this code.
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(text(&output.stdout).is_empty(), "{arguments:?}: {output:?}");
        text(&output.stderr)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
