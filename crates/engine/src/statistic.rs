//! Figures of a medium for operators.

/// One figure of a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistic {
    /// The name in the style of Prometheus: lower case, the unit last, `_total` if the value only grows.
    pub name: &'static str,
    pub help: &'static str,
    pub value: u64,
}

impl Statistic {
    /// Whether the value only grows while the process lives.
    pub fn is_counter(&self) -> bool {
        self.name.ends_with("_total")
    }
}
