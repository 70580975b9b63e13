//! The number of keys. Engines do not keep count, so it takes a walk over all keys.

use std::time::{Duration, Instant};

use metastore_engine::{KeyRange, Result};
use metastore_store::mvcc::View;
use parking_lot::Mutex;

/// A count is reused for this many times as long as it took. So counting takes at most a twentieth of one processor,
/// however often the count is asked for.
const GOOD_FOR: u32 = 20;

/// The last count.
#[derive(Debug, Default)]
pub struct KeyCount(Mutex<Option<Counted>>);

#[derive(Clone, Copy, Debug)]
struct Counted {
    keys: u64,
    at: Instant,
    took: Duration,
}

impl KeyCount {
    /// Keys that are alive, now or at the last count if it can be reused. Takes as long as the walk takes.
    ///
    /// # Errors
    /// If the disk cannot be read.
    pub fn get(&self, view: &View) -> Result<u64> {
        let mut last = self.0.lock();
        if let Some(counted) = last.filter(|counted| counted.at.elapsed() < counted.took * GOOD_FOR) {
            return Ok(counted.keys);
        }
        let began = Instant::now();
        let keys = count(view)?;
        *last = Some(Counted { keys, at: Instant::now(), took: began.elapsed() });
        Ok(keys)
    }
}

fn count(view: &View) -> Result<u64> {
    let (engine, at, mut count) = (view.engine(), view.revision(), 0);
    let mut from = Some(Vec::new());
    while let Some(start) = from {
        from = engine.count(KeyRange { start: &start, end: None }, at, &mut count)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_good_for_a_while() {
        let view = metastore_store::Store::open(std::sync::Arc::new(metastore_engine::Memory::new())).unwrap();
        let (view, took) = (view.view(), Duration::from_secs(3600));
        let last = |at| KeyCount(Mutex::new(Some(Counted { keys: 7, at, took })));
        assert_eq!(last(Instant::now()).get(view).unwrap(), 7);
        let fresh = Counted { keys: 7, at: Instant::now(), took: Duration::ZERO };
        assert_eq!(KeyCount(Mutex::new(Some(fresh))).get(view).unwrap(), 0);
        assert_eq!(KeyCount::default().get(view).unwrap(), 0);
    }
}
