//! A store with the parts that surround it in a member, and the commands that drive them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use metastore_engine::{Engine, Memory, Revision, Table};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::CompactionRequest;
use metastore_proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use metastore_proto::raftpb::{ConfChange, ConfState};
use metastore_store::apply::range_query;
use metastore_store::command::{Caller, Command, Kind};
use metastore_store::lease::Expiry;
use metastore_store::mvcc::{CompactionHashJob, Pin};
use metastore_store::schema::CONF_STATE;
use metastore_store::watch::{Hub, Limits, StreamId};
use metastore_store::{Outcome, Reply, Store};

use crate::engines::{Home, Medium};
use crate::entries::{load, snapshot_of};

use super::words::{Options, Result, bytes, number, word};
use super::{request, trace};

/// The term of all entries.
const TERM: u64 = 1;
/// The largest number of learners in a cluster; the default.
const MAX_LEARNERS: usize = 1;

pub struct ScriptedStore {
    medium: Medium,
    pub store: Store,
    pub hub: Hub,
    pub limits: Limits,
    pub streams: BTreeMap<String, StreamId>,
    pub expiry: Expiry,
    /// The shortest time to live of a lease: a setting that survives restarts.
    pub minimum_ttl_s: i64,
    pub now_ms: u64,
    /// The caller in whose name commands are proposed.
    pub caller: Caller,
    /// Applied entries stay unpublished until `publish`.
    holding: bool,
    /// The hub does not receive published revisions.
    pub deaf: bool,
    pins: Vec<Pin>,
    /// The job that computes a compaction's hash; the first step of dropping old versions runs it.
    hashing: Option<CompactionHashJob>,
    /// The last field, so that the engine is closed before its directory is removed.
    home: Home,
}

impl ScriptedStore {
    pub fn new(medium: Medium) -> Self {
        let (limits, home) = (Limits::default(), Home::new(medium));
        let (store, hub) = open(home.open(), limits);
        let (streams, expiry, pins) = (BTreeMap::new(), Expiry::default(), Vec::new());
        let (minimum_ttl_s, now_ms, caller) = (0, 0, Caller::default());
        let (holding, deaf, hashing) = (false, false, None);
        Self {
            medium,
            store,
            hub,
            limits,
            streams,
            expiry,
            minimum_ttl_s,
            now_ms,
            caller,
            holding,
            deaf,
            pins,
            hashing,
            home,
        }
    }

    /// Runs one command; returns the trace.
    pub fn run(&mut self, words: &[&str]) -> Result<Vec<String>> {
        let (&command, rest) = words.split_first().ok_or("an empty command")?;
        match command {
            "put" => self.apply(Kind::Put, &request::put(rest)?),
            "del" => self.apply(Kind::DeleteRange, &request::delete(rest)?),
            "txn" => self.apply(Kind::Txn, &request::txn(rest)?),
            "compact" => {
                let options = Options::new(rest.get(1..).unwrap_or_default(), &["physical"])?;
                let (revision, physical) = (number(word(rest, 0)?)?, options.has("physical"));
                self.apply(Kind::Compaction, &CompactionRequest { revision, physical })
            }
            "get" | "read_txn" | "hash_kv" | "history" | "compact_revision" => self.read(command, rest),
            "compact_step" | "compact_all" | "pin" | "unpin" => self.drop_versions(command, rest),
            "cluster_version" | "member_change" | "member_attributes" | "members" => self.cluster(command, rest),
            "entry" | "skip" => self.raw(command, rest),
            "hold" | "publish" | "restart" | "snapshot" | "snapshot_damaged" => self.lifecycle(command),
            _ => match self.run_facts(command, rest)? {
                Some(trace) => Ok(trace),
                None => match self.run_lease(command, rest)? {
                    Some(trace) => Ok(trace),
                    None => self.run_watch(command, rest),
                },
            },
        }
    }

    /// Applies a command as the next entry of the log.
    pub fn apply(&mut self, kind: Kind, message: &impl Message) -> Result<Vec<String>> {
        let index = self.store.applied().index + 1;
        Ok(self.apply_bytes(index, Command::encode_as(&self.caller, index, kind, message)))
    }

    fn apply_bytes(&mut self, index: u64, entry: Bytes) -> Vec<String> {
        let outcome = match self.store.apply(index, TERM, entry) {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return vec!["nothing".into()],
            Err(halt) => return vec![format!("halt: {halt}")],
        };
        assert_eq!(outcome.id, index, "the outcome names the request that waits");
        self.note_lease(&outcome);
        if !self.holding {
            self.publish();
        }
        trace::outcome(&outcome)
    }

    fn note_lease(&mut self, outcome: &Outcome) {
        match outcome.reply {
            Ok(Reply::LeaseGrant { id, ttl_s }) => self.expiry.granted(id, ttl_s, self.now_ms),
            Ok(Reply::LeaseRevoke { id }) => self.expiry.revoked(id),
            _ => {}
        }
    }

    fn publish(&mut self) {
        let events = self.store.publish().expect("the engine does not fail");
        if let Some(job) = self.store.take_compaction_hash() {
            self.hashing = Some(job);
        }
        for events in events {
            if !self.deaf {
                self.hub.publish(&events);
            }
        }
    }

    fn read(&self, command: &str, words: &[&str]) -> Result<Vec<String>> {
        let view = self.store.view();
        Ok(match command {
            "get" => match view.range(&range_query(&request::range(words)?)) {
                Ok(reply) => trace::range(&reply),
                Err(error) => trace::unread(&error),
            },
            "read_txn" => match view.read_txn(&request::txn(words)?) {
                Ok((revision, reply, _)) => trace::txn_read(revision, &reply),
                Err(error) => trace::unread(&error),
            },
            "hash_kv" => match view.hash_kv(words.first().map_or(Ok(0), |word| number(word))?) {
                Ok(hash) => vec![format!(
                    "hash={:08x} hash_revision={} compact_revision={} rev={}",
                    hash.hash, hash.hash_revision, hash.compact_revision, hash.revision
                )],
                Err(error) => trace::unread(&error),
            },
            "compact_revision" => vec![view.compact_revision().to_string()],
            _ => self.history(number(word(words, 0)?)?, number(word(words, 1)?)?),
        })
    }

    /// All stored versions between two revisions, row by row.
    fn history(&self, from: i64, to: i64) -> Vec<String> {
        let (mut next, mut out) = (Some(Revision::new(from, 0)), Vec::new());
        while let Some(from) = next {
            let mut versions = Vec::new();
            next = self.store.view().history(from, to, &mut versions).expect("the engine does not fail");
            out.extend(versions.iter().map(|version| {
                let Revision { main, sub } = version.revision;
                let tombstone = if version.tombstone { " tombstone" } else { "" };
                format!("{main}.{sub}{tombstone} {}", trace::row(&version.row))
            }));
        }
        or_nothing(out)
    }

    fn drop_versions(&mut self, command: &str, words: &[&str]) -> Result<Vec<String>> {
        match command {
            "pin" => {
                let pinned = self.store.view().pin(number(word(words, 0)?)?);
                return Ok(match pinned {
                    Ok(pin) => {
                        self.pins.push(pin);
                        vec!["pinned".into()]
                    }
                    Err(error) => vec![format!("error: {error}")],
                });
            }
            "unpin" => self.pins.clear(),
            _ => while self.compact_step() && command == "compact_all" {},
        }
        Ok(vec![if self.store.compacting() { "old versions wait to be dropped" } else { "all dropped" }.into()])
    }

    fn compact_step(&mut self) -> bool {
        match self.hashing.take() {
            Some(job) => {
                job.run().expect("the engine does not fail");
                true
            }
            None => self.store.compact_step().expect("the engine does not fail"),
        }
    }

    fn cluster(&mut self, command: &str, words: &[&str]) -> Result<Vec<String>> {
        match command {
            "cluster_version" => {
                let ver = word(words, 0)?.to_string();
                self.apply(Kind::ClusterVersionSet, &ClusterVersionSetRequest { ver })
            }
            "member_attributes" => {
                let options = Options::new(words.get(1..).unwrap_or_default(), &["name", "url"])?;
                let name = options.get("name").unwrap_or_default().to_string();
                let client_urls = options.get("url").map(str::to_string).into_iter().collect();
                let member_attributes = Some(Attributes { name, client_urls });
                let member_id = number(word(words, 0)?)?;
                self.apply(Kind::ClusterMemberAttrSet, &ClusterMemberAttrSetRequest { member_id, member_attributes })
            }
            "member_change" => self.member_change(words),
            _ => {
                let members = self.store.members();
                let mut out = vec![format!("cluster version {}", members.cluster_version().unwrap_or("not decided"))];
                out.extend(members.iter().map(|member| format!("  {member:?}")));
                out.extend(members.removed().map(|id| format!("  {id} was removed")));
                let row = self.store.view().engine().get(Table::Meta, CONF_STATE).expect("the engine does not fail");
                out.extend(row.map(|row| format!("  {}", String::from_utf8_lossy(&row))));
                Ok(out)
            }
        }
    }

    /// `member_change <kind> <id> [json] [voters=1,2] [learners=3]`; the last two are the result from consensus.
    fn member_change(&mut self, words: &[&str]) -> Result<Vec<String>> {
        let number_of = |name: &str| ["add", "remove", "update", "add_learner"].iter().position(|&kind| kind == name);
        let id = number(word(words, 1)?)?;
        let json = words.get(2).filter(|word| word.starts_with('{'));
        let options = Options::new(&words[2 + json.iter().count()..], &["voters", "learners"])?;
        let ids = |name| options.get(name).map_or(Ok(Vec::new()), |text| text.split(',').map(number).collect());
        let conf_state = ConfState { voters: ids("voters")?, learners: ids("learners")?, ..ConfState::default() };
        let change = ConfChange {
            id: Some(7),
            r#type: number_of(word(words, 0)?).map(|kind| kind as i32),
            node_id: Some(id),
            context: json.map(|json| Bytes::copy_from_slice(json.as_bytes())),
        };
        let index = self.store.applied().index + 1;
        let outcome = match self.store.check_member_change(index, &change, MAX_LEARNERS) {
            Ok(checked) => self.store.apply_member_change(index, TERM, change.id(), checked, &conf_state),
            Err(halt) => Err(halt),
        };
        if !self.holding {
            self.publish();
        }
        Ok(match outcome {
            Ok(outcome) => trace::outcome(&outcome),
            Err(halt) => vec![format!("halt: {halt}")],
        })
    }

    fn raw(&mut self, command: &str, words: &[&str]) -> Result<Vec<String>> {
        let next = self.store.applied().index + 1;
        let index = if command == "skip" { next + 1 } else { next };
        Ok(self.apply_bytes(index, bytes(word(words, 0)?)?.into()))
    }

    fn lifecycle(&mut self, command: &str) -> Result<Vec<String>> {
        match command {
            "hold" => self.holding = true,
            "publish" => {
                self.holding = false;
                self.publish();
            }
            "restart" => self.restart(),
            _ => return self.snapshot(command == "snapshot_damaged"),
        }
        Ok(self.position())
    }

    /// Writes the state, loads it into an empty engine, and continues there.
    fn snapshot(&mut self, damaged: bool) -> Result<Vec<String>> {
        let mut written = snapshot_of(&self.store);
        if damaged {
            let middle = written.len() / 2;
            written[middle] ^= 1;
        }
        let home = Home::new(self.medium);
        match load(&written, home.open()) {
            Ok(applied) => {
                assert_eq!(applied, self.store.view().published().applied);
                let before = self.store.view().hash().unwrap();
                self.stop();
                self.home = home;
                self.start();
                assert_eq!(self.store.view().hash().unwrap(), before, "the loaded state is the written one");
                Ok(self.position())
            }
            Err(error) => Ok(vec![format!("error: {error}")]),
        }
    }

    fn restart(&mut self) {
        self.store.view().engine().flush().expect("the engine does not fail");
        self.stop();
        self.start();
    }

    /// Closes the engine.
    fn stop(&mut self) {
        self.pins.clear();
        self.hashing = None;
        (self.store, self.hub) = open(Arc::new(Memory::new()), self.limits);
    }

    /// Opens a store as a member does at its start: it is no leader, and there are no watchers.
    fn start(&mut self) {
        self.streams.clear();
        self.expiry = Expiry::default();
        (self.store, self.hub) = open(self.home.open(), self.limits);
        self.store.set_minimum_ttl_s(self.minimum_ttl_s);
    }

    fn position(&self) -> Vec<String> {
        let published = self.store.view().published();
        vec![format!("index={} rev={}", published.applied.index, published.revision)]
    }
}

fn open(engine: Arc<dyn Engine>, limits: Limits) -> (Store, Hub) {
    let store = Store::open(engine).expect("the state can be read");
    let hub = Hub::new(Arc::new(store.view().clone()), limits);
    (store, hub)
}

/// The trace, or a line that shows that there is none.
pub fn or_nothing(trace: Vec<String>) -> Vec<String> {
    if trace.is_empty() { vec!["nothing".into()] } else { trace }
}
