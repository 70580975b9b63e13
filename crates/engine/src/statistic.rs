//! What operators can see of a medium.

/// One figure of a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistic {
    /// Name in the style of Prometheus: lower case, the unit last; `_total` if it only grows.
    pub name: &'static str,
    pub help: &'static str,
    pub value: u64,
}

impl Statistic {
    /// Whether it only grows while the process lives.
    pub fn is_counter(&self) -> bool {
        self.name.ends_with("_total")
    }
}
