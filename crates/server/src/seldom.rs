//! Log lines that another process can cause again and again: a member, a client, a stranger.
//!
//! Each place in the code logs only a few lines a minute about one subject, and the next line says how many were left
//! out. So no other process can fill the log, or slow this member down by making it write.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The period that the limits refer to.
const PERIOD: Duration = Duration::from_secs(60);
/// Subjects that a place tells apart within one period; all further ones count as one.
const SUBJECTS: usize = 64;
/// Lines about one subject in one period that report changes, such as a lost connection. Normal operation has fewer.
pub const CHANGES: u32 = 10;

/// A place in the code that logs.
pub struct Place {
    limit: u32,
    subjects: Mutex<Vec<Subject>>,
}

struct Subject {
    key: u64,
    since: Instant,
    said: u32,
    left_out: u64,
}

impl Place {
    /// A place that logs `limit` lines about each subject in one period.
    pub const fn new(limit: u32) -> Self {
        Self { limit, subjects: Mutex::new(Vec::new()) }
    }

    /// If a line about this subject may be logged now, returns how many were left out before it.
    pub fn may_say(&self, subject: &impl Hash) -> Option<u64> {
        self.may_say_at(Instant::now(), subject)
    }

    fn may_say_at(&self, now: Instant, subject: &impl Hash) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        subject.hash(&mut hasher);
        let mut subjects = self.subjects.lock();
        let full = subjects.len() >= SUBJECTS && !subjects.iter().any(|known| known.key == hasher.finish());
        if full {
            subjects.retain(|known| now < known.since + PERIOD);
        }
        let key = if subjects.len() >= SUBJECTS && full { 0 } else { hasher.finish() };
        let at = subjects.iter().position(|known| known.key == key).unwrap_or_else(|| {
            subjects.push(Subject { key, since: now, said: 0, left_out: 0 });
            subjects.len() - 1
        });
        let known = &mut subjects[at];
        if now >= known.since + PERIOD {
            (known.since, known.said) = (now, 0);
        }
        if known.said >= self.limit {
            known.left_out += 1;
            return None;
        }
        known.said += 1;
        Some(std::mem::take(&mut known.left_out))
    }
}

/// Logs a line of a level about a subject: at most once a minute (`seldom!(warn, subject, fields, "text")`), or at most
/// `CHANGES` times a minute (`seldom!(CHANGES: info, ...)`).
macro_rules! seldom {
    (CHANGES: $level:ident, $subject:expr, $($line:tt)+) => {{
        static PLACE: $crate::seldom::Place = $crate::seldom::Place::new($crate::seldom::CHANGES);
        if let Some(left_out) = PLACE.may_say(&$subject) {
            tracing::$level!("left-out" = (left_out > 0).then_some(left_out), $($line)+);
        }
    }};
    ($level:ident, $subject:expr, $($line:tt)+) => {{
        static PLACE: $crate::seldom::Place = $crate::seldom::Place::new(1);
        if let Some(left_out) = PLACE.may_say(&$subject) {
            tracing::$level!("left-out" = (left_out > 0).then_some(left_out), $($line)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_once_in_a_period_and_then_tells_how_often_it_was_left_out() {
        let (place, start) = (Place::new(1), Instant::now());
        assert_eq!(place.may_say_at(start, &"a"), Some(0));
        (0..1000).for_each(|_| assert_eq!(place.may_say_at(start + PERIOD / 2, &"a"), None));
        assert_eq!(place.may_say_at(start + PERIOD / 2, &"b"), Some(0), "another subject");
        assert_eq!(place.may_say_at(start + PERIOD, &"a"), Some(1000));
        assert_eq!(place.may_say_at(start + PERIOD, &"a"), None);
    }

    #[test]
    fn some_lines_may_come_several_times() {
        let (place, start) = (Place::new(3), Instant::now());
        let said = (0..100).filter(|_| place.may_say_at(start, &7).is_some()).count();
        assert_eq!(said, 3);
    }

    #[test]
    fn subjects_without_number_share_one_line_and_are_forgotten() {
        let (place, start) = (Place::new(1), Instant::now());
        let said = (0..100_000).filter(|subject: &u64| place.may_say_at(start, subject).is_some()).count();
        assert_eq!(said, SUBJECTS + 1);
        assert!(place.subjects.lock().len() <= SUBJECTS + 1);
        assert_eq!(place.may_say_at(start + PERIOD, &u64::MAX), Some(0), "there is room again");
    }
}
