//! Many seeds on all processors. Each world lives in one thread, and threads share only the number of the next seed and
//! the results.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::counts::Counts;
use crate::world::{Plan, run};

/// The interval of progress reports in a long run.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Failures after which a run ends: further ones most likely have the same cause.
const ENOUGH_FAILURES: usize = 10;

/// The seeds to run.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    pub first: u64,
    /// The number of seeds, at most.
    pub count: u64,
    /// No seed is started after this time.
    pub time: Option<Duration>,
    pub threads: usize,
    /// The run ends with the first failure that a checker has found.
    pub until_found: bool,
}

/// A seed in which a check failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    /// The failure, and the place where it was noticed.
    pub what: String,
    /// The code under test noticed the failure by itself and stopped; no checker was needed.
    pub by_itself: bool,
}

impl Failure {
    fn new(seed: u64, what: String) -> Self {
        let words =
            [" does not start: ", " has stopped: ", " cannot take a state: ", " starts from what it has stored: "];
        let stopped = words.iter().any(|text| what.contains(text));
        let by_itself = stopped || !what.contains("[crates/sim/");
        Self { seed, what, by_itself }
    }
}

/// The result of all seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub failures: Vec<Failure>,
    pub counts: Counts,
    pub took: Duration,
}

impl Summary {
    pub fn seeds_per_minute(&self) -> f64 {
        self.seeds as f64 * 60.0 / self.took.as_secs_f64().max(0.001)
    }
}

thread_local! {
    /// The text of the last panic on this thread.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the texts of panics for [`Failure::what`] instead of printing them.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, |place| format!(" [{}:{}]", place.file(), place.line()));
        let (payload, words) = (panic.payload(), "a panic without words");
        let message = payload
            .downcast_ref::<String>()
            .map_or_else(|| payload.downcast_ref().map_or(words, |text| *text), String::as_str);
        LAST_PANIC.with_borrow_mut(|last| *last = format!("{message}{place}"));
    }));
}

/// Runs one seed.
///
/// # Errors
/// The failed check.
pub fn run_one(seed: u64, plan: &Plan) -> Result<Counts, Failure> {
    catch_unwind(AssertUnwindSafe(|| run(seed, plan).0))
        .map_err(|_| Failure::new(seed, LAST_PANIC.with_borrow(String::clone)))
}

/// Runs all seeds; reports progress, and each failure as it occurs.
pub fn run_all(seeds: Seeds, plan: &Plan, tell: &(dyn Fn(&Summary, Option<&Failure>) + Sync)) -> Summary {
    let (started, next, stop) = (Instant::now(), AtomicU64::new(seeds.first), AtomicBool::new(false));
    let total = Mutex::new((Summary::default(), started));
    let end = seeds.first.saturating_add(seeds.count);
    let work = || {
        while !stop.load(Ordering::Relaxed) && seeds.time.is_none_or(|time| started.elapsed() < time) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            let result = run_one(seed, plan);
            let mut total = total.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let (summary, told) = &mut *total;
            summary.seeds += 1;
            summary.took = started.elapsed();
            match result {
                Ok(counts) => summary.counts.add(&counts),
                Err(failure) => {
                    tell(summary, Some(&failure));
                    let enough = match seeds.until_found {
                        true => !failure.by_itself,
                        false => summary.failures.len() + 1 >= ENOUGH_FAILURES,
                    };
                    summary.failures.push(failure);
                    stop.fetch_or(enough, Ordering::Relaxed);
                }
            }
            if told.elapsed() >= PROGRESS_INTERVAL {
                *told = Instant::now();
                tell(summary, None);
            }
        }
    };
    std::thread::scope(|scope| (0..seeds.threads.max(1)).for_each(|_| _ = scope.spawn(work)));
    let (mut summary, _) = total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    summary.took = started.elapsed();
    summary
}
