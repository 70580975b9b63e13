//! Membership changes: reading an entry of that kind, and checking it against the members.
//!
//! Consensus counts votes by the same entries, and must ignore a refused one. So an entry is first checked, then given
//! to consensus, then recorded here with the resulting voters.

use metastore_proto::raftpb::{self, ConfChangeType};
use serde::Deserialize;

use crate::members::{Member, Members};
use crate::refusal::Refusal;

/// A membership change that the members allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A voter or learner joins.
    Add(Member),
    /// A learner becomes a voter.
    Promote(u64),
    /// The peer URLs of a member change.
    Update { id: u64, peer_urls: Vec<String> },
    /// A member leaves for good.
    Remove(u64),
}

/// The JSON in an addition, promotion or update.
#[derive(Deserialize)]
struct Context {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default)]
    is_promote: bool,
}

/// Whether every member can apply a change, whatever the members are when it is applied. A leader lets no other change
/// into the log.
///
/// # Errors
/// Why some member may be unable to apply the change, or why the change is ambiguous.
pub fn check_change(change: &raftpb::ConfChange) -> Result<(), String> {
    let id = change.node_id();
    match kind(change)? {
        ConfChangeType::ConfChangeRemoveNode => Ok(()),
        ConfChangeType::ConfChangeUpdateNode => described(id, &read(change)?),
        kind @ (ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode) => {
            let context = read(change)?;
            if context.is_promote { described(id, &context) } else { added(id, &context) }?;
            let learner = kind == ConfChangeType::ConfChangeAddLearnerNode;
            if context.is_promote && learner || !context.is_promote && learner != context.member.is_learner {
                return Err(format!("a change of member {id:x} that adds a voter and a learner"));
            }
            Ok(())
        }
    }
}

impl Members {
    /// Reads a change in etcd's form and checks it as etcd does (`ValidateConfigurationChange`). All members come to
    /// the same result if they allow the same number of learners. As in etcd, a refused change is not read any further:
    /// a change of member 0, which no member can be, is refused like a change of any other unknown member.
    ///
    /// # Errors
    /// Outside: why the bytes are not a valid change. Inside: why the change is refused.
    pub(crate) fn check(
        &self,
        change: &raftpb::ConfChange,
        max_learners: usize,
    ) -> Result<Result<MemberChange, Refusal>, String> {
        let (id, kind) = (change.node_id(), kind(change)?);
        if self.is_removed(id) {
            return Ok(Err(Refusal::MemberRemoved));
        }
        match kind {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                let context = read(change)?;
                let learner = kind == ConfChangeType::ConfChangeAddLearnerNode;
                let checked = if context.is_promote {
                    self.promotes(id)
                } else {
                    self.adds(&context.member, id, (learner, max_learners))
                };
                if checked.is_ok() {
                    added(id, &context)?;
                }
                Ok(checked.map(|()| match context.is_promote {
                    true => MemberChange::Promote(id),
                    false => MemberChange::Add(context.member),
                }))
            }
            ConfChangeType::ConfChangeUpdateNode if self.get(id).is_none() => Ok(Err(Refusal::MemberNotFound)),
            ConfChangeType::ConfChangeUpdateNode => {
                let context = read(change)?;
                if self.reached_at(&context.member.peer_urls, Some(id)) {
                    return Ok(Err(Refusal::PeerUrlExists));
                }
                described(id, &context)?;
                Ok(Ok(MemberChange::Update { id, peer_urls: context.member.peer_urls }))
            }
            ConfChangeType::ConfChangeRemoveNode => Ok(self.removes(id)),
        }
    }

    fn adds(&self, member: &Member, id: u64, (learner, max_learners): (bool, usize)) -> Result<(), Refusal> {
        if self.get(id).is_some() {
            return Err(Refusal::MemberExists);
        }
        if self.reached_at(&member.peer_urls, None) {
            return Err(Refusal::PeerUrlExists);
        }
        if learner && member.is_learner && self.learners().count() >= max_learners {
            return Err(Refusal::TooManyLearners);
        }
        Ok(())
    }

    fn promotes(&self, id: u64) -> Result<(), Refusal> {
        let member = self.get(id).ok_or(Refusal::MemberNotFound)?;
        if member.is_learner { Ok(()) } else { Err(Refusal::MemberNotLearner) }
    }

    /// Removing the last voter is refused here, while etcd crashes: without a voter nothing can be committed any more.
    fn removes(&self, id: u64) -> Result<MemberChange, Refusal> {
        let member = self.get(id).ok_or(Refusal::MemberNotFound)?;
        if !member.is_learner && self.voters().count() == 1 {
            return Err(Refusal::NotEnoughMembers);
        }
        Ok(MemberChange::Remove(id))
    }

    /// Whether one of these URLs belongs to a member other than `except`.
    fn reached_at(&self, urls: &[String], except: Option<u64>) -> bool {
        let others = self.iter().filter(|member| Some(member.id) != except);
        others.flat_map(|member| &member.peer_urls).any(|url| urls.contains(url))
    }
}

fn kind(change: &raftpb::ConfChange) -> Result<ConfChangeType, String> {
    // The getter is not used: it reads an unknown number as the default, which is AddNode.
    let number = change.r#type.unwrap_or_default();
    ConfChangeType::try_from(number).map_err(|_| format!("a change of the unknown kind {number}"))
}

/// Reads the JSON of a change.
fn read(change: &raftpb::ConfChange) -> Result<Context, String> {
    serde_json::from_slice(change.context()).map_err(|error| error.to_string())
}

/// The JSON of an addition must be about the member that the change names.
fn added(id: u64, context: &Context) -> Result<(), String> {
    if id == 0 {
        return Err("a change of member 0, which no member can be".into());
    }
    described(id, context)
}

/// The JSON must be about the member that the change names.
fn described(id: u64, context: &Context) -> Result<(), String> {
    let described = context.member.id;
    if id == described {
        return Ok(());
    }
    Err(format!("a change of member {id:x} with the description of member {described:x}"))
}
