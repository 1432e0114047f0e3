//! The tables of a cache file and what its meta rows say. `format.md` has the same in prose.

use redb::TableDefinition;

use crate::record::{RECORD_VERSION, Record};
use crate::store::Totals;

/// The file format that this build writes, and the newest that it reads. Raised with
/// [`RECORD_VERSION`].
pub(super) const FORMAT_VERSION: u32 = 1;
const _: () = assert!(RECORD_VERSION as u32 == FORMAT_VERSION, "records are part of the format");

/// Facts about the file, by name.
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("larder_meta");
/// Key to row.
pub(super) const DATA: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("data");
/// Stamp (big-endian) and key: the order of eviction. Append-only; a row is live iff its stamp is
/// the current one of its key.
pub(super) const ORDER: TableDefinition<'static, &[u8], ()> = TableDefinition::new("order");
/// Key to the stamp of its last access, where that is not the one in its row.
pub(super) const TOUCH: TableDefinition<'static, &[u8], u64> = TableDefinition::new("touch");
/// Deadline (big-endian) and key.
pub(super) const EXPIRY: TableDefinition<'static, &[u8], ()> = TableDefinition::new("expiry");

pub(super) const FORMAT_ROW: &str = "format";
pub(super) const RKYV_ROW: &str = "rkyv";
pub(super) const KEY_ROW: &str = "key";
pub(super) const VALUE_ROW: &str = "value";
pub(super) const SCHEMA_VERSION_ROW: &str = "schema_version";
pub(super) const TOTALS_ROW: &str = "totals";

/// A moment and a key as one sortable key: `|moment 8, big-endian|key|`.
pub(super) fn moment_key(buffer: &mut Vec<u8>, moment: u64, key: &[u8]) {
    buffer.clear();
    push_moment_key(buffer, moment, key);
}

/// Adds a moment and a key behind what is in `buffer`.
pub(super) fn push_moment_key(buffer: &mut Vec<u8>, moment: u64, key: &[u8]) {
    buffer.extend_from_slice(&moment.to_be_bytes());
    buffer.extend_from_slice(key);
}

/// Undoes [`moment_key`].
pub(super) fn split_moment(row: &[u8]) -> Option<(u64, &[u8])> {
    let (moment, key) = row.split_first_chunk()?;
    Some((u64::from_be_bytes(*moment), key))
}

impl Totals {
    /// `|entries 8|bytes 8|batch 8|crc 4|`, little-endian.
    pub(super) fn encode(self) -> [u8; 28] {
        let mut row = [0; 28];
        row[..8].copy_from_slice(&self.entries.to_le_bytes());
        row[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        row[16..24].copy_from_slice(&self.batch.to_le_bytes());
        let crc = Record::plain_checksum(&row[..24]);
        row[24..].copy_from_slice(&crc.to_le_bytes());
        row
    }

    /// `None` if the row is damaged.
    pub(super) fn decode(row: &[u8]) -> Option<Self> {
        let (words, rest) = row.split_at_checked(24)?;
        if rest != Record::plain_checksum(words).to_le_bytes() {
            return None;
        }
        let word = |at: usize| Some(u64::from_le_bytes(*words.get(at..)?.first_chunk()?));
        Some(Self { entries: word(0)?, bytes: word(8)?, batch: word(16)? })
    }
}
