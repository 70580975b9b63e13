//! From an encoded message to JSON, as etcd's gateway writes it: names of the .proto files, integers of 64 bits as
//! texts, bytes in base64, enumerations by name, and nothing that has its default.
//!
//! The encoded message becomes JSON in one pass, because this server writes each field once, by number, and the
//! elements of a list together.

use base64::Engine as _;
use base64::encoded_len;
use base64::engine::general_purpose::STANDARD;
use metastore_proto::wire::{Fields, Malformed, Value, read_varint};

use super::schema::{Field, Kind, Schema};

/// Appends the message at `place` of `schema` as an object.
pub fn message(schema: &Schema, place: usize, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let message = schema.message(place);
    out.push(b'{');
    let begin = out.len();
    // The list that is being written.
    let mut list = None;
    for entry in Fields::new(bytes) {
        let (number, value) = entry?;
        let Some(field) = message.numbered(number) else { continue };
        if field.repeated && list == Some(number) {
            out.push(b',');
            elements(schema, field, value, out)?;
            continue;
        }
        if list.take().is_some() {
            out.push(b']');
        }
        if !field.repeated && field.oneof.is_none() && is_default(value, field.kind) {
            continue;
        }
        if out.len() > begin {
            out.push(b',');
        }
        out.extend_from_slice(field.key.as_bytes());
        if field.repeated {
            list = Some(number);
            out.push(b'[');
            elements(schema, field, value, out)?;
        } else {
            scalar_or_message(schema, field, value, out)?;
        }
    }
    if list.is_some() {
        out.push(b']');
    }
    out.push(b'}');
    Ok(())
}

/// A message is written even if it is empty: it is there.
fn is_default(value: Value<'_>, kind: Kind) -> bool {
    match value {
        Value::Varint(number) => number == 0,
        Value::Bytes(bytes) => bytes.is_empty() && !matches!(kind, Kind::Message(_)),
    }
}

/// One element of a list, or all of a list of numbers, which are packed.
fn elements(schema: &Schema, field: &Field, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let Value::Bytes(mut packed) = value else { return scalar_or_message(schema, field, value, out) };
    if matches!(field.kind, Kind::Text | Kind::Bytes | Kind::Message(_)) {
        return scalar_or_message(schema, field, value, out);
    }
    let begin = out.len();
    while !packed.is_empty() {
        let (number, length) = read_varint(packed).ok_or(Malformed)?;
        packed = &packed[length..];
        if out.len() > begin {
            out.push(b',');
        }
        scalar_or_message(schema, field, Value::Varint(number), out)?;
    }
    Ok(())
}

fn scalar_or_message(schema: &Schema, field: &Field, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    match (field.kind, value) {
        (Kind::Message(place), Value::Bytes(bytes)) => message(schema, place, bytes, out)?,
        (Kind::Bytes, Value::Bytes(bytes)) => base64(bytes, out),
        (Kind::Text, Value::Bytes(bytes)) => text(&String::from_utf8_lossy(bytes), out),
        (Kind::Bool, Value::Varint(number)) => out.extend_from_slice(if number == 0 { b"false" } else { b"true" }),
        (Kind::Int32, Value::Varint(number)) => json(&(number as i32), out),
        (Kind::Uint32, Value::Varint(number)) => json(&(number as u32), out),
        (Kind::Int64, Value::Varint(number)) => quoted(&(number as i64), out),
        (Kind::Uint64, Value::Varint(number)) => quoted(&number, out),
        (Kind::Enum(place), Value::Varint(number)) => match schema.enumeration(place).name(number as i32) {
            Some(name) => text(name, out),
            None => json(&(number as i32), out),
        },
        _ => return Err(Malformed),
    }
    Ok(())
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let begin = out.len();
    let length = encoded_len(bytes.len(), true).expect("a message is smaller than the address space");
    out.resize(begin + length, 0);
    STANDARD.encode_slice(bytes, &mut out[begin..]).expect("the room is as long as the text");
    out.push(b'"');
}

fn text(text: &str, out: &mut Vec<u8>) {
    json(text, out);
}

fn quoted(number: &impl serde::Serialize, out: &mut Vec<u8>) {
    out.push(b'"');
    json(number, out);
    out.push(b'"');
}

fn json(value: &(impl serde::Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("numbers and texts become JSON, and a Vec grows");
}

#[cfg(test)]
mod tests {
    use metastore_proto::Message;
    use metastore_proto::etcdserverpb::response_op::Response;
    use metastore_proto::etcdserverpb::{
        AlarmMember, AlarmResponse, HashKvResponse, LeaseTimeToLiveResponse, Member, MemberListResponse, PutResponse,
        RangeResponse, ResponseHeader, ResponseOp, TxnResponse,
    };
    use metastore_proto::mvccpb::KeyValue;

    use super::*;

    fn written(name: &str, message: &impl Message) -> String {
        let schema = Schema::get();
        let mut out = Vec::new();
        let place = schema.find(&format!("etcdserverpb.{name}")).unwrap();
        super::message(schema, place, &message.encode_to_vec(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_written_as_etcd_writes_them() {
        let header = ResponseHeader { cluster_id: u64::MAX, revision: -1, ..Default::default() };
        let kv = |key: &'static str| KeyValue {
            key: key.into(),
            version: 1,
            value: vec![255].into(),
            ..KeyValue::default()
        };
        let range = RangeResponse { header: Some(header), kvs: vec![kv("foo"), kv("")], more: true, count: 2 };
        assert_eq!(
            written("RangeResponse", &range),
            r#"{"header":{"cluster_id":"18446744073709551615","revision":"-1"},"kvs":[{"key":"Zm9v","version":"1","#
                .to_owned()
                + r#""value":"/w=="},{"version":"1","value":"/w=="}],"more":true,"count":"2"}"#
        );
        let hash = HashKvResponse { hash: u32::MAX, compact_revision: -1, ..Default::default() };
        assert_eq!(written("HashKVResponse", &hash), r#"{"hash":4294967295,"compact_revision":"-1"}"#);
        let member =
            Member { id: 5, name: "a\"\u{1}".into(), client_ur_ls: vec!["x".into(), "y".into()], ..Default::default() };
        assert_eq!(
            written("MemberListResponse", &MemberListResponse { members: vec![member], ..Default::default() }),
            r#"{"members":[{"ID":"5","name":"a\"\u0001","clientURLs":["x","y"]}]}"#
        );
        let lease = LeaseTimeToLiveResponse { ttl: -1, granted_ttl: 7, ..Default::default() };
        assert_eq!(written("LeaseTimeToLiveResponse", &lease), r#"{"TTL":"-1","grantedTTL":"7"}"#);
    }

    #[test]
    fn what_is_there_is_written_even_if_it_is_empty() {
        let header = Some(ResponseHeader::default());
        let put = ResponseOp { response: Some(Response::ResponsePut(PutResponse { header, ..Default::default() })) };
        let txn = TxnResponse { responses: vec![put, ResponseOp::default()], ..Default::default() };
        assert_eq!(written("TxnResponse", &txn), r#"{"responses":[{"response_put":{"header":{}}},{}]}"#);
        assert_eq!(written("TxnResponse", &TxnResponse::default()), "{}");
    }

    #[test]
    fn an_enumeration_is_a_name_if_it_has_one() {
        let alarm = |alarm| AlarmMember { member_id: 1, alarm };
        let alarms = AlarmResponse { alarms: vec![alarm(1), alarm(9)], ..Default::default() };
        let expected = r#"{"alarms":[{"memberID":"1","alarm":"NOSPACE"},{"memberID":"1","alarm":9}]}"#;
        assert_eq!(written("AlarmResponse", &alarms), expected);
    }
}
