//! The end of a JSON value, in bytes that arrive piece by piece, and what is wrong if it is none.
//!
//! The errors are those of Go's `encoding/json`, through which a request to etcd's gateway goes first. A value that has
//! passed here is well-formed, so that [`super::read`] need not look at its grammar again.

/// Deeper nesting is refused, as in Go.
const MOST_NESTED: usize = 10_000;

/// The search for the end of one value.
#[derive(Debug)]
pub struct Scanner {
    /// Bytes that were looked at.
    at: usize,
    state: State,
    /// The containers around the present place, from the outside.
    nesting: Vec<Container>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    /// After `[`: a value, or the end.
    FirstValue,
    Key,
    /// After `{`: a key, or the end.
    FirstKey,
    AfterKey,
    AfterValue,
    Text {
        is_key: bool,
    },
    Escape {
        is_key: bool,
    },
    Hex {
        is_key: bool,
        missing: u8,
    },
    Literal {
        name: &'static str,
        read: usize,
    },
    Minus,
    /// A whole number that began with 0.
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner { at: 0, state: State::Value, nesting: Vec::new() }
    }
}

impl Scanner {
    /// Looks at the bytes that it has not seen. `bytes` begins with the first byte of the value. Returns the length of
    /// the value once it is whole.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        while let Some(&byte) = bytes.get(self.at) {
            if let State::Text { .. } = self.state {
                let ends = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < b' ';
                let Some(plain) = bytes[self.at..].iter().position(ends) else {
                    self.at = bytes.len();
                    return Ok(None);
                };
                self.at += plain;
                self.step(bytes[self.at])?;
            } else if self.number_ends(byte) {
                // The byte belongs to what follows.
                self.state = State::AfterValue;
                if self.nesting.is_empty() {
                    return Ok(Some(self.at));
                }
                continue;
            } else {
                self.step(byte)?;
            }
            self.at += 1;
            if self.state == State::AfterValue && self.nesting.is_empty() {
                return Ok(Some(self.at));
            }
        }
        Ok(None)
    }

    /// Whether it has not looked at a byte yet.
    pub fn is_new(&self) -> bool {
        self.at == 0
    }

    /// At the end of all bytes: whether the value is whole. Only a number is, since its end shows in what follows.
    pub fn is_whole(&self) -> bool {
        self.nesting.is_empty()
            && matches!(self.state, State::Zero | State::Whole | State::Fraction | State::ExponentDigits)
    }

    fn number_ends(&self, byte: u8) -> bool {
        match self.state {
            State::Zero => !matches!(byte, b'.' | b'e' | b'E'),
            State::Whole => !matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E'),
            State::Fraction => !matches!(byte, b'0'..=b'9' | b'e' | b'E'),
            State::ExponentDigits => !byte.is_ascii_digit(),
            _ => false,
        }
    }

    fn step(&mut self, byte: u8) -> Result<(), String> {
        use State::*;
        let is_space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        self.state = match (self.state, byte) {
            (Value | FirstValue | Key | FirstKey | AfterKey | AfterValue, _) if is_space => self.state,
            (FirstValue, b']') | (FirstKey, b'}') => self.close(),
            (Value | FirstValue, _) => self.begin(byte)?,
            (Key | FirstKey, b'"') => Text { is_key: true },
            (Key | FirstKey, _) => return Err(invalid(byte, "looking for beginning of object key string")),
            (AfterKey, b':') => Value,
            (AfterKey, _) => return Err(invalid(byte, "after object key")),
            (AfterValue, _) => match (self.nesting.last(), byte) {
                (Some(Container::Object), b',') => Key,
                (Some(Container::Array), b',') => Value,
                (Some(Container::Object), b'}') | (Some(Container::Array), b']') => self.close(),
                (Some(Container::Array), _) => return Err(invalid(byte, "after array element")),
                _ => return Err(invalid(byte, "after object key:value pair")),
            },
            (Text { is_key }, b'"') => {
                if is_key {
                    AfterKey
                } else {
                    AfterValue
                }
            }
            (Text { is_key }, b'\\') => Escape { is_key },
            (Text { .. }, 0..b' ') => return Err(invalid(byte, "in string literal")),
            (Text { .. }, _) => self.state,
            (Escape { is_key }, b'u') => Hex { is_key, missing: 4 },
            (Escape { is_key }, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Text { is_key },
            (Escape { .. }, _) => return Err(invalid(byte, "in string escape code")),
            (Hex { is_key, missing }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if missing == 1 {
                    Text { is_key }
                } else {
                    Hex { is_key, missing: missing - 1 }
                }
            }
            (Hex { .. }, _) => return Err(invalid(byte, "in \\u hexadecimal character escape")),
            (Literal { name, read }, _) => literal(name, read, byte)?,
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') => Whole,
            (Minus, _) => return Err(invalid(byte, "in numeric literal")),
            (Whole, b'0'..=b'9') => Whole,
            (Zero | Whole, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Point, _) => return Err(invalid(byte, "after decimal point in numeric literal")),
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Exponent | ExponentSign, _) => return Err(invalid(byte, "in exponent of numeric literal")),
            // Every other byte after a digit ends the number, so only an exponent is left.
            (Zero | Whole | Fraction | ExponentDigits, _) => Exponent,
        };
        Ok(())
    }

    fn begin(&mut self, byte: u8) -> Result<State, String> {
        Ok(match byte {
            b'{' => self.open(Container::Object, byte)?,
            b'[' => self.open(Container::Array, byte)?,
            b'"' => State::Text { is_key: false },
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Whole,
            b't' => State::Literal { name: "true", read: 1 },
            b'f' => State::Literal { name: "false", read: 1 },
            b'n' => State::Literal { name: "null", read: 1 },
            _ => return Err(invalid(byte, "looking for beginning of value")),
        })
    }

    fn open(&mut self, container: Container, byte: u8) -> Result<State, String> {
        if self.nesting.len() == MOST_NESTED {
            return Err(invalid(byte, "exceeded max depth"));
        }
        self.nesting.push(container);
        Ok(if container == Container::Object { State::FirstKey } else { State::FirstValue })
    }

    fn close(&mut self) -> State {
        self.nesting.pop();
        State::AfterValue
    }
}

fn literal(name: &'static str, read: usize, byte: u8) -> Result<State, String> {
    let expected = name.as_bytes()[read];
    if byte != expected {
        let what = format!("in literal {name} (expecting {})", quoted(expected));
        return Err(invalid(byte, &what));
    }
    Ok(if read + 1 == name.len() { State::AfterValue } else { State::Literal { name, read: read + 1 } })
}

fn invalid(byte: u8, what: &str) -> String {
    format!("invalid character {} {what}", quoted(byte))
}

/// A byte as Go quotes it, which takes it for a character of Latin-1.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        7 => "'\\a'".to_owned(),
        8 => "'\\b'".to_owned(),
        b'\t' => "'\\t'".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        11 => "'\\v'".to_owned(),
        12 => "'\\f'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        0..b' ' | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of the value, or the error, when the bytes arrive in pieces of so many.
    fn scan(text: &str, size: usize) -> Result<Option<usize>, String> {
        let (mut scanner, bytes) = (Scanner::default(), text.as_bytes());
        for end in (size..bytes.len()).step_by(size).chain([bytes.len()]) {
            if let Some(length) = scanner.scan(&bytes[..end])? {
                return Ok(Some(length));
            }
        }
        Ok(scanner.is_whole().then_some(bytes.len()))
    }

    #[test]
    fn the_end_of_a_value_is_found_however_its_bytes_arrive() {
        let whole = [
            r#"{"a":[1,-2.5e+3,{"b":"\"}\u00e9"},[],{},true,false,null]}"#,
            "[0,0.1,1E5]",
            "\"a]\"",
            "null",
            "-0.0e-0",
        ];
        for text in whole {
            for size in 1..=text.len() {
                assert_eq!(scan(text, size), Ok(Some(text.len())), "{text} in pieces of {size}");
                assert_eq!(scan(&format!("{text}{{"), size), Ok(Some(text.len())), "{text} in pieces of {size}");
            }
        }
        for cut in ["{", "{\"a", "{\"a\"", "{\"a\":1", "[1", "tru", "-", "1.", "1e", "\"a"] {
            assert_eq!(scan(cut, 1), Ok(None), "{cut}");
        }
    }

    #[test]
    fn errors_are_those_of_go() {
        for (text, error) in [
            ("not", "invalid character 'o' in literal null (expecting 'u')"),
            ("{a", "invalid character 'a' looking for beginning of object key string"),
            (r#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            (r#"{"a" 1"#, "invalid character '1' after object key"),
            (r#"{"a":01"#, "invalid character '1' after object key:value pair"),
            ("[1 2", "invalid character '2' after array element"),
            ("-}", "invalid character '}' in numeric literal"),
            ("1.}", "invalid character '}' after decimal point in numeric literal"),
            ("1e+}", "invalid character '}' in exponent of numeric literal"),
            (r#""\x"#, "invalid character 'x' in string escape code"),
            (r#""\u12g"#, "invalid character 'g' in \\u hexadecimal character escape"),
            ("\"\n", "invalid character '\\n' in string literal"),
            ("'", "invalid character '\\'' looking for beginning of value"),
            ("é", "invalid character 'Ã' looking for beginning of value"),
        ] {
            assert_eq!(scan(text, 1), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn nesting_has_a_bound() {
        assert_eq!(scan(&"[".repeat(MOST_NESTED), 4096), Ok(None));
        let deeper = scan(&"[".repeat(MOST_NESTED + 1), 4096);
        assert_eq!(deeper, Err("invalid character '[' exceeded max depth".to_owned()));
    }
}
