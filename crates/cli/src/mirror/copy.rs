//! Makes the destination equal to the source at one revision.

use indicatif::ProgressBar;

use super::join::Join;
use super::{Batch, Both, Trouble};

/// Returns the revision of the source to which the destination is equal now.
pub(super) async fn run(both: &mut Both, bar: &ProgressBar) -> Result<i64, Trouble> {
    let (mut join, mut batch) = (Join::begin(both, 0).await?, Batch::default());
    while let Some(pair) = join.next(both).await? {
        match (&pair.source, &pair.destination) {
            (Some(row), _) => {
                if !pair.is_equal() {
                    batch.put(&mut both.destination, &row.key, &row.value).await?;
                }
                bar.inc(1);
            }
            (None, Some(row)) => batch.delete(&mut both.destination, &row.key).await?,
            (None, None) => {}
        }
    }
    batch.flush(&mut both.destination).await?;
    Ok(join.revision())
}
