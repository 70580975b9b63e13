//! What other members ask of this one beside consensus: about leases, which the leader knows, and to promote a learner.

use std::borrow::Cow;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::{leases, promote};
use crate::api::Member;

/// Why there is no answer, as plain text.
#[derive(Debug)]
pub struct Refused {
    pub status: StatusCode,
    pub text: Cow<'static, str>,
}

impl Refused {
    pub fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Refused {
        Refused { status, text: text.into() }
    }
}

impl From<Refused> for Response<Bytes> {
    fn from(refused: Refused) -> Response<Bytes> {
        let mut response =
            answer_with(refused.status, "text/plain; charset=utf-8", format!("{}\n", refused.text).into());
        if refused.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}

pub(super) fn answer_with(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Whether a path of the peer port is one of these.
pub fn concerns(path: &str) -> bool {
    matches!(path, leases::PATH | leases::INTERNAL_PATH) || path.starts_with(promote::PREFIX)
}

/// Answers a request whose path is one that [`concerns`] this room.
pub async fn answer<B>(member: Rc<Member>, request: Request<B>) -> Response<Bytes>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    route(&member, request).await.unwrap_or_else(Response::from)
}

async fn route<B>(member: &Member, request: Request<B>) -> Result<Response<Bytes>, Refused>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    if request.method() != Method::POST {
        return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"));
    }
    let (head, body) = request.into_parts();
    match head.uri.path() {
        leases::PATH => leases::renew(member, read(body).await?).await,
        leases::INTERNAL_PATH => leases::time_left(member, read(body).await?).await,
        path => promote::answer(member, path.strip_prefix(promote::PREFIX).unwrap_or(path)).await,
    }
}

async fn read<B>(body: B) -> Result<Bytes, Refused>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    match Limited::new(body, leases::MAX_BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "request body too large"))
        }
        Err(_) => Err(Refused::new(StatusCode::BAD_REQUEST, "error reading body")),
    }
}
