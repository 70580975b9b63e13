//! The encoding of certificates: values behind a tag and a length (X.690).

/// Reads one value after the other. Lengths are compared with the bytes that are there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Der<'a>(pub &'a [u8]);

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const OBJECT: u8 = 0x06;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const TIME: u8 = 0x18;
pub(super) const BMP_STRING: u8 = 0x1e;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

impl<'a> Der<'a> {
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next value.
    pub fn tag(self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next value, with its tag.
    pub fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// The next value, if it has this tag.
    pub fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.tag()? != tag {
            return None;
        }
        self.any().map(|(_, value)| value)
    }

    /// The values in the next one, which has this tag.
    pub fn inside(&mut self, tag: u8) -> Option<Der<'a>> {
        self.optional(tag).map(Der)
    }
}

/// A whole number without its leading zeros.
pub(super) fn magnitude(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    &integer[zeros..]
}

/// Seconds since 1970.
pub(super) fn seconds(tag: u8, text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year = number(year);
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        _ => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year), rest)
        }
    };
    if rest.len() != 10 || year < 1970 {
        return None;
    }
    let part = |at: usize| number(&rest[at..at + 2]);
    let (month, day) = (part(0), part(2));
    // Years begin in March, so that a leap day is the last day of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + part(4) * 3600 + part(6) * 60 + part(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_compared_with_what_is_there() {
        let mut der = Der(&[0x30, 0x03, 0x02, 0x01, 0x05, 0x04, 0x00]);
        let mut sequence = der.inside(SEQUENCE).unwrap();
        assert_eq!(sequence.optional(INTEGER), Some(&[5][..]));
        assert!(sequence.is_empty() && sequence.any().is_none());
        assert_eq!(der.optional(INTEGER), None);
        assert_eq!(der.any(), Some((OCTETS, &[][..])));
        for cut in
            [&[0x30][..], &[0x30, 0x01], &[0x30, 0x82, 0x01], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x80]]
        {
            assert_eq!(Der(cut).any(), None);
        }
        let long = [&[0x04, 0x81, 0x80][..], &[7; 0x80]].concat();
        assert_eq!(Der(&long).any(), Some((OCTETS, &[7; 0x80][..])));
    }

    #[test]
    fn times() {
        assert_eq!(seconds(TIME, b"19700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, b"000229235959Z"), Some(951_868_799));
        assert_eq!(seconds(TIME, b"20500101000000Z"), Some(2_524_608_000));
        assert_eq!(seconds(TIME, b"99991231235959Z"), Some(253_402_300_799));
        for no_time in [&b"000229235959"[..], b"0002292359Z", b"00022923595xZ", b"Z", b""] {
            assert_eq!(seconds(UTC_TIME, no_time), None);
        }
        assert_eq!(seconds(TIME, b"19690101000000Z"), None);
    }
}
