//! Any bytes as a database of etcd that a member takes up. The plain tests and the fuzz target share this.

use std::io;
use std::sync::Arc;

use metastore_backup::{Backup, EtcdState};
use metastore_engine::{Applied, Engine, Memory};
use metastore_proto::raftpb::ConfState;
use metastore_store::Store;
use metastore_store::snapshot::Incoming;

const POSITION: Applied = Applied { index: 9, term: 3 };

/// The store that takes the database up, and the newest revision; None if it is refused.
fn take_up(bytes: &[u8]) -> Option<(Store, i64)> {
    let state = EtcdState::open(bytes).ok()?;
    let _ = state.members();
    let conf_state = ConfState { voters: vec![1], auto_leave: Some(false), ..ConfState::default() };
    let engine: Arc<dyn Engine> = Arc::new(Memory::new());
    let mut incoming = Incoming::new(engine.clone());
    state.write(POSITION, &conf_state, |piece| incoming.take(piece).map_err(io::Error::other)).ok()?;
    assert_eq!(incoming.finish().ok()?, POSITION);
    Some((Store::open(engine).ok()?, state.revision()))
}

/// # Panics
/// If a database that was taken up cannot be written as a database and taken up again.
pub fn attempt(bytes: &[u8]) {
    let Some((mut store, revision)) = take_up(bytes) else { return };
    assert_eq!(store.revision(), revision);
    store.publish().expect("a state in memory");
    let (mut backup, mut file) = (Backup::new(store.snapshot().expect("a state")).expect("a database"), Vec::new());
    while let Some(piece) = backup.next_piece(1).expect("a database") {
        file.extend_from_slice(&piece);
    }
    drop((backup, store));
    assert_eq!(take_up(&file).map(|(_, again)| again), Some(revision));
}

/// The revision of a database that is taken up.
#[allow(dead_code, reason = "not for the fuzz target")]
pub fn revision(bytes: &[u8]) -> Option<i64> {
    take_up(bytes).map(|(_, revision)| revision)
}
