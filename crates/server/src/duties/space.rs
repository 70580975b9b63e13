//! Space, beside the requests: a member raises the alarm NOSPACE also if the requests of others have made its state too
//! large, or if a disk of its own is short of space ([`margin`]). It takes its alarm back by itself if
//! `--quota-auto-disarm-percent` asks for that.
//!
//! The free space is measured so often that a disk loses little between two looks. A member that finds too little
//! refuses from then on what needs space, at once; the alarm makes the other members do so, too.

mod margin;

pub use margin::Places;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use metastore_proto::etcdserverpb::AlarmType;
use metastore_proto::etcdserverpb::alarm_request::AlarmAction;

use crate::member::MemberHandle;
use margin::Room;

/// How often the sizes are looked at. A disk that takes a gigabyte per second loses 100 MB in this time.
const INTERVAL: Duration = Duration::from_millis(100);

/// Watches the size of the state, and the free space around the files. Runs for ever, in a local runtime, once in a
/// process.
pub async fn watch(member: Rc<MemberHandle>, places: Places) {
    let mut watch = Watch { writes: member.metrics.engine.work.puts.get(), member, rooms: Vec::new(), known: false };
    let places = Arc::new(places);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (places, state_bytes) = (places.clone(), watch.state_bytes());
        // A disk that hangs must not hold up this thread.
        match tokio::task::spawn_blocking(move || places.look(state_bytes)).await {
            Ok(Ok(rooms)) => watch.rooms = rooms,
            Ok(Err(error)) => seldom!(warn, (), error = %error, "cannot measure the free space of a disk"),
            Err(error) => seldom!(warn, (), error = %error, "measuring the free space of a disk failed"),
        }
        watch.judge().await;
    }
}

struct Watch {
    member: Rc<MemberHandle>,
    /// The last measurement.
    rooms: Vec<Room>,
    /// Whether the alarm was raised since the disk is short of space.
    known: bool,
    /// Puts that were applied before the last look.
    writes: u64,
}

impl Watch {
    /// The bytes that the next state file takes, as far as it is not written yet.
    fn state_bytes(&self) -> u64 {
        let shared = &self.member.shared;
        shared.sizes().in_use.saturating_sub(shared.state_written())
    }

    /// Raises the alarm, or takes it back.
    async fn judge(&mut self) {
        let member = &self.member;
        let (shared, quota) = (&member.shared, member.limits.quota);
        let (own, used) = (shared.member_id, shared.sizes().allocated);
        let short = self.rooms.iter().find(|room| room.free < room.margin);
        shared.set_shortage(short.map(|_| self.rooms.first().map_or(0, |room| room.free)));
        let writes = member.metrics.engine.work.puts.get();
        let written = std::mem::replace(&mut self.writes, writes) != writes;
        // As in etcd, only a write raises the alarm again that an operator has taken back.
        if !member.lacks_space(own) {
            if let Some(limit) = quota.limit().filter(|limit| used >= *limit && written) {
                seldom!(
                    CHANGES: warn, "quota", "quota-size-bytes" = limit, "current-db-size-bytes" = used,
                    "the state exceeds its quota; raising the alarm NOSPACE"
                );
                member.set_no_space(AlarmAction::Activate, own).await;
            } else if let Some(room) = short.filter(|_| written || !self.known) {
                seldom!(
                    CHANGES: warn, "disk", path = %room.path.display(), "free-bytes" = room.free,
                    "wanted-free-bytes" = room.margin, "the disk is short of space; raising the alarm NOSPACE"
                );
                member.set_no_space(AlarmAction::Activate, own).await;
            }
        }
        self.known = short.is_some() && (self.known || member.lacks_space(own));
        let percent = quota.disarm_percent;
        let share = |bytes: u64| u128::from(bytes) * u128::from(percent) / 100;
        let is_small = quota.limit().is_none_or(|limit| u128::from(used) < share(limit));
        let has_room = self.rooms.iter().all(|room| u128::from(room.margin) <= share(room.free));
        if percent > 0 && is_small && has_room {
            self.take_back(used).await;
        }
    }

    /// Takes back the alarm of this member; and, if it leads, those of members that were removed. This member knows
    /// nothing about the disks of others.
    async fn take_back(&self, used: u64) {
        let (shared, member) = (&self.member.shared, &self.member);
        for alarm in shared.alarms().iter().filter(|alarm| alarm.alarm() == AlarmType::Nospace) {
            let is_known = || shared.members().iter().any(|member| member.id == alarm.member_id);
            if alarm.member_id == shared.member_id || shared.is_leader() && !is_known() {
                seldom!(
                    CHANGES: info, (), "quota-size-bytes" = member.limits.quota.bytes, "current-db-size-bytes" = used,
                    "member-id" = %format!("{:x}", alarm.member_id), "the alarm NOSPACE is taken back"
                );
                member.set_no_space(AlarmAction::Deactivate, alarm.member_id).await;
            }
        }
    }
}
