//! Clients that watch. Each has one watcher at a time, on any member. When its connection ends, it resumes where it
//! was.

use bytes::BytesMut;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::WatchResponse;
use metastore_store::watch::{Header, StreamId};

use super::World;
use crate::history::Watch;
use crate::member::Member;
use crate::watcher::Watcher;

/// Responses that a client takes at a time, at most.
const TAKEN_AT_ONCE: usize = 5;
/// Steps of reading history that a member makes in a moment, at most.
const CATCH_UP_STEPS: u64 = 3;
/// How often the watchers' thread receives its mail, in thousandths per moment.
const MAIL_PERMILLE: u64 = 500;

impl World {
    /// Runs one moment of all watches.
    pub(crate) fn watch(&mut self) {
        for at in 0..self.members.len() {
            self.deliver_history(at);
        }
        let mut watchers = std::mem::take(&mut self.watchers);
        for watcher in &mut watchers {
            match watcher.at {
                None if watcher.next_try <= self.now => self.connect(watcher),
                None => {}
                Some((at, stream)) => self.look(watcher, at, stream),
            }
        }
        self.watchers = watchers;
    }

    /// A member reads history for watchers that are behind.
    fn deliver_history(&mut self, at: usize) {
        let steps = self.random.below(CATCH_UP_STEPS + 1);
        let member = &mut self.members[at];
        if !member.awake(self.now) {
            return;
        }
        if self.random.permille(MAIL_PERMILLE) {
            member.deliver_mail();
        }
        let now_ms = member.clock.ms();
        let (Some(hub), Some(replica)) = (&mut member.hub, &member.replica) else { return };
        self.compacted = self.compacted.max(replica.store().view().compact_revision());
        hub.tick(now_ms);
        for _ in 0..steps {
            if !hub.catch_up().unwrap_or_else(|error| panic!("member {at} cannot read history: {error}")) {
                break;
            }
        }
    }

    fn connect(&mut self, watcher: &mut Watcher) {
        let awake: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].awake(self.now)).collect();
        let Some(&at) = watcher.random.pick(&awake) else { return };
        let now_ms = self.members[at].clock.ms();
        let Some(hub) = &mut self.members[at].hub else { return };
        let stream = hub.open_stream(now_ms);
        hub.create(stream, &watcher.spec());
        watcher.at = Some((at, stream));
        self.counts.watches += 1;
        self.counts.watches_resumed += u64::from(!watcher.chain.is_empty());
        self.note(|| format!("watcher {} begins at {} on {at}", watcher.client, watcher.request.start_revision));
    }

    fn look(&mut self, watcher: &mut Watcher, at: usize, stream: StreamId) {
        if !self.members[at].awake(self.now) {
            return;
        }
        if watcher.random.permille(watcher.zeal) {
            self.take(watcher, at, stream, TAKEN_AT_ONCE);
        }
        let Some(hub) = &mut self.members[at].hub else { return };
        if watcher.random.permille(10) {
            hub.progress(stream);
        }
        let canceled = watcher.responses.last().is_some_and(|last| last.canceled);
        if canceled || (!self.healed && watcher.random.permille(4)) {
            hub.close_stream(stream);
            self.counts.watches_compacted += u64::from(canceled);
            watcher.disconnected(self.now, self.compacted, None);
        }
    }

    fn take(&mut self, watcher: &mut Watcher, at: usize, stream: StreamId, most: usize) {
        for _ in 0..most {
            let Some(response) = self.members[at].hub.as_mut().and_then(|hub| hub.take(stream)) else { return };
            let mut bytes = BytesMut::new();
            response.encode(&Header::default(), &mut bytes);
            let response = WatchResponse::decode(bytes.freeze()).expect("a response is read as it was written");
            self.counts.watch_events += response.events.len() as u64;
            let revision = response.header.as_ref().map_or(0, |header| header.revision);
            let (client, events, canceled) = (watcher.client, response.events.len(), response.canceled);
            self.note(|| format!("watcher {client} hears {events} events at {revision}, canceled {canceled}"));
            watcher.responses.push(response);
        }
    }

    /// The connections to a member end.
    pub(crate) fn disconnect_watchers(&mut self, at: usize) {
        let (now, compacted) = (self.now, self.compacted);
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.at.is_some_and(|(member, _)| member == at)) {
            watcher.disconnected(now, compacted, None);
        }
    }

    /// At the end, delivers all remaining events to every watcher, and returns the watches.
    pub(crate) fn end_watches(&mut self) -> Vec<Vec<Watch>> {
        let newest = self.judge.revisions.newest();
        self.members.iter_mut().for_each(Member::deliver_mail);
        let mut watchers = std::mem::take(&mut self.watchers);
        for watcher in &mut watchers {
            let Some((at, stream)) = watcher.at else { continue };
            loop {
                let hub = self.members[at].hub.as_mut().expect("a healed member runs");
                while hub.catch_up().expect("history can be read") {}
                let before = watcher.responses.len();
                self.take(watcher, at, stream, usize::MAX);
                if watcher.responses.len() == before {
                    break;
                }
            }
            let canceled = watcher.responses.last().is_some_and(|last| last.canceled);
            watcher.disconnected(self.now, self.compacted, (!canceled).then_some(newest));
        }
        watchers.into_iter().flat_map(|watcher| watcher.chains.into_iter().chain([watcher.chain])).collect()
    }
}
