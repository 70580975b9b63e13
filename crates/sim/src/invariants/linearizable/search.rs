//! The search for an order: depth first, with an explicit stack.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::certain;
use super::task::Task;
use super::timeline::Timeline;
use super::unknown::{Unknown, each_lease};
use crate::history::{Request, Response, Revisions, Violation};
use crate::model::{COMPACTED, Model};
use crate::random::Random;

/// Placements after which the search gives up, so that a hopeless history ends in bounded time and memory. A sound
/// history needs little more than one placement per operation.
const MAX_PLACEMENTS: usize = 500_000;

/// Seed of the random numbers that represent operations; any value will do.
const MARKS: u64 = 0x6c69_6e65;

pub struct Search<'a> {
    pub(super) tasks: &'a [Task<'a>],
    pub(super) revisions: &'a Revisions,
    pub(super) timeline: Timeline,
    /// By revision: the number of unplaced operations that were answered there, and so must be placed before the next
    /// revision.
    waiting: Vec<u32>,
    last: i64,
    unknown: Unknown,
    placed: Placed,
    tried: HashSet<Tried>,
    farthest: Option<(usize, Violation)>,
    describe: Describe,
}

/// Describes a dead end: the search as it stands, and the model there.
pub type Describe = fn(&Search<'_>, &Model) -> String;

/// The operations that have a place.
struct Placed {
    is_placed: Vec<bool>,
    /// A random number for each operation.
    marks: Vec<u128>,
    /// The marks of the placed operations, combined by exclusive or. The result identifies the set as far as 128
    /// bits can distinguish sets.
    mark: u128,
    /// The number of placed operations among those that must be placed.
    known: usize,
}

/// A set of placed operations, and the state after them. Keys and revision follow from the operations, because every
/// revision is given.
#[derive(PartialEq, Eq, Hash)]
struct Tried {
    placed: u128,
    revision: i64,
    compacted: i64,
    leases: Arc<BTreeSet<i64>>,
}

/// One operation that may be next, and the model after it.
struct Choice {
    task: usize,
    /// Operations with unknown outcome that are placed before it, so that it fits.
    helpers: Vec<usize>,
    after: Model,
}

/// Operations with unknown outcome, one after the other, and the model after them.
type Way = (Vec<usize>, Model);

/// One step of the search: the operations that led there, and the choices that are still untried. The last choice is
/// tried first.
struct Frame {
    model: Model,
    placed: Vec<usize>,
    choices: Vec<Choice>,
    wave: Wave,
    /// Whether there was no choice at all.
    is_dead_end: bool,
}

#[derive(PartialEq)]
enum Wave {
    /// Operations that must be placed, and unknown ones that make the next revision.
    First,
    /// Unknown operations whose change no revision shows.
    Second,
    /// No other operation may be next.
    Last,
}

/// How an operation fits a state.
enum Fit {
    /// It was answered at another revision, or makes the next one too early.
    No,
    /// The model gives another answer, or makes other events or none.
    Not,
    /// It changes nothing.
    Idle(Model),
    /// It changes something, but makes no revision.
    Hidden(Model),
    /// It makes the next revision.
    Revision(Model),
}

impl<'a> Search<'a> {
    /// `last` is the greatest of `revisions`, and no task was answered at a later one.
    pub fn new(tasks: &'a [Task<'a>], revisions: &'a Revisions, last: i64, describe: Describe) -> Self {
        let mut waiting = vec![0; last as usize + 1];
        tasks.iter().filter_map(|task| task.revision).for_each(|revision| waiting[revision as usize] += 1);
        Self {
            tasks,
            revisions,
            timeline: Timeline::new(tasks),
            waiting,
            last,
            unknown: Unknown::new(tasks, revisions),
            placed: Placed::none_of(tasks),
            tried: HashSet::new(),
            farthest: None,
            describe,
        }
    }

    /// Looks for an order.
    ///
    /// # Errors
    /// If there is no order, or none was found in [`MAX_PLACEMENTS`].
    pub fn run(mut self) -> Result<(), Violation> {
        let mut stack = vec![self.frame(Vec::new(), Model::default())];
        let mut placements = 0;
        while let Some(frame) = stack.last_mut() {
            if self.is_complete(&frame.model) {
                return Ok(());
            }
            if let Some(Choice { task, helpers: mut tasks, after }) = frame.choices.pop() {
                placements += 1;
                if placements > MAX_PLACEMENTS {
                    let text = self.farthest.map_or(String::new(), |(_, text)| text);
                    return Err(format!(
                        "no order found in {MAX_PLACEMENTS} placements; the one that got farthest: {text}"
                    ));
                }
                let is_idle = frame.model.is_unchanged_in(&after);
                tasks.push(task);
                self.place(&tasks);
                if is_idle || self.tried.insert(Tried::new(&self.placed, &after)) {
                    stack.push(self.frame(tasks, after));
                } else {
                    self.displace(&tasks);
                }
            } else if frame.wave == Wave::First {
                frame.wave = Wave::Second;
                frame.choices = self.helped(&frame.model);
                frame.is_dead_end &= frame.choices.is_empty();
            } else {
                self.go_back(stack.pop())?;
            }
        }
        Err(self.farthest.map_or_else(|| "no order was found".to_string(), |(_, text)| text))
    }

    /// Whether every operation that must be placed has a place, and every revision was made.
    fn is_complete(&self, model: &Model) -> bool {
        self.timeline.is_empty() && model.revision() == self.last
    }

    /// Goes back one step. At the first dead end, it checks for operations that cannot fit in any order.
    ///
    /// # Errors
    /// If there is such an operation.
    fn go_back(&mut self, frame: Option<Frame>) -> Result<(), Violation> {
        let Some(frame) = frame else { return Ok(()) };
        if frame.is_dead_end && self.farthest.as_ref().is_none_or(|(known, _)| *known < self.placed.known) {
            if self.farthest.is_none() {
                certain::check(self.tasks, self.revisions, &self.unknown)?;
            }
            self.farthest = Some((self.placed.known, (self.describe)(self, &frame.model)));
        }
        self.displace(&frame.placed);
        Ok(())
    }

    fn place(&mut self, tasks: &[usize]) {
        for task in tasks.iter().copied() {
            self.timeline.take(task);
            self.placed.flip(task, true);
            if let Some(revision) = self.tasks[task].revision {
                self.waiting[revision as usize] -= 1;
            }
            self.placed.known += usize::from(self.tasks[task].is_known());
        }
    }

    fn displace(&mut self, tasks: &[usize]) {
        for task in tasks.iter().rev().copied() {
            self.timeline.put_back(task);
            self.placed.flip(task, false);
            if let Some(revision) = self.tasks[task].revision {
                self.waiting[revision as usize] += 1;
            }
            self.placed.known -= usize::from(self.tasks[task].is_known());
        }
    }

    fn frame(&self, placed: Vec<usize>, model: Model) -> Frame {
        let (choices, wave) = self.visible(&model);
        let is_dead_end = choices.is_empty();
        Frame { model, placed, choices, wave, is_dead_end }
    }

    /// The operations that may be next, and whether these are all. An operation that changes nothing excludes the
    /// others. An operation whose change no revision shows comes before one that makes the next revision, because
    /// afterwards it is too late.
    fn visible(&self, model: &Model) -> (Vec<Choice>, Wave) {
        let (mut hidden, mut makers) = (Vec::new(), Vec::new());
        for task in self.timeline.open() {
            match self.fit(model, task) {
                Fit::Idle(after) => return (vec![Choice::of(task, after)], Wave::Last),
                Fit::Hidden(after) => hidden.push(Choice::of(task, after)),
                Fit::Revision(after) => makers.push(Choice::of(task, after)),
                Fit::No | Fit::Not => {}
            }
        }
        self.unknown_makers(model, &mut makers);
        makers.reverse();
        makers.extend(hidden.into_iter().rev());
        (makers, Wave::First)
    }

    /// Operations with unknown outcome that make the next revision. Of several with the same request, one is enough.
    fn unknown_makers(&self, model: &Model, makers: &mut Vec<Choice>) {
        let known = makers.len();
        for task in self.in_time(self.unknown.makers(model.revision() + 1).iter().copied()) {
            let request = self.tasks[task].request();
            if makers[known..].iter().any(|other| self.tasks[other.task].request() == request) {
                continue;
            }
            if let Fit::Revision(after) = self.fit(model, task) {
                makers.push(Choice::of(task, after));
            }
        }
    }

    /// Operations that fit after others with unknown outcome have made a change that no revision shows. The others are
    /// placed directly before them: an earlier place is of no use, and may prevent other placements.
    fn helped(&self, model: &Model) -> Vec<Choice> {
        let next = self.in_time(self.unknown.makers(model.revision() + 1).iter().copied());
        let mut choices = Vec::new();
        for task in self.timeline.open().chain(next).filter(|task| matches!(self.fit(model, *task), Fit::Not)) {
            for (helpers, before) in self.help(model, task) {
                match self.fit(&before, task) {
                    Fit::Revision(after) => choices.push(Choice { task, helpers, after }),
                    Fit::Idle(after) | Fit::Hidden(after) if self.tasks[task].is_known() => {
                        choices.push(Choice { task, helpers, after });
                    }
                    _ => {}
                }
            }
        }
        choices.reverse();
        choices
    }

    /// The ways in which an operation could be made to fit: the leases that it names are granted or revoked; and if it
    /// was refused as compacted, the first compaction that explains the refusal is placed.
    fn help(&self, model: &Model, task: usize) -> Vec<Way> {
        let mut leases = BTreeSet::new();
        each_lease(self.tasks[task].request(), &mut |lease| leases.extend([lease]));
        let mut ways = vec![(Vec::new(), model.clone())];
        for lease in leases {
            let one = |way| self.one_more(way, self.unknown.of_lease(lease).iter().copied(), |_| true);
            let more: Vec<Way> = ways.iter().filter_map(one).collect();
            ways.extend(more);
        }
        if matches!(&self.tasks[task].answer, Some(Response::Refused(text)) if text == COMPACTED) {
            let explains = |after: &Model| !matches!(self.fit(after, task), Fit::Not);
            let one = |way| self.one_more(way, self.unknown.compactions_after(model.compacted()), explains);
            let more: Vec<Way> = ways.iter().filter_map(one).collect();
            ways.extend(more);
        }
        ways.swap_remove(0);
        ways
    }

    /// The way, extended by the first of `tasks` that changes something, makes no revision and is enough.
    fn one_more(
        &self,
        (helpers, model): &Way,
        tasks: impl Iterator<Item = usize>,
        is_enough: impl Fn(&Model) -> bool,
    ) -> Option<Way> {
        self.in_time(tasks).find_map(|task| match self.fit(model, task) {
            Fit::Hidden(after) if is_enough(&after) => Some(([&helpers[..], &[task]].concat(), after)),
            _ => None,
        })
    }

    /// The unplaced operations among `tasks` that may be next in real time.
    fn in_time(&self, tasks: impl Iterator<Item = usize>) -> impl Iterator<Item = usize> {
        let until = self.timeline.first_return().map(|(_, moment)| moment);
        let is_called = move |task: &usize| until.is_none_or(|moment| self.tasks[*task].called() <= moment);
        tasks.filter(move |task| !self.placed.is_placed[*task] && is_called(task))
    }

    fn fit(&self, model: &Model, task: usize) -> Fit {
        let task = &self.tasks[task];
        let now = model.revision();
        let is_next_free = self.waiting[now as usize] == 0;
        match task.revision {
            Some(revision) if revision == now => {}
            Some(revision) if revision == now + 1 && is_next_free => {}
            Some(_) => return Fit::No,
            None => {}
        }
        let step = model.execute(task.request());
        if task.answer.as_ref().is_some_and(|answer| *answer != step.response) {
            return Fit::Not;
        }
        if model.is_unchanged_in(&step.after) {
            // With an unknown outcome it may equally have never happened.
            return if task.is_known() { Fit::Idle(step.after) } else { Fit::Not };
        }
        if step.events.is_empty() {
            return Fit::Hidden(step.after);
        }
        match self.revisions.get(&(now + 1)) {
            Some(events) if *events == step.events && is_next_free => Fit::Revision(step.after),
            Some(events) if *events == step.events => Fit::No,
            _ => Fit::Not,
        }
    }

    /// Operations without a place that were answered at `revision`, in the order of the history.
    pub(super) fn waiting_for(&self, revision: i64) -> impl Iterator<Item = usize> + '_ {
        let is_waiting =
            move |task: &usize| self.tasks[*task].revision == Some(revision) && !self.placed.is_placed[*task];
        (0..self.tasks.len()).filter(is_waiting)
    }

    /// The number of placed operations among those that must be placed.
    pub(super) fn placed(&self) -> usize {
        self.placed.known
    }
}

impl Choice {
    fn of(task: usize, after: Model) -> Self {
        Self { task, helpers: Vec::new(), after }
    }
}

impl Placed {
    fn none_of(tasks: &[Task<'_>]) -> Self {
        let mut random = Random::new(MARKS, 0);
        let mark = |task: &Task<'_>| match task.request() {
            // The compacted revision already says whether it was used.
            Request::Compact(_) if !task.is_known() => 0,
            _ => u128::from(random.number()) << 64 | u128::from(random.number()),
        };
        Self { is_placed: vec![false; tasks.len()], marks: tasks.iter().map(mark).collect(), mark: 0, known: 0 }
    }

    fn flip(&mut self, task: usize, to: bool) {
        self.is_placed[task] = to;
        self.mark ^= self.marks[task];
    }
}

impl Tried {
    fn new(placed: &Placed, model: &Model) -> Self {
        let (revision, compacted) = (model.revision(), model.compacted());
        Self { placed: placed.mark, revision, compacted, leases: model.leases().clone() }
    }
}
