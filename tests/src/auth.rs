//! Users, roles, permissions and logins, through the API.

use std::time::Duration;

use metastore_proto::authpb::permission::Type;
use metastore_proto::authpb::{Permission, UserAddOptions};
use metastore_proto::etcdserverpb::*;
use prost::Message;
use rcgen::KeyPair;
use tonic::Status;

use crate::cluster::{block_on, call};
use crate::grpc::Client;
use crate::member::Directory;
use crate::paths;

/// A flag for members under test: the hash of a password takes no time.
pub const CHEAP_PASSWORDS: &str = "--bcrypt-cost=4";
/// The password of the user root that [`enable`] adds.
pub const ROOT_PASSWORD: &str = "root's";
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// An answer that says nothing but that the call succeeded: its fields are skipped.
#[derive(Clone, PartialEq, Message)]
pub struct Done {}

/// An answer with nothing but a header.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderOnly {
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Users and roles, changed in the name of the user whose token the client shows.
pub struct Admin<'a>(pub &'a Client);

impl Admin<'_> {
    pub async fn add_user(&self, name: &str, password: &str) -> Result<(), Status> {
        let (name, password) = (name.into(), password.into());
        self.make(paths::USER_ADD, AuthUserAddRequest { name, password, ..Default::default() }).await
    }

    /// A user who can log in only by a certificate.
    pub async fn add_user_without_password(&self, name: &str) -> Result<(), Status> {
        let options = Some(UserAddOptions { no_password: true });
        self.make(paths::USER_ADD, AuthUserAddRequest { name: name.into(), options, ..Default::default() }).await
    }

    pub async fn delete_user(&self, name: &str) -> Result<(), Status> {
        self.make(paths::USER_DELETE, AuthUserDeleteRequest { name: name.into() }).await
    }

    pub async fn change_password(&self, name: &str, password: &str) -> Result<(), Status> {
        let (name, password) = (name.into(), password.into());
        let request = AuthUserChangePasswordRequest { name, password, ..Default::default() };
        self.make(paths::USER_CHANGE_PASSWORD, request).await
    }

    pub async fn grant_role(&self, user: &str, role: &str) -> Result<(), Status> {
        self.make(paths::USER_GRANT_ROLE, AuthUserGrantRoleRequest { user: user.into(), role: role.into() }).await
    }

    pub async fn revoke_role(&self, name: &str, role: &str) -> Result<(), Status> {
        self.make(paths::USER_REVOKE_ROLE, AuthUserRevokeRoleRequest { name: name.into(), role: role.into() }).await
    }

    pub async fn add_role(&self, name: &str) -> Result<(), Status> {
        self.make(paths::ROLE_ADD, AuthRoleAddRequest { name: name.into() }).await
    }

    pub async fn permit(&self, role: &str, perm: Permission) -> Result<(), Status> {
        let request = AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) };
        self.make(paths::ROLE_GRANT_PERMISSION, request).await
    }

    pub async fn forbid(&self, role: &str, perm: &Permission) -> Result<(), Status> {
        let Permission { key, range_end, .. } = perm.clone();
        let request = AuthRoleRevokePermissionRequest { role: role.into(), key, range_end };
        self.make(paths::ROLE_REVOKE_PERMISSION, request).await
    }

    /// Adds a user with a role of the same name, which has one permission.
    pub async fn add_user_with(&self, name: &str, password: &str, perm: Permission) -> Result<(), Status> {
        self.add_user(name, password).await?;
        self.add_role(name).await?;
        self.permit(name, perm).await?;
        self.grant_role(name, name).await
    }

    pub async fn disable(&self) -> Result<(), Status> {
        self.make(paths::AUTH_DISABLE, AuthDisableRequest {}).await
    }

    pub async fn make<Q: Message + 'static>(&self, path: &'static str, request: Q) -> Result<(), Status> {
        self.0.unary::<_, Done>(path, request).await.map(|_| ())
    }
}

/// The permission to do this with the keys from `key` to `range_end`; with one key if that is empty.
pub fn permission(kind: Type, key: &str, range_end: &str) -> Permission {
    Permission { perm_type: kind.into(), key: key.to_string().into(), range_end: range_end.to_string().into() }
}

/// Adds the user root, enables authentication, and returns the client of root.
pub async fn enable(client: &Client) -> Result<Client, Status> {
    let admin = Admin(client);
    admin.add_user("root", ROOT_PASSWORD).await?;
    admin.grant_role("root", "root").await?;
    admin.make(paths::AUTH_ENABLE, AuthEnableRequest {}).await?;
    log_in(client, "root", ROOT_PASSWORD).await
}

/// The same connection for a user, who logs in.
pub async fn log_in(client: &Client, name: &str, password: &str) -> Result<Client, Status> {
    Ok(client.with_token(&token(client, name, password).await?))
}

/// The token of a login.
pub async fn token(client: &Client, name: &str, password: &str) -> Result<String, Status> {
    let request = AuthenticateRequest { name: name.into(), password: password.into() };
    client.unary::<_, AuthenticateResponse>(paths::AUTHENTICATE, request).await.map(|answer| answer.token)
}

/// [`token`], over a connection of its own.
pub fn token_at(address: &str, name: &str, password: &str) -> Result<String, Status> {
    let request = AuthenticateRequest { name: name.into(), password: password.into() };
    call::<_, AuthenticateResponse>(address, paths::AUTHENTICATE, request, PATIENCE).map(|answer| answer.token)
}

/// [`enable`], over a connection of its own; returns the token of root.
pub fn enable_at(address: &str) -> String {
    block_on(async {
        let client = Client::new(address);
        enable(&client).await.expect("authentication is enabled");
        token(&client, "root", ROOT_PASSWORD).await.expect("root logs in")
    })
}

/// A key for signed tokens, in a file of its own; or a pair of keys in two files.
pub struct SigningKey {
    directory: Directory,
    method: &'static str,
}

impl SigningKey {
    pub fn new() -> SigningKey {
        let directory = Directory::new("signing-key");
        std::fs::write(directory.path().join("key"), "a key that all members of the test share").expect("it is new");
        SigningKey { directory, method: "HS256" }
    }

    /// A private key and the public one.
    pub fn pair() -> SigningKey {
        let directory = Directory::new("signing-keys");
        let key = KeyPair::generate().expect("a key");
        for (file, pem) in [("key", key.serialize_pem()), ("key.pub", key.public_key_pem())] {
            std::fs::write(directory.path().join(file), pem).expect("it is new");
        }
        SigningKey { directory, method: "ES256" }
    }

    /// The flag of a member that signs its tokens with the key.
    pub fn flag(&self) -> String {
        self.flag_with_ttl("1h")
    }

    /// [`SigningKey::flag`], with the time for which a token is valid.
    pub fn flag_with_ttl(&self, ttl: &str) -> String {
        let [private, public] = ["key", "key.pub"].map(|file| self.directory.path().join(file));
        let public = if public.exists() { format!(",pub-key={}", public.display()) } else { String::new() };
        format!("--auth-token=jwt,sign-method={},ttl={ttl},priv-key={}{public}", self.method, private.display())
    }
}

impl Default for SigningKey {
    fn default() -> Self {
        Self::new()
    }
}
