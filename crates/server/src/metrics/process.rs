//! The process as Linux sees it, under the names of Prometheus' own collectors and etcd's.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};

use crate::instruments::text::Page;

/// Clock ticks per second in `/proc`: USER_HZ, which is 100 on every architecture that Linux is built for today.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn write(page: &mut Page) {
    let most = file_limit();
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count());
    page.gauge("process_max_fds", "Maximum number of open file descriptors.", most);
    page.gauge("process_open_fds", "Number of open file descriptors.", open);
    page.gauge("os_fd_limit", "The file descriptor limit.", most);
    page.gauge("os_fd_used", "The number of used file descriptors.", open);
    let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text)) else { return };
    page.counter(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        stat.cpu_ticks as f64 / TICKS_PER_SECOND,
    );
    page.gauge("process_threads", "Number of threads.", stat.threads);
    page.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", stat.virtual_bytes);
    let most = getrlimit(Resource::As).current.map_or(u64::MAX as f64, |most| most as f64);
    page.gauge("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes.", most);
    if let Some([received, sent]) = fs::read_to_string("/proc/self/net/dev").ok().map(|text| network_bytes(&text)) {
        page.counter("process_network_receive_bytes_total", "Bytes received over the network.", received);
        page.counter("process_network_transmit_bytes_total", "Bytes sent over the network.", sent);
    }
    if let Some(resident) = resident_bytes() {
        page.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident);
    }
    if let Some(start) = start_time(&stat) {
        page.gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", start);
    }
}

/// The most file descriptors that this process may have.
pub fn file_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The memory of this process that is in RAM.
pub fn resident_bytes() -> Option<u64> {
    resident(&fs::read_to_string("/proc/self/status").ok()?)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
}

impl Stat {
    /// `/proc/self/stat`, see proc(5). The name in parentheses may hold anything, so fields count from its end.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // Field 3 of the manual is fields[0].
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: number(14)? + number(15)?,
            threads: number(20)?,
            start_ticks: number(22)?,
            virtual_bytes: number(23)?,
        })
    }
}

/// The line `VmRSS:  1234 kB` of `/proc/self/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Bytes received and sent by all interfaces of `/proc/self/net/dev`.
fn network_bytes(text: &str) -> [u64; 2] {
    let interfaces = text.lines().filter_map(|line| line.split_once(':'));
    let fields = interfaces.map(|(_, fields)| fields.split_whitespace().map(|field| field.parse().unwrap_or(0)));
    fields.fold([0, 0], |[received, sent], fields| {
        let fields: Vec<u64> = fields.collect();
        // Eight fields each; the first one holds the bytes.
        let field = |at: usize| fields.get(at).copied().unwrap_or(0);
        [received + field(0), sent + field(8)]
    })
}

fn start_time(stat: &Stat) -> Option<f64> {
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some(now - uptime + stat.start_ticks as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let fields: Vec<String> = (3..=23).map(|field| field.to_string()).collect();
        let counted = Stat::parse(&format!("7 (a) b) {}", fields.join(" "))).unwrap();
        let by_number = Stat { cpu_ticks: 14 + 15, threads: 20, start_ticks: 22, virtual_bytes: 23 };
        assert_eq!(counted, by_number);
    }

    #[test]
    fn the_bytes_of_all_interfaces_are_added_up() {
        let text = "Inter-|   Receive\n face |bytes    packets\n    lo: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n\
                    eth0: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n";
        assert_eq!(network_bytes(text), [107, 208]);
    }

    #[test]
    fn this_process_has_numbers() {
        let mut page = Page::default();
        write(&mut page);
        let text = page.finish();
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"] {
            assert!(text.contains(&format!("\n{name} ")), "{text}");
        }
    }
}
