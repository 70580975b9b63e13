//! Calls and returns of the operations that have no place yet, in the order of time: a linked list, from which an operation is taken
//! in two steps, and to which it comes back in two (Lowe 2017, figure 6).

use super::task::Task;
use crate::history::Moment;

/// The sentinel before the first entry and behind the last.
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
    /// Of the operations that must have a place. A call in the moment of another's return counts as before it.
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

    /// Takes an operation out. One that is not in the list, because its outcome is unknown, is no matter.
    pub fn take(&mut self, task: usize) {
        let Some((call, returned)) = self.places[task] else { return };
        self.unlink(call);
        self.unlink(returned);
    }

    /// Puts back the operation that was taken last.
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
