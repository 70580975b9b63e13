//! The data directory: where its files are, which member owns it, and the checks before anything is changed.
//!
//! ```text
//!   <data-dir>/member/identity.json    format, engine, member and cluster id; written last at the first start
//!   <data-dir>/member/wal/             the log (or at --wal-dir)
//!   <data-dir>/member/snap/            Memory: <term>-<index>.state and .snap, as many hex digits as etcd uses
//!   <data-dir>/member/rocksdb/         RocksDB: the state, unless identity.json names another directory:
//!   <data-dir>/member/rocksdb-<term>-<index>/     one that was received from another member
//!   <data-dir>/.partial/               a directory that `metactl` builds; its `member` is moved up as the last step
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use metastore_engine::{Applied, EngineError};
use serde::{Deserialize, Serialize};

use crate::disk::{DirLock, Disk, DiskError, LOST_AND_FOUND};
use crate::wal::WalError;

/// The name of the directory, inside of the new one, in which a tool builds a data directory.
pub const PARTIAL: &str = ".partial";
const IDENTITY_FILE: &str = "identity.json";
/// Version of the layout; any other version is refused.
const FORMAT: u32 = 1;
/// The directory of the state, unless the identity names another one.
const STATE: &str = "rocksdb";

/// The name of the directory of a received state.
pub fn received_name(applied: Applied) -> String {
    format!("{STATE}-{:016x}-{:016x}", applied.term, applied.index)
}

/// Whether this can be the name of a state's directory.
pub fn is_state_name(name: &str) -> bool {
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let received = |name: &str| {
        let (term, index) = name.strip_prefix(STATE)?.strip_prefix('-')?.split_once('-')?;
        Some(received_name(Applied { term: hex(term)?, index: hex(index)? }) == name)
    };
    name == STATE || received(name).unwrap_or_default()
}

/// The places where a member keeps its files.
#[derive(Clone, Debug)]
pub struct Paths {
    pub data_dir: PathBuf,
    /// The log's directory, if it is not inside the data directory.
    pub wal_dir: Option<PathBuf>,
}

impl Paths {
    pub fn member(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    pub fn wal(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member().join("wal"))
    }

    /// The command that converts this member to another engine.
    fn conversion_command(&self, engine: &str) -> String {
        let log = self.wal_dir.as_ref().map(|dir| format!(" --wal-dir {}", dir.display())).unwrap_or_default();
        format!("metastore convert --data-dir {}{log} --engine {engine}", self.data_dir.display())
    }

    /// The directory in which an engine that outlives the process keeps a state that it made itself.
    pub fn engine(&self) -> PathBuf {
        self.member().join(STATE)
    }

    /// The directory in which a conversion builds the state of such an engine.
    pub fn converting(&self) -> PathBuf {
        self.member().join("rocksdb.converting")
    }

    pub fn snap(&self) -> PathBuf {
        self.member().join("snap")
    }
}

/// The reasons for which a member cannot start on its directory. No file of the member was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{path}: {why}", path = .path.display())]
    Refused { path: PathBuf, why: String },
    /// The settings do not describe a new member.
    #[error("{0}")]
    Bootstrap(String),
    #[error("the log cannot be replayed: {0}")]
    Replay(String),
}

impl OpenError {
    pub(crate) fn refused(path: &Path, why: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), why: why.into() }
    }
}

/// The owner of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    pub engine: String,
    /// Hexadecimal, as etcd prints ids.
    pub member_id: String,
    pub cluster_id: String,
    /// A random number of 16 hexadecimal digits, drawn once for each directory. It differs between two directories that
    /// were founded alike, but not between a directory and its copies. Versions before this field wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The directory of the state, if it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

impl Identity {
    pub fn new(engine: &str, member_id: u64, cluster_id: u64) -> Self {
        Self {
            format: FORMAT,
            engine: engine.into(),
            member_id: format!("{member_id:x}"),
            cluster_id: format!("{cluster_id:x}"),
            directory: None,
            state: None,
        }
    }

    /// Gives the directory a name, if it has none. Returns whether it got one.
    pub fn name_directory(&mut self, name: Option<u64>) -> bool {
        let missing = self.directory.is_none();
        if missing {
            self.directory = name.map(|name| format!("{name:016x}"));
        }
        missing && name.is_some()
    }

    pub fn directory(&self) -> Option<u64> {
        u64::from_str_radix(self.directory.as_ref()?, 16).ok()
    }

    fn state_name(&self) -> &str {
        self.state.as_deref().unwrap_or(STATE)
    }
}

/// The content of a data directory.
pub enum Found {
    /// Empty: a new member may be made here.
    Empty,
    /// A log, and the identity. The identity is missing if the first start was interrupted before it was written.
    Member(Option<Identity>),
}

/// A data directory that no other process uses.
pub struct DataDir {
    pub disk: Arc<dyn Disk>,
    pub paths: Paths,
    /// The name of the directory in which an engine on disk keeps the state of this member.
    pub engine: String,
    locks: Vec<Box<dyn DirLock>>,
}

impl DataDir {
    /// Creates the member's directory, if it is missing, and locks it against other processes.
    ///
    /// # Errors
    /// If another process uses the directory, or a tool was interrupted before it had built a member in it: a start
    /// would begin an empty cluster in the place of the one that was to be restored. The directory is not changed then.
    pub fn open(disk: Arc<dyn Disk>, paths: Paths) -> Result<Self, OpenError> {
        let partial = paths.data_dir.join(PARTIAL);
        if disk.exists(&partial)? && !disk.exists(&paths.member().join(IDENTITY_FILE))? {
            let why = "left by a run of metactl that was interrupted, or that still goes on: there is no whole member \
                       in the data directory. Empty the data directory (and --wal-dir), and repeat the run";
            return Err(OpenError::refused(&partial, why));
        }
        disk.create_dir_all(&paths.member())?;
        let lock = disk.lock_dir(&paths.member())?;
        Ok(Self { disk, paths, engine: STATE.into(), locks: vec![lock] })
    }

    /// Locks the log against other processes, too: two data directories may name the same log.
    pub fn lock_log(&mut self) -> Result<(), OpenError> {
        let wal = self.paths.wal();
        if wal != self.paths.member() {
            self.disk.create_dir_all(&wal)?;
            self.locks.push(self.disk.lock_dir(&wal)?);
        }
        Ok(())
    }

    /// Inspects the content of the directory.
    ///
    /// # Errors
    /// If the directory belongs to another program or another version, or lacks a part.
    pub fn inspect(&self, engine: &str) -> Result<Found, OpenError> {
        let identity = self.identity()?;
        let wal = self.paths.wal();
        let has_log = self.names(&wal)?.iter().any(|name| name.ends_with(".wal"));
        let states = self.names(&self.paths.snap())?;
        if identity.is_none() && states.iter().any(|name| name == "db") {
            let why = format!(
                "this is the data directory of an etcd. Convert it into one of MetaStore's, and start with that: \
                 metactl migrate --from-etcd-data-dir {} --data-dir NEW --engine {engine}",
                self.paths.data_dir.display()
            );
            return Err(OpenError::refused(&self.paths.snap().join("db"), why));
        }
        let has_state = !states.is_empty() || self.disk.exists(&self.paths.engine())?;
        if !has_log && (identity.is_some() || has_state) {
            let why = "the directory of the log is empty, but this member has state: acknowledged writes would be \
                lost. \
                       Mount or name the right directory (--wal-dir), or remove the data directory to start afresh";
            return Err(OpenError::refused(&wal, why));
        }
        match identity {
            Some(found) if found.engine != engine => {
                let why = format!(
                    "written by engine {:?}, but --engine is {engine:?}; start with --engine {}, or convert the \
                     stopped member: {}",
                    found.engine,
                    found.engine,
                    self.paths.conversion_command(engine)
                );
                Err(OpenError::refused(&self.identity_path(), why))
            }
            None if !states.is_empty() => {
                let why = "the file is missing, but there are snapshots; restore it from a copy, or remove the data \
                           directory to start afresh";
                Err(OpenError::refused(&self.identity_path(), why))
            }
            _ if !has_log => Ok(Found::Empty),
            identity => Ok(Found::Member(identity)),
        }
    }

    /// The directory in which an engine on disk keeps the state of this member.
    pub fn engine_path(&self) -> PathBuf {
        self.paths.member().join(&self.engine)
    }

    /// Takes the directory of the state from the identity.
    pub fn find_state(&mut self, identity: &Identity) {
        self.engine = identity.state_name().to_owned();
    }

    /// Whether the state is in the directory that the identity names.
    pub fn is_at_home(&self, identity: &Identity) -> bool {
        self.engine == identity.state_name()
    }

    /// Records, durably, that the state is in another directory from now on.
    pub fn move_state(&mut self, name: String) -> Result<(), OpenError> {
        let identity =
            self.identity()?.ok_or_else(|| OpenError::refused(&self.identity_path(), "the file is missing"))?;
        self.write_identity(&Identity { state: Some(name.clone()), ..identity })?;
        self.engine = name;
        Ok(())
    }

    pub fn identity_path(&self) -> PathBuf {
        self.paths.member().join(IDENTITY_FILE)
    }

    /// The names in a directory; empty if it does not exist. It may be the root of a file system of its own.
    pub fn names(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        let mut names = if self.disk.exists(path)? { self.disk.list(path)? } else { Vec::new() };
        names.retain(|name| name != LOST_AND_FOUND);
        Ok(names)
    }

    pub fn identity(&self) -> Result<Option<Identity>, OpenError> {
        let path = self.identity_path();
        if !self.disk.exists(&path)? {
            return Ok(None);
        }
        let identity: Identity = serde_json::from_slice(&self.disk.read(&path)?)
            .map_err(|error| OpenError::refused(&path, format!("damaged: {error}")))?;
        if identity.format != FORMAT {
            let why = format!("format {}, but this version reads format {FORMAT}", identity.format);
            return Err(OpenError::refused(&path, why));
        }
        if let Some(name) = identity.directory.as_ref().filter(|_| identity.directory().is_none()) {
            return Err(OpenError::refused(&path, format!("damaged: directory {name:?} is not a hexadecimal number")));
        }
        if let Some(name) = identity.state.as_ref().filter(|name| !is_state_name(name)) {
            return Err(OpenError::refused(&path, format!("damaged: {name:?} is not the directory of a state")));
        }
        Ok(Some(identity))
    }

    /// Writes the identity, atomically and durably.
    pub fn write_identity(&self, identity: &Identity) -> Result<(), OpenError> {
        let path = self.identity_path();
        let json = serde_json::to_vec_pretty(identity)
            .map_err(|error| OpenError::refused(&path, format!("cannot be encoded: {error}")))?;
        // An earlier start may have been killed after it made the member's directory and before it made the directory's
        // name durable.
        self.disk.sync_dir(&self.paths.data_dir)?;
        write_durably(self.disk.as_ref(), &path, &json)?;
        Ok(())
    }

    /// Compares the ids in the log with those of the member that is to start: the ids in the identity, or, if there is
    /// none yet, those that follow from the settings.
    pub fn check_owner(
        &self,
        own: &Identity,
        recorded: bool,
        member_id: u64,
        cluster_id: u64,
    ) -> Result<(), OpenError> {
        let log = Identity::new(&own.engine, member_id, cluster_id);
        if (&log.member_id, &log.cluster_id) == (&own.member_id, &own.cluster_id) {
            return Ok(());
        }
        let other = if recorded { "the state is that" } else { "there is no state, and the settings are those" };
        let why = format!(
            "the log is that of member {} of cluster {}, but {other} of member {} of cluster {}; mount or name the \
             right directories (--data-dir, --wal-dir)",
            log.member_id, log.cluster_id, own.member_id, own.cluster_id
        );
        Err(OpenError::refused(&self.paths.wal(), why))
    }
}

/// Writes a small file so that after a crash it is there whole, or not at all.
pub fn write_durably(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let temporary = path.with_extension("tmp");
    let file = disk.create(&temporary)?;
    file.write_at(0, bytes)?;
    file.sync_all()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("/")))
}
