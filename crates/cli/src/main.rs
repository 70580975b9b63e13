//! `metactl`: backups of a cluster, the restoration of one, and the way between etcd and MetaStore.
//!
//! ```text
//!   main ─▶ snapshot   save (through a member), status, restore
//!        ─▶ migrate    from a stopped etcd, and to one
//!        ─▶ mirror     from a running cluster to another one
//!             │
//!             ├▶ connection   a member, over gRPC
//!             ├▶ directory    a data directory under construction
//!             └▶ engines, progress, output
//! ```
//!
//! Commands, flags, texts and exit codes are those of etcdctl and etcdutl where these have them.

mod arguments;
mod connection;
mod directory;
mod engines;
mod failure;
mod migrate;
mod mirror;
mod output;
mod progress;
mod snapshot;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command, Snapshot};

fn main() -> ExitCode {
    let Arguments { output, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors.
            let code = if error.use_stderr() { failure::BAD_ARGUMENTS } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let done = match command {
        Command::Snapshot(Snapshot::Save(save)) => snapshot::save::run(&save),
        Command::Snapshot(Snapshot::Status { file }) => snapshot::status::run(&file, output.write_out),
        Command::Snapshot(Snapshot::Restore(restore)) => snapshot::restore::run(&restore),
        Command::Migrate(migrate) => migrate::run(&migrate),
        Command::Mirror(mirror) => mirror::run(&mirror),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("Error: {}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}
