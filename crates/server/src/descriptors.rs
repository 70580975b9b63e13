//! File descriptors: how many this process may have, and how many of them connections may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that connections never get: for the log's next segment, snapshots, listeners and runtimes. Without them a
/// crowd of clients would stop the member at its next segment. etcd reserves as many.
const RESERVED: u64 = 150;

/// Raises the limit as far as this process may, as programs of etcd's language do by themselves, and returns how many
/// connections fit.
///
/// # Errors
/// A text that names the limit, if it leaves no connection.
pub fn for_connections() -> Result<usize, String> {
    let limit = getrlimit(Resource::Nofile);
    // Refused: then it stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    fit(getrlimit(Resource::Nofile).current)
}

/// `None` is no limit.
fn fit(limit: Option<u64>) -> Result<usize, String> {
    let limit = limit.unwrap_or(u64::MAX);
    match limit.checked_sub(RESERVED).filter(|left| *left > 0) {
        Some(left) => Ok(usize::try_from(left).unwrap_or(usize::MAX)),
        None => Err(format!("the file descriptor limit of {limit} is too low; set it above {RESERVED} (ulimit -n)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_back() {
        assert_eq!(fit(Some(1024)), Ok(874));
        assert_eq!(fit(Some(151)), Ok(1));
        assert_eq!(fit(None), Ok((u64::MAX - RESERVED) as usize));
        for low in [0, 150] {
            let error = fit(Some(low)).unwrap_err();
            assert!(error.contains(&format!("limit of {low} is too low")), "{error}");
        }
    }
}
