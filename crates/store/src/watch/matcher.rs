//! The watchers of a key: groups of watchers with equal requests, found through a map of keys and a tree of ranges.

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use super::Change;
use super::intervals::{End, Intervals};

/// The keys that a watcher asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Key(Arc<[u8]>),
    Range(Arc<[u8]>, End),
}

impl Interest {
    /// Reads key and range end as in etcd's API: an empty key is the first key, an empty end means one key, and one
    /// zero byte means no end. `None` if no key can be in the range.
    pub(super) fn from_request(key: &[u8], range_end: &[u8]) -> Option<Self> {
        let key = if key.is_empty() { &[0] } else { key };
        match range_end {
            [] => Some(Self::Key(key.into())),
            [0] => Some(Self::Range(key.into(), None)),
            end => (key < end).then(|| Self::Range(key.into(), Some(end.into()))),
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(own) => **own == *key,
            Self::Range(start, end) => **start <= *key && end.as_ref().is_none_or(|end| *key < **end),
        }
    }
}

/// The kinds of changes that a watcher asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) prev_kv: bool,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
}

impl Wishes {
    pub(super) fn admit(self, tombstone: bool) -> bool {
        !(if tombstone { self.no_delete } else { self.no_put })
    }

    /// The change as the watcher gets it: with or without the previous value.
    pub(super) fn apply(self, change: &Change) -> Change {
        let previous = if self.prev_kv { change.previous.clone() } else { None };
        Change { version: change.version.clone(), previous }
    }
}

/// Watchers with the same interest and the same wishes: they all get the same events.
#[derive(Debug)]
pub(super) struct Group {
    interest: Interest,
    pub(super) wishes: Wishes,
    members: u32,
    /// The synced watchers, in any order.
    pub(super) synced: Vec<u32>,
    /// Scratch space of a pass over changes: the indexes of the changes that match.
    pub(super) hits: Vec<u32>,
    /// Scratch space of a pass over history: whether the pass serves watchers of this group.
    pub(super) wanted: bool,
}

/// All groups of a hub.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    groups: Slab<Group>,
    /// Only looked up, never iterated, so its random seed has no effect.
    keys: HashMap<Arc<[u8]>, Vec<u32>>,
    ranges: Intervals,
}

impl Matcher {
    /// Adds a watcher to the group with this interest and these wishes; creates the group if there is none.
    pub(super) fn join(&mut self, interest: Interest, wishes: Wishes) -> u32 {
        let siblings = match &interest {
            Interest::Key(key) => self.keys.get(key).map_or(&[][..], Vec::as_slice),
            Interest::Range(start, end) => self.ranges.get(start, end),
        };
        let known = siblings.iter().copied().find(|group| self.groups[*group as usize].wishes == wishes);
        let group = known.unwrap_or_else(|| self.add(interest, wishes));
        self.group_mut(group).members += 1;
        group
    }

    fn add(&mut self, interest: Interest, wishes: Wishes) -> u32 {
        let group = self.groups.vacant_key() as u32;
        match &interest {
            Interest::Key(key) => self.keys.entry(key.clone()).or_default().push(group),
            Interest::Range(start, end) => self.ranges.insert(start, end, group),
        }
        let (synced, hits) = (Vec::new(), Vec::new());
        self.groups.insert(Group { interest, wishes, members: 0, synced, hits, wanted: false });
        group
    }

    /// Removes a watcher from a group; the group is removed with its last watcher.
    pub(super) fn leave(&mut self, group: u32) {
        self.group_mut(group).members -= 1;
        if self.group(group).members > 0 {
            return;
        }
        match self.groups.remove(group as usize).interest {
            Interest::Key(key) => {
                let siblings = self.keys.get_mut(&key).expect("a group is listed under its key");
                siblings.retain(|other| *other != group);
                if siblings.is_empty() {
                    self.keys.remove(&key);
                }
            }
            Interest::Range(start, end) => self.ranges.remove(&start, &end, group),
        }
    }

    pub(super) fn group(&self, group: u32) -> &Group {
        &self.groups[group as usize]
    }

    pub(super) fn group_mut(&mut self, group: u32) -> &mut Group {
        &mut self.groups[group as usize]
    }

    pub(super) fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Appends to `found` the groups that watch `key`.
    pub(super) fn matching(&self, key: &[u8], found: &mut Vec<u32>) {
        if let Some(groups) = self.keys.get(key) {
            found.extend_from_slice(groups);
        }
        self.ranges.containing(key, found);
    }

    /// Appends to `found` the groups among `candidates` that watch `key`; cheaper than `matching` for a few candidates.
    pub(super) fn matching_among(&self, candidates: &[u32], key: &[u8], found: &mut Vec<u32>) {
        found.extend(candidates.iter().filter(|group| self.group(**group).interest.contains(key)));
    }
}
