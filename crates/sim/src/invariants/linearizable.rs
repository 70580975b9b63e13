//! Linearizability of the key space: every operation takes effect at once, at some moment between its call and its return.
//!
//! ```text
//!   client 0   ├──── put a=1 ────┤                 ├─ get a: 1 ─┤      is there an order in which one model, asked one
//!   client 1        ├─ get a: nothing ─┤                               request after the other, answers just this?
//!   client 2             ├── put a=2 ── ?  (unknown: at any moment from here on, or never)
//! ```
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993): among the operations called before
//! the first return of one that has no place yet, take one that the model answers as the members did, and go on; go back where
//! nothing fits. With it come Lowe's improvements ("Testing for linearizability", 2017), which porcupine (Athalye) made known:
//! calls and returns are one linked list, from which what has a place is taken out, and no set of placed operations is tried
//! twice in one state.
//!
//! What makes it fast is what etcd tells beside the answers (etcd's own robustness tests use it in the same way):
//!
//! - A watcher of everything saw what each revision changed. A write fits only where it makes exactly the next revision's events,
//!   so one with an unknown outcome is tried at the few revisions that it could have made, not everywhere.
//! - The header of an answer names the revision it was given at. An operation has its place at that revision, or makes it, and
//!   none may be left over when the next revision is made.
//! - An operation that changes nothing takes its place as soon as it fits, without a second thought: it is in nobody's way.
//! - What changes something that no revision shows (a lease granted, one without keys revoked, a compaction) is tried with
//!   an unknown outcome only directly before an operation that speaks of that lease, or was refused as compacted, and would not
//!   fit otherwise.
//!
//! Where the search gets stuck for the first time, what cannot fit in any order is looked for directly: most violations are of that
//! kind, and are said more clearly so.
//!
//! Beyond the operations, every revision must have been asked for by one. The history begins with an empty store at revision 1.
//!
//! Deliberately absent: serializable ranges, which may be stale (see [`super::serializable`]), and real time beyond the order of
//! calls and returns.

mod certain;
mod report;
mod search;
mod task;
mod timeline;
mod unknown;

use crate::history::{Operation, Revisions, Violation};
use search::Search;
use task::Task;

/// Whether there is an order of all operations, serializable ranges apart, that agrees with real time and in which etcd would have
/// answered as the members did and changed, revision by revision, what they told their watchers.
///
/// `revisions` holds every revision from 2 to the last.
///
/// # Errors
/// What could not be placed in the order that got farthest, with what stood around it; or that the search was given up.
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
    Search::new(&tasks, revisions, last).run()
}

#[cfg(test)]
mod tests;
