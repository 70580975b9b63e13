//! The Prometheus text format, for numbers that are read at the moment of the scrape.

use std::fmt::{Display, Write};

/// A page under construction.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help, "gauge");
        self.sample(name, &[], value);
    }

    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help, "counter");
        self.sample(name, &[], value);
    }

    /// A gauge that is always 1 and tells something by its label.
    pub fn label(&mut self, name: &str, help: &str, label: &str, value: &str) {
        self.family(name, help, "gauge");
        self.sample(name, &[(label, value)], 1);
    }

    /// Opens a family whose samples follow.
    pub fn family(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (position, (label, value)) in labels.iter().enumerate() {
            let opening = if position == 0 { '{' } else { ',' };
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{opening}{label}=\"{escaped}\"");
        }
        let closing = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{closing} {value}");
    }

    /// Adds text that is in the format already.
    pub fn raw(&mut self, text: &str) {
        self.0.push_str(text);
    }

    pub fn finish(self) -> String {
        self.0
    }
}
