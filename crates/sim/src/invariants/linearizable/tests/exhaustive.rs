//! Compares the search with one that tries every order: the search must not leave out anything that matters.

use super::check;
use crate::history::{Operation, Response, Revisions};
use crate::model::Model;
use crate::model::story::{Habits, Story};
use crate::random::Random;

const SEEDS: u64 = 6000;

/// Clients that conflict all the time.
const HABITS: Habits =
    Habits { operations: 10, clients: 4, unknown_permille: 250, keys: 2, leases: 2, hidden_permille: 450 };

#[test]
fn what_is_left_out_does_not_matter() {
    let (mut fine, mut wrong) = (0, 0);
    for seed in 0..SEEDS {
        let mut story = Story::random(seed, HABITS);
        let mut random = Random::new(seed, 1);
        for _ in 0..random.below(6) {
            change(&mut story, &mut random);
        }
        let operations: Vec<Operation> =
            story.operations.iter().filter(|o| !super::super::task::is_serializable(o)).cloned().collect();
        let expected = exists(&Model::default(), &operations, &mut vec![false; operations.len()], &story.revisions);
        let found = check(&operations, &story.revisions);
        assert_eq!(found.is_ok(), expected, "seed {seed}: {found:?}\n{operations:#?}\n{:#?}", story.revisions);
        *(if expected { &mut fine } else { &mut wrong }) += 1;
    }
    assert!(fine > SEEDS / 4 && wrong > SEEDS / 8, "{fine} fine, {wrong} wrong");
}

/// Gives an operation an answer that it could have had at another moment, other times, or no answer.
fn change(story: &mut Story, random: &mut Random) {
    let at = random.below(story.operations.len() as u64) as usize;
    let moment = random.below(60);
    let model = random.pick(&story.models).cloned().unwrap_or_default();
    let operation = &mut story.operations[at];
    let Some((returned, response)) = &mut operation.returned else {
        operation.called = moment;
        return;
    };
    match random.below(4) {
        0 => (operation.called, *returned) = (moment.min(operation.called), moment.max(*returned)),
        1 => operation.returned = None,
        _ => *response = model.execute(&operation.request).response,
    }
}

/// Whether there is an order of the operations, directly by the definition.
fn exists(model: &Model, operations: &[Operation], placed: &mut [bool], revisions: &Revisions) -> bool {
    let returns = operations.iter().zip(&*placed).filter(|(_, placed)| !**placed).map(|(o, _)| o.returned.as_ref());
    let first = returns.flatten().map(|(moment, _)| *moment).min();
    if first.is_none() && revisions.keys().next_back().is_none_or(|last| *last == model.revision()) {
        return true;
    }
    for at in 0..operations.len() {
        let operation = &operations[at];
        if placed[at] || first.is_some_and(|first| operation.called > first) {
            continue;
        }
        let step = model.execute(&operation.request);
        let is_answer = operation.returned.as_ref().is_none_or(|(_, response)| *response == step.response);
        let is_told = step.events.is_empty() || revisions.get(&step.after.revision()) == Some(&step.events);
        let is_idle =
            operation.returned.is_none() && matches!(step.response, Response::Refused(_) | Response::Range(_));
        if is_answer && is_told && !is_idle {
            placed[at] = true;
            if exists(&step.after, operations, placed, revisions) {
                return true;
            }
            placed[at] = false;
        }
    }
    false
}
