//! The small tables beside the versioned keys.

/// A small table. The names are those of etcd's buckets, except the last. The numbers are on disk: they never change,
/// and a new table takes one that was never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    Alarm = 0,
    Auth = 1,
    AuthRoles = 2,
    AuthUsers = 3,
    Cluster = 4,
    Lease = 5,
    Members = 6,
    MembersRemoved = 7,
    Meta = 8,
    /// The keys attached to each lease. etcd has no such bucket. The rows can be computed from the newest versions, so
    /// they are neither hashed, nor in the state stream, nor counted ([`crate::Usage`]).
    LeaseKeys = 9,
}

impl Table {
    /// One more than the greatest number of a table.
    pub(crate) const COUNT: usize = Self::LeaseKeys as usize + 1;

    /// Every table of the state, in the order of the names; all except [`Table::LeaseKeys`].
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

    /// The name of etcd's bucket with the same content. In etcd the versioned keys are in a bucket `key`, between
    /// `cluster` and `lease`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_on_disk() {
        let numbered = Table::ALL.into_iter().chain([Table::LeaseKeys]).map(|table| (table.name(), table as u8));
        let on_disk = [
            ("alarm", 0),
            ("auth", 1),
            ("authRoles", 2),
            ("authUsers", 3),
            ("cluster", 4),
            ("lease", 5),
            ("members", 6),
            ("members_removed", 7),
            ("meta", 8),
            ("leaseKeys", 9),
        ];
        assert!(numbered.eq(on_disk));
        assert!(on_disk.iter().all(|(_, number)| usize::from(*number) < Table::COUNT));
    }
}
