//! Distributions that one thread writes, at the cost of two additions.

use crate::instruments::tally::Tally;

use super::text::Page;

/// Upper bounds of all buckets except the last, which has none. The unit is the caller's: most often nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// `count` bounds, each twice the one before.
    Doubling {
        least: u64,
        count: usize,
    },
    Listed(&'static [u64]),
}

impl Bounds {
    /// Doubling bounds in nanoseconds, the first at `least_us` microseconds.
    pub const fn from_us(least_us: u64, count: usize) -> Bounds {
        Bounds::Doubling { least: least_us * 1000, count }
    }

    fn count(self) -> usize {
        match self {
            Bounds::Doubling { count, .. } => count,
            Bounds::Listed(bounds) => bounds.len(),
        }
    }

    fn bound(self, place: usize) -> u64 {
        match self {
            Bounds::Doubling { least, .. } => least << place,
            Bounds::Listed(bounds) => bounds[place],
        }
    }

    /// The bucket of a value: the first whose bound is not below it.
    fn place(self, value: u64) -> usize {
        match self {
            Bounds::Doubling { least, count } => {
                let place = u64::BITS - (value.saturating_sub(1) / least).leading_zeros();
                (place as usize).min(count)
            }
            Bounds::Listed(bounds) => bounds.partition_point(|bound| *bound < value),
        }
    }
}

/// A distribution. Any number of threads may read it.
#[derive(Debug)]
pub struct Histogram {
    bounds: Bounds,
    buckets: Box<[Tally]>,
    sum: Tally,
}

impl Histogram {
    pub fn new(bounds: Bounds) -> Histogram {
        let buckets = (0..=bounds.count()).map(|_| Tally::default()).collect();
        Histogram { bounds, buckets, sum: Tally::default() }
    }

    /// Records the same value `times` times.
    pub fn observe_many(&self, value: u64, times: u64) {
        self.buckets[self.bounds.place(value)].add(times);
        self.sum.add(value * times);
    }

    pub fn observe(&self, value: u64) {
        self.observe_many(value, 1);
    }

    /// Records a time, in nanoseconds.
    pub fn observe_time(&self, time: std::time::Duration) {
        self.observe(time.as_nanos() as u64);
    }
}

/// Distributions of several threads, added up.
#[derive(Clone, Debug)]
pub struct Sum {
    bounds: Bounds,
    buckets: Vec<u64>,
    sum: u64,
}

impl Sum {
    /// All have the same bounds.
    pub fn of<'a>(all: impl IntoIterator<Item = &'a Histogram>) -> Option<Sum> {
        let mut all = all.into_iter().peekable();
        let bounds = all.peek()?.bounds;
        let mut sum = Sum { bounds, buckets: vec![0; bounds.count() + 1], sum: 0 };
        for histogram in all {
            debug_assert_eq!(histogram.bounds, bounds);
            sum.buckets.iter_mut().zip(&histogram.buckets).for_each(|(sum, bucket)| *sum += bucket.get());
            sum.sum += histogram.sum.get();
        }
        Some(sum)
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Writes the samples of a family that was opened before. A shown unit is `unit` of the recorded units.
    pub fn write(&self, page: &mut Page, name: &str, labels: &[(&str, &str)], unit: f64) {
        let mut so_far = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            so_far += count;
            let last = place == self.bounds.count();
            let bound = if last { "+Inf".to_owned() } else { (self.bounds.bound(place) as f64 / unit).to_string() };
            page.sample(&format!("{name}_bucket"), &[labels, &[("le", &bound)]].concat(), so_far);
        }
        page.sample(&format!("{name}_sum"), labels, self.sum as f64 / unit);
        page.sample(&format!("{name}_count"), labels, so_far);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_a_bound_belongs_below_it() {
        let placed =
            |bounds: Bounds| [0, 1, 1000, 1001, 2000, 2001, 8000, 8001, u64::MAX].map(|value| bounds.place(value));
        assert_eq!(placed(Bounds::from_us(1, 4)), [0, 0, 0, 1, 1, 2, 3, 4, 4]);
        assert_eq!(placed(Bounds::Listed(&[1000, 2000, 4000, 8000])), [0, 0, 0, 1, 1, 2, 3, 4, 4]);
    }

    #[test]
    fn threads_are_added_up_and_buckets_count_what_is_below() {
        let threads = [(); 2].map(|()| Histogram::new(Bounds::from_us(100, 3)));
        threads[0].observe(100_000);
        threads[1].observe_many(150_000, 2);
        threads[1].observe(3_000_000_000);
        let mut page = Page::default();
        Sum::of(&threads).unwrap().write(&mut page, "h", &[("a", "b")], 1e9);
        let expected = "h_bucket{a=\"b\",le=\"0.0001\"} 1\nh_bucket{a=\"b\",le=\"0.0002\"} \
            3\nh_bucket{a=\"b\",le=\"0.0004\"} 3\n\
                        h_bucket{a=\"b\",le=\"+Inf\"} 4\nh_sum{a=\"b\"} 3.0004\nh_count{a=\"b\"} 4\n";
        assert_eq!(page.finish(), expected);
    }
}
