//! Writing the stream.

use std::sync::Arc;

use metastore_engine::{Applied, Engine, EngineError, Published, Revision, Table, Version};
use metastore_mutants::{Mutant, mutant};

use super::{Outgoing, SnapshotError};
use crate::Store;
use crate::mvcc::View;
use crate::schema::revision_key;

/// Key and value of a row of a small table.
pub type TableRow = (Vec<u8>, Vec<u8>);

/// A consistent state at one log position: a read-only copy that the engine made, which holds nothing back.
pub struct Source {
    engine: Arc<dyn Engine>,
    published: Published,
}

impl Store {
    /// Takes the state as it was last published; everything that was applied must be published. If the engine outlives
    /// the process, this waits for the medium. Otherwise it returns at once, and versions that compactions drop stay in
    /// memory as long as the copy lives.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn snapshot(&self) -> Result<Source, EngineError> {
        if mutant(Mutant::StateNotFrozen) {
            return Ok(Source::new(self.engine.clone()));
        }
        Ok(Source::new(self.engine.checkpoint()?))
    }
}

impl View {
    /// As [`Store::snapshot`], from any thread, for an engine that outlives the process.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn freeze(&self) -> Result<Source, EngineError> {
        Ok(Source::new(self.engine().checkpoint()?))
    }
}

impl Source {
    fn new(engine: Arc<dyn Engine>) -> Self {
        let published = engine.published();
        Self { engine, published }
    }

    /// The log position of the state.
    pub fn applied(&self) -> Applied {
        self.published.applied
    }

    /// A row of a small table, as it is in this state.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn row(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.engine.get(table, key)
    }

    /// All rows of a small table, in order of their keys.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn rows(&self, table: Table) -> Result<Vec<TableRow>, EngineError> {
        self.engine.rows(table, b"")
    }

    /// Appends one bounded step of stored versions from a revision on; returns the revision where the next step begins.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn versions(&self, from: Revision, rows: &mut Vec<Version>) -> Result<Option<Revision>, EngineError> {
        self.engine.history(from, self.published.revision, rows)
    }

    /// Writes the stream in pieces of about 256 KiB.
    pub fn write(&self, mut write: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), SnapshotError> {
        let (mut cursor, mut piece) = (Cursor::default(), Vec::new());
        while self.step(&mut cursor, &mut piece)? {
            if !piece.is_empty() {
                write(&piece)?;
                piece.clear();
            }
        }
        Ok(())
    }

    /// Reads one bounded step, and appends the complete part of the stream to `out`. Returns false after the end of the
    /// stream. The writer may continue between two steps.
    ///
    /// # Errors
    /// If the medium failed.
    pub fn step(&self, cursor: &mut Cursor, out: &mut Vec<u8>) -> Result<bool, SnapshotError> {
        let Cursor { part, stream } = cursor;
        *part = match *part {
            Part::Header => {
                *stream = Outgoing::begin(self.published, out);
                Part::Table { behind_keys: false, nth: 0 }
            }
            Part::Table { behind_keys, nth } => match Outgoing::tables(behind_keys).nth(nth) {
                Some(table) => {
                    self.rows(table)?.iter().for_each(|(key, value)| stream.row(table, key, value, out));
                    Part::Table { behind_keys, nth: nth + 1 }
                }
                None if behind_keys => {
                    stream.flush(out);
                    Part::End
                }
                None => Part::Versions(Revision::default()),
            },
            Part::Versions(from) => match self.write_versions(from, stream, out)? {
                Some(next) => Part::Versions(next),
                None => Part::Table { behind_keys: true, nth: 0 },
            },
            Part::End => {
                stream.end(out);
                Part::Over
            }
            Part::Over => return Ok(false),
        };
        Ok(true)
    }

    /// Writes one step of versions from a revision on; returns the revision where the next step begins.
    fn write_versions(
        &self,
        from: Revision,
        stream: &mut Outgoing,
        out: &mut Vec<u8>,
    ) -> Result<Option<Revision>, SnapshotError> {
        let mut to = self.published.revision;
        if mutant(Mutant::StateLacksLastRevision) {
            to -= 1;
        }
        let mut versions: Vec<Version> = Vec::new();
        let next = self.engine.history(from, to, &mut versions)?;
        for version in versions {
            stream.version(&revision_key(version.revision, version.tombstone), &version.row, out);
        }
        Ok(next)
    }
}

/// The position of a reader in a state.
#[derive(Default)]
pub struct Cursor {
    part: Part,
    stream: Outgoing,
}

/// The part that is read next.
#[derive(Clone, Copy, Default)]
enum Part {
    #[default]
    Header,
    /// A small table, before the versioned keys or after them.
    Table {
        behind_keys: bool,
        nth: usize,
    },
    Versions(Revision),
    End,
    Over,
}
