//! A member on threads of this process: what the binary does between its flags and its exit code, without signals and log.
//!
//! ```text
//!   flags --> config::load --> start::start --> Running --- begin_stop, or it cannot go on ---> Running::stop --> closed
//! ```
//!
//! One thread goes that way for each start. Whoever is told that it ended may start another one on the same directory.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use metastore_server::config::{self, Config, Invocation};
use metastore_server::start;
use tokio::sync::watch;

use super::log::SharedLog;
use crate::cluster::block_on;

/// How long a member that nobody needs any more may take to stop.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// One start of a member.
pub struct Inside {
    stop: watch::Sender<bool>,
    log: Arc<SharedLog>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    /// Starts one with these flags. Why it does not start, or ends by itself, goes to `log`.
    ///
    /// # Errors
    /// There is no thread for it.
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

    /// Asks it to stop, once it is ready.
    pub fn begin_stop(&mut self) {
        self.stop.send_replace(true);
    }

    /// Waits for its end; false if there was none within `patience`. Panics if it ended in a panic.
    pub fn has_ended(&mut self, patience: Duration) -> bool {
        if !self.log.wait_until_closed(patience) {
            return false;
        }
        // Closed is almost the last thing that the thread does.
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a member does not panic");
        }
        true
    }
}

impl Drop for Inside {
    /// Its directory is removed next. One that never got ready cannot be stopped, and is left behind.
    fn drop(&mut self) {
        self.begin_stop();
        self.log.wait_until_closed(END_PATIENCE);
    }
}

/// What the thread writes to: closed when the thread ends, in a panic, too.
struct Says(Arc<SharedLog>);

impl Drop for Says {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// From the flags to the end. The error is that it does not start, or why it could not go on.
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

/// What the binary makes of the same flags, without environment.
fn settings(flags: Vec<String>) -> Result<Box<Config>, String> {
    match config::load(flags, []) {
        Ok(Invocation::Start(config, _)) => Ok(config),
        Ok(_) => Err("these flags start no member".into()),
        Err(error) => Err(error.to_string()),
    }
}
