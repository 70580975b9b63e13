//! Entries that are passed over because an operator said so (`--unsafe-skip-entry`).
//!
//! A committed entry that no version can apply stops every member, and stops it again at every start. Then all members are told to
//! pass over that entry, which is named by index and term so that it cannot be another one. Each notes it in a file before it goes
//! on: a later start may read the entry from the log again, and must not apply it then. The file is never removed.

use serde::{Deserialize, Serialize};

use super::{Fatal, Replica};
use crate::data_dir::{DataDir, OpenError, write_durably};

const FILE: &str = "passed-over.json";

/// One entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryId {
    pub index: u64,
    pub term: u64,
}

/// What an operator may do about an entry that cannot be applied.
pub(super) fn flag(entry: EntryId) -> String {
    let EntryId { index, term } = entry;
    format!(
        "If no version of MetaStore can apply it, all members can be told to pass over it: --unsafe-skip-entry={index}:{term}; see \
         docs/limitations.md first"
    )
}

/// The entries that this member passes over.
pub(super) struct PassedOver {
    /// Named at this start.
    named: Option<EntryId>,
    /// Passed over once: they stand in the file.
    noted: Vec<EntryId>,
}

impl PassedOver {
    /// Reads what was noted.
    ///
    /// # Errors
    /// If the file is damaged: an entry that was passed over must not be applied after all.
    pub(super) fn load(data: &DataDir, named: Option<EntryId>) -> Result<Self, OpenError> {
        let path = data.paths.member().join(FILE);
        if !data.disk.exists(&path)? {
            return Ok(Self { named, noted: Vec::new() });
        }
        let noted = serde_json::from_slice(&data.disk.read(&path)?)
            .map_err(|error| OpenError::refused(&path, format!("damaged: {error}; copy the file of another member")))?;
        Ok(Self { named, noted })
    }

    /// Whether this entry is one of them.
    pub(super) fn names(&self, entry: EntryId) -> bool {
        self.named == Some(entry) || self.noted.contains(&entry)
    }

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.named.is_none() && self.noted.is_empty()
    }
}

impl Replica {
    /// Whether an entry is to be passed over. If so, that is noted durably.
    ///
    /// # Errors
    /// [`Fatal`] if the disk fails.
    pub(super) fn passes_over(&mut self, entry: EntryId) -> Result<bool, Fatal> {
        if !self.passed_over.names(entry) {
            return Ok(false);
        }
        let noted = &mut self.passed_over.noted;
        if noted.contains(&entry) {
            return Ok(true);
        }
        noted.push(entry);
        let path = self.data.paths.member().join(FILE);
        let json = serde_json::to_vec_pretty(noted)
            .map_err(|error| OpenError::refused(&path, format!("cannot be encoded: {error}")))?;
        write_durably(self.data.disk.as_ref(), &path, &json)?;
        Ok(true)
    }

    /// Whether any entry is to be passed over; hardly ever.
    pub(super) fn passes_any_over(&self) -> bool {
        !self.passed_over.is_empty()
    }
}
