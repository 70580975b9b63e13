//! `--force-new-cluster`: one member is left, and goes on alone. The same runs against a real etcd.

use metastore_tests::cluster::Cluster;
use metastore_tests::programs::{self, EngineKind, Harness, Server};

const IN_FLIGHT: usize = 64;
const WRITES: usize = 300;
const FORCE: &str = "--force-new-cluster";

each_engine!(a_member_goes_on_alone, a_learner_goes_on_alone);

#[test]
fn an_etcd_goes_on_alone() {
    let etcd = programs::etcd("newest").map(|directory| Server::etcd(&directory));
    let Some(etcd) = programs::or_skip("a forced etcd", etcd) else { return };
    goes_on_alone(&etcd);
}

fn a_member_goes_on_alone(engine: EngineKind) {
    let Some(subject) = programs::or_skip("a forced member", programs::subject(engine)) else { return };
    goes_on_alone(&subject);
}

fn goes_on_alone(server: &Server) {
    let mut cluster = Cluster::start(&[server.clone(), server.clone(), server.clone()], &[]);
    cluster.put_many(cluster.leader(), WRITES, IN_FLIGHT);
    let revision = cluster.agree();
    let id = cluster.id(0);
    for node in [1, 2, 0] {
        cluster.kill(node);
    }
    cluster.lose(&[1, 2]);
    cluster.add_flag(0, FORCE);
    cluster.restart(0);
    if !server.is_etcd() {
        // An etcd drops the writes that it has not recorded as committed.
        assert_eq!(cluster.revision(0).expect("a revision"), revision);
    }
    let members = cluster.members(0, true).expect("the members");
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [id]);
    cluster.put(0, "alone", "").expect("a write");
    if server.is_etcd() {
        // With the flag it would drop this write as well.
        cluster.remove_flag(0, FORCE);
    }
    cluster.kill(0);
    cluster.restart(0);
    assert_eq!(cluster.get(0, "alone").expect("a read").as_deref(), Some(""));
    cluster.remove_flag(0, FORCE);
    cluster.kill(0);
    cluster.restart(0);
    let new = cluster.add(server, true);
    cluster.promote(new);
    cluster.put(new, "two again", "").expect("a write");
    cluster.agree();
}

/// Entries that are in the log of the member that is left, and that it does not know to be committed, stay.
fn a_learner_goes_on_alone(engine: EngineKind) {
    let found = programs::subject(engine);
    let Some(subject) = programs::or_skip("a forced learner", found) else { return };
    if subject.is_etcd() || subject.harness == Harness::Inside {
        return;
    }
    let mut cluster = Cluster::start(std::slice::from_ref(&subject), &[]);
    let learner = cluster.add(&subject, true);
    cluster.put_many(0, WRITES, IN_FLIGHT);
    let revision = cluster.agree();
    cluster.kill(0);
    cluster.kill(learner);
    cluster.lose(&[0]);
    cluster.add_flag(learner, FORCE);
    cluster.restart(learner);
    assert!(cluster.revision(learner).expect("a revision") >= revision);
    cluster.put(learner, "a voter now", "").expect("a write");
    assert_eq!(cluster.members(learner, true).expect("the members").len(), 1);
}
