//! The small tables beside the versioned keys.

/// A small table; the names are those of etcd's buckets, but for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    Alarm,
    Auth,
    AuthRoles,
    AuthUsers,
    Cluster,
    Lease,
    Members,
    MembersRemoved,
    Meta,
    /// Which keys hang on which lease. Not a bucket of etcd's: it can be worked out from the newest versions, so it is neither
    /// hashed, nor in the state stream, nor counted ([`crate::Usage`]).
    LeaseKeys,
}

impl Table {
    /// How many tables there are.
    pub(crate) const COUNT: usize = Self::LeaseKeys as usize + 1;

    /// Every table of the state, in the order of the names; all but [`Table::LeaseKeys`].
    pub const ALL: [Self; 9] = [
        Self::Alarm,
        Self::Auth,
        Self::AuthRoles,
        Self::AuthUsers,
        Self::Cluster,
        Self::Lease,
        Self::Members,
        Self::MembersRemoved,
        Self::Meta,
    ];

    /// The name of etcd's bucket with the same content. The versioned keys stand in a bucket `key` between `cluster` and
    /// `lease`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Auth => "auth",
            Self::AuthRoles => "authRoles",
            Self::AuthUsers => "authUsers",
            Self::Cluster => "cluster",
            Self::Lease => "lease",
            Self::Members => "members",
            Self::MembersRemoved => "members_removed",
            Self::Meta => "meta",
            Self::LeaseKeys => "leaseKeys",
        }
    }

    /// Whether its rows count as stored ([`crate::Usage`]).
    pub(crate) const fn counts(self) -> bool {
        !matches!(self, Self::LeaseKeys)
    }
}
