//! The shell around the state machine: sockets, flags, clocks, logs and signals.
//!
//! Nothing here decides about data. A request comes in through [`io`], is read by [`grpc`], and becomes an event for the
//! engine thread; the answer goes back the same way.

pub mod config;
pub mod grpc;
pub mod io;
pub mod logging;
