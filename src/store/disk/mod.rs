//! The disk tier: one redb file, rows that are slices of records, one writer.
//!
//! [`Disk`] is what readers share: snapshots and totals. [`Writer`] owns the database; there is one,
//! and it commits batches. Both together own the file through its lock.
//!
//! # How it works
//!
//! Readers use the [`Snapshot`] of the last commit: a read transaction with its tables open, which
//! the writer replaces after each commit, so that no old one stays alive and keeps pages from being
//! reused. Rows of a file that is longer than its page cache they read past redb (`places.rs`). Nobody
//! outside this folder sees a guard of redb's.
//!
//! After an error of the device redb refuses everything until it is opened anew; [`Writer::reopen`]
//! does that, and the batch number in the totals tells whether a failed commit had happened.
//!
//! # Invariants
//!
//! - **D1** after each commit the tier is within the limits of that batch.
//! - **D2** `totals` equals a recount of the rows at every commit, crashes included, because
//!   it is written in the same transaction.
//! - **D3** every entry has exactly one live row in the order table: that with its current stamp.
//! - **D4** every entry with a deadline has exactly one row in the expiry table, and no other is
//!   there.
//!
//! With a strategy other than `Lru` there is an order of eviction beside that by recency (`ranks.rs`).
//!
//! # Failure
//!
//! redb itself verifies nothing on reads: beneath it, each block of the file has a checksum
//! (`blocks.rs`), and a row is accepted after its own only. Where pages that lead to rows are damaged
//! the file is *hurt*: what is sound is copied into a new one before anything else is committed. Every
//! call into redb is behind `catch_unwind` all the same.

mod adopt;
mod blocks;
mod changes;
mod check;
mod commit;
mod compact;
mod copied;
mod evict;
mod failure;
mod holding;
mod leaf;
mod lock;
mod mark;
mod open;
mod places;
mod ranks;
mod read;
mod reserve;
mod rows;
mod schema;
mod sorted;
mod volume;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::hash::KeyHasher;
use crate::store::Totals;
use crate::strategy::DiskStrategy;
use crate::sync::thread::JoinHandle;
use crate::sync::{InLane, Lanes};

use volume::Base;

pub(crate) use check::{Check, Found, Repair, Step};
pub(crate) use compact::Compacted;
pub(crate) use copied::Copied;
pub(crate) use failure::Failure;
pub(crate) use open::{OnDamage, OnOtherType, Opened, Options};
pub(crate) use read::{Lookup, Row, Snapshot};
pub(crate) use volume::Place;
pub use volume::{Device, Volume, storage};

/// What readers share.
#[derive(Debug)]
pub(crate) struct Disk {
    /// `None` while the database is being reopened, and after close.
    snapshot: Lanes<Snapshot>,
    entries: AtomicU64,
    bytes: AtomicU64,
    /// Counts snapshots, so that a caller can tell whether there was a commit in between.
    epoch: AtomicU64,
    changes: changes::Log,
    strategy: DiskStrategy,
    hasher: KeyHasher,
}

impl Disk {
    /// By which readers' keys are to be hashed.
    pub(crate) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// The state after the last commit; `None` if the disk cannot be read now.
    pub(crate) fn snapshot(&self) -> Option<InLane<Snapshot>> {
        self.snapshot.get()
    }

    /// What `read` makes of the state after the last commit; `None` if the disk cannot be read now. What
    /// fails only because the file was exchanged or opened anew meanwhile is tried again.
    pub(crate) fn read<R>(
        &self,
        read: impl Fn(&Snapshot) -> Result<R, Failure>,
    ) -> Option<Result<R, Failure>> {
        self.read_in(self.snapshot(), read)
    }

    /// Likewise, of a state that was the last one when it was taken.
    pub(crate) fn read_in<R>(
        &self,
        mut newest: Option<InLane<Snapshot>>,
        read: impl Fn(&Snapshot) -> Result<R, Failure>,
    ) -> Option<Result<R, Failure>> {
        loop {
            let snapshot = newest?;
            match read(&snapshot) {
                Err(_) if !self.is_newest(Some(&snapshot)) => newest = self.snapshot(),
                done => return Some(done),
            }
        }
    }

    /// Whether the last state is still this one.
    pub(crate) fn is_newest(&self, snapshot: Option<&InLane<Snapshot>>) -> bool {
        let newest = self.snapshot.get();
        newest.map(|newest| newest.epoch) == snapshot.map(|snapshot| snapshot.epoch)
    }

    /// Entries and bytes as of the last commit.
    pub(crate) fn held(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Acquire), self.bytes.load(Ordering::Acquire))
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn publish(&self, snapshot: Option<&Arc<Snapshot>>, totals: Totals) {
        self.entries.store(totals.entries, Ordering::Release);
        self.bytes.store(totals.bytes, Ordering::Release);
        self.snapshot.set(snapshot);
        // Last, so that who knows the number has no older snapshot: where it is still the number after a
        // look at the disk, the disk was as it is now.
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}

/// The one who writes. Dropping it closes the database, and then lets the file go.
#[derive(Debug)]
pub(crate) struct Writer {
    disk: Arc<Disk>,
    /// `None` after a failure, until it is reopened.
    database: Option<Base>,
    totals: Totals,
    /// The first place that no row had since the file was opened.
    next_place: u64,
    /// Where the sweep of stale order rows goes on.
    sweep_from: Vec<u8>,
    order: adopt::Known,
    /// What the last copy took, which each commit notes.
    copied: Option<Copied>,
    /// The newest stamp of the cache's clock as of the last commit.
    newest: u64,
    /// A copy being made.
    compaction: Option<compact::Compaction>,
    /// The file before the last compaction, while it is being closed.
    closing: Option<JoinHandle<()>>,
    /// Whether the file got its name and that may not be durable.
    unsynced_names: bool,
    options: Options,
    /// Whether redb would verify the last commit if the process ended now, and give it up for damage.
    is_unsure: bool,
    folder_id: Option<(u64, u64)>,
    /// Room that is kept for a full device, as far as we know.
    reserve: reserve::Reserve,
    /// Whether the file was set aside, and there is none in its place yet.
    is_missing: bool,
    /// That of the file that has the name now.
    file_lock: Option<lock::FileLock>,
    /// Held for as long as the file may be touched; dropped last.
    _lock: Option<lock::FileLock>,
}

impl Writer {
    /// Whether there is a file to write to; if not, it has to be opened anew.
    pub(crate) fn is_open(&self) -> bool {
        self.database.is_some()
    }

    /// Whether the last commit is one that redb would verify, and give up for damage.
    pub(crate) fn is_unsure(&self) -> bool {
        self.is_unsure
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// The newest stamp that the cache's clock had given by the last commit, in whatever process; 0 if that is not
    /// known.
    pub(crate) fn newest_stamp(&self) -> u64 {
        self.newest
    }

    /// What the last copy of this file took, if that is known.
    pub(crate) fn copied(&self) -> Option<Copied> {
        self.copied
    }

    /// Has it noted with the next commit.
    pub(crate) fn set_copied(&mut self, copied: Copied) {
        self.copied = Some(copied);
    }

    /// Opens the database again after a failure, and says what its last commit was.
    pub(crate) fn reopen(&mut self) -> Result<Totals, Failure> {
        self.let_go();
        self.open_database()?;
        self.show()
    }

    /// Opens the file that is there; readers do not see it yet.
    fn open_database(&mut self) -> Result<(), Failure> {
        if self.is_missing {
            self.check_folder()?;
            open::make_anew(&self.options)?;
            self.is_missing = false;
            self.totals = Totals::default();
            self.lock_file();
        }
        self.sync_names()?;
        let database = open::open_database(&self.options)?;
        let totals = open::totals(&database)?;
        if totals.batch < self.totals.batch {
            // Damage, of which redb makes that the last commit never ended.
            return Err(Failure::damage("the file went back to an earlier commit"));
        }
        self.totals = totals;
        self.order = adopt::Known::Nothing;
        self.database = Some(database);
        Ok(())
    }

    /// Sets the file aside, which is damaged beyond use, and opens a new one in its place; an error
    /// where the caller chose to be told instead. Readers see it after [`Self::show`].
    pub(crate) fn start_anew(&mut self, failure: Failure) -> Result<(), Failure> {
        self.let_go();
        self.check_folder()?;
        open::make_way(&self.options, failure)?;
        self.next_place = 0;
        self.is_missing = true;
        self.sweep_from.clear();
        self.open_database()
    }

    /// A file must not be made in a folder that stands in for the one that it was in.
    fn check_folder(&self) -> Result<(), Failure> {
        if self.options.place.folder_id(&self.options.path) == self.folder_id {
            return Ok(());
        }
        Err(Failure::because("the folder of the cache file is not the one it was opened in"))
    }

    /// Locks the file that has the name now.
    fn lock_file(&mut self) {
        // The one before, which nobody opens again, is let go. We hold the lock file all the while.
        self.file_lock = open::lock_by_inode(&self.options).unwrap_or(None);
    }

    /// Gives readers the file that was opened, and says what its last commit was.
    pub(crate) fn show(&mut self) -> Result<Totals, Failure> {
        self.disk.changes.leave(self.disk.epoch() + 1, None);
        self.refresh()?;
        Ok(self.totals)
    }

    /// Gives readers the state after the last commit.
    fn refresh(&mut self) -> Result<(), Failure> {
        let Some(database) = &self.database else { return Ok(()) };
        let (schema_version, entries) = (self.options.schema_version, self.totals.entries);
        // Only this thread publishes, so this is the number that the snapshot will have.
        let epoch = self.disk.epoch() + 1;
        let take = || Snapshot::take(database, schema_version, epoch, entries);
        let snapshot = failure::guarded(take)?;
        database.places().begin(epoch);
        self.disk.publish(Some(&Arc::new(snapshot)), self.totals);
        Ok(())
    }

    /// Closes the database, so that it can be opened again; keeps the lock.
    pub(crate) fn let_go(&mut self) {
        self.cancel_compaction();
        self.disk.publish(None, self.totals);
        self.database = None;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.let_go();
        self.end_closing();
    }
}
