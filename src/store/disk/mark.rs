//! The mark of a strategy in a file: whose its ranks are, and as of which commit.
//!
//! Each commit writes it in the transaction in which it changes the ranks; with `Lru` there is none. One
//! that is damaged, or of a strategy that this build does not know, is like none of use.

use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use crate::store::disk::blocks::strictly;
use crate::store::disk::failure::Failure;
use crate::store::disk::schema::{META, STRATEGY_ROW, seal, unseal};
use crate::strategy::DiskStrategy;

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

/// What there is in the place of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// One that cannot be used.
    Unknown,
    Mark(Mark),
}

impl Found {
    /// In the last commit.
    pub(super) fn committed(transaction: &ReadTransaction) -> Result<Self, Failure> {
        Self::of(&strictly(|| transaction.open_table(META))?)
    }

    /// Amid a transaction that writes.
    pub(super) fn within(transaction: &WriteTransaction) -> Result<Self, Failure> {
        Self::of(&strictly(|| transaction.open_table(META))?)
    }

    fn of(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Self, Failure> {
        Ok(match meta.get(STRATEGY_ROW)? {
            None => Self::Nothing,
            Some(row) => Mark::decode(row.value()).map_or(Self::Unknown, Self::Mark),
        })
    }

    /// The mark, if it is of this strategy.
    pub(super) fn of_strategy(self, strategy: DiskStrategy) -> Option<Mark> {
        match self {
            Self::Mark(mark) if mark.strategy == strategy => Some(mark),
            Self::Mark(_) | Self::Nothing | Self::Unknown => None,
        }
    }

    /// The level of the ranks, if there is a mark of this strategy.
    pub(super) fn level(self, strategy: DiskStrategy) -> u64 {
        self.of_strategy(strategy).map_or(0, |mark| mark.level)
    }
}

impl Mark {
    /// `|batch 8|level 8|name|crc 4|`, little-endian.
    fn encode(self) -> Vec<u8> {
        let mut row = Vec::new();
        row.extend_from_slice(&self.batch.to_le_bytes());
        row.extend_from_slice(&self.level.to_le_bytes());
        row.extend_from_slice(self.strategy.name().as_bytes());
        seal(row)
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let (batch, rest) = unseal(row)?.split_first_chunk()?;
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
