//! The keys that are attached to each lease.
//!
//! They are stored in a table of the engine and not in memory, which may not hold all of them. The table can be rebuilt
//! from the newest versions, because their rows name the lease. So it is not part of the state that is hashed or
//! streamed ([`Table::LeaseKeys`]). The key of a row is the id of the lease, big endian, followed by the attached key;
//! its value is empty. So the keys of a lease are read in key order.

use metastore_engine::{Engine, Result, Table};

use super::record;

/// Attaches a key to a lease. A key is attached to at most one lease: the caller detaches it from its previous lease,
/// and has checked that the new lease exists.
pub(crate) fn attach(engine: &dyn Engine, id: i64, key: &[u8]) -> Result<()> {
    engine.put(Table::LeaseKeys, &row_key(id, key), b"")
}

/// Detaches a key from a lease.
pub(crate) fn detach(engine: &dyn Engine, id: i64, key: &[u8]) -> Result<()> {
    engine.delete(Table::LeaseKeys, &row_key(id, key))
}

/// The keys of a lease, in order; none if there is no such lease. They are read in bounded steps, from any thread. A
/// reader that runs beside the writer also sees unpublished rows, and may see a change half made.
///
/// # Errors
/// If the medium failed.
pub fn keys_of(engine: &dyn Engine, id: i64) -> Result<Vec<Vec<u8>>> {
    let prefix = record::key(id);
    let (mut keys, mut next) = (Vec::new(), Some(prefix.to_vec()));
    while let Some(from) = next {
        next = engine.row_keys(Table::LeaseKeys, &prefix, &from, &mut keys)?;
    }
    keys.iter_mut().for_each(|key| _ = key.drain(..prefix.len()));
    Ok(keys)
}

fn row_key(id: i64, key: &[u8]) -> Vec<u8> {
    [&record::key(id)[..], key].concat()
}

#[cfg(test)]
mod tests {
    use metastore_engine::{Memory, STEP};

    use super::*;

    #[test]
    fn the_keys_of_a_lease_come_in_order_and_alone() {
        let engine = Memory::new();
        // Neighbours in the table: the ids before and after, one that is negative, and the empty key.
        for (id, key) in [(7, &b"c"[..]), (7, b"a"), (7, b""), (7, b"a"), (6, b"\xff"), (8, b""), (-7, b"b")] {
            attach(&engine, id, key).unwrap();
        }
        detach(&engine, 7, b"c").unwrap();
        detach(&engine, 7, b"never there").unwrap();
        attach(&engine, 7, b"b\0").unwrap();
        assert_eq!(keys_of(&engine, 7).unwrap(), [&b""[..], b"a", b"b\0"]);
        assert_eq!(keys_of(&engine, -7).unwrap(), [b"b"]);
        assert!(keys_of(&engine, 9).unwrap().is_empty());
    }

    #[test]
    fn a_lease_has_all_its_keys_and_no_others_however_many_steps_that_takes() {
        let engine = Memory::new();
        let keys: Vec<_> = (0..3 * STEP + 7).map(|number| format!("key{number:06}").into_bytes()).collect();
        for id in [-1, 7, 8] {
            keys.iter().for_each(|key| attach(&engine, id, key).unwrap());
        }
        assert_eq!(keys_of(&engine, 7).unwrap(), keys);
        detach(&engine, 7, &keys[STEP]).unwrap();
        assert_eq!(keys_of(&engine, 7).unwrap().len(), keys.len() - 1);
        assert!(keys_of(&engine, 9).unwrap().is_empty());
    }
}
