//! Answers and errors as grpc-gateway forms them.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

use super::super::{json, refusing, text};
use crate::grpc::{Body, Code, Status};

/// A status as JSON.
#[derive(serde::Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "is_zero")]
    code: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

fn is_zero(code: &u8) -> bool {
    *code == 0
}

impl<'a> From<&'a Status> for Shown<'a> {
    fn from(status: &'a Status) -> Shown<'a> {
        Shown { code: status.code as u8, message: &status.message }
    }
}

/// The answer to a call that went well: one message, or the beginning of many.
pub fn ok(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // The metadata of the call, of which there is only this.
    headers.insert("grpc-metadata-content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// The answer to a unary call that failed.
pub fn failed(status: &Status) -> Response<Body> {
    let mut response = json(http_status(status.code), &Shown::from(status));
    if status.code == Code::Unauthenticated
        && let Ok(message) = HeaderValue::from_str(&status.message)
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, message);
    }
    response
}

/// The answer to a streaming call that failed before its first message.
pub fn failed_stream(status: &Status) -> Response<Body> {
    text(http_status(status.code), "application/json", error_line(status))
}

/// The end of a stream that failed after its first message.
pub fn error_line(status: &Status) -> Bytes {
    #[derive(serde::Serialize)]
    struct Line<'a> {
        error: Shown<'a>,
    }
    let mut line = serde_json::to_vec(&Line { error: status.into() }).expect("plain structures become JSON");
    line.push(b'\n');
    line.into()
}

/// The answer to a client that shows a certificate with a name, which other doors take for its user.
pub fn common_name() -> Response<Body> {
    let body = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
    refusing(StatusCode::BAD_REQUEST, body)
}

fn http_status(code: Code) -> StatusCode {
    let number = match code {
        Code::Ok => 200,
        Code::Canceled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    };
    StatusCode::from_u16(number).expect("three digits")
}
