//! The settings of the checks for corruption: flags, feature gates, and the flags that were there before the gates.

use std::time::Duration;

use super::feature_gates::FeatureGates;
use super::parse::Values;
use super::validate::{former, time};

/// The checks that compare the state of this member with the others': see [`crate::duties::corruption`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptionChecks {
    /// Whether the state is compared at the start.
    pub initial: bool,
    /// How often the leader compares the states; `None`: never.
    pub periodic: Option<Duration>,
    /// How often the leader compares the hashes of compactions; `None`: never.
    pub compactions: Option<Duration>,
}

pub(super) fn corruption_checks(values: &Values) -> Result<CorruptionChecks, String> {
    let gates = FeatureGates::read(values)?;
    let periodic = time(values, former(values, "corrupt-check-time", "experimental-corrupt-check-time"))?;
    let between = former(values, "compact-hash-check-time", "experimental-compact-hash-check-time");
    let compactions = time(values, between)?;
    if compactions.is_zero() {
        return Err(format!("--{between} must be >0 (set to 0s)"));
    }
    let compares_compactions =
        gates.with_former(values, "CompactHashCheck", "experimental-compact-hash-check-enabled")?;
    Ok(CorruptionChecks {
        initial: gates.with_former(values, "InitialCorruptCheck", "experimental-initial-corrupt-check")?,
        periodic: Some(periodic).filter(|time| !time.is_zero()),
        compactions: compares_compactions.then_some(compactions),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&'static str, &str)]) -> Result<CorruptionChecks, String> {
        corruption_checks(&pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
    }

    #[test]
    fn each_check_is_asked_for_by_itself() {
        let none = CorruptionChecks { initial: false, periodic: None, compactions: None };
        assert_eq!(read(&[]), Ok(none));
        assert_eq!(read(&[("compact-hash-check-time", "1s")]), Ok(none), "the gate decides");
        let initial = CorruptionChecks { initial: true, ..none };
        assert_eq!(read(&[("feature-gates", "InitialCorruptCheck=true")]), Ok(initial));
        assert_eq!(read(&[("experimental-initial-corrupt-check", "true")]), Ok(initial));
        let periodic = CorruptionChecks { periodic: Some(Duration::from_secs(5)), ..none };
        assert_eq!(read(&[("corrupt-check-time", "5s")]), Ok(periodic));
        assert_eq!(read(&[("experimental-corrupt-check-time", "5s")]), Ok(periodic));
        let compactions = |seconds| CorruptionChecks { compactions: Some(Duration::from_secs(seconds)), ..none };
        let gate = ("feature-gates", "CompactHashCheck=true");
        assert_eq!(read(&[gate]), Ok(compactions(60)));
        assert_eq!(read(&[gate, ("compact-hash-check-time", "2s")]), Ok(compactions(2)));
        let former = ("experimental-compact-hash-check-enabled", "true");
        assert_eq!(read(&[former, ("experimental-compact-hash-check-time", "3s")]), Ok(compactions(3)));
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let never = read(&[("compact-hash-check-time", "0s")]);
        assert_eq!(never, Err("--compact-hash-check-time must be >0 (set to 0s)".to_owned()));
        let both = [("experimental-initial-corrupt-check", "true"), ("feature-gates", "InitialCorruptCheck=false")];
        let error = read(&both).unwrap_err();
        assert!(error.starts_with("cannot specify both flags: --experimental-initial-corrupt-check=true"), "{error}");
        let error = read(&[("feature-gates", "PriorityRequest=true")]).unwrap_err();
        assert!(error.starts_with("--feature-gates: PriorityRequest=true is not supported"), "{error}");
    }
}
