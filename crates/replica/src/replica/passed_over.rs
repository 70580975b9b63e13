//! Entries that are passed over at an operator's request (`--unsafe-skip-entry`).
//!
//! A committed entry that no version can apply stops every member, and stops it again at every start. Then the operator
//! tells all members to pass over that entry, named by index and term so that it cannot be confused with another one.
//! Each member notes the entry in a file before it goes on: a later start may read the entry from the log again, and
//! must not apply it then. The file is never removed.

use super::{Fatal, Replica};
use crate::data_dir::{DataDir, OpenError, write_durably};
use crate::entry::EntryId;

const FILE: &str = "passed-over.json";

/// The advice to an operator about an entry that cannot be applied.
pub(super) fn flag(entry: EntryId) -> String {
    let EntryId { index, term } = entry;
    format!(
        "If no version of MetaStore can apply it, all members can be told to pass over it: \
         --unsafe-skip-entry={index}:{term}; see docs/limitations.md first"
    )
}

/// The entries that this member passes over.
pub(super) struct PassedOver {
    /// The entry that is named at this start.
    named: Option<EntryId>,
    /// Entries that were passed over before; they are in the file.
    noted: Vec<EntryId>,
}

impl PassedOver {
    /// Reads the file.
    ///
    /// # Errors
    /// If the file is damaged: an entry that was passed over must never be applied.
    pub(super) fn load(data: &DataDir, named: Option<EntryId>) -> Result<Self, OpenError> {
        let path = data.paths.member().join(FILE);
        if !data.disk.exists(&path)? {
            return Ok(Self { named, noted: Vec::new() });
        }
        let noted = serde_json::from_slice(&data.disk.read(&path)?)
            .map_err(|error| OpenError::refused(&path, format!("damaged: {error}; copy the file of another member")))?;
        Ok(Self { named, noted })
    }

    /// Whether this entry is passed over.
    pub(super) fn names(&self, entry: EntryId) -> bool {
        self.named == Some(entry) || self.noted.contains(&entry)
    }

    /// Whether no entry is passed over.
    fn is_empty(&self) -> bool {
        self.named.is_none() && self.noted.is_empty()
    }
}

impl Replica {
    /// Whether an entry is to be passed over. If so, notes it durably.
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

    /// Whether any entry is to be passed over; that is rare.
    pub(super) fn passes_any_over(&self) -> bool {
        !self.passed_over.is_empty()
    }
}
