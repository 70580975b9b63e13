//! Feature gates, which etcd has for what is not settled yet: `--feature-gates=InitialCorruptCheck=true,...` (etcd:
//! `server/features`).

use super::parse::{Values, boolean};
use super::value;

/// The maturity of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
}

/// One gate of etcd.
#[derive(Debug)]
struct Gate {
    name: &'static str,
    stage: Stage,
    default: bool,
    /// Whether it may be changed here.
    acts: bool,
}

const fn acts(name: &'static str, stage: Stage, default: bool) -> Gate {
    Gate { name, stage, default, acts: true }
}

/// A gate that has its default value here, and no other.
const fn fixed(name: &'static str, stage: Stage, default: bool) -> Gate {
    Gate { name, stage, default, acts: false }
}

use Stage::{Alpha, Beta};

/// All gates of etcd 3.7.
const GATES: [Gate; 9] = [
    acts("CompactHashCheck", Alpha, false),
    fixed("FastLeaseKeepAlive", Beta, true),
    acts("InitialCorruptCheck", Alpha, false),
    acts("LeaseCheckpoint", Alpha, false),
    acts("LeaseCheckpointPersist", Alpha, false),
    fixed("PriorityRequest", Alpha, false),
    fixed("SetMemberLocalAddr", Alpha, false),
    fixed("StopGRPCServiceOnDefrag", Alpha, false),
    fixed("TxnModeWriteWithSharedBuffer", Beta, true),
];

/// The names that set all gates of a stage which are not named themselves.
const STAGES: [(&str, Stage); 2] = [("AllAlpha", Alpha), ("AllBeta", Beta)];

/// The gates that were set, in the order of the text. The last setting of a gate counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates(Vec<(&'static str, bool)>);

impl FeatureGates {
    /// Reads the flag.
    ///
    /// # Errors
    /// As [`FeatureGates::parse`]; and if a gate is changed that cannot be.
    pub fn read(values: &Values) -> Result<Self, String> {
        let gates = Self::parse(value(values, "feature-gates"))?;
        gates.check()?;
        Ok(gates)
    }

    /// Reads a list such as `CompactHashCheck=true,AllBeta=true`.
    ///
    /// # Errors
    /// The list cannot be read, or names a gate that etcd does not have. The text is etcd's.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut set = Vec::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim()),
                None => return Err(format!("missing bool value for {}", pair.trim())),
            };
            let value = boolean(value).ok_or_else(|| {
                format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")
            })?;
            let mut names = GATES.iter().map(|gate| gate.name).chain(STAGES.iter().map(|(name, _)| *name));
            let known = names.find(|known| *known == name);
            set.push((known.ok_or_else(|| format!("unrecognized feature gate: {name}"))?, value));
        }
        Ok(Self(set))
    }

    /// Refuses a gate that is changed, and cannot be.
    ///
    /// # Errors
    /// Names the gate.
    fn check(&self) -> Result<(), String> {
        let unable = GATES.iter().find(|gate| !gate.acts && self.value(gate) != gate.default);
        unable.map_or(Ok(()), |Gate { name, default, .. }| {
            Err(format!("--feature-gates: {name}={} is not supported: it can only be {default} here", !default))
        })
    }

    /// The value of a gate that was a flag before. As in etcd 3.6, only one of the two may be set.
    ///
    /// # Errors
    /// Both are set.
    pub fn with_former(&self, values: &Values, name: &str, former: &str) -> Result<bool, String> {
        let Some(set) = values.get(former) else { return Ok(self.enabled(name)) };
        if self.names(name) {
            return Err(format!(
                "cannot specify both flags: --{former}={set} and --feature-gates={name}={} at the same time, please \
                 just use --feature-gates={name}={}",
                self.enabled(name),
                self.enabled(name)
            ));
        }
        Ok(boolean(set) == Some(true))
    }

    /// Whether this gate was set by its own name.
    fn names(&self, name: &str) -> bool {
        self.set(name).is_some()
    }

    /// The value of a gate, set or default.
    pub fn enabled(&self, name: &str) -> bool {
        let gate = GATES.iter().find(|gate| gate.name == name);
        self.value(gate.unwrap_or_else(|| panic!("no gate {name} among {}", GATES.len())))
    }

    fn value(&self, gate: &Gate) -> bool {
        let of_stage = || STAGES.iter().find(|(_, stage)| *stage == gate.stage).and_then(|(name, _)| self.set(name));
        self.set(gate.name).or_else(of_stage).unwrap_or(gate.default)
    }

    fn set(&self, name: &str) -> Option<bool> {
        self.0.iter().rev().find(|(set, _)| *set == name).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_set_by_its_name_or_with_its_stage() {
        let gates = |text: &str| FeatureGates::parse(text).unwrap();
        let both = |text: &str| {
            let gates = gates(text);
            [gates.enabled("InitialCorruptCheck"), gates.enabled("CompactHashCheck")]
        };
        assert_eq!(both(""), [false, false]);
        assert_eq!(both("InitialCorruptCheck=true,"), [true, false]);
        assert_eq!(both(" CompactHashCheck = 1 ,InitialCorruptCheck=F"), [false, true]);
        assert_eq!(both("AllAlpha=true,CompactHashCheck=false"), [true, false]);
        assert_eq!(both("CompactHashCheck=false,CompactHashCheck=true"), [false, true]);
        assert!(gates("CompactHashCheck=false").names("CompactHashCheck"));
        assert!(!gates("AllAlpha=true").names("CompactHashCheck"));
    }

    #[test]
    fn a_gate_that_cannot_be_changed_has_its_default_value() {
        let check = |text: &str| FeatureGates::parse(text).unwrap().check();
        for text in ["", "LeaseCheckpoint=false,FastLeaseKeepAlive=true", "AllBeta=true,AllAlpha=false"] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        let spared = "AllAlpha=true,LeaseCheckpoint=false,LeaseCheckpointPersist=false,PriorityRequest=false,\
                      SetMemberLocalAddr=false,StopGRPCServiceOnDefrag=false";
        assert_eq!(check(spared), Ok(()));
        let refused = |text: &str| check(text).unwrap_err();
        let text = "--feature-gates: PriorityRequest=true is not supported: it can only be false here";
        assert_eq!(refused("PriorityRequest=true"), text);
        assert!(refused("AllBeta=false").contains("FastLeaseKeepAlive=false"));
        assert!(refused("AllAlpha=true").contains("PriorityRequest=true"));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_texts_of_etcd() {
        let error = |text: &str| FeatureGates::parse(text).unwrap_err();
        assert_eq!(error("X=true"), "unrecognized feature gate: X");
        assert_eq!(error("compacthashcheck=true"), "unrecognized feature gate: compacthashcheck");
        assert_eq!(error("CompactHashCheck"), "missing bool value for CompactHashCheck");
        let invalid =
            "invalid value of CompactHashCheck=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax";
        assert_eq!(error("CompactHashCheck=maybe"), invalid);
    }
}
