//! Counts of events. A run in which some event never happens is not taken for a proof.

use crate::network::Traffic;

macro_rules! counts {
    ($($name:ident),* $(,)?) => {
        /// The number of events of each kind.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Counts {
            $(pub $name: u64,)*
        }

        impl Counts {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// All counts, by name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counts! {
    // Requests of clients.
    operations,
    writes,
    refused_writes,
    failed_txns,
    reads,
    local_reads,
    past_reads,
    compactions,
    unknown,
    refused,
    // Refused for lack of permission.
    denied,
    // Refused while an alarm stood, and by a member beyond its quota.
    refused_for_alarms,
    refused_without_room,
    leases_granted,
    // Granted again under the id of a lease that had ended.
    leases_granted_anew,
    leases_renewed,
    leases_expired,
    checkpoints,
    checkpoints_taken_back,
    watches,
    watch_events,
    watches_resumed,
    watches_compacted,
    // Actions of members.
    elections,
    states_written,
    states_sent,
    states_taken_up,
    alarms_raised,
    alarms_taken_back,
    defragmented,
    members_added,
    members_removed,
    logs_cut,
    // Faults, and their effects.
    messages,
    lost,
    cut_off,
    doubled,
    overtaken,
    partitions,
    crashes,
    kills,
    // A power loss after a kill, at the start or a little later.
    kills_and_crashes,
    // A crash in the middle of the work, not between two pieces of work.
    crashes_at_work,
    pauses,
    clock_jumps,
    transfers,
    changes_proposed,
    failed_syncs,
    failed_writes,
    full_disks,
    hung_syncs,
    slow_syncs,
    flipped_bits,
    misdirected_writes,
    damage_refused,
    events_lost,
    // Members that came back with an older copy, and members that stopped because they had proof of loss.
    older_copies,
    stopped_for_loss,
}

impl Counts {
    pub fn hear(&mut self, traffic: &Traffic) {
        let Traffic { sent, lost, cut_off, doubled, overtaken } = *traffic;
        (self.messages, self.lost, self.cut_off) = (sent, lost, cut_off);
        (self.doubled, self.overtaken) = (doubled, overtaken);
    }

    /// Faults of all kinds.
    pub fn faults(&self) -> u64 {
        self.kinds().iter().sum()
    }

    /// How many kinds of fault there were.
    pub fn kinds_of_fault(&self) -> usize {
        self.kinds().iter().filter(|count| **count > 0).count()
    }

    fn kinds(&self) -> [u64; 20] {
        [
            self.lost,
            self.cut_off,
            self.doubled,
            self.overtaken,
            self.partitions,
            self.crashes,
            self.kills,
            self.pauses,
            self.clock_jumps,
            self.transfers,
            self.changes_proposed,
            self.failed_syncs,
            self.failed_writes,
            self.full_disks,
            self.hung_syncs,
            self.slow_syncs,
            self.flipped_bits,
            self.misdirected_writes,
            self.events_lost,
            self.older_copies,
        ]
    }

    /// The events that a run of many seeds must have seen, and has not.
    pub fn missing(&self) -> Vec<&'static str> {
        let needed = [
            ("operations", self.operations),
            ("faults", self.faults()),
            ("elections", self.elections),
            ("snapshots sent", self.states_sent),
            ("unknown outcomes", self.unknown),
        ];
        needed.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }
}
