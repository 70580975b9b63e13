//! Whether a caller may do what a command asks for (etcd: `isOpPermitted`, `range_perm_cache.go`).

use std::cmp::Ordering;

use metastore_proto::authpb::permission::Type;
use metastore_proto::authpb::{Permission, User};

use super::changes::is_root;
use super::{Auth, inverted};
use crate::Refusal;
use crate::command::Caller;

/// The kind of access to keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// The `range_end` of a range without an end.
const OPEN: &[u8] = b"\0";

impl Auth {
    /// Whether the caller may do everything. Every caller may while authentication is disabled.
    ///
    /// # Errors
    /// As etcd: no user, an unknown user, or a user without the role root.
    pub fn admin(&self, caller: &Caller) -> Result<(), Refusal> {
        if !self.enabled {
            return Ok(());
        }
        if caller.user.is_empty() {
            return Err(Refusal::UserEmpty);
        }
        let user = self.user_of(caller).ok_or(Refusal::UserNotFound)?;
        if is_root(user) { Ok(()) } else { Err(Refusal::PermissionDenied) }
    }

    /// Whether the caller may access a key (if `end` is empty), or all keys of a range.
    ///
    /// # Errors
    /// As etcd: no user, an auth revision that is not the current one, or no permission.
    pub fn permits(&self, caller: &Caller, access: Access, key: &[u8], end: &[u8]) -> Result<(), Refusal> {
        if !self.enabled {
            return Ok(());
        }
        if caller.auth_revision == 0 {
            return Err(Refusal::UserEmpty);
        }
        if caller.auth_revision < self.revision {
            return Err(Refusal::AuthOldRevision);
        }
        let user = self.user_of(caller).ok_or(Refusal::PermissionDenied)?;
        if is_root(user) || self.covers(user, access, key, end) { Ok(()) } else { Err(Refusal::PermissionDenied) }
    }

    fn user_of(&self, caller: &Caller) -> Option<&User> {
        self.users.get(std::str::from_utf8(&caller.user).ok()?)
    }

    /// Whether the permissions of the user's roles, taken together, cover the whole range. They are taken in the order
    /// in which they are stored, as in etcd; it matters for ranges that end before they begin.
    fn covers(&self, user: &User, access: Access, key: &[u8], end: &[u8]) -> bool {
        let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
        let permissions = roles.flat_map(|role| &role.key_permission).filter(|perm| allows(perm, access));
        if end.is_empty() {
            return permissions.into_iter().any(|perm| holds(perm, key));
        }
        if end <= key && end != OPEN {
            return inverted::permits(permissions.map(range_of), key, end);
        }
        let mut ranges: Vec<Interval> = permissions.map(range_of).filter(|range| meets(range, key, end)).collect();
        ranges.sort_unstable();
        let Some(((first, reached), rest)) = ranges.split_first() else { return false };
        let mut reached = *reached;
        for (begin, end) in rest {
            if reached < End::before(begin) {
                return false;
            }
            reached = reached.max(*end);
        }
        *first <= key && reached >= End::of(end)
    }
}

/// A range of keys: its first key, and its end.
pub(super) type Interval<'a> = (&'a [u8], End<'a>);

/// The exclusive end of a range. `true` stands for the end of a single key: directly after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End<'a> {
    At(&'a [u8], bool),
    Open,
}

impl<'a> End<'a> {
    fn of(end: &'a [u8]) -> Self {
        if end == OPEN { Self::Open } else { Self::before(end) }
    }

    /// The end of a range up to this key.
    pub(super) fn before(key: &'a [u8]) -> Self {
        Self::At(key, false)
    }

    /// The end of a range that holds this key as the last one.
    pub(super) fn after(key: &'a [u8]) -> Self {
        Self::At(key, true)
    }
}

impl Ord for End<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The successor of a key is the key with a zero byte appended.
        match (self, other) {
            (Self::Open, Self::Open) => Ordering::Equal,
            (Self::Open, _) => Ordering::Greater,
            (_, Self::Open) => Ordering::Less,
            (Self::At(one, behind), Self::At(other, other_behind)) => {
                let other = other.iter().chain(other_behind.then_some(&0));
                one.iter().chain(behind.then_some(&0)).cmp(other)
            }
        }
    }
}

impl PartialOrd for End<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn allows(perm: &Permission, access: Access) -> bool {
    match Type::try_from(perm.perm_type) {
        Ok(Type::Readwrite) => true,
        Ok(Type::Read) => access == Access::Read,
        Ok(Type::Write) => access == Access::Write,
        Err(_) => false,
    }
}

fn range_of(perm: &Permission) -> Interval<'_> {
    let end = if perm.range_end.is_empty() { End::after(&perm.key) } else { End::of(&perm.range_end) };
    (&perm.key, end)
}

fn holds(perm: &Permission, key: &[u8]) -> bool {
    let (begin, end) = range_of(perm);
    begin <= key && End::before(key) < end
}

/// Whether a range overlaps the range from `key` to `end`.
fn meets((begin, last): &Interval<'_>, key: &[u8], end: &[u8]) -> bool {
    let left = key < *begin && End::of(end) <= End::before(begin);
    !left && End::before(key) < *last
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use metastore_proto::authpb::Role;

    use super::*;

    /// An auth state with the user alice, who has these permissions through two roles, and the user root.
    fn auth(permissions: &[(&str, &str, Type)]) -> Auth {
        let permission = |(key, end, kind): &(&str, &str, Type)| Permission {
            perm_type: (*kind).into(),
            key: key.to_string().into(),
            range_end: end.to_string().into(),
        };
        let (one, two) = permissions.split_at(permissions.len() / 2);
        let role = |permissions: &[(&str, &str, Type)]| Role {
            key_permission: permissions.iter().map(permission).collect(),
            ..Role::default()
        };
        let user =
            |roles: &[&str]| User { roles: roles.iter().map(|role| role.to_string()).collect(), ..User::default() };
        Auth {
            enabled: true,
            revision: 7,
            users: BTreeMap::from([("alice".into(), user(&["one", "two", "gone"])), ("root".into(), user(&["root"]))]),
            roles: BTreeMap::from([("one".into(), role(one)), ("two".into(), role(two))]),
        }
    }

    fn caller(user: &'static str, auth_revision: u64) -> Caller {
        Caller { user: user.into(), auth_revision }
    }

    #[test]
    fn a_range_is_permitted_if_all_of_it_is() {
        let auth = auth(&[
            ("a", "c", Type::Read),
            ("k", "", Type::Readwrite),
            ("c", "e", Type::Readwrite),
            ("b", "d", Type::Write),
            ("x", "\0", Type::Read),
        ]);
        let may = |access, key: &str, end: &str| {
            auth.permits(&caller("alice", 7), access, key.as_bytes(), end.as_bytes()).is_ok()
        };
        for (key, end) in
            [("a", ""), ("a", "e"), ("b", "d"), ("k", ""), ("k", "k\0"), ("x", "\0"), ("z", ""), ("y", "z")]
        {
            assert!(may(Access::Read, key, end), "{key:?} to {end:?}");
        }
        for (key, end) in
            [("", "\0"), ("e", ""), ("a", "f"), ("A", "c"), ("k", "l"), ("w", "\0"), ("k\0", ""), ("f", "g")]
        {
            assert!(!may(Access::Read, key, end), "{key:?} to {end:?}");
        }
        // Both ends are permitted, and not what lies between.
        for (key, end) in [("a", "k\0"), ("c", "\0"), ("k", "\0")] {
            assert!(!may(Access::Read, key, end), "{key:?} to {end:?}");
        }
        assert!(may(Access::Write, "b", "e") && may(Access::Write, "k", ""));
        assert!(!may(Access::Write, "a", "") && !may(Access::Write, "x", "\0"));
    }

    /// Other ranges are permitted whatever the order of permissions is. The helper deals them out to two roles.
    #[test]
    fn a_range_that_ends_before_it_begins_is_permitted_as_by_etcd() {
        let (low, high, higher) = (("b", "c", Type::Readwrite), ("m", "p", Type::Read), ("x", "", Type::Write));
        let may = |permissions: &[_], access, key: &str, end: &str| {
            auth(permissions).permits(&caller("alice", 7), access, key.as_bytes(), end.as_bytes()).is_ok()
        };
        assert!(may(&[high, low], Access::Read, "n", "a"));
        assert!(!may(&[low, high], Access::Read, "n", "a"));
        assert!(may(&[low, high], Access::Read, "n", "b\0") && may(&[low, high], Access::Read, "n", "n"));
        assert!(!may(&[low, high], Access::Write, "n", "b\0") && !may(&[low, high], Access::Read, "p", "n"));
        // The permission to write does not stand in the tree of permissions to read, and the other way round.
        assert!(may(&[higher, high, low], Access::Read, "n", "a"));
        assert!(
            !may(&[higher, high, low], Access::Write, "n", "a") && may(&[higher, high, low], Access::Write, "x", "a")
        );
    }

    #[test]
    fn the_order_of_reasons_is_etcds() {
        let auth = auth(&[("a", "", Type::Read)]);
        let read = |caller: Caller| auth.permits(&caller, Access::Read, b"z", b"");
        assert_eq!(read(Caller::default()), Err(Refusal::UserEmpty));
        assert_eq!(read(caller("nobody", 6)), Err(Refusal::AuthOldRevision));
        assert_eq!(read(caller("nobody", 7)), Err(Refusal::PermissionDenied));
        assert_eq!(read(caller("alice", 8)), Err(Refusal::PermissionDenied));
        assert_eq!(read(caller("root", 7)), Ok(()));
        assert_eq!(auth.admin(&Caller::default()), Err(Refusal::UserEmpty));
        assert_eq!(auth.admin(&caller("nobody", 7)), Err(Refusal::UserNotFound));
        assert_eq!(auth.admin(&caller("alice", 7)), Err(Refusal::PermissionDenied));
        assert_eq!(auth.admin(&caller("root", 1)), Ok(()), "an old revision does not matter here");
        let off = Auth { enabled: false, ..auth };
        assert_eq!(off.admin(&Caller::default()), Ok(()));
        assert_eq!(off.permits(&Caller::default(), Access::Write, b"z", b""), Ok(()));
    }
}
