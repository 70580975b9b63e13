//! Answers, written as lines.

use metastore_proto::Message;
use metastore_proto::etcdserverpb::WatchResponse;
use metastore_proto::mvccpb::KeyValue;
use metastore_store::mvcc::{RangeReply, ReadError};
use metastore_store::{OpReply, Outcome, Refusal, Reply, TxnReply};

/// Longer values that repeat one byte are written as `x*1000`.
const LONG: usize = 40;

/// Bytes, written as a word of the scripts.
pub fn text(bytes: &[u8]) -> String {
    match bytes {
        [] => r#""""#.into(),
        [first, rest @ ..] if rest.len() >= LONG && rest.iter().all(|byte| byte == first) => {
            format!("{}*{}", text(&[*first]), bytes.len())
        }
        _ => bytes.iter().map(|&byte| letter(byte)).collect(),
    }
}

fn letter(byte: u8) -> String {
    match byte {
        0 => r"\0".into(),
        b' ' => r"\s".into(),
        b'\\' => r"\\".into(),
        b'!'..=b'~' => char::from(byte).into(),
        _ => format!(r"\x{byte:02x}"),
    }
}

/// A stored row, decoded with the protobuf library and not with the store's own reader.
pub fn row(row: &[u8]) -> String {
    kv(&KeyValue::decode(row).expect("a stored row is a KeyValue"))
}

pub fn kv(kv: &KeyValue) -> String {
    let lease = if kv.lease == 0 { String::new() } else { format!(" lease={}", kv.lease) };
    format!(
        "{}={} create={} mod={} version={}{lease}",
        text(&kv.key),
        text(&kv.value),
        kv.create_revision,
        kv.mod_revision,
        kv.version
    )
}

pub fn outcome(outcome: &Outcome) -> Vec<String> {
    let revision = outcome.revision;
    let mut out = Vec::new();
    match &outcome.reply {
        Err(error) => return refused(error, revision),
        Ok(Reply::Put { previous }) => {
            out.push(format!("ok rev={revision}"));
            out.extend(previous.iter().map(|previous| format!("  previous {}", row(previous))));
        }
        Ok(Reply::DeleteRange { deleted, previous }) => {
            out.push(format!("deleted {deleted} rev={revision}"));
            out.extend(previous.iter().map(|previous| format!("  previous {}", row(previous))));
        }
        Ok(Reply::Txn(reply)) => {
            out.push(format!("{} rev={revision}", branch(reply)));
            operations(reply, "  ", &mut out);
        }
        Ok(Reply::Compact { revision: at, physical }) => {
            let physical = if *physical { ", waits until it is done" } else { "" };
            out.push(format!("compacts at {at} rev={revision}{physical}"));
        }
        Ok(Reply::LeaseGrant { id, ttl_s }) => out.push(format!("granted {id} for {ttl_s} s rev={revision}")),
        Ok(Reply::LeaseRevoke { id }) => out.push(format!("revoked {id} rev={revision}")),
        Ok(Reply::LeaseCheckpoint) => out.push(format!("noted rev={revision}")),
        Ok(Reply::MembersChanged) => out.push(format!("members changed rev={revision}")),
        Ok(Reply::Recorded) => out.push(format!("recorded rev={revision}")),
        Ok(Reply::LoggedIn { user, token, auth_revision }) => {
            out.push(format!("{user} has token {token:?} at auth revision {auth_revision} rev={revision}"));
        }
        Ok(Reply::LoggedOut { user }) => out.push(format!("{user} is logged out rev={revision}")),
        Ok(Reply::AllLoggedOut) => out.push(format!("all are logged out rev={revision}")),
        Ok(Reply::Alarms(alarms)) => {
            out.push(format!("{} alarms rev={revision}", alarms.len()));
            out.extend(alarms.iter().map(|alarm| format!("  {} of member {}", alarm.alarm, alarm.member_id)));
        }
        Ok(Reply::AnsweredElsewhere) => out.push(format!("nothing changes rev={revision}")),
    }
    out
}

fn refused(error: &Refusal, revision: i64) -> Vec<String> {
    vec![format!("error: {error} rev={revision}")]
}

fn branch(reply: &TxnReply) -> &'static str {
    if reply.succeeded { "then" } else { "else" }
}

fn operations(reply: &TxnReply, indent: &str, out: &mut Vec<String>) {
    let inner = format!("{indent}  ");
    for op in &reply.ops {
        match op {
            OpReply::Range(reply) => out.extend(range(reply).into_iter().map(|line| format!("{indent}{line}"))),
            OpReply::Put { revision, previous } => {
                out.push(format!("{indent}put rev={revision}"));
                out.extend(previous.iter().map(|previous| format!("{inner}previous {}", row(previous))));
            }
            OpReply::DeleteRange { revision, deleted, previous } => {
                out.push(format!("{indent}deleted {deleted} rev={revision}"));
                out.extend(previous.iter().map(|previous| format!("{inner}previous {}", row(previous))));
            }
            OpReply::Txn(reply) => {
                out.push(format!("{indent}{}", branch(reply)));
                operations(reply, &inner, out);
            }
        }
    }
}

pub fn txn_read(revision: i64, reply: &TxnReply) -> Vec<String> {
    let mut out = vec![format!("{} rev={revision}", branch(reply))];
    operations(reply, "  ", &mut out);
    out
}

pub fn range(reply: &RangeReply) -> Vec<String> {
    let more = if reply.more { " more" } else { "" };
    let mut out = vec![format!("count={} rev={}{more}", reply.count, reply.revision)];
    out.extend(reply.rows.iter().map(|bytes| format!("  {}", row(bytes))));
    out
}

pub fn unread(error: &ReadError) -> Vec<String> {
    vec![format!("error: {error}")]
}

pub fn watch(response: &WatchResponse) -> Vec<String> {
    let revision = response.header.map_or(0, |header| header.revision);
    let mut head = format!("watch {} rev={revision}", response.watch_id);
    for (is, what) in
        [(response.created, " created"), (response.canceled, " canceled"), (response.fragment, " fragment")]
    {
        head += if is { what } else { "" };
    }
    if response.compact_revision != 0 {
        head += &format!(" compact_revision={}", response.compact_revision);
    }
    if !response.cancel_reason.is_empty() {
        head += &format!(" reason: {}", response.cancel_reason);
    }
    let mut out = vec![head];
    for event in &response.events {
        let changed = event.kv.clone().unwrap_or_default();
        let what = if event.r#type == 0 { "put" } else { "delete" };
        let previous = event.prev_kv.as_ref().map(|previous| format!(" previous {}", kv(previous)));
        out.push(format!("  {what} {}{}", kv(&changed), previous.unwrap_or_default()));
    }
    out
}
