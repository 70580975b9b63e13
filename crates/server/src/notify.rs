//! Notifications to systemd, for a unit with `Type=notify` or a watchdog (sd_notify(3)): datagrams to the socket that
//! it names.
//!
//! `READY=1` once clients are served, `STOPPING=1` when the member stops, and `WATCHDOG=1` as long as the engine thread
//! makes progress, if a watchdog was asked for. Without a socket nothing is sent.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The socket's path; one that begins with `@` is an abstract name.
const SOCKET: &str = "NOTIFY_SOCKET";
/// Microseconds without `WATCHDOG=1` after which systemd ends the process.
const WATCHDOG_US: &str = "WATCHDOG_USEC";
/// The process that the watchdog is for; without it, any process.
const WATCHDOG_PID: &str = "WATCHDOG_PID";
/// Notifications in the time after which the watchdog acts: one may be late.
const SIGNS_PER_WATCHDOG: u32 = 3;
/// The shortest interval, whatever the watchdog asks for: the engine thread shows progress no faster.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    /// How often it expects a notification.
    interval: Option<Duration>,
}

impl Notifier {
    /// Reads the environment. A socket that cannot be used is warned about, and nothing is sent then.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Notifier {
        let (mut socket, mut watchdog_us, mut pid) = (None, None, None);
        for (name, value) in variables {
            match &*name {
                SOCKET => socket = Some(value),
                WATCHDOG_US => watchdog_us = value.parse().ok(),
                WATCHDOG_PID => pid = Some(value),
                _ => {}
            }
        }
        let Some(socket) = socket.filter(|socket| !socket.is_empty()) else { return Notifier::default() };
        let manager = address(&socket).and_then(|address| Ok((UnixDatagram::unbound()?, address)));
        let manager = manager
            .inspect_err(|error| tracing::warn!(socket, error = %error, "cannot notify the service manager"))
            .ok();
        let ours = pid.is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = watchdog_us.filter(|us| ours && *us > 0).map(Duration::from_micros);
        Notifier { manager, interval: watchdog.map(|time| (time / SIGNS_PER_WATCHDOG).max(LEAST_INTERVAL)) }
    }

    /// How often a notification is expected; `None`: never.
    pub fn interval(&self) -> Option<Duration> {
        self.interval.filter(|_| self.manager.is_some())
    }

    /// Clients are served.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// The member is about to end.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// The member makes progress.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    fn say(&self, text: &str) {
        let Some((socket, address)) = &self.manager else { return };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            seldom!(warn, (), error = %error, text, "cannot notify the service manager");
        }
    }
}

fn address(socket: &str) -> std::io::Result<SocketAddr> {
    match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 100];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_manager_hears_at_a_path_and_at_an_abstract_name() {
        let name = format!("metastore-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let _ = std::fs::remove_file(&path);
        let at_path = UnixDatagram::bind(&path).unwrap();
        let at_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for manager in [&at_path, &at_name] {
            manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        for (manager, socket) in [(at_path, path.to_str().unwrap()), (at_name, &format!("@{name}"))] {
            let notifier = Notifier::new(variables(&[(SOCKET, socket)]));
            notifier.ready();
            notifier.alive();
            notifier.stopping();
            assert_eq!([heard(&manager), heard(&manager), heard(&manager)], ["READY=1", "WATCHDOG=1", "STOPPING=1"]);
            assert_eq!(notifier.interval(), None);
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_watchdog_of_this_process_wants_signs_in_time() {
        let interval = |pairs: &[_]| Notifier::new(variables(pairs)).interval();
        let (socket, own) = ((SOCKET, "@nobody"), std::process::id().to_string());
        assert_eq!(interval(&[socket, (WATCHDOG_US, "30000000")]), Some(Duration::from_secs(10)));
        assert_eq!(interval(&[socket, (WATCHDOG_US, "30000000"), (WATCHDOG_PID, &own)]), Some(Duration::from_secs(10)));
        assert_eq!(interval(&[socket, (WATCHDOG_US, "30000000"), (WATCHDOG_PID, "1")]), None);
        assert_eq!(interval(&[socket, (WATCHDOG_US, "1")]), Some(LEAST_INTERVAL));
        assert_eq!(interval(&[socket, (WATCHDOG_US, "0")]), None);
        assert_eq!(interval(&[(WATCHDOG_US, "30000000")]), None, "nobody hears it");
    }
}
