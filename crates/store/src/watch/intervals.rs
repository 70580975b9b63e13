//! An index of key ranges: it finds the ranges that contain a key.
//!
//! It is a balanced tree (AVL), ordered by start and end. Each node knows the node with the greatest end in its
//! subtree, so a search skips subtrees that end before the key. The balance does not depend on the order of insertion:
//! clients choose the ranges, and must not be able to build a slow tree.

use std::cmp::Ordering;
use std::sync::Arc;

use slab::Slab;

/// No node.
const NONE: u32 = u32::MAX;

/// The exclusive end of a range; `None` is after every key.
pub(super) type End = Option<Arc<[u8]>>;

#[derive(Debug)]
struct Node {
    start: Arc<[u8]>,
    end: End,
    /// The groups that watch this range.
    groups: Vec<u32>,
    left: u32,
    right: u32,
    height: u8,
    /// The node in this subtree with the greatest end.
    reach: u32,
}

/// Ranges and the groups that watch them.
#[derive(Debug)]
pub(super) struct Intervals {
    nodes: Slab<Node>,
    root: u32,
}

impl Default for Intervals {
    fn default() -> Self {
        Self { nodes: Slab::new(), root: NONE }
    }
}

fn compare_ends(a: &End, b: &End) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Greater,
        (_, None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    }
}

impl Intervals {
    /// The groups of exactly this range.
    pub(super) fn get(&self, start: &[u8], end: &End) -> &[u32] {
        let mut at = self.root;
        while at != NONE {
            let node = self.node(at);
            at = match self.compare(start, end, at) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return &node.groups,
            };
        }
        &[]
    }

    /// Adds a group to a range.
    pub(super) fn insert(&mut self, start: &Arc<[u8]>, end: &End, group: u32) {
        self.root = self.insert_at(self.root, start, end, group);
    }

    /// Removes a group from a range, and the range with its last group.
    pub(super) fn remove(&mut self, start: &[u8], end: &End, group: u32) {
        self.root = self.remove_at(self.root, start, end, group);
    }

    /// Appends to `found` the groups of all ranges that contain `key`.
    pub(super) fn containing(&self, key: &[u8], found: &mut Vec<u32>) {
        self.containing_at(self.root, key, found);
    }

    fn containing_at(&self, at: u32, key: &[u8], found: &mut Vec<u32>) {
        if at == NONE || !self.ends_behind(self.node(at).reach, key) {
            return;
        }
        let node = self.node(at);
        self.containing_at(node.left, key, found);
        if *node.start <= *key {
            if self.ends_behind(at, key) {
                found.extend_from_slice(&node.groups);
            }
            self.containing_at(node.right, key, found);
        }
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    fn ends_behind(&self, at: u32, key: &[u8]) -> bool {
        self.node(at).end.as_ref().is_none_or(|end| *key < **end)
    }

    fn compare(&self, start: &[u8], end: &End, at: u32) -> Ordering {
        let node = self.node(at);
        start.cmp(&node.start).then_with(|| compare_ends(end, &node.end))
    }

    fn insert_at(&mut self, at: u32, start: &Arc<[u8]>, end: &End, group: u32) -> u32 {
        if at == NONE {
            let reach = self.nodes.vacant_key() as u32;
            let (start, end, groups) = (start.clone(), end.clone(), vec![group]);
            return self.nodes.insert(Node { start, end, groups, left: NONE, right: NONE, height: 1, reach }) as u32;
        }
        let Node { left, right, .. } = *self.node(at);
        match self.compare(start, end, at) {
            Ordering::Less => self.node_mut(at).left = self.insert_at(left, start, end, group),
            Ordering::Greater => self.node_mut(at).right = self.insert_at(right, start, end, group),
            Ordering::Equal => {
                self.node_mut(at).groups.push(group);
                return at;
            }
        }
        self.balance(at)
    }

    fn remove_at(&mut self, at: u32, start: &[u8], end: &End, group: u32) -> u32 {
        if at == NONE {
            return NONE;
        }
        let Node { left, right, .. } = *self.node(at);
        match self.compare(start, end, at) {
            Ordering::Less => self.node_mut(at).left = self.remove_at(left, start, end, group),
            Ordering::Greater => self.node_mut(at).right = self.remove_at(right, start, end, group),
            Ordering::Equal => {
                self.node_mut(at).groups.retain(|other| *other != group);
                if !self.node(at).groups.is_empty() {
                    return at;
                }
                self.nodes.remove(at as usize);
                return self.join(left, right);
            }
        }
        self.balance(at)
    }

    /// Joins two trees whose heights differ by at most one; all of `left` is before all of `right`.
    fn join(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE || right == NONE {
            return if left == NONE { right } else { left };
        }
        let (first, rest) = self.take_first(right);
        let node = self.node_mut(first);
        (node.left, node.right) = (left, rest);
        self.balance(first)
    }

    /// Removes the first node of a tree; returns that node and the rest of the tree.
    fn take_first(&mut self, at: u32) -> (u32, u32) {
        let Node { left, right, .. } = *self.node(at);
        if left == NONE {
            return (at, right);
        }
        let (first, rest) = self.take_first(left);
        self.node_mut(at).left = rest;
        (first, self.balance(at))
    }

    fn height(&self, at: u32) -> i32 {
        if at == NONE { 0 } else { i32::from(self.node(at).height) }
    }

    fn slope(&self, at: u32) -> i32 {
        let Node { left, right, .. } = *self.node(at);
        self.height(left) - self.height(right)
    }

    /// Restores the balance, height and reach of a node whose subtrees are balanced; returns the new root of the
    /// subtree.
    fn balance(&mut self, at: u32) -> u32 {
        let Node { left, right, .. } = *self.node(at);
        match self.slope(at) {
            2.. => {
                if self.slope(left) < 0 {
                    self.node_mut(at).left = self.rotate(left, false);
                }
                self.rotate(at, true)
            }
            ..=-2 => {
                if self.slope(right) > 0 {
                    self.node_mut(at).right = self.rotate(right, true);
                }
                self.rotate(at, false)
            }
            _ => {
                self.refresh(at);
                at
            }
        }
    }

    /// Lifts the left (`from_left`) or right child over its parent; returns the child.
    fn rotate(&mut self, at: u32, from_left: bool) -> u32 {
        let child = if from_left { self.node(at).left } else { self.node(at).right };
        if from_left {
            self.node_mut(at).left = self.node(child).right;
            self.node_mut(child).right = at;
        } else {
            self.node_mut(at).right = self.node(child).left;
            self.node_mut(child).left = at;
        }
        self.refresh(at);
        self.refresh(child);
        child
    }

    fn refresh(&mut self, at: u32) {
        let Node { left, right, .. } = *self.node(at);
        let height = 1 + self.height(left).max(self.height(right));
        let mut reach = at;
        for child in [left, right] {
            if child != NONE {
                let candidate = self.node(child).reach;
                if compare_ends(&self.node(candidate).end, &self.node(reach).end).is_gt() {
                    reach = candidate;
                }
            }
        }
        let node = self.node_mut(at);
        (node.height, node.reach) = (height as u8, reach);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(tree: &Intervals, at: u32) {
        if at == NONE {
            return;
        }
        let Node { left, right, .. } = *tree.node(at);
        assert!(tree.slope(at).abs() <= 1, "out of balance");
        assert_eq!(tree.height(at), 1 + tree.height(left).max(tree.height(right)));
        check(tree, left);
        check(tree, right);
    }

    fn end() -> impl Strategy<Value = End> {
        prop_oneof![Just(None), prop::collection::vec(0u8..4, 1..3).prop_map(|end| Some(end.into()))]
    }

    proptest! {
        #[test]
        fn finds_what_a_plain_list_finds(
            steps in prop::collection::vec((any::<bool>(), prop::collection::vec(0u8..4, 0..3), end()), 1..120),
            keys in prop::collection::vec(prop::collection::vec(0u8..4, 0..4), 20),
        ) {
            let mut tree = Intervals::default();
            let mut list: Vec<(Vec<u8>, End, u32)> = Vec::new();
            for (group, (add, start, end)) in steps.into_iter().enumerate() {
                let found = list.iter().position(|(s, e, _)| *s == start && *e == end);
                match found {
                    Some(found) if !add => {
                        let (start, end, group) = list.remove(found);
                        tree.remove(&start, &end, group);
                    }
                    _ => {
                        tree.insert(&start.as_slice().into(), &end, group as u32);
                        list.push((start, end, group as u32));
                    }
                }
                check(&tree, tree.root);
            }
            for key in keys {
                let mut found = Vec::new();
                tree.containing(&key, &mut found);
                found.sort_unstable();
                let mut expected: Vec<u32> = list
                    .iter()
                    .filter(|(start, end, _)| *start <= key && end.as_ref().is_none_or(|end| *key < **end))
                    .map(|(_, _, group)| *group)
                    .collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
            for (start, end, group) in list {
                tree.remove(&start, &end, group);
            }
            prop_assert!(tree.nodes.is_empty());
        }
    }

    #[test]
    fn sorted_insertion_does_not_make_a_list() {
        let mut tree = Intervals::default();
        for i in 0..10_000u32 {
            tree.insert(&i.to_be_bytes().as_slice().into(), &None, i);
        }
        assert!(tree.height(tree.root) <= 16, "height {}", tree.height(tree.root));
        check(&tree, tree.root);
    }
}
