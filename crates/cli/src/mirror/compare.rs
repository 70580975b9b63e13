//! Compares both clusters at the revision that was reached.

use super::join::Join;
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
    let (mut join, mut keys, mut different) = (Join::begin(both, revision).await?, 0, Vec::new());
    while let Some(pair) = join.next(both).await? {
        keys += 1;
        if !pair.is_equal() {
            different.extend(pair.source.or(pair.destination).map(|row| row.key.to_vec()));
        }
    }
    Ok((keys, different))
}
