//! The bytes of one simulated file: the durable ones, those that only the page cache holds, and those found after a
//! power loss.

use std::collections::BTreeMap;

use super::Survival;
use crate::disk::SECTOR_BYTES;

const SECTOR: u64 = SECTOR_BYTES as u64;

/// The content of a file, by sector; sectors that are absent are zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    len: u64,
    sectors: BTreeMap<u64, [u8; SECTOR_BYTES]>,
}

/// A change to a file that no sync has covered yet.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
    Allocate(u64),
}

/// One file.
#[derive(Clone, Debug, Default)]
pub(super) struct FileContent {
    durable: Content,
    live: Content,
    unsynced: Vec<Change>,
}

impl Content {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (sector, at, part) in pieces(offset, bytes) {
            self.sectors.entry(sector).or_insert([0; SECTOR_BYTES])[at..at + part.len()].copy_from_slice(part);
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero_from(len, |_| true);
        }
        self.len = len;
    }

    /// Zeroes all bytes from `len` on, in the chosen sectors.
    fn zero_from(&mut self, len: u64, chosen: impl Fn(u64) -> bool) {
        let cut = len / SECTOR;
        if chosen(cut)
            && let Some(sector) = self.sectors.get_mut(&cut)
        {
            sector[(len % SECTOR) as usize..].fill(0);
        }
        let behind: Vec<u64> = self.sectors.range(cut + 1..).map(|(sector, _)| *sector).collect();
        for sector in behind.into_iter().filter(|sector| chosen(*sector)) {
            self.sectors.remove(&sector);
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let available = self.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..available];
        buffer.fill(0);
        let end = offset + available as u64;
        for (sector, bytes) in self.sectors.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let start = sector * SECTOR;
            let from = start.max(offset);
            let to = (start + SECTOR).min(end);
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        available
    }

    /// Applies a change to the chosen sectors only; the length stays.
    fn apply_to_sectors(&mut self, change: &Change, chosen: impl Fn(u64) -> bool) {
        match change {
            Change::Write { offset, bytes } => {
                for (sector, at, part) in pieces(*offset, bytes).filter(|(sector, ..)| chosen(*sector)) {
                    let kept = self.sectors.entry(sector).or_insert([0; SECTOR_BYTES]);
                    kept[at..at + part.len()].copy_from_slice(part);
                }
            }
            Change::SetLen(len) => self.zero_from(*len, chosen),
            Change::Allocate(_) => {}
        }
    }
}

/// The length after a change.
fn len_after(len: u64, change: &Change) -> u64 {
    match change {
        Change::Write { offset, bytes } => len.max(offset + bytes.len() as u64),
        Change::SetLen(new) => *new,
        Change::Allocate(end) => len.max(*end),
    }
}

/// Cuts a write into (sector, offset in the sector, bytes).
fn pieces(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, usize, &[u8])> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let in_sector = (at % SECTOR) as usize;
        let part = &bytes[done..bytes.len().min(done + SECTOR_BYTES - in_sector)];
        done += part.len();
        (!part.is_empty()).then_some((at / SECTOR, in_sector, part))
    })
}

impl FileContent {
    pub(super) fn len(&self) -> u64 {
        self.live.len
    }

    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        self.live.read_at(offset, buffer)
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.live.write(offset, bytes);
        self.unsynced.push(Change::Write { offset, bytes: bytes.to_vec() });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.live.set_len(len);
        self.unsynced.push(Change::SetLen(len));
    }

    pub(super) fn allocate(&mut self, end: u64) {
        self.live.len = self.live.len.max(end);
        self.unsynced.push(Change::Allocate(end));
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Write { offset, bytes } => self.durable.write(offset, &bytes),
                Change::SetLen(len) => self.durable.set_len(len),
                Change::Allocate(end) => self.durable.len = self.durable.len.max(end),
            }
        }
    }

    /// Does what Linux does when a sync fails: the pages count as clean, and no later sync writes them again.
    pub(super) fn fail_sync(&mut self) {
        self.unsynced.clear();
    }

    /// The file as it is found after a power loss.
    ///
    /// Each sector is found in one of the states that it went through since the last sync, never in any other: the
    /// device writes sectors whole, but in any order and any number of times. The same holds for the length.
    pub(super) fn after_power_loss(&self, survival: Survival) -> FileContent {
        let changes = self.unsynced.len();
        let mut found = self.durable.clone();
        let survived = |sector: u64| survival.steps(sector, changes);
        for (i, change) in self.unsynced.iter().enumerate() {
            found.apply_to_sectors(change, |sector| i < survived(sector));
        }
        let len = self.unsynced[..survival.length_steps(changes)].iter().fold(found.len, len_after);
        found.len = found.len.max(len);
        found.set_len(len);
        FileContent { durable: found.clone(), live: found, unsynced: Vec::new() }
    }
}
