//! A database in a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use metastore_bbolt::ReadAt;

/// An open file that holds a database.
#[derive(Debug)]
pub struct DatabaseFile {
    file: File,
    size_bytes: u64,
}

impl DatabaseFile {
    /// The first `size_bytes` of a file; a digest may stand behind them.
    pub fn new(file: File, size_bytes: u64) -> Self {
        Self { file, size_bytes }
    }

    /// A file that holds nothing else.
    ///
    /// # Errors
    /// If the length of the file is not known.
    pub fn whole(file: File) -> io::Result<Self> {
        let size_bytes = file.metadata()?.len();
        Ok(Self::new(file, size_bytes))
    }
}

impl ReadAt for DatabaseFile {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.size_bytes)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }
}
