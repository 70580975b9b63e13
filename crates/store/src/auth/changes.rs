//! The commands that change users, roles and permissions. Rows have the same bytes as in etcd.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use metastore_engine::{Engine, EngineError, Table};
use metastore_proto::Message;
use metastore_proto::authpb::{Permission, Role, User, UserAddOptions};
use metastore_proto::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest,
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest,
};

use super::{Auth, DISABLED, ENABLED, ROOT};
use crate::Refusal;
use crate::not_done::NotDone;
use crate::schema::{AUTH_ENABLED, AUTH_REVISION};

/// The result of a change. If it is refused, nothing has changed.
type Changing = Result<(), NotDone<EngineError>>;

/// Base64 as Go's decoder accepts it: with padding, and with any value of the unused bits.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

impl Auth {
    pub(crate) fn enable(&mut self, engine: &dyn Engine) -> Changing {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(Refusal::RootUserNotFound)?;
        if !is_root(root) {
            return Err(Refusal::RootRoleNotFound.into());
        }
        engine.put(Table::Auth, AUTH_ENABLED, ENABLED)?;
        self.enabled = true;
        Ok(())
    }

    pub(crate) fn disable(&mut self, engine: &dyn Engine) -> Changing {
        if !self.enabled {
            return Ok(());
        }
        engine.put(Table::Auth, AUTH_ENABLED, DISABLED)?;
        self.enabled = false;
        self.changed(engine)
    }

    pub(crate) fn add_user(&mut self, engine: &dyn Engine, request: AuthUserAddRequest) -> Changing {
        let AuthUserAddRequest { name, options, hashed_password, .. } = request;
        if name.is_empty() {
            return Err(Refusal::UserEmpty.into());
        }
        if self.users.contains_key(&name) {
            return Err(Refusal::UserExists.into());
        }
        let options = options.unwrap_or_default();
        let password = password(Some(&options), &hashed_password)?;
        let user = User { name: name.clone().into(), password, options: Some(options), ..User::default() };
        self.put_user(engine, name, user)?;
        self.changed(engine)
    }

    pub(crate) fn delete_user(&mut self, engine: &dyn Engine, request: &AuthUserDeleteRequest) -> Changing {
        if self.enabled && request.name == ROOT {
            return Err(Refusal::InvalidAuthManagement.into());
        }
        if self.users.remove(&request.name).is_none() {
            return Err(Refusal::UserNotFound.into());
        }
        engine.delete(Table::AuthUsers, request.name.as_bytes())?;
        self.changed(engine)
    }

    pub(crate) fn change_password(&mut self, engine: &dyn Engine, request: AuthUserChangePasswordRequest) -> Changing {
        let AuthUserChangePasswordRequest { name, hashed_password, .. } = request;
        let user = self.users.get(&name).ok_or(Refusal::UserNotFound)?;
        let password = password(user.options.as_ref(), &hashed_password)?;
        let user = User { password, ..user.clone() };
        self.put_user(engine, name, user)?;
        self.changed(engine)
    }

    /// If the user has the role already, nothing changes, as in etcd. The role root need not exist.
    pub(crate) fn grant_role(&mut self, engine: &dyn Engine, request: AuthUserGrantRoleRequest) -> Changing {
        let AuthUserGrantRoleRequest { user: name, role } = request;
        let user = self.users.get(&name).ok_or(Refusal::UserNotFound)?;
        if role != ROOT && !self.roles.contains_key(&role) {
            return Err(Refusal::RoleNotFound.into());
        }
        if user.roles.contains(&role) {
            return Ok(());
        }
        let mut user = user.clone();
        user.roles.push(role);
        user.roles.sort_unstable();
        self.put_user(engine, name, user)?;
        self.changed(engine)
    }

    pub(crate) fn revoke_role(&mut self, engine: &dyn Engine, request: AuthUserRevokeRoleRequest) -> Changing {
        let AuthUserRevokeRoleRequest { name, role } = request;
        if self.enabled && name == ROOT && role == ROOT {
            return Err(Refusal::InvalidAuthManagement.into());
        }
        let user = self.users.get(&name).ok_or(Refusal::UserNotFound)?;
        let user = without_role(user, &role).ok_or(Refusal::RoleNotGranted)?;
        self.put_user(engine, name, user)?;
        self.changed(engine)
    }

    pub(crate) fn add_role(&mut self, engine: &dyn Engine, request: AuthRoleAddRequest) -> Changing {
        let AuthRoleAddRequest { name } = request;
        if name.is_empty() {
            return Err(Refusal::RoleEmpty.into());
        }
        if self.roles.contains_key(&name) {
            return Err(Refusal::RoleExists.into());
        }
        let role = Role { name: name.clone().into(), ..Role::default() };
        self.put_role(engine, name, role)?;
        self.changed(engine)
    }

    /// Deletes a role, and takes it away from all users.
    pub(crate) fn delete_role(&mut self, engine: &dyn Engine, request: &AuthRoleDeleteRequest) -> Changing {
        let AuthRoleDeleteRequest { role } = request;
        if self.enabled && role == ROOT {
            return Err(Refusal::InvalidAuthManagement.into());
        }
        if self.roles.remove(role).is_none() {
            return Err(Refusal::RoleNotFound.into());
        }
        engine.delete(Table::AuthRoles, role.as_bytes())?;
        let changed = self.users.iter().filter_map(|(name, user)| Some((name.clone(), without_role(user, role)?)));
        for (name, user) in changed.collect::<Vec<_>>() {
            self.put_user(engine, name, user)?;
        }
        self.changed(engine)
    }

    /// A permission on the same range is replaced only if it is the first permission that begins with its key. If
    /// another one stands before it, a second permission on the same range is added, as in etcd.
    pub(crate) fn grant_permission(
        &mut self,
        engine: &dyn Engine,
        request: AuthRoleGrantPermissionRequest,
    ) -> Changing {
        let AuthRoleGrantPermissionRequest { name, perm } = request;
        let perm = perm.ok_or(Refusal::PermissionNotGiven)?;
        if !is_range(&perm) {
            return Err(Refusal::InvalidAuthManagement.into());
        }
        let role = self.roles.get(&name).ok_or(Refusal::RoleNotFound)?;
        let mut role = role.clone();
        let permissions = &mut role.key_permission;
        let same = |other: &Permission| other.key == perm.key && other.range_end == perm.range_end;
        let first = permissions.iter().position(|other| other.key >= perm.key);
        match first.filter(|&at| same(&permissions[at])) {
            Some(at) => permissions[at].perm_type = perm.perm_type,
            None => {
                permissions.push(perm);
                permissions.sort_by(|one, other| one.key.cmp(&other.key));
            }
        }
        self.put_role(engine, name, role)?;
        self.changed(engine)
    }

    pub(crate) fn revoke_permission(
        &mut self,
        engine: &dyn Engine,
        request: &AuthRoleRevokePermissionRequest,
    ) -> Changing {
        let AuthRoleRevokePermissionRequest { role: name, key, range_end } = request;
        let role = self.roles.get(name).ok_or(Refusal::RoleNotFound)?;
        let mut role = role.clone();
        let before = role.key_permission.len();
        role.key_permission.retain(|perm| perm.key != key || perm.range_end != range_end);
        if role.key_permission.len() == before {
            return Err(Refusal::PermissionNotGranted.into());
        }
        self.put_role(engine, name.clone(), role)?;
        self.changed(engine)
    }

    fn put_user(&mut self, engine: &dyn Engine, name: String, user: User) -> Result<(), EngineError> {
        engine.put(Table::AuthUsers, name.as_bytes(), &user.encode_to_vec())?;
        self.users.insert(name, user);
        Ok(())
    }

    fn put_role(&mut self, engine: &dyn Engine, name: String, role: Role) -> Result<(), EngineError> {
        engine.put(Table::AuthRoles, name.as_bytes(), &role.encode_to_vec())?;
        self.roles.insert(name, role);
        Ok(())
    }

    fn changed(&mut self, engine: &dyn Engine) -> Changing {
        self.revision += 1;
        engine.put(Table::Auth, AUTH_REVISION, &self.revision.to_be_bytes())?;
        Ok(())
    }
}

pub(super) fn is_root(user: &User) -> bool {
    user.roles.iter().any(|role| role == ROOT)
}

/// The bcrypt hash to store. It is empty for users who cannot log in by password, and for a password that an etcd
/// before 3.5 proposed unhashed: each of its members hashes it differently, so that user needs a new password.
fn password(options: Option<&UserAddOptions>, hashed: &str) -> Result<Bytes, Refusal> {
    if options.is_some_and(|options| options.no_password) {
        return Ok(Bytes::new());
    }
    BASE64.decode(hashed).map(Bytes::from).map_err(|_| Refusal::NoPasswordUser)
}

/// The user without a role; `None` if the user does not have it.
fn without_role(user: &User, role: &str) -> Option<User> {
    let roles: Vec<String> = user.roles.iter().filter(|other| *other != role).cloned().collect();
    (roles.len() < user.roles.len()).then(|| User { roles, ..user.clone() })
}

/// Whether a permission names a key, or a range that can hold one.
fn is_range(perm: &Permission) -> bool {
    let Permission { key, range_end, .. } = perm;
    !key.is_empty() && (range_end.is_empty() || key < range_end || range_end == &b"\0"[..])
}

#[cfg(test)]
mod tests {
    use metastore_engine::Memory;
    use metastore_proto::authpb::permission::Type;

    use super::*;

    #[test]
    fn a_permission_replaces_that_on_its_range_only_where_it_is_the_first_of_its_key() {
        let engine = Memory::new();
        let mut auth = Auth::load(&engine).unwrap();
        auth.add_role(&engine, AuthRoleAddRequest { name: "role".into() }).unwrap();
        let mut grant = |range_end: &'static str, perm_type: Type| {
            let perm = Permission { perm_type: perm_type.into(), key: "a".into(), range_end: range_end.into() };
            let request = AuthRoleGrantPermissionRequest { name: "role".into(), perm: Some(perm) };
            auth.grant_permission(&engine, request).unwrap();
            let permissions = &auth.roles["role"].key_permission;
            permissions.iter().map(|perm| (perm.range_end.clone(), perm.perm_type())).collect::<Vec<_>>()
        };
        let (b, c) = (Bytes::from("b"), Bytes::from("c"));
        assert_eq!(grant("b", Type::Read), [(b.clone(), Type::Read)]);
        assert_eq!(grant("b", Type::Write), [(b.clone(), Type::Write)]);
        assert_eq!(grant("c", Type::Read), [(b.clone(), Type::Write), (c.clone(), Type::Read)]);
        let added = [(b, Type::Write), (c.clone(), Type::Read), (c, Type::Write)];
        assert_eq!(grant("c", Type::Write), added, "as in etcd");
    }
}
