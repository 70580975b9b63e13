//! `snapshot restore`: a member of a new cluster, with the state of a backup.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use metastore_backup::EtcdState;
use metastore_engine::Applied;
use metastore_proto::raftpb::{ConfState, HardState};
use metastore_replica::disk::OsDisk;
use metastore_replica::{Founder, LogEnd, NewMember, founders};
use metastore_store::EtcdUrl;

use super::file;
use crate::arguments::Restore;
use crate::directory::NewDirectory;
use crate::engines;
use crate::failure::{Done, Failure, at};
use crate::migrate::import;

pub fn run(restore: &Restore) -> Done {
    if (restore.bump_revision > 0) != restore.mark_compacted {
        return Err(Failure::arguments("--mark-compacted required if --bump-revision > 0"));
    }
    let members = initial_cluster(restore)?;
    // As etcd does it, the log of a new cluster begins with an entry for each member.
    let position = Applied { index: members.len() as u64, term: 1 };
    let (owner, members) = founders(members, &restore.name, &restore.initial_cluster_token)?;
    let directory = restore.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("{}.metastore", restore.name)));
    let new = NewDirectory::begin(&directory, restore.wal_dir.as_deref())?;
    let database = file::open_checked(&restore.file, !restore.skip_hash_check)?;
    let mut state = EtcdState::open(database).map_err(at(&restore.file))?;
    state.set_members(&members)?;
    if restore.bump_revision > 0 {
        state.bump_revision(restore.bump_revision)?;
    }
    let conf_state = ConfState { voters: members.iter().map(|member| member.id).collect(), ..ConfState::default() };
    let hard_state = HardState { term: Some(position.term), vote: None, commit: Some(position.index) };
    let end = LogEnd { owner, state: position, hard_state, entries: Vec::new() };
    let settings = engines::settings(restore.engine)?;
    let open = engines::opener(settings.engine);
    let disk = Arc::new(OsDisk::new());
    let member = NewMember::begin(settings, disk, new.paths(), (end, conf_state.clone()), &open)?;
    import(&state, member, &conf_state).map_err(|failure| at(&restore.file)(failure.text))?;
    new.finish()?;
    println!(
        "{}: restored, revision {}, member {:x} of cluster {:x}",
        directory.display(),
        state.revision(),
        owner.node_id,
        owner.cluster_id
    );
    Ok(())
}

/// The members of the new cluster, checked as etcd does at a start.
fn initial_cluster(restore: &Restore) -> Done<Vec<Founder>> {
    let name = &restore.name;
    let given = restore.initial_cluster.clone().unwrap_or_else(|| format!("{name}=http://localhost:2380"));
    let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in given.split(',').map(str::trim) {
        let Some((name, url)) = pair.split_once('=').filter(|(name, url)| !name.is_empty() && !url.is_empty()) else {
            return Err(Failure::new(format!("--initial-cluster: {pair:?} is not NAME=URL")));
        };
        EtcdUrl::parse(url).map_err(|error| Failure::new(format!("--initial-cluster: {url}: {error}")))?;
        by_name.entry(name.into()).or_default().push(url.into());
    }
    let Some(own) = by_name.get(name) else {
        return Err(Failure::new(format!("couldn't find local name {name:?} in the initial cluster configuration")));
    };
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort();
        urls
    };
    if sorted(own) != sorted(&restore.initial_advertise_peer_urls) {
        let given = restore.initial_advertise_peer_urls.join(",");
        let text = format!(
            "--initial-cluster has {} for member {name}, but --initial-advertise-peer-urls is {given}",
            own.join(",")
        );
        return Err(Failure::new(text));
    }
    Ok(by_name.into_iter().map(|(name, peer_urls)| Founder { name, peer_urls }).collect())
}
