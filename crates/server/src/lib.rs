//! The shell around the state machine: sockets, flags, clocks, logs and signals.
//!
//! Nothing here decides about data. A request comes in through [`io`], is read by [`grpc`], answered by [`api`], and
//! becomes an event for the engine thread ([`driver`]). The answer goes back the same way. [`start`] makes one member
//! of the parts.

#[macro_use]
mod seldom;

pub mod api;
pub mod config;
pub mod convert;
pub mod descriptors;
pub mod driver;
pub mod engine;
pub mod grpc;
pub mod http;
pub mod io;
pub mod keys;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod peer;
pub mod progress;
pub mod shared;
pub mod signals;
pub mod start;
pub mod watchdog;
