//! The foundation of the end-to-end tests: real processes, real sockets, and a client that can send any message.
//!
//! ```text
//!   a test ----> member::Member   a server process on its own directory and ports: start, kill -9, SIGTERM, restart
//!     |              ^
//!     |              |
//!     +--------> cluster::Cluster   several members of one cluster: leaders found, members added, all compared
//!     |              |
//!     |              +--> network::Network    links between members that can be cut
//!     |
//!     +--------> load::Load        clients that write and read while a test runs, and the check of their answers
//!     |
//!     +--------> histories::Recorder    clients and watchers of the simulator, and its checkers for what they record
//!     |
//!     +--------> grpc::Client     one call: a path, a request message, an answer or a status
//!     |             |
//!     |             +--> watch::WatchStream, lease::KeepAliveStream      the two bidirectional streams
//!     |
//!     +--------> http2::Server    the same in little processor time, also over TLS, for the load generator
//!     |
//!     +--------> certificates::Authority    a CA, and the certificates that it signs
//!     +--------> auth::Admin     users and roles; logins, and keys for signed tokens
//!     |
//!     +--------> mount::Mount     a file system of its own, for the member's files
//!     |
//!     +--------> random::Random   the only source of randomness: one seed, one run
//! ```
//!
//! Two programs take part. The *subject* is the server under test. The *reference* is a real etcd, and its
//! answers are right by definition. Both take etcd's flags, so each may be any etcd-compatible binary:
//! [`programs`] says how they are found.
//!
//! Rules: a test waits for a condition with a deadline, never for a time to pass. A test that cannot run prints the
//! reason, and fails where `CI` is set. Nothing here knows the right answers, except the simulator's model.
//!
//! Deliberately absent: generated service stubs. They would refuse an enum number that the protocol does not have, and
//! the tests must be able to send such numbers.

pub mod auth;
pub mod certificates;
pub mod cluster;
pub mod following;
pub mod grpc;
pub mod histories;
pub mod http2;
pub mod injected;
pub mod lease;
pub mod load;
pub mod member;
pub mod membership;
pub mod mount;
pub mod network;
pub mod paths;
pub mod programs;
pub mod random;
pub mod renewals;
pub mod watch;
