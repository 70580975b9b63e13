//! The pages of `docs/decisions`: each has the same sections, so that a reader finds the price of every decision.

use std::path::Path;

use super::Finding;
use super::files::named;

const PAGES: &str = "docs/decisions";
const SECTIONS: [&str; 4] = ["Decision", "Reasons", "Price", "What would change it"];

/// Checks the sections of each page.
///
/// # Errors
/// If a page cannot be read.
pub fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for path in named(root, "md")?.into_iter().filter(|path| path.starts_with(PAGES)) {
        let text = std::fs::read_to_string(root.join(&path)).map_err(|e| format!("{}: {e}", path.display()))?;
        let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        if sections != SECTIONS {
            let what = format!("the sections are {sections:?}: a decision has {SECTIONS:?}");
            findings.push(Finding::new(path.display(), what));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_without_its_price_is_found() {
        let root = std::env::temp_dir().join(format!("metastore-decisions-{}", std::process::id()));
        let page = |name: &str, text: &str| std::fs::write(root.join(name).with_extension("md"), text).unwrap();
        std::fs::create_dir_all(root.join(PAGES)).unwrap();
        let whole = "# One\n## Decision\n## Reasons\n### More\n## Price\n## What would change it\n";
        page("docs/decisions/whole", whole);
        page("docs/decisions/cheap", &whole.replace("## Price\n", ""));
        page("docs/another", "# Another page\n");
        let places: Vec<String> = check(&root).unwrap().into_iter().map(|finding| finding.place).collect();
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(places, [format!("{PAGES}/cheap.md")]);
    }
}
