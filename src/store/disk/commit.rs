//! One batch, one transaction: changes, recency, expiry, eviction and totals.
//!
//! # How it works
//!
//! 0. The first commit after a file was opened makes its order of eviction the one that is wanted
//!    (`adopt.rs`).
//! 1. Changes are reduced to the last one of each key and applied in key order; a `Clear` splits
//!    the batch, since it counts what it finds.
//! 2. Recency that memory handed down goes into the index, and becomes new order rows; with some
//!    strategies it changes ranks. What a check of the file found is looked at again, and put right.
//! 3. What has expired leaves: by the expiry table for deadlines, from the old end of the order for
//!    time-to-idle.
//! 4. While over a limit, whoever is first in the order of eviction leaves (`evict.rs`).
//! 5. Stale order rows are swept in proportion to the rows that were added.
//! 6. The totals, with the number of the batch, are written, and all is committed.
//!
//! # Why an append-only order
//!
//! Removing the old row of each key that is written costs a random access per put: measured, 17,000
//! puts a second against 45,000 in batches of 1,000.

use std::collections::BTreeSet;
use std::ops::Bound;

use redb::{Durability, ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use crate::record::{NEVER, Record};
use crate::store::disk::Writer;
use crate::store::disk::adopt::Known;
use crate::store::disk::blocks::{mildly, strictly};
use crate::store::disk::changes::Changes;
use crate::store::disk::check::Repair;
use crate::store::disk::copied::Copied;
use crate::store::disk::failure::{Failure, guarded};
use crate::store::disk::mark::{Found, Mark};
use crate::store::disk::ranks::Ranks;
use crate::store::disk::rows::{Gone, Rows, Told};
use crate::store::disk::schema::{
    EXPIRY, META, ORDER, TOTALS_ROW, moment_key, push_moment_key, split_moment, write_newest,
};
use crate::store::disk::sorted::Sorted;
use crate::store::{Above, Batch, Change, Op, Outcome, Sweep, Totals, Touch, Verdict, Why};
use crate::strategy::DiskStrategy;

/// The most entries that one batch takes out because of their time, which bounds its duration.
pub(super) const SWEEP_ROWS_MAX: usize = 16_384;
/// The order table may have this many stale rows for free ...
const STALE_ROWS_FREE: u64 = 1_024;
/// ... and beyond that as many as there are entries. Twice as many rows as a batch added are looked
/// at while there are more, so the table shrinks.
const SWEPT_PER_ADDED: u64 = 2;
/// The fewest order rows that a due sweep looks at.
const SWEPT_MIN: u64 = 64;

impl Writer {
    /// Applies a batch and commits it (D1 to D4). After an error the database must be reopened, and
    /// whether the batch was applied is told by the number in [`Writer::reopen`]'s totals.
    pub(crate) fn commit(
        &mut self,
        batch: &Batch<'_>,
        above: &mut dyn Above,
    ) -> Result<Outcome, Failure> {
        let Some(database) = &self.database else {
            return Err(Failure::because("the file is not open"));
        };
        let sweep_from = std::mem::take(&mut self.sweep_from);
        let totals = self.totals;
        let watched = self.compaction.is_some().then(Changes::default);
        let changes = self.disk.changes.begin().or(watched);
        let next_place = self.next_place;
        let (strategy, known) = (self.options.strategy, self.order);
        let copied = self.copied;
        let hasher = self.disk.hasher();
        let done = guarded(|| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.set_quick_repair(batch.quick_repair);
            let mut rows = Rows::watched(&transaction, hasher.clone(), changes)?;
            rows.skip_to(next_place);
            let mut work = Work::start(&transaction, batch, totals, sweep_from, rows, strategy)?;
            let done = mildly(|| {
                if known == Known::Nothing {
                    work.adopt(strategy)?;
                }
                work.apply(batch.ops)?;
                work.touch(batch.touches)?;
                if let Some(repair) = batch.repair {
                    work.repair(repair, batch.is_valid)?;
                }
                work.append_order()?;
                if let Some(sweep) = batch.sweep {
                    work.expire(sweep, above)?;
                }
                work.evict(above)?;
                work.sweep_order()?;
                work.finish(batch.number, copied, above.newest_stamp())
            })?;
            if database.watch().is_hurt() {
                return Err(Failure::damage("pages of the cache file are damaged"));
            }
            transaction.commit()?;
            Ok(done)
        })?;
        self.next_place = done.next_place;
        self.order = Known::Adopted;
        self.is_unsure = !batch.quick_repair;
        self.sweep_from = done.sweep_from;
        self.totals = done.outcome.totals;
        self.newest = done.newest;
        if let (Some(compaction), Some(changes)) = (&mut self.compaction, &done.changes) {
            compaction.follow(changes.clone());
        }
        self.disk.changes.leave(self.disk.epoch() + 1, done.changes);
        self.refresh()?;
        if let Some(database) = &self.database {
            done.told.tell(database.places());
        }
        Ok(done.outcome)
    }
}

/// What there is to say of a transaction that is about to be committed.
struct Done {
    outcome: Outcome,
    sweep_from: Vec<u8>,
    changes: Option<Changes>,
    told: Told,
    next_place: u64,
    newest: u64,
}

/// A transaction with its tables open.
pub(super) struct Work<'t, 'b> {
    pub(super) transaction: &'t WriteTransaction,
    pub(super) batch: &'b Batch<'b>,
    pub(super) rows: Rows<'t, 'b>,
    pub(super) order: Table<'t, &'static [u8], ()>,
    /// The order of eviction, if it is another.
    pub(super) ranks: Option<Ranks<'t>>,
    pub(super) expiry: Table<'t, &'static [u8], ()>,
    added: u64,
    /// Order rows of this batch that are not in the table yet.
    moments: Sorted,
    /// Whether the sums have to be counted anew, because a damaged row went.
    recount: bool,
    sweep_from: Vec<u8>,
    pub(super) outcome: Outcome,
    /// What all charges add up to beyond what the sum in `outcome` holds, before entries are evicted for that.
    pub(super) beyond: u128,
    pub(super) buffer: Vec<u8>,
}

impl<'t, 'b> Work<'t, 'b> {
    fn start(
        transaction: &'t WriteTransaction,
        batch: &'b Batch<'b>,
        totals: Totals,
        sweep_from: Vec<u8>,
        rows: Rows<'t, 'b>,
        strategy: DiskStrategy,
    ) -> Result<Self, Failure> {
        let level = match strategy {
            DiskStrategy::Size => Found::within(transaction)?.level(strategy),
            DiskStrategy::Lru | DiskStrategy::Fifo | DiskStrategy::Ttl => 0,
        };
        Ok(Self {
            transaction,
            batch,
            rows,
            order: transaction.open_table(ORDER)?,
            ranks: Ranks::open(transaction, strategy, level)?,
            expiry: transaction.open_table(EXPIRY)?,
            added: 0,
            moments: Sorted::default(),
            recount: false,
            sweep_from,
            outcome: Outcome { totals, ..Outcome::default() },
            beyond: 0,
            buffer: Vec::new(),
        })
    }

    /// Step 1.
    fn apply(&mut self, ops: &'b [Op]) -> Result<(), Failure> {
        for part in ops.chunk_by(|a, _| !matches!(a.change, Change::Clear)) {
            let clears = part.last().is_some_and(|op| matches!(op.change, Change::Clear));
            // Grouped by key, each group in the order of its operations.
            let mut keyed: Vec<(&Record, u64, &Op)> = (0..)
                .zip(part)
                .filter_map(|(nth, op)| Some((op.change.record()?, nth, op)))
                .collect();
            keyed.sort_by(|a, b| a.0.key().cmp(b.0.key()));
            for group in keyed.chunk_by(|a, b| a.0.key() == b.0.key()) {
                let ([(_, _, first), ..], [.., (record, nth, last)]) = (group, group) else {
                    continue;
                };
                match last.change {
                    Change::Put(_) => self.put(*nth, record, first.reported)?,
                    Change::Remove(_) => {
                        if !first.reported {
                            self.report_replaced(record.key())?;
                        }
                        self.remove(record.key())?;
                    }
                    Change::Scrub(_) => self.scrub(record.key())?,
                    Change::Clear => {}
                }
            }
            if clears {
                self.clear()?;
            }
            self.rows.append(part.len() as u64)?;
        }
        self.ranks.as_mut().map_or(Ok(()), Ranks::append)
    }

    fn put(&mut self, nth: u64, record: &'b Record, reported: bool) -> Result<(), Failure> {
        let (key, header) = (record.key(), record.header());
        let wanted = self.batch.listening && !reported;
        let old = self.rows.put(nth, record, wanted)?;
        self.outcome.totals.entries += 1;
        self.count_charges(header.charge, 0);
        let mut replaced = None;
        if let Some(old) = old {
            replaced = old.header.as_ref().ok().map(|header| (*header, old.stamp));
            let old = self.went(key, old)?;
            self.outcome.replaced.extend(old);
        }
        self.add_order(header.stamp, key);
        if let Some(ranks) = &mut self.ranks {
            ranks.put(key, &header, replaced)?;
        }
        if header.deadline != NEVER {
            moment_key(&mut self.buffer, header.deadline, key);
            self.expiry.insert(self.buffer.as_slice(), ())?;
        }
        Ok(())
    }

    /// A put that is not applied, since its key was removed after it, had replaced this row.
    fn report_replaced(&mut self, key: &[u8]) -> Result<(), Failure> {
        if self.batch.listening
            && let Some(Ok(record)) = self.rows.record(key)?
        {
            self.outcome.replaced.push(record);
        }
        Ok(())
    }

    /// Removes a key's row and what belongs to it, except for its order row, which is now stale.
    pub(super) fn remove(&mut self, key: &[u8]) -> Result<Option<Record>, Failure> {
        let Some(gone) = self.rows.remove(key, self.batch.listening)? else { return Ok(None) };
        if let Some(ranks) = &mut self.ranks {
            ranks.take_out(key, gone.header.as_ref().ok(), gone.stamp)?;
        }
        let record = self.went(key, gone)?;
        Ok(Some(record.unwrap_or_else(|| Record::of_key(key))))
    }

    fn count_charges(&mut self, more: u64, less: u64) {
        let bytes = &mut self.outcome.totals.bytes;
        let sum = u128::from(*bytes) + self.beyond + u128::from(more);
        let sum = sum.saturating_sub(less.into());
        *bytes = u64::try_from(sum).unwrap_or(u64::MAX);
        self.beyond = sum - u128::from(*bytes);
    }

    /// Takes what went out of the sums; gives its record.
    fn went(&mut self, key: &[u8], gone: Gone) -> Result<Option<Record>, Failure> {
        self.outcome.totals.entries = self.outcome.totals.entries.saturating_sub(1);
        match gone.header {
            Ok(old) => {
                self.count_charges(0, old.charge);
                self.drop_deadline(old.deadline, key)?;
            }
            Err(_) => self.damaged_row_went(key)?,
        }
        Ok(gone.record)
    }

    fn scrub(&mut self, key: &[u8]) -> Result<(), Failure> {
        if matches!(self.rows.record(key)?, Some(Err(_))) {
            // Whoever asked for it has counted it.
            let counted = self.outcome.scrubbed;
            self.remove(key)?;
            self.outcome.scrubbed = counted;
        }
        Ok(())
    }

    fn drop_deadline(&mut self, deadline: u64, key: &[u8]) -> Result<(), Failure> {
        if deadline != NEVER {
            moment_key(&mut self.buffer, deadline, key);
            self.expiry.remove(self.buffer.as_slice())?;
        }
        Ok(())
    }

    /// A row went whose header cannot be believed: count the sums anew, and look for its deadline.
    fn damaged_row_went(&mut self, key: &[u8]) -> Result<(), Failure> {
        self.recount = true;
        self.outcome.scrubbed += 1;
        let ends_with_key = |row: &[u8]| split_moment(row).is_some_and(|(_, k)| k == key);
        self.expiry.retain(|row, ()| !ends_with_key(row))?;
        // Its rank is not known either: all are made anew when the sums are counted.
        Ok(())
    }

    fn clear(&mut self) -> Result<(), Failure> {
        self.outcome.cleared.push(self.outcome.totals.entries);
        self.beyond = 0;
        let batch = self.outcome.totals.batch;
        self.outcome.totals = Totals { batch, ..Totals::default() };
        self.moments.clear();
        self.rows.clear()?;
        self.order.retain(|_, ()| false)?;
        self.expiry.retain(|_, ()| false)?;
        self.ranks.as_mut().map_or(Ok(()), Ranks::clear)
    }

    /// Notes an order row, for [`Self::append_order`].
    fn add_order(&mut self, stamp: u64, key: &[u8]) {
        self.moments.add(|rows| push_moment_key(rows, stamp, key));
        self.added += 1;
    }

    /// Puts the noted order rows into the table.
    pub(super) fn append_order(&mut self) -> Result<(), Failure> {
        self.moments.append_to(&mut self.order)
    }

    /// Step 2.
    fn touch(&mut self, touches: &[Touch]) -> Result<(), Failure> {
        let mut touches: Vec<&Touch> = touches.iter().collect();
        touches.sort_by(|a, b| a.record.key().cmp(b.record.key()));
        for touch in touches {
            self.set_recency(touch.record.key(), touch.stamp)?;
        }
        Ok(())
    }

    /// Makes `stamp` the recency of a key, if it is there.
    pub(super) fn set_recency(&mut self, key: &[u8], stamp: u64) -> Result<(), Failure> {
        if let Some(ranks) = self.ranks.as_mut().filter(|ranks| ranks.go_by_recency())
            && let Some((header, from)) = self.rows.header(key)?
        {
            ranks.moved(key, &header, from, stamp)?;
        }
        if self.rows.set_stamp(key, stamp)? {
            self.add_order(stamp, key);
        }
        Ok(())
    }

    /// Puts right what a check found, as far as it is still there: rows that are damaged go, an entry
    /// that is missing in the order or among the deadlines is put there, what leads nowhere goes.
    fn repair(
        &mut self,
        repair: &Repair,
        is_valid: &dyn Fn(&Record) -> bool,
    ) -> Result<(), Failure> {
        let mut gone = BTreeSet::new();
        let mut done = 0;
        for key in &repair.keys {
            // A key without a row of its own is dropped where the rest is counted.
            let Some(record) = self.rows.own_record(key)? else { continue };
            match record {
                Ok(record) if is_valid(&record) => done += self.lead_to(&record)?,
                Ok(_) | Err(_) => {
                    done += 1;
                    gone.insert(key.as_ref());
                    self.rows.remove(key, false)?;
                }
            }
        }
        self.recount |= repair.recount || !gone.is_empty();
        if !gone.is_empty() {
            self.expiry
                .retain(|row, ()| split_moment(row).is_some_and(|(_, k)| !gone.contains(k)))?;
        }
        for row in &repair.deadlines {
            let own = match split_moment(row) {
                Some((deadline, key)) => self.rows.deadline(key)? == Some(deadline),
                None => false,
            };
            if !own && self.expiry.remove(row.as_ref())?.is_some() {
                done += 1;
            }
        }
        if done > 0 {
            self.rows.everything_changed();
        }
        self.outcome.scrubbed += gone.len() as u64;
        self.outcome.repaired += done;
        Ok(())
    }

    /// Sees to it that order and deadlines have an entry (D3, D4); gives how many of them did not.
    fn lead_to(&mut self, record: &Record) -> Result<u64, Failure> {
        let (key, deadline) = (record.key(), record.deadline());
        let mut done = 0;
        if let Some(stamp) = self.rows.stamp(key)? {
            moment_key(&mut self.buffer, stamp, key);
            if self.order.get(self.buffer.as_slice())?.is_none() {
                self.add_order(stamp, key);
                done += 1;
            }
        }
        if deadline != NEVER {
            moment_key(&mut self.buffer, deadline, key);
            done += u64::from(self.expiry.insert(self.buffer.as_slice(), ())?.is_none());
        }
        Ok(done)
    }

    /// Step 3.
    fn expire(&mut self, sweep: Sweep, above: &mut dyn Above) -> Result<(), Failure> {
        let mut until = Vec::new();
        moment_key(&mut until, sweep.now, &[]);
        let mut due = Vec::new();
        for row in self.expiry.range::<&[u8]>(..until.as_slice())?.take(SWEEP_ROWS_MAX) {
            due.push(row?.0.value().to_vec());
        }
        self.outcome.more_expired = due.len() == SWEEP_ROWS_MAX;
        for (deadline, key) in due.iter().filter_map(|row| split_moment(row)) {
            let Some(stamp) = self.rows.stamp(key)? else {
                // D4 says that this cannot be; a row that leads nowhere must not stay.
                self.drop_deadline(deadline, key)?;
                continue;
            };
            if above.ask(key, stamp, Why::Expired) == Verdict::Leave {
                let record = self.remove(key)?;
                self.outcome.expired.extend(record);
            }
        }
        if sweep.time_to_idle != NEVER {
            self.expire_idle(sweep, above)?;
        }
        Ok(())
    }

    /// Step 5.
    fn sweep_order(&mut self) -> Result<(), Failure> {
        if self.order.len()? <= 2 * self.outcome.totals.entries + STALE_ROWS_FREE {
            return Ok(());
        }
        let count = (self.added * SWEPT_PER_ADDED).max(SWEPT_MIN);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut rows = Vec::new();
        for row in self.order.range::<&[u8]>(self.sweep_from.as_slice()..)?.take(count) {
            rows.push(row?.0.value().to_vec());
        }
        let live = self.live_of(&rows)?;
        let mut looked_at = rows.iter().zip(live).peekable();
        let last = rows.last().map_or(Bound::Unbounded, |last| Bound::Included(last.as_slice()));
        let range = (Bound::Included(self.sweep_from.as_slice()), last);
        self.order.retain_in::<&[u8], _>(range, |row, ()| {
            // They are the same rows, unless a page is damaged.
            looked_at.next_if(|(looked, _)| *looked == row).is_none_or(|(_, is_live)| is_live)
        })?;
        self.sweep_from =
            if rows.len() < count { Vec::new() } else { rows.pop().unwrap_or_default() };
        Ok(())
    }

    /// Which of some order rows are those of their keys. The index is asked in the order of its own keys: what
    /// is next to each other there is met at once.
    fn live_of(&self, rows: &[Vec<u8>]) -> Result<Vec<bool>, Failure> {
        let moments = rows.iter().map(|row| split_moment(row)).zip(0..);
        let mut by_key: Vec<_> = moments.filter_map(|(row, nth)| Some((row?, nth))).collect();
        by_key.sort_unstable_by_key(|((_, key), _): &((u64, &[u8]), usize)| *key);
        let mut live = vec![false; rows.len()];
        for ((stamp, key), nth) in by_key {
            if let Some(live) = live.get_mut(nth) {
                *live = self.rows.stamp(key)? == Some(stamp);
            }
        }
        Ok(live)
    }

    /// Step 6, up to the commit itself.
    fn finish(mut self, number: u64, copied: Option<Copied>, newest: u64) -> Result<Done, Failure> {
        if self.recount {
            let before = self.outcome.totals;
            let mended = self.rows.mend()?;
            self.outcome.totals = mended.totals;
            self.outcome.scrubbed += mended.lost;
            let misplaced = self.mend_ranks()?;
            if let Some(repair) = self.batch.repair {
                let alone = mended.lost + mended.stray == 0 && repair.keys.is_empty();
                let totals = u64::from(alone && before.bytes != mended.totals.bytes);
                self.outcome.repaired += mended.lost + mended.stray + totals + misplaced;
            }
        }
        self.outcome.totals.batch = number;
        self.outcome.next_deadline =
            self.expiry.first()?.and_then(|(row, _)| Some(split_moment(row.value())?.0));
        self.outcome.oldest =
            self.order.first()?.and_then(|(row, _)| Some(split_moment(row.value())?.0));
        let mut meta = strictly(|| self.transaction.open_table(META))?;
        meta.insert(TOTALS_ROW, self.outcome.totals.encode().as_slice())?;
        write_newest(&mut meta, newest)?;
        if let Some(copied) = copied {
            copied.write(&mut meta)?;
        }
        if let Some(ranks) = &self.ranks {
            let (strategy, level) = (ranks.strategy(), ranks.level());
            Mark { strategy, batch: number, level }.write(&mut meta)?;
        }
        let next_place = self.rows.end();
        let (changes, told) = self.rows.finish();
        let (outcome, sweep_from) = (self.outcome, self.sweep_from);
        Ok(Done { outcome, sweep_from, changes, told, next_place, newest })
    }
}
