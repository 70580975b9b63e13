//! Paths of the peer port: the members, the version, and the probe.

use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::{Site, json, method_not_allowed, not_found};
use crate::grpc::Body;
use crate::peer::probing;

impl Site {
    pub fn peer<B>(&self, request: &Request<B>) -> Response<Body> {
        match request.uri().path() {
            "/version" => self.show_version(request),
            "/members" if request.method() != Method::GET => method_not_allowed(),
            "/members" => self.show_members(),
            "/raft/probing" => probing(),
            _ => not_found(),
        }
    }

    fn show_members(&self) -> Response<Body> {
        let mut response = json(StatusCode::OK, &self.view.members());
        let id = format!("{:x}", self.view.cluster_id());
        let id = HeaderValue::from_str(&id).expect("hexadecimal digits");
        response.headers_mut().insert("x-etcd-cluster-id", id);
        response
    }
}
