//! Alarms: a member has no space left, or its state differs from that of the others.
//!
//! Any member may raise an alarm, through the log, so all members know of it. It stays until it is deactivated. While
//! one stands, every member refuses the same commands when it applies them ([`crate::apply`]).

use std::collections::BTreeSet;

use metastore_engine::{Engine, EngineError, Table};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{AlarmMember, AlarmType};

/// The alarms that stand, by kind and member. Kinds and members are etcd's numbers, whether or not they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms(BTreeSet<(i32, u64)>);

impl Alarms {
    /// Reads the alarms that `engine` holds.
    pub(crate) fn load(engine: &dyn Engine) -> Result<Self, EngineError> {
        let read = |(key, _): (Vec<u8>, Vec<u8>)| {
            let row = AlarmMember::decode(&key[..]).map_err(|error| {
                EngineError(format!("row {} of table alarm is damaged: {error}", key.escape_ascii()))
            })?;
            Ok((row.alarm, row.member_id))
        };
        engine.rows(Table::Alarm, b"")?.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether no alarm stands.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any member has raised this alarm.
    pub fn stands(&self, alarm: AlarmType) -> bool {
        self.0.iter().any(|(kind, _)| *kind == alarm as i32)
    }

    /// The alarms of a kind, or all of them for [`AlarmType::None`], ordered by kind and member.
    pub fn of(&self, alarm: i32) -> Vec<AlarmMember> {
        let wanted = self.0.iter().filter(|(kind, _)| alarm == AlarmType::None as i32 || *kind == alarm);
        wanted.map(|&(alarm, member_id)| AlarmMember { member_id, alarm }).collect()
    }

    /// Records an alarm, which may stand already.
    pub(crate) fn raise(&mut self, engine: &dyn Engine, alarm: &AlarmMember) -> Result<(), EngineError> {
        self.0.insert((alarm.alarm, alarm.member_id));
        engine.put(Table::Alarm, &alarm.encode_to_vec(), b"")
    }

    /// Deactivates an alarm; returns whether it stood.
    pub(crate) fn clear(&mut self, engine: &dyn Engine, alarm: &AlarmMember) -> Result<bool, EngineError> {
        let stood = self.0.remove(&(alarm.alarm, alarm.member_id));
        engine.delete(Table::Alarm, &alarm.encode_to_vec())?;
        Ok(stood)
    }
}
