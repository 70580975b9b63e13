//! The answer to a request of another member that is not served.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::questions::answer_with;

/// An HTTP status with a text for the other side, or for a person.
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
