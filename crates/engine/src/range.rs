//! Ranges of keys.

/// Keys from `start` up to, not including, `end`; without `end`, every key from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'a> {
    pub start: &'a [u8],
    pub end: Option<&'a [u8]>,
}

impl<'a> KeyRange<'a> {
    /// Reads `range_end` as etcd's API means it when it is not empty: one zero byte stands for "no end".
    pub fn from_request(key: &'a [u8], range_end: &'a [u8]) -> Self {
        Self { start: key, end: (range_end != [0]).then_some(range_end) }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && self.end.is_none_or(|end| key < end)
    }

    /// Whether no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        self.end.is_some_and(|end| end <= self.start)
    }
}
