//! A power cut: unsynced data are lost.
//!
//! kill -9 leaves the page cache alone. Here the data directory is on a disk of its own, to which the kernel writes
//! nothing back by itself. At some moment the process ends, and the disk is copied as it is; the member goes on from
//! the copy. A member that does not sync proves that the copy really loses data: it loses acknowledged writes.

use metastore_tests::member::Member;
use metastore_tests::mount::Mount;
use metastore_tests::programs::{self, EngineKind};
use metastore_tests::random::Random;

use super::ledger::Ledger;
use super::{block_on, number};

/// The power is cut after at least `WRITES` acknowledged writes, and at most `MORE_WRITES` later.
const WRITES: usize = 200;
const MORE_WRITES: usize = 1500;
/// The number of cuts, each on the contents that the one before left; the variable `CUTS` overrides it.
const DEFAULT_CUTS: usize = 4;
/// The number of cuts within which a member that does not sync must lose something.
const CUTS_WITHOUT_SYNC: usize = 2;

each_engine!(nothing_acknowledged_is_lost_by_a_power_cut, what_is_not_synced_is_lost_by_a_power_cut);

fn nothing_acknowledged_is_lost_by_a_power_cut(engine: EngineKind) {
    let outcome = cut_power("power cut", engine, &[], number("CUTS", DEFAULT_CUTS));
    assert_eq!(outcome, Ok(()));
}

fn what_is_not_synced_is_lost_by_a_power_cut(engine: EngineKind) {
    if programs::or_skip("power cut without syncs", Mount::disk()).is_some() {
        let outcome = cut_power("power cut without syncs", engine, &["--unsafe-no-fsync"], CUTS_WITHOUT_SYNC);
        println!("without syncs: {outcome:?}");
        assert!(outcome.is_err(), "nothing was lost without syncs: these tests prove nothing");
    }
}

/// Runs the member through power cuts. The error describes the first difference after one.
fn cut_power(test: &str, engine: EngineKind, flags: &[&str], cuts: usize) -> Result<(), String> {
    let found = programs::subject(engine).and_then(|subject| Ok((subject, Mount::disk()?)));
    let Some((subject, disk)) = programs::or_skip(test, found) else { return Ok(()) };
    let data = disk.path().join("data");
    let mut member = Member::start(&subject, &[flags, &["--data-dir", &data.to_string_lossy()]].concat());
    let address = member.client_address().to_string();
    let (mut ledger, mut random) = (Ledger::new(2), Random::new(2));
    for round in 0..cuts {
        let cut = || {
            member.kill();
            disk.cut_power();
        };
        block_on(ledger.write_until(&address, WRITES + random.below(MORE_WRITES), cut));
        disk.power_on();
        member.try_restart().map_err(|reason| format!("cut {round}: {reason}"))?;
        block_on(ledger.check(&address)).map_err(|reason| format!("cut {round}: {reason}"))?;
    }
    Ok(())
}
