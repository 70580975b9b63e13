//! Who belongs to the cluster, and the version that all members understand.
//!
//! Membership changes come through the log twice over: the consensus library counts votes by them, and the state keeps
//! the members' names and addresses. This is the second part.

use std::collections::BTreeMap;

use metastore_engine::{Engine, EngineError, Table};
use serde::{Deserialize, Serialize};

use crate::schema::CLUSTER_VERSION;

/// A member of the cluster. The JSON form is etcd's: in membership changes and in stored rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: u64,
    #[serde(rename = "peerURLs", default, deserialize_with = "null_is_empty")]
    pub peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Members by id, and the cluster version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    by_id: BTreeMap<u64, Member>,
    cluster_version: Option<String>,
}

impl Members {
    /// Reads the members that `engine` holds.
    pub(crate) fn load(engine: &dyn Engine) -> Result<Self, EngineError> {
        let mut members = Self::default();
        for (key, value) in engine.rows(Table::Members, b"")? {
            let member: Member = serde_json::from_slice(&value).map_err(|error| {
                EngineError(format!("row {} of table members is damaged: {error}", String::from_utf8_lossy(&key)))
            })?;
            members.by_id.insert(member.id, member);
        }
        members.cluster_version =
            engine.get(Table::Cluster, CLUSTER_VERSION)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(members)
    }

    pub fn get(&self, id: u64) -> Option<&Member> {
        self.by_id.get(&id)
    }

    /// All members, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values()
    }

    /// The version that all members understand; `None` before the first leader has set it.
    pub fn cluster_version(&self) -> Option<&str> {
        self.cluster_version.as_deref()
    }

    pub(crate) fn set(&mut self, engine: &dyn Engine, member: Member) -> Result<(), EngineError> {
        let json = serde_json::to_vec(&member).map_err(|error| EngineError(error.to_string()))?;
        engine.put(Table::Members, format!("{:x}", member.id).as_bytes(), &json)?;
        self.by_id.insert(member.id, member);
        Ok(())
    }

    pub(crate) fn set_cluster_version(&mut self, engine: &dyn Engine, version: String) -> Result<(), EngineError> {
        engine.put(Table::Cluster, CLUSTER_VERSION, version.as_bytes())?;
        self.cluster_version = Some(version);
        Ok(())
    }
}
