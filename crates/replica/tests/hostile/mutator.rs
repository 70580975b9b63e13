//! Inputs that are almost valid: mutations of the inputs in a corpus. Each follows from a number, so the same number
//! gives the same input.
//!
//! A fuzzer that learns from the code it runs finds more; this one runs in every test, on every machine.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use crate::meter;

/// Maximum number of changes to one input, one after the other.
const MOST_CHANGES: u64 = 4;
/// Maximum number of bytes that are cut, doubled, or taken from another input at once.
const MOST_BYTES: u64 = 64;
/// Numbers at which arithmetic overflows, or lengths become absurd.
const EDGES: [u64; 10] = [0, 1, 0x7f, 0x80, 0xff, 0xffff, i32::MAX as u64, u32::MAX as u64, i64::MAX as u64, u64::MAX];

/// The memory that trying an input may take in total: a base, and so many bytes for each byte of the input.
#[derive(Clone, Copy)]
pub struct Memory {
    pub base_bytes: usize,
    pub per_byte: usize,
}

/// Tries every file of a corpus, and `mutations` inputs made from them (the environment variable `MUTATIONS` overrides
/// this number).
///
/// # Panics
/// With the input, if one makes `attempt` panic, or take more memory than `memory` allows.
pub fn run(target: &str, mutations: u64, memory: Memory, attempt: impl Fn(&[u8])) {
    let files = corpus(target);
    assert!(files.len() >= 5, "the corpus of {target} is there: {} files", files.len());
    for (name, bytes) in &files {
        tried(bytes, name, memory, &attempt);
    }
    let said = std::env::var("MUTATIONS").ok().map(|number| number.parse().expect("MUTATIONS is a number"));
    let mut mutator = Mutator { random: 0, corpus: files.into_iter().map(|(_, bytes)| bytes).collect() };
    for number in 1..=said.unwrap_or(mutations) {
        mutator.random = number;
        let bytes = mutator.input();
        tried(&bytes, &format!("mutation {number}"), memory, &attempt);
    }
}

fn tried(bytes: &[u8], name: &str, memory: Memory, attempt: &impl Fn(&[u8])) {
    let limit = memory.base_bytes + memory.per_byte * bytes.len();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let peak = meter::peak_bytes(|| attempt(bytes));
        assert!(peak <= limit, "{peak} bytes in memory for an input of {}: at most {limit} are allowed", bytes.len());
    }));
    if let Err(panic) = outcome {
        // Such a file is to be added to the corpus, under a name that describes it.
        let file = std::env::temp_dir().join(format!("hostile-{:08x}", crc(bytes)));
        let kept = std::fs::write(&file, bytes).map_or_else(|error| error.to_string(), |()| file.display().to_string());
        eprintln!("{name}: {} ({kept})", bytes.escape_ascii());
        resume_unwind(panic);
    }
}

/// A hash that names an input.
fn crc(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// The files of a corpus, by name.
pub fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let file = file.expect("a file of the corpus");
        (file.file_name().to_string_lossy().into_owned(), std::fs::read(file.path()).expect("a file of the corpus"))
    };
    let mut files: Vec<_> = std::fs::read_dir(directory(target)).into_iter().flatten().map(read).collect();
    files.sort();
    files
}

/// Checks that the corpus holds these inputs, by name, as the code makes them now; `UPDATE=1` writes them.
///
/// # Panics
/// With the name of the first that differs.
pub fn check_seeds(target: &str, seeds: &[(&str, Vec<u8>)]) {
    let directory = directory(target);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(&directory).expect("the corpus can be written");
        for (name, bytes) in seeds {
            std::fs::write(directory.join(name), bytes).expect("the corpus can be written");
        }
    }
    let files = corpus(target);
    for (name, bytes) in seeds {
        let same = files.iter().any(|(file, held)| file == name && held == bytes);
        assert!(same, "{target}/{name} is not what it would be now; UPDATE=1 writes it anew");
    }
}

struct Mutator {
    random: u64,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// A number below `bound`; 0 if `bound` is 0.
    fn below(&mut self, bound: u64) -> usize {
        (self.next() % bound.max(1)) as usize
    }

    fn any(&mut self) -> Vec<u8> {
        let at = self.below(self.corpus.len() as u64);
        self.corpus[at].clone()
    }

    fn input(&mut self) -> Vec<u8> {
        let mut bytes = self.any();
        for _ in 0..=self.below(MOST_CHANGES) {
            self.change(&mut bytes);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() as u64);
        let end = (at + 1 + self.below(MOST_BYTES)).min(bytes.len());
        match self.next() % 9 {
            _ if bytes.is_empty() => bytes.push(self.next() as u8),
            0 | 1 => bytes[at] ^= 1 << self.below(8),
            2 => bytes[at] = EDGES[self.below(EDGES.len() as u64)] as u8,
            3 => self.number(&mut bytes[at..]),
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let doubled = bytes[at..end].to_vec();
                bytes.splice(at..at, doubled);
            }
            7 => {
                let other = self.any();
                let from = self.below(other.len() as u64);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let other = self.any();
                let from = self.below(other.len() as u64);
                let taken = (from + 1 + self.below(MOST_BYTES)).min(other.len());
                bytes.splice(at..end, other[from..taken].iter().copied());
            }
        }
    }

    /// Writes one of [`EDGES`], or the present number plus a little, in 4 or 8 bytes, in either byte order.
    fn number(&mut self, into: &mut [u8]) {
        let width = if self.below(2) == 0 { 4 } else { 8 };
        let Some(place) = into.get_mut(..width) else { return };
        let big = self.below(2) == 0;
        let mut held = [0; 8];
        held[..width].copy_from_slice(place);
        if big {
            held[..width].reverse();
        }
        let number = match self.below(3) {
            0 => u64::from_le_bytes(held).wrapping_add(1),
            1 => u64::from_le_bytes(held).wrapping_sub(1),
            _ => EDGES[self.below(EDGES.len() as u64)],
        };
        place.copy_from_slice(&number.to_le_bytes()[..width]);
        if big {
            place.reverse();
        }
    }
}
