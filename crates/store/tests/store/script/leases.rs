//! Commands about leases, and the leader's clock.

use metastore_proto::etcdserverpb::{LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest};
use metastore_store::command::Kind;

use super::scripted_store::{ScriptedStore, or_nothing};
use super::trace;
use super::words::{Result, number, word};

/// The number of timers that one check for expired leases looks at.
const STEP: usize = 4096;

impl ScriptedStore {
    /// Runs a command about leases; `None` if it is another command.
    pub fn run_lease(&mut self, command: &str, words: &[&str]) -> Result<Option<Vec<String>>> {
        let now_ms = self.now_ms;
        let id = || number(word(words, 0)?);
        Ok(Some(match command {
            "grant" => self.apply(Kind::LeaseGrant, &LeaseGrantRequest { id: id()?, ttl: number(word(words, 1)?)? })?,
            "revoke" => self.apply(Kind::LeaseRevoke, &LeaseRevokeRequest { id: id()? })?,
            "checkpoint" => {
                let checkpoint = LeaseCheckpoint { id: id()?, remaining_ttl: number(word(words, 1)?)? };
                self.apply(Kind::LeaseCheckpoint, &LeaseCheckpointRequest { checkpoints: vec![checkpoint] })?
            }
            "minimum" => {
                self.minimum_ttl_s = number(word(words, 0)?)?;
                self.store.set_minimum_ttl_s(self.minimum_ttl_s);
                vec![format!("no lease of less than {} s", self.minimum_ttl_s)]
            }
            "leases" => self.leases(),
            "lead" => {
                let extend_ms = words.first().map_or(Ok(0), |word| number(word))?;
                self.expiry.promote(now_ms, self.store.leases().iter(), extend_ms);
                vec![format!("leads since {now_ms} ms")]
            }
            "follow" => {
                self.expiry.demote();
                vec!["follows".into()]
            }
            "keep_alive" => vec![format!("{:?}", self.expiry.renew(id()?, now_ms))],
            "remaining" => vec![match self.expiry.remaining_ms(id()?, now_ms) {
                Some(ms) => format!("{ms} ms"),
                None => "unknown".into(),
            }],
            "clock" => {
                self.now_ms += number::<u64>(word(words, 0)?)?;
                self.hub.tick(self.now_ms);
                vec![format!("now {} ms", self.now_ms)]
            }
            "expired" => {
                let max = words.first().map_or(Ok(usize::MAX), |word| number(word))?;
                let expired = self.expiry.take_expired(now_ms, max, STEP);
                or_nothing(expired.iter().map(|id| format!("revoke {id}")).collect())
            }
            "expiry_deadline" => vec![format!("{:?}", self.expiry.next_deadline_ms())],
            _ => return Ok(None),
        }))
    }

    fn leases(&self) -> Vec<String> {
        let leases = self.store.leases();
        let line = |id: i64| {
            let lease = leases.get(id).expect("ids name leases");
            let keys = self.store.lease_keys(id).expect("the engine does not fail");
            let keys: Vec<_> = keys.iter().map(|key| trace::text(key)).collect();
            format!("{id} ttl={} keys [{}]", lease.ttl_s, keys.join(" "))
        };
        or_nothing(leases.ids().map(line).collect())
    }
}
