//! Threads for work that would hold up the engine thread. They read or write a member's state while the engine thread
//! goes on.

use std::thread::JoinHandle;

/// The threads that were started and may still run. They may outlive the engine thread. Until they end, the member's
/// state is open, and its directory is written to.
#[derive(Debug, Default)]
pub struct Jobs(Vec<JoinHandle<()>>);

impl Jobs {
    /// Starts one more thread.
    ///
    /// # Panics
    /// If the system has no thread for it.
    pub(super) fn start(&mut self, job: impl FnOnce() + Send + 'static) {
        self.0.retain(|thread| !thread.is_finished());
        self.0.push(std::thread::spawn(job));
    }

    /// Waits for all threads. After that, the same process may open the member's directory again. A process that ends
    /// need not wait: nothing that was acknowledged depends on the work that they have left.
    pub fn wait(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a thread beside the engine thread panicked");
            }
        }
    }
}
