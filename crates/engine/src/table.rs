//! The small tables beside the versioned keys.

/// A small table; the names are those of etcd's buckets.
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
}

impl Table {
    /// Every table, in the order of the names.
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
        }
    }
}
