//! A wall clock that jumps. libfaketime moves only CLOCK_REALTIME, as an operator or a time server does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use metastore_tests::grpc::Client;
use metastore_tests::member::{Directory, Member};
use metastore_tests::programs::{self, EngineKind};

use super::lease::{LATE, expect_expiry, grant, time_to_live, watch_leases};
use super::observe::eventually;
use super::{block_on, subject};

const TTL_S: i64 = 5;

/// libfaketime for programs with threads: the path in `LIBFAKETIME`, otherwise the path of Debian's package.
fn libfaketime() -> Result<PathBuf, String> {
    let set = std::env::var_os("LIBFAKETIME").map(PathBuf::from);
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let usual = Path::new("/usr/lib").join(triple).join("faketime/libfaketimeMT.so.1");
    let path = set.unwrap_or(usual);
    path.is_file().then_some(path.clone()).ok_or(format!("there is no {} (Debian package libfaketime)", path.display()))
}

#[test]
fn a_clock_that_jumps_an_hour_neither_ends_a_lease_nor_keeps_it() {
    let Some(subject) = subject("clock jump", EngineKind::Memory) else { return };
    let Some(library) = programs::or_skip("clock jump", libfaketime()) else { return };
    let directory = Directory::new("clock");
    let offset = directory.path().join("offset");
    std::fs::write(&offset, "+0").expect("writable");
    let mut member = Member::new(&subject, &[]);
    let settings = [
        "env".to_string(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", offset.display()),
        "FAKETIME_NO_CACHE=1".to_string(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_string(),
        "DONT_FAKE_MONOTONIC=1".to_string(),
    ];
    member.wrap_in(&settings);
    member.restart();
    block_on(async {
        let client = Client::new(member.client_address());
        let mut watch = watch_leases(&client).await;
        let ttl = Duration::from_secs(TTL_S as u64);
        // An hour ahead, then two hours back, each during the life of a lease.
        for (id, jump) in [(1, "+3600"), (2, "-3600")] {
            let began = Instant::now();
            grant(&client, id, TTL_S).await;
            eventually("some of the lease's time is over", || began.elapsed() > ttl / 4);
            std::fs::write(&offset, jump).expect("writable");
            let left = time_to_live(&client, id).await.ttl;
            assert!((1..TTL_S).contains(&left), "{left} s left after a jump of {jump} s");
            expect_expiry(&mut watch, id, began, ttl, ttl + LATE).await;
        }
    });
    // The server did see the jumps: the log contains the time of day.
    std::fs::write(&offset, "+360000000").expect("writable");
    member.terminate();
    eventually("the last line of the log", || member.log().iter().any(|line| line.contains("received signal")));
    let last = member.log().into_iter().find(|line| line.contains("received signal")).expect("it was just seen");
    let first = member.log()[0].clone();
    assert!(year(&last) > year(&first) + 10, "the clock did not jump: {first} ... {last}");
}

fn year(line: &str) -> u32 {
    let json: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
    json["ts"].as_str().and_then(|ts| ts[..4].parse().ok()).expect("a timestamp")
}
