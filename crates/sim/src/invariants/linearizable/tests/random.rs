//! Histories of concurrent clients, and the verdict after one answer is changed.

use metastore_proto::etcdserverpb::{ResponseHeader, TxnResponse};

use super::check;
use crate::history::{Request, Response};
use crate::invariants::serializable;
use crate::model::story::{Habits, Story};
use crate::random::Random;

/// About the number of operations in a simulated minute.
const MANY: usize = 1500;

fn few(seed: u64) -> Story {
    Story::random(seed, Habits::default())
}

#[test]
fn what_really_happened_is_accepted() {
    for seed in 0..300 {
        let story = few(seed);
        assert_eq!(check(&story.operations, &story.revisions), Ok(()), "seed {seed}");
        assert_eq!(serializable::check(&story.operations, &story.revisions), Ok(()), "seed {seed}");
    }
}

#[test]
fn long_histories_are_accepted() {
    for seed in 0..5 {
        let story = Story::random(seed, Habits { operations: MANY, ..Habits::default() });
        assert_eq!(check(&story.operations, &story.revisions), Ok(()), "seed {seed}");
        assert_eq!(serializable::check(&story.operations, &story.revisions), Ok(()), "seed {seed}");
    }
}

#[test]
fn mostly_unknown_outcomes_are_accepted() {
    for seed in 0..100 {
        let story = Story::random(seed, Habits { operations: 400, unknown_permille: 600, ..Habits::default() });
        assert_eq!(check(&story.operations, &story.revisions), Ok(()), "seed {seed}");
    }
}

#[test]
fn one_changed_answer_is_found() {
    let mut changed = 0;
    for seed in 0..1500 {
        let mut story = few(seed);
        let mut random = Random::new(seed, 1);
        let at = random.below(story.operations.len() as u64) as usize;
        if story.operations[at].returned.is_none() {
            continue;
        }
        let before = story.operations[at].clone();
        if tamper(story.response(at), &mut random) {
            changed += 1;
            let found = match &before.request {
                Request::Range(range) if range.serializable => serializable::check(&story.operations, &story.revisions),
                _ => check(&story.operations, &story.revisions),
            };
            assert!(found.is_err(), "seed {seed}: {before:?} was told {:?}", story.operations[at].returned);
        }
    }
    assert!(changed > 700, "{changed}");
}

#[test]
fn one_missing_write_is_found() {
    for seed in 0..300 {
        let mut story = few(seed);
        let is_put = |o: &crate::history::Operation| matches!(&o.returned, Some((_, Response::Put(_))));
        let Some(at) = story.operations.iter().position(is_put) else { continue };
        story.operations.remove(at);
        assert!(check(&story.operations, &story.revisions).is_err(), "seed {seed}, operation {at}");
    }
}

/// Changes an answer to one that cannot be right at any moment; returns false if there is nothing to change.
fn tamper(response: &mut Response, random: &mut Random) -> bool {
    match response {
        Response::Put(response) => match random.below(2) {
            0 => shift(&mut response.header),
            _ => response.prev_kv.take().is_some(),
        },
        Response::DeleteRange(response) => {
            response.deleted += 1;
            true
        }
        Response::Txn(TxnResponse { succeeded, responses, .. }) => {
            match random.below(2) {
                0 => *succeeded = !*succeeded,
                _ => drop(responses.pop()),
            }
            true
        }
        Response::Range(response) => match response.kvs.first_mut() {
            Some(kv) => {
                kv.version += 1;
                true
            }
            None => {
                response.count += 1;
                true
            }
        },
        Response::LeaseGrant(response) => {
            response.ttl += 1;
            true
        }
        Response::Refused(text) => {
            text.push('!');
            true
        }
        Response::Compact(_) | Response::LeaseRevoke(_) => false,
    }
}

fn shift(header: &mut Option<ResponseHeader>) -> bool {
    if let Some(header) = header {
        header.revision += 1;
    }
    true
}
