//! End-to-end tests against real processes: one binary, with one module per kind of proof.

/// Makes a test for each storage engine from one body, `fn(Engine)`.
macro_rules! each_engine {
    ($($body:ident),+ $(,)?) => {
        mod memory {
            $(#[test] fn $body() { super::$body(metastore_tests::programs::EngineKind::Memory); })+
        }
        mod rocksdb {
            $(#[test] fn $body() { super::$body(metastore_tests::programs::EngineKind::RocksDb); })+
        }
    };
}

mod auth;
mod backup;
mod bad_days;
mod cluster;
mod compaction;
mod corruption;
mod defragment;
mod deploy;
mod differential;
mod doors;
mod downgrade;
mod etcdctl;
mod flags;
mod gateway;
mod hash;
mod metactl;
mod metrics;
mod quota;
mod readme;
mod recipes;
mod restart;
mod tls;
