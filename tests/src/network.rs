//! A network of a test's own. The test decides which members reach each other.
//!
//! ```text
//!                   bridge 10.a.b.254   (the test and its clients are here)
//!        +----------------+----------------+
//!     10.a.b.1         10.a.b.2         10.a.b.3      one network namespace each, with one member in it
//! ```
//!
//! A cut has one direction. The sender's neighbour table then maps the receiver to a MAC address that does not exist,
//! so its packets are lost without an error, on existing connections and on new ones. Clients are never cut off.
//!
//! Needs root and `ip`; otherwise the error names what is missing.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::mount::is_root;
use crate::programs;

/// The number of networks that can exist at a time on one machine: 10.64.0.0/24 up to 10.127.255.0/24.
const NETWORKS: u32 = 64 * 256;
/// The device of a namespace.
const DEVICE: &str = "eth0";
/// A MAC address that no device has; it is locally administered.
const NOBODY: &str = "02:00:00:00:00:01";
/// The ports of each member. They are the same for all, because each member has an IP address of its own.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// The namespaces and the bridge that connects them; removed on drop.
pub struct Network {
    number: u32,
    seats: usize,
}

impl Network {
    /// A network with places for `seats` members. At first all of them reach each other.
    ///
    /// # Errors
    /// This user may not create a network.
    pub fn new(seats: usize) -> Result<Network, String> {
        if !is_root() {
            return Err("only root may make a network namespace".into());
        }
        programs::tool("ip")?;
        // From here on the drop of `network` cleans up after any failure.
        let mut network = Network::claim()?;
        network.seats = seats;
        ip(&format!("addr add {}/24 dev {}", network.address(usize::MAX), network.name()))?;
        ip(&format!("link set {} up", network.name()))?;
        (0..seats).try_for_each(|seat| network.connect(seat))?;
        Ok(network)
    }

    /// Takes the first number whose bridge does not exist yet. Creating one is atomic: no two tests share a number.
    fn claim() -> Result<Network, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let start = std::process::id().wrapping_mul(7919);
        let mut last = String::new();
        for _ in 0..NETWORKS {
            let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % NETWORKS;
            match ip(&format!("link add {} type bridge", name(number))) {
                Ok(()) => return Ok(Network { number, seats: 0 }),
                Err(reason) if reason.contains("File exists") => last = reason,
                Err(reason) => return Err(reason),
            }
        }
        Err(format!("every network is taken: {last}"))
    }

    fn connect(&self, seat: usize) -> Result<(), String> {
        let (bridge, namespace) = (self.name(), self.namespace(seat));
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("link add {namespace} type veth peer name {DEVICE} netns {namespace}"))?;
        ip(&format!("link set {namespace} master {bridge} up"))?;
        ip(&format!("-n {namespace} addr add {}/24 dev {DEVICE}", self.address(seat)))?;
        ip(&format!("-n {namespace} link set {DEVICE} up"))?;
        ip(&format!("-n {namespace} link set lo up"))
    }

    fn name(&self) -> String {
        name(self.number)
    }

    fn namespace(&self, seat: usize) -> String {
        format!("{}s{seat}", self.name())
    }

    /// The IP address of a seat; the address of the bridge for `usize::MAX`.
    fn address(&self, seat: usize) -> String {
        let host = if seat == usize::MAX { 254 } else { seat + 1 };
        format!("10.{}.{}.{host}", 64 + self.number / 256, self.number % 256)
    }

    /// The client address and the peer address of a member at `seat`.
    pub fn addresses(&self, seat: usize) -> (String, String) {
        let address = self.address(seat);
        (format!("{address}:{CLIENT_PORT}"), format!("{address}:{PEER_PORT}"))
    }

    /// The command that runs a program at `seat`.
    pub fn wrapper(&self, seat: usize) -> Vec<String> {
        assert!(seat < self.seats, "the network has {} seats", self.seats);
        ["ip", "netns", "exec", &self.namespace(seat)].map(String::from).to_vec()
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub fn cut(&self, from: usize, to: usize) {
        let (namespace, address) = (self.namespace(from), self.address(to));
        ip(&format!("-n {namespace} neigh replace {address} lladdr {NOBODY} dev {DEVICE} nud permanent"))
            .expect("a link can be cut");
    }

    /// Cuts both directions between `seat` and all other seats.
    pub fn isolate(&self, seat: usize) {
        for other in (0..self.seats).filter(|other| *other != seat) {
            self.cut(seat, other);
            self.cut(other, seat);
        }
    }

    /// Undoes all cuts.
    pub fn heal(&self) {
        for seat in 0..self.seats {
            let namespace = self.namespace(seat);
            ip(&format!("-n {namespace} neigh flush dev {DEVICE} nud permanent")).expect("a link can be mended");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for seat in 0..self.seats {
            // If the setup failed halfway, some namespaces do not exist.
            let _ = ip(&format!("netns del {}", self.namespace(seat)));
        }
        let _ = ip(&format!("link del {}", self.name()));
    }
}

/// The name of the bridge of network `number`.
fn name(number: u32) -> String {
    format!("ms{number:04x}")
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("cannot run ip: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("ip {arguments}: {}", stderr.trim()))
}
