//! A database of etcd, as a state that a member can take up.

use std::collections::BTreeMap;
use std::io;

use metastore_bbolt::{Cursor, Database, ReadAt, ReadError, Value};
use metastore_engine::{Applied, Published, Revision, Table};
use metastore_proto::raftpb::ConfState;
use metastore_store::schema::{
    CONF_STATE, CONSISTENT_INDEX, FINISHED_COMPACTION, NOT_HASHED, SCHEDULED_COMPACTION, STORAGE_VERSION, TERM,
    parse_revision_key, revision_key,
};
use metastore_store::snapshot::Outgoing;
use metastore_store::{Member, conf_state_json};

use crate::KEYS;

/// The longest row of a database, with the pages above it, that is read.
pub const MAX_PATH_BYTES: u64 = 512 << 20;
/// The bytes of all small tables together: users, leases, members.
const MAX_TABLE_BYTES: usize = 512 << 20;
/// Pieces of the stream are about this long.
const PIECE_BYTES: usize = 256 << 10;
/// The first revision of a cluster.
const FIRST_REVISION: i64 = 1;

/// A database that cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the database has a bucket {0:?}, which this version does not know; nothing of it may be lost")]
    Bucket(String),
    #[error("the database is no database of etcd: {0}")]
    NotEtcds(String),
    #[error("the small tables of the database take more than {MAX_TABLE_BYTES} bytes, which is more than is read")]
    Tables,
    #[error("the state cannot be passed on: {0}")]
    Write(#[from] io::Error),
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The state in a database of etcd. Its small tables are in memory, and can be changed before it is written.
pub struct EtcdState<S> {
    database: Database<S>,
    tables: BTreeMap<Table, Rows>,
    /// The position in the log, as the database has it; etcd before 3.5 recorded no term.
    applied: Applied,
    /// The version of etcd's storage; none before 3.6.
    storage_version: Option<String>,
    /// The newest revision.
    revision: i64,
    /// A version without key and value, which only raises the revision.
    raised_to: Option<Revision>,
}

impl<S: ReadAt> EtcdState<S> {
    /// Reads the small tables of a database.
    ///
    /// # Errors
    /// If it is damaged, is no database of etcd, or holds something that is not known.
    pub fn open(source: S) -> Result<Self, ImportError> {
        let database = Database::open(source, MAX_PATH_BYTES)?;
        let mut tables = tables(&database)?;
        let meta = tables.entry(Table::Meta).or_default();
        let number = |name: &[u8]| match meta.get(name).map(|bytes| <[u8; 8]>::try_from(&bytes[..])) {
            None => Ok(0),
            Some(Ok(bytes)) => Ok(u64::from_be_bytes(bytes)),
            Some(Err(_)) => Err(ImportError::NotEtcds(format!("{} is not a number", name.escape_ascii()))),
        };
        let applied = Applied { index: number(CONSISTENT_INDEX)?, term: number(TERM)? };
        let storage_version = meta.get(STORAGE_VERSION).map(|text| String::from_utf8_lossy(text).into_owned());
        let compacted =
            [SCHEDULED_COMPACTION, FINISHED_COMPACTION].map(|row| meta.get(row).map_or(Ok(0), |key| main_of(key)));
        meta.retain(|row, _| !NOT_HASHED.contains(&&row[..]));
        let last = database.last_key(KEYS.as_bytes())?.map_or(Ok(0), |key| main_of(&key))?;
        let mut revision = FIRST_REVISION.max(last);
        // A compaction may have dropped the newest versions, which were tombstones.
        for compacted in compacted {
            revision = revision.max(compacted?);
        }
        Ok(Self { database, tables, applied, storage_version, revision, raised_to: None })
    }

    /// The position in the log up to which the database holds everything. The term is 0 if the database has none.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// The version of etcd's storage, such as `3.6.0`; none before 3.6.
    pub fn storage_version(&self) -> Option<&str> {
        self.storage_version.as_deref()
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The members that the database names.
    ///
    /// # Errors
    /// If a row is damaged.
    pub fn members(&self) -> Result<Vec<Member>, ImportError> {
        let rows = self.tables.get(&Table::Members).into_iter().flatten();
        let member = |(id, json): (&Vec<u8>, &Vec<u8>)| Member::from_row(id, json);
        rows.map(|row| member(row).map_err(|error| ImportError::NotEtcds(error.to_string()))).collect()
    }

    /// Puts other members in the place of all members, present and removed: those of a new cluster.
    ///
    /// # Errors
    /// Those of the JSON encoder; no member causes one.
    pub fn set_members(&mut self, members: &[Member]) -> serde_json::Result<()> {
        let rows = members.iter().map(|member| Ok((Member::row_key(member.id), member.to_json()?)));
        self.tables.insert(Table::Members, rows.collect::<serde_json::Result<_>>()?);
        self.tables.remove(&Table::MembersRemoved);
        Ok(())
    }

    /// Raises the newest revision by `amount`, and marks everything up to it as compacted: no watcher of the former
    /// cluster takes a new revision for one that it knows. The rows are those of `etcdutl snapshot restore`.
    ///
    /// # Errors
    /// If the revision would be too large.
    pub fn bump_revision(&mut self, amount: u64) -> Result<(), ImportError> {
        let revision = i64::try_from(amount).ok().and_then(|amount| self.revision.checked_add(amount));
        let too_large = || ImportError::NotEtcds(format!("revision {} cannot be raised by {amount}", self.revision));
        self.revision = revision.ok_or_else(too_large)?;
        let raised_to = Revision::new(self.revision, 0);
        self.raised_to = Some(raised_to);
        let compaction = revision_key(raised_to, false).to_vec();
        self.tables.entry(Table::Meta).or_default().insert(SCHEDULED_COMPACTION.to_vec(), compaction);
        Ok(())
    }

    /// Writes the stream of the state, in pieces, as the state at this position in a group of these members.
    ///
    /// # Errors
    /// If the database is damaged, or `write` fails.
    pub fn write(
        &self,
        applied: Applied,
        conf_state: &ConfState,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ImportError> {
        let mut out = Vec::new();
        let mut stream = Outgoing::begin(Published { revision: self.revision, applied }, &mut out);
        self.write_tables(false, conf_state, &mut stream, &mut out)?;
        if let Some(mut keys) = self.database.bucket(KEYS.as_bytes())? {
            while let Some(row) = keys.next()? {
                stream.version(row.key, bytes_of(KEYS, row.key, row.value)?, &mut out);
                if out.len() >= PIECE_BYTES {
                    write(&out)?;
                    out.clear();
                }
            }
        }
        if let Some(revision) = self.raised_to {
            stream.version(&revision_key(revision, false), b"", &mut out);
        }
        self.write_tables(true, conf_state, &mut stream, &mut out)?;
        stream.end(&mut out);
        Ok(write(&out)?)
    }

    fn write_tables(
        &self,
        behind_keys: bool,
        conf_state: &ConfState,
        stream: &mut Outgoing,
        out: &mut Vec<u8>,
    ) -> Result<(), ImportError> {
        for table in Outgoing::tables(behind_keys) {
            let mut rows = self.tables.get(&table).cloned().unwrap_or_default();
            if table == Table::Meta {
                let json = conf_state_json(conf_state).map_err(io::Error::other)?;
                rows.insert(CONF_STATE.to_vec(), json);
            }
            rows.iter().for_each(|(key, value)| stream.row(table, key, value, out));
        }
        Ok(())
    }
}

/// All small tables of a database.
fn tables<S: ReadAt>(database: &Database<S>) -> Result<BTreeMap<Table, Rows>, ImportError> {
    let (mut tables, mut left) = (BTreeMap::new(), MAX_TABLE_BYTES);
    let mut buckets = database.root()?;
    loop {
        let Some(row) = buckets.next()? else { return Ok(tables) };
        let name = row.key.escape_ascii().to_string();
        if !row.is_bucket() {
            return Err(ImportError::NotEtcds(format!("{name:?} stands outside of all buckets")));
        }
        match Table::ALL.into_iter().find(|table| table.name() == name) {
            Some(table) => {
                buckets.enter()?;
                tables.insert(table, rows_of(table, &mut buckets, &mut left)?);
            }
            None if name == KEYS => {}
            None => return Err(ImportError::Bucket(name)),
        }
    }
}

/// The rows of the bucket that the cursor has entered.
fn rows_of<S: ReadAt>(table: Table, cursor: &mut Cursor<'_, S>, left: &mut usize) -> Result<Rows, ImportError> {
    let mut rows = Rows::new();
    while let Some(row) = cursor.next()? {
        let value = bytes_of(table.name(), row.key, row.value)?;
        *left = left.checked_sub(row.key.len() + value.len()).ok_or(ImportError::Tables)?;
        rows.insert(row.key.to_vec(), value.to_vec());
    }
    Ok(rows)
}

fn bytes_of<'c>(bucket: &str, key: &[u8], value: Value<'c>) -> Result<&'c [u8], ImportError> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        Value::Bucket => {
            Err(ImportError::NotEtcds(format!("bucket {bucket:?} holds a bucket, \"{}\"", key.escape_ascii())))
        }
    }
}

/// The revision in a key of the bucket of versioned keys, without the number of the change.
fn main_of(key: &[u8]) -> Result<i64, ImportError> {
    let not_one = || ImportError::NotEtcds(format!("\"{}\" is no revision", key.escape_ascii()));
    parse_revision_key(key).map(|(revision, _)| revision.main).ok_or_else(not_one)
}
