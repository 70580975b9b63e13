//! Users, permissions and logins, as clients see them.
//!
//! ```text
//!   calls, walk    every method and every path, by every kind of caller; a real etcd gives the same answers
//!   gateway        the same calls as JSON
//!   survive        kill -9, conversions to the other engine, a client that goes on after a restart
//!   tokens         the end of tokens
//!   audit          the audit log
//!   crowd          many logins at once; readers while their permission is revoked
//! ```
//!
//! Elsewhere: random changes and calls beside an etcd (`differential/users.rs`), scripts of the real etcdctl
//! (`etcdctl/users.rs`), clusters (`cluster/users.rs`).

mod audit;
pub mod calls;
mod crowd;
mod gateway;
pub mod survive;
mod tokens;
mod walk;
