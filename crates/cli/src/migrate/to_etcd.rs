//! To an etcd.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use metastore_backup::{Backup, v2_store};
use metastore_replica::disk::OsDisk;
use metastore_replica::{Paths, StoppedMember};

use super::describe;
use crate::arguments::Migrate;
use crate::directory::NewDirectory;
use crate::engines;
use crate::failure::{Done, at};
use crate::progress;

/// The database is made in pieces of at least this many bytes.
const PIECE_BYTES: usize = 1 << 20;

pub fn run(migrate: &Migrate, etcd: &Path) -> Done {
    let disk = Arc::new(OsDisk::new());
    let paths = Paths { data_dir: migrate.data_dir.clone(), wal_dir: migrate.wal_dir.clone() };
    let member = StoppedMember::open(engines::settings(migrate.engine)?, disk.clone(), paths, engines::opener)?;
    let new = NewDirectory::begin(etcd, migrate.etcd_wal_dir.as_deref())?;
    let source = member.state()?;
    let old_store = v2_store(|table| source.rows(table))?;
    member.write_etcd(disk, new.paths(), old_store)?;
    let database = new.paths().snap().join("db");
    write(Backup::new(source)?, &database)?;
    describe(etcd, &member)?;
    new.finish()
}

fn write(mut backup: Backup, path: &Path) -> Done {
    let mut file: File = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(at(path))?;
    let bar = progress::bytes("converting", Some(backup.size_bytes()));
    while let Some(piece) = backup.next_piece(PIECE_BYTES)? {
        file.write_all(&piece).map_err(at(path))?;
        bar.inc(piece.len() as u64);
    }
    file.sync_all().map_err(at(path))?;
    bar.finish_and_clear();
    Ok(())
}
