//! Applying committed commands: the meaning of each command.
//!
//! [`Store::apply`] takes entries in the order of the log, each once. Protobuf ends here: below this module everything
//! is keys, rows and revisions.

mod admission;
mod check;
mod cluster;
pub mod command;
mod facts;
mod flat_txn;
mod kv;
mod lease;
mod old_request;
mod txn;
mod work;

pub use admission::may_propose;
pub use check::check_command;
pub use kv::range_query;
pub use work::Work;

use std::sync::Arc;

use bytes::Bytes;
use metastore_engine::{Applied, EngineError, Row};
use metastore_mutants::{Mutant, mutant};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::AlarmMember;
use metastore_proto::prost::DecodeError;

use crate::mvcc::RangeReply;
use crate::not_done::{NotDone, separate};
use crate::watch::RevisionEvents;
use crate::{Refusal, Store};
use command::{Command, CommandError, Kind, changes_nothing, changes_users};
use flat_txn::FlatTxn;

/// The outcome of a command, for the request that waits for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The id of the request that proposed the command; 0 if no request waits.
    pub id: u64,
    /// The store's revision after the command; it goes into the answer's header.
    pub revision: i64,
    pub reply: Result<Reply, Refusal>,
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Put {
        previous: Option<Row>,
    },
    DeleteRange {
        deleted: i64,
        previous: Vec<Row>,
    },
    Txn(TxnReply),
    /// The compaction is scheduled. `physical` says that the client is to be answered only after the old versions are
    /// dropped.
    Compact {
        revision: i64,
        physical: bool,
    },
    LeaseGrant {
        id: i64,
        ttl_s: i64,
    },
    LeaseRevoke {
        id: i64,
    },
    /// Remaining times of leases were recorded.
    LeaseCheckpoint,
    /// Data about the cluster, or about its users, was recorded.
    Recorded,
    /// A user has logged in. With simple tokens, `token` is the token from now on; it is empty with others. Tokens are
    /// no part of the state: members hold them in memory.
    LoggedIn {
        user: String,
        token: String,
        auth_revision: u64,
    },
    /// The user was deleted or has another password, so the user's tokens end.
    LoggedOut {
        user: String,
    },
    /// Authentication was disabled, so all tokens end.
    AllLoggedOut,
    /// The alarms that were queried, activated or deactivated.
    Alarms(Vec<AlarmMember>),
    /// The command is a query. The member of etcd that proposed it answers it; here it changes nothing.
    AnsweredElsewhere,
    /// A member was added, removed or promoted, or its peer URLs changed.
    MembersChanged,
}

/// The answer to a transaction: the branch that was taken, and the answers of its operations.
#[derive(Clone, Debug, PartialEq)]
pub struct TxnReply {
    pub succeeded: bool,
    pub ops: Vec<OpReply>,
}

/// Nested answers are dropped in a loop: a request decides how deep they are nested, so a level must not take stack.
impl Drop for TxnReply {
    fn drop(&mut self) {
        let mut nested = std::mem::take(&mut self.ops);
        while let Some(op) = nested.pop() {
            if let OpReply::Txn(mut reply) = op {
                nested.append(&mut reply.ops);
            }
        }
    }
}

/// The answer to one operation of a transaction. `revision` is the revision that this operation saw.
#[derive(Clone, Debug, PartialEq)]
pub enum OpReply {
    Range(RangeReply),
    Put { revision: i64, previous: Option<Row> },
    DeleteRange { revision: i64, deleted: i64, previous: Vec<Row> },
    Txn(TxnReply),
}

/// This member cannot apply an entry and must stop; it never skips one.
#[derive(Debug, thiserror::Error)]
#[error("cannot apply entry {index} ({what}): {cause}")]
pub struct Halt {
    /// Index of the entry in the log.
    pub index: u64,
    /// Kind of the entry.
    pub what: String,
    pub cause: HaltCause,
}

/// Why an entry cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum HaltCause {
    #[error("{0}; a newer version may have written it, so start a version that knows it")]
    UnknownKind(CommandError),
    #[error("{0}; etcd 3.6 does not apply it either: let etcd 3.5 take a snapshot, so that it leaves the log")]
    OldRequest(CommandError),
    #[error("its bytes are damaged: {0}")]
    Malformed(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the log skips from entry {applied} to this one")]
    Gap { applied: u64 },
}

impl From<DecodeError> for HaltCause {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// The result of applying a command.
type Applying<T> = Result<T, NotDone<HaltCause>>;

impl From<HaltCause> for NotDone<HaltCause> {
    fn from(cause: HaltCause) -> Self {
        Self::Failed(cause)
    }
}

impl From<EngineError> for NotDone<HaltCause> {
    fn from(error: EngineError) -> Self {
        HaltCause::from(error).into()
    }
}

impl From<DecodeError> for NotDone<HaltCause> {
    fn from(error: DecodeError) -> Self {
        HaltCause::from(error).into()
    }
}

impl From<NotDone<EngineError>> for NotDone<HaltCause> {
    fn from(why: NotDone<EngineError>) -> Self {
        match why {
            NotDone::Refused(refusal) => refusal.into(),
            NotDone::Failed(error) => error.into(),
        }
    }
}

impl Store {
    /// Applies one committed entry. An entry without data comes from a new leader; it changes nothing.
    ///
    /// # Errors
    /// [`Halt`]: the member must stop, and nothing may be applied or published afterwards.
    pub fn apply(&mut self, index: u64, term: u64, data: Bytes) -> Result<Option<Outcome>, Halt> {
        self.follow(index, term)?;
        if data.is_empty() {
            return Ok(None);
        }
        let command = Command::decode(data).map_err(|error| halt_on_bytes(index, error))?;
        let (id, kind) = (command.id, command.kind);
        self.work = Work::default();
        let reply =
            separate(self.apply_command(command)).map_err(|cause| Halt { index, what: format!("{kind:?}"), cause })?;
        let mut changes = self.mvcc.end();
        let revision = self.mvcc.current();
        if mutant(Mutant::DropLastEvent) && changes.len() > 1 {
            changes.pop();
        }
        if !changes.is_empty() {
            self.events.push(Arc::new(RevisionEvents { revision, changes }));
        }
        Ok(Some(Outcome { id, revision, reply }))
    }

    /// Moves the applied index. Entries must come in order, each once.
    pub(crate) fn follow(&mut self, index: u64, term: u64) -> Result<(), Halt> {
        let applied = self.applied.index;
        if mutant(Mutant::ApplyTwiceAfterRestart) {
            self.applied = Applied { index, term };
            return Ok(());
        }
        if index != applied + 1 {
            return Err(Halt { index, what: format!("term {term}"), cause: HaltCause::Gap { applied } });
        }
        self.applied = Applied { index, term };
        Ok(())
    }

    fn apply_command(&mut self, command: Command) -> Applying<Reply> {
        if self.is_restricted() {
            self.admits(&command)?;
        }
        let body = command.body;
        match command.kind {
            Kind::Put => self.put(&Message::decode(body)?),
            Kind::DeleteRange => self.delete_range(&Message::decode(body)?),
            Kind::Txn => self.txn(&FlatTxn::decode(body)?),
            Kind::Compaction => self.compact(&Message::decode(body)?),
            Kind::LeaseGrant => self.lease_grant(&Message::decode(body)?),
            Kind::LeaseRevoke => self.lease_revoke(&Message::decode(body)?),
            Kind::LeaseCheckpoint => self.lease_checkpoint(&Message::decode(body)?),
            Kind::ClusterVersionSet => self.set_cluster_version(&Message::decode(body)?),
            Kind::ClusterMemberAttrSet => self.set_member_attributes(&Message::decode(body)?),
            Kind::DowngradeInfoSet => self.set_downgrade(Message::decode(body)?),
            Kind::Alarm => self.alarm(&Message::decode(body)?),
            Kind::Authenticate => self.log_in(Message::decode(body)?),
            changes_users!() => self.change_auth(command.kind, body),
            changes_nothing!() => Ok(Reply::AnsweredElsewhere),
        }
    }
}

fn halt_on_bytes(index: u64, error: CommandError) -> Halt {
    let what = match error {
        CommandError::UnknownKind(kind) => format!("kind {kind}"),
        CommandError::OldRequest { .. } => "kind 2".into(),
        CommandError::Malformed(_) => "no command".into(),
    };
    Halt { index, what, cause: cause_of(error) }
}

fn cause_of(error: CommandError) -> HaltCause {
    match error {
        CommandError::UnknownKind(_) => HaltCause::UnknownKind(error),
        CommandError::OldRequest { .. } => HaltCause::OldRequest(error),
        CommandError::Malformed(text) => HaltCause::Malformed(text),
    }
}
