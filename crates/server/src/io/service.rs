//! The service behind the connections of one worker.

use std::rc::Rc;

use h2::RecvStream;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::grpc::Origin;
use crate::grpc::{Body, LocalFuture};

/// Answers requests, on one worker.
pub trait Service {
    /// Answers a request that came over HTTP/1, or from a peer.
    fn call(&self, request: Request<Incoming>, origin: &Rc<Origin>) -> LocalFuture<Response<Body>>;

    /// Answers a client's request that came over HTTP/2.
    fn call_http2(&self, request: Request<RecvStream>, _origin: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        drop(request);
        let mut response = Response::new(Body::Done);
        *response.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
        Box::pin(std::future::ready(response))
    }

    /// Whether a request waits for an answer that is certain to come soon. A worker that stops waits for such answers.
    fn awaits_answers(&self) -> bool {
        false
    }
}

impl<F: Fn(Request<Incoming>) -> LocalFuture<Response<Body>>> Service for F {
    fn call(&self, request: Request<Incoming>, _origin: &Rc<Origin>) -> LocalFuture<Response<Body>> {
        self(request)
    }
}
