//! Requests of etcd's v2 API (before keys had revisions), which etcd up to 3.5 still writes about its own members.
//!
//! A member of etcd 3.5 publishes its name and addresses by `PUT /0/members/<id>/attributes`; its leader publishes the
//! cluster version by `PUT /0/version`. Such a request is an entry of its own, or stands in field 2 of a command. etcd
//! 3.6 reads both requests as the commands that it writes itself. It does not survive any other old request; at such a
//! request this member halts, too.

use bytes::{Buf, Bytes};
use metastore_proto::Message;
use metastore_proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use metastore_proto::prost::DecodeError;
use metastore_proto::prost::encoding::{self, DecodeContext};
use serde::Deserialize;

use super::command::{Caller, Command, CommandError, Kind};

const FIELD_ID: u32 = 1;
const FIELD_METHOD: u32 = 2;
const FIELD_PATH: u32 = 3;
const FIELD_VALUE: u32 = 4;
/// The field of a command that holds an old request.
pub(super) const FIELD_IN_COMMAND: u32 = 2;
/// The possible contents of field 2 if the entry is an old request itself. None of them is a valid message, so such an
/// entry is not a command.
const METHODS: [&[u8]; 7] = [b"PUT", b"POST", b"DELETE", b"QGET", b"SYNC", b"GET", b"HEAD"];
const VERSION_PATH: &str = "/0/version";
const MEMBERS_PATH: &str = "/0/members/";
const ATTRIBUTES_SUFFIX: &str = "/attributes";

/// The fields that are needed here; the others hold the conditions of the put and its time to live.
#[derive(Default)]
struct OldRequest {
    id: u64,
    method: Bytes,
    path: Bytes,
    value: Bytes,
}

/// A member's attributes, as etcd 3.5 writes them.
#[derive(Deserialize)]
struct AttributesJson {
    #[serde(default)]
    name: String,
    #[serde(rename = "clientURLs", default)]
    client_urls: Option<Vec<String>>,
}

/// Decodes an entry that is an old request of its own; `None` if the entry is a command.
pub(super) fn alone(entry: &Bytes) -> Result<Option<Command>, CommandError> {
    if method(entry.clone()).is_none_or(|method| !METHODS.contains(&&method[..])) {
        return Ok(None);
    }
    decode(entry.clone()).map(Some)
}

/// Decodes an old request, and translates it to the command of today.
pub(super) fn decode(request: Bytes) -> Result<Command, CommandError> {
    OldRequest::decode(request).map_err(|error| CommandError::Malformed(error.to_string()))?.into_command()
}

/// The content of field 2, if it follows directly after the id.
fn method(mut entry: Bytes) -> Option<Bytes> {
    loop {
        let (field, wire) = encoding::decode_key(&mut entry).ok()?;
        match field {
            FIELD_ID => encoding::skip_field(wire, field, &mut entry, DecodeContext::default()).ok()?,
            FIELD_METHOD => {
                let mut method = Bytes::new();
                encoding::bytes::merge(wire, &mut method, &mut entry, DecodeContext::default()).ok()?;
                return Some(method);
            }
            _ => return None,
        }
    }
}

impl OldRequest {
    fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        let mut request = Self::default();
        while bytes.has_remaining() {
            let (field, wire) = encoding::decode_key(&mut bytes)?;
            let context = DecodeContext::default();
            match field {
                FIELD_ID => encoding::uint64::merge(wire, &mut request.id, &mut bytes, context)?,
                FIELD_METHOD => encoding::bytes::merge(wire, &mut request.method, &mut bytes, context)?,
                FIELD_PATH => encoding::bytes::merge(wire, &mut request.path, &mut bytes, context)?,
                FIELD_VALUE => encoding::bytes::merge(wire, &mut request.value, &mut bytes, context)?,
                _ => encoding::skip_field(wire, field, &mut bytes, context)?,
            }
        }
        Ok(request)
    }

    fn into_command(self) -> Result<Command, CommandError> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (method, path) = (text(&self.method), text(&self.path));
        if method != "PUT" {
            return Err(CommandError::OldRequest { method, path });
        }
        if path == VERSION_PATH {
            let version = ClusterVersionSetRequest { ver: text(&self.value) };
            return Ok(self.command(Kind::ClusterVersionSet, &version));
        }
        let Some(member_id) = member_of(&path) else { return Err(CommandError::OldRequest { method, path }) };
        let json: AttributesJson = serde_json::from_slice(&self.value)
            .map_err(|error| CommandError::Malformed(format!("attributes of member {member_id:x}: {error}")))?;
        let attributes = Attributes { name: json.name, client_urls: json.client_urls.unwrap_or_default() };
        let attributes = ClusterMemberAttrSetRequest { member_id, member_attributes: Some(attributes) };
        Ok(self.command(Kind::ClusterMemberAttrSet, &attributes))
    }

    fn command(&self, kind: Kind, message: &impl Message) -> Command {
        Command { id: self.id, kind, caller: Caller::default(), body: message.encode_to_vec().into() }
    }
}

/// The member whose attributes are stored at this path. The path holds its id in hex.
fn member_of(path: &str) -> Option<u64> {
    let id = path.strip_prefix(MEMBERS_PATH)?.strip_suffix(ATTRIBUTES_SUFFIX)?;
    id.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(id, 16).ok())?
}

#[cfg(test)]
mod tests {
    use metastore_proto::etcdserverpb::PutRequest;

    use super::*;

    /// Two entries of a real etcd 3.5.1, written at its first start.
    const ATTRIBUTES: &[u8] =
        b"\x08\x81\xa2\x88\xa3\xad\xbf\xe8\x8a\x53\x12\x03PUT\x1a\x26/0/members/b5179d13d0285315/attributes\
        \"5{\"name\":\"s1\",\"clientURLs\":[\"http://127.0.0.1:24379\"]}(\x002\x008\0H\0P\0X\0`\0h\0p\0x\0\x80\x01\0";
    const VERSION: &[u8] = b"\x08\x84\xa2\x88\xa3\xad\xbf\xe8\x8a\x53\x12\x03PUT\x1a\x0a/0/version\"\x053.5.0\
        (\x002\x008\0H\0P\0X\0`\0h\0p\0x\0\x80\x01\0";

    fn in_command(request: &[u8]) -> Bytes {
        let mut entry = b"\x08\x07".to_vec();
        encoding::bytes::encode(FIELD_IN_COMMAND, &request.to_vec(), &mut entry);
        entry.into()
    }

    fn request(method: &str, path: &str, value: &str) -> Bytes {
        let mut entry = b"\x08\x07".to_vec();
        for (field, text) in [(FIELD_METHOD, method), (FIELD_PATH, path), (FIELD_VALUE, value)] {
            encoding::string::encode(field, &text.to_owned(), &mut entry);
        }
        entry.into()
    }

    #[test]
    fn what_etcd_3_5_writes_about_itself_is_understood() {
        for entry in [Bytes::from_static(ATTRIBUTES), in_command(ATTRIBUTES)] {
            let Command { id, kind, body, .. } = Command::decode(entry).unwrap();
            assert!(id == 7 || id == 0x5315_a1fa_d462_1101, "{id:x}");
            assert_eq!(kind, Kind::ClusterMemberAttrSet);
            let read = ClusterMemberAttrSetRequest::decode(body).unwrap();
            let expected = Attributes { name: "s1".into(), client_urls: vec!["http://127.0.0.1:24379".into()] };
            assert_eq!((read.member_id, read.member_attributes), (0xb517_9d13_d028_5315, Some(expected)));
        }
        for entry in [Bytes::from_static(VERSION), in_command(VERSION)] {
            let Command { kind, body, .. } = Command::decode(entry).unwrap();
            assert_eq!(kind, Kind::ClusterVersionSet);
            assert_eq!(ClusterVersionSetRequest::decode(body).unwrap().ver, "3.5.0");
        }
    }

    #[test]
    fn other_old_requests_are_named() {
        for (method, path) in [
            ("SYNC", ""),
            ("PUT", "/1/key"),
            ("DELETE", "/0/version"),
            ("PUT", "/0/members/xyz/attributes"),
            ("PUT", "/0/members/+1/attributes"),
            ("PUT", "/0/members//attributes"),
            ("PUT", "/0/members/11111111111111111/attributes"),
            ("PUT", "/0/members/1/raftAttributes"),
        ] {
            for entry in [request(method, path, "{}"), in_command(&request(method, path, "{}"))] {
                let named = CommandError::OldRequest { method: method.into(), path: path.into() };
                assert_eq!(Command::decode(entry), Err(named));
            }
        }
        let put = Command::encode(1, Kind::Put, &PutRequest::default());
        for beside in [[in_command(VERSION), put.clone()].concat(), [put, in_command(VERSION)].concat()] {
            assert!(matches!(Command::decode(beside.into()), Err(CommandError::Malformed(_))), "two commands");
        }
        let damaged = Command::decode(request("PUT", "/0/members/1/attributes", "{"));
        assert!(matches!(damaged, Err(CommandError::Malformed(text)) if text.starts_with("attributes of member 1: ")));
    }
}
