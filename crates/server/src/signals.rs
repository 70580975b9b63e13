//! How a running member ends: by a signal, or because it cannot go on.

use metastore_replica::Fatal;
use tokio::signal::unix::{SignalKind, signal};

use crate::logging;
use crate::notify::Notifier;
use crate::start::Running;

pub const SUCCESS: u8 = 0;
/// Exit code of a failure.
pub const FAILURE: u8 = 1;

enum End {
    Signal(SignalKind),
    /// The cluster has removed this member.
    Removed,
    /// The engine thread could not go on; its error.
    Failed(String),
}

/// Serves until SIGTERM or SIGINT, or until the member cannot go on, and returns the exit code. After a signal the
/// process ends by that signal, as its parent expects. Notifies the service manager.
pub fn serve_until_told(running: Running, manager: &Notifier) -> u8 {
    manager.ready();
    let end = wait(&running, manager);
    manager.stopping();
    match end {
        Ok(End::Signal(kind)) => {
            tracing::info!(signal = kind.as_raw_value(), "received signal; shutting down");
            running.stop();
            raise(kind)
        }
        // As in etcd, a success: a service manager that restarts failed processes would start it again and again.
        Ok(End::Removed) => {
            tracing::error!(error = %Fatal::Removed, "this member is no member of its cluster any more; remove its \
                data directory");
            running.stop();
            SUCCESS
        }
        Ok(End::Failed(error)) => {
            tracing::error!(error = %error, "the member cannot go on; nothing was acknowledged after this");
            // Waiting requests are answered `Stopped` before the threads end.
            running.stop();
            FAILURE
        }
        Err(error) => {
            tracing::error!(error = %error, "cannot wait for signals");
            FAILURE
        }
    }
}

fn wait(running: &Running, manager: &Notifier) -> std::io::Result<End> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut ended = running.ended();
        Ok(tokio::select! {
            _ = terminate.recv() => End::Signal(SignalKind::terminate()),
            _ = interrupt.recv() => End::Signal(SignalKind::interrupt()),
            result = ended.wait_for(Option::is_some) => match result.as_deref() {
                Ok(Some(Err(fatal))) if matches!(**fatal, Fatal::Removed) => End::Removed,
                Ok(Some(Err(fatal))) => End::Failed(fatal.to_string()),
                Ok(_) => End::Failed("the engine thread ended".into()),
                Err(_) => End::Failed("the engine thread panicked".into()),
            },
            () = keep_alive(running, manager) => unreachable!("it goes on for ever"),
        })
    })
}

/// Notifies the service manager's watchdog for ever, as long as the engine thread makes progress.
async fn keep_alive(running: &Running, manager: &Notifier) {
    let Some(interval) = manager.interval() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        ticks.tick().await;
        let progress = Some(running.progress());
        if progress != seen {
            manager.alive();
            seen = progress;
        }
    }
}

/// Ends the process now. Returning from `main` would run the destructors of RocksDB's global objects, which its
/// threads, and reads on the pool, still use.
#[allow(unsafe_code, reason = "no safe binding ends a process without running destructors")]
pub fn end_process(code: u8) -> ! {
    logging::finish();
    // SAFETY: ends the process, whatever state it is in.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Ends the process by the signal that it received. The first process of a container cannot be ended this way.
fn raise(kind: SignalKind) -> u8 {
    let number = kind.as_raw_value();
    if std::process::id() != 1 {
        let raised = rustix::process::Signal::from_named_raw(number).map(|signal| {
            logging::finish();
            restore_default(number);
            rustix::process::kill_process(rustix::process::getpid(), signal)
        });
        if let Some(Err(error)) = raised {
            tracing::warn!(error = %error, "cannot end by the signal");
        }
    }
    SUCCESS
}

/// The runtime's handler swallows the signal; the default action ends the process.
#[allow(unsafe_code, reason = "no safe binding restores a signal's default action")]
fn restore_default(number: i32) {
    // SAFETY: SIG_DFL installs no handler, so no code of ours can run inside a signal.
    unsafe { libc::signal(number, libc::SIG_DFL) };
}
