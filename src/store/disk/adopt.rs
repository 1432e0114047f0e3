//! What becomes of the order of eviction in a file that was opened: the first commit makes it the one that
//! is wanted.
//!
//! # How it works
//!
//! The file has the [mark](super::mark) of the strategy that it was last written with:
//!
//! - `Lru` is wanted: a file that has a mark loses it, and the tables that go with it. A file that has none
//!   is as it should be.
//! - Another is wanted, the mark is of that one and of the last batch, and the tables have as many rows as
//!   they should: they are as the last commit left them.
//! - Else they are made anew from the entries, of which each has in it what a write or an access would have
//!   filed. With `Size` the uses are counted from one, unless the file has them.
//!
//! # Failure
//!
//! It is a part of a commit like others, so it happens altogether or not at all, and the writer does what it
//! does where a commit fails. Opening a file changes nothing in it that is not committed.

use redb::ReadableTableMetadata;

use crate::store::disk::commit::Work;
use crate::store::disk::failure::Failure;
use crate::store::disk::mark::Found;
use crate::store::disk::schema::{FILED, META, RANKS, STRATEGY_ROW};
use crate::strategy::DiskStrategy;
use crate::trace;

/// So many rows are sorted at a time: some 4 MiB.
const ROWS_AT_ONCE: usize = 1 << 16;

/// What is known of the order of eviction in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing since the file was opened.
    Nothing,
    /// It is the one that is wanted.
    Adopted,
}

impl Work<'_, '_> {
    /// Makes the order of eviction the one that is wanted, before anything else is done.
    pub(super) fn adopt(&mut self, strategy: DiskStrategy) -> Result<(), Failure> {
        let found = Found::within(self.transaction)?;
        if found != Found::Nothing && strategy != DiskStrategy::Size {
            self.transaction.delete_table(FILED)?;
        }
        let Some(ranks) = &mut self.ranks else {
            if found != Found::Nothing {
                self.transaction.delete_table(RANKS)?;
                self.transaction.open_table(META)?.remove(STRATEGY_ROW)?;
            }
            return Ok(());
        };
        let (entries, deadlines) = (self.rows.len()?, self.expiry.len()?);
        let is_whole = ranks.are_whole(entries, deadlines)?;
        match found.of_strategy(strategy) {
            Some(mark) if mark.batch == self.outcome.totals.batch && is_whole => return Ok(()),
            Some(_) => ranks.keep_filed(|key| self.rows.stamp(key).is_ok_and(|s| s.is_some()))?,
            None => ranks.clear()?,
        }
        if entries > 0 {
            trace::info("the order of eviction of the cache file is made anew");
        }
        self.rank_all()
    }

    /// Makes the rows of the ranks anew where damage broke D6; gives how many were missing, or no entry's.
    pub(super) fn mend_ranks(&mut self) -> Result<u64, Failure> {
        let Some(ranks) = &mut self.ranks else { return Ok(0) };
        let (mut there, mut missing) = (0, 0);
        self.rows.for_each(|key, header, stamp| {
            match ranks.has(key, header, stamp)? {
                Some(true) => there += 1,
                Some(false) => missing += 1,
                None => {}
            }
            Ok(())
        })?;
        let wrong = missing + ranks.len()?.saturating_sub(there);
        if wrong > 0 {
            self.rank_all()?;
        }
        Ok(wrong)
    }

    fn rank_all(&mut self) -> Result<(), Failure> {
        let Some(ranks) = &mut self.ranks else { return Ok(()) };
        ranks.forget_rows()?;
        self.rows.for_each(|key, header, stamp| {
            ranks.restore(key, header, stamp)?;
            if ranks.noted() >= ROWS_AT_ONCE { ranks.append() } else { Ok(()) }
        })?;
        ranks.append()?;
        self.rows.everything_changed();
        Ok(())
    }
}
