//! The engines that the tests run on.

use std::sync::Arc;

use metastore_engine::contract::{Mirror, Scratch};
use metastore_engine::{Engine, Memory, RocksDb, RocksDbSettings};
use proptest::prelude::ProptestConfig;

/// The size of a database's cache, in bytes: small, because tests open hundreds of databases.
const CACHE_BYTES: usize = 4 << 20;

/// The number of cases of a random test on disk, instead of 256 in memory: opening a database takes long.
const CASES_ON_DISK: u32 = 32;

/// [`CASES_ON_DISK`], unless the environment sets another number of cases than the default.
pub fn cases_on_disk() -> ProptestConfig {
    let usual = ProptestConfig::default();
    let cases = if usual.cases == 256 { CASES_ON_DISK } else { usual.cases };
    ProptestConfig { cases, ..usual }
}

/// The kind of engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Memory,
    RocksDb,
    /// Both, compared call by call.
    Both,
}

/// The place of a member's state, while the member runs and while it is stopped.
pub enum Home {
    Memory(Arc<Memory>),
    RocksDb(Scratch),
    Both(Arc<Memory>, Scratch),
}

impl Home {
    /// An empty home.
    pub fn new(medium: Medium) -> Self {
        match medium {
            Medium::Memory => Self::Memory(Arc::default()),
            Medium::RocksDb => Self::RocksDb(Scratch::new()),
            Medium::Both => Self::Both(Arc::default(), Scratch::new()),
        }
    }

    /// Opens the engine. It must not be open already.
    pub fn open(&self) -> Arc<dyn Engine> {
        match self {
            Self::Memory(memory) => memory.clone(),
            Self::RocksDb(scratch) => database(scratch),
            Self::Both(memory, scratch) => Arc::new(Mirror::new(memory.clone(), database(scratch))),
        }
    }
}

fn database(scratch: &Scratch) -> Arc<dyn Engine> {
    let settings = RocksDbSettings { block_cache_bytes: CACHE_BYTES, ..RocksDbSettings::default() };
    Arc::new(RocksDb::open(&scratch.path().join("state"), settings).expect("the database can be opened"))
}
