//! The outcome of a request, as far as its answer shows it.

use std::error::Error;
use std::io::ErrorKind;

use metastore_sim::history::{Request, Response};
use metastore_sim::model::{COMPACTED, FUTURE_REVISION, KEY_NOT_FOUND, LEASE_EXISTS, LEASE_NOT_FOUND};
use tonic::Status;

/// Refusals that depend only on the state of the store: they count as answers.
const DECIDED: [&str; 5] = [COMPACTED, FUTURE_REVISION, KEY_NOT_FOUND, LEASE_EXISTS, LEASE_NOT_FOUND];
/// Errors of a server that has proposed nothing.
const NOT_PROPOSED: [&str; 3] = ["etcdserver: no leader", "etcdserver: not capable", "etcdserver: too many requests"];
/// Errors of a server that does not know the outcome. Longer texts that begin with "request timed out" name the cause.
const UNDECIDED: [&str; 3] =
    ["etcdserver: request timed out", "etcdserver: server stopped", "etcdserver: leader changed"];
/// The prefix of a server's own errors.
const OF_THE_SERVER: &str = "etcdserver: ";

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Answered(Response),
    /// The request may have been applied, and may still be.
    Unknown,
    /// The request certainly had no effect, and the answer contains nothing to check.
    Nothing,
    /// The server's error is none that this request may get.
    Strange(String),
}

/// Judges an answer; `None` means no answer in time.
pub fn judge(request: &Request, answer: Option<Result<Response, Status>>) -> Outcome {
    let status = match answer {
        Some(Ok(response)) => return Outcome::Answered(response),
        Some(Err(status)) => status,
        None => return unknown(request),
    };
    let text = status.message();
    if DECIDED.contains(&text) {
        return Outcome::Answered(Response::Refused(text.to_string()));
    }
    if NOT_PROPOSED.contains(&text) || is_refused_connection(&status) {
        return Outcome::Nothing;
    }
    let is_known = !text.starts_with(OF_THE_SERVER) || UNDECIDED.iter().any(|known| text.starts_with(known));
    if is_known { unknown(request) } else { Outcome::Strange(format!("{request:?} is answered with {status:?}")) }
}

/// A read changes nothing.
fn unknown(request: &Request) -> Outcome {
    if matches!(request, Request::Range(_)) { Outcome::Nothing } else { Outcome::Unknown }
}

/// Whether nothing listened at the address, so that nothing was sent.
fn is_refused_connection(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        let error_of_system = error.downcast_ref::<std::io::Error>();
        if error_of_system.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use metastore_proto::etcdserverpb::{PutResponse, RangeResponse};

    use super::*;
    use crate::cluster::{block_on, everything, put_request};
    use crate::grpc::Client;
    use crate::member::free_address;
    use crate::paths;

    fn write(answer: Option<Result<Response, Status>>) -> Outcome {
        judge(&Request::Put(put_request("a", "1")), answer)
    }

    fn read(answer: Option<Result<Response, Status>>) -> Outcome {
        judge(&Request::Range(everything()), answer)
    }

    fn error(text: &str) -> Option<Result<Response, Status>> {
        Some(Err(Status::unavailable(text)))
    }

    #[test]
    fn what_the_state_refuses_is_an_answer() {
        let refused = Outcome::Answered(Response::Refused(LEASE_NOT_FOUND.to_string()));
        assert_eq!(write(error(LEASE_NOT_FOUND)), refused);
        let range = Response::Range(RangeResponse::default());
        assert_eq!(read(Some(Ok(range.clone()))), Outcome::Answered(range));
    }

    #[test]
    fn a_write_without_an_answer_is_unknown_and_a_read_is_nothing() {
        let leader_failed = "etcdserver: request timed out, possibly due to previous leader failure";
        for lost in [None, error("transport error"), error(leader_failed), error("etcdserver: server stopped")] {
            assert_eq!(write(lost.clone()), Outcome::Unknown, "{lost:?}");
            assert_eq!(read(lost.clone()), Outcome::Nothing, "{lost:?}");
        }
    }

    #[test]
    fn what_was_not_proposed_had_no_effect() {
        assert_eq!(write(error("etcdserver: no leader")), Outcome::Nothing);
    }

    #[test]
    fn a_connection_that_is_refused_carried_nothing() {
        let answer = block_on(async {
            let nobody = Client::new(&free_address());
            nobody.unary::<_, PutResponse>(paths::PUT, put_request("a", "1")).await
        });
        assert_eq!(write(Some(answer.map(Response::Put))), Outcome::Nothing);
    }

    #[test]
    fn a_refusal_without_a_reason_is_strange() {
        assert!(matches!(write(error("etcdserver: mvcc: database space exceeded")), Outcome::Strange(_)));
    }
}
