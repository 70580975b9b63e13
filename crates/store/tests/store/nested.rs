//! Transactions nested as deep as an etcd may write them into the log.

use std::sync::Arc;

use bytes::Bytes;
use metastore_engine::Memory;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::alarm_request::AlarmAction;
use metastore_proto::etcdserverpb::request_op::Request;
use metastore_proto::etcdserverpb::{AlarmRequest, AlarmType, PutRequest, RequestOp, TxnRequest};
use metastore_proto::prost::encoding::{WireType, encode_key, encode_varint};
use metastore_store::command::{Command, Kind};
use metastore_store::{OpReply, Refusal, Reply, Store, check_command};

/// Go's decoder reads 10,000 levels of messages: the entry's, and two for each transaction.
const LEVELS: usize = 4_999;
/// The stack of a thread that has next to nothing left for each level.
const STACK_BYTES: usize = 192 << 10;

/// A message as a field of another one.
fn field(number: u32, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len() + 8);
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(message.len() as u64, &mut bytes);
    bytes.extend_from_slice(message);
    bytes
}

/// An entry with a put in so many transactions.
fn entry(levels: usize) -> Bytes {
    const SUCCESS: u32 = 2;
    const NESTED: u32 = 4;
    let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
    let op = RequestOp { request: Some(Request::RequestPut(put)) };
    let innermost = field(SUCCESS, &op.encode_to_vec());
    let txn = (1..levels).fold(innermost, |txn, _| field(SUCCESS, &field(NESTED, &txn)));
    field(Kind::Txn as u32, &txn).into()
}

fn depth(reply: &Reply) -> usize {
    let Reply::Txn(reply) = reply else { panic!("{reply:?}") };
    let (mut reply, mut levels) = (reply, 1);
    while let Some(OpReply::Txn(inner)) = reply.ops.last() {
        (reply, levels) = (inner, levels + 1);
    }
    levels
}

fn apply_nested() {
    let mut store = Store::open(Arc::new(Memory::new())).unwrap();
    for (index, levels) in (1..).zip([1, 2, 50, 51, 129, LEVELS]) {
        check_command(entry(levels)).unwrap();
        let outcome = store.apply(index, 1, entry(levels)).unwrap().unwrap();
        assert_eq!((outcome.revision, depth(&outcome.reply.unwrap())), (1 + index as i64, levels));
    }
    let alarm = AlarmRequest { action: AlarmAction::Activate as i32, member_id: 1, alarm: AlarmType::Nospace as i32 };
    store.apply(7, 1, Command::encode(0, Kind::Alarm, &alarm)).unwrap();
    let outcome = store.apply(8, 1, entry(LEVELS)).unwrap().unwrap();
    assert_eq!(outcome.reply, Err(Refusal::NoSpace), "it puts a key");
}

#[test]
fn transactions_nested_as_deep_as_etcd_reads_them_are_applied_on_a_small_stack() {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    thread.spawn(apply_nested).unwrap().join().unwrap();
}

/// The same bytes as the library writes them.
#[test]
fn nested_transactions_are_built_as_the_library_does() {
    let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
    let txn = |request| TxnRequest { success: vec![RequestOp { request: Some(request) }], ..TxnRequest::default() };
    let nested = txn(Request::RequestTxn(txn(Request::RequestPut(put))));
    assert_eq!(entry(2), field(Kind::Txn as u32, &nested.encode_to_vec()));
}
