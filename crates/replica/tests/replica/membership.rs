//! Changes of the membership: founding together, joining, and each change that the log can carry.

use std::sync::Arc;

use metastore_proto::raftpb::{ConfChange, ConfChangeType};
use metastore_replica::disk::Disk;
use metastore_replica::{Bootstrap, Founder, Output, Replica, identity};
use metastore_store::{Member, Outcome, Refusal, Reply};

use crate::machine::{EngineKind, Machine};
use crate::world::{advance, open, paths, put, settings, take_up};

const TOKEN: &str = "token";

fn open_as(disk: &Machine, bootstrap: &Bootstrap) -> Replica {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = disk.engine;
    Replica::open(settings(engine), shared, paths(), || Ok(bootstrap.clone()), disk.opener(engine)).unwrap().0
}

fn peer_urls(name: &str) -> Vec<String> {
    vec![format!("http://{name}:2380")]
}

fn change(id: u64, kind: ConfChangeType, member: &Member) -> ConfChange {
    let context = (kind != ConfChangeType::ConfChangeRemoveNode).then(|| member.to_json().unwrap().into());
    ConfChange { id: Some(id), r#type: Some(kind as i32), node_id: Some(member.id), context }
}

/// Proposes a change to a sole voter, and returns its outcome.
fn outcome(replica: &mut Replica, change: &ConfChange) -> Result<Reply, Refusal> {
    let mut output = Output::default();
    replica.propose_change(change).unwrap();
    advance(replica, &mut output).unwrap();
    let [Outcome { id, reply, .. }] = &output.outcomes[..] else { panic!("{:?}", output.outcomes) };
    assert_eq!(*id, change.id());
    reply.clone()
}

fn members(replica: &Replica) -> Vec<Member> {
    replica.store().members().iter().cloned().collect()
}

each_engine!(a_sole_voter_takes_every_change_and_holds_it_after_a_restart);

fn a_sole_voter_takes_every_change_and_holds_it_after_a_restart(engine: EngineKind) {
    use ConfChangeType::{ConfChangeAddLearnerNode, ConfChangeAddNode, ConfChangeRemoveNode, ConfChangeUpdateNode};
    let disk = Machine::new(engine);
    let (mut replica, _) = open(&disk).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    let own = replica.store().members().get(replica.id()).unwrap().clone();
    let learner = Member { id: 7, peer_urls: peer_urls("a"), is_learner: true, ..Member::default() };
    let moved = Member { peer_urls: peer_urls("b"), ..learner.clone() };
    let second = Member { id: 8, peer_urls: peer_urls("c"), is_learner: true, ..Member::default() };

    assert_eq!(outcome(&mut replica, &change(1, ConfChangeAddLearnerNode, &learner)), Ok(Reply::MembersChanged));
    let refused = outcome(&mut replica, &change(2, ConfChangeAddLearnerNode, &second));
    assert_eq!(refused, Err(Refusal::TooManyLearners));
    // A refused addition of a voter must leave the voters as they are; otherwise no entry would be committed any more.
    let known = Member { is_learner: false, ..learner.clone() };
    assert_eq!(outcome(&mut replica, &change(3, ConfChangeAddNode, &known)), Err(Refusal::MemberExists));
    assert_eq!(outcome(&mut replica, &change(4, ConfChangeUpdateNode, &moved)), Ok(Reply::MembersChanged));
    // An update of the only voter must not cost it its vote.
    let own_moved = Member { peer_urls: peer_urls("d"), ..own };
    assert_eq!(outcome(&mut replica, &change(5, ConfChangeUpdateNode, &own_moved)), Ok(Reply::MembersChanged));
    let last = outcome(&mut replica, &change(6, ConfChangeRemoveNode, &own_moved));
    assert_eq!(last, Err(Refusal::NotEnoughMembers));
    assert!(replica.standing().sole_leader);
    let mut expected = vec![moved.clone(), own_moved];
    expected.sort_unstable_by_key(|member| member.id);
    assert_eq!(members(&replica), expected);

    drop(replica);
    let (mut replica, _) = open(&disk).unwrap();
    advance(&mut replica, &mut Output::default()).unwrap();
    assert_eq!(members(&replica), expected);
    assert_eq!(outcome(&mut replica, &change(7, ConfChangeRemoveNode, &moved)), Ok(Reply::MembersChanged));
    assert_eq!(outcome(&mut replica, &change(8, ConfChangeAddLearnerNode, &moved)), Err(Refusal::MemberRemoved));
    replica.propose(put(9, "k", "v")).unwrap();
    let mut output = Output::default();
    advance(&mut replica, &mut output).unwrap();
    assert_eq!(output.outcomes.len(), 1, "it still commits");
    assert!(replica.store().members().is_removed(7));
}

each_engine!(founders_agree_on_the_members_before_they_have_met);

fn founders_agree_on_the_members_before_they_have_met(engine: EngineKind) {
    let names = ["m1", "m2", "m3"];
    let ids: Vec<u64> = names.iter().map(|name| identity::member_id(&peer_urls(name), TOKEN)).collect();
    let founders: Vec<_> =
        names.iter().map(|name| Founder { name: (*name).into(), peer_urls: peer_urls(name) }).collect();
    for (name, id) in names.iter().zip(&ids) {
        let found = Bootstrap::Found { members: founders.clone(), own: (*name).into(), cluster_token: TOKEN.into() };
        let disk = Machine::new(engine);
        for _ in 0..2 {
            let mut replica = open_as(&disk, &found);
            take_up(&mut replica, &mut Output::default()).unwrap();
            assert_eq!((replica.id(), replica.cluster_id()), (*id, identity::cluster_id(&ids)));
            let found: Vec<String> = members(&replica).into_iter().map(|member| member.name).collect();
            assert_eq!((found.len(), replica.store().applied().index), (3, 3), "{found:?}");
            assert!(!replica.standing().is_leader(), "one of three elects nobody");
        }
    }
}

each_engine!(who_joins_waits_to_be_told);

fn who_joins_waits_to_be_told(engine: EngineKind) {
    let disk = Machine::new(engine);
    for _ in 0..2 {
        let mut replica = open_as(&disk, &Bootstrap::Join { id: 7, cluster_id: 9 });
        for _ in 0..100 {
            replica.tick();
            take_up(&mut replica, &mut Output::default()).unwrap();
        }
        assert_eq!((replica.id(), replica.cluster_id()), (7, 9));
        assert_eq!((members(&replica), replica.store().applied().index), (Vec::new(), 0));
        let standing = replica.standing();
        assert!(!standing.is_leader() && standing.leader == 0 && standing.term == 0, "{standing:?}");
        assert!(replica.propose(put(1, "k", "v")).is_err());
    }
}
