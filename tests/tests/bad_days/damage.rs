//! Files of the state on disk that are missing or damaged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use metastore_proto::etcdserverpb::{HashKvRequest, HashKvResponse, RangeRequest, RangeResponse};
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::paths;
use metastore_tests::programs::EngineKind;
use metastore_tests::random::Random;

use super::refusals::expect_refusal;
use super::{block_on, load, put_request, subject};

/// More data than RocksDB collects in memory, so that there are files. The values do not compress.
const VALUES: usize = 400;
const VALUE_DIGITS: usize = 400_000;
/// How long a read of damaged files may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The damage to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Removed,
    Halved,
    /// Every 4,096th byte in the middle third is changed.
    Garbled,
}

impl Damage {
    fn inflict(self, path: &Path) {
        let mut bytes = std::fs::read(path).expect("readable");
        match self {
            Damage::Removed => return std::fs::remove_file(path).expect("writable"),
            Damage::Halved => bytes.truncate(bytes.len() / 2),
            Damage::Garbled => {
                let third = bytes.len() / 3;
                bytes[third..2 * third].iter_mut().step_by(4096).for_each(|byte| *byte ^= 0x55);
            }
        }
        std::fs::write(path, bytes).expect("writable");
    }
}

/// A stopped member with files of its state on disk.
fn stopped_member(test: &str) -> Option<Member> {
    let mut member = Member::start(&subject(test, EngineKind::RocksDb)?, &[]);
    let value = |number: usize| {
        let mut random = Random::new(number as u64);
        let digits: String = (0..VALUE_DIGITS / 16).map(|_| format!("{:016x}", random.next_u64())).collect();
        put_request(&format!("large/{number}"), &digits)
    };
    block_on(async {
        let client = Client::new(member.client_address());
        // One at a time: together they would be too large for a request.
        for number in 0..VALUES {
            load(&client, 1, |_| value(number)).await.expect("values are put");
        }
    });
    member.terminate();
    Some(member)
}

/// Files of the engine with this beginning and end of their names, the oldest first.
fn files(member: &Member, begin: &str, end: &str) -> Vec<PathBuf> {
    let directory = std::fs::read_dir(member.data_directory().join("member/rocksdb")).expect("readable");
    let mut names: Vec<String> =
        directory.map(|entry| entry.expect("readable").file_name().into_string().expect("text")).collect();
    names.retain(|name| name.starts_with(begin) && name.ends_with(end));
    names.sort();
    names.into_iter().map(|name| member.data_directory().join("member/rocksdb").join(name)).collect()
}

#[test]
fn a_missing_or_damaged_file_of_the_state_is_named() {
    let Some(mut member) = stopped_member("damaged state") else { return };
    let table = files(&member, "", ".sst").remove(0);
    let manifest = files(&member, "MANIFEST", "").remove(0);
    let current = files(&member, "CURRENT", "").remove(0);
    use Damage::{Garbled, Halved, Removed};
    let cases =
        [(&current, &[Removed, Halved, Garbled][..]), (&manifest, &[Removed, Garbled]), (&table, &[Removed, Halved])];
    for (path, damage) in cases.iter().flat_map(|(path, all)| all.iter().map(move |damage| (*path, *damage))) {
        let before = std::fs::read(path).expect("readable");
        damage.inflict(path);
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        expect_refusal(&mut member, &[&name, "\"error\""]);
        assert!(member.log().iter().all(|line| !line.contains("panicked")), "{damage:?}: {:#?}", member.log());
        std::fs::write(path, before).expect("writable");
    }
    member.restart();
    let expected = block_on(read_all(&member)).expect("with its files back, it answers");
    assert_eq!(expected.0, VALUES as i64);

    // RocksDB treats a manifest that ends early like one whose last write was not finished. The state is then an older
    // one, and the log brings it up to date.
    member.terminate();
    Halved.inflict(&files(&member, "MANIFEST", "").remove(0));
    match member.try_restart() {
        Ok(()) => assert_eq!(block_on(read_all(&member)), Ok(expected), "with half a manifest"),
        Err(reason) => assert!(reason.contains("member/rocksdb"), "{reason}"),
    }
}

/// A table is read and checked when it is needed: damaged contents are never in an answer.
#[test]
fn a_garbled_table_is_never_served() {
    let Some(mut member) = stopped_member("garbled table") else { return };
    // The middle of a large table is data. In a small one it may be metadata that is read when the table is opened.
    let size = |path: &PathBuf| path.metadata().expect("readable").len();
    let largest = files(&member, "", ".sst").into_iter().max_by_key(size).expect("there are tables");
    Damage::Garbled.inflict(&largest);
    let refused = match member.try_restart() {
        Ok(()) => {
            block_on(async { tokio::time::timeout(PATIENCE, read_all(&member)).await }).expect("an answer in time")
        }
        Err(reason) => Err(reason),
    };
    let name = largest.file_name().expect("a file").to_string_lossy();
    assert!(refused.as_ref().is_err_and(|reason| reason.contains(&*name)), "{refused:?}");
    assert!(member.log().iter().all(|line| !line.contains("panicked")), "{:#?}", member.log());
}

/// The number of keys, and the hash of all keys.
async fn read_all(member: &Member) -> Result<(i64, u32), String> {
    let client = Client::new(member.client_address());
    let all = Bytes::from_static(b"\0");
    let range = RangeRequest { key: all.clone(), range_end: all, ..RangeRequest::default() };
    let range: RangeResponse = client.unary(paths::RANGE, range).await.map_err(|status| status.to_string())?;
    let hash: HashKvResponse =
        client.unary(paths::HASH_KV, HashKvRequest::default()).await.map_err(|status| status.to_string())?;
    Ok((range.count, hash.hash))
}
