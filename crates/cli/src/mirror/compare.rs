//! Compares both clusters at the revision that was reached.

use std::cmp::Ordering;

use super::copy::Pages;
use super::{Both, Trouble};
use crate::failure::{Done, Failure};

/// Keys that differ and are named.
const NAMED: usize = 10;

pub(super) async fn run(both: &mut Both, revision: i64) -> Done {
    let (keys, different) = match count(both, revision).await {
        Ok(result) => result,
        Err(Trouble::Compacted) => {
            return Err(Failure::new(format!("revision {revision} is compacted in the source: nothing is compared")));
        }
        Err(Trouble::Failed(status)) => return Err(Failure::new(format!("not compared: {}", status.message()))),
    };
    if different.is_empty() {
        println!("{keys} keys are equal at revision {revision} of the source");
        return Ok(());
    }
    let named: Vec<_> = different.iter().take(NAMED).map(|key| key.escape_ascii().to_string()).collect();
    let text =
        format!("{} of {keys} keys differ at revision {revision} of the source: {}", different.len(), named.join(", "));
    Err(Failure::new(text))
}

/// The number of keys, and those that differ.
async fn count(both: &mut Both, revision: i64) -> Result<(u64, Vec<Vec<u8>>), Trouble> {
    let Both { source, destination, range } = both;
    let (mut theirs, mut ours) = (Pages::new(range, revision), Pages::new(range, 0));
    let (mut keys, mut different) = (0, Vec::new());
    let (mut left, mut right) = (theirs.next(source).await?, ours.next(destination).await?);
    while let Some(key) = [&left, &right].into_iter().flatten().map(|kv| kv.key.clone()).min() {
        let has = |side: &Option<metastore_proto::mvccpb::KeyValue>| {
            side.as_ref().is_some_and(|kv| kv.key.cmp(&key) == Ordering::Equal)
        };
        let (in_left, in_right) = (has(&left), has(&right));
        let value = |side: &Option<metastore_proto::mvccpb::KeyValue>| side.as_ref().map(|kv| kv.value.clone());
        if in_left != in_right || value(&left) != value(&right) {
            different.push(key.to_vec());
        }
        keys += 1;
        if in_left {
            left = theirs.next(source).await?;
        }
        if in_right {
            right = ours.next(destination).await?;
        }
    }
    Ok((keys, different))
}
