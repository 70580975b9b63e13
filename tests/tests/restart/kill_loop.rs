//! kill -9 under load, again and again, with the clients' own log of what was acknowledged.

use metastore_tests::member::Member;
use metastore_tests::programs::{self, Engine};

use super::ledger::Ledger;
use super::{block_on, number};

/// Writes that are acknowledged before each kill.
const WRITES_PER_ROUND: usize = 2000;
/// Kills; `KILLS` asks for more.
const DEFAULT_KILLS: usize = 5;

each_engine!(nothing_acknowledged_is_lost_by_kill_9);

fn nothing_acknowledged_is_lost_by_kill_9(engine: Engine) {
    let Some(subject) = programs::or_skip("kill loop", programs::subject(engine)) else { return };
    let mut member = Member::start(&subject, &[]);
    let address = member.client_address().to_string();
    let mut ledger = Ledger::new(1);
    for round in 0..number("KILLS", DEFAULT_KILLS) {
        block_on(ledger.write_until(&address, WRITES_PER_ROUND, || member.kill()));
        member.restart();
        block_on(ledger.check(&address)).unwrap_or_else(|reason| panic!("kill {round}: {reason}"));
    }
    // Otherwise each restart was one from the log alone.
    let (directory, end) = match engine {
        Engine::Memory => ("member/snap", ".snap"),
        Engine::RocksDb => ("member/rocksdb", ".sst"),
    };
    let written = std::fs::read_dir(member.data_directory().join(directory)).expect("readable");
    let mut names = written.map(|entry| entry.expect("readable").file_name());
    let stored = names.any(|name| name.to_string_lossy().ends_with(end));
    assert!(stored || subject.is_etcd(), "the state was never written out: write more");
}
