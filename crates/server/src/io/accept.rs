//! Taking connections and dealing them to the workers in turn.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::listen::Registered;

/// Pause after an accept that failed. Out of file descriptors it would fail again at once and spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Which service a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    Client,
    Peer,
}

/// A connection on its way to a worker, known to no runtime.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection, where it came in, and its place among those that may be open.
pub(super) type Dealt = (Stream, Door, OwnedSemaphorePermit);

/// Accepts until `stopping`, dealing to `workers` in turn. A worker that is behind holds up the dealing, and the kernel's
/// backlog fills: the bound on connections that nobody serves yet. So does the lack of a place: `places` is shared by
/// all listeners, and a place is given back when its connection ends.
pub(super) async fn accept(
    listener: Registered,
    door: Door,
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
            if worker.send((stream, door, place)).await.is_err() {
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
