//! The effect of violations. Each ends the run, with one exception: while most members have come back with older copies
//! of their disks. Then a violation is held for a while, because a member may notice that entries are lost, and stop.

use crate::history::Violation;

#[derive(Default)]
pub struct Verdicts {
    holding: bool,
    /// The first violation that is held, and the number of ticks since then.
    held: Option<(Violation, u64)>,
}

impl Verdicts {
    /// Continues if a check has found no violation.
    ///
    /// # Panics
    /// With the violation, unless violations are held.
    #[track_caller]
    pub fn must(&mut self, checked: Result<(), Violation>) {
        match checked {
            Err(violation) if self.holding => _ = self.held.get_or_insert((violation, 0)),
            Err(violation) => panic!("{violation}"),
            Ok(()) => {}
        }
    }

    /// Holds violations from now on.
    pub fn hold(&mut self) {
        self.holding = true;
    }

    pub fn is_holding(&self) -> bool {
        self.holding
    }

    /// A tick has passed.
    ///
    /// # Panics
    /// With a violation that was held for more than `longest` ticks.
    pub fn tick(&mut self, longest: u64) {
        if let Some((_, ticks)) = &mut self.held {
            *ticks += 1;
            if *ticks > longest {
                self.pronounce();
            }
        }
    }

    /// Holds no violations any more.
    ///
    /// # Panics
    /// With the violation that was held.
    pub fn pronounce(&mut self) {
        self.holding = false;
        if let Some((violation, _)) = self.held.take() {
            panic!("members came back with older copies, and none noticed: {violation}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    #[should_panic(expected = "a violation")]
    fn a_violation_ends_the_run() {
        let mut verdicts = Verdicts::default();
        verdicts.must(Ok(()));
        verdicts.must(Err("a violation".into()));
    }

    #[test]
    fn the_first_violation_that_is_held_ends_the_run_in_time() {
        let mut verdicts = Verdicts::default();
        verdicts.hold();
        (0..9).for_each(|_| verdicts.tick(2));
        verdicts.must(Err("the first".into()));
        verdicts.must(Err("the second".into()));
        (0..2).for_each(|_| verdicts.tick(2));
        assert!(verdicts.is_holding());
        let panic = catch_unwind(AssertUnwindSafe(|| verdicts.tick(2))).unwrap_err();
        assert!(panic.downcast_ref::<String>().is_some_and(|said| said.ends_with("none noticed: the first")));
    }
}
