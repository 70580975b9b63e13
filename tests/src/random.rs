//! A seeded source of randomness: the same seed gives the same numbers on every machine.

use metastore_sim::random::Random as Source;

/// The simulator's source of randomness, with the methods that tests of servers need.
#[derive(Clone, Debug)]
pub struct Random(Source);

/// Tests of servers use one stream per seed.
const STREAM: u64 = 0;

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(Source::new(seed, STREAM))
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0.number()
    }

    /// A number below `bound`. Panics if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "nothing is below 0");
        (self.next_u64() % bound as u64) as usize
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next_u64() % (high - low + 1) as u64) as i64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A copy of one of `items`. Panics if there are none.
    pub fn any<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// A copy of one of `items`, drawn by weight.
    pub fn weighted<T: Copy>(&mut self, items: &[(usize, T)]) -> T {
        let total = items.iter().map(|(weight, _)| weight).sum();
        let mut left = self.below(total);
        for (weight, item) in items {
            if left < *weight {
                return *item;
            }
            left -= weight;
        }
        unreachable!("`left` is below the sum of the weights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            (0..8).map(|_| random.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
    }

    #[test]
    fn weights_decide_how_often() {
        let mut random = Random::new(7);
        let hits = (0..1000).filter(|_| random.weighted(&[(9, false), (1, true)])).count();
        assert!((50..200).contains(&hits), "{hits} of 1000 instead of about 100");
    }
}
