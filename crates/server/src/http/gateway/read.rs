//! From JSON to a message, as Go's `protojson` reads it for etcd's gateway: unknown members and unknown names of
//! enumerations are dropped.
//!
//! The JSON is turned straight into the encoded message, which the router takes: there is no tree in between. It has
//! passed the scanner ([`super::scan`]) before, so its grammar holds.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use metastore_proto::wire::put_varint;

use super::number::{Number, number};
use super::schema::{Field, Kind, Schema};

/// Deeper messages are refused. The decoder of messages has a lower bound than this.
const MOST_NESTED: usize = 256;

/// The kinds of fields on the wire.
const VARINT: u64 = 0;
const LENGTH: u64 = 2;

/// Encodes the message at `place` of `schema` from a JSON value that the scanner has let pass. The error is Go's text.
pub fn message(schema: &Schema, place: usize, json: &[u8]) -> Result<Vec<u8>, String> {
    let mut reader = Reader { schema, json, at: 0, depth: 0 };
    let mut out = Vec::with_capacity(json.len());
    reader.object(place, &mut out)?;
    Ok(out)
}

struct Reader<'a> {
    schema: &'a Schema,
    json: &'a [u8],
    at: usize,
    depth: usize,
}

/// The fields and oneofs of a message that were read.
#[derive(Default)]
struct Seen {
    fields: Vec<usize>,
    oneofs: Vec<usize>,
}

impl<'a> Reader<'a> {
    /// Skips to the next token, and returns its first byte.
    fn token(&mut self) -> u8 {
        while matches!(self.json.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.json.get(self.at).copied().unwrap_or_default()
    }

    fn object(&mut self, place: usize, out: &mut Vec<u8>) -> Result<(), String> {
        if self.token() != b'{' {
            return Err(self.unexpected());
        }
        if self.depth == MOST_NESTED {
            return Err("proto: exceeded max recursion depth".to_owned());
        }
        self.depth += 1;
        self.at += 1;
        let mut seen = Seen::default();
        loop {
            match self.token() {
                b'}' => {
                    self.at += 1;
                    self.depth -= 1;
                    return Ok(());
                }
                b',' => self.at += 1,
                _ => self.member(place, &mut seen, out)?,
            }
        }
    }

    /// One member of an object: its name and its value.
    fn member(&mut self, place: usize, seen: &mut Seen, out: &mut Vec<u8>) -> Result<(), String> {
        let message = self.schema.message(place);
        let begin = self.at;
        let name = self.text()?;
        let shown = |reader: &Self| reader.shown(begin).into_owned();
        self.token();
        self.at += 1;
        let first = self.token();
        let Some((place, field)) = message.named(&name) else {
            self.skip();
            return Ok(());
        };
        if seen.fields.contains(&place) {
            return Err(self.error(begin, &format!("duplicate field {}", shown(self))));
        }
        seen.fields.push(place);
        if first == b'n' {
            self.skip();
            return Ok(());
        }
        if field.repeated {
            return self.list(field, out);
        }
        if let Some(oneof) = field.oneof {
            if seen.oneofs.contains(&oneof) {
                let (field, oneof) = (shown(self), message.oneof(oneof));
                return Err(self.error(begin, &format!("error parsing {field}, oneof {oneof} is already set")));
            }
            seen.oneofs.push(oneof);
        }
        self.value(field, out)
    }

    fn list(&mut self, field: &Field, out: &mut Vec<u8>) -> Result<(), String> {
        if self.token() != b'[' {
            return Err(self.unexpected());
        }
        self.at += 1;
        loop {
            match self.token() {
                b']' => {
                    self.at += 1;
                    return Ok(());
                }
                b',' => self.at += 1,
                _ => self.value(field, out)?,
            }
        }
    }

    fn value(&mut self, field: &Field, out: &mut Vec<u8>) -> Result<(), String> {
        let first = self.token();
        let begin = self.at;
        let whole = match field.kind {
            Kind::Message(place) => {
                put_varint(out, field.number << 3 | LENGTH);
                let start = out.len();
                self.object(place, out)?;
                insert_length(out, start);
                return Ok(());
            }
            Kind::Text if first == b'"' => {
                let text = self.text()?;
                put_bytes(field, text.as_bytes(), out);
                return Ok(());
            }
            Kind::Bytes if first == b'"' => {
                let text = self.text()?;
                return match decode(&text) {
                    Some(bytes) => {
                        put_bytes(field, &bytes, out);
                        Ok(())
                    }
                    None => Err(self.invalid(begin, field)),
                };
            }
            Kind::Enum(place) if first == b'"' => {
                let name = self.text()?;
                match self.schema.enumeration(place).number(&name) {
                    Some(number) => Some(number as i64 as u64),
                    None => return Ok(()),
                }
            }
            Kind::Bool if first == b't' || first == b'f' => {
                self.skip();
                Some(u64::from(first == b't'))
            }
            Kind::Text | Kind::Bytes | Kind::Bool | Kind::Other => None,
            kind => self.integer(first)?.and_then(|number| in_range(kind, number)),
        };
        let Some(whole) = whole else { return Err(self.invalid(begin, field)) };
        if whole != 0 || field.repeated || field.oneof.is_some() {
            put_varint(out, field.number << 3 | VARINT);
            put_varint(out, whole);
        }
        Ok(())
    }

    /// A number, or a text that holds one.
    fn integer(&mut self, first: u8) -> Result<Option<Number>, String> {
        match first {
            b'"' => {
                let text = self.text()?;
                Ok(number(text.as_bytes()).filter(|_| text.trim() == text))
            }
            b'-' | b'0'..=b'9' => {
                let begin = self.at;
                self.skip();
                Ok(number(&self.json[begin..self.at]))
            }
            _ => Ok(None),
        }
    }

    /// A text, at its opening quotation mark.
    fn text(&mut self) -> Result<Cow<'a, str>, String> {
        let begin = self.at + 1;
        let plain = self.json[begin..].iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or_default();
        self.at = begin + plain;
        let text = &self.json[begin..self.at];
        let text =
            if self.json.get(self.at) == Some(&b'\\') { Cow::Owned(self.unescape(text)?) } else { Cow::Borrowed(text) };
        self.at += 1;
        let text = match text {
            Cow::Borrowed(text) => std::str::from_utf8(text).map(Cow::Borrowed).ok(),
            Cow::Owned(text) => String::from_utf8(text).map(Cow::Owned).ok(),
        };
        text.ok_or_else(|| self.syntax(begin - 1, "invalid UTF-8 in string"))
    }

    /// The rest of a text from its first escape on, after `plain`. Ends at the closing quotation mark.
    fn unescape(&mut self, plain: &[u8]) -> Result<Vec<u8>, String> {
        let mut text = plain.to_vec();
        loop {
            let byte = self.json[self.at];
            match byte {
                b'"' => return Ok(text),
                b'\\' => self.escape(&mut text)?,
                _ => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), String> {
        let begin = self.at;
        self.at += 2;
        let byte = match self.json[begin + 1] {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut units = vec![self.unit()];
                if (0xd800..0xe000).contains(&units[0]) && self.json[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    units.push(self.unit());
                }
                let Ok(character) = String::from_utf16(&units) else {
                    return Err(self.syntax(begin, "invalid escape code of half a character in string"));
                };
                text.extend_from_slice(character.as_bytes());
                return Ok(());
            }
            other => other,
        };
        text.push(byte);
        Ok(())
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> u16 {
        let digits = &self.json[self.at..self.at + 4];
        self.at += 4;
        digits.iter().fold(0, |unit, digit| unit << 4 | char::from(*digit).to_digit(16).unwrap_or_default() as u16)
    }

    /// Skips the value that begins here, however deep it is.
    fn skip(&mut self) {
        let mut depth = 0;
        loop {
            match self.token() {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                b',' | b':' => {}
                _ => {
                    self.at = self.token_end(self.at);
                    if depth == 0 {
                        return;
                    }
                    continue;
                }
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }

    /// The end of the token that begins at `begin`.
    fn token_end(&self, begin: usize) -> usize {
        let rest = &self.json[begin..];
        let length = match rest.first() {
            Some(b'"') => {
                let mut escaped = false;
                let closes = |byte: &u8| {
                    let closes = *byte == b'"' && !escaped;
                    escaped = *byte == b'\\' && !escaped;
                    closes
                };
                rest[1..].iter().position(closes).map(|length| length + 2)
            }
            Some(b'{' | b'[' | b'}' | b']') => Some(1),
            _ => rest.iter().position(|byte| !matches!(byte, b'-' | b'+' | b'.') && !byte.is_ascii_alphanumeric()),
        };
        begin + length.unwrap_or(rest.len())
    }

    /// A token, as errors show it.
    fn shown(&self, begin: usize) -> Cow<'a, str> {
        String::from_utf8_lossy(&self.json[begin..self.token_end(begin)])
    }

    /// Line and column of a place. Columns count characters.
    fn position(&self, at: usize) -> String {
        let before = &self.json[..at];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        format!("(line {line}:{})", String::from_utf8_lossy(column).chars().count() + 1)
    }

    fn error(&self, at: usize, what: &str) -> String {
        format!("proto: {}: {what}", self.position(at))
    }

    fn syntax(&self, at: usize, what: &str) -> String {
        format!("proto: syntax error {}: {what}", self.position(at))
    }

    /// The token here is not the one that must be here.
    fn unexpected(&self) -> String {
        self.syntax(self.at, &format!("unexpected token {}", self.shown(self.at)))
    }

    fn invalid(&self, begin: usize, field: &Field) -> String {
        let (kind, name) = (field.kind.name(), &field.json_name);
        self.error(begin, &format!("invalid value for {kind} field {name}: {}", self.shown(begin)))
    }
}

/// The number as it is encoded, if the kind has it.
fn in_range(kind: Kind, number: Number) -> Option<u64> {
    match kind {
        Kind::Int32 | Kind::Enum(_) => i32::try_from(number.signed()?).ok().map(|number| number as i64 as u64),
        Kind::Int64 => number.signed().map(|number| number as u64),
        Kind::Uint32 => u32::try_from(number.unsigned()?).ok().map(u64::from),
        Kind::Uint64 => number.unsigned(),
        _ => None,
    }
}

fn put_bytes(field: &Field, bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.is_empty() && !field.repeated && field.oneof.is_none() {
        return;
    }
    put_varint(out, field.number << 3 | LENGTH);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Puts the length of what follows `start` in front of it.
fn insert_length(out: &mut Vec<u8>, start: usize) {
    let end = out.len();
    put_varint(out, (end - start) as u64);
    let added = out.len() - end;
    out[start..].rotate_right(added);
}

/// Base64 as Go decodes it for `protojson`: one of two alphabets, padded or not. Line breaks are passed over, and the
/// last character may have bits that stand for nothing.
fn decode(text: &str) -> Option<Vec<u8>> {
    const fn engine(alphabet: &Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
        let config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
        GeneralPurpose::new(alphabet, config.with_decode_padding_mode(padding))
    }
    static PADDED: GeneralPurpose = engine(&STANDARD, DecodePaddingMode::RequireCanonical);
    static PLAIN: GeneralPurpose = engine(&STANDARD, DecodePaddingMode::RequireNone);
    static URL_PADDED: GeneralPurpose = engine(&URL_SAFE, DecodePaddingMode::RequireCanonical);
    static URL_PLAIN: GeneralPurpose = engine(&URL_SAFE, DecodePaddingMode::RequireNone);
    let engine = match (text.contains(['-', '_']), text.len().is_multiple_of(4)) {
        (false, true) => &PADDED,
        (false, false) => &PLAIN,
        (true, true) => &URL_PADDED,
        (true, false) => &URL_PLAIN,
    };
    if text.contains(['\r', '\n']) {
        return engine.decode(text.replace(['\r', '\n'], "")).ok();
    }
    engine.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use metastore_proto::Message;
    use metastore_proto::etcdserverpb::{PutRequest, RangeRequest, TxnRequest, WatchRequest};

    use super::super::scan::Scanner;
    use super::*;

    fn read<T: Message + Default>(name: &str, json: &str) -> Result<T, String> {
        assert_eq!(Scanner::default().scan(json.as_bytes()), Ok(Some(json.len())), "{json}");
        let schema = Schema::get();
        let bytes = message(schema, schema.find(&format!("etcdserverpb.{name}")).unwrap(), json.as_bytes())?;
        let message = T::decode(&bytes[..]).unwrap();
        assert_eq!(message.encoded_len(), bytes.len(), "the encoding is the shortest: {json}");
        Ok(message)
    }

    fn range(json: &str) -> Result<RangeRequest, String> {
        read("RangeRequest", json)
    }

    #[test]
    fn all_kinds_of_values_are_read() {
        let json = r#" {"key":"Zm9v","rangeEnd":"_w", "limit" : "12","revision":-3,"sort_order":"DESCEND",
            "sortTarget":1.0,"serializable":true,"keys_only":false,"min_mod_revision":null,"max_mod_revision":"1e2"}"#
            .trim_start();
        let expected = RangeRequest {
            key: "foo".into(),
            range_end: vec![0xff].into(),
            limit: 12,
            revision: -3,
            sort_order: 2,
            sort_target: 1,
            serializable: true,
            max_mod_revision: 100,
            ..Default::default()
        };
        assert_eq!(range(json), Ok(expected));
    }

    #[test]
    fn what_is_not_known_is_dropped() {
        let request = RangeRequest { key: "foo".into(), ..Default::default() };
        for json in [
            r#"{"nope":{"a":[1,{"b":"}\""}],"c":{}},"nope":[],"key":"Zm9v","id":1}"#,
            r#"{"sort_order":"descend","key":"Zm9v"}"#,
            r#"{"\u006bey":"\u005am9v"}"#,
        ] {
            assert_eq!(range(json), Ok(request.clone()), "{json}");
        }
    }

    #[test]
    fn nested_messages_of_any_length_are_read() {
        let value = "A".repeat(400);
        let json = format!(
            r#"{{"compare":[{{"key":"Zm9v","result":"NOT_EQUAL","target":"VERSION","version":"0"}}],"success":[
                {{"request_put":{{"key":"Zm9v","value":"{value}","prev_kv":true}}}},{{"requestTxn":{{"failure":[
                {{"request_delete_range":{{"key":"Zm9v"}}}}]}}}}]}}"#
        );
        let txn: TxnRequest = read("TxnRequest", &json).unwrap();
        assert!(txn.compare[0].target_union.is_some(), "a zero in a oneof is a value");
        let put = PutRequest { key: "foo".into(), value: vec![0; 300].into(), prev_kv: true, ..Default::default() };
        let first = txn.success[0].request.clone();
        assert_eq!(first, Some(metastore_proto::etcdserverpb::request_op::Request::RequestPut(put)));
        let json = r#"{"create_request":{"key":"AA==","filters":["NOPUT",1,"nope"]}}"#;
        assert!(Scanner::default().scan(json.as_bytes()).is_ok());
        let schema = Schema::get();
        let bytes = message(schema, schema.find("etcdserverpb.WatchRequest").unwrap(), json.as_bytes()).unwrap();
        let watch = format!("{:?}", WatchRequest::decode(&bytes[..]).unwrap());
        assert!(watch.contains("[Noput, Nodelete]"), "{watch}");
    }

    #[test]
    fn base64_is_read_as_in_go() {
        let key = |text: &str| range(&format!(r#"{{"key":"{text}"}}"#)).map(|request| request.key.to_vec());
        for (text, bytes) in [
            ("Zm8=", "fo".into()),
            ("Zm8", "fo".into()),
            ("Zm9", "fo".into()),
            ("Zm9v\\n", "foo".into()),
            ("", vec![]),
            ("__-_", vec![255, 255, 191]),
            ("//+/", vec![255, 255, 191]),
        ] {
            assert_eq!(key(text), Ok(bytes), "{text}");
        }
        for text in ["*", "Z", "_/+-", "Zm 9v", "Zm8=="] {
            let error = format!("proto: (line 1:8): invalid value for bytes field key: \"{text}\"");
            assert_eq!(key(text), Err(error));
        }
    }

    #[test]
    fn errors_are_those_of_protojson() {
        for (json, error) in [
            ("[1]", "syntax error (line 1:1): unexpected token ["),
            ("null", "syntax error (line 1:1): unexpected token null"),
            (r#""x\"""#, r#"syntax error (line 1:1): unexpected token "x\"""#),
            (r#"{"key":{}}"#, "(line 1:8): invalid value for bytes field key: {"),
            ("{\n \"key\":5}", "(line 2:8): invalid value for bytes field key: 5"),
            (r#"{"ü":1,"limit":1.5}"#, "(line 1:16): invalid value for int64 field limit: 1.5"),
            (r#"{"limit":""}"#, "(line 1:10): invalid value for int64 field limit: \"\""),
            (r#"{"limit":"1 "}"#, "(line 1:10): invalid value for int64 field limit: \"1 \""),
            (
                r#"{"limit":9223372036854775808}"#,
                "(line 1:10): invalid value for int64 field limit: 9223372036854775808",
            ),
            (r#"{"countOnly":"true"}"#, "(line 1:14): invalid value for bool field countOnly: \"true\""),
            (r#"{"sort_order":9999999999}"#, "(line 1:15): invalid value for enum field sortOrder: 9999999999"),
            (r#"{"count_only":true,"countOnly":true}"#, "(line 1:20): duplicate field \"countOnly\""),
            (r#"{"key":"\ud83dxxxxxx"}"#, "syntax error (line 1:9): invalid escape code of half a character in string"),
        ] {
            assert_eq!(range(json), Err(format!("proto: {error}")), "{json}");
        }
        let txn = |json| read::<TxnRequest>("TxnRequest", json).unwrap_err();
        let oneof = "oneof etcdserverpb.RequestOp.request is already set";
        assert_eq!(
            txn(r#"{"success":[{"request_put":{"key":"Zm9v"},"request_range":{}}]}"#),
            format!("proto: (line 1:43): error parsing \"request_range\", {oneof}")
        );
        assert_eq!(txn(r#"{"success":[null]}"#), "proto: syntax error (line 1:13): unexpected token null");
        assert_eq!(txn(r#"{"success":{}}"#), "proto: syntax error (line 1:12): unexpected token {");
        let deep = format!("{}{}", r#"{"success":[{"request_txn":"#.repeat(200), "}");
        let deep = deep.trim_end_matches('}').to_owned() + "{}" + &"}]}".repeat(200);
        assert_eq!(txn(&deep), "proto: exceeded max recursion depth");
    }
}
