//! One member: consensus, log, state, snapshots. It is synchronous, and owns no thread (except for a conversion), no
//! clock and no socket.
//!
//! ```text
//!   propose / tick / step ─▶ consensus ─▶ wal (one write, one sync for all that waits) ─▶ consensus ─▶ Outbox
//!                                │                                                            │ committed
//!                                └─▶ Outbox (a leader's appends go out beside its own write)  ▼
//!                                       Output { outcomes, events, snapshot } ◀── store ─▶ engine
//! ```
//!
//! [`Replica`] is driven by one caller: it hands in what happened, then calls [`Replica::process`] until nothing is
//! left to do. The caller is the server's engine thread, or a simulator.
//!
//! Rules
//! - **Acknowledged means durable and committed**: an outcome appears in [`Output`] after its entry was synced and
//!   applied.
//! - **A failed write or sync is final.** Every later call fails; the caller stops the member.
//! - The disk is touched only through [`disk::Disk`], so that a test can cut the power after any operation.
//! - **Nothing here is random.** A member's behaviour follows from its disk and from its inputs, in their order.
//!
//! Deliberately absent: sockets ([`Outbox`] takes the messages for other members), TLS, timers.

mod conf_state;
mod consensus;
mod data_dir;
pub mod disk;
mod entry;
mod entry_log;
pub mod identity;
mod leases;
mod message;
mod replica;
mod settings;
mod state;
pub mod wal;

pub use consensus::{NotProposed, Portions, Progress, Rejected, Role, Standing, Timing};
pub use data_dir::{OpenError, PARTIAL, Paths};
pub use entry::EntryId;
pub use entry_log::Retention;
pub use leases::{ExpiryBounds, LeaseKeeper, Renewed, Renewing};
pub use replica::{
    Bootstrap, ConvertError, Converted, Fatal, Founder, LogEnd, NewMember, Observer, Outbox, Output, Replica,
    StoppedMember, TransplantError, convert, force_new_cluster, founders,
};
pub use settings::Settings;
pub use state::{
    MarkJob, OpenEngine, ReceiveError, ReceivedState, Retired, SnapshotJob, SnapshotWritten, StateIncoming,
    StateReceiver, StateToSend,
};
