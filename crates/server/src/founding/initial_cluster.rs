//! `--initial-cluster`: the members that found the cluster, or the members of the cluster that is joined. Used only
//! while the data directory holds no log.

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs};

use crate::config::{ClusterState, Config, url};

/// A member as `--initial-cluster` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    pub name: String,
    /// Sorted.
    pub peer_urls: Vec<String>,
}

/// The members that `--initial-cluster` names, in the order of their names, after etcd's checks: this member is among
/// them, no URL occurs twice, and a founding member advertises the peer URLs that the list has for it. A member that
/// joins need not advertise them, because the cluster knows its URLs already.
///
/// # Errors
/// The fault of the list; the texts are etcd's.
pub fn initial_members(config: &Config) -> Result<Vec<InitialMember>, String> {
    let members = parse(&config.initial_cluster)?;
    let name = &config.name;
    let own = members
        .iter()
        .find(|member| member.name == *name)
        .ok_or_else(|| format!("couldn't find local name {name:?} in the initial cluster configuration"))?;
    if config.initial_cluster_state == ClusterState::New {
        check_advertised(config, own)?;
    }
    let mut seen = BTreeSet::new();
    if !members.iter().flat_map(|member| &member.peer_urls).all(|url| seen.insert(url)) {
        return Err(format!("initial cluster {} has duplicate url", config.initial_cluster));
    }
    Ok(members)
}

fn check_advertised(config: &Config, own: &InitialMember) -> Result<(), String> {
    let mut advertised: Vec<_> = config.advertise_peer_urls.iter().map(|url| url.text.clone()).collect();
    advertised.sort_unstable();
    let compared = same_place(&advertised, &own.peer_urls);
    if compared == Ok(true) {
        return Ok(());
    }
    let (name, listed, cluster) = (&own.name, advertised.join(","), &config.initial_cluster);
    let why = compared.err().map(|why| format!(" ({why})")).unwrap_or_default();
    if let Some(missing) = own.peer_urls.iter().find(|url| !advertised.contains(url)) {
        return Err(format!(
            "--initial-cluster has {name}={missing} but missing from --initial-advertise-peer-urls={listed}{why}"
        ));
    }
    match advertised.iter().find(|url| !own.peer_urls.contains(url)) {
        Some(missing) => Err(format!(
            "--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={cluster}{why}"
        )),
        None => Err(format!("failed to resolve {listed} to match --initial-cluster={cluster}{why}")),
    }
}

/// Whether two lists of URLs lead to the same places: they are equal, or become equal when their hosts are resolved.
///
/// # Errors
/// Why a host has no address.
pub fn same_place(left: &[String], right: &[String]) -> Result<bool, String> {
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort_unstable();
        urls
    };
    let (left, right) = (sorted(left), sorted(right));
    if left == right || left.len() != right.len() {
        return Ok(left == right);
    }
    Ok(places(&left)? == places(&right)?)
}

/// Where URLs lead: the first address of each host, or the path.
fn places(urls: &[String]) -> Result<Vec<(Option<SocketAddr>, String)>, String> {
    let place = |text: &String| {
        let url = url::parse(text)?;
        let Some(port) = url.port else { return Ok((None, url.host)) };
        let addresses = (url.host.as_str(), port).to_socket_addrs();
        // If a host has both kinds of addresses, IPv4 counts, as in etcd.
        let address = addresses.map(|all| all.min_by_key(|address| !address.is_ipv4()));
        match address {
            Ok(Some(address)) => Ok((Some(address), String::new())),
            Ok(None) => Err(format!("{text}: the host has no address")),
            Err(error) => Err(format!("{text}: {error}")),
        }
    };
    let mut places = urls.iter().map(place).collect::<Result<Vec<_>, String>>()?;
    places.sort_unstable();
    Ok(places)
}

fn parse(text: &str) -> Result<Vec<InitialMember>, String> {
    let mut members: Vec<InitialMember> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, url) = part.split_once('=').ok_or_else(|| format!("--initial-cluster: {part:?} is not name=URL"))?;
        let url = url::parse(url).map_err(|error| format!("--initial-cluster: {error}"))?.text;
        match members.iter_mut().find(|member| member.name == name) {
            Some(member) => member.peer_urls.push(url),
            None => members.push(InitialMember { name: name.to_owned(), peer_urls: vec![url] }),
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
    fn members_are_listed_by_name_with_all_their_urls() {
        let line = "--name m1 --initial-advertise-peer-urls=http://a:2,http://a:1 \
                    --initial-cluster=m2=http://b:1,m1=http://a:2,m1=http://a:1";
        let member = |name: &str, urls: &[&str]| InitialMember {
            name: name.into(),
            peer_urls: urls.iter().map(|url| (*url).into()).collect(),
        };
        assert_eq!(members(line), Ok(vec![member("m1", &["http://a:1", "http://a:2"]), member("m2", &["http://b:1"])]));
    }

    #[test]
    fn who_joins_need_not_advertise_what_the_list_says() {
        let line = "--initial-advertise-peer-urls=http://a:1 --initial-cluster-state=existing";
        assert_eq!(members(line).unwrap()[0].peer_urls, ["http://localhost:2380"]);
    }

    #[test]
    fn a_name_and_its_address_are_the_same_place() {
        let same = |left: &str, right: &str| same_place(&[left.into()], &[right.into()]);
        assert_eq!(same("http://localhost:1", "http://127.0.0.1:1"), Ok(true));
        assert_eq!(same("http://localhost:1", "http://127.0.0.1:2"), Ok(false));
        assert_eq!(same("http://127.0.0.1:1", "unix://127.0.0.1:1"), Ok(false));
        assert_eq!(same_place(&["http://a:1".into()], &[]), Ok(false));
        assert!(same("http://no.such.host.invalid:1", "http://127.0.0.1:1").unwrap_err().contains("no.such.host"));
        assert!(members("--initial-advertise-peer-urls=http://127.0.0.1:2380").is_ok());
    }

    #[test]
    fn errors_have_the_texts_of_etcd() {
        for (line, text) in [
            (
                "--name m1 --initial-cluster=m2=http://a:1",
                "couldn't find local name \"m1\" in the initial cluster configuration",
            ),
            (
                "--initial-advertise-peer-urls=http://127.0.0.1:1",
                "--initial-cluster has default=http://localhost:2380 but missing from --initial-advertise-peer-urls=http://127.0.0.1:1",
            ),
            (
                "--initial-advertise-peer-urls=http://a:1,http://b:1 --initial-cluster=default=http://a:1",
                "--initial-advertise-peer-urls has http://b:1 but missing from --initial-cluster=default=http://a:1",
            ),
            (
                "--initial-cluster=default=http://localhost:2380,m2=http://localhost:2380",
                "initial cluster default=http://localhost:2380,m2=http://localhost:2380 has duplicate url",
            ),
            (
                "--initial-cluster-state=existing --initial-cluster=m2=http://a:1",
                "couldn't find local name \"default\" in the initial cluster configuration",
            ),
            ("--initial-cluster=x", "--initial-cluster: \"x\" is not name=URL"),
        ] {
            assert_eq!(members(line).unwrap_err(), text);
        }
    }
}
