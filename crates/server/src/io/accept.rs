//! Taking connections and dealing them to the workers in turn.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::listen::Registered;
use super::security::Security;
pub use crate::grpc::Door;

/// The pause after a failed accept. Without free file descriptors the next accept would fail at once, and the loop
/// would spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a listener leads: the service behind it, and the beginning of its connections.
#[derive(Clone, Debug)]
pub struct Entrance {
    pub door: Door,
    pub security: Security,
}

impl From<Door> for Entrance {
    /// In plain text.
    fn from(door: Door) -> Entrance {
        Entrance { door, security: Security::Plain }
    }
}

/// A connection on its way to a worker, not registered with a runtime yet.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection, the entrance by which it came, and its place among the connections that may be open.
pub(super) type Dealt = (Stream, Entrance, OwnedSemaphorePermit);

/// Accepts until `stopping`, dealing to `workers` in turn. A worker that is behind holds up the dealing, and the
/// kernel's backlog fills: that bounds the connections that no worker serves yet. The lack of a place has the same
/// effect. All listeners share `places`, and a place is given back when its connection ends.
pub(super) async fn accept(
    listener: Registered,
    entrance: Entrance,
    workers: Vec<mpsc::Sender<Dealt>>,
    places: Arc<Semaphore>,
    mut stopping: watch::Receiver<bool>,
) {
    let deal = async {
        for worker in workers.iter().cycle() {
            if places.available_permits() == 0 {
                complain(&"all connections that the file descriptor limit allows are open");
            }
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let stream = loop {
                match take(&listener).await {
                    Ok(stream) => break stream,
                    Err(error) => {
                        complain(&error);
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            };
            if worker.send((stream, entrance.clone(), place)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = deal => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

async fn take(listener: &Registered) -> io::Result<Stream> {
    match listener {
        Registered::Tcp(listener) => listener.accept().await?.0.into_std().map(Stream::Tcp),
        Registered::Unix(listener) => listener.accept().await?.0.into_std().map(Stream::Unix),
    }
}

fn complain(error: &dyn fmt::Display) {
    seldom!(warn, (), error = %error, "cannot accept a connection; trying again");
}
