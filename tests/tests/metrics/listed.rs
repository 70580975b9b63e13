//! Every metric that the dashboards and alerts of etcd ask for, on each of three members under load; and every metric
//! of the dashboard and the alerts in `deploy/`.

use std::collections::BTreeSet;

use metastore_tests::load::Load;

use super::*;
use crate::deploy::{ALERTS, DASHBOARD, text};

/// The names that the tools for etcd ask for, with where each comes from.
const LISTED: &str = "tests/data/dashboards.txt";
/// The prefixes of names that members export; a query also has names of functions and labels.
const PREFIXES: [&str; 5] = ["etcd_", "grpc_server_", "metastore_", "process_", "promhttp_"];
/// Answers that the load waits for.
const PROGRESS: usize = 500;

fn listed(what: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(programs::workspace().join(LISTED)).expect("the list is there");
    let rows = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let mut words = line.split_whitespace();
        (words.next().expect("a name"), words.next().expect("what happens to it"))
    });
    rows.filter(|(_, happens)| *happens == what).map(|(name, _)| name.to_owned()).collect()
}

/// The metrics that a text with queries names.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let metrics = words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)));
    metrics.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
}

/// Those of `names` that do not hold on the page of a member.
fn lacking(names: &BTreeSet<String>, holds: impl Fn(&str) -> bool) -> Vec<&String> {
    names.iter().filter(|name| !holds(name)).collect()
}

#[test]
fn what_dashboards_ask_for_is_there_and_moves_on_each_member() {
    let Some([subject, _]) = servers(EngineKind::Memory) else { return };
    let flags = ["--metrics=extensive"];
    let mut cluster = Cluster::start(&[subject.clone(), subject.clone(), subject], &flags);
    let leader = cluster.leader();
    let pages = |cluster: &Cluster| [0, 1, 2].map(|node| scrape(cluster.member(node)));
    let before = pages(&cluster);
    let [moves, stays, may, lost] = ["moves", "stays", "may", "lost"].map(listed);
    assert!(moves.len() > 15 && lost.len() == 1, "{moves:?} {lost:?}");
    let load = Load::start(&cluster.addresses());
    load.progress(PROGRESS);
    let mut after = pages(&cluster);
    let still = |before: &Page, after: &Page| lacking(&moves, |name| moved(before, after).contains(name)).len();
    let all_move = comes_true(|| {
        after = pages(&cluster);
        before.iter().zip(&after).all(|(before, after)| still(before, after) == 0)
    });
    load.stop();
    for (node, (before, after)) in before.iter().zip(&after).enumerate() {
        let moved = moved(before, after);
        assert!(all_move, "member {node}: {:?} do not move", lacking(&moves, |name| moved.contains(name)));
        let there = stays.union(&may).cloned().collect();
        assert_eq!(lacking(&there, |name| after.contains_key(name)), [""; 0], "member {node} does not show them");
        assert_eq!(lacking(&stays, |name| !moved.contains(name)), [""; 0], "member {node}: these move");
    }
    let follower = cluster.followers()[0];
    cluster.kill(follower);
    eventually("a leader that counts what it loses", || {
        let page = scrape(cluster.member(leader));
        lost.iter().all(|name| page.get(name).is_some_and(|family| family.sum > 0.0))
    });
}

#[test]
fn the_dashboard_and_the_alerts_of_deploy_name_what_is_exported() {
    let Some([subject, _]) = servers(EngineKind::Memory) else { return };
    let cluster = Cluster::start(&[subject.clone(), subject.clone(), subject], &[]);
    let address = cluster.member(cluster.leader()).client_address();
    // Results of checks are there once a check was asked for.
    http_get(address, "/readyz");
    let mut names = named(&text(DASHBOARD));
    names.extend(named(&text(ALERTS)));
    assert!(names.len() > 25, "{names:?}");
    let labels = ["grpc_code", "grpc_method", "grpc_service"];
    assert!(labels.iter().all(|label| !names.contains(*label)));
    let mut page = String::new();
    let declared = |page: &str, name: &str| page.contains(&format!("# TYPE {name} "));
    let all = comes_true(|| {
        page = http_get(address, "/metrics");
        lacking(&names, |name| declared(&page, name)).is_empty()
    });
    assert!(all, "not exported: {:?}", lacking(&names, |name| declared(&page, name)));
    assert!(!declared(&page, "etcd_nothing"));
}
