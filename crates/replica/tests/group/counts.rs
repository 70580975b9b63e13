//! What has happened, so that a run in which something never happens is not taken for a proof.

use crate::network::Traffic;

macro_rules! counts {
    ($($name:ident),* $(,)?) => {
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Counts {
            $(pub $name: u64,)*
        }

        impl Counts {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// What has never happened.
            pub fn missing(&self) -> Vec<&'static str> {
                [$((stringify!($name), self.$name),)*].into_iter().filter(|(_, n)| *n == 0).map(|(name, _)| name).collect()
            }
        }
    };
}

counts! {
    elections,
    transfers,
    crashes,
    // In the middle of the work, as opposed to between.
    crashes_at_work,
    torn_logs,
    pauses,
    partitions,
    messages,
    lost,
    cut_off,
    doubled,
    overtaken,
    changes_proposed,
    added,
    removed,
    states_written,
    states_sent,
    states_taken_up,
    writes,
    swaps,
    failed_swaps,
    reads,
    local_reads,
    refused,
    unknown,
}

impl Counts {
    pub fn hear(&mut self, traffic: &Traffic) {
        let Traffic { sent, lost, cut_off, doubled, overtaken } = *traffic;
        (self.messages, self.lost, self.cut_off) = (sent, lost, cut_off);
        (self.doubled, self.overtaken) = (doubled, overtaken);
    }
}
