//! Where the transport meets the member.

use metastore_proto::raftpb::Message;

/// What the transport tells the member. Called on the thread of the peers and on that of whoever sends; must not block.
pub trait Sink: Send + Sync + 'static {
    /// A message of another member, `bytes` long on the wire: for this member, of a type that members send each other,
    /// from whom it says. Terms and indexes are not looked at. False: no room, it is dropped.
    fn message(&self, message: Message, bytes: usize) -> bool;

    /// Messages to that member are being lost.
    fn unreachable(&self, id: u64);

    /// How the sending of a state ended: `ok` once the follower has taken it.
    fn snapshot_sent(&self, to: u64, ok: bool);

    /// Another member says that this one was removed from the cluster. May be said again and again.
    fn removed(&self);
}

/// A state that is to be sent to a follower.
pub trait StateStream: Send {
    /// Opens it, on a blocking thread: the MsgSnap that announces it, with its final metadata, and the state. The error
    /// is logged, and the sending counts as failed.
    fn open(self: Box<Self>) -> Result<(Message, Box<dyn StateBody>), String>;
}

/// An opened state.
pub trait StateBody: Send {
    /// Writes all of it, on a blocking thread, in pieces of any size. `out` fails once the follower is gone.
    fn write(&self, out: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), String>;
}

/// Takes incoming states.
pub trait StateIntake: Send + Sync + 'static {
    /// Begins to take the state that a MsgSnap announces; on a blocking thread. The error goes to the sender.
    fn begin(&self, message: Message) -> Result<Box<dyn StateTaker>, String>;
}

/// Takes one incoming state, on a blocking thread. Dropped before its end: the sender is gone, nothing may remain.
pub trait StateTaker: Send {
    /// The next bytes. As long as it works on them, nothing more is read from the sender.
    fn take(&mut self, piece: &[u8]) -> Result<(), String>;

    /// All bytes have come. Returns once the member took or refused the state.
    fn finish(self: Box<Self>) -> Result<(), String>;
}
