//! Random batches; the log is reopened at random moments.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One call on the log.
#[derive(Clone, Debug)]
enum Step {
    /// Appends entries of these sizes; they replace the last `replace` entries.
    Append {
        sizes: Vec<usize>,
        replace: u64,
        sync: bool,
    },
    /// A new commit index, `behind` entries before the last one.
    Commit {
        behind: u64,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (vec(0_usize..1500, 1..6), 0_u64..4, any::<bool>())
            .prop_map(|(sizes, replace, sync)| Step::Append { sizes, replace, sync }),
        2 => (0_u64..5).prop_map(|behind| Step::Commit { behind }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reopened_log_equals_what_was_written(steps in vec(step(), 1..25)) {
        let disk = new_disk();
        let mut wal = create(&disk).unwrap();
        let (mut model, mut state) = (Vec::<Entry>::new(), HardState::default());
        for step in steps.into_iter().chain([Step::Reopen]) {
            match step {
                Step::Append { sizes, replace, sync } => {
                    let keep = (model.len() as u64).saturating_sub(replace).max(state.commit());
                    model.truncate(keep as usize);
                    let term = state.term() + 1;
                    state = hard_state(term, 1, state.commit());
                    let new: Vec<Entry> =
                        (keep + 1..).zip(sizes).map(|(i, size)| entry(i, term, data(size, i))).collect();
                    wal.append(Some(&state), new.iter().cloned(), sync).unwrap();
                    model.extend(new);
                }
                Step::Commit { behind } => {
                    let commit = (model.len() as u64).saturating_sub(behind).max(state.commit());
                    state = hard_state(state.term(), state.vote(), commit);
                    wal.append(Some(&state), [], false).unwrap();
                }
                Step::Reopen => {
                    drop(wal);
                    let replay;
                    (wal, replay) = open(&disk).unwrap();
                    prop_assert_eq!(&replay.entries, &model);
                    let expected = if state.term() == 0 && state.commit() == 0 { HardState::default() } else { state };
                    prop_assert_eq!(replay.hard_state, expected);
                    prop_assert_eq!(replay.cut, None);
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..3000), keep in 0_usize..400) {
        corpus::open_bytes(&bytes);
        corpus::open_bytes(&corpus::after_a_good_start(keep, &bytes));
    }
}
