//! A load generator that needs little processor time, for `bench/bench.sh`: h2load cannot use many keys.
//!
//! ```text
//! loadgen body put|txn|range             writes one gRPC request body to stdout, for h2load
//! loadgen ADDRESS OPERATION [name=value]...
//!
//! put, txn, range     of one of `keys` keys, all equally likely or, with zipf=1, by Zipf's law with exponent 0.99,
//!                     as YCSB does
//! fill                puts the keys number `first`, `first` + 1, ..., each once: 64 bytes each, in no order, with
//!                     values of 256 bytes that do not compress
//! list                a range of about `keys` keys, if fill put `of` keys
//! page                the first `keys` keys of all that fill put, with the count of all
//! hash                HashKV
//! renew               renews `leases` leases on each stream, each again when its renewal is answered; grants those
//!                     that are missing
//! login               Authenticate as `user`
//! handshake           a new connection with a TLS handshake that resumes none, closed at once; `streams` of each of
//!                     `connections` are open at a time
//! enable              no load: adds `user`, who may put and read the keys of put, txn and range, and enables
//!                     authentication; prints a token of the user, for h2load
//! ```
//!
//! Names and defaults: connections=64 streams=16 requests=100000 keys=1000000 zipf=0 seed=1 first=0 of=keys
//! leases=1000. With ca=FILE it speaks TLS, and the certificate of the server must be signed by one in the file. With
//! user=NAME password=WORD it logs in before the first request, and each request shows the token.
//!
//! Prints `requests-per-second p50-us p99-us bytes-per-answer`, or exits with code 1 if any request failed. It uses one
//! thread and HTTP/2 without gRPC: on a small machine the generator takes processor time from the server that it
//! measures.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use metastore_proto::authpb::permission::Type;
use metastore_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use metastore_proto::etcdserverpb::{
    AuthenticateRequest, Compare, HashKvRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};
use metastore_tests::auth::{self, Admin, permission};
use metastore_tests::grpc::Client;
use metastore_tests::http2::{Failure, Server, framed};
use metastore_tests::paths;
use metastore_tests::random::Random;
use metastore_tests::renewals::{self, Measured, Renewals};

/// The size of a value.
const VALUE_BYTES: usize = 256;
/// The exponent that YCSB uses.
const ZIPF_EXPONENT: f64 = 0.99;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, operation, options @ ..] = &arguments[..] else {
        return Err("usage: loadgen body|ADDRESS OPERATION [name=value]...".into());
    };
    let load = Load::parse(operation, options)?;
    if target == "body" {
        std::io::stdout().write_all(&body(&load, 0)?)?;
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        match operation.as_str() {
            "enable" => enable(target, &load).await,
            _ => run(target, load).await,
        }
    })
}

struct Load {
    operation: String,
    connections: usize,
    streams: usize,
    requests: usize,
    keys: usize,
    zipf: bool,
    seed: u64,
    first: usize,
    of: Option<usize>,
    leases: usize,
    ca: Option<String>,
    user: String,
    password: String,
}

impl Load {
    fn parse(operation: &str, options: &[String]) -> Result<Load, Failure> {
        let mut load = Load {
            operation: operation.into(),
            connections: 64,
            streams: 16,
            requests: 100_000,
            keys: 1_000_000,
            zipf: false,
            seed: 1,
            first: 0,
            of: None,
            leases: 1000,
            ca: None,
            user: String::new(),
            password: String::new(),
        };
        for option in options {
            let (name, value) = option.split_once('=').ok_or(format!("{option}: want name=value"))?;
            let number = || value.parse::<usize>().map_err(|_| format!("{option}: want name=number"));
            match name {
                "connections" => load.connections = number()?,
                "streams" => load.streams = number()?,
                "requests" => load.requests = number()?,
                "keys" => load.keys = number()?,
                "zipf" => load.zipf = number()? != 0,
                "seed" => load.seed = number()? as u64,
                "first" => load.first = number()?,
                "of" => load.of = Some(number()?),
                "leases" => load.leases = number()?,
                "ca" => load.ca = Some(value.into()),
                "user" => load.user = value.into(),
                "password" => load.password = value.into(),
                _ => return Err(format!("{option}: no such option").into()),
            }
        }
        Ok(load)
    }
}

/// Chooses the key of each request.
struct Keys {
    random: Random,
    count: usize,
    /// The next key, if they are taken in turn.
    in_turn: Option<usize>,
    /// Sums of the weights of ranks 0..=n, if keys are not equally likely.
    sums: Vec<f64>,
}

impl Keys {
    fn new(load: &Load) -> Keys {
        let weights = 1..=if load.zipf { load.keys } else { 0 };
        let sums = weights.scan(0.0, |sum, rank| {
            *sum += (rank as f64).powf(-ZIPF_EXPONENT);
            Some(*sum)
        });
        let in_turn = (load.operation == "fill").then_some(load.first);
        Keys { random: Random::new(load.seed), count: load.keys, in_turn, sums: sums.collect() }
    }

    fn next(&mut self) -> usize {
        if let Some(next) = &mut self.in_turn {
            *next += 1;
            return *next - 1;
        }
        let Some(total) = self.sums.last() else { return self.random.below(self.count) };
        let point = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
        let rank = self.sums.partition_point(|sum| *sum < point);
        // Scatters the popular keys over the whole range of keys.
        rank.wrapping_mul(2_654_435_761) % self.count
    }
}

/// The state that all streams share.
struct LoadState {
    keys: Keys,
    left: usize,
    latencies_us: Vec<u32>,
    answer_bytes: usize,
}

impl LoadState {
    /// The key of the next request; `None` if all are sent.
    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        Some(self.keys.next())
    }
}

async fn run(address: &str, load: Load) -> Result<(), Failure> {
    let keys = Keys::new(&load);
    let shared =
        Rc::new(RefCell::new(LoadState { keys, left: load.requests, latencies_us: Vec::new(), answer_bytes: 0 }));
    let mut server = Server::new(address, load.ca.as_deref())?;
    if !load.user.is_empty() && load.operation != "login" {
        server.log_in(&load.user, &load.password).await?;
    }
    let (server, load) = (Rc::new(server), Rc::new(load));
    let mut clients = Vec::new();
    if load.operation == "handshake" {
        // The first one of a process also gathers randomness, which takes a fraction of a second.
        server.shake_hands().await?;
    } else {
        for _ in 0..load.connections {
            clients.push(server.connect().await?);
        }
    }
    if load.operation == "renew" {
        let Load { connections, streams, leases, requests: count, .. } = *load;
        let renewals = Renewals { streams: connections * streams, leases, count };
        let Measured { seconds, latencies_us, answer_bytes } = renewals::measure(&clients, &server, renewals).await?;
        return print(latencies_us, seconds, answer_bytes);
    }
    let begun = Instant::now();
    let workers: Vec<_> = (0..load.connections * load.streams)
        .map(|at| {
            let (client, server) = (clients.get(at / load.streams).cloned(), server.clone());
            let (load, shared) = (load.clone(), shared.clone());
            tokio::task::spawn_local(async move {
                let worked = match client {
                    Some(client) => work(client, &load, &server, &shared).await,
                    None => shake_hands(&server, &shared).await,
                };
                worked.map_err(|error| error.to_string())
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let latencies_us = std::mem::take(&mut shared.borrow_mut().latencies_us);
    print(latencies_us, seconds, shared.borrow().answer_bytes)
}

fn print(mut latencies_us: Vec<u32>, seconds: f64, answer_bytes: usize) -> Result<(), Failure> {
    latencies_us.sort_unstable();
    let count = latencies_us.len();
    let percentile = |percent: usize| latencies_us.get((count * percent / 100).min(count.saturating_sub(1)));
    let (Some(p50), Some(p99)) = (percentile(50), percentile(99)) else { return Err("nothing was asked".into()) };
    println!("{:.0} {p50} {p99} {}", count as f64 / seconds, answer_bytes / count);
    Ok(())
}

/// Sends one request after the other until all are sent.
async fn work(
    mut client: SendRequest<Bytes>,
    load: &Load,
    server: &Server,
    shared: &RefCell<LoadState>,
) -> Result<(), Failure> {
    let operation = &load.operation;
    let request = server.request(path(operation)?)?;
    loop {
        let Some(key) = shared.borrow_mut().next() else { return Ok(()) };
        let begun = Instant::now();
        client = client.ready().await?;
        let (answer, mut sending) = client.send_request(request.clone(), false)?;
        sending.send_data(body(load, key)?, true)?;
        let mut answer = answer.await?;
        let mut status = answer.headers().get("grpc-status").cloned();
        let incoming = answer.body_mut();
        while let Some(data) = incoming.data().await {
            let data = data?;
            shared.borrow_mut().answer_bytes += data.len();
            incoming.flow_control().release_capacity(data.len())?;
        }
        if let Some(trailers) = incoming.trailers().await? {
            status = trailers.get("grpc-status").cloned();
        }
        if status.as_ref().is_none_or(|status| status != "0") {
            return Err(format!("{operation} of key {key} was answered with grpc-status {status:?}").into());
        }
        shared.borrow_mut().latencies_us.push(begun.elapsed().as_micros() as u32);
    }
}

/// Makes one connection after the other, until all are made.
async fn shake_hands(server: &Server, shared: &RefCell<LoadState>) -> Result<(), Failure> {
    while shared.borrow_mut().next().is_some() {
        let begun = Instant::now();
        server.shake_hands().await?;
        shared.borrow_mut().latencies_us.push(begun.elapsed().as_micros() as u32);
    }
    Ok(())
}

async fn enable(address: &str, load: &Load) -> Result<(), Failure> {
    let client = Client::new(address);
    let all = permission(Type::Readwrite, "bench/", "bench0");
    Admin(&client).add_user_with(&load.user, &load.password, all).await?;
    auth::enable(&client).await?;
    println!("{}", auth::token(&client, &load.user, &load.password).await?);
    Ok(())
}

fn path(operation: &str) -> Result<&'static str, String> {
    match operation {
        "put" | "fill" => Ok(paths::PUT),
        "txn" => Ok(paths::TXN),
        "range" | "list" | "page" => Ok(paths::RANGE),
        "hash" => Ok(paths::HASH_KV),
        "login" => Ok(paths::AUTHENTICATE),
        _ => Err(format!("{operation}: no such operation")),
    }
}

/// The body of the request for the key with this number.
fn body(load: &Load, number: usize) -> Result<Bytes, String> {
    let key = Bytes::from(format!("bench/{number:045}"));
    let put = PutRequest { key: key.clone(), value: Bytes::from_static(&[b'v'; VALUE_BYTES]), ..PutRequest::default() };
    Ok(match load.operation.as_str() {
        "put" => framed(&put),
        "range" => framed(&RangeRequest { key, ..RangeRequest::default() }),
        "txn" => framed(&transaction(key, put)),
        "fill" => framed(&scattered(number)),
        "list" => framed(&list(number, load.keys, load.of.unwrap_or(load.keys))),
        "page" => framed(&page(load.keys)),
        "hash" => framed(&HashKvRequest::default()),
        "login" => framed(&AuthenticateRequest { name: load.user.clone(), password: load.password.clone() }),
        other => return Err(format!("{other}: no such operation")),
    })
}

/// The put of one of many keys that come in no order.
fn scattered(number: usize) -> PutRequest {
    let mut random = Random::new(number as u64);
    let key = Bytes::from(format!("load/{:016x}/{number:042}", random.next_u64()));
    let value: Bytes = (0..VALUE_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    PutRequest { key, value, ..PutRequest::default() }
}

/// A range over a part of the scattered keys that holds about `keys` of all `of` keys.
fn list(number: usize, keys: usize, of: usize) -> RangeRequest {
    let width = ((keys as u128) << 64) / of.max(keys).max(1) as u128;
    let begin = (u128::from(Random::new(number as u64).next_u64()) * ((1 << 64) - width)) >> 64;
    let bound = |at: u128| Bytes::from(if at >> 64 == 0 { format!("load/{at:016x}") } else { "load0".into() });
    RangeRequest { key: bound(begin), range_end: bound(begin + width), ..RangeRequest::default() }
}

/// The first of all scattered keys.
fn page(keys: usize) -> RangeRequest {
    let (key, range_end) = (Bytes::from_static(b"load/"), Bytes::from_static(b"load0"));
    RangeRequest { key, range_end, limit: keys as i64, ..RangeRequest::default() }
}

/// A put under a compare that always holds: the key's mod_revision is above -1.
fn transaction(key: Bytes, put: PutRequest) -> TxnRequest {
    let compare = Compare {
        result: CompareResult::Greater as i32,
        target: CompareTarget::Mod as i32,
        key,
        target_union: Some(TargetUnion::ModRevision(-1)),
        ..Compare::default()
    };
    let put = RequestOp { request: Some(request_op::Request::RequestPut(put)) };
    TxnRequest { compare: vec![compare], success: vec![put], failure: Vec::new() }
}
