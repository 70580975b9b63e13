//! Changes of the membership: what an entry of that kind says, and whether the members allow it.
//!
//! Consensus counts votes by the same entries, and must take a refused one for nothing; so an entry is checked first, then
//! given to consensus, then recorded here with the voters that came of it.

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
    /// A member is reached elsewhere.
    Update { id: u64, peer_urls: Vec<String> },
    /// A member leaves for good.
    Remove(u64),
}

/// The JSON beside an addition, promotion or update.
#[derive(Deserialize)]
struct Context {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default)]
    is_promote: bool,
}

impl Members {
    /// Reads a change in etcd's form and checks it as etcd does (`ValidateConfigurationChange`); all members come to the
    /// same result, if they allow the same number of learners.
    ///
    /// # Errors
    /// Outside: why the bytes are no change. Inside: why it is refused.
    pub(crate) fn check(
        &self,
        change: &raftpb::ConfChange,
        max_learners: usize,
    ) -> Result<Result<MemberChange, Refusal>, String> {
        let (id, number) = (change.node_id(), change.r#type.unwrap_or_default());
        let kind = ConfChangeType::try_from(number).map_err(|_| format!("a change of the unknown kind {number}"))?;
        if self.is_removed(id) {
            return Ok(Err(Refusal::MemberRemoved));
        }
        match kind {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                let Context { member, is_promote } = read(change)?;
                let learner = kind == ConfChangeType::ConfChangeAddLearnerNode;
                let checked =
                    if is_promote { self.promotes(id) } else { self.adds(member, id, (learner, max_learners)) };
                Ok(checked)
            }
            ConfChangeType::ConfChangeUpdateNode => Ok(self.updates(id, read(change)?.member.peer_urls)),
            ConfChangeType::ConfChangeRemoveNode => Ok(self.removes(id)),
        }
    }

    fn adds(&self, member: Member, id: u64, (learner, max_learners): (bool, usize)) -> Result<MemberChange, Refusal> {
        if self.get(id).is_some() {
            return Err(Refusal::MemberExists);
        }
        if self.reached_at(&member.peer_urls, None) {
            return Err(Refusal::PeerUrlExists);
        }
        if learner && member.is_learner && self.learners().count() >= max_learners {
            return Err(Refusal::TooManyLearners);
        }
        Ok(MemberChange::Add(member))
    }

    fn promotes(&self, id: u64) -> Result<MemberChange, Refusal> {
        let member = self.get(id).ok_or(Refusal::MemberNotFound)?;
        if member.is_learner { Ok(MemberChange::Promote(id)) } else { Err(Refusal::MemberNotLearner) }
    }

    fn updates(&self, id: u64, peer_urls: Vec<String>) -> Result<MemberChange, Refusal> {
        self.get(id).ok_or(Refusal::MemberNotFound)?;
        if self.reached_at(&peer_urls, Some(id)) {
            return Err(Refusal::PeerUrlExists);
        }
        Ok(MemberChange::Update { id, peer_urls })
    }

    /// Removing the last voter is refused here, where etcd lets the member crash: nothing could ever be committed again.
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

/// Reads the JSON of a change, which must be about the member that the change names.
fn read(change: &raftpb::ConfChange) -> Result<Context, String> {
    let context: Context = serde_json::from_slice(change.context()).map_err(|error| error.to_string())?;
    let (id, described) = (change.node_id(), context.member.id);
    if id == 0 {
        return Err("a change of member 0, which no member can be".into());
    }
    if id != described {
        return Err(format!("a change of member {id:x} with the description of member {described:x}"));
    }
    Ok(context)
}
