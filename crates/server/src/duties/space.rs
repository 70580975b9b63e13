//! The size of the state, beside the requests: a member raises the alarm NOSPACE also if the requests of others have
//! made its state too large, and the leader takes it back by itself if `--quota-auto-disarm-percent` asks for that.

use std::rc::Rc;
use std::time::Duration;

use metastore_proto::etcdserverpb::AlarmType;
use metastore_proto::etcdserverpb::alarm_request::AlarmAction;

use crate::member::MemberHandle;

/// How often the size is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watches the size of the state. Runs for ever, in a local runtime, once in a process.
pub async fn watch(member: Rc<MemberHandle>, limit: u64) {
    let (shared, own) = (&member.shared, member.shared.member_id);
    let puts = || member.metrics.engine.work.puts.get();
    let mut before = puts();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (used, written) = (shared.sizes().allocated, puts() != before);
        before = puts();
        // As in etcd, only a write raises the alarm again that an operator has taken back.
        if used >= limit && written && !member.lacks_space(own) {
            seldom!(
                CHANGES: warn, (), "quota-size-bytes" = limit, "current-db-size-bytes" = used,
                "the state exceeds its quota; raising the alarm NOSPACE"
            );
            member.set_no_space(AlarmAction::Activate, own).await;
        }
        let threshold = u128::from(limit) * u128::from(member.limits.quota.disarm_percent) / 100;
        if u128::from(used) < threshold && shared.is_leader() {
            for alarm in shared.alarms().iter().filter(|alarm| alarm.alarm() == AlarmType::Nospace) {
                seldom!(
                    CHANGES: info, (), "quota-size-bytes" = limit, "current-db-size-bytes" = used,
                    "member-id" = %format!("{:x}", alarm.member_id), "the alarm NOSPACE is taken back"
                );
                member.set_no_space(AlarmAction::Deactivate, alarm.member_id).await;
            }
        }
    }
}
