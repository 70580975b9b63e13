//! A client that watches everything while a test disturbs a cluster, and goes to the next member when one fails it.
//! Every revision must arrive once, in order.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::block_on;
use crate::grpc::Client;
use crate::watch::{WatchStream, everything_from};

/// How long the client waits for an answer before it looks whether it shall end.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long [`Following::reach`] may take.
const REACH_PATIENCE: Duration = Duration::from_secs(40);
/// How long the client waits before it goes to the next member.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    addresses: Mutex<Vec<String>>,
    /// The newest revision that has arrived.
    reached: AtomicI64,
}

/// The running client, on a thread of its own.
pub struct Following {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<usize, String>>>,
}

impl Following {
    /// Begins behind `revision`.
    pub fn start(addresses: &[String], revision: i64) -> Following {
        let shared = Arc::new(Shared {
            addresses: Mutex::new(addresses.to_vec()),
            reached: revision.into(),
            ..Shared::default()
        });
        let own = shared.clone();
        let thread = std::thread::spawn(move || block_on(follow(own)));
        Following { shared, thread: Some(thread) }
    }

    /// The member at this address is watched from now on, too.
    pub fn also_through(&self, address: &str) {
        self.shared.addresses.lock().unwrap().push(address.to_owned());
    }

    /// Waits until everything up to `revision` has arrived, and ends. Returns the number of members that were watched.
    /// Panics if a revision came twice, or not at all.
    pub fn reach(mut self, revision: i64) -> usize {
        let deadline = Instant::now() + REACH_PATIENCE;
        let thread = self.thread.take().expect("ended once");
        while self.shared.reached.load(Ordering::SeqCst) < revision && !thread.is_finished() {
            assert!(Instant::now() < deadline, "revision {revision} has not arrived within {REACH_PATIENCE:?}");
            std::thread::park_timeout(PAUSE);
        }
        self.shared.end.store(true, Ordering::SeqCst);
        thread.join().expect("the client does not panic").unwrap_or_else(|reason| panic!("{reason}"))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
    }
}

async fn follow(shared: Arc<Shared>) -> Result<usize, String> {
    let mut watched = std::collections::BTreeSet::new();
    for number in 0.. {
        if shared.end.load(Ordering::SeqCst) {
            break;
        }
        let address = {
            let addresses = shared.addresses.lock().unwrap();
            addresses[number % addresses.len()].clone()
        };
        if follow_one(&shared, &address).await? {
            watched.insert(address);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(watched.len())
}

/// Watches one member until it fails. Returns whether events came from it.
async fn follow_one(shared: &Shared, address: &str) -> Result<bool, String> {
    let mut last = shared.reached.load(Ordering::SeqCst);
    let (client, begun) = (Client::new(address), last);
    let Ok(mut stream) = WatchStream::open(&client, everything_from(last + 1)).await else { return Ok(false) };
    while !shared.end.load(Ordering::SeqCst) {
        let answer = match stream.next(PATIENCE).await {
            Ok(Some(answer)) if !answer.canceled => answer,
            Ok(None) => continue,
            _ => break,
        };
        for kv in answer.events.iter().filter_map(|event| event.kv.as_ref()) {
            let revision = kv.mod_revision;
            if revision != last + 1 {
                return Err(format!("revision {last} is followed by {revision}, at {address}"));
            }
            last = revision;
        }
        shared.reached.store(last, Ordering::SeqCst);
    }
    Ok(last > begun)
}
