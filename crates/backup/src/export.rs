//! The state as a database file of bbolt with etcd's buckets, from which etcd starts (etcd: `server/storage`).
//!
//! The file is made while it is sent, from a frozen copy of the state, so it takes neither memory nor disk in
//! proportion to the state. Its first pages name the last ones, so the state is read twice ([`metastore_bbolt`]).

use bytes::BytesMut;
use metastore_bbolt::{Layout, WriteError, Writer};
use metastore_engine::{EngineError, Revision, Table};
use metastore_store::schema::{CLUSTER_VERSION, CONSISTENT_INDEX, NOT_HASHED, STORAGE_VERSION, TERM, revision_key};
use metastore_store::snapshot::{Source, TableRow};

use crate::KEYS;

/// The first version of etcd that records the version of its storage; an older one does not know that row.
const FIRST_STORAGE_VERSION: (u64, u64) = (3, 6);

/// A backup that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the state cannot be written as a database of etcd: {0}")]
    Write(#[from] WriteError),
}

/// The first pass over the state: it finds out how large the file is.
pub struct Survey {
    state: State,
    place: Place,
    layout: Layout,
}

/// A backup on its way.
pub struct Backup {
    state: State,
    place: Place,
    writer: Option<Writer>,
    size_bytes: u64,
}

struct State {
    source: Source,
    /// The version of etcd's storage that the file has; empty for one from before that was recorded.
    storage_version: String,
}

/// The part of the state that is written next.
#[derive(Clone, Copy)]
enum Place {
    /// The bucket with this number, in the order of the names.
    Bucket(usize),
    Versions(Revision, usize),
    End,
}

/// A pass over the state.
trait Pass {
    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError>;
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError>;
}

impl Pass for Layout {
    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        Layout::bucket(self, name)
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        Layout::row(self, key.len(), value.len())
    }
}

impl Pass for Writer {
    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        Writer::bucket(self, name)
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        Writer::row(self, key, value)
    }
}

impl Survey {
    /// Begins it.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn new(source: Source) -> Result<Survey, BackupError> {
        let version = source.row(Table::Cluster, CLUSTER_VERSION)?.unwrap_or_default();
        let storage_version = storage_version(&String::from_utf8_lossy(&version));
        let state = State { source, storage_version };
        Ok(Survey { state, place: Place::Bucket(0), layout: Layout::new() })
    }

    /// Reads on, for at most so many bounded steps. Returns whether there is more.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn go_on(&mut self, steps: usize) -> Result<bool, BackupError> {
        for _ in 0..steps {
            if matches!(self.place, Place::End) {
                return Ok(false);
            }
            self.place = self.state.step(self.place, &mut self.layout)?;
        }
        Ok(true)
    }

    /// Ends it.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn finish(mut self) -> Result<Backup, BackupError> {
        while self.go_on(usize::MAX)? {}
        let plan = self.layout.finish();
        let (size_bytes, writer) = (plan.size_bytes(), Some(Writer::new(plan)));
        Ok(Backup { state: self.state, place: Place::Bucket(0), writer, size_bytes })
    }
}

impl Backup {
    /// Reads the state once, to learn how large the file is.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn new(source: Source) -> Result<Backup, BackupError> {
        Survey::new(source)?.finish()
    }

    /// The size of the whole file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The version of etcd's storage that the file has, such as `3.7.0`.
    pub fn storage_version(&self) -> &str {
        &self.state.storage_version
    }

    /// The next piece of the file, of at least `least` bytes but for the last one; `None` after that.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn next_piece(&mut self, least: usize) -> Result<Option<BytesMut>, BackupError> {
        let Some(writer) = &mut self.writer else { return Ok(None) };
        while !matches!(self.place, Place::End) {
            if writer.finished().len() >= least {
                return Ok(Some(writer.finished().split()));
            }
            self.place = self.state.step(self.place, writer)?;
        }
        match self.writer.take() {
            Some(writer) => Ok(Some(writer.finish()?)),
            None => Ok(None),
        }
    }
}

impl State {
    /// Writes a bounded step; returns the place of the next one.
    fn step(&self, place: Place, pass: &mut impl Pass) -> Result<Place, BackupError> {
        match place {
            Place::Bucket(number) => {
                let Some(name) = buckets().nth(number) else { return Ok(Place::End) };
                pass.bucket(name.as_bytes())?;
                let Some(table) = Table::ALL.into_iter().find(|table| table.name() == name) else {
                    return Ok(Place::Versions(Revision::default(), number));
                };
                for (key, value) in self.rows(table)? {
                    pass.row(&key, &value)?;
                }
                Ok(Place::Bucket(number + 1))
            }
            Place::Versions(from, number) => {
                let mut versions = Vec::new();
                let next = self.source.versions(from, &mut versions)?;
                for version in versions {
                    pass.row(&revision_key(version.revision, version.tombstone), &version.row)?;
                }
                Ok(next.map_or(Place::Bucket(number + 1), |from| Place::Versions(from, number)))
            }
            Place::End => Ok(Place::End),
        }
    }

    /// The rows of a table, and in etcd's `meta` the position in the log, which is no row here.
    fn rows(&self, table: Table) -> Result<Vec<TableRow>, BackupError> {
        let mut rows = self.source.rows(table)?;
        if table == Table::Meta {
            let applied = self.source.applied();
            rows.retain(|(key, _)| !NOT_HASHED.contains(&&key[..]));
            rows.push((CONSISTENT_INDEX.to_vec(), applied.index.to_be_bytes().to_vec()));
            rows.push((TERM.to_vec(), applied.term.to_be_bytes().to_vec()));
            if !self.storage_version.is_empty() {
                rows.push((STORAGE_VERSION.to_vec(), self.storage_version.clone().into_bytes()));
            }
            rows.sort_unstable();
        }
        Ok(rows)
    }
}

/// The names of all buckets, in order.
fn buckets() -> impl Iterator<Item = &'static str> {
    let before = Table::ALL.into_iter().map(Table::name).filter(|name| *name < KEYS);
    let after = Table::ALL.into_iter().map(Table::name).filter(|name| *name > KEYS);
    before.chain([KEYS]).chain(after)
}

/// The version of the storage in a cluster of this version.
fn storage_version(cluster_version: &str) -> String {
    let mut parts = cluster_version.split('.').map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= FIRST_STORAGE_VERSION => format!("{major}.{minor}.0"),
        _ => String::new(),
    }
}
