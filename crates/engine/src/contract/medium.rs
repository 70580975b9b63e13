//! The medium: data that are flushed, frozen copies, and space that is given back.

use super::{ALL, all_history, compact, count, delete, publish, put, scan, write};
use crate::{Applied, Engine, Published, Revision, STEP, Table, Usage, Version};

/// More keys than one step visits.
const MANY: i64 = 2 * STEP as i64 + 5;

fn key(number: i64) -> Vec<u8> {
    format!("key{number:04}").into_bytes()
}

/// Every answer that an engine gives at a revision.
#[derive(Debug, PartialEq)]
struct Answers {
    published: Published,
    usage: Usage,
    alive: Vec<Version>,
    count: u64,
    newest: Option<Version>,
    history: Vec<Version>,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
}

fn answers(engine: &dyn Engine, at: i64) -> Answers {
    Answers {
        published: engine.published(),
        usage: engine.usage(),
        alive: scan(engine, ALL, at, STEP),
        count: count(engine, ALL, at),
        newest: engine.newest(&key(3), at).expect("newest"),
        history: all_history(engine),
        rows: engine.rows(Table::Lease, b"").expect("rows"),
    }
}

/// Writes keys, some of them twice or deleted, and a row of a table. Returns the revision at which all are published.
fn fill(engine: &dyn Engine) -> i64 {
    for main in 1..=MANY {
        put(engine, &key(main), main);
        write(engine, &key(main / 2), Revision::new(main, 1), main % 3 == 0);
    }
    engine.put(Table::Lease, b"lease", b"old").expect("put");
    publish(engine, MANY);
    MANY
}

pub fn flush_returns_what_is_published(engine: &dyn Engine) {
    assert_eq!(engine.flush().unwrap(), Applied::default());
    let applied = Applied { index: 12, term: 3 };
    put(engine, b"a", 2);
    engine.publish(Published { revision: 2, applied }).unwrap();
    let unpublished = put(engine, b"a", 3);
    assert_eq!(engine.flush().unwrap(), applied);
    assert_eq!(engine.newest(b"a", i64::MAX).unwrap(), Some(unpublished), "what is not published stays pending");
    assert_eq!(engine.published(), Published { revision: 2, applied });
}

/// It shows the state that was published when it was made, whatever happens to the original.
pub fn checkpoint_is_frozen(engine: &dyn Engine) {
    let at = fill(engine);
    let before = answers(engine, at);
    if engine.outlives_process() {
        put(engine, b"unpublished", at + 1);
        engine.put(Table::Lease, b"unpublished", b"").unwrap();
    }
    let frozen = engine.checkpoint().unwrap();
    assert_eq!(answers(&*frozen, at), before, "at once");
    publish(engine, at + 1);
    for number in 1..MANY {
        delete(engine, &key(number), at + 1 + number);
    }
    engine.put(Table::Lease, b"lease", b"new").unwrap();
    publish(engine, at + MANY);
    compact(engine, at + MANY);
    engine.flush().unwrap();
    engine.defragment().unwrap();
    assert_eq!(answers(&*frozen, at), before, "after the original was written, compacted and rewritten");
    assert_eq!(frozen.newest(b"unpublished", i64::MAX).unwrap(), None);
    assert_eq!(scan(&*frozen, ALL, i64::MAX, STEP), before.alive, "nothing later is in it");
    let second = engine.checkpoint().unwrap();
    assert_eq!(answers(&*second, at + MANY), answers(engine, at + MANY), "a second one beside it");
    drop(frozen);
    assert_eq!(answers(&*second, at + MANY), answers(engine, at + MANY), "the first took nothing with it");
}

pub fn checkpoint_is_not_written(engine: &dyn Engine) {
    let at = fill(engine);
    let frozen = engine.checkpoint().unwrap();
    let version = super::version(b"a", Revision::new(at + 1, 0), false);
    let published = frozen.published();
    let before = answers(&*frozen, at);
    assert!(frozen.append(b"a", version).is_err());
    assert!(frozen.put(Table::Meta, b"a", b"").is_err());
    assert!(frozen.delete(Table::Lease, b"lease").is_err());
    assert!(frozen.publish(published).is_err());
    assert!(frozen.compact_step(at).is_err());
    assert_eq!(frozen.flush().unwrap(), published.applied, "it is durable already");
    assert_eq!(answers(&*frozen, at), before);
    put(engine, b"a", at + 1);
}

pub fn defragment_changes_no_answer(engine: &dyn Engine) {
    let at = fill(engine);
    for compacted in [0, at / 2, at] {
        compact(engine, compacted);
        let before = answers(engine, at);
        engine.defragment().unwrap();
        assert_eq!(answers(engine, at), before, "compacted at {compacted}");
    }
    let unpublished = put(engine, b"a", at + 1);
    engine.defragment().unwrap();
    assert_eq!(engine.newest(b"a", i64::MAX).unwrap(), Some(unpublished));
}
