//! `grpc.health.v1.Health`: is this server serving?

use metastore_proto::health::health_check_response::ServingStatus;
use metastore_proto::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use tokio::sync::watch;

use super::call::Call;
use super::frame::Frame;
use super::outbound::Outbound;
use super::router::Router;
use super::status::Status;

const SERVICE: &str = "grpc.health.v1.Health";

/// Adds Check, List and Watch. `serving` says whether the whole server serves; no service has a status of its own.
pub fn register(router: &mut Router, serving: watch::Receiver<bool>) {
    let now = serving.clone();
    router.unary(SERVICE, "Check", move |_call, request: HealthCheckRequest| {
        let serving = *now.borrow();
        async move {
            if !request.service.is_empty() {
                return Err(Status::not_found("unknown service"));
            }
            reply(serving)
        }
    });
    let now = serving.clone();
    router.unary(SERVICE, "List", move |_call, _: HealthListRequest| {
        let status = HealthCheckResponse { status: status(*now.borrow()).into() };
        let statuses = [(String::new(), status)].into();
        async move { Frame::of(&HealthListResponse { statuses }) }
    });
    router.server_stream(SERVICE, "Watch", move |call, request: HealthCheckRequest, outbound| {
        watch_serving(call, request, serving.clone(), outbound)
    });
}

async fn watch_serving(
    _call: Call,
    request: HealthCheckRequest,
    mut serving: watch::Receiver<bool>,
    mut outbound: Outbound,
) -> Result<(), Status> {
    if !request.service.is_empty() {
        let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let _ = outbound.send(Frame::of(&unknown)?).await;
        return std::future::pending().await;
    }
    loop {
        let now = *serving.borrow_and_update();
        if outbound.send(reply(now)?).await.is_err() || serving.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn reply(serving: bool) -> Result<Frame, Status> {
    Frame::of(&HealthCheckResponse { status: status(serving).into() })
}

fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}
