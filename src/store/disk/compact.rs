//! Compaction: a copy of the file without its dead pages, made beside it and put in its place.
//!
//! The writer makes it, a slice at a time between commits, which go on in the old file. So no reader
//! waits, and no snapshot is held.
//!
//! # How it works
//!
//! 1. Rows are copied in the order of their places, which they keep; each with its entry in the index,
//!    its order row, its rank and its deadline. What is damaged, or leads nowhere, is left out.
//! 2. A commit appends rows in front of the copy, which gets there in time. What it takes out behind
//!    the copy, and the stamps and ranks that it changes, are noted and done in the copy before the next slice.
//! 3. When all is copied, that is committed by a thread of its own, while commits go on in the old file;
//!    so is what came meanwhile, until it is little. Then the rest is copied, and the meta rows.
//! 4. The copy is closed, synced, and given the file's name; the folder is synced. Then readers get its
//!    snapshot, and the old file is closed.
//!
//! # Invariants
//!
//! - **K1** between slices, the copy has exactly the rows of the old file below `from`, as of the
//!   changes that it followed.
//!
//! # Failure
//!
//! Until the copy has the name, the old file is as it was, and the copy is removed; a crash leaves one
//! that is removed at the next open. If the folder cannot be synced, nothing is written to the new file
//! before it can: a power cut could bring the old one back.

use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};

use crate::record::{Header, NEVER};
use crate::store::Totals;
use crate::store::disk::blocks::mildly;
use crate::store::disk::changes::Changes;
use crate::store::disk::failure::{Failure, guarded};
use crate::store::disk::lock::beside;
use crate::store::disk::mark::{Found, Mark};
use crate::store::disk::ranks::{Ranks, StoredRanks};
use crate::store::disk::schema::{
    EXPIRY, FILED, INDEX, META, ORDER, RANKS, ROWS, moment_key, push_moment_key, split_row,
    write_newest,
};
use crate::store::disk::sorted::Sorted;
use crate::store::disk::volume::Base;
use crate::store::disk::{Options, Place, Snapshot, Writer, open};
use crate::strategy::DiskStrategy;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};
use crate::time::monotonic;

/// The page cache of the copy, half of which may have to be written by its commit.
const CACHE_BYTES: usize = 16 << 20;
/// What is copied before the system is told to write it, so that the last sync does not take long.
const SYNC_BYTES: u64 = 2 << 20;
/// A copy takes the place of the file when so many bytes at most are left to commit, which everybody
/// waits for, ...
const REST_BYTES: u64 = 1 << 20;
/// ... or after so many commits: on a slow device as much may come as is written.
const COMMITS_MAX: u32 = 4;
/// How often it is looked whether a file that was replaced is read still.
const READ_PAUSE: Duration = Duration::from_millis(1);
/// A slice of the copy that heals a file: between two it is synced.
const HEAL_SLICE: Duration = Duration::from_millis(100);
/// A slice copies at least so many rows for each that commits added, so that it gets in front.
const ROWS_PER_ADDED: u64 = 2;

/// What a compaction did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compacted {
    /// Bytes occupied before and after.
    pub(crate) before: u64,
    pub(crate) after: u64,
    /// Entries that were left out because they were damaged.
    pub(crate) dropped: u64,
}

/// A copy being made.
pub(super) struct Compaction {
    path: PathBuf,
    /// What is copied and not committed; goes before the database does.
    transaction: Option<WriteTransaction>,
    /// The commit of most of it, while it is being made.
    commit: Option<Commit>,
    database: Base,
    /// The first place that is not copied (K1).
    from: u64,
    /// The first place that was free when the last slice ended.
    end: u64,
    copied: Totals,
    changes: Changes,
    /// How often that was done; then the rest is little.
    commits: u32,
    /// Bytes copied since.
    uncommitted_bytes: u64,
    unsynced_bytes: u64,
    before: u64,
}

impl std::fmt::Debug for Compaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compaction").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Compaction {
    fn begin(options: &Options, old: &Database) -> Result<Self, Failure> {
        let path = beside(&options.path, ".new");
        let before = options.place.occupied(&options.path)?;
        let database = guarded(|| options.place.create(&path, CACHE_BYTES))?;
        let end = guarded(|| {
            let rows = old.begin_read()?.open_table(ROWS)?;
            mildly(|| end_of(&rows))
        })?;
        Ok(Self {
            path,
            database,
            transaction: None,
            from: 0,
            end,
            copied: Totals::default(),
            changes: Changes::default(),
            commit: None,
            commits: 0,
            uncommitted_bytes: 0,
            unsynced_bytes: 0,
            before,
        })
    }

    /// Notes what a commit changed.
    pub(super) fn follow(&mut self, changes: Changes) {
        self.changes.add(changes);
    }

    /// Copies on for about this time; `true` when there is nothing left. No commit happens meanwhile.
    fn slice(
        &mut self,
        old: &Database,
        strategy: DiskStrategy,
        time: Duration,
    ) -> Result<bool, Failure> {
        let transaction = self.take_transaction()?;
        if self.changes.all {
            for table in [ORDER, EXPIRY] {
                transaction.delete_table(table)?;
            }
            transaction.delete_table(INDEX)?;
            transaction.delete_table(ROWS)?;
            transaction.delete_table(RANKS)?;
            transaction.delete_table(FILED)?;
            (self.from, self.copied) = (0, Totals::default());
        }
        let changes = std::mem::take(&mut self.changes);
        let mut copy = Copy::open(&transaction, old, strategy, self.copied)?;
        if !changes.all {
            copy.take_out(changes.taken.iter().map(|(place, _)| *place), self.from)?;
            mildly(|| copy.restamp(&changes.touched))?;
        }
        let end = mildly(|| end_of(&copy.old_rows))?;
        let rows_min = ROWS_PER_ADDED * end.saturating_sub(self.end);
        self.end = end;
        let before = copy.copied.bytes;
        let done;
        (self.from, done) = mildly(|| copy.rows(self.from, monotonic() + time, rows_min))?;
        self.unsynced_bytes += copy.copied.bytes - before;
        self.uncommitted_bytes += copy.copied.bytes - before;
        self.copied = copy.copied;
        drop(copy);
        self.transaction = Some(transaction);
        Ok(done)
    }

    /// Begins to commit what is copied; where a test says what becomes of each write, makes it at once.
    fn begin_commit(&mut self, place: &Place) -> Result<(), Failure> {
        (self.unsynced_bytes, self.uncommitted_bytes) = (0, 0);
        self.commits += 1;
        let transaction = self.take_transaction()?;
        if matches!(place, Place::Files) {
            self.commit = Some(Commit::begin(transaction)?);
        } else {
            transaction.commit()?;
        }
        Ok(())
    }

    /// Whether a commit is being made; waits for it for this time at most.
    fn is_committing(&mut self, time: Duration) -> Result<bool, Failure> {
        let Some(commit) = &self.commit else { return Ok(false) };
        let Some(done) = commit.wait(time) else { return Ok(true) };
        self.commit = None;
        done.map(|()| false)
    }

    /// The transaction that is open, or a new one.
    fn take_transaction(&mut self) -> Result<WriteTransaction, Failure> {
        Ok(match self.transaction.take() {
            Some(transaction) => transaction,
            None => self.database.begin_write()?,
        })
    }

    /// Writes the meta rows and closes the copy, which is complete; gives its totals.
    fn close(
        mut self,
        options: &Options,
        batch: u64,
        level: u64,
        newest: u64,
    ) -> Result<Totals, Failure> {
        let totals = Totals { batch, ..self.copied };
        let transaction = self.take_transaction()?;
        open::write_meta(&transaction, options, totals)?;
        let mark = Mark { strategy: options.strategy, batch, level };
        {
            let mut meta = transaction.open_table(META)?;
            mark.write(&mut meta)?;
            write_newest(&mut meta, newest)?;
        }
        transaction.commit()?;
        drop(self.database);
        Ok(totals)
    }
}

/// What a commit came to, once it is done.
type Done = (Mutex<Option<Result<(), Failure>>>, Condvar);

/// A commit that a thread makes. Dropping it waits for its end.
#[derive(Debug)]
struct Commit {
    done: Arc<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Commit {
    fn begin(transaction: WriteTransaction) -> Result<Self, Failure> {
        let done = Arc::<Done>::default();
        let told = Arc::clone(&done);
        let commit = move || {
            let committed = guarded(|| Ok(transaction.commit()?));
            *told.0.lock() = Some(committed);
            told.1.notify_all();
        };
        let thread = thread::Builder::new().name("larder-compact".to_owned()).spawn(commit)?;
        Ok(Self { done, thread: Some(thread) })
    }

    /// What it came to, if that is known within this time.
    fn wait(&self, time: Duration) -> Option<Result<(), Failure>> {
        let mut done = self.done.0.lock();
        if done.is_none() {
            let _ = self.done.1.wait_until(&mut done, monotonic() + time);
        }
        done.take()
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The first free place behind all rows.
fn end_of(rows: &impl ReadableTable<u64, &'static [u8]>) -> Result<u64, Failure> {
    Ok(rows.last()?.map_or(0, |(place, _)| place.value().saturating_add(1)))
}

type Moments<'t> = redb::Table<'t, &'static [u8], ()>;

/// The tables of the copy, open, and those of the old file that it is made from.
struct Copy<'t> {
    old_index: redb::ReadOnlyTable<&'static [u8], (u64, u64)>,
    old_rows: redb::ReadOnlyTable<u64, &'static [u8]>,
    index: redb::Table<'t, &'static [u8], (u64, u64)>,
    rows: redb::Table<'t, u64, &'static [u8]>,
    order: Moments<'t>,
    expiry: Moments<'t>,
    ranks: Option<Ranks<'t>>,
    old_ranks: StoredRanks,
    copied: Totals,
    buffer: Vec<u8>,
}

impl<'t> Copy<'t> {
    fn open(
        transaction: &'t WriteTransaction,
        old: &Database,
        strategy: DiskStrategy,
        copied: Totals,
    ) -> Result<Self, Failure> {
        let read = old.begin_read()?;
        let level = Found::committed(&read)?.level(strategy);
        Ok(Self {
            old_index: read.open_table(INDEX)?,
            old_rows: read.open_table(ROWS)?,
            index: transaction.open_table(INDEX)?,
            rows: transaction.open_table(ROWS)?,
            order: transaction.open_table(ORDER)?,
            expiry: transaction.open_table(EXPIRY)?,
            ranks: Ranks::open(transaction, strategy, level)?,
            old_ranks: StoredRanks::open(&read, strategy)?,
            copied,
            buffer: Vec::new(),
        })
    }

    /// Takes out rows that went from the old file. Their order rows are stale from now on.
    fn take_out(&mut self, places: impl Iterator<Item = u64>, from: u64) -> Result<(), Failure> {
        for place in places.filter(|place| *place < from) {
            let Some(row) = self.rows.remove(place)? else { continue };
            // It was sound when it was copied.
            let Some((key, row)) = split_row(row.value()) else { continue };
            let known = self.index.get(key)?.map(|entry| entry.value());
            if let Some((_, stamp)) = known.filter(|entry| entry.0 == place) {
                self.index.remove(key)?;
                if let Some(ranks) = &mut self.ranks {
                    ranks.take_out(key, Header::parse(row, key.len()).as_ref().ok(), stamp)?;
                }
            }
            self.copied.entries = self.copied.entries.saturating_sub(1);
            if let Ok(header) = Header::parse(row, key.len()) {
                self.copied.bytes = self.copied.bytes.saturating_sub(header.charge);
                if header.deadline != NEVER {
                    moment_key(&mut self.buffer, header.deadline, key);
                    self.expiry.remove(self.buffer.as_slice())?;
                }
            }
        }
        Ok(())
    }

    /// Gives keys that are copied the stamps and the ranks that they have now.
    fn restamp(&mut self, keys: &[Box<[u8]>]) -> Result<(), Failure> {
        for key in keys {
            let Some(now) = self.old_index.get(key.as_ref())?.map(|entry| entry.value()) else {
                continue;
            };
            let Some(mut entry) = self.index.get_mut(key.as_ref())? else { continue };
            let before = entry.value();
            if before.0 != now.0 {
                continue;
            }
            entry.insert(now)?;
            drop(entry);
            moment_key(&mut self.buffer, now.1, key);
            self.order.insert(self.buffer.as_slice(), ())?;
            let Some(ranks) = &mut self.ranks else { continue };
            let row = self.rows.get(now.0)?;
            let row = row.as_ref().and_then(|row| split_row(row.value()));
            if let Some(Ok(header)) = row.map(|(_, row)| Header::parse(row, key.len())) {
                ranks.follow(key, &header, before.1, now.1, self.old_ranks.filed(key)?)?;
            }
        }
        Ok(())
    }

    /// Copies rows from a place on, until it is time, and at least so many; gives the first place that
    /// is not copied, and whether that is behind all rows.
    fn rows(&mut self, from: u64, until: Instant, rows_min: u64) -> Result<(u64, bool), Failure> {
        let (mut next, mut count, mut done) = (from, 0, true);
        let mut moments = Sorted::default();
        let mut end = self.rows.upper_bound_mut(Bound::<u64>::Unbounded)?;
        for row in self.old_rows.range(from..)? {
            // Where nothing can be copied the next slice would begin where this one did.
            if count >= rows_min && next > from && monotonic() >= until {
                done = false;
                break;
            }
            let (place, row) = row?;
            let place = place.value();
            count += 1;
            // Damage can put a place where it does not belong.
            let Some((key, stored)) = split_row(row.value()).filter(|_| place >= next) else {
                continue;
            };
            let known = self.old_index.get(key)?.map(|entry| entry.value());
            let Some((_, stamp)) = known.filter(|entry| entry.0 == place) else { continue };
            next = place.saturating_add(1);
            let Ok(header) = Header::check(stored, key) else { continue };
            end.insert_before(place, row.value())?;
            self.index.insert(key, (place, stamp))?;
            moments.add(|rows| push_moment_key(rows, stamp, key));
            if let Some(ranks) = &mut self.ranks {
                ranks.copy(key, &header, stamp, self.old_ranks.filed(key)?)?;
            }
            if header.deadline != NEVER {
                moment_key(&mut self.buffer, header.deadline, key);
                self.expiry.insert(self.buffer.as_slice(), ())?;
            }
            self.copied.entries += 1;
            self.copied.bytes = self.copied.bytes.saturating_add(header.charge);
        }
        end.close()?;
        moments.append_to(&mut self.order)?;
        self.ranks.as_mut().map_or(Ok(()), Ranks::append)?;
        Ok((next, done))
    }
}

impl Writer {
    /// Begins a compaction, if none is under way.
    pub(crate) fn begin_compaction(&mut self) -> Result<(), Failure> {
        if let (None, Some(database)) = (&self.compaction, &self.database) {
            let begun = Compaction::begin(&self.options, database).inspect_err(|_| {
                let _ = self.options.place.remove(&beside(&self.options.path, ".new"));
            });
            self.compaction = Some(begun?);
        }
        Ok(())
    }

    /// Whether pages are damaged so that nothing can be committed before the file is healed.
    pub(crate) fn is_hurt(&self) -> bool {
        self.database.as_ref().is_some_and(|database| database.watch().is_hurt())
    }

    /// After a failure: whether there is damage in the file that explains it. It is hurt then.
    pub(crate) fn hurts(&self) -> bool {
        self.database.as_ref().is_some_and(|database| database.watch().hurts())
    }

    /// Puts a copy of all that is sound in the place of the file.
    pub(crate) fn heal(&mut self) -> Result<Compacted, Failure> {
        self.begin_compaction()?;
        loop {
            if let Some(healed) = self.compact(HEAL_SLICE)? {
                return Ok(healed);
            }
        }
    }

    pub(crate) fn is_compacting(&self) -> bool {
        self.compaction.is_some()
    }

    /// Bytes that the file occupies.
    pub(crate) fn occupied(&self) -> Result<u64, Failure> {
        Ok(self.options.place.occupied(&self.options.path)?)
    }

    /// Bytes that the copy occupies that is being made.
    pub(crate) fn copy_occupies(&self) -> u64 {
        let path = self.compaction.as_ref().map(|compaction| &compaction.path);
        path.and_then(|path| self.options.place.occupied(path).ok()).unwrap_or(0)
    }

    /// Gives up the compaction, if one is under way.
    pub(crate) fn cancel_compaction(&mut self) {
        let Some(compaction) = self.compaction.take() else { return };
        let path = compaction.path.clone();
        let _ = guarded(move || {
            drop(compaction);
            Ok(())
        });
        let _ = self.options.place.remove(&path);
    }

    /// Goes on with the compaction for about this time; gives what it did when it is done. After an
    /// error there is none any more; the file may have to be opened anew.
    pub(crate) fn compact(&mut self, time: Duration) -> Result<Option<Compacted>, Failure> {
        let done = self.compact_on(time);
        if done.is_err() {
            self.cancel_compaction();
        }
        done
    }

    fn compact_on(&mut self, time: Duration) -> Result<Option<Compacted>, Failure> {
        let (Some(compaction), Some(database)) = (&mut self.compaction, &self.database) else {
            return Err(Failure::because("the file is not open"));
        };
        let place = &self.options.place;
        let ready = guarded(|| {
            if compaction.is_committing(time)? {
                return Ok(false);
            }
            if !compaction.slice(database, self.options.strategy, time)? {
                if compaction.unsynced_bytes >= SYNC_BYTES {
                    compaction.unsynced_bytes = 0;
                    place.sync(&compaction.path)?;
                }
                return Ok(false);
            }
            let is_little = compaction.uncommitted_bytes < REST_BYTES;
            let ready = match compaction.commits {
                0 => false,
                commits => is_little || commits >= COMMITS_MAX,
            };
            if !ready {
                compaction.begin_commit(place)?;
            }
            Ok(ready)
        })?;
        if ready { self.swap().map(Some) } else { Ok(None) }
    }

    /// Puts the copy, which is complete, in the place of the file.
    fn swap(&mut self) -> Result<Compacted, Failure> {
        let Some(compaction) = self.compaction.take() else {
            return Err(Failure::because("there is no copy"));
        };
        let (place, path) = (&self.options.place, &self.options.path);
        let (new, before) = (compaction.path.clone(), compaction.before);
        let batch = self.totals.batch;
        let (old, strategy) = (self.database.as_ref(), self.options.strategy);
        let moved = guarded(|| {
            let read = old.map(|old| old.begin_read()).transpose()?;
            let found = read.as_ref().map(Found::committed).transpose()?;
            let level = found.map_or(0, |found| found.level(strategy));
            let totals = compaction.close(&self.options, batch, level, self.newest)?;
            place.sync(&new)?;
            place.rename(&new, path)?;
            Ok(totals)
        });
        let totals = match moved {
            Ok(totals) => totals,
            Err(failure) => {
                let _ = place.remove(&new);
                return Err(failure);
            }
        };
        // From here on the old file is nobody's.
        self.lock_file();
        self.unsynced_names = true;
        let dropped = self.totals.entries.saturating_sub(totals.entries);
        let opened = self.sync_names().and_then(|()| open::open_database(&self.options));
        let old = match opened {
            Ok(opened) => self.database.replace(opened),
            Err(failure) => {
                self.let_go();
                return Err(failure);
            }
        };
        self.totals = totals;
        self.sweep_from.clear();
        let changes = (dropped == 0).then(Changes::default);
        self.disk.changes.leave(self.disk.epoch() + 1, changes);
        let read = self.disk.snapshot().map(|read| Arc::clone(&*read));
        let shown = self.refresh();
        if let Some(old) = old {
            self.close_slowly(old, read);
        }
        if let Err(failure) = shown {
            self.let_go();
            return Err(failure);
        }
        let after = self.occupied().unwrap_or(0);
        Ok(Compacted { before, after, dropped })
    }

    /// Closes a file that has no name any more: giving its blocks back takes the system long.
    fn close_slowly(&mut self, old: Base, read: Option<Arc<Snapshot>>) {
        if matches!(self.options.place, Place::Files) {
            let close = move || {
                // Who reads it still, is to read to the end.
                while read.as_ref().is_some_and(|read| Arc::strong_count(read) > 1) {
                    thread::park_timeout(READ_PAUSE);
                }
                drop(read);
                old.forget();
            };
            self.end_closing();
            // Where no thread can be had, it is closed here.
            self.closing = thread::Builder::new().spawn(close).ok();
        } else {
            old.forget();
        }
    }

    /// Waits until the file before is closed.
    pub(super) fn end_closing(&mut self) {
        if let Some(closing) = self.closing.take() {
            let _ = closing.join();
        }
    }

    /// Makes it durable that the file has its name, if that is not known.
    pub(super) fn sync_names(&mut self) -> Result<(), Failure> {
        if self.unsynced_names {
            self.options.place.sync_names(&self.options.path)?;
            self.unsynced_names = false;
        }
        Ok(())
    }
}
