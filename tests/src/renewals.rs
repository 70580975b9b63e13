//! Clients that renew leases as fast as the answers come, for the load generator.
//!
//! Each stream has leases of its own. It first renews all of them at once, and then renews each lease again when its
//! renewal is answered. Each renewal is a DATA frame of its own, as in etcd's Go client.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse,
};

use crate::http2::{Failure, Server, cut, framed};
use crate::paths;

/// The TTL of the leases in seconds: longer than a measurement, so that none ends during it.
const TTL_S: i64 = 600;
/// The number of grants in flight.
const GRANTS_AT_ONCE: usize = 64;
/// How long one answer may take before the measurement fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// The size of the measurement.
#[derive(Clone, Copy, Debug)]
pub struct Renewals {
    pub streams: usize,
    /// Leases per stream.
    pub leases: usize,
    /// Renewals of all streams together.
    pub count: usize,
}

/// The result of the measurement.
#[derive(Debug, Default)]
pub struct Measured {
    pub seconds: f64,
    pub latencies_us: Vec<u32>,
    pub answer_bytes: usize,
}

/// Grants the leases that are missing, and measures renewals. Streams are dealt out to these connections in turn.
///
/// # Errors
/// A connection broke, an answer is missing, or a lease was lost.
pub async fn measure(
    clients: &[SendRequest<Bytes>],
    server: &Rc<Server>,
    renewals: Renewals,
) -> Result<Measured, Failure> {
    grant_missing(&clients[0], server, renewals.streams * renewals.leases).await?;
    let left = Rc::new(RefCell::new(renewals.count));
    let (begun, mut measured) = (Instant::now(), Measured::default());
    let streams: Vec<_> = (0..renewals.streams)
        .map(|at| {
            let (client, server, left) = (clients[at % clients.len()].clone(), server.clone(), left.clone());
            let first = 1 + (at * renewals.leases) as i64;
            tokio::task::spawn_local(async move {
                let kept = keep_alive(client, &server, (first, renewals.leases), &left);
                kept.await.map_err(|error| error.to_string())
            })
        })
        .collect();
    for stream in streams {
        let part = stream.await??;
        measured.latencies_us.extend(part.latencies_us);
        measured.answer_bytes += part.answer_bytes;
    }
    measured.seconds = begun.elapsed().as_secs_f64();
    Ok(measured)
}

/// One stream: renews its leases again and again while renewals are left in the count that all streams share.
async fn keep_alive(
    client: SendRequest<Bytes>,
    server: &Server,
    (first, leases): (i64, usize),
    left: &RefCell<usize>,
) -> Result<Measured, Failure> {
    let (answer, mut requests) = client.ready().await?.send_request(server.request(paths::LEASE_KEEP_ALIVE)?, false)?;
    let (mut sent, mut under_way) = (vec![Instant::now(); leases], 0);
    let mut renew = |at: usize, sent: &mut Vec<Instant>| -> Result<usize, Failure> {
        let mut left = left.borrow_mut();
        if *left == 0 {
            return Ok(0);
        }
        *left -= 1;
        sent[at] = Instant::now();
        requests.send_data(framed(&LeaseKeepAliveRequest { id: first + at as i64 }), false)?;
        Ok(1)
    };
    for at in 0..leases {
        under_way += renew(at, &mut sent)?;
    }
    let mut answers = tokio::time::timeout(PATIENCE, answer).await??.into_body();
    let (mut measured, mut received) = (Measured::default(), BytesMut::new());
    while under_way > 0 {
        let data = tokio::time::timeout(PATIENCE, answers.data()).await?;
        let data = data.ok_or("the server has ended the stream")??;
        answers.flow_control().release_capacity(data.len())?;
        measured.answer_bytes += data.len();
        received.extend_from_slice(&data);
        while let Some(message) = cut(&mut received) {
            let LeaseKeepAliveResponse { id, ttl, .. } = LeaseKeepAliveResponse::decode(message)?;
            let at = usize::try_from(id - first).ok().filter(|at| *at < leases).ok_or("a foreign lease is answered")?;
            if ttl <= 0 {
                return Err(format!("lease {id} was lost").into());
            }
            measured.latencies_us.push(sent[at].elapsed().as_micros() as u32);
            under_way -= 1;
            under_way += renew(at, &mut sent)?;
        }
    }
    requests.send_data(Bytes::new(), true)?;
    Ok(measured)
}

/// Grants those of the leases 1, 2, ... that do not exist.
async fn grant_missing(client: &SendRequest<Bytes>, server: &Rc<Server>, count: usize) -> Result<(), Failure> {
    let known = server.ask(client.clone(), paths::LEASE_LEASES, &LeaseLeasesRequest {}).await?;
    let known = LeaseLeasesResponse::decode(known)?.leases;
    let known: HashSet<i64> = known.into_iter().map(|lease| lease.id).collect();
    let missing: Vec<i64> = (1..=count as i64).filter(|id| !known.contains(id)).collect();
    for ids in missing.chunks(GRANTS_AT_ONCE) {
        let grants: Vec<_> = ids
            .iter()
            .map(|&id| {
                let (client, server) = (client.clone(), server.clone());
                tokio::task::spawn_local(async move {
                    let grant = LeaseGrantRequest { ttl: TTL_S, id };
                    let granted = server.ask(client, paths::LEASE_GRANT, &grant).await;
                    granted.map_err(|error| error.to_string())
                })
            })
            .collect();
        for grant in grants {
            LeaseGrantResponse::decode(grant.await??)?;
        }
    }
    Ok(())
}
