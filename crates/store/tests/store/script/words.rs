//! The words of a command: bytes, numbers, options.

/// The error says what is wrong with the command.
pub type Result<T> = std::result::Result<T, String>;

/// The bytes that a word stands for.
pub fn bytes(word: &str) -> Result<Vec<u8>> {
    if word == r#""""# {
        return Ok(Vec::new());
    }
    if let Some((what, count)) = word.split_once('*')
        && let Ok(count) = count.parse()
    {
        return Ok(bytes(what)?.repeat(count));
    }
    let mut out = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (&escape, after) = rest.split_first().ok_or("a backslash at the end")?;
        rest = after;
        out.push(match escape {
            b'0' => 0,
            b's' => b' ',
            b'\\' => b'\\',
            b'x' => {
                let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                rest = rest.get(2..).unwrap_or_default();
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or("no two hexadecimal digits")?
            }
            other => return Err(format!("unknown escape {:?}", other as char)),
        });
    }
    Ok(out)
}

/// A whole number.
pub fn number<T: std::str::FromStr>(word: &str) -> Result<T> {
    word.parse().map_err(|_| format!("{word:?} is no number here"))
}

/// The word at a position; an error if it is missing.
pub fn word<'a>(words: &[&'a str], at: usize) -> Result<&'a str> {
    words.get(at).copied().ok_or_else(|| format!("word {} is missing", at + 1))
}

/// The options at the end of a command: `name=value` or `name`.
pub struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    /// Reads the options; each must be one of `known`.
    pub fn new(words: &[&'a str], known: &[&str]) -> Result<Self> {
        let options: Vec<_> = words.iter().map(|word| word.split_once('=').unwrap_or((word, ""))).collect();
        match options.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => Err(format!("unknown option {name:?}; there are {known:?}")),
            None => Ok(Self(options)),
        }
    }

    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The number of an option; 0 if the option is missing.
    pub fn number<T: std::str::FromStr + Default>(&self, name: &str) -> Result<T> {
        self.get(name).map_or(Ok(T::default()), number)
    }

    /// The end of a range: `end=`; with `prefix` the end of the key's prefix range; with `from` no end.
    pub fn range_end(&self, key: &[u8]) -> Result<Vec<u8>> {
        if self.has("prefix") {
            let mut end = key.to_vec();
            *end.last_mut().ok_or("a prefix of nothing")? += 1;
            return Ok(end);
        }
        if self.has("from") {
            return Ok(vec![0]);
        }
        self.get("end").map_or(Ok(Vec::new()), bytes)
    }
}
