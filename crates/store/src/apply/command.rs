//! The outermost layer of a log entry: the command that it carries, and the request that proposed it.
//!
//! It is decoded by hand, because a generic decoder skips fields that it does not know. A member that skipped a command
//! of a newer version would continue with a state that no other member has.

use bytes::{Buf, Bytes};
use metastore_proto::Message;
use metastore_proto::prost::DecodeError;
use metastore_proto::prost::encoding::{self, DecodeContext, WireType};

use super::old_request;

/// Kinds of commands: all that etcd 3.5 to 3.8 write. The numbers are the fields of etcd's `InternalRaftRequest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    Range = 3,
    Put = 4,
    DeleteRange = 5,
    Txn = 6,
    Compaction = 7,
    LeaseGrant = 8,
    LeaseRevoke = 9,
    Alarm = 10,
    LeaseCheckpoint = 11,
    AuthEnable = 1000,
    AuthDisable = 1011,
    Authenticate = 1012,
    AuthStatus = 1013,
    AuthUserAdd = 1100,
    AuthUserDelete = 1101,
    AuthUserGet = 1102,
    AuthUserChangePassword = 1103,
    AuthUserGrantRole = 1104,
    AuthUserRevokeRole = 1105,
    AuthUserList = 1106,
    AuthRoleList = 1107,
    AuthRoleAdd = 1200,
    AuthRoleDelete = 1201,
    AuthRoleGet = 1202,
    AuthRoleGrantPermission = 1203,
    AuthRoleRevokePermission = 1204,
    ClusterVersionSet = 1300,
    ClusterMemberAttrSet = 1301,
    DowngradeInfoSet = 1302,
    DowngradeVersionTest = 9900,
}

/// The kinds that change users, roles or permissions, as a pattern, so that a match with it stays exhaustive.
macro_rules! changes_users {
    () => {
        Kind::AuthEnable
            | Kind::AuthDisable
            | Kind::AuthUserAdd
            | Kind::AuthUserDelete
            | Kind::AuthUserChangePassword
            | Kind::AuthUserGrantRole
            | Kind::AuthUserRevokeRole
            | Kind::AuthRoleAdd
            | Kind::AuthRoleDelete
            | Kind::AuthRoleGrantPermission
            | Kind::AuthRoleRevokePermission
    };
}
pub(super) use changes_users;

/// The kinds that change nothing, as a pattern: queries. `DowngradeVersionTest` is written by etcd's own tests. The
/// bodies of these commands are never read.
macro_rules! changes_nothing {
    () => {
        Kind::Range
            | Kind::AuthStatus
            | Kind::AuthUserGet
            | Kind::AuthUserList
            | Kind::AuthRoleGet
            | Kind::AuthRoleList
            | Kind::DowngradeVersionTest
    };
}
pub(super) use changes_nothing;

impl Kind {
    /// Every kind, the frequent ones first.
    pub const ALL: [Self; 30] = [
        Self::Put,
        Self::Txn,
        Self::DeleteRange,
        Self::Compaction,
        Self::LeaseGrant,
        Self::LeaseRevoke,
        Self::Range,
        Self::Alarm,
        Self::LeaseCheckpoint,
        Self::AuthEnable,
        Self::AuthDisable,
        Self::Authenticate,
        Self::AuthStatus,
        Self::AuthUserAdd,
        Self::AuthUserDelete,
        Self::AuthUserGet,
        Self::AuthUserChangePassword,
        Self::AuthUserGrantRole,
        Self::AuthUserRevokeRole,
        Self::AuthUserList,
        Self::AuthRoleList,
        Self::AuthRoleAdd,
        Self::AuthRoleDelete,
        Self::AuthRoleGet,
        Self::AuthRoleGrantPermission,
        Self::AuthRoleRevokePermission,
        Self::ClusterVersionSet,
        Self::ClusterMemberAttrSet,
        Self::DowngradeInfoSet,
        Self::DowngradeVersionTest,
    ];

    fn from_field(field: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u32 == field)
    }
}

const FIELD_ID: u32 = 1;
const FIELD_HEADER: u32 = 100;
const FIELD_HEADER_ID: u32 = 1;
const FIELD_HEADER_USER: u32 = 2;
const FIELD_HEADER_AUTH_REVISION: u32 = 3;

/// The user in whose name a command was proposed, and the auth revision at that time. Both are empty if authentication
/// was disabled on the member that proposed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    pub user: Bytes,
    pub auth_revision: u64,
}

/// A command as it is stored in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The id of the request that waits for the outcome; unique across restarts. 0 if no request waits.
    pub id: u64,
    pub kind: Kind,
    pub caller: Caller,
    /// The encoded message of the command.
    pub body: Bytes,
}

/// Why the bytes of an entry cannot be read as a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("command kind {0}, which this version does not know")]
    UnknownKind(u32),
    #[error(
        "a request of etcd's old API, {method} {path:?}, which is neither a member's attributes nor the cluster version"
    )]
    OldRequest { method: String, path: String },
    #[error("{0}")]
    Malformed(String),
}

impl Command {
    /// Encodes a command for the log: its message, and a header with the id of the request.
    pub fn encode(id: u64, kind: Kind, message: &impl Message) -> Bytes {
        Self::encode_as(&Caller::default(), id, kind, message)
    }

    /// As [`Command::encode`], in the name of a user.
    pub fn encode_as(caller: &Caller, id: u64, kind: Kind, message: &impl Message) -> Bytes {
        let Caller { user, auth_revision } = caller;
        let mut header_len = encoding::uint64::encoded_len(FIELD_HEADER_ID, &id);
        if *caller != Caller::default() {
            header_len += encoding::bytes::encoded_len(FIELD_HEADER_USER, user)
                + encoding::uint64::encoded_len(FIELD_HEADER_AUTH_REVISION, auth_revision);
        }
        let len = message.encoded_len();
        let mut out = Vec::with_capacity(len + header_len + 20);
        encoding::encode_key(kind as u32, WireType::LengthDelimited, &mut out);
        encoding::encode_varint(len as u64, &mut out);
        message.encode_raw(&mut out);
        encoding::encode_key(FIELD_HEADER, WireType::LengthDelimited, &mut out);
        encoding::encode_varint(header_len as u64, &mut out);
        encoding::uint64::encode(FIELD_HEADER_ID, &id, &mut out);
        if *caller != Caller::default() {
            encoding::bytes::encode(FIELD_HEADER_USER, user, &mut out);
            encoding::uint64::encode(FIELD_HEADER_AUTH_REVISION, auth_revision, &mut out);
        }
        out.into()
    }

    /// Reads a command without copying its body.
    ///
    /// # Errors
    /// If the bytes carry a kind that this version does not know, no command or several, or if they are damaged.
    pub fn decode(bytes: Bytes) -> Result<Self, CommandError> {
        match old_request::alone(&bytes)? {
            Some(command) => Ok(command),
            None => Self::decode_fields(bytes),
        }
    }

    fn decode_fields(mut bytes: Bytes) -> Result<Self, CommandError> {
        let (mut id, mut command, mut caller) = (0, None, Caller::default());
        while bytes.has_remaining() {
            let (field, wire) = encoding::decode_key(&mut bytes).map_err(malformed)?;
            if field == FIELD_ID {
                encoding::uint64::merge(wire, &mut id, &mut bytes, DecodeContext::default()).map_err(malformed)?;
                continue;
            }
            if field == FIELD_HEADER {
                let header = message_of(wire, &mut bytes)?;
                id = read_header(header, &mut caller).map_err(malformed)?.unwrap_or(id);
                continue;
            }
            let kind = Kind::from_field(field);
            if kind.is_none() && field != old_request::FIELD_IN_COMMAND {
                return Err(CommandError::UnknownKind(field));
            }
            let body = message_of(wire, &mut bytes)?;
            if command.is_some() {
                return Err(CommandError::Malformed(format!("a second command of kind {field} in one entry")));
            }
            command = match kind {
                Some(kind) => Some((kind, body)),
                None => {
                    let old = old_request::decode(body)?;
                    id = if id == 0 { old.id } else { id };
                    Some((old.kind, old.body))
                }
            };
        }
        match command {
            Some((kind, body)) => Ok(Self { id, kind, caller, body }),
            None => Err(CommandError::Malformed("an entry without a command".into())),
        }
    }
}

fn malformed(error: DecodeError) -> CommandError {
    CommandError::Malformed(error.to_string())
}

fn message_of(wire: WireType, bytes: &mut Bytes) -> Result<Bytes, CommandError> {
    let mut message = Bytes::new();
    encoding::bytes::merge(wire, &mut message, bytes, DecodeContext::default()).map_err(malformed)?;
    Ok(message)
}

/// Reads the header: the id of the request, if there is one, and the caller.
fn read_header(mut header: Bytes, caller: &mut Caller) -> Result<Option<u64>, DecodeError> {
    let mut id = None;
    while header.has_remaining() {
        let (field, wire) = encoding::decode_key(&mut header)?;
        let context = DecodeContext::default();
        match field {
            FIELD_HEADER_ID => encoding::uint64::merge(wire, id.insert(0), &mut header, context)?,
            FIELD_HEADER_USER => encoding::bytes::merge(wire, &mut caller.user, &mut header, context)?,
            FIELD_HEADER_AUTH_REVISION => {
                encoding::uint64::merge(wire, &mut caller.auth_revision, &mut header, context)?;
            }
            _ => encoding::skip_field(wire, field, &mut header, context)?,
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
        encoding::encode_key(1303, WireType::LengthDelimited, &mut bytes);
        encoding::encode_varint(0, &mut bytes);
        assert_eq!(Command::decode(bytes.into()), Err(CommandError::UnknownKind(1303)));
    }

    #[test]
    fn the_caller_stands_in_the_header() {
        // A certificate without a common name shows a caller without a name, which is not the same as no caller.
        for user in ["alice", ""] {
            let caller = Caller { user: user.into(), auth_revision: 300 };
            let bytes = Command::encode_as(&caller, 7, Kind::Put, &PutRequest::default());
            let header = InternalRaftRequest::decode(bytes.clone()).unwrap().header.unwrap();
            assert_eq!((header.id, &header.username[..], header.auth_revision), (7, user, 300));
            assert_eq!(Command::decode(bytes).unwrap().caller, caller);
        }
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
