//! Encrypted connections of clients and of members, with etcd's own client and beside real etcds.

mod clients;
mod members;
mod users;

use std::process::Command;

use metastore_tests::certificates::Authority;
use metastore_tests::member::{Identity, Member};
use metastore_tests::programs::{self, EngineKind, Server};

/// The server under test, and etcdctl; `None` if one is missing.
pub fn programs(test: &str, engine: EngineKind) -> Option<(Server, Etcdctl)> {
    let etcdctl = programs::etcd(&programs::reference_flavor()).map(|directory| directory.join("etcdctl"));
    let found = programs::subject(engine).and_then(|subject| Ok((subject, Etcdctl(etcdctl?))));
    programs::or_skip(test, found)
}

pub struct Etcdctl(std::path::PathBuf);

impl Etcdctl {
    /// Runs it once. Returns what it prints, on stdout or else on stderr.
    pub fn run(&self, url: &str, flags: &[String], arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.0);
        command.args(["--endpoints", url, "--dial-timeout=5s", "--command-timeout=10s"]).args(flags).args(arguments);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCDCTL_")) {
            command.env_remove(name);
        }
        let output = command.output().expect("etcdctl runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// Flags with which etcdctl shows the certificate `name`.
pub fn shows(ca: &Authority, name: &str) -> Vec<String> {
    let files = [("cert", format!("{name}.crt")), ("key", format!("{name}.key")), ("cacert", "ca.crt".into())];
    files.iter().map(|(flag, file)| ca.flag(flag, file)).collect()
}

/// A member that serves clients with TLS, with these flags besides.
pub fn member(subject: &Server, ca: &Authority, flags: &[String]) -> Member {
    ca.sign("server");
    let identity = Identity::local("m");
    let url = format!("https://{}", identity.client_address);
    let own = [
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        ca.flag("cert-file", "server.crt"),
        ca.flag("key-file", "server.key"),
    ];
    let flags: Vec<_> = own.iter().chain(flags).map(String::as_str).collect();
    Member::with_identity(subject, identity, &flags)
}

pub fn url(member: &Member) -> String {
    format!("https://{}", member.client_address())
}

/// Whether the log has a line with all of these texts.
fn says(member: &Member, texts: &[&str]) -> bool {
    member.log().iter().any(|line| texts.iter().all(|text| line.contains(text)))
}
