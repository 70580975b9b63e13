//! The steps. `$lease` stands for the id of the lease that was granted last.

/// The arguments of a command.
type Words = &'static [&'static str];

/// One step with etcdctl.
#[derive(Debug)]
pub enum Step {
    /// Runs a command to its end.
    Run(Words),
    /// The same, with text on the command's stdin.
    Feed(Words, &'static str),
    /// Starts a command that does not end by itself, waits for `lines` lines, runs `then`, waits for `more` lines, and
    /// ends the command with SIGINT.
    Background { command: Words, lines: usize, then: &'static [Words], more: usize },
    /// Interactive watch: types the command, requests progress until it is reported, runs `then`, and
    /// waits for `more` lines.
    Watch { typed: &'static str, then: &'static [Words], more: usize },
}

use Step::{Background, Feed, Run, Watch};

pub const STEPS: &[Step] = &[
    // put
    Run(&["put", "a", "1"]),
    Run(&["put", "a", "2", "--prev-kv"]),
    Run(&["put", "ab", "two words", "-w", "json"]),
    Run(&["put", "b", "3", "-w", "fields"]),
    Run(&["put", "b", "4", "--prev-kv", "-w", "json"]),
    Run(&["put", "--ignore-lease", "b", "5"]),
    Run(&["put", "--ignore-value", "b"]),
    Run(&["put", "--ignore-value", "missing"]),
    Run(&["put", "--ignore-lease", "missing", "1"]),
    Run(&["put", "b", "5", "--lease=1234"]),
    Feed(&["put", "from-stdin"], "typed"),
    Run(&["put", "", "empty key"]),
    Run(&["put", "c", ""]),
    // get
    Run(&["get", "a"]),
    Run(&["get", "missing"]),
    Run(&["get", "a", "-w", "json"]),
    Run(&["get", "a", "-w", "fields"]),
    Run(&["get", "--prefix", "a"]),
    Run(&["get", "--prefix", ""]),
    Run(&["get", "--prefix", "a", "-w", "json"]),
    Run(&["get", "--from-key", "ab"]),
    Run(&["get", "a", "c"]),
    Run(&["get", "a", "c", "--limit=1"]),
    Run(&["get", "a", "c", "--limit=1", "-w", "json"]),
    Run(&["get", "--prefix", "", "--keys-only"]),
    Run(&["get", "--prefix", "", "--count-only"]),
    Run(&["get", "--prefix", "", "--count-only", "-w", "fields"]),
    Run(&["get", "--prefix", "", "--count-only", "-w", "json"]),
    Run(&["get", "a", "--print-value-only"]),
    Run(&["get", "a", "--hex"]),
    Run(&["get", "a", "--rev=2"]),
    Run(&["get", "a", "--rev=999"]),
    Run(&["get", "a", "--consistency=s"]),
    Run(&["get", "--prefix", "", "--sort-by=MODIFY", "--order=DESCEND"]),
    Run(&["get", "--prefix", "", "--sort-by=CREATE", "--order=ASCEND"]),
    Run(&["get", "--prefix", "", "--sort-by=KEY", "--order=DESCEND", "--limit=2"]),
    Run(&["get", "--prefix", "", "--sort-by=VALUE"]),
    Run(&["get", "--prefix", "a", "--sort-by=VERSION", "--order=DESCEND"]),
    Run(&["get", "--prefix", "", "--min-mod-rev=4"]),
    Run(&["get", "--prefix", "", "--max-mod-rev=4"]),
    Run(&["get", "--prefix", "", "--min-create-rev=4"]),
    Run(&["get", "--prefix", "", "--max-create-rev=4", "-w", "json"]),
    // del
    Run(&["del", "missing"]),
    Run(&["del", "ab", "--prev-kv"]),
    Run(&["del", "from-stdin", "-w", "json"]),
    Run(&["put", "d/1", "x"]),
    Run(&["put", "d/2", "y"]),
    Run(&["del", "--prefix", "d/", "--prev-kv", "-w", "fields"]),
    Run(&["put", "z/1", "x"]),
    Run(&["del", "--from-key", "z"]),
    Run(&["del", "a", "a"]),
    // txn
    Feed(&["txn"], "mod(\"a\") > \"0\"\n\nput a txn\nget a\n\nput a other\n\n"),
    Feed(&["txn"], "value(\"a\") = \"no\"\n\nput a x\n\nget a\ndel c\n\n"),
    Feed(
        &["txn", "-w", "json"],
        "ver(\"a\") < \"100\"\ncreate(\"none\") = \"0\"\n\nget --prefix a\ndel --prev-kv b\n\n\n",
    ),
    Feed(&["txn", "-w", "fields"], "ver(\"t\") = \"0\"\n\nget a\nput t 1\n\n\n"),
    Feed(&["txn"], "\nput same 1\nput same 2\n\n\n"),
    // the hash, before keys have leases: their ids are part of it
    Run(&["endpoint", "hashkv"]),
    Run(&["endpoint", "hashkv", "-w", "json"]),
    Run(&["endpoint", "hashkv", "-w", "fields"]),
    Run(&["endpoint", "hashkv", "-w", "table"]),
    Run(&["endpoint", "hashkv", "--rev=10"]),
    // leases
    Run(&["lease", "grant", "600"]),
    Run(&["put", "leased", "1", "--lease=$lease"]),
    Run(&["put", "leased/2", "1", "--lease=$lease", "-w", "json"]),
    Run(&["get", "leased", "-w", "json"]),
    Run(&["lease", "timetolive", "$lease"]),
    Run(&["lease", "timetolive", "$lease", "--keys"]),
    Run(&["lease", "timetolive", "$lease", "--keys", "-w", "json"]),
    Run(&["lease", "keep-alive", "--once", "$lease"]),
    Run(&["lease", "keep-alive", "--once", "$lease", "-w", "json"]),
    Run(&["lease", "list"]),
    Run(&["lease", "list", "-w", "json"]),
    Run(&["lease", "revoke", "$lease"]),
    Run(&["get", "leased"]),
    Run(&["lease", "revoke", "$lease"]),
    Run(&["lease", "timetolive", "$lease"]),
    Run(&["lease", "keep-alive", "--once", "$lease"]),
    Run(&["lease", "grant", "100", "-w", "json"]),
    Run(&["lease", "grant", "9000000001"]),
    // watch
    Background { command: &["watch", "a", "--rev=2"], lines: 9, then: &[&["put", "a", "live"]], more: 3 },
    Background { command: &["watch", "--prefix", "a", "--rev=2", "--prev-kv"], lines: 20, then: &[], more: 0 },
    Background { command: &["watch", "--prefix", "", "--rev=3", "-w", "json"], lines: 1, then: &[], more: 0 },
    Background { command: &["watch", "a", "c", "--rev=2", "-w", "fields"], lines: 10, then: &[], more: 0 },
    Background { command: &["watch", "a", "--rev=2000", "--progress-notify"], lines: 0, then: &[], more: 0 },
    Background { command: &["watch", "nothing", "--rev=2", "--progress-notify"], lines: 1, then: &[], more: 0 },
    Watch { typed: "watch a", then: &[&["put", "a", "w1"], &["del", "a"]], more: 5 },
    Watch {
        typed: "watch --prefix p/",
        then: &[&["put", "p/1", "1"], &["put", "q", "1"], &["put", "p/2", "2"]],
        more: 6,
    },
    Watch { typed: "watch --prev-kv p/1", then: &[&["put", "p/1", "2"], &["del", "p/1"]], more: 9 },
    // compaction
    Run(&["compact", "5"]),
    Run(&["compact", "5"]),
    Run(&["compact", "99999"]),
    Run(&["compact", "8", "--physical"]),
    Run(&["get", "a", "--rev=4"]),
    Run(&["watch", "a", "--rev=4"]),
    // lock and elect
    Run(&["lock", "door", "--", "sh", "-c", "echo held"]),
    Background {
        command: &["lock", "gate"],
        lines: 1,
        then: &[&["get", "--prefix", "gate", "--count-only", "-w", "fields"]],
        more: 0,
    },
    Background {
        command: &["elect", "crown", "me"],
        lines: 2,
        then: &[&["get", "--prefix", "crown", "--print-value-only"]],
        more: 0,
    },
    Run(&["get", "--prefix", "crown"]),
    // status of the server
    Run(&["endpoint", "health"]),
    Run(&["endpoint", "health", "-w", "json"]),
    Run(&["endpoint", "health", "-w", "fields"]),
    Run(&["endpoint", "health", "-w", "table"]),
    // The versions in their answers are those of the cluster, which both servers share.
    Run(&["downgrade", "validate", "3.6"]),
    Run(&["downgrade", "validate", "3.5"]),
    Run(&["downgrade", "validate", "x"]),
    Run(&["downgrade", "cancel"]),
    Run(&["downgrade", "enable", "3.6.4", "-w", "json"]),
    Run(&["downgrade", "cancel", "-w", "fields"]),
    Run(&["endpoint", "status"]),
    Run(&["endpoint", "status", "-w", "json"]),
    Run(&["endpoint", "status", "-w", "fields"]),
    Run(&["endpoint", "status", "-w", "table"]),
    Run(&["get", "--prefix", "", "-w", "json"]),
];
