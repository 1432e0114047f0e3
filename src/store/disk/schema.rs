//! The tables of a cache file and what its meta rows say. `format.md` has the same in prose.

use redb::{Table, TableDefinition};

use crate::record::{RECORD_VERSION, Record};
use crate::store::Totals;
use crate::store::disk::failure::Failure;

/// The file format that this build writes, and the newest that it reads. Raised with
/// [`RECORD_VERSION`].
pub(super) const FORMAT_VERSION: u32 = 1;
const _: () = assert!(RECORD_VERSION as u32 == FORMAT_VERSION, "records are part of the format");

/// Facts about the file, by name.
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("larder_meta");
/// Key to the place of its row and the stamp of its last access.
pub(super) const INDEX: TableDefinition<'static, &[u8], (u64, u64)> = TableDefinition::new("index");
/// Place to key and row; places rise.
pub(super) const ROWS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("rows");
/// Stamp (big-endian) and key: the order of eviction. Append-only; a row is live iff its stamp is
/// the current one of its key.
pub(super) const ORDER: TableDefinition<'static, &[u8], ()> = TableDefinition::new("order");
/// Deadline (big-endian) and key.
pub(super) const EXPIRY: TableDefinition<'static, &[u8], ()> = TableDefinition::new("expiry");
/// Rank (two numbers, big-endian) and key: the order of eviction, where the strategy is not `Lru`.
pub(super) const RANKS: TableDefinition<'static, &[u8], ()> = TableDefinition::new("ranks");
/// Key to its rank and its uses, where the strategy is `Size`.
pub(super) const FILED: TableDefinition<'static, &[u8], (u64, u64, u64)> =
    TableDefinition::new("filed");

pub(super) const FORMAT_ROW: &str = "format";
pub(super) const RKYV_ROW: &str = "rkyv";
pub(super) const KEY_ROW: &str = "key";
pub(super) const VALUE_ROW: &str = "value";
pub(super) const SCHEMA_VERSION_ROW: &str = "schema_version";
pub(super) const TOTALS_ROW: &str = "totals";
pub(super) const COPIED_ROW: &str = "copied";
pub(super) const NEWEST_ROW: &str = "newest";
pub(super) const STRATEGY_ROW: &str = "strategy";

/// The last place of a row and the last number of a batch that can be believed: there are 2^32 more
/// of them, which no cache lives to use up.
pub(super) const NUMBER_MAX: u64 = u64::MAX - (1 << 32);

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

/// A key and its row as one value: `|key length 2|key|row|`.
pub(super) fn join_row(buffer: &mut Vec<u8>, key: &[u8], row: [&[u8]; 3]) {
    buffer.clear();
    // Keys are far shorter; the length is in the row as well.
    buffer.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
    buffer.extend_from_slice(key);
    for part in row {
        buffer.extend_from_slice(part);
    }
}

/// Undoes [`join_row`].
pub(super) fn split_row(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = value.split_first_chunk()?;
    rest.split_at_checked(u16::from_le_bytes(*len).into())
}

/// Undoes [`moment_key`].
pub(super) fn split_moment(row: &[u8]) -> Option<(u64, &[u8])> {
    let (moment, key) = row.split_first_chunk()?;
    Some((u64::from_be_bytes(*moment), key))
}

/// What a meta row says, with its CRC behind it.
pub(super) fn seal(mut row: Vec<u8>) -> Vec<u8> {
    row.extend(Record::plain_checksum(&row).to_le_bytes());
    row
}

/// Undoes [`seal`]; `None` if the row is damaged.
pub(super) fn unseal(row: &[u8]) -> Option<&[u8]> {
    let (said, crc) = row.split_last_chunk()?;
    (u32::from_le_bytes(*crc) == Record::plain_checksum(said)).then_some(said)
}

/// Numbers as a meta row, little-endian.
pub(super) fn seal_numbers(numbers: &[u64]) -> Vec<u8> {
    seal(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
}

/// Undoes [`seal_numbers`]; `None` if the row is damaged or has another number of them.
pub(super) fn unseal_numbers<const N: usize>(row: &[u8]) -> Option<[u64; N]> {
    let (numbers, []) = unseal(row)?.as_chunks() else { return None };
    <[[u8; 8]; N]>::try_from(numbers).ok().map(|numbers| numbers.map(u64::from_le_bytes))
}

/// Notes the newest stamp that the cache's clock has given.
pub(super) fn write_newest(
    meta: &mut Table<'_, &'static str, &'static [u8]>,
    newest: u64,
) -> Result<(), Failure> {
    meta.insert(NEWEST_ROW, seal_numbers(&[newest]).as_slice())?;
    Ok(())
}

/// Undoes [`write_newest`]; 0 where that is not known.
pub(super) fn decode_newest(row: &[u8]) -> u64 {
    unseal_numbers(row).map_or(0, |[newest]| newest).min(NUMBER_MAX)
}

impl Totals {
    pub(super) fn encode(self) -> Vec<u8> {
        seal_numbers(&[self.entries, self.bytes, self.batch])
    }

    /// `None` if the row is damaged, or its batch is above [`NUMBER_MAX`].
    pub(super) fn decode(row: &[u8]) -> Option<Self> {
        let [entries, bytes, batch] = unseal_numbers(row)?;
        (batch <= NUMBER_MAX).then_some(Self { entries, bytes, batch })
    }
}
