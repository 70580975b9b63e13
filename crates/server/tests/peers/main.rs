//! Members that talk to each other: real sockets, and a double in the place of the member that records all calls.

mod exchange;
mod member;
mod real_etcd;
mod refusals;
mod states;
mod strangers;
