//! The initial log of a new member: that of a new cluster, or an empty one to join a running cluster.

use metastore_proto::{Message, raftpb};
use metastore_store::Member;

use crate::data_dir::{DataDir, OpenError};
use crate::entry::{CONF_CHANGE, addition};
use crate::identity::{cluster_id, member_id};
use crate::wal::{self, Metadata, Options, Wal};

/// The origin of a new member. A member that has a log ignores it, as in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// The member founds a cluster, alone or together with others that have the same settings.
    Found {
        members: Vec<Founder>,
        /// The name of this member among them.
        own: String,
        /// Distinguishes clusters whose members have the same URLs.
        cluster_token: String,
    },
    /// The member joins a cluster, which has added it under this id. It has no log, and learns the other members from
    /// the leader.
    Join { id: u64, cluster_id: u64 },
}

/// A member that founds a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    pub name: String,
    pub peer_urls: Vec<String>,
}

impl Bootstrap {
    /// The ids that follow from the settings, and the initial log.
    pub(super) fn plan(self) -> Result<Plan, OpenError> {
        match self {
            Self::Join { id, cluster_id } => {
                let metadata = Metadata { node_id: id, cluster_id };
                Ok(Plan { metadata, hard_state: raftpb::HardState::default(), entries: Vec::new() })
            }
            Self::Found { members, own, cluster_token } => found(members, &own, &cluster_token),
        }
    }
}

/// The ids and the initial log of a new member.
pub(super) struct Plan {
    pub metadata: Metadata,
    hard_state: raftpb::HardState,
    entries: Vec<wal::Entry>,
}

impl Plan {
    /// Creates the log.
    pub fn create(self, data: &DataDir, options: Options) -> Result<(), OpenError> {
        let begin = (self.hard_state, self.entries);
        Wal::bootstrap(options, data.disk.clone(), &data.paths.wal(), self.metadata, begin)?;
        Ok(())
    }
}

/// The ids of a new cluster and of the member `own` in it, and its members in the order of their ids.
///
/// # Errors
/// If two members cannot be told apart, or `own` is none of them.
pub fn founders(founders: Vec<Founder>, own: &str, cluster_token: &str) -> Result<(Metadata, Vec<Member>), OpenError> {
    let mut members: Vec<Member> = Vec::new();
    for Founder { name, peer_urls } in founders {
        let id = member_id(&peer_urls, cluster_token);
        if id == 0 || members.iter().any(|member| member.id == id) {
            let why =
                format!("member {name}: id {id:x} cannot be used, or belongs to another member with the same URLs");
            return Err(OpenError::Bootstrap(why));
        }
        members.push(Member { id, name, peer_urls, ..Member::default() });
    }
    members.sort_unstable_by_key(|member| member.id);
    let Some(node_id) = members.iter().find(|member| member.name == own).map(|member| member.id) else {
        return Err(OpenError::Bootstrap(format!("member {own:?} is not among those that found the cluster")));
    };
    let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
    Ok((Metadata { node_id, cluster_id: cluster_id(&ids) }, members))
}

/// The log of a new cluster: its first entries add the members in the order of their ids, committed at term 1. All
/// founders write the same entries, as members of etcd do, so that no vote is needed for them.
fn found(members: Vec<Founder>, own: &str, cluster_token: &str) -> Result<Plan, OpenError> {
    let (metadata, members) = founders(members, own, cluster_token)?;
    let entry = |(index, member)| {
        let change = addition(0, member).map_err(|error| OpenError::Replay(error.to_string()))?;
        Ok(wal::Entry { kind: CONF_CHANGE, term: 1, index, data: change.encode_to_vec().into() })
    };
    let entries: Vec<_> = (1..).zip(&members).map(entry).collect::<Result<_, OpenError>>()?;
    let hard_state = raftpb::HardState { term: Some(1), vote: Some(0), commit: Some(entries.len() as u64) };
    Ok(Plan { metadata, hard_state, entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founder(name: &str, url: &str) -> Founder {
        Founder { name: name.into(), peer_urls: vec![url.into()] }
    }

    fn plan(members: Vec<Founder>, own: &str) -> Result<Plan, OpenError> {
        Bootstrap::Found { members, own: own.into(), cluster_token: "tok".into() }.plan()
    }

    #[test]
    fn all_founders_write_the_same_log() {
        let members = vec![founder("a", "http://a:1"), founder("b", "http://b:1"), founder("c", "http://c:1")];
        let of = |own| plan(members.clone(), own).unwrap();
        let (first, second) = (of("a"), of("b"));
        assert_eq!(first.entries, second.entries);
        assert_eq!(first.metadata.cluster_id, second.metadata.cluster_id);
        assert_ne!(first.metadata.node_id, second.metadata.node_id);
        let change = |entry: &wal::Entry| raftpb::ConfChange::decode(entry.data.clone()).unwrap();
        let ids: Vec<u64> = first.entries.iter().map(|entry| change(entry).node_id()).collect();
        assert!(ids.is_sorted() && ids.len() == 3 && ids.contains(&first.metadata.node_id), "{ids:x?}");
        let places: Vec<_> = first.entries.iter().map(|entry| (entry.index, entry.term, entry.kind)).collect();
        assert_eq!(places, [(1, 1, 1), (2, 1, 1), (3, 1, 1)]);
        let state = first.hard_state;
        assert_eq!((state.term(), state.vote(), state.commit()), (1, 0, 3));
    }

    #[test]
    fn the_ids_are_those_of_an_etcd_cluster() {
        // Read from three members of a real etcd 3.7.3 that were started with these settings.
        let members: Vec<_> =
            (0..3).map(|at| founder(&format!("m{}", at + 1), &format!("http://127.0.0.1:2538{at}"))).collect();
        let Plan { metadata, entries, .. } = plan(members, "m1").unwrap();
        assert_eq!((metadata.node_id, metadata.cluster_id), (12_263_766_437_248_160_896, 0xc68b_688f_032b_a6be));
        let second = b"\x10\x00\x18\x80\xa9\xa3\xa4\x93\xd3\xe9\x98\xaa\x01\x22\x4d{\"id\":12263766437248160896,\
            \"peerURLs\":[\"http://127.0.0.1:25380\"],\"name\":\"m1\"}";
        assert_eq!(entries[1].data, second[..]);
    }

    #[test]
    fn founders_that_cannot_be_told_apart_are_refused() {
        let error = plan(vec![founder("a", "http://a:1"), founder("b", "http://a:1")], "a").err().unwrap();
        assert!(error.to_string().starts_with("member b: id "), "{error}");
        let error = plan(vec![founder("a", "http://a:1")], "c").err().unwrap();
        assert_eq!(error.to_string(), "member \"c\" is not among those that found the cluster");
    }

    #[test]
    fn who_joins_begins_with_nothing_but_its_ids() {
        let plan = Bootstrap::Join { id: 7, cluster_id: 9 }.plan().unwrap();
        assert_eq!((plan.metadata.node_id, plan.metadata.cluster_id), (7, 9));
        assert!(plan.entries.is_empty() && plan.hard_state == raftpb::HardState::default());
    }
}
