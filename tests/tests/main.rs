//! End-to-end tests against real processes: one binary, one module per kind of proof.

mod bad_days;
mod differential;
mod etcdctl;
mod hash;
mod restart;
