//! Commands about data beside the keys: alarms, users and roles, a downgrade in progress.

use std::sync::Arc;

use metastore_proto::Message;
use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
    InternalAuthenticateRequest,
};
use metastore_proto::membershippb::DowngradeInfoSetRequest;

use bytes::Bytes;

use super::command::Kind;
use super::{Applying, HaltCause, Reply};
use crate::Store;

impl Store {
    /// Answers with the alarms that were queried, activated or deactivated.
    pub(super) fn alarm(&mut self, request: &AlarmRequest) -> Applying<Reply> {
        let alarm = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let none = alarm.alarm == AlarmType::None as i32;
        let engine = self.engine.as_ref();
        let concerned = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.alarms.of(request.alarm),
            Ok(AlarmAction::Activate) if !none => {
                self.alarms.raise(engine, &alarm)?;
                vec![alarm]
            }
            Ok(AlarmAction::Deactivate) if self.alarms.clear(engine, &alarm)? => vec![alarm],
            Ok(AlarmAction::Activate | AlarmAction::Deactivate) | Err(_) => Vec::new(),
        };
        Ok(Reply::Alarms(concerned))
    }

    /// A login: the member that proposed it has compared the password. The token holds the index of the entry
    /// before that of the login, as in etcd: tokens are equal on all members. A member can tell from it whether it has
    /// applied the login.
    pub(super) fn log_in(&self, request: InternalAuthenticateRequest) -> Applying<Reply> {
        let InternalAuthenticateRequest { name: user, simple_token, .. } = request;
        self.auth.may_log_in(&user)?;
        let before = self.applied.index.saturating_sub(1);
        let token = if simple_token.is_empty() { String::new() } else { format!("{simple_token}.{before}") };
        Ok(Reply::LoggedIn { user, token, auth_revision: self.auth.revision() })
    }

    /// Applies a command that changes users or roles.
    pub(super) fn change_auth(&mut self, kind: Kind, body: Bytes) -> Applying<Reply> {
        let (auth, engine) = (Arc::make_mut(&mut self.auth), self.engine.as_ref());
        match kind {
            Kind::AuthEnable => auth.enable(engine)?,
            Kind::AuthDisable => {
                auth.disable(engine)?;
                return Ok(Reply::AllLoggedOut);
            }
            Kind::AuthUserAdd => auth.add_user(engine, Message::decode(body)?)?,
            Kind::AuthUserDelete => {
                let request = AuthUserDeleteRequest::decode(body)?;
                auth.delete_user(engine, &request)?;
                return Ok(Reply::LoggedOut { user: request.name });
            }
            Kind::AuthUserChangePassword => {
                let request = AuthUserChangePasswordRequest::decode(body)?;
                let user = request.name.clone();
                auth.change_password(engine, request)?;
                return Ok(Reply::LoggedOut { user });
            }
            Kind::AuthUserGrantRole => auth.grant_role(engine, Message::decode(body)?)?,
            Kind::AuthUserRevokeRole => auth.revoke_role(engine, Message::decode(body)?)?,
            Kind::AuthRoleAdd => auth.add_role(engine, Message::decode(body)?)?,
            Kind::AuthRoleDelete => auth.delete_role(engine, &Message::decode(body)?)?,
            Kind::AuthRoleGrantPermission => auth.grant_permission(engine, Message::decode(body)?)?,
            Kind::AuthRoleRevokePermission => auth.revoke_permission(engine, &Message::decode(body)?)?,
            other => return Err(HaltCause::Malformed(format!("{other:?} is no change of users or roles")).into()),
        }
        Ok(Reply::Recorded)
    }

    pub(super) fn set_downgrade(&mut self, request: DowngradeInfoSetRequest) -> Applying<Reply> {
        let target = request.enabled.then_some(request.ver);
        self.members.set_downgrade(self.engine.as_ref(), target)?;
        Ok(Reply::Recorded)
    }
}
