//! The engine: the one place where tiers meet.
//!
//! [`Engine`] is the handle that the typed and the byte cache wrap. It works on records and key
//! bytes; what a value's bytes mean is told by a validator.
//!
//! # How it works
//!
//! `read.rs` has the way down: memory, pending operations, disk, and promotion back up. `write.rs`
//! has the way in: encode, ask the queue for room; `place.rs` the rest of it: make room in memory, note the
//! operation, queue it. `writer.rs` is the thread that turns the queue into commits and is asked by the store
//! before an entry leaves. `sweep.rs` is the
//! thread that keeps the time and takes out what has expired. `walk.rs` lists.
//!
//! # Concurrency
//!
//! Locks, in the order in which they may be taken together: one shard; the memory account or the
//! queue. The disk is never read under a lock. Listeners run, and records are dropped, after every
//! lock is gone.
//!
//! # Failure
//!
//! A caller's code that panics (a weigher, a `Serialize`, a listener, a closure of `view`) does so
//! before the first change or after the last.

mod asked;
mod batch;
mod below;
mod bound;
mod compact;
mod garbage;
mod health;
mod life;
mod many;
mod pending;
mod place;
mod queue;
mod read;
mod remove;
mod sweep;
mod verify;
mod walk;
mod write;
mod writer;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::attributes::attributes_are_valid;
use crate::config::{Config, ErrorPolicy};
use crate::entry::{Age, Found, RemovalCause, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::health::{Health, TierHealth};
use crate::memory::{Evicted, Locked, Memory, Newcomer, Placement, Removed, Room, SlotId};
use crate::record::{NEVER, Record, Seal};
use crate::stats::{Limits, SharedCounts, Stats};
use crate::store::disk::{Disk, Failure};
use crate::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering};
use crate::sync::thread::ThreadId;
use crate::sync::{Condvar, Mutex};
use crate::time::{Ticker, Timestamp, nanos_of};
use crate::trace;

use garbage::Garbage;
use health::Degraded;
use pending::Side;
use queue::Queue;

pub(crate) use batch::Item;
pub use compact::CompactReport;
pub(crate) use life::{Engine, Schema};
pub(crate) use remove::Removal;
pub use verify::{VerifyOptions, VerifyReport};

/// What all handles and threads of one cache share.
pub(crate) struct Core {
    memory: Memory<Side>,
    disk: Option<DiskSide>,
    clock: Ticker,
    config: Config,
    lifetimes: Lifetimes,
    /// What entries are given along; `None` where the defaults will do.
    age: Option<Arc<Age>>,
    /// Whether the value bytes of a record from disk are what the handle's type expects.
    validator: fn(&[u8]) -> bool,
    counts: SharedCounts,
    closed: AtomicBool,
    /// Open, with the system's clock and without a time-to-idle: hits have less to look at.
    is_plain: AtomicBool,
    /// Whether any entry may ever expire: until then nothing is swept.
    may_expire: AtomicBool,
}

/// The disk tier as the engine sees it.
struct DiskSide {
    disk: Arc<Disk>,
    queue: Queue,
    limits: Mutex<Limits>,
    /// The most entries that the device had room for when it was last found full.
    room: Mutex<Option<u64>>,
    /// What the bound for the file makes of them, for the next commit.
    file_limits: Mutex<Limits>,
    degraded: Degraded,
    /// What came of the last compaction.
    compacted: Mutex<std::result::Result<CompactReport, String>>,
    /// Who verifies the file, and what is told when that has ended.
    verifier: Mutex<Option<ThreadId>>,
    verified: Condvar,
    /// How many touches all shards hold; see [`Side`].
    touched: AtomicIsize,
    /// The earliest deadline, and the stamp of the entry that is longest unused, on disk.
    next_deadline: AtomicU64,
    oldest: AtomicU64,
}

impl DiskSide {
    /// The limits of the next commit.
    fn commit_limits(&self) -> Limits {
        let room = Limits { entries: *self.room.lock(), bytes: None };
        self.limits.lock().and(*self.file_limits.lock()).and(room)
    }

    /// Why there is no disk to read.
    #[cold]
    fn unreadable(&self) -> Error {
        self.queue.failing().unwrap_or_else(|| {
            Error::new(ErrorKind::Io, "the disk tier is being opened again; try again")
        })
    }
}

#[cold]
fn warn_of_order() {
    let what = "the eviction order panicked, entries leave in no order";
    trace::warn(what, &"it is not asked any more");
}

/// Calls a listener, whose panic harms nothing.
fn call_out(panicked: &str, listener: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(listener)).is_err() {
        trace::warn(panicked, &"the cache goes on");
    }
}

/// Durations in nanoseconds; [`NEVER`] for none.
#[derive(Debug, Clone, Copy)]
struct Lifetimes {
    /// Of an entry: the time-to-live of the lowest tier.
    entry: u64,
    /// Of the copy in memory, where there is a disk tier.
    copy: u64,
    idle: u64,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The time of one operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// The place in the order.
    stamp: u64,
    /// What deadlines are measured against.
    wall: u64,
    /// The caller's own.
    is_explicit: bool,
}

/// How far stamps may be ahead of the clock by counting, in nanoseconds: some refreshes.
const STAMPS_AHEAD_MAX: u64 = 1_000_000_000;

/// The number of touches above which a commit is asked for, though nothing else needs one: until then
/// reads cost the writer nothing.
const TOUCHES_WANT_COMMIT: isize = 1 << 17;
/// The number of touches above which a reader waits for the writer: about 100 bytes each.
const TOUCHES_MAX: isize = 1 << 18;

impl Core {
    /// Whether this is one of the cache's own threads, on which only a listener or a clock of the user's calls it: the
    /// others may be waiting for that very thread.
    fn is_own_thread(&self) -> bool {
        let is_writer = self.disk.as_ref().is_some_and(|disk| disk.queue.is_writer());
        is_writer || self.clock.is_kept_here()
    }

    #[inline]
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) { Err(Error::closed()) } else { Ok(()) }
    }

    #[inline]
    fn check_key(&self, key: &[u8]) -> Result<()> {
        self.check_open()?;
        crate::key::check(key, self.config.max_key_bytes)
    }

    /// What most gets need not look at more than once.
    #[inline]
    fn is_plain(&self, at: Option<Timestamp>) -> bool {
        at.is_none() && self.is_plain.load(Ordering::Relaxed)
    }

    #[inline]
    fn moment(&self, at: Option<Timestamp>) -> Moment {
        if let Some(at) = at {
            return Moment { stamp: at.as_nanos(), wall: at.as_nanos(), is_explicit: true };
        }
        let (stamp, wall) = self.clock.stamp_and_wall();
        Moment { stamp, wall, is_explicit: false }
    }

    /// Whether an access of this moment came late to an entry that was accessed at `stamp` meanwhile. What
    /// is newer than all that the clock gave is a caller's stamp, and a clock's takes the place of it.
    fn is_late(&self, moment: Moment, stamp: u64) -> bool {
        !moment.is_explicit && moment.stamp < stamp && stamp <= self.clock.newest()
    }

    /// When what is written in this moment counts as created: with the system's clock, at its stamp,
    /// which differs by less than the clock's refreshes, and takes no word of its own. Unless the system's clock
    /// went back since the file was last open: then stamps are ahead of it, and lifetimes go by the clock.
    #[inline]
    fn created(&self, moment: Moment) -> u64 {
        let is_ahead = moment.stamp.saturating_sub(moment.wall) > STAMPS_AHEAD_MAX;
        if self.clock.is_injected() || is_ahead { moment.wall } else { moment.stamp }
    }

    /// The wall time of an operation that sets no stamp.
    fn wall(&self, at: Option<Timestamp>) -> u64 {
        at.map_or_else(|| self.clock.wall(), Timestamp::as_nanos)
    }

    #[inline]
    fn seal(&self) -> Seal {
        if self.disk.is_some() { Seal::Checksummed } else { Seal::MemoryOnly }
    }

    #[inline]
    fn found(&self, record: Record, accessed: u64, tier: Tier) -> Found {
        Found { record, accessed, tier, age: self.age.clone() }
    }

    /// Whether an entry with this deadline, last accessed at `stamp`, is over at `wall`.
    #[inline]
    fn is_over(&self, deadline: u64, stamp: u64, wall: u64) -> bool {
        wall > deadline || wall > stamp.saturating_add(self.lifetimes.idle)
    }

    /// Whether an entry of this charge may be in memory at all.
    #[inline]
    fn fits_memory(&self, charge: u64, limits: Limits) -> bool {
        limits.entries != Some(0)
            && limits.bytes.is_none_or(|max| max > 0 && charge <= max)
            && self.config.max_memory_entry_bytes.is_none_or(|max| charge <= max)
    }

    /// When a copy that enters memory at `wall` leaves it.
    #[inline]
    fn memory_deadline(&self, deadline: u64, wall: u64) -> u64 {
        deadline.min(wall.saturating_add(self.lifetimes.copy))
    }

    /// Gives an entry in memory a new stamp, and sees to it that the disk does not think it newer
    /// than it is (P4).
    fn accessed(&self, locked: &mut Locked<'_, Side>, id: SlotId, stamp: u64) {
        locked.shard.restamp(id, stamp);
        if let Some(handed) = locked.shard.handed(id).filter(|handed| stamp < *handed) {
            self.went_back(locked, id, stamp, handed);
        }
    }

    #[cold]
    fn went_back(&self, locked: &mut Locked<'_, Side>, id: SlotId, stamp: u64, handed: u64) {
        let record = locked.shard.record(id).clone();
        let hash = self.memory.hash(record.key());
        locked.shard.set_handed(id, Some(stamp));
        self.count_touches(locked.side.touch(hash, record.key(), stamp, handed));
    }

    /// Adds to the number of touches, which may be below zero while others are about to add.
    fn count_touches(&self, change: isize) {
        if change != 0
            && let Some(disk) = &self.disk
        {
            disk.touched.fetch_add(change, Ordering::Relaxed);
        }
    }

    /// Asks for a commit, or waits for one, when touches pile up. Call with no lock held.
    #[inline]
    fn relieve_touches(&self) {
        let Some(disk) = &self.disk else { return };
        let touched = disk.touched.load(Ordering::Relaxed);
        if touched > TOUCHES_MAX {
            disk.queue.wait_commit();
        } else if touched > TOUCHES_WANT_COMMIT && touched % (1 << 10) == 0 {
            disk.queue.hurry();
        }
    }

    /// Reserves the place of a newcomer, and evicts for it what can be evicted with its shard locked;
    /// `false` if that does not suffice, and [`Self::evict_one`] is to be tried without.
    #[inline]
    fn reserve(
        &self,
        locked: &mut Locked<'_, Side>,
        newcomer: &Newcomer<'_>,
        garbage: &mut Garbage,
    ) -> bool {
        loop {
            let room = locked.reserve_by_evicting(newcomer, |side, removed| {
                self.evicted(side, removed, garbage);
            });
            match room {
                Room::Reserved => return true,
                Room::None => return false,
                Room::More => {}
            }
        }
    }

    /// Keeps the recency of what left memory, if the disk does not have it.
    #[inline]
    fn let_go(&self, side: &mut Side, removed: &Removed, garbage: &mut Garbage) {
        garbage.touches += side.let_go(removed, |key| self.memory.hash(key));
    }

    /// Counts and notes what left memory by a limit, and keeps its recency.
    #[inline]
    fn evicted(&self, side: &mut Side, removed: Removed, garbage: &mut Garbage) {
        side.counts.memory_evictions += 1;
        self.let_go(side, &removed, garbage);
        garbage.note(removed, Tier::Memory, RemovalCause::Size);
    }

    /// Counts and notes what came to memory and left at once, being older than all that is there or too large by now.
    fn passed(side: &mut Side, record: Record, stamp: u64, garbage: &mut Garbage) {
        side.counts.memory_evictions += 1;
        garbage.records.push((record, stamp, Tier::Memory, RemovalCause::Size));
    }

    /// Evicts the oldest entry of memory where there is no room, unless the newcomer is older; `false`
    /// if it is, or if there is nothing to evict.
    fn evict_one(&self, newcomer: Option<&Newcomer<'_>>, garbage: &mut Garbage) -> bool {
        let evicted =
            self.memory.evict(newcomer, |side, removed| self.evicted(side, removed, garbage));
        matches!(evicted, Evicted::Room | Evicted::Oldest)
    }

    /// Drops what left and tells the listener. Call with no lock held.
    #[inline]
    fn dispose(&self, garbage: Garbage) {
        if self.memory.has_lost_order() {
            warn_of_order();
        }
        self.count_touches(garbage.touches);
        if self.is_listening() {
            self.tell(garbage);
        } else {
            garbage.discard();
        }
    }

    #[inline(never)]
    fn tell(&self, garbage: Garbage) {
        let Some(listener) = &self.config.listener else { return };
        for (record, stamp, tier, cause) in garbage.records {
            let found = self.found(record, stamp, tier);
            call_out("the eviction listener panicked", || listener(found, cause));
        }
    }

    /// Whether a record that was loaded is what the handle's type expects (V1).
    fn is_valid(&self, record: &Record) -> bool {
        attributes_are_valid(record.attributes()) && (self.validator)(record.value())
    }

    fn is_listening(&self) -> bool {
        self.config.listener.is_some()
    }

    /// What a failed read becomes: an error where the caller wants it, else nothing found.
    fn disk_failed<T>(&self, failure: Failure, instead: T) -> Result<T> {
        self.counts.disk_errors.add(1);
        let disk = self.disk.as_ref();
        trace::warn("a read from disk failed", &failure);
        if let Some(disk) = disk {
            // redb refuses everything after an error; the writer opens it anew.
            disk.queue.suspect(&failure.to_string());
        }
        match self.config.error_policy {
            ErrorPolicy::Degrade => Ok(instead),
            ErrorPolicy::Strict => Err(failure.into_error("cannot read from the disk tier")),
        }
    }

    /// What a read does while there is no disk to read.
    fn disk_unavailable<T>(&self, disk: &DiskSide, instead: T) -> Result<T> {
        match self.config.error_policy {
            ErrorPolicy::Degrade => Ok(instead),
            ErrorPolicy::Strict => Err(disk.unreadable()),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let before = self.counts.memory_hits_before.load(Ordering::Acquire);
        let memory_hits = self.memory.hits_so_far().saturating_sub(before);
        let mut stats = Stats { memory_hits, ..Stats::default() };
        for index in 0..self.memory.shard_count() {
            self.memory.lock_nth(index).side.counts.add_to(&mut stats);
        }
        self.counts.add_to(&mut stats);
        stats.gets = stats.memory_hits + stats.disk_hits + stats.misses;
        (stats.memory_entries, stats.memory_bytes) = self.memory.held();
        stats.memory_limits = self.memory.limits();
        if let Some(disk) = &self.disk {
            (stats.disk_entries, stats.disk_bytes) = disk.disk.held();
            (stats.pending_ops, stats.pending_bytes) = disk.queue.pending();
            stats.disk_limits = *disk.limits.lock();
        }
        stats
    }

    pub(crate) fn reset_stats(&self) {
        for index in 0..self.memory.shard_count() {
            self.memory.lock_nth(index).side.counts = crate::stats::ShardCounts::default();
        }
        self.counts.memory_hits_before.store(self.memory.hits_so_far(), Ordering::Release);
        self.counts.reset();
    }

    pub(crate) fn health(&self) -> Health {
        let closed = self.closed.load(Ordering::Relaxed);
        let disk = self.disk.as_ref().map(|disk| disk.degraded.tier());
        Health {
            memory: if closed { TierHealth::Closed } else { TierHealth::Ok },
            disk: if closed { disk.map(|_| TierHealth::Closed) } else { disk },
        }
    }

    /// Entries in memory, and their bytes.
    pub(crate) fn memory_held(&self) -> (u64, u64) {
        self.memory.held()
    }

    /// Entries on disk as of the last commit, and their bytes.
    pub(crate) fn disk_held(&self) -> (u64, u64) {
        self.disk.as_ref().map_or((0, 0), |disk| disk.disk.held())
    }

    /// Sets a time-to-live's deadline for something created at `wall`.
    #[inline]
    fn deadline(&self, ttl: Option<std::time::Duration>, wall: u64) -> u64 {
        let lifetime = self.lifetimes.entry.min(ttl.map_or(NEVER, nanos_of));
        let deadline = wall.saturating_add(lifetime);
        if deadline != NEVER && !self.may_expire.load(Ordering::Relaxed) {
            self.may_expire.store(true, Ordering::Relaxed);
            self.clock.nudge();
        }
        deadline
    }

    /// Where an entry goes in memory.
    #[inline]
    fn placement(&self, record: &Record, moment: Moment, handed: Option<u64>) -> Placement {
        let deadline = self.memory_deadline(record.deadline(), moment.wall);
        Placement { stamp: moment.stamp, handed, deadline }
    }
}
