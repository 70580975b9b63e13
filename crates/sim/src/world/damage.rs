//! Damage at rest: a member must refuse to start from it, or start with the same state as without it.
//!
//! A copy of a running member's files is damaged, and opened. Its data was acknowledged, so the member must not start
//! with less. The last batch of the log is never damaged: damage there cannot be distinguished from a write that was
//! interrupted by a power loss (docs/formats.md).

use std::path::{Path, PathBuf};

use metastore_replica::disk::Disk;
use metastore_replica::{Output, Replica};
use metastore_store::mvcc::HashKv;

use super::World;
use crate::machine::{EngineKind, Machine, paths};

/// The state of a member after its start: its position, and the hash over everything that it holds.
#[derive(Debug, PartialEq)]
struct Found {
    term: u64,
    last: u64,
    applied: u64,
    hash: HashKv,
}

impl World {
    /// Inverts a bit of a stored file.
    pub(super) fn flip_bit(&mut self, at: usize) {
        let Some((path, end)) = self.stored(at) else { return };
        let (offset, bit) = (self.random.below(end), self.random.below(8) as u8);
        self.counts.flipped_bits += 1;
        self.note(|| format!("bit {bit} of byte {offset} of {} is inverted on a copy of {at}", path.display()));
        self.damaged(at, |machine| machine.flip_bit(&path, offset, bit).expect("a file that is there"));
    }

    /// Overwrites one sector of a file with another.
    pub(super) fn misdirect_write(&mut self, at: usize) {
        const SECTOR: u64 = metastore_replica::disk::SECTOR_BYTES as u64;
        let Some((path, end)) = self.stored(at).filter(|(_, end)| *end > 2 * SECTOR) else { return };
        let (from, to) = (self.random.below(end / SECTOR), self.random.below(end / SECTOR));
        self.counts.misdirected_writes += 1;
        self.note(|| format!("sector {from} of {} is written over sector {to} on a copy of {at}", path.display()));
        self.damaged(at, |machine| {
            let mut sector = vec![0; SECTOR as usize];
            let file = machine.open(&path).expect("a file that is there");
            file.read_at(from * SECTOR, &mut sector).expect("a sector that is there");
            machine.damage(&path, to * SECTOR, sector.len(), |bytes| bytes.copy_from_slice(&sector)).expect("the same");
        });
    }

    /// A file of a member on a simulated disk, and the length of its part before the last batch of the log.
    fn stored(&mut self, at: usize) -> Option<(PathBuf, u64)> {
        let member = &self.members[at];
        let machine = member.machine();
        if member.replica.is_none() || member.may_stop() || machine.engine != EngineKind::Memory {
            return None;
        }
        let files = |directory: &Path| -> Vec<PathBuf> {
            let names = machine.list(directory).unwrap_or_default();
            names.into_iter().map(|name| directory.join(name)).collect()
        };
        let paths: Vec<PathBuf> = [files(&paths().wal()), files(&paths().snap())].concat();
        let path = self.random.pick(&paths)?.clone();
        let machine = self.members[at].machine();
        let len = machine.open(&path).ok()?.len().ok()?;
        // Segments are written one after the other; all but the last one are closed.
        let newest = machine.list(&paths_of_log()).ok()?.into_iter().rfind(|name| name.ends_with(".wal"))?;
        let end = match path.file_name()?.to_str()? == newest {
            true => machine.last_write().filter(|(last, _)| *last == path).map_or(0, |(_, offset)| offset.min(len)),
            false => len,
        };
        (end > 0).then_some((path, end))
    }

    fn damaged(&mut self, at: usize, damage: impl FnOnce(&Machine)) {
        let member = &self.members[at];
        // Opened copies are forks: a start removes leftovers of earlier runs from its files.
        let (sound, spoiled) = (member.machine().fork(), member.machine().fork());
        let (replica, cut) = member.open(&sound).expect("a member starts from what it has stored");
        assert!(cut.is_none(), "member {at} has written a log that is cut when it is read");
        let expected = found(replica);
        damage(&spoiled);
        match member.open(&spoiled) {
            Err(error) => {
                self.counts.damage_refused += 1;
                self.note(|| format!("{at} refuses to start: {error}"));
            }
            Ok((replica, cut)) => {
                assert!(cut.is_none(), "member {at} takes damage in the middle of its log for a torn end: {cut:?}");
                assert_eq!(found(replica), expected, "member {at} comes up with something else from damaged files");
            }
        }
    }
}

fn paths_of_log() -> PathBuf {
    paths().wal()
}

/// Lets an opened member replay its log.
fn found(mut replica: Replica) -> Found {
    let mut output = Output::default();
    replica.process(&mut output).expect("a member takes up its log");
    let standing = replica.standing();
    let last = (standing.commit..).take_while(|index| replica.term_of(*index).is_some()).last().unwrap_or(0);
    let hash = replica.store().view().hash_kv(0).expect("the current revision can be hashed");
    Found { term: standing.term, last, applied: replica.store().applied().index, hash }
}
