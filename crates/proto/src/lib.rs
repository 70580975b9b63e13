//! The wire contract: etcd's messages with its names and numbers, generated from the files in `proto/`.
//!
//! A client of etcd cannot tell the difference. Byte fields are [`bytes::Bytes`], so decoding from a `Bytes` copies
//! nothing. There is no service code here: the server dispatches by path.

#![allow(clippy::all, reason = "generated code")]

/// Keys, versions and events.
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}

/// The client API and the commands in the raft log.
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// Users and roles.
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}

/// Commands about members.
pub mod membershippb {
    include!(concat!(env!("OUT_DIR"), "/membershippb.rs"));
}

/// Leases as they are stored, and the messages in which members ask the leader about leases.
pub mod leasepb {
    include!(concat!(env!("OUT_DIR"), "/leasepb.rs"));
}

/// Raft records with etcd's numbers.
pub mod raftpb {
    include!(concat!(env!("OUT_DIR"), "/raftpb.rs"));
}

/// Records of the write-ahead log and of snapshot files.
pub mod walpb {
    include!(concat!(env!("OUT_DIR"), "/walpb.rs"));
}

/// The standard gRPC health check.
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

/// The Lock service.
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}

/// The Election service.
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}

/// All these messages as an encoded `google.protobuf.FileDescriptorSet`: their fields by name, number and kind.
pub static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors"));

pub mod wire;

pub use prost::{self, Message};
