//! An operation in the form that the search needs.

use std::fmt;

use metastore_proto::etcdserverpb::response_op::Response as Nested;
use metastore_proto::etcdserverpb::{ResponseHeader, TxnResponse};

use crate::history::{Moment, Operation, Request, Response};

/// An operation that must be placed, or may be placed if its outcome is unknown.
pub struct Task<'a> {
    /// Its place in the history.
    pub number: usize,
    pub operation: &'a Operation,
    /// Its answer, with only the revision in headers; `None` if the outcome is unknown.
    pub answer: Option<Response>,
    /// The revision at which it was answered; a refusal carries none.
    pub revision: Option<i64>,
}

impl<'a> Task<'a> {
    pub fn new(number: usize, operation: &'a Operation) -> Self {
        let mut answer = operation.returned.as_ref().map(|(_, response)| response.clone());
        let header = answer.as_mut().and_then(only_revision);
        Self { number, operation, answer, revision: header }
    }

    pub fn request(&self) -> &'a Request {
        &self.operation.request
    }

    pub fn called(&self) -> Moment {
        self.operation.called
    }

    pub fn returned(&self) -> Option<Moment> {
        self.operation.returned.as_ref().map(|(moment, _)| *moment)
    }

    pub fn is_known(&self) -> bool {
        self.answer.is_some()
    }

    /// Whether, by its answer, it may have made a revision.
    pub fn may_write(&self) -> bool {
        match &self.answer {
            Some(Response::DeleteRange(response)) => response.deleted > 0,
            Some(Response::Put(_) | Response::Txn(_) | Response::LeaseRevoke(_)) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, request, called, .. } = self.operation;
        write!(f, "operation {} (client {client}, called at {called}, ", self.number)?;
        match self.returned() {
            Some(moment) => write!(f, "returned at {moment}")?,
            None => write!(f, "outcome unknown")?,
        }
        write!(f, "): {request:?}")?;
        if let Some(answer) = &self.answer { write!(f, ", which was told {answer:?},") } else { Ok(()) }
    }
}

/// A range that may be answered from any former state of one member.
pub fn is_serializable(operation: &Operation) -> bool {
    matches!(&operation.request, Request::Range(range) if range.serializable)
}

/// Removes from the headers everything that depends on the member that answered. Returns the revision. A missing header
/// is one of zeros, as in protobuf.
fn only_revision(response: &mut Response) -> Option<i64> {
    let header = match response {
        Response::Put(response) => &mut response.header,
        Response::DeleteRange(response) => &mut response.header,
        Response::Txn(response) => {
            strip_nested(response);
            &mut response.header
        }
        Response::Range(response) => &mut response.header,
        Response::Compact(response) => &mut response.header,
        Response::LeaseGrant(response) => &mut response.header,
        Response::LeaseRevoke(response) => &mut response.header,
        Response::Refused(_) => return None,
    };
    Some(strip(header))
}

fn strip(header: &mut Option<ResponseHeader>) -> i64 {
    let revision = header.as_ref().map_or(0, |header| header.revision);
    *header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
    revision
}

fn strip_nested(txn: &mut TxnResponse) {
    for response in txn.responses.iter_mut().filter_map(|op| op.response.as_mut()) {
        match response {
            Nested::ResponseRange(response) => strip(&mut response.header),
            Nested::ResponsePut(response) => strip(&mut response.header),
            Nested::ResponseDeleteRange(response) => strip(&mut response.header),
            Nested::ResponseTxn(response) => {
                strip_nested(response);
                strip(&mut response.header)
            }
        };
    }
}
