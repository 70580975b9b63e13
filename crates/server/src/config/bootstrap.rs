//! `--initial-cluster`: who founds the cluster. Looked at only while the data directory holds no log.

use super::{ClusterState, Config};

/// A member as `--initial-cluster` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    pub name: String,
    /// Sorted.
    pub peer_urls: Vec<String>,
}

/// The founding members in the order of their names, after etcd's checks: this member is among them, with the peer URLs
/// that it advertises. More than one is refused for now.
pub fn initial_members(config: &Config) -> Result<Vec<InitialMember>, String> {
    if config.initial_cluster_state == ClusterState::Existing {
        return Err(
            "--initial-cluster-state=existing: there is no log here, and joining a running cluster is not available \
                    yet; use --initial-cluster-state=new to found one"
                .into(),
        );
    }
    let members = parse(&config.initial_cluster)?;
    let name = &config.name;
    let own = members
        .iter()
        .find(|member| member.name == *name)
        .ok_or_else(|| format!("couldn't find local name {name:?} in the initial cluster configuration"))?;
    let mut advertised: Vec<_> = config.advertise_peer_urls.iter().map(|url| url.text.clone()).collect();
    advertised.sort_unstable();
    let listed = advertised.join(",");
    if let Some(missing) = own.peer_urls.iter().find(|url| !advertised.contains(url)) {
        return Err(format!(
            "--initial-cluster has {name}={missing} but missing from --initial-advertise-peer-urls={listed}"
        ));
    }
    if let Some(missing) = advertised.iter().find(|url| !own.peer_urls.contains(url)) {
        let cluster = &config.initial_cluster;
        return Err(format!(
            "--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={cluster}"
        ));
    }
    Ok(members)
}

fn parse(text: &str) -> Result<Vec<InitialMember>, String> {
    let mut members: Vec<InitialMember> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, url) = part.split_once('=').ok_or_else(|| format!("--initial-cluster: {part:?} is not name=URL"))?;
        super::url::parse(url).map_err(|error| format!("--initial-cluster: {error}"))?;
        match members.iter_mut().find(|member| member.name == name) {
            Some(member) => member.peer_urls.push(url.to_owned()),
            None => members.push(InitialMember { name: name.to_owned(), peer_urls: vec![url.to_owned()] }),
        }
    }
    for member in &mut members {
        member.peer_urls.sort_unstable();
    }
    members.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Invocation, load};

    fn members(line: &str) -> Result<Vec<InitialMember>, String> {
        match load(line.split_whitespace().map(str::to_owned), []).unwrap() {
            Invocation::Start(config, _) => initial_members(&config),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_default_is_one_member() {
        let expected = InitialMember { name: "default".into(), peer_urls: vec!["http://localhost:2380".into()] };
        assert_eq!(members(""), Ok(vec![expected]));
    }

    #[test]
    fn a_cluster_that_cannot_be_joined_is_not_founded_instead() {
        let error = members("--initial-cluster-state=existing").unwrap_err();
        assert!(error.starts_with("--initial-cluster-state=existing"), "{error}");
    }

    #[test]
    fn errors_have_the_texts_of_etcd() {
        for (line, text) in [
            (
                "--name m1 --initial-cluster=m2=http://a:1",
                "couldn't find local name \"m1\" in the initial cluster configuration",
            ),
            (
                "--initial-advertise-peer-urls=http://a:1",
                "--initial-cluster has default=http://localhost:2380 but missing from --initial-advertise-peer-urls=http://a:1",
            ),
            (
                "--initial-advertise-peer-urls=http://a:1,http://b:1 --initial-cluster=default=http://a:1",
                "--initial-advertise-peer-urls has http://b:1 but missing from --initial-cluster=default=http://a:1",
            ),
            (
                "--initial-cluster=default=http://localhost:2380,m2=http://a:1",
                "--initial-cluster names 2 members; clusters of several are not available yet",
            ),
            ("--initial-cluster=x", "--initial-cluster: \"x\" is not name=URL"),
        ] {
            assert_eq!(members(line).unwrap_err(), text);
        }
    }
}
