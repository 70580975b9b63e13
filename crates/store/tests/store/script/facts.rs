//! Commands about data beside the keys: alarms, users, roles, downgrades.
//!
//! ```text
//!   alarm get|activate|deactivate [member=N] [kind=N]
//!   auth_enable | auth_disable
//!   user_add NAME [hash=BASE64] [no_password] | user_delete NAME | user_password NAME [hash=BASE64]
//!   login NAME [LETTERS]                                with the random part of a simple token
//!   user_grant USER ROLE | user_revoke USER ROLE
//!   role_add NAME | role_delete NAME
//!   role_grant ROLE read|write|readwrite KEY [end=KEY | prefix | from] | role_grant ROLE
//!   role_revoke ROLE KEY [end=KEY | prefix | from]
//!   downgrade VERSION | downgrade_cancel
//!   ask KIND                                            a query, which changes nothing, by the number of its kind
//!   as USER AUTH_REVISION COMMAND ...                   a command in the name of a user
//!   rows TABLE
//! ```

use metastore_engine::Table;
use metastore_proto::authpb::permission::Type;
use metastore_proto::authpb::{Permission, UserAddOptions};
use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::{
    AlarmRequest, AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest,
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest,
    AuthUserDeleteRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, InternalAuthenticateRequest,
};
use metastore_proto::membershippb::DowngradeInfoSetRequest;
use metastore_store::command::{Caller, Kind};

use super::scripted_store::{ScriptedStore, or_nothing};
use super::trace::text;
use super::words::{Options, Result, bytes, number, word};

impl ScriptedStore {
    /// Runs a command of this module; `None` if it is another command.
    pub fn run_facts(&mut self, command: &str, words: &[&str]) -> Result<Option<Vec<String>>> {
        Ok(Some(match command {
            "alarm" => self.alarm(words)?,
            "as" => return self.run_as(words).map(Some),
            "rows" => self.rows(word(words, 0)?)?,
            "ask" => {
                let number: u32 = number(word(words, 0)?)?;
                let kind = Kind::ALL.into_iter().find(|kind| *kind as u32 == number).ok_or("no such kind")?;
                self.apply(kind, &())?
            }
            "downgrade" => {
                let ver = word(words, 0)?.to_owned();
                self.apply(Kind::DowngradeInfoSet, &DowngradeInfoSetRequest { enabled: true, ver })?
            }
            "downgrade_cancel" => self.apply(Kind::DowngradeInfoSet, &DowngradeInfoSetRequest::default())?,
            "auth_enable" => self.apply(Kind::AuthEnable, &AuthEnableRequest {})?,
            "auth_disable" => self.apply(Kind::AuthDisable, &AuthDisableRequest {})?,
            _ => return self.users(command, words),
        }))
    }

    fn alarm(&mut self, words: &[&str]) -> Result<Vec<String>> {
        let options = Options::new(words.get(1..).unwrap_or_default(), &["member", "kind"])?;
        let action = match word(words, 0)? {
            "get" => AlarmAction::Get,
            "activate" => AlarmAction::Activate,
            "deactivate" => AlarmAction::Deactivate,
            other => return Err(format!("unknown action {other:?}")),
        };
        let (member_id, alarm) = (options.number("member")?, options.number("kind")?);
        self.apply(Kind::Alarm, &AlarmRequest { action: action.into(), member_id, alarm })
    }

    fn run_as(&mut self, words: &[&str]) -> Result<Vec<String>> {
        let user = word(words, 0)?.to_owned();
        let auth_revision = number(word(words, 1)?)?;
        self.caller = Caller { user: user.into(), auth_revision };
        let trace = self.run(&words[2..]);
        self.caller = Caller::default();
        trace
    }

    fn users(&mut self, command: &str, words: &[&str]) -> Result<Option<Vec<String>>> {
        let name = || word(words, 0).and_then(|name| Ok(String::from_utf8_lossy(&bytes(name)?).into_owned()));
        let options = |known| Options::new(words.get(1..).unwrap_or_default(), known);
        Ok(Some(match command {
            "user_add" => {
                let options = options(&["hash", "no_password"])?;
                let request = AuthUserAddRequest {
                    name: name()?,
                    options: options.has("no_password").then_some(UserAddOptions { no_password: true }),
                    hashed_password: options.get("hash").unwrap_or_default().to_owned(),
                    ..AuthUserAddRequest::default()
                };
                self.apply(Kind::AuthUserAdd, &request)?
            }
            "user_password" => {
                let hashed_password = options(&["hash"])?.get("hash").unwrap_or_default().to_owned();
                let request = AuthUserChangePasswordRequest { name: name()?, hashed_password, ..Default::default() };
                self.apply(Kind::AuthUserChangePassword, &request)?
            }
            "login" => {
                let simple_token = words.get(1).copied().unwrap_or_default().to_owned();
                let request = InternalAuthenticateRequest { name: name()?, simple_token, ..Default::default() };
                self.apply(Kind::Authenticate, &request)?
            }
            "user_delete" => self.apply(Kind::AuthUserDelete, &AuthUserDeleteRequest { name: name()? })?,
            "user_grant" => {
                let request = AuthUserGrantRoleRequest { user: name()?, role: word(words, 1)?.to_owned() };
                self.apply(Kind::AuthUserGrantRole, &request)?
            }
            "user_revoke" => {
                let request = AuthUserRevokeRoleRequest { name: name()?, role: word(words, 1)?.to_owned() };
                self.apply(Kind::AuthUserRevokeRole, &request)?
            }
            "role_add" => self.apply(Kind::AuthRoleAdd, &AuthRoleAddRequest { name: name()? })?,
            "role_delete" => self.apply(Kind::AuthRoleDelete, &AuthRoleDeleteRequest { role: name()? })?,
            "role_grant" if words.len() == 1 => {
                let request = AuthRoleGrantPermissionRequest { name: name()?, perm: None };
                self.apply(Kind::AuthRoleGrantPermission, &request)?
            }
            "role_grant" => {
                let perm_type = match word(words, 1)? {
                    "read" => Type::Read,
                    "write" => Type::Write,
                    "readwrite" => Type::Readwrite,
                    other => return Err(format!("unknown permission {other:?}")),
                };
                let (key, range_end) = range(&words[2..])?;
                let perm = Permission { perm_type: perm_type.into(), key: key.into(), range_end: range_end.into() };
                let request = AuthRoleGrantPermissionRequest { name: name()?, perm: Some(perm) };
                self.apply(Kind::AuthRoleGrantPermission, &request)?
            }
            "role_revoke" => {
                let (key, range_end) = range(&words[1..])?;
                let (key, range_end) = (key.into(), range_end.into());
                let request = AuthRoleRevokePermissionRequest { role: name()?, key, range_end };
                self.apply(Kind::AuthRoleRevokePermission, &request)?
            }
            _ => return Ok(None),
        }))
    }

    fn rows(&self, name: &str) -> Result<Vec<String>> {
        let table = Table::ALL.into_iter().find(|table| table.name() == name).ok_or("no such table")?;
        let rows = self.store.view().engine().rows(table, b"").expect("the engine does not fail");
        Ok(or_nothing(rows.iter().map(|(key, value)| format!("{} = {}", text(key), text(value))).collect()))
    }
}

fn range(words: &[&str]) -> Result<(Vec<u8>, Vec<u8>)> {
    let key = bytes(word(words, 0)?)?;
    let options = Options::new(words.get(1..).unwrap_or_default(), &["end", "prefix", "from"])?;
    let end = options.range_end(&key)?;
    Ok((key, end))
}
