//! Whole numbers as `protojson` reads them: in any form of JSON, as long as their value is whole.

/// Digits that a number may have once it is written out.
const MOST_DIGITS: i64 = 20;

/// A whole number: its sign and its magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    negative: bool,
    magnitude: u64,
}

impl Number {
    pub fn signed(self) -> Option<i64> {
        let magnitude = i128::from(self.magnitude);
        i64::try_from(if self.negative { -magnitude } else { magnitude }).ok()
    }

    pub fn unsigned(self) -> Option<u64> {
        (!self.negative).then_some(self.magnitude)
    }
}

/// Reads a number at the start of `text`: `7`, `-7`, `7.0`, `70e-1`. As in Go, other text may follow after a mark such
/// as a comma. `None` if there is no number, if it is not whole, or if it exceeds 64 bits.
pub fn number(text: &[u8]) -> Option<Number> {
    let (negative, rest) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, rest) = digits(rest);
    if whole.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
        return None;
    }
    let (fraction, rest) = match rest.strip_prefix(b".") {
        Some(rest) => digits(rest),
        None => (&rest[..0], rest),
    };
    if fraction.is_empty() && text.get(usize::from(negative) + whole.len()) == Some(&b'.') {
        return None;
    }
    let (exponent, rest) = match rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        Some(rest) => exponent(rest)?,
        None => (0, rest),
    };
    if rest.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"-+._".contains(byte)) {
        return None;
    }
    let all: Vec<u8> = [whole, fraction].concat();
    let significant = all.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    let zeros = all.len() as i64 - significant as i64 + exponent - fraction.len() as i64;
    let leading = all.iter().take_while(|digit| **digit == b'0').count().min(significant);
    let digits = &all[leading..significant];
    if digits.is_empty() {
        return Some(Number { negative, magnitude: 0 });
    }
    if zeros < 0 || digits.len() as i64 + zeros > MOST_DIGITS {
        return None;
    }
    let mut written = digits.iter().copied().chain((0..zeros).map(|_| b'0'));
    let magnitude = written.try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
    magnitude.map(|magnitude| Number { negative, magnitude })
}

fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len()))
}

/// The exponent after its `e`, and what follows. One that is too large for any number stays too large.
fn exponent(text: &[u8]) -> Option<(i64, &[u8])> {
    let (negative, text) = match text.first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (digits, rest) = digits(text);
    if digits.is_empty() {
        return None;
    }
    let size = digits.iter().fold(0_i64, |sum, digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    let size = size.min(i64::from(i32::MAX));
    Some((if negative { -size } else { size }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_in_every_form() {
        let cases = [("0", 0), ("-0", 0), ("7", 7), ("1.0", 1), ("1e2", 100), ("10e-1", 1), ("-1.50E+1", -15)];
        for (text, value) in cases.into_iter().chain([("120.00e-1", 12), ("0.00e99", 0), ("1,x", 1)]) {
            assert_eq!(number(text.as_bytes()).and_then(Number::signed), Some(value), "{text}");
        }
        for text in ["9223372036854775807", "-9223372036854775808"] {
            assert_eq!(number(text.as_bytes()).unwrap().signed(), text.parse().ok());
        }
        assert_eq!(number(b"18446744073709551615").unwrap().unsigned(), Some(u64::MAX));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", " 1", "01", "1.", ".5", "1.5", "1e", "1e-1", "1e99", "1e9999999999", "-", "+1", "1x"] {
            let given = number(text.as_bytes());
            assert!(given.is_none(), "{text}: {given:?}");
        }
        assert_eq!(number(b"9223372036854775808").unwrap().signed(), None);
        assert_eq!(number(b"18446744073709551616"), None);
        assert_eq!(number(b"-1").unwrap().unsigned(), None);
    }
}
