//! The members of the cluster, and the version that all members support.
//!
//! Membership changes from the log have two users: the consensus library counts votes by them, and the state stores the
//! members' names and addresses. This module is the second one.

use std::collections::{BTreeMap, BTreeSet};

use metastore_engine::{Engine, EngineError, Table};
use serde::{Deserialize, Serialize};

use crate::schema::{CLUSTER_VERSION, DOWNGRADE};

/// A member of the cluster. The JSON form is etcd's: in membership changes and in stored rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    #[serde(default)]
    pub id: u64,
    #[serde(rename = "peerURLs", default, deserialize_with = "null_is_empty")]
    pub peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub client_urls: Vec<String>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Member {
    /// Reads a row of [`Table::Members`].
    ///
    /// # Errors
    /// If the row is damaged.
    pub fn from_row(key: &[u8], json: &[u8]) -> Result<Self, EngineError> {
        serde_json::from_slice(json)
            .map_err(|error| EngineError(format!("row {} of table members is damaged: {error}", key.escape_ascii())))
    }

    /// The key of the row of a member, present or removed.
    pub fn row_key(id: u64) -> Vec<u8> {
        format!("{id:x}").into_bytes()
    }

    /// The member in the bytes that etcd writes for it, in membership changes and in rows: Go escapes some characters
    /// that JSON does not require to be escaped.
    ///
    /// # Errors
    /// The encoder's own errors; no member causes one.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let text = serde_json::to_string(self)?;
        let escaped = GO_ESCAPES.iter().fold(text, |text, (sign, escape)| text.replace(*sign, escape));
        Ok(escaped.into_bytes())
    }
}

/// Characters that Go's JSON encoder escapes although JSON does not require it. They occur only inside strings.
const GO_ESCAPES: [(char, &str); 5] =
    [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")];

/// The value of the row of a removed member, as in etcd.
const REMOVED: &[u8] = b"removed";

/// Members by id, the ids of removed ones, and the cluster version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    by_id: BTreeMap<u64, Member>,
    /// Ids of removed members are never used again: a removed member that comes back must not be taken for a new one.
    removed: BTreeSet<u64>,
    cluster_version: Option<String>,
    /// The target version of a downgrade in progress.
    downgrade: Option<String>,
}

/// The row of a downgrade.
#[derive(Serialize, Deserialize)]
struct Downgrade {
    #[serde(rename = "target-version")]
    target_version: String,
    enabled: bool,
}

impl Members {
    /// Reads the members that `engine` holds.
    pub(crate) fn load(engine: &dyn Engine) -> Result<Self, EngineError> {
        let mut members = Self::default();
        for (key, value) in engine.rows(Table::Members, b"")? {
            let member = Member::from_row(&key, &value)?;
            members.by_id.insert(member.id, member);
        }
        for (key, _) in engine.rows(Table::MembersRemoved, b"")? {
            let text = String::from_utf8_lossy(&key);
            let id = u64::from_str_radix(&text, 16).map_err(|error| {
                EngineError(format!("row {text} of table members_removed is damaged: no id in hex: {error}"))
            })?;
            members.removed.insert(id);
        }
        members.cluster_version =
            engine.get(Table::Cluster, CLUSTER_VERSION)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if let Some(row) = engine.get(Table::Cluster, DOWNGRADE)? {
            let row: Downgrade = serde_json::from_slice(&row)
                .map_err(|error| EngineError(format!("row downgrade of table cluster is damaged: {error}")))?;
            members.downgrade = row.enabled.then_some(row.target_version);
        }
        Ok(members)
    }

    pub fn get(&self, id: u64) -> Option<&Member> {
        self.by_id.get(&id)
    }

    /// All members, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values()
    }

    /// Members that vote, in the order of their ids.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.iter().filter(|member| !member.is_learner)
    }

    /// Members that replicate without a vote, in the order of their ids.
    pub fn learners(&self) -> impl Iterator<Item = &Member> {
        self.iter().filter(|member| member.is_learner)
    }

    /// All members but `own`: the peers of that member.
    pub fn others(&self, own: u64) -> impl Iterator<Item = &Member> {
        self.iter().filter(move |member| member.id != own)
    }

    /// Whether this id belonged to a member that was removed; such an id is never used again.
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// The ids of removed members, in order.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }

    /// The version that all members support; `None` until the first leader sets it.
    pub fn cluster_version(&self) -> Option<&str> {
        self.cluster_version.as_deref()
    }

    /// The target version of a downgrade, if one is in progress.
    pub fn downgrade(&self) -> Option<&str> {
        self.downgrade.as_deref()
    }

    pub(crate) fn set(&mut self, engine: &dyn Engine, member: Member) -> Result<(), EngineError> {
        let json = member.to_json().map_err(|error| EngineError(error.to_string()))?;
        engine.put(Table::Members, &Member::row_key(member.id), &json)?;
        self.by_id.insert(member.id, member);
        Ok(())
    }

    pub(crate) fn remove(&mut self, engine: &dyn Engine, id: u64) -> Result<(), EngineError> {
        engine.delete(Table::Members, &Member::row_key(id))?;
        engine.put(Table::MembersRemoved, &Member::row_key(id), REMOVED)?;
        self.by_id.remove(&id);
        self.removed.insert(id);
        Ok(())
    }

    pub(crate) fn set_cluster_version(&mut self, engine: &dyn Engine, version: String) -> Result<(), EngineError> {
        engine.put(Table::Cluster, CLUSTER_VERSION, version.as_bytes())?;
        self.cluster_version = Some(version);
        Ok(())
    }

    pub(crate) fn set_downgrade(&mut self, engine: &dyn Engine, target: Option<String>) -> Result<(), EngineError> {
        let row = Downgrade { enabled: target.is_some(), target_version: target.clone().unwrap_or_default() };
        let json = serde_json::to_vec(&row).map_err(|error| EngineError(error.to_string()))?;
        engine.put(Table::Cluster, DOWNGRADE, &json)?;
        self.downgrade = target;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_gos() {
        let urls = vec!["http://a:1".to_owned()];
        let member = |name: &str| Member { id: 255, name: name.into(), peer_urls: urls.clone(), ..Member::default() };
        let json = |member: Member| String::from_utf8(member.to_json().unwrap()).unwrap();
        assert_eq!(json(member("m1")), r#"{"id":255,"peerURLs":["http://a:1"],"name":"m1"}"#);
        let strange = json(member("<&>\u{2028}\u{2029}\u{7f}\"\\"));
        assert_eq!(
            strange,
            "{\"id\":255,\"peerURLs\":[\"http://a:1\"],\"name\":\"\\u003c\\u0026\\u003e\\u2028\\u2029\u{7f}\\\"\\\\\"}"
        );
        let read: Member = serde_json::from_str(&strange).unwrap();
        assert_eq!(read, member("<&>\u{2028}\u{2029}\u{7f}\"\\"));
        let learner = Member { is_learner: true, client_urls: urls.clone(), ..member("") };
        assert_eq!(
            json(learner),
            r#"{"id":255,"peerURLs":["http://a:1"],"isLearner":true,"clientURLs":["http://a:1"]}"#
        );
    }
}
