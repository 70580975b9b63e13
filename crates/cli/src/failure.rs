//! The end of a command that failed: a text, and the exit code of etcdctl.

use std::fmt::Display;

/// etcd: `pkg/cobrautl`.
pub const ERROR: u8 = 1;
pub const INTERRUPTED: u8 = 5;
pub const BAD_ARGUMENTS: u8 = 128;

#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub text: String,
}

impl Failure {
    pub fn new(text: impl Display) -> Self {
        Self { code: ERROR, text: text.to_string() }
    }

    pub fn arguments(text: impl Display) -> Self {
        Self { code: BAD_ARGUMENTS, text: text.to_string() }
    }

    pub fn interrupted(text: impl Display) -> Self {
        Self { code: INTERRUPTED, text: text.to_string() }
    }
}

/// Errors of libraries, without a choice of the code.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// The result of a command.
pub type Done<T = ()> = Result<T, Failure>;

/// Says which file an error is about.
pub fn at<E: Display>(path: &std::path::Path) -> impl FnOnce(E) -> Failure {
    move |error| Failure::new(format!("{}: {error}", path.display()))
}
