//! Defragment releases space, and requests do not wait for it.

use metastore_proto::etcdserverpb::*;
use metastore_tests::grpc::Client;
use metastore_tests::member::Member;
use metastore_tests::programs::EngineKind;
use metastore_tests::random::Random;
use metastore_tests::{paths, programs};
use tonic::Status;

use crate::bad_days::observe;

/// The number of keys, the number of writes of each, and the size of a value.
const KEYS: usize = 100;
const TIMES: usize = 40;
const VALUE_BYTES: usize = 2048;

each_engine!(defragment_gives_space_back_and_holds_up_nobody);

fn defragment_gives_space_back_and_holds_up_nobody(engine: EngineKind) {
    let found = programs::subject(engine);
    let Some(subject) = programs::or_skip("defragment", found) else { return };
    let mut member = Member::start(&subject, &[]);
    let address = member.client_address().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let hash = runtime.block_on(async {
        let client = Client::new(&address);
        let newest = fill(&client).await.expect("puts are taken");
        let full = status(&client).await;
        let compact = CompactionRequest { revision: newest, physical: true };
        client.unary::<_, CompactionResponse>(paths::COMPACT, compact).await.expect("compacted");
        let compacted = status(&client).await;
        assert!(compacted.db_size_in_use * 10 < full.db_size_in_use, "{full:?} {compacted:?}");
        assert_eq!(compacted.db_size, full.db_size, "the size stays until it is told to fall");
        member.kill();
        member.restart();
        let client = Client::new(&address);
        let killed = status(&client).await;
        assert_eq!((killed.db_size, killed.db_size_in_use), (full.db_size, compacted.db_size_in_use), "after kill -9");

        put(&client, "later", b"x").await.expect("a put");
        let before = hash_kv(&client).await;
        defragment_beside_writes(&client).await;
        let after = status(&client).await;
        assert_eq!(after.db_size, after.db_size_in_use);
        assert!(after.db_size * 10 < full.db_size, "{full:?} {after:?}");
        assert_eq!(hash_kv(&client).await, before, "what is stored is the same");
        before
    });
    let metrics = observe::metrics(&address);
    assert_eq!(metrics["etcd_disk_backend_defrag_duration_seconds_count"], 2.0);
    assert_eq!(metrics["etcd_disk_defrag_inflight"], 0.0);
    assert_eq!(metrics["etcd_mvcc_db_total_size_in_bytes"], metrics["etcd_mvcc_db_total_size_in_use_in_bytes"]);
    let on_disk = metrics.get("metastore_engine_disk_bytes").copied();
    match engine {
        EngineKind::Memory => assert_eq!(on_disk, None, "an engine without files has no figures"),
        // Twice the size of the remaining data, and the overhead of tables.
        EngineKind::RocksDb => assert!(on_disk.is_some_and(|bytes| (1.0..3e6).contains(&bytes)), "{on_disk:?}"),
    }
    let sizes = || {
        let status = runtime.block_on(async { status(&Client::new(&address)).await });
        (status.db_size, status.db_size_in_use)
    };
    let fallen = sizes();
    member.kill();
    member.restart();
    assert_eq!(sizes(), fallen, "after kill -9");
    let again = runtime.block_on(async { hash_kv(&Client::new(&address)).await });
    assert_eq!(again, hash, "after a restart");
}

/// Two calls at once: the second waits for the first, and a put waits for neither.
async fn defragment_beside_writes(client: &Client) {
    let defragment = || client.unary::<_, DefragmentResponse>(paths::DEFRAGMENT, DefragmentRequest {});
    let (first, second, put) = tokio::join!(defragment(), defragment(), put(client, "beside", b"x"));
    put.expect("a put beside it");
    for response in [first, second] {
        assert_eq!(response.expect("defragmented").header, None, "the header is empty, as in etcd");
    }
    let delete = DeleteRangeRequest { key: "beside".into(), ..DeleteRangeRequest::default() };
    client.unary::<_, DeleteRangeResponse>(paths::DELETE_RANGE, delete).await.expect("deleted");
}

/// Writes every key many times, with values that do not compress. Returns the last revision.
async fn fill(client: &Client) -> Result<i64, Status> {
    let mut random = Random::new(3);
    let mut newest = 0;
    for number in 0..KEYS * TIMES {
        let value: Vec<u8> = (0..VALUE_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
        newest = put(client, &format!("key{}", number % KEYS), &value).await?;
    }
    Ok(newest)
}

async fn put(client: &Client, key: &str, value: &[u8]) -> Result<i64, Status> {
    let put = PutRequest { key: key.to_owned().into(), value: value.to_vec().into(), ..PutRequest::default() };
    let response: PutResponse = client.unary(paths::PUT, put).await?;
    Ok(response.header.unwrap_or_default().revision)
}

async fn status(client: &Client) -> StatusResponse {
    client.unary(paths::STATUS, StatusRequest {}).await.expect("a status")
}

/// The hash at the first revision after the compaction, which later writes do not change. As in etcd, the hash at the
/// compacted revision itself is remembered until a restart, and is a different one after it.
async fn hash_kv(client: &Client) -> u32 {
    let request = HashKvRequest { revision: (KEYS * TIMES) as i64 + 2 };
    client.unary::<_, HashKvResponse>(paths::HASH_KV, request).await.expect("a hash").hash
}
