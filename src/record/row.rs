//! The row of a record: the bytes that the disk has of it besides the key, read and checked.
//!
//! `format.md` lists them. What is not read here is written by [`Draft::finish`](super::Draft::finish).

use super::{ATTRIBUTE_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// The record format that this build writes, and the newest that it reads.
pub(crate) const RECORD_VERSION: u8 = 1;
/// The largest charge of one entry; leaves room for 256 such in a sum.
pub(crate) const CHARGE_MAX: u64 = 1 << 56;

/// What the charges in a tier add up to at most, with any limits: half of what a number holds, so that in memory a
/// batch as large can be in beside what is there until its room is made.
pub(crate) const CHARGES_MAX: u64 = u64::MAX / 2;
/// What stands for "no deadline".
pub(crate) const NEVER: u64 = u64::MAX;

/// The row's first bytes, which every row has.
pub(super) const HEADER: usize = 24;
/// The value starts where this much more is a multiple of [`super::ALIGN`].
const ALIGN_SHIFT: usize = 8;

pub(super) const HAS_CREATED: u8 = 1;
pub(super) const HAS_DEADLINE: u8 = 2;
pub(super) const HAS_CHARGE: u8 = 4;
pub(super) const HAS_ATTRIBUTES: u8 = 8;
/// The flags of words that may be there, in the order of the words.
pub(super) const FLAGS_KNOWN: u8 = HAS_CREATED | HAS_DEADLINE | HAS_CHARGE | HAS_ATTRIBUTES;

/// The fields of a record's header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) stamp: u64,
    pub(crate) created: u64,
    pub(crate) deadline: u64,
    pub(crate) charge: u64,
    pub(crate) schema: u32,
}

/// Why a row was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadRow {
    /// Shorter than its header, or lengths that do not add up.
    Shape,
    /// Written by a newer format.
    Newer,
    /// The checksum does not match.
    Checksum,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// How many words there are with these flags.
pub(super) const fn word_count(flags: u8) -> usize {
    (flags & FLAGS_KNOWN).count_ones() as usize
}

/// Where the value starts in a row with these flags.
pub(super) const fn value_at(flags: u8) -> usize {
    (HEADER + 8 * word_count(flags) + ALIGN_SHIFT).next_multiple_of(super::ALIGN) - ALIGN_SHIFT
}

/// The words that a header may have, decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    pub(super) created: Option<u64>,
    pub(super) deadline: Option<u64>,
    pub(super) charge: Option<u64>,
    pub(super) attributes_len: Option<u64>,
}

impl Words {
    /// Decodes those that the flags tell of from where they start; `None` if `bytes` ends before them.
    pub(super) fn parse(flags: u8, bytes: &[u8]) -> Option<Self> {
        let mut at = 0;
        let mut word = |flag: u8| -> Option<Option<u64>> {
            if flags & flag == 0 {
                return Some(None);
            }
            at += 8;
            u64_at(bytes, at - 8).map(Some)
        };
        Some(Self {
            created: word(HAS_CREATED)?,
            deadline: word(HAS_DEADLINE)?,
            charge: word(HAS_CHARGE)?,
            attributes_len: word(HAS_ATTRIBUTES)?,
        })
    }

    /// The header that they belong to; `natural` is what the entry counts unless they say so.
    pub(super) fn header(self, stamp: u64, natural: u64, schema: u32) -> Header {
        Header {
            stamp,
            created: self.created.unwrap_or(stamp),
            deadline: self.deadline.unwrap_or(NEVER),
            charge: self.charge.unwrap_or(natural),
            schema,
        }
    }
}

impl Header {
    /// Decodes the header of `row`, whose key has `key_len` bytes, and checks R3 except for the
    /// attributes' content.
    pub(crate) fn parse(row: &[u8], key_len: usize) -> Result<Self, BadRow> {
        Self::parse_fields(row, key_len).ok_or(BadRow::Shape).and_then(|(version, header)| {
            if version > RECORD_VERSION { Err(BadRow::Newer) } else { Ok(header) }
        })
    }

    /// Parses the row of `key` and compares its checksum.
    pub(crate) fn check(row: &[u8], key: &[u8]) -> Result<Self, BadRow> {
        let header = Self::parse(row, key.len())?;
        match row.split_first_chunk() {
            Some((crc, rest)) if u32::from_le_bytes(*crc) == checksum([key, rest]) => Ok(header),
            _ => Err(BadRow::Checksum),
        }
    }

    fn parse_fields(row: &[u8], key_len: usize) -> Option<(u8, Self)> {
        let (version, flags) = (*row.get(4)?, *row.get(5)?);
        if usize::from(u16_at(row, 6)?) != key_len || flags & !FLAGS_KNOWN != 0 {
            return None;
        }
        let value_len = usize::try_from(u32_at(row, 8)?).ok()?;
        let words = Words::parse(flags, row.get(HEADER..)?)?;
        let natural = key_len as u64 + value_len as u64;
        let header = words.header(u64_at(row, 16)?, natural, u32_at(row, 12)?);
        let attributes_len = usize::try_from(words.attributes_len.unwrap_or(0)).ok()?;
        let value_at = value_at(flags);
        let end = value_at.checked_add(value_len)?.checked_add(attributes_len)?;
        let padding = row.get(HEADER + 8 * word_count(flags)..value_at)?;
        // What is larger than these was not written by this library.
        let are_too_large = key_len > KEY_BYTES_MAX
            || value_len > VALUE_BYTES_MAX
            || attributes_len > ATTRIBUTE_BYTES_MAX
            || header.charge > CHARGE_MAX;
        if end != row.len() || are_too_large || padding.iter().any(|b| *b != 0) {
            return None;
        }
        Some((version, header))
    }
}

/// The parts of a row that are next to each other in a record, too.
pub(super) fn parts(row: &[u8]) -> Option<[&[u8]; 3]> {
    let (crc, rest) = row.split_at_checked(4)?;
    let (lengths, rest) = rest.split_at_checked(12)?;
    Some([crc, lengths, rest])
}

/// The checksum of a row: of its key and all that follows the checksum, in parts.
pub(super) fn checksum<const N: usize>(parts: [&[u8]; N]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for part in parts {
        crc.update(part);
    }
    crc.finalize()
}
