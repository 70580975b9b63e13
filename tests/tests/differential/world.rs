//! One pair of servers, one seed, one sequence of calls.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use metastore_proto::etcdserverpb::*;
use metastore_proto::mvccpb::KeyValue;
use metastore_tests::member::Member;
use metastore_tests::programs::Server;

use super::call::{Answer, Call, FIRST_CHOSEN, Side, WatchCall};
use super::coverage::Coverage;
use super::features;
use super::grammar::{Grammar, MAX_REQUEST_BYTES, MAX_TXN_OPS, Seen};
use super::known::{self, KNOWN};
use super::normalise::{header, normalise};
use super::watching::{Pair, Watches};

/// The number of calls that a report shows before a difference.
const REMEMBERED: usize = 20;
/// How long a call may take. Both servers are idle except for it.
const CALL_PATIENCE: Duration = Duration::from_secs(20);
/// The number of characters of one call or answer that a report shows.
const SHOWN: usize = 3000;

/// The parameters of a run.
#[derive(Clone)]
pub struct Plan {
    pub seed: u64,
    pub calls: usize,
    /// The reference is 3.5.1: known differences are excused.
    pub old_reference: bool,
}

pub struct World {
    plan: Plan,
    sides: [Side; 2],
    watches: Watches,
    seen: Seen,
    step: usize,
    recent: VecDeque<String>,
    pub coverage: Coverage,
    pub known_hits: Vec<u64>,
}

/// Runs a plan on two fresh servers. The error describes the difference, and how to reproduce it.
pub fn run(subject: &Server, reference: &Server, plan: Plan) -> Result<(Coverage, Vec<u64>), String> {
    let [max_ops, max_bytes] = [MAX_TXN_OPS, MAX_REQUEST_BYTES].map(|limit| limit.to_string());
    // This test does not compare durability.
    let flags = ["--unsafe-no-fsync", "--max-txn-ops", &max_ops, "--max-request-bytes", &max_bytes];
    let (subject, reference) = std::thread::scope(|scope| {
        let subject = scope.spawn(|| Member::start(subject, &flags));
        let reference = Member::start(reference, &flags);
        (subject.join().expect("the subject starts"), reference)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let connect = async |member: &Member| Side::connect(member.client_address()).await;
        let (first, second) = tokio::join!(connect(&subject), connect(&reference));
        let sides = [first.map_err(|status| status.to_string())?, second.map_err(|status| status.to_string())?];
        let mut world = World::new(plan, sides).await?;
        world.run().await.map_err(|reason| world.report(&reason))?;
        Ok((world.coverage, world.known_hits))
    })
}

impl World {
    async fn new(plan: Plan, sides: [Side; 2]) -> Result<World, String> {
        let watches = Watches::open(&sides, !plan.old_reference).await?;
        let seen = Seen { current: 1, compacted: -1, keys: Default::default(), chosen_leases: 0 };
        let coverage = Coverage::new(features::cells());
        let known_hits = vec![0; KNOWN.len()];
        Ok(World { plan, sides, watches, seen, step: 0, recent: VecDeque::new(), coverage, known_hits })
    }

    async fn run(&mut self) -> Result<(), String> {
        let mut grammar = Grammar::new(self.plan.seed, self.plan.old_reference);
        while self.step < self.plan.calls {
            let call = grammar.call(&self.seen);
            self.make(call).await?;
        }
        self.finish().await
    }

    /// Makes one call to both servers, compares the answers, and learns from them.
    pub async fn make(&mut self, call: Call) -> Result<Answer, String> {
        self.step += 1;
        self.remember(format!("{call:?}"));
        match &call {
            Call::Watch(watch) => self.watch(&call, watch).await,
            Call::Compact(_) => {
                let pairs = self.watches.before_compaction(self.seen.current).await?;
                let cancel = Call::Watch(WatchCall::Cancel { stream: 0, nth: 0 });
                pairs.into_iter().try_for_each(|pair| self.compare(&cancel, pair).map(drop))?;
                self.unary(&call).await
            }
            _ => self.unary(&call).await,
        }
    }

    async fn unary(&mut self, call: &Call) -> Result<Answer, String> {
        let (first, second) = self.ask(call).await?;
        if !self.plan.old_reference && (self.is_remembered(call, &first) || self.is_remembered(call, &second)) {
            return Ok(second);
        }
        let [subject, reference] = &mut self.sides;
        if let (Call::Grant(request), Answer::Grant(a), Answer::Grant(b)) = (call, &first, &second)
            && request.id == 0
        {
            let number = FIRST_CHOSEN + self.seen.chosen_leases;
            self.seen.chosen_leases += 1;
            subject.learn_lease(number, a.id);
            reference.learn_lease(number, b.id);
        }
        let answer = self.compare(call, [first, second])?;
        self.learn(call, answer.clone());
        Ok(answer)
    }

    /// The answers of both servers before normalisation.
    async fn ask(&mut self, call: &Call) -> Result<(Answer, Answer), String> {
        let [subject, reference] = &mut self.sides;
        let both = async { tokio::join!(subject.execute(call), reference.execute(call)) };
        let answers = tokio::time::timeout(CALL_PATIENCE, both).await;
        answers.map_err(|_| format!("no answer within {CALL_PATIENCE:?} to {}", cut(&format!("{call:?}"))))
    }

    /// After a background compaction etcd answers HashKV at the compacted revision with the hash that it computed
    /// during the compaction, over the older contents. It does so until ten more compactions are done. Such an answer
    /// depends on time, and serves only etcd's own corruption check, so it is not compared.
    fn is_remembered(&self, call: &Call, answer: &Answer) -> bool {
        match (call, answer) {
            (Call::HashKv(request), Answer::HashKv(answer)) => {
                request.revision <= self.seen.compacted && answer.compact_revision != self.seen.compacted
            }
            _ => false,
        }
    }

    async fn watch(&mut self, call: &Call, watch: &WatchCall) -> Result<Answer, String> {
        let (current, compacted) = (self.seen.current, self.seen.compacted);
        let pairs = self.watches.execute(watch, &self.sides, current, compacted).await?;
        let mut last = Answer::Watch(WatchResponse::default());
        for pair in pairs {
            last = self.compare(call, pair)?;
        }
        Ok(last)
    }

    /// The answer of both servers; an error if they differ.
    fn compare(&mut self, call: &Call, pair: Pair) -> Result<Answer, String> {
        let [mut subject, mut reference] = pair;
        normalise(call, &mut subject, &self.sides[0]);
        normalise(call, &mut reference, &self.sides[1]);
        if self.plan.old_reference {
            known::excuse(call, &mut subject, &mut reference, &mut self.known_hits);
        }
        if subject != reference {
            let [call, subject, reference] = [format!("{call:?}"), format!("{subject:?}"), format!("{reference:?}")];
            let [call, subject, reference] = [cut(&call), cut(&subject), cut(&reference)];
            return Err(format!(
                "the answers differ\n  call:      {call}\n  subject:   {subject}\n  reference: {reference}"
            ));
        }
        if !features::is_listed(&subject) {
            return Err(format!("the coverage table does not list this error of {call:?}: {subject:?}"));
        }
        features::observe(call, &subject, &self.seen, &mut self.coverage);
        Ok(subject)
    }

    fn learn(&mut self, call: &Call, mut answer: Answer) {
        if let Some(header) = header(&mut answer) {
            self.seen.current = self.seen.current.max(header.revision);
        }
        match (call, answer) {
            (Call::Compact(request), Answer::Compact(_)) => {
                self.seen.compacted = request.revision;
                self.watches.forget_below(request.revision);
            }
            (Call::Range(request), Answer::Range(answer)) if request.revision <= 0 && !request.keys_only => {
                self.learn_keys(answer.kvs);
            }
            (Call::Put(_), Answer::Put(answer)) => self.learn_keys(answer.prev_kv),
            (Call::Txn(_), Answer::Txn(answer)) => {
                for op in answer.responses {
                    if let Some(response_op::Response::ResponsePut(put)) = op.response {
                        self.learn_keys(put.prev_kv);
                    }
                }
            }
            _ => {}
        }
    }

    fn learn_keys(&mut self, kvs: impl IntoIterator<Item = KeyValue>) {
        // Where the normalisation of an unstable sort left only the sorted field, there is no key.
        let whole = kvs.into_iter().filter(|kv| !kv.key.is_empty());
        self.seen.keys.extend(whole.map(|kv| (kv.key.clone(), kv)));
    }

    /// Cases that a random run does not reach in its time, and the comparison of the whole store at the end.
    async fn finish(&mut self) -> Result<(), String> {
        self.expire_lease().await?;
        self.fragments().await?;
        self.watches.sync(self.seen.current).await?;
        features::observe_events(&self.watches.news, &mut self.coverage);
        let everything = Bytes::from_static(b"\0");
        let range = RangeRequest { key: everything.clone(), range_end: everything, ..RangeRequest::default() };
        self.make(Call::Range(range)).await?;
        // Not at revision 0: after a compaction at 0 etcd answers that with the hash of nothing.
        self.make(Call::HashKv(HashKvRequest { revision: self.seen.current })).await?;
        if self.plan.old_reference { Ok(()) } else { self.remembered_hash().await }
    }

    /// A finished compaction leaves the hash of the earlier contents, for its revision.
    async fn remembered_hash(&mut self) -> Result<(), String> {
        for key in [&b"first"[..], b"second"] {
            let key = Bytes::from_static(key);
            self.make(Call::Put(PutRequest { key: key.clone(), ..PutRequest::default() })).await?;
            self.make(Call::Put(PutRequest { key, ..PutRequest::default() })).await?;
            let revision = self.seen.current;
            self.make(Call::Compact(CompactionRequest { revision, physical: true })).await?;
        }
        let call = Call::HashKv(HashKvRequest { revision: self.seen.current });
        let (subject, reference) = self.ask(&call).await?;
        self.compare(&call, [subject, reference]).map(drop)
    }

    /// A lease that is not renewed deletes its keys when it ends, in one revision, with events.
    async fn expire_lease(&mut self) -> Result<(), String> {
        const LEASE: i64 = 70;
        const KEYS: usize = 8;
        self.make(Call::Grant(LeaseGrantRequest { ttl: 1, id: LEASE })).await?;
        for number in 0..KEYS {
            let key = Bytes::from(format!("lease/{number}"));
            self.make(Call::Put(PutRequest { key, lease: LEASE, ..PutRequest::default() })).await?;
        }
        self.watches.sync(self.seen.current).await?;
        let before = self.watches.news.len();
        let expired = self.seen.current + 1;
        self.watches.sync(expired).await?;
        features::observe_expiry(&self.watches.news[before..], &mut self.coverage);
        self.seen.current = expired;
        self.make(Call::TimeToLive(LeaseTimeToLiveRequest { id: LEASE, keys: true })).await.map(drop)
    }

    /// If a watcher requests fragments, it receives a revision too large for one message in pieces.
    async fn fragments(&mut self) -> Result<(), String> {
        const PUTS: usize = 60;
        let start_revision = self.seen.current + 1;
        for _ in 0..PUTS {
            let value = Bytes::from(vec![b'f'; 60_000]);
            let put = PutRequest { key: Bytes::from_static(b"fragment"), value, ..PutRequest::default() };
            self.make(Call::Put(put)).await?;
        }
        self.make(Call::Watch(WatchCall::Close { stream: 0 })).await?;
        let request = WatchCreateRequest {
            key: Bytes::from_static(b"fragment"),
            start_revision,
            fragment: true,
            ..WatchCreateRequest::default()
        };
        self.make(Call::Watch(WatchCall::Create { stream: 0, request })).await?;
        self.watches.sync(self.seen.current).await?;
        (0..self.watches.fragments).for_each(|_| self.coverage.hit("watch", "fragment received"));
        Ok(())
    }

    fn remember(&mut self, call: String) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(format!("{}: {}", self.step, cut(&call)));
    }

    fn report(&self, reason: &str) -> String {
        let recent: Vec<&str> = self.recent.iter().map(String::as_str).collect();
        format!(
            "SEED={} CALLS={} replays this.\nThe last calls:\n  {}\nStep {}: {reason}",
            self.plan.seed,
            self.plan.calls,
            recent.join("\n  "),
            self.step,
        )
    }
}

/// A text that may be huge, shortened.
fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_string(),
        Some((end, _)) => format!("{}... ({} characters)", &text[..end], text.len()),
    }
}
