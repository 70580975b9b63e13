//! The versions of one key.

use crate::{Revision, Row, Usage, Version};
use std::collections::VecDeque;

/// The largest `sub`: one bit of its word marks a tombstone.
const MAX_SUB: i64 = i64::MAX >> 1;

/// A revision and the tombstone bit in two words. Stamps are ordered as the revisions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    pub(super) main: i64,
    sub_and_mark: i64,
}

impl Stamp {
    fn new(revision: Revision, tombstone: bool) -> Self {
        let Revision { main, sub } = revision;
        assert!((0..=MAX_SUB).contains(&sub), "revision {main}.{sub}: sub must lie in 0..={MAX_SUB}");
        Self { main, sub_and_mark: sub << 1 | i64::from(tombstone) }
    }

    pub(super) fn revision(self) -> Revision {
        Revision::new(self.main, self.sub_and_mark >> 1)
    }

    pub(super) fn is_tombstone(self) -> bool {
        self.sub_and_mark & 1 == 1
    }
}

/// A [`Version`] as it is kept: 32 bytes, without the row's own bytes.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) stamp: Stamp,
    row: Row,
}

impl Stored {
    pub(super) fn version(&self) -> Version {
        Version { revision: self.stamp.revision(), tombstone: self.stamp.is_tombstone(), row: Row::clone(&self.row) }
    }

    /// The usage of the version.
    pub(super) fn usage(&self) -> Usage {
        Usage::of_version(self.row.len(), self.stamp.is_tombstone())
    }
}

impl From<Version> for Stored {
    fn from(version: Version) -> Self {
        Self { stamp: Stamp::new(version.revision, version.tombstone), row: version.row }
    }
}

/// The result of a compaction for one version; `dead` is the least revision at which a compaction drops it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    Goes {
        dead: i64,
    },
    /// It is dropped, and it was the only version of its key.
    GoesWithKey {
        dead: i64,
    },
}

/// The versions of a key, ascending, at least one. Most keys of a compacted store have one, which needs no list.
#[derive(Debug)]
pub(super) enum Versions {
    One(Stored),
    Many(Box<Many>),
}

/// Two versions or more. This is a deque, because compaction removes versions from the front: after a million writes of
/// one key, the rest of the list must not be shifted a million times.
#[derive(Debug)]
pub(super) struct Many(VecDeque<Stored>);

impl Versions {
    pub(super) fn last(&self) -> &Stored {
        match self {
            Self::One(only) => only,
            Self::Many(many) => &many.0[many.0.len() - 1],
        }
    }

    /// Adds a version newer than all others.
    pub(super) fn push(&mut self, stored: Stored) {
        match self {
            Self::One(only) => {
                let mut list = VecDeque::with_capacity(2);
                list.extend([only.clone(), stored]);
                *self = Self::Many(Box::new(Many(list)));
            }
            Self::Many(many) => many.0.push_back(stored),
        }
    }

    /// The newest version with `main <= at`.
    pub(super) fn newest(&self, at: i64) -> Option<&Stored> {
        let last = self.last();
        if last.stamp.main <= at {
            return Some(last);
        }
        match self {
            Self::One(_) => None,
            Self::Many(many) => {
                let newer = many.0.partition_point(|stored| stored.stamp.main <= at);
                newer.checked_sub(1).map(|found| &many.0[found])
            }
        }
    }

    /// Removes the version with this stamp if a compaction at `at` drops it ([`crate::Engine::compact_step`]).
    ///
    /// A tombstone is dropped only after all older versions. If it were dropped first, the versions that it deleted
    /// would come back. A compaction that begins at the start of history visits the older versions first anyway.
    pub(super) fn compact(&mut self, stamp: Stamp, at: i64) -> Fate {
        // The revisions from which it is dead: by itself, and by a newer version. A live version has
        // neither, whatever `at` is.
        let by_itself = stamp.is_tombstone().then_some(stamp.main + 1).filter(|&dead| dead <= at);
        match self {
            Self::One(_) => by_itself.map_or(Fate::Stays, |dead| Fate::GoesWithKey { dead }),
            Self::Many(many) => {
                let list = &mut many.0;
                let found = list.partition_point(|stored| stored.stamp < stamp);
                let replaced = list.get(found + 1).map(|newer| newer.stamp.main).filter(|&dead| dead <= at);
                let oldest = found == 0;
                let Some(dead) = replaced.into_iter().chain(by_itself.filter(|_| oldest || replaced.is_some())).min()
                else {
                    return Fate::Stays;
                };
                list.remove(found);
                if list.len() == 1 {
                    *self = Self::One(list[0].clone());
                } else if list.len() * 4 <= list.capacity() {
                    list.shrink_to(list.len() * 2);
                }
                Fate::Goes { dead }
            }
        }
    }
}
