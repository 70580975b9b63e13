//! The description of a violation, for a person who looks for its cause.

use std::fmt::Write;

use super::search::Search;
use crate::model::Model;

/// Describes where an order of operations could not be continued: the obstacle, the open operations, and the next
/// revision.
pub fn dead_end(search: &Search<'_>, model: &Model) -> String {
    let mut text = blame(search, model);
    let revision = model.revision();
    let known = search.tasks.iter().filter(|task| task.is_known()).count();
    let placed = search.placed();
    let _ = write!(
        text,
        "\nin the order that got farthest: {placed} of {known} answered operations placed, at revision {revision}"
    );
    let _ = write!(text, ", compacted {}, leases {:?}", model.compacted(), model.leases());
    match search.revisions.get(&(revision + 1)) {
        Some(events) => drop(write!(text, "\nrevision {} changed: {events:?}", revision + 1)),
        None => text.push_str("\nthat is the last revision"),
    }
    for task in search.timeline.open() {
        let step = model.execute(search.tasks[task].request());
        let _ = write!(text, "\nopen: {}\n  the model would answer {:?}", search.tasks[task], step.response);
        if !step.events.is_empty() {
            let _ = write!(text, "\n  and make {:?}", step.events);
        }
    }
    text
}

/// The operation that has no place, or the revision that no operation made.
fn blame(search: &Search<'_>, model: &Model) -> String {
    let revision = model.revision();
    let first = search.timeline.first_return();
    let mut waiting = search.waiting_for(revision);
    if let Some(task) = waiting.next() {
        let task = &search.tasks[task];
        return match first {
            Some((earlier, moment)) if task.called() > moment => format!(
                "not linearizable: {task} at revision {revision}, but before it was called, {} had returned",
                search.tasks[earlier]
            ),
            _ => format!(
                "not linearizable: {task} but at revision {revision} the model answers {:?}",
                model.execute(task.request()).response
            ),
        };
    }
    let next = revision + 1;
    let maker = search
        .waiting_for(next)
        .find(|task| search.timeline.open().any(|open| open == *task) && search.tasks[*task].may_write());
    match (maker, first) {
        (Some(task), _) => format!("not linearizable: {} cannot have been next", search.tasks[task]),
        (None, Some((task, _))) if search.tasks[task].revision.is_none() => {
            format!("not linearizable: {} but must not have been refused so", search.tasks[task])
        }
        (None, Some((task, _))) if search.revisions.contains_key(&next) => {
            format!("not linearizable: nobody asked for revision {next} before {} had returned", search.tasks[task])
        }
        (None, Some((task, _))) => format!("not linearizable: {} has no place", search.tasks[task]),
        (None, None) => format!("not linearizable: nobody asked for revision {next}"),
    }
}
