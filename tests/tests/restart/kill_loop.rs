//! Repeated kill -9 under load, checked against the clients' own log of acknowledged writes.

use std::path::Path;

use metastore_tests::member::Member;
use metastore_tests::programs::{self, EngineKind};

use super::ledger::Ledger;
use super::{block_on, number};

/// The number of writes that are acknowledged before each kill.
const WRITES_PER_ROUND: usize = 2000;
/// The number of kills; the variable `KILLS` overrides it.
const DEFAULT_KILLS: usize = 5;

each_engine!(nothing_acknowledged_is_lost_by_kill_9);

fn nothing_acknowledged_is_lost_by_kill_9(engine: EngineKind) {
    let Some(subject) = programs::or_skip("kill loop", programs::subject(engine)) else { return };
    let mut member = Member::start(&subject, &[]);
    let address = member.client_address().to_string();
    let mut ledger = Ledger::new(1);
    for round in 0..number("KILLS", DEFAULT_KILLS) {
        block_on(ledger.write_until(&address, WRITES_PER_ROUND, || member.kill()));
        member.restart();
        block_on(ledger.check(&address)).unwrap_or_else(|reason| panic!("kill {round}: {reason}"));
    }
    // Otherwise each restart would have used the log alone, and all of it.
    if !subject.is_etcd() {
        let data = member.data_directory();
        let state = match engine {
            EngineKind::Memory => names(&data.join("member/snap"), ".snap"),
            EngineKind::RocksDb => names(&data.join("member/rocksdb"), ".sst"),
        };
        assert!(!state.is_empty(), "the state was never written out: write more");
        let log = names(&data.join("member/wal"), ".wal");
        let first = format!("{:016x}-{:016x}.wal", 0, 0);
        assert!(!log.contains(&first), "no segment of the log was ever released: write more; there are {log:?}");
    }
}

/// The files in a directory whose names end with `end`.
fn names(directory: &Path, end: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("readable");
    let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(end)).collect()
}
