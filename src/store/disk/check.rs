//! The check of a whole file: each row, what belongs to it, and the sums, a slice at a time.
//!
//! [`Check`] reads the snapshot of the last commit at each step and lets go of it at the end of the
//! step: held for longer, a snapshot makes the file grow. So it meets each row once, in the state of
//! some commit while it ran.
//!
//! # How it works
//!
//! 1. Rows by place: checksum, value, and that index, order, ranks and expiry lead to them.
//! 2. If rows and index do not correspond one to one, keys by name: that each leads to a row.
//! 3. Deadlines: that each is its entry's.
//! 4. Entries and bytes against the totals, and the number of ranks.
//!
//! Bytes are counted over many commits: what a commit takes out behind the place that the count has
//! reached is in its [`Changes`](super::changes::Changes), and is taken off the sum before that is
//! compared with the totals of the same commit. What it adds is in front, since places rise.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::ReadableTableMetadata;

use crate::record::{NEVER, Record};
use crate::store::Totals;
use crate::store::disk::Disk;
use crate::store::disk::blocks::strictly;
use crate::store::disk::changes::Changes;
use crate::store::disk::failure::{Failure, guarded_mildly};
use crate::store::disk::ranks::{StoredRanks, rows_wanted};
use crate::store::disk::read::Snapshot;
use crate::store::disk::rows::deadline_of;
use crate::store::disk::schema::{
    EXPIRY, META, ORDER, TOTALS_ROW, moment_key, split_moment, split_row,
};

/// Rows that are checked in one snapshot: about a millisecond.
const ROWS_PER_STEP: usize = 1_024;
/// Faults that are noted for repair; what is beyond them is found the next time. 300 bytes each.
const FAULTS_MAX: usize = 1 << 16;
/// How often a check begins anew because everything changed under it.
const STARTS_MAX: u32 = 16;

/// What a check counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    /// Rows whose checksum or value is wrong.
    pub(crate) damaged: u64,
    /// Keys in the index that lead to no row of theirs.
    pub(crate) missing: u64,
    /// Rows that the index does not lead to.
    pub(crate) stray: u64,
    /// Entries that eviction would not find, and places in its order that are no entry's.
    pub(crate) unordered: u64,
    /// Entries whose deadline would not be found, and deadlines of no entry.
    pub(crate) deadlines: u64,
    pub(crate) wrong_totals: bool,
}

/// What is to be looked at again, and put right, in a transaction.
#[derive(Debug, Default)]
pub(crate) struct Repair {
    /// Keys with something wrong about their rows.
    pub(super) keys: Vec<Box<[u8]>>,
    /// Rows of the expiry table that are no entry's.
    pub(super) deadlines: Vec<Box<[u8]>>,
    /// Whether something leads nowhere, or the totals are wrong.
    pub(super) recount: bool,
    /// How many faults were put right.
    done: AtomicU64,
}

impl Repair {
    pub(crate) fn is_needed(&self) -> bool {
        self.recount || !self.keys.is_empty() || !self.deadlines.is_empty()
    }

    /// Notes how many faults were put right, for whoever waits.
    pub(crate) fn set_done(&self, done: u64) {
        self.done.store(done, Ordering::Release);
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    fn key(&mut self, key: &[u8]) {
        if self.keys.len() < FAULTS_MAX {
            self.keys.push(key.into());
        }
    }
}

/// What a check does next.
#[derive(Debug)]
enum Stage {
    /// The first place that was not looked at.
    Rows(u64),
    /// The last key that was.
    Keys(Option<Box<[u8]>>),
    /// The last deadline that was.
    Deadlines(Option<Box<[u8]>>),
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    More,
    Done,
    /// There is no disk to read now.
    NoDisk,
    /// Everything changed too often.
    TooBusy,
}

/// A check under way.
#[derive(Debug)]
pub(crate) struct Check {
    disk: Arc<Disk>,
    stage: Stage,
    found: Found,
    repair: Repair,
    /// The charges of all rows up to the place that was reached.
    bytes: u64,
    /// Changes that the snapshot of the last step did not have yet.
    ahead: Vec<(u64, Changes)>,
    starts: u32,
    /// Rows looked at, and how many there will be.
    done: u64,
    total: u64,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.disk.changes.unwatch();
    }
}

impl Check {
    /// Begins; there may be one at a time.
    pub(crate) fn start(disk: &Arc<Disk>) -> Self {
        disk.changes.watch();
        Self {
            disk: Arc::clone(disk),
            stage: Stage::Rows(0),
            found: Found::default(),
            repair: Repair::default(),
            bytes: 0,
            ahead: Vec::new(),
            starts: 0,
            done: 0,
            total: 0,
        }
    }

    /// Rows looked at so far, and how many there will be, as far as that is known.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.done, self.total.max(self.done))
    }

    /// What was found, and what is to be done about it.
    pub(crate) fn finish(mut self) -> (Found, Repair) {
        (self.found, std::mem::take(&mut self.repair))
    }

    /// Looks at some more rows. `is_valid` tells whether a value is of the handle's type.
    pub(crate) fn step(&mut self, is_valid: &dyn Fn(&Record) -> bool) -> Result<Step, Failure> {
        let Some(snapshot) = self.disk.snapshot() else { return Ok(Step::NoDisk) };
        let done = guarded_mildly(|| {
            if !self.follow(&snapshot) && !self.start_over() {
                return Ok(Step::TooBusy);
            }
            let deadlines = strictly(|| snapshot.transaction.open_table(EXPIRY))?.len()?;
            self.total = snapshot.rows.len()? + deadlines;
            let next = match std::mem::replace(&mut self.stage, Stage::Rows(0)) {
                Stage::Rows(from) => self.rows(&snapshot, from, is_valid)?,
                Stage::Keys(after) => self.keys(&snapshot, after.as_deref())?,
                Stage::Deadlines(after) => self.deadlines(&snapshot, after.as_deref())?,
            };
            Ok(match next {
                Some(stage) => {
                    self.stage = stage;
                    Step::More
                }
                None => Step::Done,
            })
        });
        match done {
            // The file was opened anew meanwhile.
            Err(_) if !self.disk.is_newest(Some(&snapshot)) => {
                Ok(if self.start_over() { Step::More } else { Step::TooBusy })
            }
            done => done,
        }
    }

    /// Begins anew, unless that was done too often.
    fn start_over(&mut self) -> bool {
        self.starts += 1;
        self.stage = Stage::Rows(0);
        (self.found, self.repair) = (Found::default(), Repair::default());
        (self.bytes, self.done) = (0, 0);
        self.starts <= STARTS_MAX
    }

    /// Takes in what changed up to the snapshot; `false` if everything may have.
    fn follow(&mut self, snapshot: &Snapshot) -> bool {
        self.ahead.extend(self.disk.changes.take());
        let reached = match &self.stage {
            Stage::Rows(from) => *from,
            Stage::Keys(_) | Stage::Deadlines(_) => u64::MAX,
        };
        let (bytes, mut all) = (&mut self.bytes, false);
        self.ahead.retain(|(epoch, changes)| {
            let shown = *epoch <= snapshot.epoch;
            if shown {
                let taken = changes.taken.iter().filter(|(place, _)| *place < reached);
                *bytes = bytes.saturating_sub(taken.map(|(_, charge)| charge).sum());
                all |= changes.all;
            }
            !shown
        });
        // Before the first row it does not matter.
        !all || reached == 0
    }

    fn rows(
        &mut self,
        snapshot: &Snapshot,
        from: u64,
        is_valid: &dyn Fn(&Record) -> bool,
    ) -> Result<Option<Stage>, Failure> {
        let order = strictly(|| snapshot.transaction.open_table(ORDER))?;
        let expiry = strictly(|| snapshot.transaction.open_table(EXPIRY))?;
        let ranks = strictly(|| StoredRanks::open(&snapshot.transaction, self.disk.strategy))?;
        let (mut seen, mut reached, mut moment) = (0, from, Vec::new());
        for row in snapshot.rows.range(from..)?.take(ROWS_PER_STEP) {
            let (place, row) = row?;
            let place = place.value();
            seen += 1;
            // What is not in order would be seen again, and again.
            if place < reached {
                self.stray();
                continue;
            }
            reached = place.saturating_add(1);
            let Some((key, row)) = split_row(row.value()) else {
                self.stray();
                continue;
            };
            let stamp = match snapshot.index.get(key)? {
                Some(entry) if entry.value().0 == place => entry.value().1,
                _ => {
                    self.stray();
                    continue;
                }
            };
            let record = Record::from_row(key, row).ok();
            let typed = |r: &Record| r.header().schema != snapshot.schema_version || is_valid(r);
            let Some(header) = record.filter(typed).map(|record| record.header()) else {
                self.found.damaged += 1;
                self.repair.key(key);
                continue;
            };
            self.bytes = self.bytes.saturating_add(header.charge);
            moment_key(&mut moment, stamp, key);
            let is_ranked = ranks.has(key, &header, stamp)? != Some(false);
            if !is_ranked || order.get(moment.as_slice())?.is_none() {
                self.found.unordered += 1;
                self.repair.key(key);
                self.repair.recount |= !is_ranked;
            }
            moment_key(&mut moment, header.deadline, key);
            if header.deadline != NEVER && expiry.get(moment.as_slice())?.is_none() {
                self.found.deadlines += 1;
                self.repair.key(key);
            }
        }
        self.found.rows += seen;
        self.done += seen;
        if seen == ROWS_PER_STEP as u64 && reached > from {
            return Ok(Some(Stage::Rows(reached)));
        }
        self.sums(snapshot)?;
        let one_to_one = self.found.stray == 0 && snapshot.index.len()? == snapshot.rows.len()?;
        Ok(Some(if one_to_one { Stage::Deadlines(None) } else { Stage::Keys(None) }))
    }

    fn stray(&mut self) {
        self.found.stray += 1;
        self.repair.recount = true;
    }

    /// All rows were seen: compares the sums.
    fn sums(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        let meta = strictly(|| snapshot.transaction.open_table(META))?;
        let totals = meta.get(TOTALS_ROW)?.and_then(|row| Totals::decode(row.value()));
        self.found.entries = snapshot.index.len()?;
        self.found.bytes = self.bytes;
        // A damaged row does not tell its charge, so the sum cannot be compared.
        let sound = self.found.damaged + self.found.stray == 0;
        let equal = totals.is_some_and(|totals| {
            totals.entries == self.found.entries && (totals.bytes == self.bytes || !sound)
        });
        self.found.wrong_totals = !equal;
        self.repair.recount |= !equal;
        self.stray_ranks(snapshot)
    }

    /// Counts rows of the ranks beyond those that entries have.
    fn stray_ranks(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        let (strategy, transaction) = (self.disk.strategy, &snapshot.transaction);
        let deadlines = strictly(|| transaction.open_table(EXPIRY))?.len()?;
        let ranks = strictly(|| StoredRanks::open(transaction, strategy))?;
        if let Some(wanted) = rows_wanted(strategy, snapshot.index.len()?, deadlines) {
            let stray = ranks.len()?.saturating_sub(wanted);
            self.found.unordered += stray;
            self.repair.recount |= stray > 0;
        }
        Ok(())
    }

    fn keys(
        &mut self,
        snapshot: &Snapshot,
        after: Option<&[u8]>,
    ) -> Result<Option<Stage>, Failure> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        let mut seen = 0;
        for row in snapshot.index.range::<&[u8]>((from, Bound::Unbounded))?.take(ROWS_PER_STEP) {
            let (key, entry) = row?;
            let row = snapshot.rows.get(entry.value().0)?;
            let named = row.as_ref().and_then(|row| Some(split_row(row.value())?.0));
            if named != Some(key.value()) {
                self.found.missing += 1;
                self.repair.key(key.value());
                self.repair.recount = true;
            }
            seen += 1;
            last = last.max(Some(key.value().into()));
        }
        let more = seen == ROWS_PER_STEP && last.as_deref() > after;
        Ok(Some(if more { Stage::Keys(last) } else { Stage::Deadlines(None) }))
    }

    fn deadlines(
        &mut self,
        snapshot: &Snapshot,
        after: Option<&[u8]>,
    ) -> Result<Option<Stage>, Failure> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let expiry = strictly(|| snapshot.transaction.open_table(EXPIRY))?;
        let mut last = None;
        let mut seen = 0;
        for row in expiry.range::<&[u8]>((from, Bound::Unbounded))?.take(ROWS_PER_STEP) {
            let row = row?.0;
            let own = match split_moment(row.value()) {
                Some((deadline, key)) => {
                    deadline_of(&snapshot.index, &snapshot.rows, key)? == Some(deadline)
                }
                None => false,
            };
            if !own {
                self.found.deadlines += 1;
                if self.repair.deadlines.len() < FAULTS_MAX {
                    self.repair.deadlines.push(row.value().into());
                }
            }
            seen += 1;
            last = last.max(Some(row.value().into()));
        }
        self.done += seen;
        let more = seen == ROWS_PER_STEP as u64 && last.as_deref() > after;
        Ok(more.then_some(Stage::Deadlines(last)))
    }
}
