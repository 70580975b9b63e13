//! How long requests take, by kind and success: one instance per I/O thread.

use std::time::{Duration, Instant};

use crate::instruments::histogram::{Bounds, Histogram, Sum};
use crate::instruments::text::Page;

/// Kinds of commands by their field numbers in etcd's `InternalRaftRequest`, and their names in etcd's labels.
const KINDS: [(u32, &str); 12] = [
    (4, "Put"),
    (RANGE, "Range"),
    (6, "Txn"),
    (5, "DeleteRange"),
    (7, "Compaction"),
    (8, "LeaseGrant"),
    (9, "LeaseRevoke"),
    (10, "Alarm"),
    (11, "LeaseCheckpoint"),
    (1300, "ClusterVersionSet"),
    (1301, "ClusterMemberAttrSet"),
    (1302, "DowngradeInfoSet"),
];
/// All other kinds, under the name that etcd gives to a kind that it does not know.
const OTHER: &str = "unknown";

pub const RANGE: u32 = 3;
pub const TXN: u32 = 6;

/// The kind of a command as it is in the log. 0 if it cannot be recognized.
pub fn recognize(mut command: &[u8]) -> u32 {
    /// The request's id, and its header: both may come before the command.
    const ID: u32 = 1;
    const HEADER: u32 = 100;
    loop {
        let Some(key) = varint(&mut command) else { return 0 };
        match (key >> 3) as u32 {
            ID => _ = varint(&mut command),
            HEADER => {
                let length = varint(&mut command).unwrap_or(u64::MAX);
                let Some(rest) = usize::try_from(length).ok().and_then(|length| command.get(length..)) else {
                    return 0;
                };
                command = rest;
            }
            kind => return kind,
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// A distribution for each kind, and for success and failure.
#[derive(Debug)]
pub struct ByKind {
    /// Refused or failed ones first.
    slots: Box<[[Histogram; 2]]>,
}

impl ByKind {
    pub fn new(bounds: Bounds) -> ByKind {
        ByKind { slots: (0..=KINDS.len()).map(|_| [Histogram::new(bounds), Histogram::new(bounds)]).collect() }
    }

    pub fn of(&self, kind: u32, success: bool) -> &Histogram {
        let place = KINDS.iter().position(|(number, _)| *number == kind).unwrap_or(KINDS.len());
        &self.slots[place][usize::from(success)]
    }

    /// Writes the kinds and results that occurred on any thread.
    pub fn write(all: &[&ByKind], page: &mut Page, name: &str, label: &str, more: &[(&str, &str)]) {
        for place in 0..=KINDS.len() {
            let kind = KINDS.get(place).map_or(OTHER, |(_, kind)| kind);
            for (success, text) in ["false", "true"].into_iter().enumerate() {
                let sum = Sum::of(all.iter().map(|one| &one.slots[place][success]));
                if let Some(sum) = sum.filter(|sum| sum.count() > 0) {
                    sum.write(page, name, &[&[(label, kind), ("success", text)], more].concat(), 1e9);
                }
            }
        }
    }
}

/// The requests of one I/O thread.
#[derive(Debug)]
pub struct Requests {
    /// From the first check of a request to its answer.
    pub taken: ByKind,
    /// Ranges without their waiting time; failed ones first.
    pub ranges: [Histogram; 2],
}

impl Default for Requests {
    /// etcd's buckets.
    fn default() -> Self {
        let range = || Histogram::new(Bounds::from_us(100, 20));
        Requests { taken: ByKind::new(Bounds::from_us(1000, 14)), ranges: [range(), range()] }
    }
}

impl Requests {
    /// Records a read that ends now: when it began, and when it could read after its wait.
    pub fn read(&self, kind: u32, (began, reading): (Instant, Instant), success: bool) {
        let now = Instant::now();
        self.taken.of(kind, success).observe_time(now - began);
        self.ranges[usize::from(success)].observe_time(now - reading);
    }

    /// Records a request of this kind that has ended.
    pub fn ended(&self, kind: u32, took: Duration, success: bool) {
        self.taken.of(kind, success).observe_time(took);
    }
}

/// The time that sending to watchers takes, on one I/O thread.
#[derive(Debug)]
pub struct WatchSends {
    /// Answers to the stream's requests.
    pub control: Histogram,
    pub progress: Histogram,
    pub events: Histogram,
    pub per_event: Histogram,
}

impl Default for WatchSends {
    /// etcd's buckets.
    fn default() -> Self {
        let histogram = || Histogram::new(Bounds::from_us(1000, 14));
        WatchSends { control: histogram(), progress: histogram(), events: histogram(), per_event: histogram() }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use metastore_proto::Message;
    use metastore_proto::etcdserverpb::{InternalRaftRequest, PutRequest, RequestHeader};
    use metastore_proto::membershippb::ClusterVersionSetRequest;
    use metastore_store::command::{Command, Kind};

    use super::*;

    #[test]
    fn commands_of_all_writers_are_recognized() {
        let own: Bytes = Command::encode(7, Kind::LeaseRevoke, &PutRequest::default());
        assert_eq!(recognize(&own), 9);
        let header = Some(RequestHeader { id: 300, ..RequestHeader::default() });
        let put = Some(PutRequest { key: "k".into(), ..PutRequest::default() });
        let etcds = InternalRaftRequest { id: 5, header: header.clone(), put, ..InternalRaftRequest::default() };
        assert_eq!(recognize(&etcds.encode_to_vec()), 4);
        let version = Some(ClusterVersionSetRequest { ver: "3.7.0".into() });
        let behind = InternalRaftRequest { header, cluster_version_set: version, ..InternalRaftRequest::default() };
        assert_eq!(recognize(&behind.encode_to_vec()), 1300);
        for garbage in [&[][..], &[0xff; 20], &[0xa2, 0x06, 0xff, 0xff, 0xff], &[0xa2, 0x06, 0x05]] {
            assert_eq!(recognize(garbage), 0, "{garbage:?}");
        }
    }

    #[test]
    fn kinds_that_occurred_are_shown_and_no_others() {
        let (one, two) = (ByKind::new(Bounds::from_us(1000, 1)), ByKind::new(Bounds::from_us(1000, 1)));
        one.of(4, true).observe(1);
        two.of(4, true).observe(1);
        two.of(77, false).observe(1);
        let mut page = Page::default();
        ByKind::write(&[&one, &two], &mut page, "h", "op", &[("version", "v3")]);
        let page = page.finish();
        assert!(page.contains("h_count{op=\"Put\",success=\"true\",version=\"v3\"} 2\n"), "{page}");
        assert!(page.contains("h_count{op=\"unknown\",success=\"false\",version=\"v3\"} 1\n"), "{page}");
        assert_eq!(page.lines().count(), 8, "{page}");
    }
}
