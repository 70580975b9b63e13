//! How far a mirror is: a revision of the source, and the file that records it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use metastore_proto::etcdserverpb::{StatusRequest, StatusResponse};
use serde_json::json;
use tonic::Status;

use super::Trouble;
use crate::arguments::Mirror;
use crate::connection::Connection;
use crate::failure::{Done, Failure, at};
use crate::output::with_suffix;

/// How often the file is written at most. A change that is not recorded is applied again, which does no harm.
const INTERVAL: Duration = Duration::from_secs(1);

pub struct Position {
    prefix: String,
    /// The id of the source, once it is known.
    cluster: Option<u64>,
    /// The destination has everything up to this revision.
    revision: Option<i64>,
    file: Option<PathBuf>,
    written: Instant,
}

impl Position {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or is about other keys.
    pub fn load(mirror: &Mirror) -> Done<Self> {
        let (prefix, file) = (mirror.prefix.clone(), mirror.state_file.clone());
        let mut position = Self { prefix, cluster: None, revision: None, file, written: Instant::now() };
        let Some(path) = position.file.as_ref().filter(|path| path.exists()) else { return Ok(position) };
        let text = fs::read(path).map_err(at(path))?;
        let state: serde_json::Value = serde_json::from_slice(&text).map_err(at(path))?;
        let id = state["cluster"].as_str().and_then(|id| u64::from_str_radix(id, 16).ok());
        let (Some(cluster), Some(revision)) = (id, state["revision"].as_i64()) else {
            return Err(Failure::new(format!("{}: it is no state of a mirror", path.display())));
        };
        if state["prefix"] != position.prefix {
            let text = format!("{}: it is about the keys with prefix {}", path.display(), state["prefix"]);
            return Err(Failure::new(text));
        }
        (position.cluster, position.revision) = (Some(cluster), Some(revision));
        Ok(position)
    }

    /// Checks that the source is the cluster that the file names.
    pub async fn check(&mut self, source: &mut Connection) -> Result<(), Trouble> {
        let status: StatusResponse = source.call("/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
        let found = status.header.unwrap_or_default().cluster_id;
        match self.cluster {
            Some(cluster) if cluster != found => {
                let text = format!("the source is cluster {found:x}, but the state file is about cluster {cluster:x}");
                Err(Status::failed_precondition(text).into())
            }
            _ => {
                self.cluster = Some(found);
                Ok(())
            }
        }
    }

    pub fn revision(&self) -> Option<i64> {
        self.revision
    }

    /// The destination has everything up to `revision`.
    pub fn reach(&mut self, revision: i64) -> Result<(), Trouble> {
        self.revision = Some(revision);
        if self.written.elapsed() < INTERVAL {
            return Ok(());
        }
        self.save().map_err(|failure| Status::failed_precondition(failure.text).into())
    }

    /// The copy begins again.
    pub fn forget(&mut self) {
        self.revision = None;
    }

    /// Writes the file, whole or not at all.
    pub fn save(&mut self) -> Done {
        self.written = Instant::now();
        let (Some(path), Some(cluster), Some(revision)) = (&self.file, self.cluster, self.revision) else {
            return Ok(());
        };
        let text = json!({"cluster": format!("{cluster:x}"), "prefix": self.prefix, "revision": revision});
        let temporary = with_suffix(path, ".tmp");
        fs::write(&temporary, format!("{text}\n")).map_err(at(&temporary))?;
        fs::rename(&temporary, path).map_err(at(path))
    }
}
