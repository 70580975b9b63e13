//! Ids of members and clusters, computed as etcd computes them, so that a cluster can have members of both kinds.

use sha1::{Digest, Sha1};

/// Id of a member that bootstraps a cluster: the first eight bytes of SHA-1 over its sorted peer URLs and the cluster's
/// token.
pub fn member_id(peer_urls: &[String], cluster_token: &str) -> u64 {
    let mut urls = peer_urls.to_vec();
    urls.sort();
    first_eight(&[urls.concat().as_bytes(), cluster_token.as_bytes()].concat())
}

/// Id of a cluster: the first eight bytes of SHA-1 over the sorted ids of the members that bootstrap it.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut ids = member_ids.to_vec();
    ids.sort_unstable();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
    first_eight(&bytes)
}

fn first_eight(bytes: &[u8]) -> u64 {
    let hash: [u8; 20] = Sha1::digest(bytes).into();
    hash[..8].iter().fold(0, |id, &byte| id << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_etcds() {
        // Read from a real etcd 3.5.1 started with these settings.
        let id = member_id(&["http://127.0.0.1:23800".into()], "tok");
        assert_eq!(id, 0x2535_1fad_42b3_c84c);
        assert_eq!(cluster_id(&[id]), 0x3d3f_d201_ef49_96ab);
    }
}
