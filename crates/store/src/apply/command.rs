//! The outermost layer of a log entry: which command it carries, and for which request.
//!
//! It is read by hand, because a generic decoder skips fields that it does not know: a member that skipped a command of a
//! newer version would go on with a state that no other member has.

use bytes::{Buf, Bytes};
use metastore_proto::Message;
use metastore_proto::prost::encoding::{self, DecodeContext, WireType};

use super::old_request;

/// Kinds of commands; the numbers are the fields of etcd's `InternalRaftRequest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Put = 4,
    DeleteRange = 5,
    Txn = 6,
    Compaction = 7,
    LeaseGrant = 8,
    LeaseRevoke = 9,
    LeaseCheckpoint = 11,
    ClusterVersionSet = 1300,
    ClusterMemberAttrSet = 1301,
}

impl Kind {
    /// Every kind that this version applies.
    pub const ALL: [Self; 9] = [
        Self::Put,
        Self::DeleteRange,
        Self::Txn,
        Self::Compaction,
        Self::LeaseGrant,
        Self::LeaseRevoke,
        Self::LeaseCheckpoint,
        Self::ClusterVersionSet,
        Self::ClusterMemberAttrSet,
    ];

    fn from_field(field: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u32 == field)
    }
}

/// Kinds of etcd's that this version does not apply, for messages.
const NAMES: [(u32, &str); 20] = [
    (3, "range"),
    (10, "alarm"),
    (1000, "auth_enable"),
    (1011, "auth_disable"),
    (1012, "authenticate"),
    (1013, "auth_status"),
    (1100, "auth_user_add"),
    (1101, "auth_user_delete"),
    (1102, "auth_user_get"),
    (1103, "auth_user_change_password"),
    (1104, "auth_user_grant_role"),
    (1105, "auth_user_revoke_role"),
    (1106, "auth_user_list"),
    (1107, "auth_role_list"),
    (1200, "auth_role_add"),
    (1201, "auth_role_delete"),
    (1202, "auth_role_get"),
    (1203, "auth_role_grant_permission"),
    (1204, "auth_role_revoke_permission"),
    (1302, "downgrade_info_set"),
];

/// The name that etcd gives a kind, in parentheses; nothing if it has none.
fn name(kind: u32) -> String {
    NAMES.iter().find(|(number, _)| *number == kind).map_or_else(String::new, |(_, name)| format!(" ({name})"))
}

const FIELD_ID: u32 = 1;
const FIELD_HEADER: u32 = 100;
const FIELD_HEADER_ID: u32 = 1;

/// A command as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The request that waits for the outcome; unique over restarts. 0 if nobody waits.
    pub id: u64,
    pub kind: Kind,
    /// The command's own message.
    pub body: Bytes,
}

/// Why an entry's bytes are no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("command kind {0}{name}, which this version does not know", name = name(*.0))]
    UnknownKind(u32),
    #[error(
        "a request of etcd's old API, {method} {path:?}, which is neither a member's attributes nor the cluster version"
    )]
    OldRequest { method: String, path: String },
    #[error("{0}")]
    Malformed(String),
}

impl Command {
    /// Encodes a command for the log: its message, and a header with the request's id.
    pub fn encode(id: u64, kind: Kind, message: &impl Message) -> Bytes {
        let header_len = encoding::uint64::encoded_len(FIELD_HEADER_ID, &id);
        let len = message.encoded_len();
        let mut out = Vec::with_capacity(len + header_len + 20);
        encoding::encode_key(kind as u32, WireType::LengthDelimited, &mut out);
        encoding::encode_varint(len as u64, &mut out);
        message.encode_raw(&mut out);
        encoding::encode_key(FIELD_HEADER, WireType::LengthDelimited, &mut out);
        encoding::encode_varint(header_len as u64, &mut out);
        encoding::uint64::encode(FIELD_HEADER_ID, &id, &mut out);
        out.into()
    }

    /// Reads a command without copying its body.
    ///
    /// # Errors
    /// If the bytes carry a kind that this version does not know, no command, several, or are damaged.
    pub fn decode(bytes: Bytes) -> Result<Self, CommandError> {
        match old_request::alone(&bytes)? {
            Some(command) => Ok(command),
            None => Self::decode_fields(bytes),
        }
    }

    fn decode_fields(mut bytes: Bytes) -> Result<Self, CommandError> {
        let malformed = |error: metastore_proto::prost::DecodeError| CommandError::Malformed(error.to_string());
        let (mut id, mut command) = (0, None);
        while bytes.has_remaining() {
            let (field, wire) = encoding::decode_key(&mut bytes).map_err(malformed)?;
            if field == FIELD_ID {
                encoding::uint64::merge(wire, &mut id, &mut bytes, DecodeContext::default()).map_err(malformed)?;
                continue;
            }
            let kind = Kind::from_field(field);
            let old_request = field == old_request::FIELD_IN_COMMAND;
            if kind.is_none() && field != FIELD_HEADER && !old_request {
                return Err(CommandError::UnknownKind(field));
            }
            let mut body = Bytes::new();
            encoding::bytes::merge(wire, &mut body, &mut bytes, DecodeContext::default()).map_err(malformed)?;
            match kind {
                None if !old_request => id = header_id(body).map_err(malformed)?.unwrap_or(id),
                _ if command.is_some() => {
                    return Err(CommandError::Malformed(format!("a second command of kind {field} in one entry")));
                }
                Some(kind) => command = Some((kind, body)),
                None => {
                    let old = old_request::decode(body)?;
                    id = if id == 0 { old.id } else { id };
                    command = Some((old.kind, old.body));
                }
            }
        }
        match command {
            Some((kind, body)) => Ok(Self { id, kind, body }),
            None => Err(CommandError::Malformed("an entry without a command".into())),
        }
    }
}

fn header_id(mut header: Bytes) -> Result<Option<u64>, metastore_proto::prost::DecodeError> {
    let mut id = None;
    while header.has_remaining() {
        let (field, wire) = encoding::decode_key(&mut header)?;
        if field == FIELD_HEADER_ID {
            let mut number = 0;
            encoding::uint64::merge(wire, &mut number, &mut header, DecodeContext::default())?;
            id = Some(number);
        } else {
            encoding::skip_field(wire, field, &mut header, DecodeContext::default())?;
        }
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use metastore_proto::etcdserverpb::{InternalRaftRequest, PutRequest};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_etcds() {
        let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let bytes = Command::encode(7, Kind::Put, &put);
        let decoded = InternalRaftRequest::decode(bytes.clone()).unwrap();
        assert_eq!(decoded.header.unwrap().id, 7);
        assert_eq!(decoded.put.unwrap(), put);
        let command = Command::decode(bytes).unwrap();
        assert_eq!((command.id, command.kind), (7, Kind::Put));
    }

    #[test]
    fn an_unknown_kind_is_named_not_skipped() {
        let mut bytes = Vec::new();
        encoding::encode_key(1100, WireType::LengthDelimited, &mut bytes);
        encoding::encode_varint(0, &mut bytes);
        assert_eq!(Command::decode(bytes.into()), Err(CommandError::UnknownKind(1100)));
    }

    #[test]
    fn two_commands_or_none_are_malformed() {
        let one = Command::encode(1, Kind::Put, &PutRequest::default());
        let two = [&one[..], &one[..]].concat();
        assert!(matches!(Command::decode(two.into()), Err(CommandError::Malformed(_))));
        assert!(matches!(Command::decode(Bytes::new()), Err(CommandError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Command::decode(bytes.into());
        }
    }
}
