//! The shell around the state machine: sockets, flags, clocks, logs and signals.
//!
//! Nothing here decides about data. A request comes in through [`io`], is read by [`grpc`], answered by [`api`], and
//! becomes an event for the engine thread ([`driver`]). The answer goes back the same way. [`start`] makes one member
//! of the parts.

#[macro_use]
mod seldom;

pub mod api;
pub mod audit;
pub mod auth;
pub mod config;
pub mod convert;
pub mod descriptors;
pub mod driver;
mod duties;
pub mod engine;
mod founding;
pub mod grpc;
pub mod http;
mod instruments;
pub mod io;
pub mod keys;
mod leader;
pub mod logging;
pub mod member;
pub mod metrics;
pub mod notify;
pub mod peer;
pub mod progress;
mod questions;
pub mod shared;
pub mod signals;
pub mod start;
pub mod tls;
