//! The `metastore` server.

use std::process::ExitCode;

use metastore_server::config::{self, Config, ConfigError, Conversion, Invocation, Notes};
use metastore_server::notify::Notifier;
use metastore_server::{convert, logging, signals, start};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code of Go's flag parser on a usage error.
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    match config::load(std::env::args().skip(1), std::env::vars()) {
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Invocation::Start(config, notes)) => signals::end_process(run(&config, &notes)),
        Ok(Invocation::Convert(conversion)) => signals::end_process(run_conversion(&conversion)),
        Err(ConfigError::Convert(error)) => {
            eprintln!("{error}\n\n{}", config::convert::USAGE);
            ExitCode::from(USAGE_ERROR)
        }
        Err(ConfigError::Parse(error)) => {
            eprintln!("{}", config::help::complaint(&error));
            ExitCode::from(USAGE_ERROR)
        }
        Err(error) => {
            refuse(&error.to_string());
            logging::finish();
            ExitCode::FAILURE
        }
    }
}

/// The log's own settings are among those that could not be used: it starts with its defaults.
fn refuse(error: &str) {
    let _ = logging::start(&logging::Settings::default());
    tracing::warn!(error, "failed to verify flags");
}

fn run_conversion(conversion: &Conversion) -> u8 {
    match convert::run(conversion) {
        Ok(done) => {
            println!("{done}");
            signals::SUCCESS
        }
        Err(error) => {
            eprintln!("metastore convert: {error}");
            signals::FAILURE
        }
    }
}

fn run(config: &Config, notes: &Notes) -> u8 {
    if let Err(error) = logging::start(&config.log) {
        refuse(&error);
        return signals::FAILURE;
    }
    for flag in &notes.without_effect {
        tracing::warn!(flag = %flag, "this flag has no effect here");
    }
    for variable in &notes.unrecognized {
        tracing::warn!("environment-variable" = %variable, "unrecognized environment variable");
    }
    if !notes.unknown_keys.is_empty() {
        tracing::warn!(keys = ?notes.unknown_keys, "the configuration file has keys that name no setting");
    }
    let notifier = Notifier::new(std::env::vars());
    let running = match start::start(config) {
        Ok(running) => running,
        // As in etcd, a success: a service manager that restarts failed processes would start it again and again.
        Err(error) if error.is_removal() => {
            tracing::error!(error = %error, "this member is no member of its cluster any more; remove its data \
                directory");
            return signals::SUCCESS;
        }
        Err(error) => {
            tracing::error!(error = %error, "cannot start");
            return signals::FAILURE;
        }
    };
    signals::serve_until_told(running, &notifier)
}
