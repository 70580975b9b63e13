//! The files of `deploy/`, as far as they can be checked without the programs that read them: their form, the flags in
//! them, and what probes ask for. The names of metrics in them are checked in `metrics/listed.rs`.

use std::collections::BTreeMap;

use metastore_server::config::{self, Config, Invocation};
use metastore_tests::programs::workspace;
use yaml_rust2::{Yaml, YamlLoader};

const STATEFUL_SET: &str = "kubernetes/statefulset.yaml";
const STATIC_POD: &str = "kubernetes/static-pod.yaml";
pub const ALERTS: &str = "prometheus/alerts.yml";
pub const DASHBOARD: &str = "grafana/dashboard.json";
const UNIT: &str = "systemd/metastore.service";
const DOCKERFILE: &str = "docker/Dockerfile";

/// The flags of the manifest that kubeadm writes for an etcd of version 3.6.
const KUBEADM: [&str; 19] = [
    "advertise-client-urls",
    "cert-file",
    "client-cert-auth",
    "data-dir",
    "feature-gates",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "key-file",
    "listen-client-urls",
    "listen-metrics-urls",
    "listen-peer-urls",
    "name",
    "peer-cert-file",
    "peer-client-cert-auth",
    "peer-key-file",
    "peer-trusted-ca-file",
    "snapshot-count",
    "trusted-ca-file",
    "watch-progress-notify-interval",
];

/// The text of a file of `deploy/`.
pub fn text(name: &str) -> String {
    let path = workspace().join("deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The settings that a member gets from these arguments; none may be without effect.
fn settings(arguments: &[String]) -> Config {
    match config::load(arguments.iter().cloned(), []) {
        Ok(Invocation::Start(config, notes)) => {
            assert_eq!(notes, config::Notes::default(), "{arguments:?}");
            *config
        }
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn documents(name: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(&text(name)).expect("YAML")
}

/// The one container of a pod, and the settings that it starts a member with.
fn container(pod: &Yaml) -> (&Yaml, Config) {
    let container = &pod["containers"][0];
    let arguments = container["args"].as_vec().expect("arguments").iter().map(|argument| {
        let argument = argument.as_str().expect("a text");
        argument.replace("$(POD_NAME)", "metastore-1").replace("$(NAMESPACE)", "default")
    });
    (container, settings(&arguments.collect::<Vec<_>>()))
}

/// Probes ask for what the metrics port of the member has, at that port.
fn check_probes(container: &Yaml, config: &Config) {
    let named: BTreeMap<_, _> = (container["ports"].as_vec().into_iter().flatten())
        .map(|port| (port["name"].as_str(), port["containerPort"].as_i64()))
        .collect();
    let served = |port| config.listen_metrics_urls.iter().any(|url| url.port.map(i64::from) == port);
    for (probe, path) in [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["path"].as_str(), Some(path), "{probe}");
        let port = get["port"].as_i64().or_else(|| named.get(&get["port"].as_str()).copied().flatten());
        assert!(served(port), "{probe} asks at {port:?}");
        // A read that finds no quorum is answered after 7 s.
        assert!(container[probe]["timeoutSeconds"].as_i64() > Some(7), "{probe}");
    }
}

#[test]
fn the_stateful_set_starts_members_of_one_cluster() {
    let documents = documents(STATEFUL_SET);
    let of_kind = |kind: &str, name: &str| {
        let found = documents
            .iter()
            .find(|it| it["kind"].as_str() == Some(kind) && it["metadata"]["name"].as_str() == Some(name));
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    };
    let set = &of_kind("StatefulSet", "metastore")["spec"];
    let pod = &set["template"]["spec"];
    let (container, config) = container(pod);
    check_probes(container, &config);
    let service = set["serviceName"].as_str().expect("a service");
    let names = &of_kind("Service", service)["spec"];
    assert_eq!(names["clusterIP"].as_str(), Some("None"));
    assert_eq!(
        names["publishNotReadyAddresses"].as_bool(),
        Some(true),
        "founders find each other before they are ready"
    );
    let own = config.advertise_peer_urls[0].text.clone();
    assert_eq!(own, format!("http://metastore-1.{service}.default.svc:2380"));
    let founders: Vec<_> = config.initial_cluster.split(',').collect();
    assert_eq!(founders.len() as i64, set["replicas"].as_i64().expect("a number"));
    assert!(founders.contains(&&*format!("metastore-1={own}")), "{founders:?}");
    assert_eq!(pod["securityContext"]["runAsNonRoot"].as_bool(), Some(true));
    let mount = container["volumeMounts"][0]["mountPath"].as_str().expect("a path");
    assert!(config.data_dir.starts_with(mount), "{:?} is not on the volume", config.data_dir);
}

#[test]
fn the_static_pod_has_the_flags_of_kubeadm() {
    let documents = documents(STATIC_POD);
    let pod = &documents[0]["spec"];
    let (container, config) = container(pod);
    check_probes(container, &config);
    let arguments = container["args"].as_vec().expect("arguments").iter().filter_map(Yaml::as_str);
    let mut flags: Vec<_> = arguments.map(|it| it.trim_start_matches("--").split('=').next().unwrap_or(it)).collect();
    flags.sort_unstable();
    assert_eq!(flags, KUBEADM);
    assert!(config.tls.clients.client_cert_auth && config.tls.peers.client_cert_auth);
    assert!(!config.listen_metrics_urls[0].scheme.is_tls(), "a kubelet shows no certificate");
    assert!(documents[0]["metadata"]["namespace"].as_str() == Some("kube-system"));
    assert_eq!(documents[0]["metadata"]["labels"]["component"].as_str(), Some("etcd"), "kubeadm looks for it");
    let mounts = container["volumeMounts"].as_vec().expect("mounts").iter().filter_map(|it| it["mountPath"].as_str());
    let paths = [config.data_dir.clone(), config.tls.clients.server.key.clone(), config.tls.peers.server.key.clone()];
    let mounts: Vec<_> = mounts.collect();
    for path in paths {
        assert!(mounts.iter().any(|mount| path.starts_with(mount)), "{path:?} is on none of {mounts:?}");
    }
}

#[test]
fn the_unit_waits_for_the_member_and_watches_it() {
    let unit = text(UNIT);
    let settings_of = |section: &str| -> BTreeMap<String, String> {
        let (_, rest) = unit.split_once(&format!("[{section}]\n")).expect("a section");
        let section = rest.split("\n[").next().unwrap_or(rest);
        let lines = section.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| line.split_once('=').unwrap_or_else(|| panic!("{line}")))
            .map(|(k, v)| (k.into(), v.into()))
            .collect()
    };
    let service = settings_of("Service");
    let value = |name: &str| service.get(name).map(String::as_str);
    assert_eq!((value("Type"), value("WatchdogSec"), value("DynamicUser")), (Some("notify"), Some("60"), Some("yes")));
    let command: Vec<String> = value("ExecStart").expect("a command").split(' ').map(str::to_owned).collect();
    assert!(command[0].ends_with("/metastore"), "{command:?}");
    let config = settings(&command[1..]);
    let state = value("StateDirectory").expect("a directory");
    assert_eq!(config.data_dir.to_str(), Some(&*format!("/var/lib/{state}")));
    assert!(settings_of("Install").contains_key("WantedBy") && settings_of("Unit").contains_key("Description"));
}

#[test]
fn the_image_runs_a_member_without_the_rights_of_root() {
    let dockerfile = text(DOCKERFILE);
    let last = |word: &str| dockerfile.lines().rev().find_map(|line| line.strip_prefix(word)).expect("an instruction");
    assert!(dockerfile.lines().filter(|line| line.starts_with("FROM ")).count() == 2, "the compiler stays behind");
    let (from, _) = dockerfile.rsplit_once("\nUSER ").expect("a user");
    assert!(from.contains("\nFROM gcr.io/distroless/cc-debian12:nonroot\n") && !["root", "0"].contains(&last("USER ")));
    let list = |text: &str| serde_json::from_str::<Vec<String>>(text).expect("the form of a list");
    let program = list(last("ENTRYPOINT ")).remove(0);
    let copied = dockerfile.lines().any(|line| line == "COPY --from=build /out/metastore /out/metactl /usr/local/bin/");
    assert!(copied && program == "/usr/local/bin/metastore");
    let config = settings(&list(last("CMD ")));
    assert_eq!(config.data_dir.to_str(), Some(last("VOLUME ")));
}

#[test]
fn alerts_and_dashboard_have_the_form_that_their_readers_want() {
    let documents = documents(ALERTS);
    let rules = documents[0]["groups"][0]["rules"].as_vec().expect("rules");
    assert!(rules.len() > 10);
    for rule in rules {
        let name = rule["alert"].as_str().expect("a name");
        assert!(rule["expr"].as_str().is_some_and(|expr| expr.contains("job=\"metastore\"")), "{name}");
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().expect("a severity")), "{name}");
        assert!(rule["annotations"]["summary"].as_str().is_some(), "{name}");
        balanced(rule["expr"].as_str().expect("a query"));
    }
    let dashboard: serde_json::Value = serde_json::from_str(&text(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.len() > 15);
    let mut ids: Vec<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("a number")).collect();
    ids.dedup();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        let targets = panel["targets"].as_array().expect("queries");
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            balanced(target["expr"].as_str().expect("a query"));
        }
    }
}

/// Each bracket of a query is closed, by one of its kind.
fn balanced(query: &str) {
    let mut open = Vec::new();
    for letter in query.chars() {
        match letter {
            '(' => open.push(')'),
            '[' => open.push(']'),
            '{' => open.push('}'),
            ')' | ']' | '}' => assert_eq!(open.pop(), Some(letter), "{query}"),
            _ => {}
        }
    }
    assert!(open.is_empty(), "{query}");
}
