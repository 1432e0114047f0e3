//! The order of eviction where the strategy is another than `Lru`: one row for each entry, by rank.
//!
//! The order by recency is kept whatever the strategy is: time-to-idle goes by it, and so does the
//! eviction of what has no rank. The table of ranks is there beside it only if the strategy has one;
//! with `Lru` nothing of this is in the file.
//!
//! # How it works
//!
//! A [`Rank`] is two numbers; the smallest leaves first, and of equal ones the smallest key:
//!
//! | strategy | first | second |
//! |---|---|---|
//! | `Fifo` | when the value was stored | the stamp of the write, for clocks that stand still |
//! | `Ttl` | the deadline; an entry without one has no rank, and goes by recency after all others | the stamp of the last access |
//! | `Size` | level + uses / charge | the stamp of the last access when that was found |
//!
//! The ranks of `Fifo` and `Ttl` follow from the entry. `Size` is GreedyDual-Size-Frequency (Cherkasova,
//! 1998): the *level* is the highest first number that left so far, and what is filed later is filed
//! above it, so that entries age without being touched. What follows from nothing else is in a table of
//! its own, `filed`, and the level is in the [`Mark`](super::mark::Mark) of each commit.
//!
//! A hit moves nothing. With `Ttl`, recency that is handed down moves the row. With `Size` an entry whose
//! recency is another than it was filed with was used; that is found when its turn comes, and it is
//! filed anew (`evict.rs`).
//!
//! # Invariants
//!
//! - **D6** each entry that has a rank has a row of that rank, and there is no other row. Damage can
//!   break this: [`Ranks::is_of`] tells whether a row is its entry's, and an entry without a row goes by
//!   recency when nothing with one is left.
//!
//! # Why rows are taken out at once
//!
//! The order by recency leaves stale rows behind, since each access makes one. A rank changes with a
//! write only, or seldom; so stale rows would need a sweep of their own for little.

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, Table};
use redb::{TableError, WriteTransaction};

use crate::record::{Header, NEVER};
use crate::store::disk::failure::Failure;
use crate::store::disk::schema::{FILED, RANKS};
use crate::store::disk::sorted::Sorted;
use crate::strategy::DiskStrategy;

/// A place in the order of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u64, u64);

impl Rank {
    /// `|first 8, big-endian|second 8, big-endian|key|`.
    fn push_row(self, buffer: &mut Vec<u8>, key: &[u8]) {
        buffer.extend_from_slice(&self.0.to_be_bytes());
        buffer.extend_from_slice(&self.1.to_be_bytes());
        buffer.extend_from_slice(key);
    }

    fn row(self, key: &[u8]) -> Vec<u8> {
        let mut row = Vec::with_capacity(16 + key.len());
        self.push_row(&mut row, key);
        row
    }

    fn split_row(row: &[u8]) -> Option<(Self, &[u8])> {
        let (first, rest) = row.split_first_chunk()?;
        let (second, key) = rest.split_first_chunk()?;
        Some((Self(u64::from_be_bytes(*first), u64::from_be_bytes(*second)), key))
    }
}

/// What `filed` has of an entry: the level it was filed at and above, its recency then, and its uses.
type Filed = (u64, u64, u64);

/// The rank of an entry with `Fifo` and `Ttl`, if it has one there.
fn derived(strategy: DiskStrategy, header: &Header, stamp: u64) -> Option<Rank> {
    match strategy {
        DiskStrategy::Fifo => Some(Rank(header.created, header.stamp)),
        DiskStrategy::Ttl => (header.deadline != NEVER).then_some(Rank(header.deadline, stamp)),
        DiskStrategy::Lru | DiskStrategy::Size => None,
    }
}

/// What an entry is worth at a level; its bits are in the order of the numbers.
#[expect(clippy::cast_precision_loss, reason = "a quotient that is compared")]
fn worth(level: u64, uses: u64, charge: u64) -> u64 {
    (f64::from_bits(level) + uses as f64 / charge.max(1) as f64).to_bits()
}

/// How many rows the table is to have, of so many entries and deadlines; `None` with `Lru`.
pub(super) fn rows_wanted(strategy: DiskStrategy, entries: u64, deadlines: u64) -> Option<u64> {
    match strategy {
        DiskStrategy::Lru => None,
        DiskStrategy::Fifo | DiskStrategy::Size => Some(entries),
        DiskStrategy::Ttl => Some(deadlines),
    }
}

/// The tables of a transaction that writes, open.
#[derive(Debug)]
pub(super) struct Ranks<'t> {
    strategy: DiskStrategy,
    rows: Table<'t, &'static [u8], ()>,
    /// With `Size` only.
    filed: Option<Table<'t, &'static [u8], Filed>>,
    /// Rows of the batch that are not in the table yet.
    new: Sorted,
    level: u64,
}

impl<'t> Ranks<'t> {
    /// `None` with `Lru`.
    pub(super) fn open(
        transaction: &'t WriteTransaction,
        strategy: DiskStrategy,
        level: u64,
    ) -> Result<Option<Self>, Failure> {
        if strategy == DiskStrategy::Lru {
            return Ok(None);
        }
        let has_filed = strategy == DiskStrategy::Size;
        let filed = has_filed.then(|| transaction.open_table(FILED)).transpose()?;
        let rows = transaction.open_table(RANKS)?;
        Ok(Some(Self { strategy, rows, filed, new: Sorted::default(), level }))
    }

    pub(super) fn strategy(&self) -> DiskStrategy {
        self.strategy
    }

    /// Whether recency that is handed down changes ranks at once.
    pub(super) fn go_by_recency(&self) -> bool {
        self.strategy == DiskStrategy::Ttl
    }

    pub(super) fn level(&self) -> u64 {
        self.level
    }

    pub(super) fn len(&self) -> Result<u64, Failure> {
        Ok(self.rows.len()?)
    }

    /// An entry was written, in the place of one with that header and stamp if there was one. Its row is
    /// noted for [`Self::append`].
    pub(super) fn put(
        &mut self,
        key: &[u8],
        header: &Header,
        old: Option<(Header, u64)>,
    ) -> Result<(), Failure> {
        if self.filed.is_some() {
            let uses = self.unfile(key)?.map_or(1, |(_, _, uses)| uses.saturating_add(1));
            return self.file(key, header.charge, header.stamp, uses);
        }
        if let Some((old, stamp)) = old {
            self.drop_derived(key, &old, stamp)?;
        }
        if let Some(rank) = derived(self.strategy, header, header.stamp) {
            self.new.add(|row| rank.push_row(row, key));
        }
        Ok(())
    }

    /// An entry is copied from another file, or from an order that cannot be used; `filed` is what was
    /// there of it. Its row is noted for [`Self::append`].
    pub(super) fn copy(
        &mut self,
        key: &[u8],
        header: &Header,
        stamp: u64,
        filed: Option<Filed>,
    ) -> Result<(), Failure> {
        let rank = match (&mut self.filed, filed) {
            (None, _) => derived(self.strategy, header, stamp),
            (Some(_), None) => return self.file(key, header.charge, stamp, 1),
            (Some(table), Some(filed)) => {
                table.insert(key, filed)?;
                Some(Rank(filed.0, filed.1))
            }
        };
        if let Some(rank) = rank {
            self.new.add(|row| rank.push_row(row, key));
        }
        Ok(())
    }

    /// Puts the noted rows into the table.
    pub(super) fn append(&mut self) -> Result<(), Failure> {
        self.new.append_to(&mut self.rows)
    }

    /// How many rows are noted.
    pub(super) fn noted(&self) -> usize {
        self.new.len()
    }

    /// An entry went that had this header and stamp. Where the header cannot be believed its row stays,
    /// until all are made anew.
    pub(super) fn take_out(
        &mut self,
        key: &[u8],
        header: Option<&Header>,
        stamp: u64,
    ) -> Result<(), Failure> {
        if self.filed.is_some() {
            return self.unfile(key).map(drop);
        }
        header.map_or(Ok(()), |header| self.drop_derived(key, header, stamp))
    }

    /// The recency of an entry is another now.
    pub(super) fn moved(
        &mut self,
        key: &[u8],
        header: &Header,
        from: u64,
        to: u64,
    ) -> Result<(), Failure> {
        if self.strategy == DiskStrategy::Ttl {
            self.drop_derived(key, header, from)?;
            if let Some(rank) = derived(self.strategy, header, to) {
                self.rows.insert(rank.row(key).as_slice(), ())?;
            }
        }
        Ok(())
    }

    /// Likewise, or its place in the order; `filed` is what the file has of it that this one is a copy of.
    pub(super) fn follow(
        &mut self,
        key: &[u8],
        header: &Header,
        from: u64,
        to: u64,
        filed: Option<Filed>,
    ) -> Result<(), Failure> {
        if self.filed.is_none() {
            return self.moved(key, header, from, to);
        }
        self.unfile(key)?;
        self.copy(key, header, to, filed)?;
        self.append()
    }

    /// The first row, and the key that it names.
    pub(super) fn first(&self) -> Result<Option<(Rank, Vec<u8>)>, Failure> {
        let Some((row, _)) = self.rows.first()? else { return Ok(None) };
        Ok(Rank::split_row(row.value()).map(|(rank, key)| (rank, key.to_vec())))
    }

    /// Whether that is the rank of the entry.
    pub(super) fn is_of(
        &self,
        rank: Rank,
        key: &[u8],
        header: &Header,
        stamp: u64,
    ) -> Result<bool, Failure> {
        Ok(match &self.filed {
            None => derived(self.strategy, header, stamp) == Some(rank),
            Some(filed) => {
                filed.get(key)?.is_some_and(|filed| Rank(filed.value().0, filed.value().1) == rank)
            }
        })
    }

    /// Takes out the first row, which is no entry's.
    pub(super) fn drop_first(&mut self) -> Result<(), Failure> {
        self.rows.pop_first()?;
        Ok(())
    }

    /// Whether the row of an entry is there; `None` if it needs none.
    pub(super) fn has(
        &self,
        key: &[u8],
        header: &Header,
        stamp: u64,
    ) -> Result<Option<bool>, Failure> {
        has_row(self.strategy, &self.rows, self.filed.as_ref(), key, (header, stamp))
    }

    /// Whether there are as many rows as there should be, for so many entries and deadlines.
    pub(super) fn are_whole(&self, entries: u64, deadlines: u64) -> Result<bool, Failure> {
        let filed = self.filed.as_ref().map(ReadableTableMetadata::len).transpose()?;
        let wanted = rows_wanted(self.strategy, entries, deadlines);
        Ok(Some(self.rows.len()?) == wanted && filed.is_none_or(|filed| filed == entries))
    }

    /// Forgets what is filed of entries that are not there.
    pub(super) fn keep_filed(
        &mut self,
        mut is_there: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Failure> {
        if let Some(filed) = &mut self.filed {
            filed.retain(|key, _| is_there(key))?;
        }
        Ok(())
    }

    /// Takes out all rows; what is filed stays.
    pub(super) fn forget_rows(&mut self) -> Result<(), Failure> {
        self.new.clear();
        self.rows.retain(|_, ()| false)?;
        Ok(())
    }

    /// Notes the row of an entry once more, after [`Self::forget_rows`].
    pub(super) fn restore(
        &mut self,
        key: &[u8],
        header: &Header,
        stamp: u64,
    ) -> Result<(), Failure> {
        let filed = self.filed.as_ref().map(|filed| filed.get(key)).transpose()?;
        let filed = filed.flatten().map(|filed| filed.value());
        self.copy(key, header, stamp, filed)
    }

    /// With `Size`: files an entry anew if it was used since it was filed, when it had another recency.
    pub(super) fn refile_if_used(
        &mut self,
        key: &[u8],
        charge: u64,
        stamp: u64,
    ) -> Result<bool, Failure> {
        let Some(filed) = &self.filed else { return Ok(false) };
        let filed = filed.get(key)?.map(|filed| filed.value());
        let Some((_, _, uses)) = filed.filter(|filed| filed.1 != stamp) else { return Ok(false) };
        self.unfile(key)?;
        self.file(key, charge, stamp, uses.saturating_add(1))?;
        self.append()?;
        Ok(true)
    }

    /// What leaves by the order has this rank: with `Size` that is the level from now on.
    pub(super) fn leaves(&mut self, rank: Rank) {
        if self.strategy == DiskStrategy::Size {
            self.level = self.level.max(rank.0);
        }
    }

    pub(super) fn clear(&mut self) -> Result<(), Failure> {
        self.forget_rows()?;
        if let Some(filed) = &mut self.filed {
            filed.retain(|_, _| false)?;
        }
        Ok(())
    }

    fn file(&mut self, key: &[u8], charge: u64, stamp: u64, uses: u64) -> Result<(), Failure> {
        let rank = Rank(worth(self.level, uses, charge), stamp);
        if let Some(filed) = &mut self.filed {
            filed.insert(key, (rank.0, rank.1, uses))?;
            self.new.add(|row| rank.push_row(row, key));
        }
        Ok(())
    }

    /// Takes out what `filed` has of an entry, and the row that goes with it.
    fn unfile(&mut self, key: &[u8]) -> Result<Option<Filed>, Failure> {
        let Some(table) = &mut self.filed else { return Ok(None) };
        let filed = table.remove(key)?.map(|filed| filed.value());
        if let Some((first, second, _)) = filed {
            self.rows.remove(Rank(first, second).row(key).as_slice())?;
        }
        Ok(filed)
    }

    fn drop_derived(&mut self, key: &[u8], header: &Header, stamp: u64) -> Result<(), Failure> {
        if let Some(rank) = derived(self.strategy, header, stamp) {
            self.rows.remove(rank.row(key).as_slice())?;
        }
        Ok(())
    }
}

/// The tables of a transaction that reads, as far as they are there.
#[derive(Debug)]
pub(super) struct StoredRanks {
    strategy: DiskStrategy,
    rows: Option<ReadOnlyTable<&'static [u8], ()>>,
    filed: Option<ReadOnlyTable<&'static [u8], Filed>>,
}

/// A table, if it is there.
fn there<T>(opened: Result<T, TableError>) -> Result<Option<T>, Failure> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

impl StoredRanks {
    pub(super) fn open(
        transaction: &ReadTransaction,
        strategy: DiskStrategy,
    ) -> Result<Self, Failure> {
        let is_used = strategy != DiskStrategy::Lru;
        let has_filed = strategy == DiskStrategy::Size;
        let open_rows = || there(transaction.open_table(RANKS));
        let open_filed = || there(transaction.open_table(FILED));
        let rows = if is_used { open_rows()? } else { None };
        let filed = if has_filed { open_filed()? } else { None };
        Ok(Self { strategy, rows, filed })
    }

    /// How many rows are there.
    pub(super) fn len(&self) -> Result<u64, Failure> {
        Ok(self.rows.as_ref().map(ReadableTableMetadata::len).transpose()?.unwrap_or(0))
    }

    /// What is filed of an entry.
    pub(super) fn filed(&self, key: &[u8]) -> Result<Option<Filed>, Failure> {
        let filed = self.filed.as_ref().map(|filed| filed.get(key)).transpose()?;
        Ok(filed.flatten().map(|filed| filed.value()))
    }

    /// Whether the row of an entry is there; `None` if it needs none.
    pub(super) fn has(
        &self,
        key: &[u8],
        header: &Header,
        stamp: u64,
    ) -> Result<Option<bool>, Failure> {
        match &self.rows {
            Some(rows) => has_row(self.strategy, rows, self.filed.as_ref(), key, (header, stamp)),
            None => Ok((self.strategy != DiskStrategy::Lru).then_some(false)),
        }
    }
}

/// Whether the row of an entry is there (D6); `None` if it needs none.
fn has_row(
    strategy: DiskStrategy,
    rows: &impl ReadableTable<&'static [u8], ()>,
    filed: Option<&impl ReadableTable<&'static [u8], Filed>>,
    key: &[u8],
    (header, stamp): (&Header, u64),
) -> Result<Option<bool>, Failure> {
    let rank = match filed {
        Some(filed) => match filed.get(key)?.map(|filed| filed.value()) {
            Some((first, second, _)) => Rank(first, second),
            None => return Ok(Some(false)),
        },
        None => match derived(strategy, header, stamp) {
            Some(rank) => rank,
            // With `Size` there should be a table of what is filed.
            None => return Ok((strategy == DiskStrategy::Size).then_some(false)),
        },
    };
    Ok(Some(rows.get(rank.row(key).as_slice())?.is_some()))
}
