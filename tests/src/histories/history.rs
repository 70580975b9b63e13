//! A recorded history, and its checks.

use std::fmt::Write;
use std::path::PathBuf;

use metastore_proto::etcdserverpb::HashKvResponse;
use metastore_proto::mvccpb::Event;
use metastore_sim::history::{Operation, Request, Response, Revisions, Violation, Watch};
use metastore_sim::invariants::hash_kv::HashKvEqual;
use metastore_sim::invariants::{linearizable, serializable, watch};
use metastore_store::mvcc::HashKv;

use crate::member::Directory;

/// The log line of a member that has installed another member's state.
const STATE_TAKEN_UP: &str = "applied snapshot";

/// Requests with their answers, and watches with their events, from an empty store on.
pub struct History {
    /// The seed from which the requests were drawn.
    pub seed: u64,
    pub operations: Vec<Operation>,
    /// Watches, each of which goes on where the one before it ended.
    pub chains: Vec<Vec<Watch>>,
    /// The watches of all keys from the first revision to the last.
    pub oracle: Vec<Watch>,
    /// Each member's hash at the end.
    pub hashes: Vec<(usize, HashKvResponse)>,
    /// The logs of the members' processes since their last start.
    pub logs: Vec<(usize, Vec<String>)>,
    /// Errors that servers may not answer with, and conditions that were not reached in time.
    pub strange: Vec<Violation>,
}

impl History {
    /// Judges the history. Panics with the first violation, and the path of the file with the history.
    pub fn check(&self) {
        if let Err(violation) = self.judge() {
            let path = self.write_down(&violation);
            panic!("seed {}: {violation}\nthe history is in {}", self.seed, path.display());
        }
    }

    /// Whether all answers and events are consistent.
    ///
    /// # Errors
    /// The first violation.
    pub fn judge(&self) -> Result<(), Violation> {
        if let Some(strange) = self.strange.first() {
            return Err(format!("{strange} ({} violations of this kind)", self.strange.len()));
        }
        self.check_hashes()?;
        let revisions = self.revisions()?;
        watch::check_chain(&self.oracle, &revisions)?;
        self.chains.iter().try_for_each(|chain| watch::check_chain(chain, &revisions))?;
        serializable::check(&self.operations, &revisions)?;
        linearizable::check(&self.operations, &revisions)
    }

    /// Whether all members hold the same data.
    fn check_hashes(&self) -> Result<(), Violation> {
        let mut equal = HashKvEqual::default();
        self.hashes.iter().try_for_each(|(member, told)| {
            let HashKvResponse { header, hash, compact_revision, hash_revision } = *told;
            let revision = header.map_or(0, |header| header.revision);
            equal.hashed(*member, hash_revision, HashKv { hash, compact_revision, hash_revision, revision })
        })
    }

    /// The events of each revision, as the oracle heard them.
    fn revisions(&self) -> Result<Revisions, Violation> {
        let (mut revisions, mut last) = (Revisions::new(), 1);
        for response in self.oracle.iter().flat_map(|watch| &watch.responses) {
            if let Some(again) = response.events.iter().find(|event| revision_of(event) <= last) {
                return Err(format!("the oracle was told everything up to revision {last}, and then {again:?}"));
            }
            for event in &response.events {
                revisions.entry(revision_of(event)).or_default().push(event.clone());
            }
            last = response.events.last().map_or(last, revision_of);
        }
        Ok(revisions)
    }

    /// The contents of the history, in one line.
    pub fn summary(&self) -> String {
        let of = |is: fn(&Operation) -> bool| self.operations.iter().filter(|operation| is(operation)).count();
        let watches = || self.chains.iter().flatten();
        format!(
            "seed {}: {} answered and {} unknown requests, {} compactions, {} leases, {} revisions; {} watches heard \
             {} events; {} states of others taken up since the last starts",
            self.seed,
            of(|operation| operation.returned.is_some()),
            of(|operation| operation.returned.is_none() && !matches!(operation.request, Request::LeaseRevoke(_))),
            of(|operation| matches!(operation.returned, Some((_, Response::Compact(_))))),
            of(|operation| matches!(operation.returned, Some((_, Response::LeaseGrant(_))))),
            self.revisions().map_or(0, |revisions| revisions.len()),
            watches().count(),
            watches().flat_map(|watch| &watch.responses).map(|response| response.events.len()).sum::<usize>(),
            self.logs.iter().flat_map(|(_, log)| log).filter(|line| line.contains(STATE_TAKEN_UP)).count(),
        )
    }

    /// Writes the history to a file that outlives the test.
    fn write_down(&self, violation: &str) -> PathBuf {
        let directory = Directory::new("history");
        let path = directory.path().join(format!("seed-{}.txt", self.seed));
        std::fs::write(&path, self.text(violation)).expect("the temporary directory is writable");
        // The directory is not removed, so that the history can be examined.
        std::mem::forget(directory);
        path
    }

    /// Operations with the numbers that violations name, in the order of their calls; times are in nanoseconds.
    fn text(&self, violation: &str) -> String {
        let mut text = format!("{violation}\n\noperations\n");
        for (number, operation) in self.operations.iter().enumerate() {
            let _ = writeln!(text, "{number}: {operation:?}");
        }
        for (name, chain) in self.chains.iter().map(|chain| ("watcher", chain)).chain([("the oracle", &self.oracle)]) {
            for watch in chain {
                let Watch { client, request, responses, complete_to, compacted } = watch;
                let _ = writeln!(
                    text,
                    "\n{name} {client}: {request:?}, complete to {complete_to:?}, compacted {compacted}"
                );
                for response in responses {
                    let _ = writeln!(text, "{response:?}");
                }
            }
        }
        let _ = writeln!(text, "\nhashes: {:?}", self.hashes);
        for (member, log) in &self.logs {
            let _ = writeln!(text, "\nlog of member {member}\n{}", log.join("\n"));
        }
        text
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

#[cfg(test)]
mod tests;
