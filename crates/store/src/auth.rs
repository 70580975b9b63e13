//! Users, roles and permissions (etcd: `server/auth/store.go`).
//!
//! ```text
//!   commands ─▶ changes.rs      users and roles, and their rows in etcd's bytes
//!               permission.rs   may this caller do that?  ◀── every command, while authentication is enabled
//!               inverted.rs     the same for a range that ends before it begins
//! ```
//!
//! A member of etcd checks permissions when a command is applied, because the member that a client talks to may have an
//! outdated view of the users. MetaStore must do the same: if etcd refused a command that is applied here, the states
//! would differ.
//!
//! A member that serves a request checks it first, with the same functions and the auth state of the view from which it
//! reads ([`crate::mvcc::View::auth`]).
//!
//! Deliberately absent: the comparison of passwords (before a login is proposed); tokens (no part of the state).

mod changes;
mod inverted;
mod permission;

pub use permission::Access;

use std::collections::BTreeMap;

use bytes::Bytes;
use metastore_engine::{Engine, EngineError, Table};
use metastore_proto::Message;
use metastore_proto::authpb::permission::Type;
use metastore_proto::authpb::{Permission, Role, User};

use crate::Refusal;
use crate::command::Caller;
use crate::schema::{AUTH_ENABLED, AUTH_REVISION, FIRST_AUTH_REVISION};

/// The user without which authentication cannot be enabled, and the role that permits everything.
const ROOT: &str = "root";
/// The content of the row [`AUTH_ENABLED`].
const ENABLED: &[u8] = &[1];
const DISABLED: &[u8] = &[0];

/// All users and roles, as they are stored in the rows of the state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Auth {
    enabled: bool,
    /// Grows with each change of users, roles and permissions.
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
}

impl Auth {
    /// Reads the users and roles that `engine` holds. An empty state gets the row that etcd writes at its first start,
    /// so that Hash is the same.
    pub(crate) fn load(engine: &dyn Engine) -> Result<Self, EngineError> {
        let enabled = engine.get(Table::Auth, AUTH_ENABLED)?.as_deref() == Some(ENABLED);
        let revision = match engine.get(Table::Auth, AUTH_REVISION)? {
            Some(bytes) => u64::from_be_bytes(bytes[..].try_into().map_err(|_| {
                EngineError(format!("row authRevision of table auth is damaged: expected 8 bytes, found {bytes:?}"))
            })?),
            None => {
                engine.put(Table::Auth, AUTH_REVISION, &FIRST_AUTH_REVISION.to_be_bytes())?;
                FIRST_AUTH_REVISION
            }
        };
        let users = load_rows(engine, Table::AuthUsers)?;
        let roles = load_rows(engine, Table::AuthRoles)?;
        Ok(Self { enabled, revision, users, roles })
    }

    /// Grows with each change of users, roles and permissions.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// The names of all users, sorted.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// The permissions of a role, sorted by key. The role root permits everything, whatever was granted to it.
    pub fn permissions(&self, role: &str) -> Option<Vec<Permission>> {
        let row = self.roles.get(role)?;
        if role != ROOT {
            return Some(row.key_permission.clone());
        }
        let perm_type = Type::Readwrite.into();
        Some(vec![Permission { perm_type, key: Bytes::new(), range_end: Bytes::from_static(b"\0") }])
    }

    /// The names of all roles, sorted.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The user of a login, if it may have a token.
    ///
    /// # Errors
    /// As etcd: authentication is not enabled, there is no such user, or the user has no password.
    pub fn may_log_in(&self, user: &str) -> Result<&User, Refusal> {
        if !self.enabled {
            return Err(Refusal::AuthNotEnabled);
        }
        let user = self.users.get(user).ok_or(Refusal::AuthFailed)?;
        let no_password = user.options.as_ref().is_some_and(|options| options.no_password);
        if no_password { Err(Refusal::NoPasswordUser) } else { Ok(user) }
    }

    /// Whether clients must authenticate.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// The caller for commands that a member proposes on its own, without a client.
    pub fn own_caller(&self) -> Caller {
        if self.enabled {
            Caller { user: Bytes::from_static(ROOT.as_bytes()), auth_revision: self.revision }
        } else {
            Caller::default()
        }
    }
}

/// The rows of a table, keyed by name.
fn load_rows<T: Message + Default>(engine: &dyn Engine, table: Table) -> Result<BTreeMap<String, T>, EngineError> {
    let read = |(key, value): (Vec<u8>, Vec<u8>)| {
        let damaged = |error: &dyn std::fmt::Display| {
            EngineError(format!("row {} of table {} is damaged: {error}", key.escape_ascii(), table.name()))
        };
        let row = T::decode(&value[..]).map_err(|error| damaged(&error))?;
        let name = std::str::from_utf8(&key).map_err(|error| damaged(&error))?;
        Ok((name.to_owned(), row))
    };
    engine.rows(table, b"")?.into_iter().map(read).collect()
}
