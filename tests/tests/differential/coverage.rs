//! The coverage of a run: a table of cells, each of which must be hit often enough.

use std::collections::BTreeMap;

/// A cell with fewer hits counts as not tested.
const ENOUGH: u64 = 20;

/// Hits by (group, cell). Every cell that must be reached is in the map from the start, with 0.
#[derive(Clone, Debug)]
pub struct Coverage(BTreeMap<(&'static str, String), u64>);

impl Coverage {
    pub fn new(cells: impl IntoIterator<Item = (&'static str, String)>) -> Coverage {
        Coverage(cells.into_iter().map(|cell| (cell, 0)).collect())
    }

    /// Counts one hit. Panics if the cell is not in the table: a cell that is created by its first hit could never
    /// be reported as missing.
    pub fn hit(&mut self, group: &'static str, cell: impl Into<String>) {
        let cell = cell.into();
        match self.0.get_mut(&(group, cell.clone())) {
            Some(hits) => *hits += 1,
            None => panic!("the coverage table has no cell {group}: {cell}"),
        }
    }

    pub fn add(&mut self, other: &Coverage) {
        for (cell, hits) in &other.0 {
            *self.0.entry(cell.clone()).or_default() += hits;
        }
    }

    /// The cells that were not hit often enough.
    pub fn missing(&self) -> Vec<String> {
        let low = self.0.iter().filter(|(_, hits)| **hits < ENOUGH);
        low.map(|((group, cell), hits)| format!("{group}: {cell} ({hits} of {ENOUGH})")).collect()
    }

    /// One line per group: `group: cell hits, cell hits, ...`.
    pub fn table(&self) -> String {
        let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((group, cell), hits) in &self.0 {
            groups.entry(group).or_default().push(format!("{cell} {hits}"));
        }
        groups.iter().map(|(group, cells)| format!("{group}: {}\n", cells.join(", "))).collect()
    }
}

#[test]
fn a_cell_that_is_not_hit_is_missing() {
    let mut coverage = Coverage::new([("range", "limit".to_string()), ("range", "sorted".to_string())]);
    (0..ENOUGH).for_each(|_| coverage.hit("range", "limit"));
    assert_eq!(coverage.missing(), ["range: sorted (0 of 20)"]);
}
