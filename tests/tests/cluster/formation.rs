//! A cluster forms, and every member serves every request.

use super::{Members, each_harness};

/// The number of writes, each followed by a read through another member.
const ROUNDS: usize = 500;

each_harness!(
    three_form_a_cluster,
    a_read_on_a_follower_sees_what_was_acknowledged_elsewhere;
    mixed: one_forms_a_cluster, five_form_a_cluster,
);

fn one_forms_a_cluster(members: Members) {
    form(members, 1);
}

fn three_form_a_cluster(members: Members) {
    form(members, 3);
}

fn five_form_a_cluster(members: Members) {
    form(members, 5);
}

/// All members report the same members and leader, and the first write through each member is read through all of them.
fn form(members: Members, count: usize) {
    let Some(cluster) = members.start("formation", count, &[]) else { return };
    let leader = cluster.id(cluster.leader());
    for node in 0..count {
        let status = cluster.status(node).expect("a status");
        assert_eq!((status.leader, status.is_learner), (leader, false), "node {node}");
        let mut names: Vec<String> =
            cluster.members(node, false).expect("a list").into_iter().map(|member| member.name).collect();
        names.sort();
        assert_eq!(names, (0..count).map(|node| format!("m{node}")).collect::<Vec<_>>());
        let revision = cluster.put(node, &format!("first/{node}"), "value").expect("the first write through a member");
        assert_eq!(revision, node as i64 + 2);
        for other in 0..count {
            let read = cluster.get(other, &format!("first/{node}")).expect("a read");
            assert_eq!(read.as_deref(), Some("value"), "written to {node}, read from {other}");
        }
    }
    cluster.agree();
}

fn a_read_on_a_follower_sees_what_was_acknowledged_elsewhere(members: Members) {
    let Some(cluster) = members.start("read after write", 3, &[]) else { return };
    for round in 0..ROUNDS {
        let (writer, reader) = (round % 3, (round + 1 + round / 3 % 2) % 3);
        cluster.put(writer, "key", &round.to_string()).expect("a write");
        let read = cluster.get(reader, "key").expect("a read");
        assert_eq!(read, Some(round.to_string()), "written to {writer}, read from {reader}");
    }
}
