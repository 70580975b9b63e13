//! Checks of a message before it reaches the member.
//!
//! The consensus library is made for messages of honest members. This check drops messages of types that no member
//! sends to another. The member itself checks terms and indexes.

use metastore_proto::raftpb::{Message, MessageType};

/// The longest context. raft's own contexts are words of a few letters and ids of requests.
const MAX_CONTEXT_BYTES: usize = 64 << 10;

/// Why a message is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("message of unknown type {0}")]
    Unknown(i32),
    #[error("no member sends a {0} to another this way")]
    Type(&'static str),
    #[error("message to {0:x}, which is not this member")]
    To(u64),
    #[error("message from {said:x} on a connection of {peer:x}")]
    From { said: u64, peer: u64 },
    #[error("context of {0} bytes; at most {MAX_CONTEXT_BYTES}")]
    Context(usize),
}

/// The way on which a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Appends,
    Messages,
    Post,
    State,
}

/// Whether `peer` may send this to `own` on this way.
///
/// # Errors
/// [`Unfit`], for the log.
pub fn check(message: &Message, way: Way, peer: u64, own: u64) -> Result<(), Unfit> {
    let kind = message.r#type.unwrap_or_default();
    let kind = MessageType::try_from(kind).map_err(|_| Unfit::Unknown(kind))?;
    if !travels(kind, way) {
        return Err(Unfit::Type(kind.as_str_name()));
    }
    if message.to() != own {
        return Err(Unfit::To(message.to()));
    }
    let from_peer = message.from() == peer && peer != own;
    if message.from() == 0 || !(from_peer || passed_on(kind)) {
        return Err(Unfit::From { said: message.from(), peer });
    }
    match message.context().len() {
        bytes if bytes > MAX_CONTEXT_BYTES => Err(Unfit::Context(bytes)),
        _ => Ok(()),
    }
}

/// Whether a follower forwards such a message to the leader that it knows. The message still names its origin. A member
/// that has just lost leadership forwards messages that others have sent to it, so the origin may be any member, even
/// this one.
fn passed_on(kind: MessageType) -> bool {
    matches!(kind, MessageType::MsgProp | MessageType::MsgReadIndex | MessageType::MsgTransferLeader)
}

fn travels(kind: MessageType, way: Way) -> bool {
    match way {
        Way::Appends => kind == MessageType::MsgApp,
        Way::State => kind == MessageType::MsgSnap,
        Way::Messages | Way::Post => match kind {
            MessageType::MsgProp
            | MessageType::MsgApp
            | MessageType::MsgAppResp
            | MessageType::MsgVote
            | MessageType::MsgVoteResp
            | MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResp
            | MessageType::MsgTransferLeader
            | MessageType::MsgTimeoutNow
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp
            | MessageType::MsgPreVote
            | MessageType::MsgPreVoteResp => true,
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgSnap
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType) -> Message {
        Message { r#type: Some(kind as i32), from: Some(1), to: Some(2), ..Message::default() }
    }

    #[test]
    fn members_send_each_other_what_raft_sends() {
        let fits = |kind, way| check(&message(kind), way, 1, 2).is_ok();
        let local = ["MsgHup", "MsgBeat", "MsgUnreachable", "MsgSnapStatus", "MsgCheckQuorum"];
        for number in 0..19 {
            let kind = MessageType::try_from(number).unwrap();
            let anyhow = !local.contains(&kind.as_str_name()) && kind != MessageType::MsgSnap;
            assert_eq!(fits(kind, Way::Messages), anyhow, "{kind:?}");
            assert_eq!(fits(kind, Way::Post), anyhow, "{kind:?}");
            assert_eq!(fits(kind, Way::Appends), kind == MessageType::MsgApp, "{kind:?}");
            assert_eq!(fits(kind, Way::State), kind == MessageType::MsgSnap, "{kind:?}");
        }
        let unknown = Message { r#type: Some(19), ..message(MessageType::MsgApp) };
        assert_eq!(check(&unknown, Way::Post, 1, 2), Err(Unfit::Unknown(19)));
        assert_eq!(check(&Message::default(), Way::Post, 1, 2), Err(Unfit::Type("MsgHup")));
    }

    #[test]
    fn a_message_is_from_whom_it_says_and_for_this_member() {
        let checked = |from, to, peer| {
            let message = Message { from: Some(from), to: Some(to), ..message(MessageType::MsgVote) };
            check(&message, Way::Messages, peer, 2)
        };
        assert_eq!(checked(1, 2, 1), Ok(()));
        assert_eq!(checked(1, 3, 1), Err(Unfit::To(3)));
        assert_eq!(checked(3, 2, 1), Err(Unfit::From { said: 3, peer: 1 }));
        assert_eq!(checked(0, 2, 0), Err(Unfit::From { said: 0, peer: 0 }));
        assert_eq!(checked(2, 2, 2), Err(Unfit::From { said: 2, peer: 2 }));
        for kind in [MessageType::MsgProp, MessageType::MsgReadIndex, MessageType::MsgTransferLeader] {
            for origin in [2, 3] {
                let passed_on = Message { from: Some(origin), ..message(kind) };
                assert_eq!(check(&passed_on, Way::Messages, 1, 2), Ok(()), "{kind:?} of {origin}");
            }
        }
        let long = Message { context: Some(vec![0; 65_537].into()), ..message(MessageType::MsgReadIndex) };
        assert_eq!(check(&long, Way::Messages, 1, 2), Err(Unfit::Context(65_537)));
    }
}
