//! A list of everything that was ever written.

use crate::{KeyRange, Revision, Table, Usage, Version};
use std::collections::{BTreeMap, BTreeSet};

/// The expected contents of an engine. Every answer is computed from the plain list.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub versions: Vec<(Vec<u8>, Version)>,
    pub tables: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Model {
    pub fn newest(&self, key: &[u8], at: i64) -> Option<&Version> {
        let newest = self.versions.iter().rfind(|(k, version)| k == key && version.revision.main <= at);
        newest.map(|(_, version)| version)
    }

    /// The newest version with `main <= at` of each key.
    fn newest_of_all(&self, at: i64) -> BTreeMap<&[u8], &Version> {
        let seen = self.versions.iter().filter(|(_, version)| version.revision.main <= at);
        seen.map(|(key, version)| (&key[..], version)).collect()
    }

    pub fn live(&self, range: KeyRange<'_>, at: i64) -> Vec<Version> {
        let newest = self.newest_of_all(at).into_iter().filter(|(key, _)| range.contains(key));
        newest.map(|(_, version)| version).filter(|version| !version.tombstone).cloned().collect()
    }

    pub fn history(&self, from: Revision, to: i64) -> Vec<Version> {
        let all = self.versions.iter().map(|(_, version)| version);
        all.filter(|version| from <= version.revision && version.revision.main <= to).cloned().collect()
    }

    /// The rule of [`crate::Engine::compact_step`], stated independently: up to `at`, each key keeps its newest
    /// version, except a tombstone older than `at`.
    pub fn compact(&mut self, at: i64) {
        let newest = self.newest_of_all(at).into_values();
        let kept: BTreeSet<_> = newest.filter(|v| !v.tombstone || v.revision.main == at).map(|v| v.revision).collect();
        self.versions.retain(|(_, version)| version.revision.main > at || kept.contains(&version.revision));
    }

    pub fn usage(&self) -> Usage {
        let versions = self.versions.iter().map(|(_, version)| 17 + usize::from(version.tombstone) + version.row.len());
        let counted = self.tables.iter().filter(|(table, _)| table.counts());
        let rows = counted.flat_map(|(_, rows)| rows).map(|(key, value)| key.len() + value.len());
        let sizes: Vec<_> = versions.chain(rows).collect();
        Usage { rows: sizes.len() as u64, bytes: sizes.iter().sum::<usize>() as u64 }
    }
}
