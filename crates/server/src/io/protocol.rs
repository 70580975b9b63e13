//! The settings of connections.

use std::time::Duration;

/// Settings of every connection.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// At most this many requests of one connection are open; a client waits with further ones.
    pub max_concurrent_streams: u32,
    /// A connection without traffic is probed after this time (`None`: never), and given up if `ping_timeout` passes
    /// without an answer.
    pub ping_interval: Option<Duration>,
    pub ping_timeout: Duration,
    /// The shortest time between two pings of a client that has a call. Without a call it is two hours.
    pub ping_min_time: Duration,
}

impl Default for Protocol {
    /// etcd's defaults.
    fn default() -> Self {
        Protocol {
            max_concurrent_streams: u32::MAX,
            ping_interval: Some(Duration::from_secs(2 * 60 * 60)),
            ping_timeout: Duration::from_secs(20),
            ping_min_time: Duration::from_secs(5),
        }
    }
}
