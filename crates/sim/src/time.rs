//! The time of the simulated world: moments, and ticks of the members' clocks.

/// Moments are finer than the members' ticks: messages take parts of a tick.
pub const MOMENTS_PER_TICK: u64 = 5;
/// The length of a moment on an exact clock; a tick is a heartbeat of 100 ms.
pub const MOMENT_MS: u64 = 20;
