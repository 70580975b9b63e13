//! SIGTERM under load: the member finishes all requests that it has taken up, and reports all others as not taken up.

use std::time::Duration;

use metastore_tests::grpc::never_taken;
use metastore_tests::member::{Member, signal};
use metastore_tests::programs::{self, EngineKind};

use super::block_on;
use super::ledger::Ledger;

/// The number of stops, each at another moment of the clients' work.
const ROUNDS: usize = 3;
/// The number of writes that are acknowledged before each stop.
const WRITES_PER_ROUND: usize = 500;
/// How long a stopping member may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

each_engine!(a_polite_stop_leaves_nobody_in_doubt);

fn a_polite_stop_leaves_nobody_in_doubt(engine: EngineKind) {
    let Some(subject) = programs::or_skip("polite stop", programs::subject(engine)) else { return };
    let mut member = Member::start(&subject, &[]);
    let address = member.client_address().to_string();
    let mut ledger = Ledger::new(2);
    for round in 0..ROUNDS {
        let refused = block_on(ledger.write_until(&address, WRITES_PER_ROUND, || signal(member.pid(), "TERM")));
        assert!(refused.iter().all(never_taken), "stop {round}: {refused:#?}");
        member.wait_exit(STOP_PATIENCE).expect("the member stops after SIGTERM");
        member.restart();
        block_on(ledger.check(&address)).unwrap_or_else(|reason| panic!("stop {round}: {reason}"));
        assert_eq!(
            ledger.unacknowledged, 0,
            "stop {round}: writes were made whose clients were told they were not taken"
        );
    }
}
