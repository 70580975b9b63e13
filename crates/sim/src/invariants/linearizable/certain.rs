//! Violations that exist in every order of the operations and are found without a search. This covers nearly every
//! violation, and describes it more clearly than the place where a search was stuck.
//!
//! The keys at a revision follow from the events up to that revision, in whatever order the operations are. The leases
//! and the compacted revision do not follow from the events. So the check assumes any of their values that could make
//! an operation fit.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::task::Task;
use super::unknown::{Unknown, each_lease};
use crate::history::{Response, Revisions, Violation};
use crate::model::{Model, REFUSALS};

/// # Errors
/// An operation that was answered at an older revision than another one that had returned before it was called; an
/// operation whose answer is not what the keys were at its revision; a revision that no operation could have made in
/// time.
pub fn check(tasks: &[Task<'_>], revisions: &Revisions, unknown: &Unknown) -> Result<(), Violation> {
    check_time(tasks)?;
    let states = states(tasks, revisions);
    check_answers(tasks, revisions, &states)?;
    check_makers(tasks, revisions, unknown, &states)
}

/// The key space at every revision from 1 on, with every lease that any operation names.
fn states(tasks: &[Task<'_>], revisions: &Revisions) -> Vec<Model> {
    let mut leases = BTreeSet::new();
    for task in tasks {
        each_lease(task.request(), &mut |lease| leases.extend([lease]));
    }
    let mut states = vec![Model::default().with_leases(Arc::new(leases))];
    for events in revisions.values() {
        states.extend(states.last().map(|state| state.after_events(events)));
    }
    states
}

/// Checks that revisions do not go back in real time.
fn check_time(tasks: &[Task<'_>]) -> Result<(), Violation> {
    let known = || tasks.iter().filter_map(|task| Some((task, task.revision?, task.returned()?)));
    let mut calls: Vec<_> = known().map(|(task, revision, _)| (task.called(), revision, task)).collect();
    let mut returns: Vec<_> = known().map(|(task, revision, returned)| (returned, revision, task)).collect();
    calls.sort_by_key(|(moment, ..)| *moment);
    returns.sort_by_key(|(moment, ..)| *moment);
    let mut newest: Option<(i64, &Task<'_>)> = None;
    let mut returns = returns.into_iter().peekable();
    for (called, revision, task) in calls {
        while let Some((_, told, earlier)) = returns.next_if(|(returned, ..)| *returned < called) {
            if newest.is_none_or(|(newest, _)| newest < told) {
                newest = Some((told, earlier));
            }
        }
        if let Some((told, earlier)) = newest.filter(|(told, _)| *told > revision) {
            return Err(format!(
                "not linearizable: {task} at revision {revision}, but before it was called, revision {told} was \
                    there: {earlier}"
            ));
        }
    }
    Ok(())
}

/// Whether a request makes exactly this revision.
fn makes(task: &Task<'_>, revision: i64, revisions: &Revisions, states: &[Model]) -> bool {
    let Some(before) = usize::try_from(revision - 2).ok().and_then(|n| states.get(n)) else { return false };
    let step = before.execute(task.request());
    revisions.get(&revision) == Some(&step.events) && task.answer.as_ref().is_none_or(|answer| *answer == step.response)
}

/// Checks that answers agree with the keys at their revisions.
fn check_answers(tasks: &[Task<'_>], revisions: &Revisions, states: &[Model]) -> Result<(), Violation> {
    for task in tasks {
        match (&task.answer, task.revision) {
            (Some(Response::Refused(text)), _) if !REFUSALS.contains(&&**text) => {
                return Err(format!("not linearizable: {task} but no state is a reason for that"));
            }
            (Some(answer), Some(revision)) => check_answer(task, answer, revision, revisions, states)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_answer(
    task: &Task<'_>,
    answer: &Response,
    revision: i64,
    revisions: &Revisions,
    states: &[Model],
) -> Result<(), Violation> {
    let state = &states[revision as usize - 1];
    let step = match answer {
        // They depend on leases or compactions, which are not known here, and contain no other information.
        Response::Compact(_) | Response::LeaseRevoke(_) => return Ok(()),
        Response::LeaseGrant(_) => state.clone().with_leases(Default::default()).execute(task.request()),
        _ => state.execute(task.request()),
    };
    let is_right = step.events.is_empty() && step.response == *answer;
    if is_right || makes(task, revision, revisions, states) {
        return Ok(());
    }
    let mut text = format!("not linearizable: {task} but that is not what the keys were at revision {revision}");
    if step.events.is_empty() {
        text += &format!("; then the answer is {:?}", step.response);
    } else if let Some(before) = usize::try_from(revision - 2).ok().and_then(|n| states.get(n)) {
        let step = before.execute(task.request());
        text += &format!("; before it the answer is {:?}, and the events are {:?}", step.response, step.events);
        text += &format!("; those of revision {revision} are {:?}", revisions.get(&revision));
    }
    Err(text)
}

/// Checks that every revision was requested before the first return of an operation that saw it or a later one.
fn check_makers(
    tasks: &[Task<'_>],
    revisions: &Revisions,
    unknown: &Unknown,
    states: &[Model],
) -> Result<(), Violation> {
    let mut known = vec![Vec::new(); states.len() + 1];
    let mut seen: Vec<Option<usize>> = vec![None; states.len() + 1];
    let returned = |n: &usize| tasks[*n].returned();
    for (n, task) in tasks.iter().enumerate() {
        let Some(revision) = task.revision.map(|revision| revision as usize) else { continue };
        known[revision].push(n);
        seen[revision] = seen[revision].into_iter().chain([n]).min_by_key(returned);
    }
    for revision in (2..states.len()).rev() {
        seen[revision] = seen[revision].into_iter().chain(seen[revision + 1]).min_by_key(returned);
    }
    for (revision, events) in revisions {
        let first = seen[*revision as usize].map(|n| &tasks[n]);
        let is_in_time =
            |n: &&usize| first.and_then(Task::returned).is_none_or(|returned| tasks[**n].called() <= returned);
        let mut makers = known[*revision as usize].iter().chain(unknown.makers(*revision)).filter(is_in_time);
        if !makers.any(|n| makes(&tasks[*n], *revision, revisions, states)) {
            let before = first.map_or(String::new(), |first| format!(" before it was seen by {first}"));
            let state = &states[*revision as usize - 2];
            let suspect = tasks.iter().find(|task| state.execute(task.request()).events == *events);
            let suspect = suspect.map_or(String::new(), |task| format!("; it would come from {task}"));
            return Err(format!(
                "not linearizable: nobody asked for revision {revision}{before}; it changed {events:?}{suspect}"
            ));
        }
    }
    Ok(())
}
