//! Threads that do beside the engine thread what would hold it up: they read or write a member's state meanwhile.

use std::thread::JoinHandle;

/// The threads that were started and perhaps go on. They may outlive the engine thread; until they end, the member's state is
/// open, and its directory is written to.
#[derive(Debug, Default)]
pub struct Jobs(Vec<JoinHandle<()>>);

impl Jobs {
    /// Starts one more.
    ///
    /// # Panics
    /// If the system has no thread for it.
    pub(super) fn start(&mut self, job: impl FnOnce() + Send + 'static) {
        self.0.retain(|thread| !thread.is_finished());
        self.0.push(std::thread::spawn(job));
    }

    /// Waits for all: then the same process may open the member's directory again. A process that ends need not wait, as
    /// nothing was acknowledged that they still have to do.
    pub fn wait(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a thread beside the engine thread panicked");
            }
        }
    }
}
