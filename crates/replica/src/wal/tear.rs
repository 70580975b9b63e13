//! Torn or damaged? The judgement about a record of the last segment that does not verify.
//!
//! A device writes whole sectors, and the bytes after the tail of a segment are zero. So after a power loss, each
//! sector of an unfinished write is either as it was written, or zero from the place where the write began. Anything
//! else is damage.
//!
//! The rule: let X be the place where the first record begins that does not verify. The bytes from X on are a *torn
//! tail* if all of these hold:
//!
//! 1. **A lost sector explains it.** Either the length word at X is zero, and so is the rest of its sector. Or the word
//!    is one that a writer makes, and either a whole sector of the announced record is zero or the file ends before the
//!    record does. (Words are aligned, so a sector boundary never cuts one: a word is intact or zero.)
//! 2. **One flipped bit does not explain it.** If the record verifies once a single bit of it is inverted, then it was
//!    written whole, and its zero sectors are zeros that a client stored. There is one exception: the bit lies in one
//!    of those sectors. Then the loss of that sector, in which only this bit was not zero, is an equally good
//!    explanation.
//! 3. **Nothing was written after it.** A sync ends with a crc record, and the next write happens only when that sync
//!    is done. Suppose that after X, at any multiple of 8, there is a crc record, followed by a record that verifies
//!    against its sum. Then everything between X and that crc record was durable once.
//!
//! Otherwise it is damage to bytes that were acknowledged, and the member refuses to start.
//!
//! Gaps remain, all of them inherent in the format. In the very last batch, these look like a tear: damage of more than
//! one bit to a record that holds a sector of zeros; the loss of the only bit in a sector; a batch that a lying device
//! lost altogether, unless a commit index reveals it. The opposite error is also possible. If a value holds a piece of
//! a log, and its batch is torn, that piece counts as a later batch. Then the member refuses to start although it
//! could: this error is on the safe side.

use std::ops::Range;

use crc32c::crc32c_append;

use super::frame::{CRC, FRAME_ALIGN, Word, record_at, word_at};
use crate::disk::SECTOR_BYTES;

/// Longer data is not searched for a flipped bit. Data of this size has 25 million bits; one of them explains a random
/// sum by chance in less than one of 170 tears.
const FLIP_SEARCH_BYTES: usize = 3 << 20;

/// The length word, and the longest type, sum and data length after it.
const FRAME_HEAD_BYTES: usize = FRAME_ALIGN + 2 + 6 + 6;

/// The Castagnoli polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Judges the record at `at`, which does not verify; `sum` is the running sum before it. `Ok`: a torn tail. `Err`:
/// damage, with the reason.
pub(super) fn judge(bytes: &[u8], at: usize, sum: u32) -> Result<(), String> {
    if !sector_lost(bytes, at) {
        return Err("a record does not verify, and no sector of it is missing".to_owned());
    }
    if one_bit_explains(bytes, at, sum) {
        return Err("a bit of a record has flipped".to_owned());
    }
    match later_batch(bytes, at + FRAME_ALIGN) {
        Some(k) => Err(format!("a record does not verify, but the log was synced up to offset {k} and written behind")),
        None => Ok(()),
    }
}

/// Rule 1.
fn sector_lost(bytes: &[u8], at: usize) -> bool {
    match word_at(bytes, at) {
        Word::EndOfFile => true,
        Word::Zero => is_zero(bytes, at..sector_end(at)),
        Word::Implausible => false,
        Word::Record { end, .. } => {
            let mut sectors = (sector_end(at)..end).step_by(SECTOR_BYTES);
            end > bytes.len() || sectors.any(|sector| is_zero(bytes, sector..sector_end(sector)))
        }
    }
}

fn sector_end(at: usize) -> usize {
    (at / SECTOR_BYTES + 1) * SECTOR_BYTES
}

fn is_zero(bytes: &[u8], range: Range<usize>) -> bool {
    bytes[range.start.min(bytes.len())..range.end.min(bytes.len())].iter().all(|b| *b == 0)
}

/// Rule 2.
fn one_bit_explains(bytes: &[u8], at: usize, sum: u32) -> bool {
    data_bit_explains(bytes, at, sum) || head_bit_explains(bytes, at, sum)
}

/// The sum is linear: a flipped bit of the data changes it by a value that depends only on its distance from the end.
fn data_bit_explains(bytes: &[u8], at: usize, sum: u32) -> bool {
    let Some(record) = record_at(bytes, at).filter(|record| record.data.len() <= FLIP_SEARCH_BYTES) else {
        return false;
    };
    let difference = crc32c_append(sum, record.data) ^ record.crc;
    let mut effect = 1;
    (0..record.data.len() * 8).any(|bit| {
        effect = if effect & 1 == 1 { effect >> 1 ^ POLYNOMIAL } else { effect >> 1 };
        effect == difference && !in_lost_sector(bytes, at, record.data_end - 1 - bit / 8)
    })
}

fn head_bit_explains(bytes: &[u8], at: usize, sum: u32) -> bool {
    let head_bytes = FRAME_HEAD_BYTES.min(bytes.len() - at);
    let mut flipped = bytes[at..].to_vec();
    (0..head_bytes * 8).any(|bit| {
        if in_lost_sector(bytes, at, at + bit / 8) {
            return false;
        }
        flipped[bit / 8] ^= 1 << (bit % 8);
        let explains = verifies(&flipped, 0, sum);
        flipped[bit / 8] ^= 1 << (bit % 8);
        explains
    })
}

/// Whether `place` lies in a sector whose bytes from `at` on are all zero.
fn in_lost_sector(bytes: &[u8], at: usize, place: usize) -> bool {
    let end = sector_end(place);
    is_zero(bytes, at.max(end - SECTOR_BYTES)..end)
}

fn verifies(bytes: &[u8], at: usize, sum: u32) -> bool {
    record_at(bytes, at).is_some_and(|record| crc32c_append(sum, record.data) == record.crc)
}

/// Rule 3: the offset of a crc record that is followed by a record which verifies against its sum.
fn later_batch(bytes: &[u8], from: usize) -> Option<usize> {
    let closes_a_sync = |at: &usize| {
        // A crc record holds the type and the sum, but no data.
        let Word::Record { len: 4..=8, .. } = word_at(bytes, *at) else { return false };
        record_at(bytes, *at).is_some_and(|record| {
            record.kind == CRC && record.data.is_empty() && verifies(bytes, record.end, record.crc)
        })
    };
    (from..bytes.len()).step_by(FRAME_ALIGN).find(closes_a_sync)
}
