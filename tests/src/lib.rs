//! What the end-to-end tests stand on: real processes, real sockets, and a client that may send anything.
//!
//! ```text
//!   a test ----> member::Member   a server process on its own directory and ports: start, kill -9, SIGTERM, restart
//!     |              ^
//!     |              |
//!     +--------> cluster::Cluster   several members of one cluster: leaders found, members added, all compared
//!     |              |
//!     |              +--> network::Network    links between members that can be cut
//!     |
//!     +--------> load::Load        clients at work meanwhile, and the judgement of what they were told
//!     |
//!     +--------> histories::Recorder    clients and watchers of the simulator, whose checkers judge what they were told
//!     |
//!     +--------> grpc::Client     one call: a path, a request message, an answer or a status
//!     |             |
//!     |             +--> watch::WatchStream, lease::KeepAliveStream      the two bidirectional streams
//!     |
//!     +--------> mount::Mount     a file system of its own, for the member's files
//!     |
//!     +--------> random::Random   the only source of chance: one seed, one run
//! ```
//!
//! Two programs take part. The *subject* is the server under test; the *reference* is a real etcd, and what it answers
//! is right. Both take etcd's flags, so either may be any etcd-compatible binary: [`programs`] says how they are found.
//!
//! Rules: a test waits for a condition with a deadline, never for a time to pass. A test that cannot run says why, and
//! fails where `CI` is set. Nothing here knows what the right answer is, but for the simulator's model.
//!
//! Deliberately absent: generated service stubs. They would refuse an enum number that the protocol does not have, and
//! sending those is part of the job.

pub mod cluster;
pub mod grpc;
pub mod histories;
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
