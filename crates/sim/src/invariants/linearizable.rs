//! Linearizability of the key space: every operation takes effect at one moment between its call and its return.
//!
//! ```text
//!   client 0   ├──── put a=1 ────┤                 ├─ get a: 1 ─┤      is there an order in which one model, asked one
//!   client 1        ├─ get a: nothing ─┤                               request after the other, answers exactly this?
//!   client 2             ├── put a=2 ── ?  (unknown: at any moment from here on, or never)
//! ```
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993). It considers the unplaced
//! operations that were called before the first return of an unplaced operation. It places one that the model answers
//! as the members did, and continues; where no operation fits, it goes back. Lowe's improvements are included ("Testing
//! for linearizability", 2017), which porcupine (Athalye) made known: calls and returns form one linked list, from
//! which placed operations are removed, and no set of placed operations is tried twice in one state.
//!
//! The search is fast because of the information that etcd gives in addition to the answers (etcd's own robustness
//! tests use it in the same way):
//!
//! - A watcher of all keys saw the changes of each revision. A write fits only where it makes exactly the next
//!   revision's events. So a write with an unknown outcome is tried at the few revisions that it could have made, not
//!   everywhere.
//! - The header of an answer names its revision. The operation is placed at that revision, or makes it. All operations
//!   of a revision are placed before the next revision is made.
//! - An operation that changes nothing is placed as soon as it fits, and no alternative is tried: it cannot prevent the
//!   placement of any other operation.
//! - Some operations make a change that no revision shows: the grant of a lease, the revocation of a lease without
//!   keys, a compaction. With an unknown outcome such an operation is tried only directly before an operation that does
//!   not fit otherwise, and that names the lease or was refused as compacted.
//!
//! When the search is stuck for the first time, a direct check looks for operations that cannot fit in any order. It
//! finds most violations, and describes them more clearly.
//!
//! In addition, every revision must have been requested by an operation. The history begins with an empty store at
//! revision 1.
//!
//! Deliberately absent: serializable ranges, which may be stale (see [`super::serializable`]), and real time beyond the
//! order of calls and returns.

mod certain;
mod report;
mod search;
mod task;
mod timeline;
mod unknown;

use crate::history::{Operation, Revisions, Violation};
use search::Search;
use task::Task;

/// Checks that there is an order of all operations, except serializable ranges, that agrees with real time. In this
/// order etcd must give the same answers as the members did. It must also make the same changes, revision by revision,
/// as the members reported to their watchers.
///
/// `revisions` holds every revision from 2 to the last.
///
/// # Errors
/// The operation that could not be placed in the longest order found, with its surroundings; or that the search was
/// given up.
pub fn check(operations: &[Operation], revisions: &Revisions) -> Result<(), Violation> {
    let tasks: Vec<Task<'_>> = operations
        .iter()
        .enumerate()
        .filter(|(_, o)| !task::is_serializable(o))
        .map(|(n, o)| Task::new(n, o))
        .collect();
    let last = revisions.keys().next_back().copied().unwrap_or(1);
    if let Some(missing) = (2..=last).find(|revision| !revisions.contains_key(revision)) {
        return Err(format!("revision {missing} was told to no watcher, but {last} was"));
    }
    if let Some(task) = tasks.iter().find(|task| task.revision.is_some_and(|revision| !(1..=last).contains(&revision)))
    {
        return Err(format!("{task} was answered at a revision that was told to no watcher; the last one is {last}"));
    }
    Search::new(&tasks, revisions, last, report::dead_end).run()
}

#[cfg(test)]
mod tests;
