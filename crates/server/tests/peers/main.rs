//! Members as they meet each other: real sockets, and a member's place taken by something that remembers what it was told.

mod exchange;
mod member;
mod real_etcd;
mod refusals;
mod states;
mod strangers;
