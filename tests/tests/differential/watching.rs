//! Watchers on both servers, and the check of the events that they received.
//!
//! The way in which events are cut into answers depends on time, so answers are not compared one by one. At a *sync
//! point* each watcher must have received exactly the events that its range, its start and its filters select from the
//! history of the store. They must be in order, and the same from both servers. The history comes from one more watcher
//! on each server, which sees all events from the first revision on. It is complete when it has shown the current
//! revision, because every revision has at least one event and is never split.
//!
//! There is a sync point before each call whose outcome would otherwise depend on time: before a cancel, before a
//! compaction, at a progress request, and at the end.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use metastore_proto::etcdserverpb::watch_create_request::FilterType;
use metastore_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use metastore_proto::mvccpb::Event;
use metastore_proto::mvccpb::event::EventType;
use metastore_tests::watch::{WatchStream, everything_from};
use tokio::time::Instant;

use super::call::{Answer, Side, WatchCall};
use super::grammar::WATCH_STREAMS;

/// How long a server may take to send the events due. etcd's watchers catch up every 100 ms.
const PATIENCE: Duration = Duration::from_secs(20);
/// A server drops a progress request while a watcher catches up; then the client repeats it.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// The number of watchers per stream. Before one more is created, the oldest is cancelled.
const MAX_WATCHERS: usize = 8;
/// A watch id that no server gives out in these tests.
const NO_SUCH_WATCHER: i64 = 999;

/// The subject's and the reference's answer to the same call.
pub type Pair = [Answer; 2];
const NAMES: [&str; 2] = ["subject", "reference"];

pub struct Watches {
    slots: [Option<Slot>; WATCH_STREAMS],
    history_streams: [Inbox; 2],
    /// Events of all revisions from the compacted one to the last sync point.
    history: Vec<Event>,
    /// False for etcd before 3.5.13, which answers a progress request before the watchers have caught up.
    progress_waits: bool,
    /// The number of answers with `fragment` set that the subject sent.
    pub fragments: u64,
    /// All events up to the last sync point that the caller has not taken yet.
    pub news: Vec<Event>,
}

struct Slot {
    inboxes: [Inbox; 2],
    watchers: Vec<Watcher>,
}

struct Watcher {
    id: i64,
    request: WatchCreateRequest,
    /// The first revision of which nothing has been received yet.
    from: i64,
    /// The start revision. While it lies in the future, the watcher keeps progress requests unanswered.
    until: i64,
    /// The watcher is known to have caught up: a compaction cannot cancel it any more.
    caught_up: bool,
}

/// Answers of one stream of one server that have not been checked yet.
struct Inbox {
    stream: WatchStream,
    control: VecDeque<WatchResponse>,
    progress: Vec<WatchResponse>,
    events: BTreeMap<i64, Vec<Event>>,
    fragments: u64,
    /// The newest revision that a history stream had shown at a sync point.
    reached: i64,
}

impl Inbox {
    async fn open(side: &Side, request: WatchCreateRequest) -> Result<Inbox, String> {
        let stream = WatchStream::open(&side.client, request).await.map_err(|status| status.to_string())?;
        let (control, progress) = (VecDeque::new(), Vec::new());
        Ok(Inbox { stream, control, progress, events: BTreeMap::new(), fragments: 0, reached: 1 })
    }

    /// Receives one more answer; false if none came in time.
    async fn receive(&mut self, patience: Duration) -> Result<bool, String> {
        let Some(answer) = self.stream.next(patience).await.map_err(|status| status.to_string())? else {
            return Ok(false);
        };
        if answer.created || answer.canceled {
            self.control.push_back(answer);
        } else if !answer.events.is_empty() {
            let revision = answer.header.unwrap_or_default().revision;
            let newest = answer.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
            if newest > Some(revision) {
                return Err(format!("header revision {revision} is below the events': {answer:?}"));
            }
            self.fragments += answer.fragment as u64;
            self.events.entry(answer.watch_id).or_default().extend(answer.events);
        } else if answer.watch_id == -1 {
            self.progress.push(answer);
        }
        Ok(true)
    }

    async fn next_control(&mut self) -> Result<WatchResponse, String> {
        let deadline = Instant::now() + PATIENCE;
        while self.control.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.receive(left).await? {
                return Err("no answer to a watch request".into());
            }
        }
        Ok(self.control.pop_front().expect("the queue is not empty"))
    }

    /// The events of watcher `id`, once there are `count`; all received ones if fewer come in time.
    async fn take_events(&mut self, id: i64, count: usize) -> Result<Vec<Event>, String> {
        let deadline = Instant::now() + PATIENCE;
        while self.events.get(&id).map_or(0, Vec::len) < count {
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.receive(left).await? {
                break;
            }
        }
        Ok(self.events.remove(&id).unwrap_or_default())
    }

    /// Requests progress until the answer has revision `current`.
    async fn wait_for_progress(&mut self, current: i64) -> Result<WatchResponse, String> {
        let deadline = Instant::now() + PATIENCE;
        self.progress.clear();
        while Instant::now() < deadline {
            self.stream.request_progress();
            while self.receive(ASK_AGAIN).await? {
                let answer = self.progress.pop();
                if let Some(answer) = answer.filter(|answer| answer.header.unwrap_or_default().revision == current) {
                    return Ok(answer);
                }
            }
        }
        Err(format!("a progress request was not answered for revision {current}"))
    }
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let Some(kv) = &event.kv else { return false };
        let filtered = self.request.filters.iter().any(|filter| match FilterType::try_from(*filter) {
            Ok(FilterType::Noput) => event.r#type == EventType::Put as i32,
            Ok(FilterType::Nodelete) => event.r#type == EventType::Delete as i32,
            Err(_) => false,
        });
        kv.mod_revision >= self.from && !filtered && contains(&self.request, &kv.key)
    }
}

fn contains(request: &WatchCreateRequest, key: &Bytes) -> bool {
    let from: &[u8] = if request.key.is_empty() { b"\0" } else { &request.key };
    match &request.range_end[..] {
        b"" => key == from,
        b"\0" => &key[..] >= from,
        end => &key[..] >= from && &key[..] < end,
    }
}

/// Awaits the same future for both servers at once. An error names the server that failed.
macro_rules! both {
    ($sides:expr, |$side:ident| $future:expr) => {{
        let [subject, reference] = $sides;
        let (first, second) = tokio::join!(
            async {
                let $side = subject;
                $future
            },
            async {
                let $side = reference;
                $future
            }
        );
        match (first, second) {
            (Ok(first), Ok(second)) => Ok([first, second]),
            (Err(reason), _) => Err(format!("{}: {reason}", NAMES[0])),
            (_, Err(reason)) => Err(format!("{}: {reason}", NAMES[1])),
        }
    }};
}

impl Watches {
    pub async fn open(sides: &[Side; 2], progress_waits: bool) -> Result<Watches, String> {
        let request = WatchCreateRequest { prev_kv: true, ..everything_from(1) };
        let mut history_streams = both!(sides, |side| Inbox::open(side, request.clone()).await)?;
        both!(&mut history_streams, |inbox| inbox.next_control().await)?;
        let (slots, history, news) = ([const { None }; WATCH_STREAMS], Vec::new(), Vec::new());
        Ok(Watches { slots, history_streams, history, progress_waits, fragments: 0, news })
    }

    /// Executes the call. The caller has yet to normalise and compare the answers.
    pub async fn execute(
        &mut self,
        call: &WatchCall,
        sides: &[Side; 2],
        current: i64,
        compacted: i64,
    ) -> Result<Vec<Pair>, String> {
        match call {
            WatchCall::Create { stream, request } => self.create(*stream, request, sides, current, compacted).await,
            WatchCall::Cancel { stream, nth } => self.cancel(*stream, *nth, current).await,
            WatchCall::Progress { stream } => self.progress(*stream, current).await,
            WatchCall::Close { stream } => {
                self.slots[*stream] = None;
                Ok(Vec::new())
            }
        }
    }

    async fn create(
        &mut self,
        stream: usize,
        request: &WatchCreateRequest,
        sides: &[Side; 2],
        current: i64,
        compacted: i64,
    ) -> Result<Vec<Pair>, String> {
        let mut pairs = Vec::new();
        if self.slots[stream].as_ref().is_some_and(|slot| slot.watchers.len() >= MAX_WATCHERS) {
            pairs = self.cancel(stream, 0, current).await?;
        }
        match &mut self.slots[stream] {
            Some(slot) => slot.inboxes.iter().for_each(|inbox| inbox.stream.create(request.clone())),
            closed => {
                let inboxes = both!(sides, |side| Inbox::open(side, request.clone()).await)?;
                *closed = Some(Slot { inboxes, watchers: Vec::new() });
            }
        }
        let slot = self.slots[stream].as_mut().expect("the stream is open");
        let created = both!(&mut slot.inboxes, |inbox| inbox.next_control().await)?;
        let refused = created.iter().any(|answer| answer.canceled);
        let (id, start) = (created[1].watch_id, request.start_revision);
        pairs.push(created.map(Answer::Watch));
        if refused {
            return Ok(pairs);
        }
        if start > 0 && start < compacted {
            let canceled = both!(&mut slot.inboxes, |inbox| inbox.next_control().await)?;
            pairs.push(canceled.map(Answer::Watch));
            // After a compaction has cancelled a watcher, etcd keeps its id reserved, and counts the watcher among
            // those that must catch up before progress is reported. A server that forgets the watcher is not wrong, so
            // this stream cannot be compared any more.
            self.sync(current).await?;
            self.slots[stream] = None;
            return Ok(pairs);
        }
        let live = start == 0 || start > current;
        let from = if start == 0 { current + 1 } else { start };
        slot.watchers.push(Watcher { id, request: request.clone(), from, until: from, caught_up: live });
        Ok(pairs)
    }

    async fn cancel(&mut self, stream: usize, nth: usize, current: i64) -> Result<Vec<Pair>, String> {
        self.sync(current).await?;
        let Some(slot) = &mut self.slots[stream] else { return Ok(Vec::new()) };
        if slot.watchers.is_empty() {
            slot.inboxes.iter().for_each(|inbox| inbox.stream.cancel(NO_SUCH_WATCHER));
            return Ok(Vec::new());
        }
        let watcher = slot.watchers.remove(nth % slot.watchers.len());
        slot.inboxes.iter().for_each(|inbox| inbox.stream.cancel(watcher.id));
        let answers = both!(&mut slot.inboxes, |inbox| inbox.next_control().await)?;
        let late = slot.inboxes.iter().any(|inbox| inbox.events.contains_key(&watcher.id));
        if late {
            return Err(format!("watcher {} received more than the history holds", watcher.id));
        }
        Ok(vec![answers.map(Answer::Watch)])
    }

    async fn progress(&mut self, stream: usize, current: i64) -> Result<Vec<Pair>, String> {
        self.sync(current).await?;
        let Some(slot) = &mut self.slots[stream] else { return Ok(Vec::new()) };
        // If there are no watchers, or one starts at a future revision, the request stays unanswered.
        let ahead = slot.watchers.iter().any(|watcher| watcher.until > current);
        if slot.watchers.is_empty() || ahead {
            slot.inboxes.iter().for_each(|inbox| inbox.stream.request_progress());
            return Ok(Vec::new());
        }
        let answers = both!(&mut slot.inboxes, |inbox| inbox.wait_for_progress(current).await)?;
        if self.progress_waits {
            slot.watchers.iter_mut().for_each(|watcher| watcher.caught_up = true);
        }
        Ok(vec![answers.map(Answer::Watch)])
    }

    /// Makes a compaction safe: all watchers receive their events, and those not known to have caught up are cancelled.
    pub async fn before_compaction(&mut self, current: i64) -> Result<Vec<Pair>, String> {
        self.sync(current).await?;
        let mut pairs = Vec::new();
        for stream in 0..WATCH_STREAMS {
            let behind = |slot: &Slot| slot.watchers.iter().position(|watcher| !watcher.caught_up);
            while let Some(nth) = self.slots[stream].as_ref().and_then(behind) {
                pairs.extend(self.cancel(stream, nth, current).await?);
            }
        }
        Ok(pairs)
    }

    /// Drops history that no watcher can read any more.
    pub fn forget_below(&mut self, compacted: i64) {
        self.history.retain(|event| revision(event) >= compacted);
    }

    /// A sync point: reads until every watcher has received its events.
    pub async fn sync(&mut self, current: i64) -> Result<(), String> {
        let news = both!(&mut self.history_streams, |inbox| history_until(inbox, current).await)?;
        let [subject, reference] = news;
        if subject != reference {
            return Err(format!("the histories differ{}", first_difference(&subject, &reference)));
        }
        self.history.extend(reference.iter().cloned());
        self.news.extend(reference);
        for slot in self.slots.iter_mut().flatten() {
            for watcher in &mut slot.watchers {
                check(watcher, &mut slot.inboxes, &self.history).await?;
                watcher.from = watcher.from.max(current + 1);
            }
            self.fragments += std::mem::take(&mut slot.inboxes[0].fragments);
        }
        Ok(())
    }
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// The new events of the history, up to revision `current` or the deadline.
async fn history_until(inbox: &mut Inbox, current: i64) -> Result<Vec<Event>, String> {
    let mut news = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        news.extend(inbox.events.remove(&0).unwrap_or_default());
        if news.last().map_or(inbox.reached, revision) >= current {
            break;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if !inbox.receive(left).await? {
            return Err(format!("the history does not reach revision {current}; it ends with {:?}", news.last()));
        }
    }
    inbox.reached = current;
    Ok(news)
}

/// The first event in which two lists differ.
fn first_difference(subject: &[Event], reference: &[Event]) -> String {
    let at = subject.iter().zip(reference).take_while(|(a, b)| a == b).count();
    let before = at.checked_sub(1).map(|before| &reference[before]);
    let [one, other] = [subject, reference].map(|events| format!("{:?}, {} in all", events.get(at), events.len()));
    format!(", from event {at} on\n  before:    {before:?}\n  subject:   {one}\n  reference: {other}")
}

async fn check(watcher: &Watcher, inboxes: &mut [Inbox; 2], history: &[Event]) -> Result<(), String> {
    let expected: Vec<&Event> = history.iter().filter(|event| watcher.wants(event)).collect();
    let received = both!(inboxes, |inbox| inbox.take_events(watcher.id, expected.len()).await)?;
    let [subject, reference] = &received;
    let describe = || format!("watcher {} from revision {}: {:?}", watcher.id, watcher.from, watcher.request);
    for (events, name) in received.iter().zip(NAMES) {
        let same = |event: &Event, wanted: &&Event| event.kv == wanted.kv && event.r#type == wanted.r#type;
        let exact = events.len() == expected.len() && events.iter().zip(&expected).all(|(a, b)| same(a, b));
        if !exact {
            return Err(format!("{}\n  {name} sent: {events:?}\n  history:   {expected:?}", describe()));
        }
    }
    if subject != reference {
        return Err(format!("{}{}", describe(), first_difference(subject, reference)));
    }
    Ok(())
}
