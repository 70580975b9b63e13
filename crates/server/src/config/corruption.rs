//! The settings of the checks for corruption: flags, feature gates, and the flags that were there before the gates.

use std::time::Duration;

use super::feature_gates::FeatureGates;
use super::parse::{Values, boolean};
use super::validate::{former, time};
use super::value;

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
    let gates = FeatureGates::parse(value(values, "feature-gates"))?;
    gates.check()?;
    let periodic = time(values, former(values, "corrupt-check-time", "experimental-corrupt-check-time"))?;
    let between = former(values, "compact-hash-check-time", "experimental-compact-hash-check-time");
    let compactions = time(values, between)?;
    if compactions.is_zero() {
        return Err(format!("--{between} must be >0 (set to 0s)"));
    }
    let compares_compactions = gate(values, &gates, "CompactHashCheck", "experimental-compact-hash-check-enabled")?;
    Ok(CorruptionChecks {
        initial: gate(values, &gates, "InitialCorruptCheck", "experimental-initial-corrupt-check")?,
        periodic: Some(periodic).filter(|time| !time.is_zero()),
        compactions: compares_compactions.then_some(compactions),
    })
}

/// The value of a gate that was a flag. As in etcd 3.6, only one of the two may be set.
fn gate(values: &Values, gates: &FeatureGates, name: &str, former: &str) -> Result<bool, String> {
    let Some(set) = values.get(former) else { return Ok(gates.enabled(name)) };
    if gates.names(name) {
        return Err(format!(
            "cannot specify both flags: --{former}={set} and --feature-gates={name}={} at the same time, please just \
             use --feature-gates={name}={}",
            gates.enabled(name),
            gates.enabled(name)
        ));
    }
    Ok(boolean(set) == Some(true))
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
        let error = read(&[("feature-gates", "LeaseCheckpoint=true")]).unwrap_err();
        assert!(error.starts_with("--feature-gates: LeaseCheckpoint=true is not supported"), "{error}");
    }
}
