//! Acknowledged writes are neither lost nor repeated. A write that was answered has happened once, at the revision in
//! the answer, and is durable (etcd, <https://etcd.io/docs/v3.6/learning/api_guarantees/>, "durability" and "strict
//! serializability"). A write that was refused has not happened, and never will.

use std::collections::BTreeMap;

use metastore_proto::mvccpb::Event;
use metastore_proto::mvccpb::event::EventType;
use metastore_store::Outcome;

use crate::history::{Revisions, Violation};

/// The commands, by the id of the request.
#[derive(Default)]
pub struct Acknowledged {
    commands: BTreeMap<u64, Command>,
    /// Acknowledged changes: the command that has made each revision.
    changes: BTreeMap<i64, u64>,
    told: i64,
}

#[derive(Default)]
struct Command {
    proposed: bool,
    refused: bool,
    took_effect: bool,
    /// The member that had an outcome first, and that outcome.
    outcome: Option<(usize, Outcome)>,
}

impl Acknowledged {
    pub fn proposes(&mut self, id: u64) -> Result<(), Violation> {
        let command = self.commands.entry(id).or_default();
        if std::mem::replace(&mut command.proposed, true) {
            return Err(format!("command {id} is proposed twice"));
        }
        Ok(())
    }

    /// A member has answered that a command will not take effect.
    pub fn refuses(&mut self, id: u64) -> Result<(), Violation> {
        let command = self.proposed(id)?;
        command.refused = true;
        if command.took_effect || command.outcome.is_some() {
            return Err(format!("command {id} took effect, and is refused"));
        }
        Ok(())
    }

    /// A revision contains a value of this command for the first time.
    pub fn takes_effect(&mut self, id: u64) -> Result<(), Violation> {
        let command = self.proposed(id)?;
        if command.refused {
            return Err(format!("command {id} was refused, and took effect"));
        }
        if std::mem::replace(&mut command.took_effect, true) {
            return Err(format!("command {id} took effect twice"));
        }
        Ok(())
    }

    /// A member has the outcome of a command, whether or not a client waits for it.
    pub fn answers(&mut self, member: usize, outcome: &Outcome) -> Result<(), Violation> {
        let id = outcome.id;
        if id == 0 {
            return Ok(());
        }
        let command = self.commands.entry(id).or_default();
        let (first, known) = command.outcome.get_or_insert_with(|| (member, outcome.clone()));
        if known != outcome {
            return Err(format!("to command {id}, member {first} answers {known:?}, {member} answers {outcome:?}"));
        }
        if command.refused {
            return Err(format!("command {id} was refused, and member {member} answers {outcome:?}"));
        }
        Ok(())
    }

    /// A client was answered that its write has made a change at `revision`. `floor` is the value of
    /// [`Acknowledged::told`] when the client sent the request.
    pub fn acknowledged(&mut self, id: u64, revision: i64, floor: i64) -> Result<(), Violation> {
        let command = self.proposed(id)?;
        if command.refused {
            return Err(format!("command {id} was refused, and is acknowledged at revision {revision}"));
        }
        let known = command.outcome.as_ref().map(|(_, outcome)| outcome.revision);
        if let Some(known) = known.filter(|known| *known != revision) {
            return Err(format!("command {id} is acknowledged at revision {revision}, the answer says {known}"));
        }
        if revision <= floor {
            return Err(format!("command {id} took effect at revision {revision}; {floor} was told before it began"));
        }
        let first = *self.changes.entry(revision).or_insert(id);
        if first != id {
            return Err(format!("commands {first} and {id} are both acknowledged at revision {revision}"));
        }
        self.told = self.told.max(revision);
        Ok(())
    }

    /// A client has seen `revision` in another answer: of a linearizable read, or of a write that changed nothing.
    pub fn read(&mut self, revision: i64, floor: i64) -> Result<(), Violation> {
        if revision < floor {
            return Err(format!("an answer is of revision {revision}; {floor} was told before the client asked"));
        }
        self.told = self.told.max(revision);
        Ok(())
    }

    /// The newest revision in any answer to a client.
    pub fn told(&self) -> i64 {
        self.told
    }

    /// At the end, `revisions` must hold every acknowledged write. `id_of` returns the command whose id a written value
    /// carries; a deletion carries none.
    pub fn check_end(&self, revisions: &Revisions, id_of: impl Fn(&Event) -> Option<u64>) -> Result<(), Violation> {
        let newest = revisions.last_key_value().map_or(1, |(revision, _)| *revision);
        if self.told > newest {
            return Err(format!("revision {} was told, the newest is {newest}", self.told));
        }
        for (revision, &id) in &self.changes {
            let Some(events) = revisions.get(revision) else {
                return Err(format!("command {id} was acknowledged at revision {revision}, which is lost"));
            };
            let puts = || events.iter().filter(|event| event.r#type() == EventType::Put);
            if puts().next().is_some() && !puts().any(|event| id_of(event) == Some(id)) {
                return Err(format!("command {id} was acknowledged at revision {revision}, which holds {events:?}"));
            }
        }
        Ok(())
    }

    fn proposed(&mut self, id: u64) -> Result<&mut Command, Violation> {
        let command = self.commands.get_mut(&id).filter(|command| command.proposed);
        command.ok_or_else(|| format!("nobody has proposed command {id}"))
    }
}

#[cfg(test)]
mod tests {
    use metastore_proto::mvccpb::KeyValue;
    use metastore_store::Reply;

    use super::*;

    fn outcome(id: u64, revision: i64) -> Outcome {
        Outcome { id, revision, reply: Ok(Reply::Put { previous: None }) }
    }

    fn put(id: u64) -> Event {
        let kv = KeyValue { key: "k".into(), value: id.to_string().into(), ..KeyValue::default() };
        Event { kv: Some(kv), ..Event::default() }
    }

    fn delete() -> Event {
        Event { r#type: EventType::Delete.into(), ..put(0) }
    }

    fn id_of(event: &Event) -> Option<u64> {
        std::str::from_utf8(&event.kv.as_ref()?.value).ok()?.parse().ok()
    }

    /// Commands 7 and 8 took effect at revisions 2 and 3; 9 is on its way.
    fn record() -> Acknowledged {
        let mut check = Acknowledged::default();
        for (id, revision) in [(7, 2), (8, 3)] {
            check.proposes(id).unwrap();
            check.takes_effect(id).unwrap();
            check.answers(0, &outcome(id, revision)).unwrap();
            check.acknowledged(id, revision, revision - 1).unwrap();
        }
        check.proposes(9).unwrap();
        check
    }

    #[test]
    fn a_true_history() {
        let mut check = record();
        check.answers(1, &outcome(7, 2)).unwrap();
        check.answers(1, &outcome(0, 9)).unwrap();
        check.read(3, 3).unwrap();
        assert_eq!(check.told(), 3);
        check.read(4, 3).unwrap();
        assert_eq!(check.told(), 4);
        let revisions = Revisions::from([(2, vec![put(7)]), (3, vec![delete(), delete()]), (4, vec![put(9)])]);
        check.check_end(&revisions, id_of).unwrap();
    }

    #[test]
    fn an_acknowledged_write_that_is_lost() {
        let violation = record().check_end(&Revisions::from([(2, vec![put(7)])]), id_of).unwrap_err();
        assert_eq!(violation, "revision 3 was told, the newest is 2");
        let revisions = Revisions::from([(2, vec![put(7)]), (4, vec![put(9)])]);
        let violation = record().check_end(&revisions, id_of).unwrap_err();
        assert_eq!(violation, "command 8 was acknowledged at revision 3, which is lost");
    }

    #[test]
    fn another_write_in_the_place_of_an_acknowledged_one() {
        let revisions = Revisions::from([(2, vec![put(7)]), (3, vec![delete(), put(9)])]);
        let violation = record().check_end(&revisions, id_of).unwrap_err();
        assert!(violation.starts_with("command 8 was acknowledged at revision 3, which holds"), "{violation}");
    }

    #[test]
    fn one_revision_for_two_commands() {
        let violation = record().acknowledged(9, 3, 1).unwrap_err();
        assert_eq!(violation, "commands 8 and 9 are both acknowledged at revision 3");
    }

    #[test]
    fn a_command_that_takes_effect_twice() {
        assert_eq!(record().takes_effect(7), Err("command 7 took effect twice".into()));
    }

    #[test]
    fn commands_that_nobody_proposed() {
        record().takes_effect(10).unwrap_err();
        record().refuses(10).unwrap_err();
        record().acknowledged(10, 9, 1).unwrap_err();
        record().proposes(7).unwrap_err();
    }

    #[test]
    fn a_command_that_was_refused() {
        let refused = || {
            let mut check = record();
            check.refuses(9).unwrap();
            check
        };
        refused().takes_effect(9).unwrap_err();
        refused().acknowledged(9, 4, 1).unwrap_err();
        refused().answers(0, &outcome(9, 4)).unwrap_err();
        record().refuses(7).unwrap_err();
        // It changes nothing, but a member already has an outcome.
        let mut check = record();
        check.answers(0, &outcome(9, 3)).unwrap();
        check.refuses(9).unwrap_err();
    }

    #[test]
    fn answers_that_differ() {
        let violation = record().answers(1, &outcome(7, 3)).unwrap_err();
        assert!(violation.starts_with("to command 7, member 0 answers Outcome { id: 7, revision: 2"), "{violation}");
    }

    #[test]
    fn a_client_is_told_something_else_than_the_answer() {
        let mut check = record();
        check.answers(0, &outcome(9, 4)).unwrap();
        check.acknowledged(9, 5, 1).unwrap_err();
    }

    #[test]
    fn answers_of_the_past() {
        record().acknowledged(9, 4, 4).unwrap_err();
        record().read(2, 3).unwrap_err();
    }
}
