pub mod lease;
pub mod watch;
