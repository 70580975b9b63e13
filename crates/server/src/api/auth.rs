//! The Auth service: users, roles, permissions, and logins (etcd: `server/etcdserver/v3_server.go`).
//!
//! Changes go through the log. A password is hashed before it is proposed, and compared before a login is proposed: the
//! log holds neither passwords nor anything that depends on a clock or on chance when it is applied.

use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest,
    AuthRoleGetResponse, AuthRoleGrantPermissionRequest, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthStatusRequest, AuthStatusResponse, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest, AuthUserGetResponse,
    AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthenticateRequest, AuthenticateResponse, InternalAuthenticateRequest, ResponseHeader,
};
use metastore_store::command::Kind;
use metastore_store::{Auth, Refusal, Reply};

use super::encode::{self, Header};
use super::unary;
use crate::auth::passwords::PasswordError;
use crate::grpc::{Call, Frame, Router, Status};
use crate::member::{MemberHandle, errors, mismatch};

const SERVICE: &str = "etcdserverpb.Auth";

/// A method whose request becomes a command as it is.
macro_rules! change {
    ($router:expr, $member:expr, $method:literal, $kind:expr, $request:ty) => {{
        async fn handler(member: &MemberHandle, call: Call, request: $request) -> Result<Frame, Status> {
            propose(member, &call, $kind, &request).await
        }
        unary!($router, $member, SERVICE, $method, handler);
    }};
}

pub fn register(router: &mut Router, member: &Rc<MemberHandle>) {
    unary!(router, member, SERVICE, "AuthStatus", status);
    unary!(router, member, SERVICE, "Authenticate", authenticate);
    unary!(router, member, SERVICE, "UserAdd", user_add);
    unary!(router, member, SERVICE, "UserChangePassword", user_change_password);
    unary!(router, member, SERVICE, "UserGet", user_get);
    unary!(router, member, SERVICE, "UserList", user_list);
    unary!(router, member, SERVICE, "RoleGet", role_get);
    unary!(router, member, SERVICE, "RoleList", role_list);
    change!(router, member, "AuthEnable", Kind::AuthEnable, AuthEnableRequest);
    change!(router, member, "AuthDisable", Kind::AuthDisable, AuthDisableRequest);
    change!(router, member, "UserDelete", Kind::AuthUserDelete, AuthUserDeleteRequest);
    change!(router, member, "UserGrantRole", Kind::AuthUserGrantRole, AuthUserGrantRoleRequest);
    change!(router, member, "UserRevokeRole", Kind::AuthUserRevokeRole, AuthUserRevokeRoleRequest);
    change!(router, member, "RoleAdd", Kind::AuthRoleAdd, AuthRoleAddRequest);
    change!(router, member, "RoleDelete", Kind::AuthRoleDelete, AuthRoleDeleteRequest);
    change!(router, member, "RoleGrantPermission", Kind::AuthRoleGrantPermission, AuthRoleGrantPermissionRequest);
    change!(router, member, "RoleRevokePermission", Kind::AuthRoleRevokePermission, AuthRoleRevokePermissionRequest);
}

async fn propose(member: &MemberHandle, call: &Call, kind: Kind, request: &impl Message) -> Result<Frame, Status> {
    match member.propose(call, kind, request).await? {
        (revision, Reply::Recorded | Reply::LoggedOut { .. } | Reply::AllLoggedOut) => {
            encode::header_only(Header::new(&member.shared, revision))
        }
        (_, other) => Err(mismatch(&other)),
    }
}

async fn user_add(member: &MemberHandle, call: Call, request: AuthUserAddRequest) -> Result<Frame, Status> {
    let AuthUserAddRequest { name, password, options, .. } = request;
    let no_password = options.as_ref().is_some_and(|options| options.no_password);
    let hashed_password = if no_password { String::new() } else { hash(member, password).await? };
    let request = AuthUserAddRequest { name, options, hashed_password, ..AuthUserAddRequest::default() };
    propose(member, &call, Kind::AuthUserAdd, &request).await
}

/// As in etcd, an empty password leaves the user without one.
async fn user_change_password(
    member: &MemberHandle,
    call: Call,
    request: AuthUserChangePasswordRequest,
) -> Result<Frame, Status> {
    let AuthUserChangePasswordRequest { name, password, .. } = request;
    let hashed_password = if password.is_empty() { String::new() } else { hash(member, password).await? };
    let request = AuthUserChangePasswordRequest { name, hashed_password, ..Default::default() };
    propose(member, &call, Kind::AuthUserChangePassword, &request).await
}

async fn hash(member: &MemberHandle, password: String) -> Result<String, Status> {
    Ok(STANDARD.encode(member.auth.passwords.hash(password).await.map_err(password_error)?))
}

fn password_error(error: PasswordError) -> Status {
    match error {
        PasswordError::Busy => errors::too_many_requests(),
        other => Status::unknown(other.to_string()),
    }
}

/// A login. The password is compared with the newest one; if users or roles change meanwhile, it is compared again, as
/// in etcd.
async fn authenticate(member: &MemberHandle, call: Call, request: AuthenticateRequest) -> Result<Frame, Status> {
    let AuthenticateRequest { name, password } = request;
    member.read_barrier(&call).await?;
    loop {
        let auth = member.view().auth().ok_or_else(|| errors::refused(Refusal::AuthNotEnabled))?;
        compare(member, &auth, &name, password.clone()).await?;
        let request = InternalAuthenticateRequest {
            name: name.clone(),
            simple_token: member.auth.new_token(),
            ..InternalAuthenticateRequest::default()
        };
        match member.propose(&call, Kind::Authenticate, &request).await? {
            (_, Reply::LoggedIn { auth_revision, .. }) if auth_revision != auth.revision() => {}
            (revision, Reply::LoggedIn { token, .. }) => {
                let token = member.auth.token(&name, token, auth.revision());
                let token = token.map_err(|error| Status::unknown(error.to_string()))?;
                return Frame::of(&AuthenticateResponse { header: Some(member.header(revision)), token });
            }
            (_, other) => return Err(mismatch(&other)),
        }
    }
}

async fn compare(member: &MemberHandle, auth: &Auth, name: &str, password: String) -> Result<(), Status> {
    let checked = match auth.may_log_in(name) {
        Ok(user) => {
            let hash = user.password.clone();
            let same = member.auth.passwords.verify(password, hash).await.map_err(password_error)?;
            if same { Ok(()) } else { Err(Refusal::AuthFailed) }
        }
        Err(refusal) => Err(refusal),
    };
    checked.map_err(|refusal| {
        seldom!(warn, name, user = %name, error = %refusal, "invalid authentication was requested");
        errors::refused(refusal)
    })
}

async fn status(member: &MemberHandle, call: Call, _request: AuthStatusRequest) -> Result<Frame, Status> {
    let auth = newest(member, &call).await?;
    let (enabled, auth_revision) = (auth.enabled(), auth.revision());
    Frame::of(&AuthStatusResponse { header: Some(header(member)), enabled, auth_revision })
}

/// The users and permissions with everything that was acknowledged. Like etcd, which sends these requests through its
/// log, this needs a quorum.
async fn newest(member: &MemberHandle, call: &Call) -> Result<Arc<Auth>, Status> {
    member.quorum(call).await?;
    Ok(member.view().users())
}

fn header(member: &MemberHandle) -> ResponseHeader {
    member.header(member.view().revision())
}

async fn user_get(member: &MemberHandle, call: Call, request: AuthUserGetRequest) -> Result<Frame, Status> {
    let auth = newest(member, &call).await?;
    if request.name.as_bytes() != call.caller.user {
        auth.admin(&call.caller).map_err(errors::refused)?;
    }
    let user = auth.user(&request.name).ok_or_else(|| errors::refused(Refusal::UserNotFound))?;
    Frame::of(&AuthUserGetResponse { header: Some(header(member)), roles: user.roles.clone() })
}

async fn user_list(member: &MemberHandle, call: Call, _request: AuthUserListRequest) -> Result<Frame, Status> {
    let auth = newest(member, &call).await?;
    auth.admin(&call.caller).map_err(errors::refused)?;
    let users = auth.users().map(str::to_owned).collect();
    Frame::of(&AuthUserListResponse { header: Some(header(member)), users })
}

async fn role_get(member: &MemberHandle, call: Call, request: AuthRoleGetRequest) -> Result<Frame, Status> {
    let auth = newest(member, &call).await?;
    let own = std::str::from_utf8(&call.caller.user).ok().and_then(|user| auth.user(user));
    if !own.is_some_and(|user| user.roles.contains(&request.role)) {
        auth.admin(&call.caller).map_err(errors::refused)?;
    }
    let perm = auth.permissions(&request.role).ok_or_else(|| errors::refused(Refusal::RoleNotFound))?;
    Frame::of(&AuthRoleGetResponse { header: Some(header(member)), perm })
}

async fn role_list(member: &MemberHandle, call: Call, _request: AuthRoleListRequest) -> Result<Frame, Status> {
    let auth = newest(member, &call).await?;
    auth.admin(&call.caller).map_err(errors::refused)?;
    let roles = auth.roles().map(str::to_owned).collect();
    Frame::of(&AuthRoleListResponse { header: Some(header(member)), roles })
}
