//! Three views of a Rust file: its text, its code without comments and strings, and its code without tests.
//!
//! This is no parser. It recognises comments, strings and character literals, matching brackets, and the items that an
//! attribute `#[cfg(test)]` covers. That is enough for the rules that are checked here, and needs no dependency.

use std::ops::Range;

/// The text of a file, and the same text with everything blanked that is not code; byte positions are the same in both.
pub struct Source {
    pub text: String,
    pub code: String,
}

impl Source {
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), code: blank(text) }
    }

    /// The ranges of the code that is compiled for tests only.
    pub fn test_ranges(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let mut from = 0;
        while let Some(at) = self.code[from..].find("#[cfg(").map(|at| from + at) {
            let end = self.code[at..].find(")]").map_or(self.code.len(), |end| at + end + 2);
            from = end;
            let condition = &self.code[at..end];
            if words(condition).any(|(_, word)| word == "test") && !condition.contains("not(test") {
                from = self.item_end(end);
                ranges.push(at..from);
            }
        }
        ranges
    }

    /// The end of the item that begins at `from`: its `;`, or the end of its block.
    fn item_end(&self, from: usize) -> usize {
        match self.block(from) {
            Some(block) => block.end,
            None => self.code[from..].find(';').map_or(self.code.len(), |at| from + at + 1),
        }
    }

    /// The block `{ ... }` of the item that begins at `from`; `None` if a `;` ends the item first.
    pub fn block(&self, from: usize) -> Option<Range<usize>> {
        let mut depth = 0;
        let mut begin = None;
        for (at, byte) in self.code.bytes().enumerate().skip(from) {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth -= 1,
                b';' if depth == 0 && begin.is_none() => return None,
                b'{' => {
                    begin = begin.or(if depth == 0 { Some(at) } else { None });
                    depth += 1;
                }
                b'}' => {
                    depth -= 1;
                    if let (0, Some(begin)) = (depth, begin) {
                        return Some(begin..at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// The line of a byte position, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// The identifiers and keywords in `code`, with their byte positions.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.split(move |c: char| !part(c)).filter(|word| !word.is_empty()).map(move |word| {
        let at = word.as_ptr() as usize - code.as_ptr() as usize;
        (at, word)
    })
}

/// Replaces comments and the content of strings and character literals by spaces; line ends stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + hidden_length(&text[at..], at == 0 || !is_word(bytes[at - 1]));
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = if end > at { end } else { at + char_length(bytes[at]) };
    }
    String::from_utf8_lossy(&code).into_owned()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn char_length(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

/// The length of the comment, string or character literal that `rest` begins with, in bytes; 0 if it is code.
fn hidden_length(rest: &str, word_begins: bool) -> usize {
    let bytes = rest.as_bytes();
    match bytes[0] {
        b'/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
        b'/' if rest.starts_with("/*") => block_comment_length(bytes),
        b'"' => string_length(bytes, 0),
        b'r' | b'b' | b'c' if word_begins => prefixed_length(rest),
        b'\'' => char_literal_length(rest),
        _ => 0,
    }
}

fn block_comment_length(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// The end of a string that begins with the quote at `quote`.
fn string_length(bytes: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The length of `b"..."`, `c"..."`, `r"..."`, `r#"..."#`, `br#"..."#` and similar literals; 0 for an ordinary word.
fn prefixed_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let letters = bytes.iter().take_while(|byte| matches!(byte, b'r' | b'b' | b'c')).count();
    let hashes = bytes[letters..].iter().take_while(|byte| **byte == b'#').count();
    let raw = bytes[..letters].contains(&b'r');
    if letters > 2 || bytes.get(letters + hashes) != Some(&b'"') || (hashes > 0 && !raw) {
        return 0;
    }
    if !raw {
        return string_length(bytes, letters);
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let content = letters + hashes + 1;
    rest[content..].find(&close).map_or(rest.len(), |at| content + at + close.len())
}

/// The length of a character literal; 0 if the quote begins a lifetime.
fn char_literal_length(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        // The escaped character may be a quote itself.
        (Some((_, '\\')), Some((at, _))) => rest[at + 1..].find('\'').map_or(0, |end| at + 1 + end + 1),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        let code = |text| Source::new(text).code.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(code("a /* x /* y */ z */ b // c\n d"), "a b d");
        assert_eq!(code(r#"f("a \" {", b"}", 'x', '"', '\'', '{') + bar"#), "f( , , , , , ) + bar");
        assert_eq!(code("r#\"quote \" here\"# + br\"x\" + r + br"), "+ + r + br");
        assert_eq!(code("fn f<'a>(x: &'a str) -> Cow<'static, str>"), "fn f<'a>(x: &'a str) -> Cow<'static, str>");
        assert_eq!(code("/* never closed"), "");
        let text = "ä // ö\nü";
        assert_eq!(Source::new(text).code.len(), text.len());
    }

    #[test]
    fn tests_are_found() {
        let text =
            "fn a() {}\n#[cfg(test)]\nmod tests;\nfn b() {}\n#[cfg(any(test, feature = \"x\"))]\nmod c { fn d() {} }\n";
        let source = Source::new(text);
        let found: Vec<&str> = source.test_ranges().into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, ["#[cfg(test)]\nmod tests;", "#[cfg(any(test, feature = \"x\"))]\nmod c { fn d() {} }"]);
        assert!(Source::new("#[cfg(not(test))] fn a() {}").test_ranges().is_empty());
        assert!(Source::new("#[cfg(unix)] fn test() {}").test_ranges().is_empty());
    }

    #[test]
    fn blocks_end_where_their_brackets_match() {
        let source = Source::new("fn f(x: [u8; 2]) -> u8 { if x { '}' } else { 2 } } fn g();");
        let block = source.block(0).unwrap();
        assert!(source.text[block].ends_with("else { 2 } }"));
        assert_eq!(source.block(source.text.find("fn g").unwrap()), None);
        assert_eq!(source.line(source.text.len()), 1);
    }
}
