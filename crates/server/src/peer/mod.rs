//! What members tell each other: etcd's peer protocol.

pub mod client;
pub mod codec;
pub mod timed;
