//! The replicated state machine: committed commands in, state and answers out.
//!
//! ```text
//!   committed entry ─▶ apply/   meaning of the command ──▶ Outcome (for the waiting request)
//!                        │
//!                        ▼
//!                      mvcc/    versions of keys ─────────▶ RevisionEvents (for watch/)
//!                      lease/   leases and the keys attached to them
//!                      members  members of the cluster
//!                      auth/    users, roles, permissions;  alarms
//!                        │
//!                        ▼
//!                      engine   rows on a medium, published with the applied index
//! ```
//!
//! Rules
//! - **Same log, same state.** [`Store::apply`] is a pure function of state, index and command: no clock, no random
//!   number, no thread, no iteration over a randomly seeded map. A value that needs one of these (a lease id, a time)
//!   is fixed before the command is proposed. One setting takes part, as in etcd, and must be the same on all members:
//!   the shortest time to live of a lease ([`Store::set_minimum_ttl_s`]).
//! - **Two kinds of failure, two types.** A [`Refusal`] is an answer that is the same on every member. A [`Halt`] is
//!   local: this member must stop, because otherwise it would skip an entry that the other members apply.
//! - Readers and the writer never wait for each other longer than one bounded step: see [`mvcc::View`].
//!
//! Deliberately absent: time (leases expire through commands that the leader proposes), the network, the log.

mod alarms;
pub mod apply;
mod auth;
mod conf_state;
mod etcd_url;
pub mod lease;
mod member_change;
mod members;
pub mod mvcc;
mod not_done;
mod refusal;
pub mod schema;
pub mod snapshot;
pub mod watch;

pub use alarms::Alarms;
pub use apply::command;
pub use apply::{Halt, HaltCause, OpReply, Outcome, Reply, TxnReply, Work, check_command, may_propose};
pub use auth::{Access, Auth};
pub use conf_state::conf_state_json;
pub use etcd_url::EtcdUrl;
pub use member_change::{MemberChange, check_change, promotion_json};
pub use members::{Member, Members};
pub use refusal::Refusal;

use std::sync::Arc;

use metastore_engine::{Applied, Engine, EngineError, Published, Table};
use metastore_mutants::{Mutant, mutant};

use lease::Leases;
use mvcc::{CompactionHashJob, Mvcc, View, Views};
use schema::LOADING;
use watch::RevisionEvents;

/// The whole replicated state of one member, and the only writer of its engine.
pub struct Store {
    engine: Arc<dyn Engine>,
    mvcc: Mvcc,
    /// The newest state, for readers on any thread.
    views: Views,
    leases: Leases,
    members: Members,
    alarms: Alarms,
    auth: Arc<Auth>,
    applied: Applied,
    events: Vec<Arc<RevisionEvents>>,
    work: Work,
}

impl Store {
    /// Opens the state that `engine` holds. Reads leases and members, but no keys: memory may not hold them all.
    ///
    /// # Errors
    /// If the medium fails, if it holds rows that cannot be read, or if the state in it was not loaded to its end.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Self, EngineError> {
        if engine.get(Table::Meta, LOADING)?.is_some() {
            let why = "the state was not loaded to its end; remove it and load it again";
            return Err(EngineError(why.into()));
        }
        let mvcc = Mvcc::open(engine.clone())?;
        let leases = engine.rows(Table::Lease, b"")?;
        let leases = Leases::load(leases.iter().map(|(key, value)| (&key[..], &value[..])))
            .map_err(|error| EngineError(error.to_string()))?;
        let members = Members::load(engine.as_ref())?;
        let (alarms, auth) = (Alarms::load(engine.as_ref())?, Arc::new(Auth::load(engine.as_ref())?));
        mvcc.view().set_auth(&auth);
        let applied = engine.published().applied;
        engine.publish(Published { revision: mvcc.current(), applied })?;
        let views = Views::new(mvcc.view().clone());
        Ok(Self {
            engine,
            mvcc,
            views,
            leases,
            members,
            alarms,
            auth,
            applied,
            events: Vec::new(),
            work: Work::default(),
        })
    }

    /// Sets the shortest time to live of leases, in seconds ([`lease::minimum_ttl_s`]); 0 if it is never set. It
    /// decides what is stored, so it must be the same on all members. [`Store::replace`] keeps it.
    pub fn set_minimum_ttl_s(&mut self, minimum_ttl_s: i64) {
        self.leases.set_minimum_ttl_s(minimum_ttl_s);
    }

    /// Replaces this state with another one, and returns the old state. Reads that have already begun continue on the
    /// old state. From now on [`Store::views`] gives the new one, leases and members included. The hubs of watchers
    /// must be told ([`watch::Hub::lost`]): the revisions between the two states were never published here, and no
    /// watcher may miss them.
    ///
    /// # Panics
    /// If the other state is older, or if entries that were applied to this state were not published.
    pub fn replace(&mut self, mut by: Self) -> Self {
        assert!(self.events.is_empty(), "events of {} revisions would be lost", self.events.len());
        let (old, new) = (self.applied, by.applied);
        assert!(old.index <= new.index, "the state at entry {} in the place of one at entry {}", new.index, old.index);
        by.views = self.views.clone();
        by.views.set(by.view().clone());
        by.leases.set_minimum_ttl_s(self.leases.minimum_ttl_s());
        if mutant(Mutant::UsersNotReplaced) {
            by.auth = self.auth.clone();
            by.view().set_auth(&by.auth);
        }
        if mutant(Mutant::AlarmsNotReplaced) {
            by.alarms = self.alarms.clone();
        }
        std::mem::replace(self, by)
    }

    /// The newest state, for readers on any thread; it follows when the state is replaced.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// Read access to this state, from any thread.
    pub fn view(&self) -> &View {
        self.mvcc.view()
    }

    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    pub fn members(&self) -> &Members {
        &self.members
    }

    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Index and term of the last entry that was applied.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// The operations that the last applied command ran.
    pub fn work(&self) -> Work {
        self.work
    }

    /// The newest revision, whether published or not.
    pub fn revision(&self) -> i64 {
        self.mvcc.current()
    }

    /// Makes everything that was applied so far visible to readers, and returns its events.
    pub fn publish(&mut self) -> Result<Vec<Arc<RevisionEvents>>, EngineError> {
        // Before the keys: a reader must not see a key that was written after its permission was revoked.
        self.mvcc.view().set_auth(&self.auth);
        self.mvcc.publish(self.applied)?;
        Ok(std::mem::take(&mut self.events))
    }

    /// The job that computes the hash of a compaction that has just been published; `None` if there is none. The caller
    /// runs it on another thread; old versions are dropped only after it. It must be taken before the next
    /// [`Store::compact_step`]: if it is not taken, or is dropped, the compaction continues without its hash.
    pub fn take_compaction_hash(&mut self) -> Option<CompactionHashJob> {
        self.mvcc.take_compaction_hash()
    }

    /// Whether versions that can no longer be read wait to be dropped.
    pub fn compacting(&self) -> bool {
        self.mvcc.compacting()
    }

    /// How many of them were dropped since the state was opened.
    pub fn dropped_versions(&self) -> u64 {
        self.mvcc.dropped()
    }

    /// Drops one bounded step of such versions; everything must be published. Returns false if nothing can be done now.
    pub fn compact_step(&mut self) -> Result<bool, EngineError> {
        self.mvcc.compact_step()
    }
}
