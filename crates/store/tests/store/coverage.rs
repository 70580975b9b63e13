//! The list of what the scripts must show, and a test that looks for each line of the list.

use std::collections::BTreeSet;

use crate::golden::scripts;

/// The place where something is shown.
#[derive(Clone, Copy, PartialEq)]
enum Shown {
    /// By a script: a comment `# trap 8: ...` over the commands that show it.
    Script,
    /// It exists only in the server, whose own tests show it.
    Server,
}
use Shown::{Script, Server};

/// Traps: behaviour of etcd that a reimplementation is likely to get wrong.
const TRAPS: [(u32, Shown, &str); 13] = [
    (1, Server, "one version string feeds /version, Status, metrics and --version; clients switch features on by it"),
    (2, Server, "RangeStream exists and is tried first by newer clients; Unimplemented makes them fall back"),
    (3, Server, "two documented errors go out with the code Unknown"),
    (4, Script, "a watch canceled by compaction has revision 0 in its header; a refused one has the id -1"),
    (5, Script, "a request for progress is dropped silently while a watcher of the stream is behind"),
    (6, Script, "keys-only answers have no lease, unless sorted by value"),
    (7, Script, "the count ignores limit and bounds, `more` does not; the header is at the current revision"),
    (8, Script, "a tombstone at the compacted revision survives, and is not hashed"),
    (9, Script, "all comparisons and checks of a transaction are made before its first write"),
    (10, Server, "headers of member calls have revision 0; those of Defragment and MoveLeader are missing"),
    (11, Server, "dbSize begins small and shrinks after a defragmentation"),
    (12, Server, "logs are JSON lines from the first one on"),
    (13, Script, "HashKV covers exact bytes of revision keys and rows"),
];

/// Texts of errors about keys, leases, watches, members and users, which clients compare word for word.
const ERRORS: [(&str, Shown); 42] = [
    ("etcdserver: mvcc: required revision has been compacted", Script),
    ("etcdserver: mvcc: required revision is a future revision", Script),
    ("etcdserver: key not found", Script),
    ("etcdserver: requested lease not found", Script),
    ("etcdserver: lease already exists", Script),
    ("etcdserver: too large lease TTL", Script),
    ("etcdserver: member not found", Script),
    ("etcdserver: member ID already exist", Script),
    ("etcdserver: Peer URLs already exists", Script),
    ("etcdserver: can only promote a learner member", Script),
    ("etcdserver: too many learner members in cluster", Script),
    ("etcdserver: re-configuration failed due to not enough started members", Script),
    ("etcdserver: mvcc: database space exceeded", Script),
    ("etcdserver: corrupt cluster", Script),
    ("etcdserver: authentication is not enabled", Script),
    ("etcdserver: authentication failed, invalid user ID or password", Script),
    ("etcdserver: user name is empty", Script),
    ("etcdserver: user name already exists", Script),
    ("etcdserver: user name not found", Script),
    ("auth: authentication failed, password was given for no password user", Script),
    ("etcdserver: role name is empty", Script),
    ("etcdserver: role name already exists", Script),
    ("etcdserver: role name not found", Script),
    ("etcdserver: role is not granted to the user", Script),
    ("etcdserver: permission not given", Script),
    ("etcdserver: permission is not granted to the role", Script),
    ("etcdserver: permission denied", Script),
    ("etcdserver: invalid auth management", Script),
    ("etcdserver: revision of auth store is old", Script),
    ("etcdserver: root user does not exist", Script),
    ("etcdserver: root user does not have root role", Script),
    ("mvcc: watcher range is empty", Script),
    ("mvcc: duplicate watch ID provided on the WatchStream", Script),
    ("etcdserver: key is not provided", Server),
    ("etcdserver: value is provided", Server),
    ("etcdserver: lease is provided", Server),
    ("etcdserver: too many operations in txn request", Server),
    ("etcdserver: duplicate key given in txn request", Server),
    ("etcdserver: invalid sort option", Server),
    ("etcdserver: request is too large", Server),
    ("RangeStream does not support custom sort orders", Server),
    ("RangeStream does not support revision filters", Server),
];

/// The test that provokes the errors which only the server returns.
const SERVER: &str = include_str!("../../../server/tests/api_errors/main.rs");

fn texts() -> Vec<String> {
    scripts().iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn every_trap_of_the_store_is_shown() {
    let texts = texts();
    let tagged = |line: &str| line.strip_prefix("# trap ")?.split_once(':')?.0.parse::<u32>().ok();
    let shown: BTreeSet<u32> = texts.iter().flat_map(|text| text.lines()).filter_map(tagged).collect();
    for (number, by, what) in TRAPS {
        assert_eq!(shown.contains(&number), by == Script, "trap {number}: {what}");
    }
}

#[test]
fn every_error_is_raised_where_it_belongs() {
    let texts = texts();
    let raised = |text: &str| {
        let is = |line: &str| !line.starts_with(['#', '>']) && line.contains(text);
        texts.iter().flat_map(|text| text.lines()).any(is)
    };
    let announced = |text: &str| texts.iter().flat_map(|script| script.lines()).any(|l| l.ends_with(text));
    for (text, by) in ERRORS {
        assert_eq!(raised(text), by == Script, "{text}");
        assert!(by == Server || announced(text), "{text}: no script says so");
        assert!(by == Script || SERVER.contains(text), "{text}: the server's test does not ask for it");
    }
}

#[test]
fn every_refusal_is_in_the_list() {
    use metastore_store::Refusal::*;
    let all = [
        Compacted,
        FutureRevision,
        KeyNotFound,
        LeaseNotFound,
        LeaseExists,
        LeaseTtlTooLarge,
        MemberNotFound,
        MemberRemoved,
        MemberExists,
        PeerUrlExists,
        MemberNotLearner,
        TooManyLearners,
        NotEnoughMembers,
        NoSpace,
        Corrupt,
        UserEmpty,
        UserExists,
        UserNotFound,
        NoPasswordUser,
        AuthNotEnabled,
        AuthFailed,
        RoleEmpty,
        RoleExists,
        RoleNotFound,
        RoleNotGranted,
        PermissionNotGiven,
        PermissionNotGranted,
        PermissionDenied,
        InvalidAuthManagement,
        AuthOldRevision,
        RootUserNotFound,
        RootRoleNotFound,
    ];
    for refusal in all {
        // With a new refusal this match no longer compiles, so that the refusal is not forgotten here.
        match refusal {
            Compacted
            | FutureRevision
            | KeyNotFound
            | LeaseNotFound
            | LeaseExists
            | LeaseTtlTooLarge
            | MemberNotFound
            | MemberRemoved
            | MemberExists
            | PeerUrlExists
            | MemberNotLearner
            | TooManyLearners
            | NotEnoughMembers
            | NoSpace
            | Corrupt
            | UserEmpty
            | UserExists
            | UserNotFound
            | NoPasswordUser
            | AuthNotEnabled
            | AuthFailed
            | RoleEmpty
            | RoleExists
            | RoleNotFound
            | RoleNotGranted
            | PermissionNotGiven
            | PermissionNotGranted
            | PermissionDenied
            | InvalidAuthManagement
            | AuthOldRevision
            | RootUserNotFound
            | RootRoleNotFound => {}
        }
        let text = refusal.to_string();
        assert!(ERRORS.contains(&(&text, Script)), "{text}");
    }
}
