//! How members serve clients: the parts of a server around a replica, as far as they affect the answers to clients.

use metastore_proto::etcdserverpb::{LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest};
use metastore_replica::Renewed;
use metastore_store::command::{Command, Kind};
use metastore_store::lease::{Lease, Renewal};
use metastore_store::{Outcome, Reply};

use super::World;
use super::alarms::is_alarmed;
use super::users::denial;
use crate::answers;
use crate::clients::{Asked, Wish};
use crate::history::{Request, Response};
use crate::member::{ELECTION_MS, Member};
use crate::model::users::Caller;
use crate::waiting::{Noted, Proving, Reading};

impl World {
    /// The members that may be asked. In a healed world nobody asks removed members.
    pub(super) fn serving(&self) -> Vec<usize> {
        let serves = |member: &Member| member.awake(self.now) && !(self.healed && member.left);
        (0..self.members.len()).filter(|at| serves(&self.members[*at])).collect()
    }

    /// The clients whose requests are due send them.
    pub(crate) fn ask(&mut self) {
        let awake = self.serving();
        let (users, members) = (&mut self.users, &self.members);
        let caller = |client, at: usize| {
            let (Some(users), Some(replica)) = (users.as_mut(), &members[at].replica) else { return Caller::default() };
            users.caller(client, replica.store().view().auth().as_deref())
        };
        for asked in self.clients.ask(self.now, &awake, self.judge.acknowledged.told(), caller) {
            if self.healed && !self.compacts_healed && matches!(asked.wish, Wish::Do(Request::Compact(_))) {
                self.clients.end(self.now, asked.id);
                continue;
            }
            self.note(|| format!("{asked:?}"));
            self.counts.operations += 1;
            self.judge.called(&asked);
            // A long read of another client may have stopped the member.
            if self.members[asked.member].awake(self.now) {
                self.serve(asked);
            }
        }
    }

    /// Hands a request to its member.
    fn serve(&mut self, asked: Asked) {
        let at = asked.member;
        match &asked.wish {
            Wish::KeepAlive(lease) => self.pass_on_renewal(*lease, &asked),
            Wish::Do(Request::Range(request)) => {
                let Some(replica) = &mut self.members[at].replica else { return };
                if request.serializable || replica.standing().sole_leader {
                    self.counts.local_reads += u64::from(request.serializable);
                    if let Some(response) = self.read_range(&asked, true) {
                        self.tell(&asked, response);
                    }
                    return;
                }
                replica.read(asked.id);
                self.members[at].due = true;
                self.members[at].reads.insert(asked.id, Reading::Range);
            }
            Wish::Do(_) if self.has_room(&asked) && self.is_permitted(&asked) => self.propose(&asked),
            Wish::Do(_) => {}
        }
    }

    fn propose(&mut self, asked: &Asked) {
        match &asked.wish {
            Wish::Do(Request::LeaseGrant(grant)) => {
                // A lease with its own name, even if an earlier lease had this id.
                *self.lease_book.grants.entry(grant.id).or_default() += 1;
                let (name, clocks) = (self.lease_book.name_of(grant.id), self.clocks());
                self.counts.leases_granted_anew += u64::from(self.lease_book.grants[&grant.id] > 1);
                self.verdicts.must(self.judge.leases.asked_for(name, &clocks));
                self.lease_book.asked_at.insert(asked.id, clocks);
            }
            Wish::Do(Request::LeaseRevoke(revoke)) => {
                self.lease_book.revocations.insert(asked.id, (self.lease_book.name_of(revoke.id), None));
            }
            _ => {}
        }
        let member = &mut self.members[asked.member];
        let (Some(command), Some(replica)) = (asked.command(), &mut member.replica) else { return };
        member.due = true;
        if replica.propose(command).is_err() {
            self.refuse(asked);
        }
    }

    /// The member refuses a request: it will not take effect.
    pub(super) fn refuse(&mut self, asked: &Asked) {
        self.judge.withdrawn(asked);
        self.counts.refused += 1;
        self.clients.end(self.now, asked.id);
        let may_refuse = !self.calm || self.members[asked.member].left;
        assert!(may_refuse, "a healed cluster refuses {asked:?}: {}", self.standings());
    }

    /// Ends a request with an answer.
    fn tell(&mut self, asked: &Asked, response: Response) {
        self.note(|| format!("{} tells {}: {response:?}", asked.member, asked.id));
        self.judge.returned(asked, &response);
        self.clients.end(self.now, asked.id);
        self.clients.told(asked, &response);
        match (&asked.wish, &response) {
            (Wish::Do(Request::Range(request)), _) if request.revision > 0 => self.counts.past_reads += 1,
            (_, Response::Range(_)) => self.counts.reads += 1,
            (_, Response::Refused(_)) => self.counts.refused_writes += 1,
            (_, Response::Compact(_)) => self.counts.compactions += 1,
            (_, Response::Txn(reply)) if !reply.succeeded => self.counts.failed_txns += 1,
            _ => self.counts.writes += 1,
        }
    }

    /// A member has the outcome of a command, whether or not a client waits for it.
    pub(crate) fn answer(&mut self, at: usize, outcome: &Outcome) {
        self.note(|| format!("{at} has an answer: {outcome:?}"));
        self.verdicts.must(self.judge.answers(at, outcome));
        let now_ms = self.members[at].clock.ms();
        self.members[at].keeper.applied(outcome, now_ms);
        match outcome.reply {
            Ok(Reply::LeaseRevoke { .. }) => self.lease_revoked(outcome.id),
            Ok(Reply::LeaseCheckpoint) => {
                self.judge.checkpoints.applied(outcome.id);
                self.lease_book.checkpoints.retain(|id, noted| *id != outcome.id || noted.by != at);
                if let Some(proving) = self.members[at].proving.remove(&outcome.id) {
                    self.prove(at, proving);
                }
            }
            _ => {}
        }
        let Some(asked) = self.clients.waiting(at, outcome.id).cloned() else { return };
        let Some(response) = answers::outcome(outcome) else { return };
        if let (Wish::Do(Request::LeaseGrant(_)), Response::LeaseGrant(granted)) = (&asked.wish, &response) {
            let clocks = self.lease_book.asked_at.remove(&asked.id).unwrap_or_default();
            self.verdicts.must(self.judge.leases.granted(self.lease_book.name_of(granted.id), granted.ttl, &clocks));
            self.counts.leases_granted += 1;
        }
        let (acknowledged, revision) = (&mut self.judge.acknowledged, outcome.revision);
        self.verdicts.must(match answers::changed(&response) {
            true => acknowledged.acknowledged(asked.id, revision, asked.floor),
            false => acknowledged.read(revision, asked.floor),
        });
        match denial(outcome) {
            Some(text) => self.deny(&asked, &text),
            None if is_alarmed(outcome) => self.refuse_for_alarm(&asked),
            None => self.tell(&asked, response),
        }
    }

    /// A member confirms a read.
    pub(crate) fn read(&mut self, at: usize, id: u64) {
        self.note(|| format!("{at} allows read {id}"));
        let reading = self.members[at].reads.remove(&id);
        let reading = reading.unwrap_or_else(|| panic!("member {at} was not asked for read {id}, or allows it twice"));
        match reading {
            Reading::Range => {
                let Some(asked) = self.clients.waiting(at, id).cloned() else { return };
                let Some(response) = self.read_range(&asked, false) else { return };
                if let Response::Range(response) = &response {
                    let revision = response.header.as_ref().map_or(0, |header| header.revision);
                    self.verdicts.must(self.judge.acknowledged.read(revision, asked.floor));
                }
                self.tell(&asked, response);
            }
            Reading::Renewal(proving) => self.prove(at, *proving),
        }
    }

    /// The proof of a renewal has arrived.
    fn prove(&mut self, at: usize, proving: Proving) {
        let Proving { lease, renewing, asked } = proving;
        let Member { replica: Some(replica), keeper, .. } = &self.members[at] else { return };
        let renewals = keeper.proven(replica, renewing);
        let Some(renewals) = renewals else {
            self.note(|| format!("{at} has not led all the while: the renewal for {} does not count", asked.id));
            self.clients.end(self.now, asked.id);
            return;
        };
        self.tell_of_renewal(&asked, lease, renewals[0]);
    }

    fn tell_of_renewal(&mut self, asked: &Asked, lease: i64, renewal: Renewal) {
        match renewal {
            Renewal::Renewed(ttl_s) => self.renewed(asked, lease, Some(ttl_s)),
            Renewal::Unknown => self.renewed(asked, lease, None),
            // An expired lease is answered after its revocation; this client does not wait so long.
            Renewal::Expired => {}
            Renewal::NotLeader => _ = self.clients.end(self.now, asked.id),
        }
    }
}

// Leases.
impl World {
    /// A member forwards a renewal to the leader that it knows.
    fn pass_on_renewal(&mut self, lease: i64, asked: &Asked) {
        let clocks = self.clocks();
        let name = self.lease_book.name_of(lease);
        self.verdicts.must(self.judge.leases.asked_for(name, &clocks));
        self.judge.checkpoints.renewal_asked_for(name);
        let leader = self.members[asked.member].leader();
        let Some(to) = self.position(leader) else { return };
        let (there, back) = ((asked.member, to), (to, asked.member));
        let lost = to != asked.member && (self.network.loses(there) || self.network.loses(back));
        if lost || !self.members[to].awake(self.now) || self.is_checkpoint_under_way(lease, to) {
            return;
        }
        self.lease_book.asked_at.insert(asked.id, self.clocks());
        if self.judge.leases.superseded(self.members[to].term()) {
            self.lease_book.superseded.insert(asked.id);
        }
        let (now_ms, id) = (self.members[to].clock.ms(), self.clients.next_id());
        let Member { replica: Some(replica), keeper, proving, reads, due, .. } = &mut self.members[to] else { return };
        let waiting = |renewing| Proving { lease, renewing, asked: asked.clone() };
        match keeper.renew(replica, &[lease], now_ms, id) {
            Renewed::NotLeader => _ = self.clients.end(self.now, asked.id),
            Renewed::Proven(renewals) => self.tell_of_renewal(asked, lease, renewals[0]),
            Renewed::AwaitRead(renewing) => {
                *due = true;
                reads.insert(id, Reading::Renewal(Box::new(waiting(renewing))));
            }
            Renewed::AwaitOutcome(renewing) => {
                *due = true;
                proving.insert(id, waiting(renewing));
                self.counts.checkpoints_taken_back += 1;
            }
        }
    }

    /// A leader notes what is left of the leases for which it is time.
    pub(super) fn note_checkpoints(&mut self, at: usize) {
        let member = &mut self.members[at];
        let (Some(term), Some(replica)) = (member.leads_in(), &mut member.replica) else { return };
        let id = self.clients.next_id();
        let checkpoints = member.keeper.checkpoint(replica, member.clock.ms(), id);
        member.due |= !checkpoints.is_empty();
        for checkpoint in checkpoints {
            self.noted(at, (id, term), checkpoint);
        }
    }

    /// A leader has proposed a checkpoint.
    fn noted(&mut self, at: usize, (id, term): (u64, u64), checkpoint: LeaseCheckpoint) {
        let (name, clocks) = (self.lease_book.name_of(checkpoint.id), self.clocks());
        self.judge.leases.noted(name, at, checkpoint.remaining_ttl, &clocks);
        self.judge.checkpoints.noted(name, id, term, checkpoint.remaining_ttl);
        self.counts.checkpoints += 1;
        self.note(|| format!("{at} notes by {id} what is left: {checkpoint:?}"));
    }

    /// A new leader begins to time the leases.
    pub(super) fn times_anew(&mut self, at: usize) {
        let (term, clocks) = (self.members[at].term(), self.clocks());
        self.verdicts.must(self.judge.leases.timed_anew(term, &clocks));
        let Member { replica: Some(replica), keeper, clock, .. } = &self.members[at] else { return };
        for (lease, _) in replica.store().leases().iter() {
            let gives_ms = keeper.remaining_ms(lease, clock.ms()).unwrap_or_default();
            let name = self.lease_book.name_of(lease);
            self.verdicts.must(self.judge.checkpoints.timed_anew(name, term, gives_ms, ELECTION_MS));
        }
    }

    /// A leader records the remaining time of any lease in the log, as an etcd may do if checkpoints are switched on.
    pub(super) fn note_any_checkpoint(&mut self, at: usize) {
        let member = &mut self.members[at];
        let (Some(term), Some(replica)) = (member.leads_in(), &mut member.replica) else { return };
        let now_ms = member.clock.ms();
        let left = |(id, lease): (i64, Lease)| {
            let remaining_ttl = member.keeper.remaining_ms(id, now_ms)?.div_ceil(1000) as i64;
            (1..lease.ttl_s).contains(&remaining_ttl).then_some(LeaseCheckpoint { id, remaining_ttl })
        };
        let lefts: Vec<_> = replica.store().leases().iter().filter_map(left).collect();
        let Some(checkpoint) = self.random.pick(&lefts).copied() else { return };
        let (id, lease) = (self.clients.next_id(), checkpoint.id);
        let request = LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
        if replica.propose_as_leader(vec![Command::encode(id, Kind::LeaseCheckpoint, &request)]).is_ok() {
            member.due = true;
            self.lease_book.checkpoints.insert(id, Noted { lease, by: at, term });
            self.noted(at, (id, term), checkpoint);
        }
    }

    /// Whether a leader has proposed a checkpoint of a lease, and its log does not hold the checkpoint yet. A renewal
    /// at this moment would not know of the checkpoint. Avoiding this is the task of the leader that proposes
    /// checkpoints.
    fn is_checkpoint_under_way(&self, lease: i64, at: usize) -> bool {
        let term = self.members[at].term();
        self.lease_book.checkpoints.values().any(|noted| noted.lease == lease && noted.by == at && noted.term == term)
    }

    /// A client receives the answer to a renewal: whether its lease still exists.
    fn renewed(&mut self, asked: &Asked, lease: i64, ttl_s: Option<i64>) {
        let clocks = self.lease_book.asked_at.remove(&asked.id).unwrap_or_default();
        // The client may have given up.
        if self.clients.end(self.now, asked.id).is_none() {
            return;
        }
        self.note(|| format!("{} tells {}: lease {lease} {ttl_s:?}", asked.member, asked.id));
        self.clients.renewed(asked, lease, ttl_s.is_some());
        if let Some(ttl_s) = ttl_s {
            if self.lease_book.superseded.contains(&asked.id) {
                let why = format!("lease {lease} is renewed by a leader whose successor times the leases: {asked:?}");
                self.verdicts.must(Err(why));
            }
            let name = self.lease_book.name_of(lease);
            self.verdicts.must(self.judge.leases.renewed(name, ttl_s, &clocks));
            self.judge.checkpoints.renewed(name, ttl_s);
            self.counts.leases_renewed += 1;
        }
    }

    /// The times that all clocks show.
    pub(crate) fn clocks(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.clock.ms()).collect()
    }

    /// A leader proposes to revoke the leases whose time is over.
    pub(crate) fn revoke_expired(&mut self, at: usize) {
        let member = &mut self.members[at];
        let Some(replica) = &mut member.replica else { return };
        let (now_ms, clients, mut ids) = (member.clock.ms(), &mut self.clients, Vec::new());
        let expired = member.keeper.revoke_expired(replica, now_ms, || {
            let id = clients.next_id();
            ids.push(id);
            id
        });
        member.due |= !expired.is_empty();
        for (lease, id) in expired.into_iter().zip(ids) {
            self.note(|| format!("{at} revokes lease {lease} by {id}: its time is over"));
            self.judge.revokes(id, LeaseRevokeRequest { id: lease });
            let name = self.lease_book.name_of(lease);
            self.verdicts.must(self.judge.leases.expired(name, at, now_ms));
            self.lease_book.revocations.insert(id, (name, Some((at, now_ms))));
        }
    }

    /// A lease has ended. It is judged once, at the first member that reports it.
    fn lease_revoked(&mut self, by: u64) {
        let (name, by) = *self.lease_book.revocations.get(&by).expect("somebody has asked for each revocation");
        if !self.lease_book.revoked.insert(name) {
            return;
        }
        self.counts.leases_expired += u64::from(by.is_some());
        self.verdicts.must(self.judge.leases.revoked(name, by));
    }
}
