//! Users: the changes of the administrator, and calls in the names of users.

use metastore_replica::Output;
use metastore_store::apply::range_query;
use metastore_store::mvcc::ReadError;
use metastore_store::{Access, Outcome, Refusal, may_propose};

use super::World;
use crate::answers;
use crate::clients::Asked;
use crate::history::{Request, Response};
use crate::invariants::permissions::is_turned;
use crate::model::users::{Caller, OLD_REVISION, REFUSALS, ROOT};
use crate::users::{caller_in_log, command_of, moment_of};

impl World {
    /// The administrator asks a member for the next change.
    pub(super) fn administer(&mut self) {
        let serving = self.serving();
        let Some(users) = &mut self.users else { return };
        let Some(&at) = users.random.pick(&serving) else { return };
        let clients = &mut self.clients;
        let Some((id, change)) = users.next_change(self.now, || clients.next_id()) else { return };
        let member = &mut self.members[at];
        let Some(replica) = &mut member.replica else { return };
        let auth = replica.store().view().auth();
        let caller = auth.map_or(Caller::default(), |auth| Caller { user: ROOT, auth_revision: auth.revision() });
        if replica.propose(command_of(change, id, &caller)).is_ok() {
            member.due = true;
            self.judge.permissions.asked_for(id, caller.clone(), change);
            self.note(|| format!("the administrator asks {at} by {id}: {change:?} as {caller:?}"));
        }
    }

    /// Follows the users through the outcomes of a member, and checks what they decide.
    pub(super) fn follow_users(&mut self, at: usize, output: &Output) {
        let Some(users) = &mut self.users else { return };
        // A state of another member came before, between or after the outcomes.
        let mut known = Some(self.members[at].users_at).filter(|_| !output.state_replaced);
        for outcome in &output.outcomes {
            users.made(outcome.id, &outcome.reply, self.now);
            let Some(before) = known else { break };
            match self.judge.permissions.applied(at, before, outcome) {
                Ok(after) => known = after,
                Err(violation) => return self.verdicts.must(Err(violation)),
            }
        }
        let Some(replica) = &self.members[at].replica else { return };
        let found = moment_of(replica.store().auth());
        if let Some(known) = known.filter(|known| *known != found) {
            let why = format!("the outcomes of member {at} lead to the users of {known:?}, it has those of {found:?}");
            self.verdicts.must(Err(why));
        }
        self.members[at].users_at = found;
    }

    /// Whether a member lets a command into its log. Otherwise it refuses the request.
    pub(super) fn is_permitted(&mut self, asked: &Asked) -> bool {
        let Some(replica) = &self.members[asked.member].replica else { return true };
        let (Some(auth), Some(command)) = (replica.store().view().auth(), asked.command()) else { return true };
        match may_propose(&auth, command).expect("the command can be read") {
            Ok(()) => true,
            Err(refusal) => {
                let checked = self.judge.permissions.refused(asked.id, moment_of(&auth), &refusal.to_string());
                self.verdicts.must(checked);
                self.deny(asked, &refusal.to_string());
                false
            }
        }
    }

    /// A member answers a read; `None` if it does not run any more, or refuses the read. Some reads of a member that
    /// reads `alone` take long, and it works meanwhile.
    pub(super) fn read_range(&mut self, asked: &Asked, alone: bool) -> Option<Response> {
        let Request::Range(request) = asked.request()? else { return None };
        let view = self.members[asked.member].replica.as_ref()?.store().view().clone();
        let caller = caller_in_log(&asked.caller);
        let long = alone && self.users.as_mut().is_some_and(|users| users.reads_long());
        let result = view.read_as(
            |auth| Ok(auth.permits(&caller, Access::Read, &request.key, &request.range_end)?),
            || {
                if long {
                    self.work(asked.member);
                }
                view.range(&range_query(request))
            },
        );
        if !self.members[asked.member].awake(self.now) {
            return None;
        }
        let at = moment_of(&view.users());
        match result {
            Err(ReadError::Refused(refusal)) if is_about_users(&refusal) => {
                let text = refusal.to_string();
                self.verdicts.must(self.judge.permissions.refused(asked.id, at, &text));
                self.deny(asked, &text);
                None
            }
            Err(ReadError::Refused(refusal)) => Some(Response::Refused(refusal.to_string())),
            Err(error) => panic!("a read fails: {error}"),
            Ok(reply) => {
                let permissions = &self.judge.permissions;
                self.verdicts.must(permissions.answered(asked.id, request.serializable, reply.revision, at));
                Some(Response::Range(answers::range(&reply)))
            }
        }
    }

    /// Ends a request that its client may not make. It takes no part in the history of the keys.
    pub(super) fn deny(&mut self, asked: &Asked, text: &str) {
        self.note(|| format!("{} denies {}: {text}", asked.member, asked.id));
        let turned = asked.request().is_some_and(is_turned);
        assert!(!self.calm || text == OLD_REVISION || turned, "a healed cluster denies {asked:?}: {text}");
        self.judge.denied(asked);
        self.clients.end(self.now, asked.id);
        self.counts.denied += 1;
        if let Some(users) = self.users.as_mut().filter(|_| text == OLD_REVISION) {
            users.log_in_again(asked.client);
        }
    }
}

/// The text of an outcome that refuses a command for lack of permission.
pub(super) fn denial(outcome: &Outcome) -> Option<String> {
    outcome.reply.as_ref().err().filter(|refusal| is_about_users(refusal)).map(ToString::to_string)
}

fn is_about_users(refusal: &Refusal) -> bool {
    REFUSALS.contains(&refusal.to_string().as_str())
}
