//! SIGTERM and SIGINT: the wish that this member ends.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that asks to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Interrupt,
    Terminate,
}

impl Ending {
    /// The text that Go prints for it.
    pub fn name(self) -> &'static str {
        match self {
            Ending::Interrupt => "interrupt",
            Ending::Terminate => "terminated",
        }
    }

    fn number(self) -> libc::c_int {
        match self {
            Ending::Interrupt => libc::SIGINT,
            Ending::Terminate => libc::SIGTERM,
        }
    }
}

/// Catches both signals from its creation on.
#[derive(Debug)]
pub struct Endings {
    interrupt: Signal,
    terminate: Signal,
}

impl Endings {
    /// Must be called within a runtime.
    pub fn catch() -> io::Result<Endings> {
        Ok(Endings { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the first of them.
    pub async fn next(&mut self) -> Ending {
        tokio::select! {
            _ = self.interrupt.recv() => Ending::Interrupt,
            _ = self.terminate.recv() => Ending::Terminate,
        }
    }
}

/// Ends the process by the signal that asked for it, so that its parent sees a wait status of "signalled", as with etcd.
/// The first process of a container cannot be ended that way and ends with 0.
pub fn end_by(ending: Ending) -> ! {
    if std::process::id() != 1 {
        raise(ending.number());
    }
    std::process::exit(0)
}

#[allow(unsafe_code, reason = "no safe interface restores a signal's default action")]
fn raise(number: libc::c_int) {
    // SAFETY: SIG_DFL is a valid action for both signals; neither call touches memory of ours.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        libc::raise(number);
    }
}
