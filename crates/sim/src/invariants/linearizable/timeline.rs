//! Calls and returns of the unplaced operations, in the order of time. They form a linked list, from which an operation
//! is removed in two steps, and into which it is put back in two steps (Lowe 2017, figure 6).

use super::task::Task;
use crate::history::Moment;

/// The sentinel before the first entry and after the last.
const END: usize = 0;

#[derive(Clone, Copy)]
struct Entry {
    task: usize,
    moment: Moment,
    is_return: bool,
    previous: usize,
    next: usize,
}

pub struct Timeline {
    entries: Vec<Entry>,
    /// The entries of a task's call and return.
    places: Vec<Option<(usize, usize)>>,
}

impl Timeline {
    /// A timeline of the operations that must be placed. A call at the same moment as another operation's return counts
    /// as before it.
    pub fn new(tasks: &[Task<'_>]) -> Self {
        let mut moments = Vec::new();
        for (task, returned) in tasks.iter().enumerate().filter_map(|(n, task)| Some((n, task.returned()?))) {
            moments.push((tasks[task].called(), false, task));
            moments.push((returned, true, task));
        }
        moments.sort_unstable();
        let mut entries = vec![Entry { task: 0, moment: 0, is_return: true, previous: moments.len(), next: END }];
        let mut places = vec![None; tasks.len()];
        for (moment, is_return, task) in moments {
            let at = entries.len();
            entries.push(Entry { task, moment, is_return, previous: at - 1, next: END });
            entries[at - 1].next = at;
            let (call, _) = *places[task].get_or_insert((at, at));
            places[task] = Some((call, at));
        }
        Self { entries, places }
    }

    pub fn is_empty(&self) -> bool {
        self.entries[END].next == END
    }

    /// The operations called before the first return: any of them may be next.
    pub fn open(&self) -> impl Iterator<Item = usize> + '_ {
        self.walk().take_while(|entry| !entry.is_return).map(|entry| entry.task)
    }

    /// The operation that returned first, and when.
    pub fn first_return(&self) -> Option<(usize, Moment)> {
        self.walk().find(|entry| entry.is_return).map(|entry| (entry.task, entry.moment))
    }

    fn walk(&self) -> impl Iterator<Item = &Entry> + '_ {
        let next = |entry: &&Entry| Some(&self.entries[entry.next]).filter(|_| entry.next != END);
        std::iter::successors(next(&&self.entries[END]), next)
    }

    /// Removes an operation. An operation with unknown outcome is not in the list; then nothing happens.
    pub fn take(&mut self, task: usize) {
        let Some((call, returned)) = self.places[task] else { return };
        self.unlink(call);
        self.unlink(returned);
    }

    /// Puts back the operation that was removed last.
    pub fn put_back(&mut self, task: usize) {
        let Some((call, returned)) = self.places[task] else { return };
        self.link(returned);
        self.link(call);
    }

    fn unlink(&mut self, at: usize) {
        let Entry { previous, next, .. } = self.entries[at];
        self.entries[previous].next = next;
        self.entries[next].previous = previous;
    }

    fn link(&mut self, at: usize) {
        let Entry { previous, next, .. } = self.entries[at];
        self.entries[previous].next = at;
        self.entries[next].previous = at;
    }
}
