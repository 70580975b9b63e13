//! Results in the form that was asked for.

use std::path::{Path, PathBuf};

use comfy_table::{Cell, CellAlignment, Table};

/// The lines around and between the cells, in the order of comfy_table's presets.
const LINES: &str = "││──├─┼┤│    ┬┴┌┐└┘";

/// A table of one row, as etcdutl draws it.
pub fn table(titles: &[&str], row: &[String]) -> String {
    // Of an odd number of spaces, etcdutl has the greater half behind the title.
    let titles = titles.iter().zip(row).map(|(title, cell)| {
        let before = cell.chars().count().saturating_sub(title.len()) / 2;
        Cell::new(format!("{}{title}", " ".repeat(before))).set_alignment(CellAlignment::Left)
    });
    let mut table = Table::new();
    table.load_preset(LINES).set_header(titles).add_row(row.to_vec());
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// The name of a file while it is written.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A size as etcdutl writes it: powers of 1,000, two digits below ten.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value >= 1_000.0 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1_000.0, next);
    }
    let rounded = (value * 10.0 + 0.5).floor() / 10.0;
    if bytes >= 10 && rounded < 10.0 { format!("{rounded:.1} {unit}") } else { format!("{rounded:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_that_of_etcdutl() {
        let row = ["8c0a88e", "225", "18", "897 kB", "3.7.0"].map(String::from);
        let expected = "\
┌─────────┬──────────┬────────────┬────────────┬─────────┐
│  HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├─────────┼──────────┼────────────┼────────────┼─────────┤
│ 8c0a88e │      225 │         18 │     897 kB │   3.7.0 │
└─────────┴──────────┴────────────┴────────────┴─────────┘";
        assert_eq!(table(&["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"], &row), expected);
    }

    #[test]
    fn sizes_are_those_of_etcdutl() {
        let sizes = [0, 7, 20_480, 1_500, 999_999, 5_400_000_000].map(size);
        assert_eq!(sizes, ["0 B", "7 B", "20 kB", "1.5 kB", "1000 kB", "5.4 GB"]);
    }
}
