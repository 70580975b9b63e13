//! Answers to the requests of other members.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

pub fn answer_with(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The answer to a request that is not served: an HTTP status with a text for the other side, or for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    pub status: StatusCode,
    pub text: Cow<'static, str>,
}

impl HttpError {
    pub fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into() }
    }
}

impl From<HttpError> for Response<Bytes> {
    fn from(error: HttpError) -> Response<Bytes> {
        answer_with(error.status, "text/plain; charset=utf-8", format!("{}\n", error.text).into())
    }
}
