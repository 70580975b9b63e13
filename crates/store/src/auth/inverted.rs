//! Whether etcd permits a range that ends before it begins, or where it begins.
//!
//! Such a range holds no key, so nothing is shown or changed through it. But a transaction that names one is refused or
//! applied as a whole, in all members alike. etcd's answer is an accident of its data structure, and must be repeated.
//!
//! etcd puts the permissions of a user into a red-black tree, one after the other, and asks it whether the intervals
//! that overlap the range leave no gap in it. A search passes over a subtree if it takes its intervals to lie on one
//! side of the range. That is decided by the interval in the root of the subtree:
//!
//! ```text
//!                 [b, c)                  the range from n to a: n is not before c, so [b, c) is taken for one to the
//!                       \                 left of it; and a is not behind b, so all that is behind b is taken for
//!                        [m, p)           something to the right of it. [m, p) holds n and is never looked at.
//! ```
//!
//! With the tree turned, [m, p) at its root, the same range is permitted. So the answer needs etcd's tree in its exact
//! shape, hence its order of insertion, its comparison of intervals and its way to balance. The rest is simple:
//!
//! 1. The intervals that the search counts are those that hold the first key. They overlap each other, so there is no
//!    gap; they begin no later than the range and end after it begins. One of them is enough.
//! 2. The other reason to pass over a subtree, that all its intervals end before the first key, hides none of them. So
//!    the tree needs no greatest end of each subtree.
//! 3. An interval in the root of a subtree hides it only if it begins no earlier than the range ends, and ends no later
//!    than the range begins. Permissions have a length, so that happens only if the range ends before it begins. For
//!    all other ranges the answer does not depend on the shape; `permission.rs` answers without a tree.
//!
//! Deliberately absent: the tree is not kept. No client asks for such ranges, except by mistake or to make members
//! differ; one question costs no more than to sort the permissions of its user.

use super::permission::{End, Interval};

/// Whether etcd permits the range from `key` to `end`, which is not after it, to a user with these permissions, in
/// etcd's order.
pub(super) fn permits<'a>(permissions: impl Iterator<Item = Interval<'a>>, key: &[u8], end: &[u8]) -> bool {
    let mut tree = Tree { nodes: Vec::new(), root: None };
    permissions.for_each(|interval| tree.insert(interval));
    tree.finds(tree.root, key, end)
}

struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    root: Option<usize>,
}

struct Node<'a> {
    interval: Interval<'a>,
    is_red: bool,
    /// The children: lesser intervals, and all others.
    below: [Option<usize>; 2],
}

impl<'a> Tree<'a> {
    fn insert(&mut self, interval: Interval<'a>) {
        let new = self.nodes.len();
        self.nodes.push(Node { interval, is_red: true, below: [None, None] });
        // The colour of the root is never looked at.
        self.root = Some(self.insert_below(self.root, new));
    }

    /// Inserts a node into the subtree of `top`. Returns the root of the subtree then. A tree of `n` nodes is at most
    /// `2 log2(n + 1)` levels deep.
    fn insert_below(&mut self, top: Option<usize>, new: usize) -> usize {
        let Some(top) = top else { return new };
        let side = usize::from(self.nodes[new].interval >= self.nodes[top].interval);
        let child = self.insert_below(self.nodes[top].below[side], new);
        self.nodes[top].below[side] = Some(child);
        self.balance(top, side, child)
    }

    /// Mends the subtree of `top` if `child`, on that side of it, and a child of that are both red. Returns the root of
    /// the subtree then.
    fn balance(&mut self, top: usize, side: usize, child: usize) -> usize {
        let across = 1 - side;
        let [outer, inner] = [side, across].map(|side| self.red(self.nodes[child].below[side]).is_some());
        if !self.nodes[child].is_red || !(outer || inner) {
            return top;
        }
        if let Some(sibling) = self.red(self.nodes[top].below[across]) {
            self.nodes[top].is_red = true;
            self.nodes[child].is_red = false;
            self.nodes[sibling].is_red = false;
            return top;
        }
        if inner {
            self.nodes[top].below[side] = Some(self.raise_child(child, across));
        }
        let raised = self.raise_child(top, side);
        self.nodes[raised].is_red = false;
        self.nodes[top].is_red = true;
        raised
    }

    fn red(&self, node: Option<usize>) -> Option<usize> {
        node.filter(|node| self.nodes[*node].is_red)
    }

    /// Puts the child on that side of `top` into its place, and `top` below it. Returns the child.
    fn raise_child(&mut self, top: usize, side: usize) -> usize {
        let raised = self.nodes[top].below[side].expect("a red child is raised");
        self.nodes[top].below[side] = self.nodes[raised].below[1 - side].replace(top);
        raised
    }

    /// Whether etcd's search for the range from `key` to `end` finds an interval that holds `key` in a subtree.
    fn finds(&self, top: Option<usize>, key: &[u8], end: &[u8]) -> bool {
        let Some(top) = top else { return false };
        let Node { interval: (begin, last), below: [lesser, others], .. } = &self.nodes[top];
        if key < *begin {
            return self.finds(*lesser, key, end);
        }
        if End::before(key) < *last {
            return true;
        }
        *begin < end && (self.finds(*lesser, key, end) || self.finds(*others, key, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The permission `b-c` is the range from b to c, `b-*` the one from b without an end, `b` the key b.
    fn interval(permission: &str) -> Interval<'_> {
        match permission.split_once('-') {
            None => (permission.as_bytes(), End::after(permission.as_bytes())),
            Some((begin, "*")) => (begin.as_bytes(), End::Open),
            Some((begin, end)) => (begin.as_bytes(), End::before(end.as_bytes())),
        }
    }

    #[test]
    fn answers_are_those_recorded_from_etcds_tree() {
        let lines = include_str!("inverted.txt").lines().filter(|line| !line.starts_with('#'));
        let mut answers = [0, 0];
        for line in lines {
            let (question, permissions) = line.split_once(": ").unwrap();
            let [key, end, answer] = question.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let permitted = permits(permissions.split(' ').map(interval), key.as_bytes(), end.as_bytes());
            assert_eq!(permitted, answer == "yes", "{line}");
            answers[usize::from(permitted)] += 1;
        }
        assert_eq!(answers, [170, 130]);
    }
}
