//! `/debug/vars`, for tools that read the variables of a Go program.

use http::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::{MemberView, Site, method_not_allowed, text};
use crate::grpc::Body;
use crate::metrics::process::{file_limit, resident_bytes};

/// The standing of this member in its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    pub id: u64,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    /// 0 without a leader.
    pub leader: u64,
}

/// etcd's variables, without those of Go's memory that nothing here has: `Sys`, the memory taken from the system, is
/// the resident memory.
pub(super) fn vars<B>(site: &Site, request: &Request<B>) -> Response<Body> {
    if request.method() != Method::GET {
        return method_not_allowed();
    }
    let vars = json!({
        "cmdline": std::env::args().collect::<Vec<_>>(),
        "file_descriptor_limit": file_limit(),
        "memstats": { "Sys": resident_bytes().unwrap_or_default() },
        "raft.status": raft_status(&*site.view),
    });
    text(StatusCode::OK, "application/json; charset=utf-8", format!("{vars:#}\n"))
}

fn raft_status(view: &dyn MemberView) -> serde_json::Value {
    let RaftStatus { id, term, commit, applied, leader } = view.raft_status();
    let state = if leader == id { "StateLeader" } else { "StateFollower" };
    let hex = |id: u64| format!("{id:x}");
    json!({
        "id": hex(id), "term": term, "commit": commit, "lead": hex(leader), "raftState": state, "applied": applied,
    })
}
