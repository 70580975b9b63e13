//! The output of etcdctl without the parts that two servers cannot have in common.

use serde_json::Value;

/// JSON fields, and names of `-w fields`, whose values differ between servers.
const OWN: [&str; 24] = [
    "cluster_id",
    "member_id",
    "raft_term",
    "leader",
    "raftIndex",
    "raftTerm",
    "raftAppliedIndex",
    "dbSize",
    "dbSizeInUse",
    "version",
    "storageVersion",
    "took",
    "clusterid",
    "memberid",
    "raftterm",
    "dbsize",
    "dbsizeinuse",
    "raftindex",
    "raftappliedindex",
    "storageversion",
    "ID",
    "id",
    "lease",
    "LeaseID",
];
/// Only an id has so many digits in a row, in hexadecimal or decimal.
const ID_DIGITS: usize = 14;

pub fn normalise(text: &str) -> String {
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn line(line: &str) -> String {
    if let Ok(mut value @ (Value::Array(_) | Value::Object(_))) = serde_json::from_str::<Value>(line) {
        json(&mut value);
        return value.to_string();
    }
    let line = &duration(line);
    let is_own = |name: &str| OWN.iter().any(|own| own.eq_ignore_ascii_case(name));
    if let Some((name, _)) = line.split_once(" : ").filter(|(name, _)| is_own(name.trim_matches('"'))) {
        return format!("{name} : <own>");
    }
    if line.starts_with(['┌', '├', '└']) {
        return "<border>".into(); // its width depends on the numbers in the table
    }
    if line.contains("127.0.0.1:") && !line.contains("health") && !line.contains("{\"level\"") {
        return line.split(['│', ',']).map(|cell| own_cell(cell.trim())).collect::<Vec<_>>().join(" | ");
    }
    let line = line.split("took = ").next().unwrap_or_default();
    let line =
        if line.starts_with('│') { line.split_whitespace().collect::<Vec<_>>().join(" ") } else { line.into() };
    remaining(&ids(&line))
}

/// The duration after "took", which `defrag` has in the middle of a line.
fn duration(line: &str) -> String {
    let timed = line.split_once("took ").filter(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    let Some((before, rest)) = timed else { return line.to_string() };
    format!("{before}took <time>{}", rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '.'))
}

/// A cell of endpoint status. Numbers, sizes and versions differ between servers; words are compared. The hash of a
/// store must be equal: with nine or ten digits it is longer than any term or index here.
fn own_cell(cell: &str) -> String {
    let number = cell.split_once(' ').map_or(cell, |(number, _)| number);
    let short = number.chars().all(|c| c.is_ascii_digit() || ".%:".contains(c)) && number.len() < 8;
    let address = cell.starts_with("127.0.0.1:");
    let duration = cell.ends_with('s') && cell.starts_with(|c: char| c.is_ascii_digit());
    if (short && !cell.is_empty()) || address || duration { "<own>".into() } else { ids(cell) }
}

fn json(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(json),
        Value::Object(fields) => {
            for (name, field) in fields {
                // A key has a version, too, which is a small number; and a lease, 0 for none.
                let shared =
                    matches!(name.as_str(), "version" | "lease") && field.as_u64().is_some_and(|n| n < 1 << 32);
                if OWN.contains(&name.as_str()) && !field.is_object() && !shared {
                    *field = Value::String("<own>".into());
                }
                if name.eq_ignore_ascii_case("ttl") && field.as_i64() > Some(0) {
                    *field = Value::String("<seconds>".into());
                }
                if let (true, Value::Array(keys)) = (name == "keys", &mut *field) {
                    keys.sort_by_key(Value::to_string); // the keys of a lease come in any order
                }
                json(field);
            }
        }
        Value::String(text) => *text = ids(text),
        _ => {}
    }
}

/// Replaces ids (long words of hexadecimal digits) and addresses, which differ between servers.
fn ids(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_id = digits.len() >= ID_DIGITS && digits.chars().all(|c| c.is_ascii_hexdigit() && !c.is_uppercase());
        out.push_str(if is_id { "<id>" } else { digits });
        out.push_str(&word[digits.len()..]);
    }
    match (out.find("127.0.0.1:"), out.contains("took")) {
        (Some(start), _) => {
            let end =
                out[start..].find(|c: char| !c.is_ascii_digit() && !".:".contains(c)).map_or(out.len(), |n| start + n);
            format!("{}<address>{}", &out[..start], &out[end..])
        }
        _ => out,
    }
}

/// The remaining seconds of a lease depend on the time of the request, and its keys come in any order.
fn remaining(line: &str) -> String {
    let Some((before, after)) = line.split_once("remaining(") else { return line.to_string() };
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    let keys = after.split_once("attached keys([").and_then(|(text, keys)| Some((text, keys.strip_suffix("])")?)));
    let Some((text, keys)) = keys else { return format!("{before}remaining(<seconds>{after}") };
    let mut keys: Vec<&str> = keys.split(' ').collect();
    keys.sort();
    format!("{before}remaining(<seconds>{text}attached keys([{}])", keys.join(" "))
}

#[test]
fn only_what_is_a_servers_own_is_removed() {
    assert_eq!(normalise("lease 694d9a1c3fe2b10a granted with TTL(600s)"), "lease <id> granted with TTL(600s)");
    assert_eq!(
        normalise("{\"header\":{\"cluster_id\":1,\"revision\":7}}"),
        "{\"header\":{\"cluster_id\":\"<own>\",\"revision\":7}}"
    );
    assert_eq!(normalise("127.0.0.1:1, 3456789012, 12"), "<own> | 3456789012 | <own>");
    assert_eq!(normalise("a\n12"), "a\n12");
    assert_eq!(normalise("m[127.0.0.1:1]. took 1.5ms. (no)"), "m[<address>]. took <time> (no)");
}
