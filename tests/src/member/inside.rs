//! A member on threads of this process: everything that the binary does between its flags and its exit code, except
//! signals and logging.
//!
//! ```text
//!   flags --> config::load --> start::start --> Running -- begin_stop, or it cannot go on --> Running::stop --> closed
//! ```
//!
//! Each start has one thread that goes through these steps. Once a caller has seen the end of one start, it may start
//! another on the same directory.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use metastore_server::config::{self, Config, Invocation};
use metastore_server::start;
use tokio::sync::watch;

use super::log::SharedLog;
use crate::cluster::block_on;

/// How long the stop of a dropped member may take.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// One start of a member.
pub struct Inside {
    stop: watch::Sender<bool>,
    log: Arc<SharedLog>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    /// Starts a member with these flags. If it does not start, or ends by itself, the reason goes to `log`.
    ///
    /// # Errors
    /// The thread cannot be created.
    pub fn start(flags: Vec<String>, log: Arc<SharedLog>) -> std::io::Result<Inside> {
        let (stop, told) = watch::channel(false);
        let says = Says(log.clone());
        let live = move || {
            if let Err(reason) = live(flags, told, &says.0) {
                says.0.push(reason);
            }
        };
        let thread = std::thread::Builder::new().name("member".into()).spawn(live)?;
        Ok(Inside { stop, log, thread: Some(thread) })
    }

    /// Asks the member to stop. A stop before it is ready takes effect once it is.
    pub fn begin_stop(&mut self) {
        self.stop.send_replace(true);
    }

    /// Waits for its end; false if it did not end within `patience`. Panics if the member panicked.
    pub fn has_ended(&mut self, patience: Duration) -> bool {
        if !self.log.wait_until_closed(patience) {
            return false;
        }
        // Closing the log is almost the last action of the thread, so the join does not wait long.
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a member does not panic");
        }
        true
    }
}

impl Drop for Inside {
    /// The member's directory is removed next. A member that never became ready cannot be stopped, and is left behind.
    fn drop(&mut self) {
        self.begin_stop();
        self.log.wait_until_closed(END_PATIENCE);
    }
}

/// The log as the thread writes to it. It is closed when the thread ends, also by a panic.
struct Says(Arc<SharedLog>);

impl Drop for Says {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The whole life of a member. The error is the reason why it does not start or could not go on.
fn live(flags: Vec<String>, mut told: watch::Receiver<bool>, log: &SharedLog) -> Result<(), String> {
    let settings = settings(flags)?;
    let running = start::start(&settings).map_err(|error| error.to_string())?;
    log.set_ready();
    let mut ended = running.ended();
    let failed = block_on(async {
        tokio::select! {
            _ = told.wait_for(|told| *told) => None,
            result = ended.wait_for(Option::is_some) => Some(match result.as_deref() {
                Ok(Some(Err(fatal))) => fatal.to_string(),
                Ok(_) => "the engine thread ended".into(),
                Err(_) => "the engine thread panicked".into(),
            }),
        }
    });
    running.stop().wait();
    failed.map_or(Ok(()), Err)
}

/// The configuration that the binary would load from the same flags, without environment variables.
fn settings(flags: Vec<String>) -> Result<Box<Config>, String> {
    match config::load(flags, []) {
        Ok(Invocation::Start(config, _)) => Ok(config),
        Ok(_) => Err("these flags start no member".into()),
        Err(error) => Err(error.to_string()),
    }
}
