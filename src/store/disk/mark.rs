//! The mark of a strategy in a file, and what is done where it is not the one that is wanted.
//!
//! # How it works
//!
//! Each commit writes the strategy's name, the number of its batch and the level of the ranks
//! ([`Mark`]), in the transaction in which it changes the ranks. As a file is opened [`adopt`]
//! compares:
//!
//! - `Lru` is wanted: a file that has a mark loses it, and the tables that go with it, in one transaction.
//!   A file that has none is not written to.
//! - Another is wanted, and the mark is of that and of the last batch, and the tables have as many rows as
//!   they should: they are as the last commit left them.
//! - Else they are made from the entries, in one transaction: what a write or an access would have filed is
//!   in each entry. With `Size` the uses are counted from one, unless the file has them.
//!
//! A mark that is damaged, or of a strategy that this build does not know, is like none.
//!
//! # Failure
//!
//! Nothing is committed to a file of which pages turn out to be damaged (`blocks.rs`): the copy that heals
//! it has the tables and the mark.

use redb::{ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table};
use redb::{TableError, WriteTransaction};

use crate::record::Record;
use crate::store::Totals;
use crate::store::disk::blocks::{mildly, strictly};
use crate::store::disk::failure::{Failure, guarded};
use crate::store::disk::ranks::{Ranks, StoredRanks, rows_wanted};
use crate::store::disk::rows::visit_rows;
use crate::store::disk::schema::{EXPIRY, FILED, INDEX, META, RANKS, ROWS, STRATEGY_ROW};
use crate::store::disk::volume::Base;
use crate::strategy::DiskStrategy;
use crate::trace;

/// So many rows are sorted at a time: some 4 MiB.
const ROWS_AT_ONCE: usize = 1 << 16;
/// All strategies that have a mark.
const MARKED: [DiskStrategy; 3] = [DiskStrategy::Fifo, DiskStrategy::Ttl, DiskStrategy::Size];

/// What a file says of its ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) strategy: DiskStrategy,
    /// The number of the batch that they are as of.
    pub(super) batch: u64,
    pub(super) level: u64,
}

impl Mark {
    /// `|batch 8|level 8|name|crc 4|`, little-endian.
    fn encode(self) -> Vec<u8> {
        let mut row = Vec::new();
        row.extend_from_slice(&self.batch.to_le_bytes());
        row.extend_from_slice(&self.level.to_le_bytes());
        row.extend_from_slice(self.strategy.name().as_bytes());
        let crc = Record::plain_checksum(&row);
        row.extend_from_slice(&crc.to_le_bytes());
        row
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let (words, crc) = row.split_last_chunk()?;
        if u32::from_le_bytes(*crc) != Record::plain_checksum(words) {
            return None;
        }
        let (batch, rest) = words.split_first_chunk()?;
        let (level, name) = rest.split_first_chunk()?;
        let strategy = MARKED.into_iter().find(|known| known.name().as_bytes() == name)?;
        let level = u64::from_le_bytes(*level);
        // Another number than a level would put all ranks out of order.
        let is_level = f64::from_bits(level).is_finite() && f64::from_bits(level) >= 0.0;
        is_level.then_some(Self { strategy, batch: u64::from_le_bytes(*batch), level })
    }

    /// Writes it; nothing with `Lru`.
    pub(super) fn write(
        self,
        meta: &mut Table<'_, &'static str, &'static [u8]>,
    ) -> Result<(), Failure> {
        if self.strategy != DiskStrategy::Lru {
            meta.insert(STRATEGY_ROW, self.encode().as_slice())?;
        }
        Ok(())
    }

    fn read(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Found, Failure> {
        Ok(match meta.get(STRATEGY_ROW)? {
            None => Found::Nothing,
            Some(row) => Self::decode(row.value()).map_or(Found::Unknown, Found::Mark),
        })
    }

    /// The level of the ranks in a file, amid a transaction that writes.
    pub(super) fn level(
        transaction: &WriteTransaction,
        strategy: DiskStrategy,
    ) -> Result<u64, Failure> {
        if strategy != DiskStrategy::Size {
            return Ok(0);
        }
        let meta = strictly(|| transaction.open_table(META))?;
        Ok(Self::read(&meta)?.level_of(strategy))
    }

    /// Likewise, as of the last commit.
    pub(super) fn committed_level(
        transaction: &ReadTransaction,
        strategy: DiskStrategy,
    ) -> Result<u64, Failure> {
        let meta = strictly(|| transaction.open_table(META))?;
        Ok(Self::read(&meta)?.level_of(strategy))
    }
}

/// What there is in the place of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// One that cannot be used.
    Unknown,
    Mark(Mark),
}

impl Found {
    fn level_of(self, strategy: DiskStrategy) -> u64 {
        match self {
            Self::Mark(mark) if mark.strategy == strategy => mark.level,
            Self::Mark(_) | Self::Nothing | Self::Unknown => 0,
        }
    }
}

/// Makes the order of eviction that is wanted of the one that the file has.
pub(super) fn adopt(
    database: &Base,
    strategy: DiskStrategy,
    totals: Totals,
) -> Result<(), Failure> {
    guarded(|| {
        let read = database.begin_read()?;
        let found = Mark::read(&read.open_table(META)?)?;
        if strategy == DiskStrategy::Lru {
            return if found == Found::Nothing { Ok(()) } else { forget(database) };
        }
        let level = found.level_of(strategy);
        if found == Found::Mark(Mark { strategy, batch: totals.batch, level })
            && mildly(|| has_all_rows(&read, strategy))?
        {
            return Ok(());
        }
        trace::info("the order of eviction of the cache file is made anew");
        let mark = Mark { strategy, batch: totals.batch, level };
        make(database, &read, mark, matches!(found, Found::Mark(old) if old.strategy == strategy))
    })
}

/// Takes out what only other strategies need.
fn forget(database: &Base) -> Result<(), Failure> {
    let transaction = database.begin_write()?;
    mildly(|| delete_tables(&transaction))?;
    transaction.open_table(META)?.remove(STRATEGY_ROW)?;
    if database.watch().is_hurt() {
        return Ok(());
    }
    transaction.commit()?;
    Ok(())
}

fn delete_tables(transaction: &WriteTransaction) -> Result<(), Failure> {
    for deleted in [transaction.delete_table(RANKS), transaction.delete_table(FILED)] {
        match deleted {
            // Then it is of a kind that this build does not know; it is not in the way.
            Ok(_) | Err(TableError::TableTypeMismatch { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn has_all_rows(read: &ReadTransaction, strategy: DiskStrategy) -> Result<bool, Failure> {
    let (entries, deadlines) = (read.open_table(INDEX)?.len()?, read.open_table(EXPIRY)?.len()?);
    let stored = StoredRanks::open(read, strategy)?;
    let wanted = rows_wanted(strategy, entries, deadlines);
    Ok(wanted == Some(stored.len()?) && stored.is_complete(entries)?)
}

/// Makes the order from the entries, and from what is filed of them if that is to be kept.
fn make(
    database: &Base,
    read: &ReadTransaction,
    mark: Mark,
    keeps_filed: bool,
) -> Result<(), Failure> {
    let old = if keeps_filed { mark.strategy } else { DiskStrategy::Lru };
    let old = StoredRanks::open(read, old)?;
    let (index, rows) = (read.open_table(INDEX)?, read.open_table(ROWS)?);
    let transaction = database.begin_write()?;
    mildly(|| {
        delete_tables(&transaction)?;
        let Some(mut ranks) = Ranks::open(&transaction, mark.strategy, mark.level)? else {
            return Ok(());
        };
        visit_rows(&index, &rows, |key, header, stamp| {
            ranks.copy(key, header, stamp, old.filed(key)?)?;
            if ranks.noted() >= ROWS_AT_ONCE { ranks.append() } else { Ok(()) }
        })?;
        ranks.append()
    })?;
    mark.write(&mut transaction.open_table(META)?)?;
    if database.watch().is_hurt() {
        return Ok(());
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_told_from_what_is_none() {
        let mark = Mark { strategy: DiskStrategy::Size, batch: 7, level: 1.5_f64.to_bits() };
        let row = mark.encode();
        assert_eq!(Mark::decode(&row), Some(mark));
        for at in 0..row.len() {
            let mut row = row.clone();
            row[at] ^= 1;
            assert_eq!(Mark::decode(&row), None, "{at}");
            assert_eq!(Mark::decode(&row[..at]), None, "{at}");
        }
        for odd in [f64::NAN, f64::INFINITY, -1.0] {
            let mark = Mark { level: odd.to_bits(), ..mark };
            assert_eq!(Mark::decode(&mark.encode()), None, "{odd}");
        }
        let lru = Mark { strategy: DiskStrategy::Lru, ..mark };
        assert_eq!(Mark::decode(&lru.encode()), None, "it has no mark");
    }
}
