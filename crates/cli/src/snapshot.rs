//! Backups: saved through a member, inspected, restored.

mod file;
pub mod restore;
pub mod save;
pub mod status;
