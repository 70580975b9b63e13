//! Membership changes: reading an entry of that kind, and checking it against the members.
//!
//! Consensus counts votes by the same entries, and must ignore a refused one. So an entry is first checked, then given
//! to consensus, then recorded here with the resulting voters.

use metastore_proto::raftpb::{self, ConfChangeType};
use serde::Deserialize;

use crate::etcd_url::EtcdUrl;
use crate::members::{Member, Members};
use crate::not_done::{NotDone, separate};
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

/// etcd's JSON of a promotion.
pub fn promotion_json(id: u64) -> Vec<u8> {
    format!(r#"{{"id":{id},"peerURLs":null,"isPromote":true}}"#).into_bytes()
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
        ConfChangeType::ConfChangeUpdateNode => {
            let context = read(change)?;
            described(id, &context)?;
            reachable(&context.member)
        }
        kind @ (ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode) => {
            let context = read(change)?;
            if context.is_promote {
                described(id, &context)?;
            } else {
                added(id, &context)?;
                reachable(&context.member)?;
            }
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
        separate(self.allowed(change, max_learners))
    }

    fn allowed(&self, change: &raftpb::ConfChange, max_learners: usize) -> Result<MemberChange, NotDone<String>> {
        let (id, kind) = (change.node_id(), kind(change)?);
        if self.is_removed(id) {
            return Err(Refusal::MemberRemoved.into());
        }
        match kind {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                let context = read(change)?;
                let learner = kind == ConfChangeType::ConfChangeAddLearnerNode;
                if context.is_promote {
                    self.promotes(id)?;
                } else {
                    self.adds(&context.member, id, (learner, max_learners))?;
                }
                added(id, &context)?;
                Ok(match context.is_promote {
                    true => MemberChange::Promote(id),
                    false => MemberChange::Add(context.member),
                })
            }
            ConfChangeType::ConfChangeUpdateNode if self.get(id).is_none() => Err(Refusal::MemberNotFound.into()),
            ConfChangeType::ConfChangeUpdateNode => {
                let context = read(change)?;
                if self.reached_at(&context.member.peer_urls, Some(id)) {
                    return Err(Refusal::PeerUrlExists.into());
                }
                described(id, &context)?;
                Ok(MemberChange::Update { id, peer_urls: context.member.peer_urls })
            }
            ConfChangeType::ConfChangeRemoveNode => Ok(self.removes(id)?),
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

    /// The check is stricter than etcd's: removing the last voter is refused, because without a voter nothing can be
    /// committed any more.
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

/// The member must have peer URLs, and etcd's parser must take each. Only a new change is checked: one in the log is
/// applied as it is.
fn reachable(member: &Member) -> Result<(), String> {
    if member.peer_urls.is_empty() {
        return Err(format!("a change of member {:x} without peer URLs", member.id));
    }
    member.peer_urls.iter().try_for_each(|url| EtcdUrl::parse(url).map(drop))
}

/// The JSON must be about the member that the change names.
fn described(id: u64, context: &Context) -> Result<(), String> {
    let described = context.member.id;
    if id == described {
        return Ok(());
    }
    Err(format!("a change of member {id:x} with the description of member {described:x}"))
}

#[cfg(test)]
mod tests {
    use metastore_engine::Memory;

    use super::*;

    const ADD: ConfChangeType = ConfChangeType::ConfChangeAddNode;
    const ADD_LEARNER: ConfChangeType = ConfChangeType::ConfChangeAddLearnerNode;
    const UPDATE: ConfChangeType = ConfChangeType::ConfChangeUpdateNode;

    fn change(kind: ConfChangeType, json: &str) -> raftpb::ConfChange {
        let (kind, context) = (Some(kind.into()), Some(json.to_owned().into()));
        raftpb::ConfChange { r#type: kind, node_id: Some(7), id: Some(9), context }
    }

    #[test]
    fn a_new_change_has_peer_urls_that_etcd_takes() {
        for kind in [ADD, UPDATE] {
            let checked = |urls| check_change(&change(kind, &format!(r#"{{"id":7,"peerURLs":{urls}}}"#)));
            assert_eq!(checked(r#"["http://a:1","https://a:99999?x"]"#), Ok(()), "{kind:?}");
            assert!(checked(r#"["http://a:1","http://[::1:1"]"#).unwrap_err().contains("host is invalid"), "{kind:?}");
            assert!(checked("[]").unwrap_err().contains("without peer URLs"), "{kind:?}");
        }
        assert_eq!(check_change(&change(ADD, r#"{"id":7,"isPromote":true}"#)), Ok(()), "a promotion has no URLs");
    }

    #[test]
    fn a_new_change_is_clear_about_the_vote() {
        let checked = |kind, fields| {
            let json = format!(r#"{{"id":7,"peerURLs":["http://a:1"],{fields}}}"#);
            check_change(&change(kind, &json)).map_err(|error| error.contains("a voter and a learner"))
        };
        let (voter, learner, promoted) = (r#""name":"""#, r#""isLearner":true"#, r#""isPromote":true"#);
        assert_eq!([voter, learner, promoted].map(|fields| checked(ADD, fields)), [Ok(()), Err(true), Ok(())]);
        let with_learner_kind = [voter, learner, promoted].map(|fields| checked(ADD_LEARNER, fields));
        assert_eq!(with_learner_kind, [Err(true), Ok(()), Err(true)]);
    }

    #[test]
    fn a_change_without_an_id_is_about_member_0() {
        let json = r#"{"peerURLs":["http://a:1"]}"#;
        for kind in [ADD, UPDATE] {
            let error = check_change(&change(kind, json)).unwrap_err();
            assert!(error.ends_with("member 7 with the description of member 0"), "{error}");
        }
        let promotion = check_change(&change(ADD, r#"{"isPromote":true}"#)).unwrap_err();
        assert!(promotion.ends_with("member 7 with the description of member 0"), "{promotion}");
        let own = Member { id: 7, peer_urls: vec!["http://b:1".into()], ..Member::default() };
        let mut members = Members::default();
        members.set(&Memory::new(), own).unwrap();
        assert_eq!(members.check(&change(ADD, json), 1), Ok(Err(Refusal::MemberExists)), "as in etcd");
    }

    #[test]
    fn a_change_in_the_log_is_applied_with_any_peer_urls() {
        let add = change(ADD, r#"{"id":7,"peerURLs":["http://a b:1"]}"#);
        let checked = Members::default().check(&add, 1).unwrap().unwrap();
        assert!(matches!(checked, MemberChange::Add(member) if member.peer_urls == ["http://a b:1"]));
    }
}
