//! The interface between the transport and the member.

use metastore_proto::raftpb::Message;

/// The peer sink: takes messages and events from the transport. Called on the thread of the peers and on the thread
/// that sends; must not block.
pub trait Sink: Send + Sync + 'static {
    /// Takes a message of another member, `bytes` long on the wire; for a post, with what decoding added. It is for
    /// this member, of a type that members send each other, and from the member that it names. Terms and indexes are
    /// not checked. False: there is no room, and the message is dropped.
    fn message(&self, message: Message, bytes: usize) -> bool;

    /// Messages to that member are being lost.
    fn unreachable(&self, id: u64);

    /// The sending of a state has ended: `ok` if the follower has taken it.
    fn snapshot_sent(&self, to: u64, ok: bool);

    /// Another member says that this one was removed from the cluster. May be called again and again.
    fn removed(&self);
}

/// The form in which a state is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// MetaStore's own.
    Stream,
    /// A database file, for an etcd.
    Database,
}

/// A state that is to be sent to a follower.
pub trait StateStream: Send {
    /// Opens it, on a blocking thread: the MsgSnap that announces it, with its final metadata, and the state. The error
    /// is logged, and the sending counts as failed.
    fn open(self: Box<Self>, form: Form) -> Result<(Message, Box<dyn StateBody>), String>;
}

/// An opened state.
pub trait StateBody: Send {
    /// Writes all of it, on a blocking thread, in pieces of any size. `out` fails once the follower is gone.
    fn write(&mut self, out: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), String>;
}

/// Takes incoming states.
pub trait StateIntake: Send + Sync + 'static {
    /// Begins to take the state that a MsgSnap announces; on a blocking thread. The error goes to the sender.
    fn begin(&self, message: Message) -> Result<Box<dyn StateTaker>, String>;
}

/// Takes one incoming state, on a blocking thread. If it is dropped before its end, the sender is gone, and nothing of
/// the state may remain.
pub trait StateTaker: Send {
    /// Takes the next bytes. Until this returns, nothing more is read from the sender.
    fn take(&mut self, piece: &[u8]) -> Result<(), String>;

    /// All bytes have arrived. Returns once the member took or refused the state.
    fn finish(self: Box<Self>) -> Result<(), String>;
}
