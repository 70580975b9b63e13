//! The engines that the tests run on.

use std::sync::Arc;

use metastore_engine::contract::{Mirror, Scratch};
use metastore_engine::{Engine, Memory, RocksDb, RocksDbSettings};
use proptest::prelude::ProptestConfig;

/// Bytes of a database's cache: small, because tests open hundreds of them.
const CACHE_BYTES: usize = 4 << 20;

/// How many cases a random test tries on disk where it tries 256 in memory: opening a database takes a while.
const CASES_ON_DISK: u32 = 32;

/// [`CASES_ON_DISK`], unless the environment asks for more than the default.
pub fn cases_on_disk() -> ProptestConfig {
    let usual = ProptestConfig::default();
    let cases = if usual.cases == 256 { CASES_ON_DISK } else { usual.cases };
    ProptestConfig { cases, ..usual }
}

/// What an engine stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Memory,
    RocksDb,
    /// Both, compared call by call.
    Both,
}

/// Where the state of a member is, while it runs and while it does not.
pub enum Home {
    Memory(Arc<Memory>),
    RocksDb(Scratch),
    Both(Arc<Memory>, Scratch),
}

impl Home {
    /// An empty one.
    pub fn new(medium: Medium) -> Self {
        match medium {
            Medium::Memory => Self::Memory(Arc::default()),
            Medium::RocksDb => Self::RocksDb(Scratch::new()),
            Medium::Both => Self::Both(Arc::default(), Scratch::new()),
        }
    }

    /// Opens the engine. Nobody may have it open.
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
