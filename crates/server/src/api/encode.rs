//! Replies on the wire: stored rows are copied into the message as they are.
//!
//! A row is a `mvccpb.KeyValue` already; going through a generic encoder would take it apart and put it together again.

use metastore_engine::Row;
use metastore_proto::wire::{put_bytes, put_message, put_number};
use metastore_store::mvcc::RangeReply;
use metastore_store::{OpReply, TxnReply};

use crate::grpc::{Frame, Status};
use crate::shared::Shared;

/// The most bytes that a header takes: its tag and length, and four numbers of ten bytes with their tags.
const HEADER_BYTES: usize = 48;
/// The most bytes that the tag and length of a row take, or another field of a reply.
const ROW_BYTES: usize = 11;

/// The fields of `ResponseHeader`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    pub cluster_id: u64,
    pub member_id: u64,
    pub revision: i64,
    pub term: u64,
}

impl Header {
    /// The header of an answer given now, at `revision`.
    pub fn new(shared: &Shared, revision: i64) -> Self {
        Self { cluster_id: shared.cluster_id, member_id: shared.member_id, revision, term: shared.term() }
    }

    /// Inside a transaction, a header holds only the revision.
    fn inner(revision: i64) -> Self {
        Self { revision, ..Self::default() }
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_message(out, 1, |out| {
            put_number(out, 1, self.cluster_id);
            put_number(out, 2, self.member_id);
            put_number(out, 3, self.revision as u64);
            put_number(out, 4, self.term);
        });
    }
}

/// A message that consists of its header.
pub fn header_only(header: Header) -> Result<Frame, Status> {
    Frame::write(HEADER_BYTES, |out| header.write(out))
}

pub fn range(header: Header, reply: &RangeReply) -> Result<Frame, Status> {
    Frame::write(range_len(reply), |out| write_range(out, header, reply))
}

pub fn put(header: Header, previous: Option<&Row>) -> Result<Frame, Status> {
    Frame::write(HEADER_BYTES + previous.map_or(0, row_len), |out| write_put(out, header, previous))
}

pub fn delete_range(header: Header, deleted: i64, previous: &[Row]) -> Result<Frame, Status> {
    let rows: usize = previous.iter().map(row_len).sum();
    Frame::write(HEADER_BYTES + ROW_BYTES + rows, |out| write_delete_range(out, header, deleted, previous))
}

pub fn txn(header: Header, reply: &TxnReply) -> Result<Frame, Status> {
    Frame::write(HEADER_BYTES + ops_len(&reply.ops), |out| write_txn(out, |out| header.write(out), reply))
}

/// One message of RangeStream: only rows, or the fields that only the last message has.
pub fn range_chunk(header: Option<Header>, reply: &RangeReply) -> Result<Frame, Status> {
    Frame::write(range_len(reply) + ROW_BYTES, |out| {
        put_message(out, 1, |out| {
            if let Some(header) = header {
                header.write(out);
            }
            write_rows(out, reply);
        });
    })
}

fn write_range(out: &mut Vec<u8>, header: Header, reply: &RangeReply) {
    header.write(out);
    write_rows(out, reply);
}

fn write_rows(out: &mut Vec<u8>, reply: &RangeReply) {
    reply.rows.iter().for_each(|row| put_bytes(out, 2, row));
    put_number(out, 3, u64::from(reply.more));
    put_number(out, 4, reply.count as u64);
}

fn write_put(out: &mut Vec<u8>, header: Header, previous: Option<&Row>) {
    header.write(out);
    if let Some(row) = previous {
        put_bytes(out, 2, row);
    }
}

fn write_delete_range(out: &mut Vec<u8>, header: Header, deleted: i64, previous: &[Row]) {
    header.write(out);
    put_number(out, 2, deleted as u64);
    previous.iter().for_each(|row| put_bytes(out, 3, row));
}

fn write_txn(out: &mut Vec<u8>, header: impl FnOnce(&mut Vec<u8>), reply: &TxnReply) {
    header(out);
    put_number(out, 2, u64::from(reply.succeeded));
    for op in &reply.ops {
        put_message(out, 3, |out| write_op(out, op));
    }
}

fn write_op(out: &mut Vec<u8>, op: &OpReply) {
    match op {
        OpReply::Range(reply) => put_message(out, 1, |out| write_range(out, Header::inner(reply.revision), reply)),
        OpReply::Put { revision, previous } => {
            put_message(out, 2, |out| write_put(out, Header::inner(*revision), previous.as_ref()));
        }
        OpReply::DeleteRange { revision, deleted, previous } => {
            put_message(out, 3, |out| write_delete_range(out, Header::inner(*revision), *deleted, previous));
        }
        // The header of a nested transaction is present, and empty.
        OpReply::Txn(reply) => put_message(out, 4, |out| write_txn(out, |out| put_message(out, 1, |_| {}), reply)),
    }
}

fn range_len(reply: &RangeReply) -> usize {
    HEADER_BYTES + 2 * ROW_BYTES + reply.rows.iter().map(row_len).sum::<usize>()
}

fn ops_len(ops: &[OpReply]) -> usize {
    let op = |op: &OpReply| match op {
        OpReply::Range(reply) => range_len(reply),
        OpReply::Put { previous, .. } => previous.as_ref().map_or(0, row_len),
        OpReply::DeleteRange { previous, .. } => previous.iter().map(row_len).sum(),
        OpReply::Txn(reply) => ops_len(&reply.ops),
    };
    ops.iter().map(|reply| HEADER_BYTES + ROW_BYTES + op(reply)).sum()
}

fn row_len(row: &Row) -> usize {
    ROW_BYTES + row.len()
}

#[cfg(test)]
mod tests {
    use metastore_proto::Message;
    use metastore_proto::etcdserverpb::response_op::Response;
    use metastore_proto::etcdserverpb::{PutResponse, RangeResponse, TxnResponse};
    use metastore_store::mvcc::row::KeyValue;

    use super::*;

    fn rows(count: usize) -> Vec<Row> {
        (0..count)
            .map(|_| KeyValue { key: b"k", value: &[7; 100], version: 3, ..KeyValue::default() }.to_row())
            .collect()
    }

    fn header() -> Header {
        Header { cluster_id: 1, member_id: u64::MAX, revision: 300, term: 2 }
    }

    fn decode<T: Message + Default>(frame: Frame) -> T {
        T::decode(frame.into_bytes().slice(5..)).unwrap()
    }

    #[test]
    fn a_range_reply_reads_back() {
        for count in [0, 1, 2, 200] {
            let reply = RangeReply { revision: 300, rows: rows(count), more: true, count: 1000 };
            let back: RangeResponse = decode(range(header(), &reply).unwrap());
            let head = back.header.unwrap();
            assert_eq!((head.member_id, head.revision, head.raft_term), (u64::MAX, 300, 2));
            assert_eq!((back.kvs.len(), back.more, back.count), (count, true, 1000));
            assert!(back.kvs.iter().all(|kv| kv.version == 3 && kv.value.len() == 100));
        }
    }

    #[test]
    fn nested_transactions_read_back_whatever_their_length() {
        for count in [0, 1, 500] {
            let range = RangeReply { revision: 5, rows: rows(count), more: false, count: count as i64 };
            let put = OpReply::Put { revision: 6, previous: rows(1).pop() };
            let inner = TxnReply { succeeded: true, ops: vec![OpReply::Range(range), put] };
            let outer = TxnReply { succeeded: false, ops: vec![OpReply::Txn(inner)] };
            let back: TxnResponse = decode(txn(header(), &outer).unwrap());
            assert!(!back.succeeded);
            let Some(Response::ResponseTxn(inner)) = &back.responses[0].response else { panic!("{back:?}") };
            assert_eq!(inner.header, Some(Default::default()));
            let Some(Response::ResponseRange(range)) = &inner.responses[0].response else { panic!("{back:?}") };
            assert_eq!((range.kvs.len(), range.header.as_ref().unwrap().revision), (count, 5));
            let Some(Response::ResponsePut(put)) = &inner.responses[1].response else { panic!("{back:?}") };
            assert_eq!(put.prev_kv.as_ref().unwrap().version, 3);
        }
    }

    #[test]
    fn absent_fields_take_no_bytes() {
        let back: PutResponse = decode(put(Header::default(), None).unwrap());
        assert_eq!(back, PutResponse { header: Some(Default::default()), prev_kv: None });
        assert_eq!(put(Header::default(), None).unwrap().message_bytes(), 2);
    }
}
