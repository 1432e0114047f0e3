//! Reading: the way down through the tiers, and promotion back up.
//!
//! A look-up tries memory, then the operations that are not committed yet, then the disk. The first
//! two are under the lock of the key's shard; the disk is read without it, and what was read is
//! used for promotion only if nothing happened to the key meanwhile (see `pending.rs`).

use std::ops::DerefMut;

use crate::engine::below::Seen;
use crate::engine::pending::{Below, Side, What};
use crate::engine::{Core, DiskSide, Garbage, Moment};
use crate::entry::{Found, Handle, RemovalCause, Tier};
use crate::error::Result;
use crate::hash::KeyHash;
use crate::memory::{Guarded, Hit, Locked, LockedForHit, NOT_BELOW, Newcomer, SlotId};
use crate::record::{Held, NEVER, Record};
use crate::store::Change;
use crate::store::disk::Row;
use crate::time::Timestamp;
use crate::trace::{self, trace_op};

/// How often a get looks below before it leaves promotion be.
const ATTEMPTS_MAX: usize = 64;

/// What a look that leaves no trace found, as far as that goes without the disk.
#[derive(Debug)]
pub(super) enum Looked {
    /// A record, its last access, and where it is.
    Found(Record, u64, Tier),
    Nothing,
    OnDisk(Sought),
}

/// What is to be looked for on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought {
    /// The token of [`Below::Unknown`].
    pub(super) token: u64,
    /// The last access, if that is not what the disk has.
    pub(super) accessed: Option<u64>,
}

/// What became of what was found below memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// It was promoted, which counts as a disk hit.
    InMemory,
    /// It stays where it is, or its time was over.
    Below,
    /// Something happened to its key.
    Doubtful,
}

/// What a look into memory did not find, with the lock under which it looked.
struct Missed<'s> {
    locked: LockedForHit<'s, Side>,
    /// It is there, and its time is over.
    is_over: bool,
}

/// Nothing there, and nothing below.
#[inline(never)]
fn miss_in_memory(mut locked: impl DerefMut<Target = Guarded<Side>>, key: &[u8]) {
    locked.side.counts.misses += 1;
    drop(locked);
    trace_op!("get", key, "miss", "memory");
}

impl Core {
    /// The entry of `key`; becomes the most recent.
    #[inline]
    pub(crate) fn get(&self, key: &[u8], at: Option<Timestamp>) -> Result<Option<Handle>> {
        if self.is_plain(at) { self.get_as::<true>(key, at) } else { self.get_in_full(key, at) }
    }

    #[inline(never)]
    fn get_in_full(&self, key: &[u8], at: Option<Timestamp>) -> Result<Option<Handle>> {
        self.get_as::<false>(key, at)
    }

    #[inline]
    fn get_as<const IS_PLAIN: bool>(
        &self,
        key: &[u8],
        at: Option<Timestamp>,
    ) -> Result<Option<Handle>> {
        self.check_asked::<IS_PLAIN>(key)?;
        let hash = self.memory.hash(key);
        self.memory.fetch_ahead(hash);
        let moment = self.moment_asked::<IS_PLAIN>(at);
        match self.hit::<IS_PLAIN, _>(hash, key, moment, Held::take) {
            Ok(record) => {
                trace::memory_hit(key);
                if IS_PLAIN {
                    return Ok(Some(record.into()));
                }
                Ok(Some(self.found(record, moment.stamp, Tier::Memory).into()))
            }
            Err(missed) => Ok(self.get_slowly(missed, hash, key, moment)?.map(Handle::from)),
        }
    }

    #[inline]
    fn check_asked<const IS_PLAIN: bool>(&self, key: &[u8]) -> Result<()> {
        if IS_PLAIN {
            return crate::key::check(key, self.config.max_key_bytes);
        }
        self.check_key(key)
    }

    #[inline]
    fn moment_asked<const IS_PLAIN: bool>(&self, at: Option<Timestamp>) -> Moment {
        if !IS_PLAIN {
            return self.moment(at);
        }
        let (stamp, wall) = self.clock.system_stamp_and_wall();
        Moment { stamp, wall, is_explicit: false }
    }

    /// Makes an entry in memory the most recent, and gives what `take` makes of its record; the lock if
    /// it is not there, or its time there is over.
    #[inline]
    fn hit<const IS_PLAIN: bool, T>(
        &self,
        hash: KeyHash,
        key: &[u8],
        moment: Moment,
        take: impl FnOnce(&mut Held) -> T,
    ) -> std::result::Result<T, Missed<'_>> {
        let mut locked = self.memory.lock_for_hit(hash);
        let is_over = |deadline, stamp| {
            if IS_PLAIN {
                moment.wall > deadline
            } else {
                self.is_over(deadline, stamp, moment.wall)
            }
        };
        let is_over = match locked.guarded.shard.hit(hash, key, moment.stamp, is_over, take) {
            Hit::Taken(taken) => {
                locked.count_hits(1);
                return Ok(taken);
            }
            Hit::WentBack(taken) => {
                locked.count_hits(1);
                let times = (moment.stamp, moment.wall);
                self.hit_back(times, moment.is_explicit, locked.for_all(), hash, key);
                return Ok(taken);
            }
            Hit::Over => true,
            Hit::Nothing => false,
        };
        Err(Missed { locked, is_over })
    }

    /// The rest of a hit with an older stamp than the last. Given a moment's parts, as [`Self::get_at`] is.
    #[cold]
    fn hit_back(
        &self,
        (stamp, wall): (u64, u64),
        is_explicit: bool,
        mut locked: Locked<'_, Side>,
        hash: KeyHash,
        key: &[u8],
    ) {
        let moment = Moment { stamp, wall, is_explicit };
        if let Some(id) = locked.shard.find(hash, key)
            && !self.is_late(moment, locked.shard.stamp(id))
        {
            self.accessed(&mut locked, id, stamp);
        }
    }

    /// A get that memory could not answer.
    #[inline]
    fn get_slowly<'s>(
        &'s self,
        missed: Missed<'s>,
        hash: KeyHash,
        key: &[u8],
        moment: Moment,
    ) -> Result<Option<Found>> {
        if self.disk.is_none() && !missed.is_over {
            miss_in_memory(missed.locked.guarded, key);
            return Ok(None);
        }
        // In registers: given whole, it would be put together in memory before a hit is one.
        self.get_at((moment.stamp, moment.wall), moment.is_explicit, missed, hash, key)
    }

    #[inline(never)]
    fn get_at<'s>(
        &'s self,
        (stamp, wall): (u64, u64),
        is_explicit: bool,
        missed: Missed<'s>,
        hash: KeyHash,
        key: &[u8],
    ) -> Result<Option<Found>> {
        let moment = Moment { stamp, wall, is_explicit };
        let Missed { locked, is_over } = missed;
        let mut locked = locked.for_all();
        let mut garbage = Garbage::default();
        if is_over && let Some(id) = locked.shard.find(hash, key) {
            self.expire_met(&mut locked, id, moment.wall, &mut garbage);
        }
        let found = self.get_below(locked, hash, key, moment, &mut garbage);
        self.dispose(garbage);
        self.relieve_touches();
        found
    }

    /// Hands the value of a memory hit to `copy` under the lock, without a reference count; what is
    /// below memory goes the way of [`Self::get`]. Gives whether the key was there.
    #[inline]
    pub(crate) fn get_with_lock(&self, key: &[u8], copy: impl FnMut(&[u8])) -> Result<bool> {
        if self.is_plain(None) {
            self.copy_as::<true>(key, copy)
        } else {
            self.copy_in_full(key, copy)
        }
    }

    #[inline(never)]
    fn copy_in_full(&self, key: &[u8], copy: impl FnMut(&[u8])) -> Result<bool> {
        self.copy_as::<false>(key, copy)
    }

    #[inline]
    fn copy_as<const IS_PLAIN: bool>(
        &self,
        key: &[u8],
        mut copy: impl FnMut(&[u8]),
    ) -> Result<bool> {
        self.check_asked::<IS_PLAIN>(key)?;
        let hash = self.memory.hash(key);
        self.memory.fetch_ahead(hash);
        let moment = self.moment_asked::<IS_PLAIN>(None);
        match self.hit::<IS_PLAIN, _>(hash, key, moment, |held| copy(held.value())) {
            Ok(()) => {
                trace::memory_hit(key);
                Ok(true)
            }
            Err(missed) => match self.get_slowly(missed, hash, key, moment)? {
                Some(found) => {
                    copy(found.record.value());
                    Ok(true)
                }
                None => Ok(false),
            },
        }
    }

    /// What `f` makes of the record of `key`, with no lock held; the key becomes the most recent.
    #[inline]
    pub(crate) fn view<R>(&self, key: &[u8], f: impl FnOnce(Record) -> R) -> Result<Option<R>> {
        if self.is_plain(None) {
            self.view_as::<true, R>(key, f)
        } else {
            self.view_in_full(key, f)
        }
    }

    #[inline(never)]
    fn view_in_full<R>(&self, key: &[u8], f: impl FnOnce(Record) -> R) -> Result<Option<R>> {
        self.view_as::<false, R>(key, f)
    }

    #[inline]
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "with the function itself, `hit` would be the one that `get` calls, and in neither inlined"
    )]
    fn view_as<const IS_PLAIN: bool, R>(
        &self,
        key: &[u8],
        f: impl FnOnce(Record) -> R,
    ) -> Result<Option<R>> {
        self.check_asked::<IS_PLAIN>(key)?;
        let hash = self.memory.hash(key);
        self.memory.fetch_ahead(hash);
        let moment = self.moment_asked::<IS_PLAIN>(None);
        match self.hit::<IS_PLAIN, _>(hash, key, moment, |held| held.take()) {
            Ok(record) => {
                trace::memory_hit(key);
                Ok(Some(f(record)))
            }
            Err(missed) => {
                let found = self.get_slowly(missed, hash, key, moment)?;
                Ok(found.map(|found| f(found.record)))
            }
        }
    }

    /// The rest of a get that memory could not answer.
    fn get_below<'s>(
        &'s self,
        mut locked: Locked<'s, Side>,
        hash: KeyHash,
        key: &[u8],
        moment: Moment,
        garbage: &mut Garbage,
    ) -> Result<Option<Found>> {
        let Some(disk) = &self.disk else {
            miss_in_memory(locked, key);
            return Ok(None);
        };
        // An operation of the key, or of one in 32 others, that was settled in between makes what was
        // seen doubtful, and this looks again: once is nearly always enough. The last try is good
        // anyway, only not promoted.
        for attempt in (0..ATTEMPTS_MAX).rev() {
            // Else the touch is looked at when it is taken over.
            let asks_recency = self.lifetimes.idle < NEVER;
            let seen = match self.see_below(disk, locked, hash, key, asks_recency) {
                Ok(Some(seen)) => seen,
                other => {
                    self.counts.misses.add(1);
                    trace_op!("get", key, "miss", "disk");
                    return other.map(|_| None);
                }
            };
            let over = self.is_over(seen.record.deadline(), seen.accessed, moment.wall);
            let (kept, record) = if over {
                let expired = self.expire_seen(disk, hash, &seen, garbage);
                (if expired { Kept::Below } else { Kept::Doubtful }, seen.record)
            } else {
                self.promote(hash, seen, moment, garbage)
            };
            if kept == Kept::Doubtful && attempt > 0 {
                locked = self.memory.lock(hash);
                if locked.shard.find(hash, key).is_none() {
                    continue;
                }
            }
            if over {
                self.counts.misses.add(1);
                trace_op!("get", key, "expired", "disk");
                return Ok(None);
            }
            if kept != Kept::InMemory {
                self.counts.disk_hits.add(1);
            }
            trace_op!("get", key, "hit", "disk");
            return Ok(Some(self.found(record, moment.stamp, Tier::Disk)));
        }
        unreachable!("the last attempt returns")
    }

    /// Puts what was found below into memory, where it is now the most recent, if it fits there and
    /// nothing happened to the key; its recency is kept in any case.
    fn promote(
        &self,
        hash: KeyHash,
        seen: Seen,
        moment: Moment,
        garbage: &mut Garbage,
    ) -> (Kept, Record) {
        let (key, charge) = (seen.record.key(), seen.record.charge());
        let fits = self.fits_memory(charge, self.memory.recent_limits());
        loop {
            let mut locked = self.memory.lock(hash);
            if !Self::is_current(&locked, hash, &seen) {
                if let Some(id) = locked.shard.find(hash, key) {
                    // Another reader was faster.
                    locked.shard.count_hit(id);
                    if locked.shard.stamp(id) < moment.stamp {
                        self.accessed(&mut locked, id, moment.stamp);
                    }
                }
                return (Kept::Doubtful, seen.record);
            }
            let handed = locked.side.below_at_most(seen.handed, moment.stamp);
            if !fits {
                garbage.touches += locked.side.touch(hash, key, moment.stamp, handed);
                return (Kept::Below, seen.record);
            }
            let deadline = self.memory_deadline(seen.record.deadline(), moment.wall);
            let newcomer = Newcomer::new(&seen.record, hash, moment.stamp, deadline, None);
            if self.reserve(&mut locked, &newcomer, garbage) {
                locked.side.counts.promotions += 1;
                let (touches, down) = locked.side.take_over_touch(hash, key);
                garbage.touches += touches;
                let placement = self.placement(&seen.record, moment, Some(down.unwrap_or(handed)));
                let id = locked.insert(hash, seen.record, placement);
                self.accessed(&mut locked, id, moment.stamp);
                return (Kept::InMemory, locked.shard.take_record(id));
            }
            drop(locked);
            if !self.evict_one(Some(&newcomer), garbage) {
                return (self.promote_in_passing(hash, &seen, moment, garbage), seen.record);
            }
        }
    }

    /// Promotes what is older than everything in memory: in and out in one.
    fn promote_in_passing(
        &self,
        hash: KeyHash,
        seen: &Seen,
        moment: Moment,
        garbage: &mut Garbage,
    ) -> Kept {
        let mut locked = self.memory.lock(hash);
        if !Self::is_current(&locked, hash, seen) {
            return Kept::Doubtful;
        }
        locked.side.counts.promotions += 1;
        let handed = locked.side.below_at_most(seen.handed, moment.stamp);
        garbage.touches += locked.side.touch(hash, seen.record.key(), moment.stamp, handed);
        Self::passed(&mut locked.side, seen.record.clone(), moment.stamp, garbage);
        Kept::InMemory
    }

    /// Takes an entry out of memory whose time there is over. If its time is over altogether, it is
    /// removed below as well; else its recency goes down.
    pub(super) fn expire_met(
        &self,
        locked: &mut Locked<'_, Side>,
        id: SlotId,
        wall: u64,
        garbage: &mut Garbage,
    ) {
        let removed = locked.remove(id);
        locked.side.counts.memory_expirations += 1;
        let over = self.is_over(removed.deadline(), removed.recency(), wall);
        match &self.disk {
            Some(disk) if over && removed.handed() != NOT_BELOW => {
                self.counts.disk_expirations.add(1);
                let hash = self.memory.hash(removed.key());
                self.note_gone(disk, locked, hash, removed.key());
                garbage.note(removed, Tier::Disk, RemovalCause::Expired);
            }
            _ => {
                if !over {
                    self.let_go(&mut locked.side, &removed, garbage);
                }
                garbage.note(removed, Tier::Memory, RemovalCause::Expired);
            }
        }
    }

    /// Removes what was seen below memory and is over; `false` if something happened to the key.
    pub(super) fn expire_seen(
        &self,
        disk: &DiskSide,
        hash: KeyHash,
        seen: &Seen,
        garbage: &mut Garbage,
    ) -> bool {
        let mut locked = self.memory.lock(hash);
        if !Self::is_current(&locked, hash, seen) {
            return false;
        }
        self.counts.disk_expirations.add(1);
        let accessed = locked.side.touched(hash, seen.record.key()).unwrap_or(seen.accessed);
        self.note_gone(disk, &mut locked, hash, seen.record.key());
        drop(locked);
        let record = seen.record.clone();
        garbage.records.push((record, accessed, Tier::Disk, RemovalCause::Expired));
        true
    }

    /// Queues the removal of an expired key, which cannot wait for room.
    fn note_gone(&self, disk: &DiskSide, locked: &mut Locked<'_, Side>, hash: KeyHash, key: &[u8]) {
        let record = Record::of_key(key);
        let seq = disk.queue.push_forced(Change::Remove(record.clone()));
        drop(locked.side.note(hash, seq, What::Gone(record), true));
        self.count_touches(locked.side.forget_touch(hash, key));
    }

    /// The entry of `key` without touching order, promotion or expiry.
    pub(crate) fn peek(&self, key: &[u8], at: Option<Timestamp>) -> Result<Option<Found>> {
        self.check_key(key)?;
        let found = self.look(key, self.wall(at))?;
        trace_op!(
            "peek",
            key,
            if found.is_some() { "hit" } else { "miss" },
            tier_name(found.as_ref().map(|found| found.tier))
        );
        Ok(found)
    }

    /// Whether the key is there, likewise.
    pub(crate) fn contains_key(&self, key: &[u8], at: Option<Timestamp>) -> Result<bool> {
        self.check_key(key)?;
        let found = self.look(key, self.wall(at))?;
        let outcome = if found.is_some() { "hit" } else { "miss" };
        trace_op!("contains_key", key, outcome, tier_name(found.as_ref().map(|found| found.tier)));
        Ok(found.is_some())
    }

    /// Looks without a trace: sets no stamp, promotes and removes nothing, counts nothing.
    pub(super) fn look(&self, key: &[u8], wall: u64) -> Result<Option<Found>> {
        Ok(self.look_with_token(self.memory.hash(key), key, wall)?.0)
    }

    /// Likewise, with the token of [`Below::Unknown`] if the disk was asked.
    pub(super) fn look_with_token(
        &self,
        hash: KeyHash,
        key: &[u8],
        wall: u64,
    ) -> Result<(Option<Found>, Option<u64>)> {
        let mut locked = self.memory.lock_for_hit(hash);
        let seen = self.look_under_lock(&mut locked.guarded, hash, key, wall);
        drop(locked);
        match seen {
            Looked::Found(record, accessed, tier) => {
                Ok((Some(self.found(record, accessed, tier)), None))
            }
            Looked::Nothing => Ok((None, None)),
            Looked::OnDisk(sought) => {
                let Some(disk) = &self.disk else { return Ok((None, None)) };
                let row = self.read_disk(disk, disk.disk.snapshot(), hash, key, sought.token)?;
                let found = row.and_then(|row| self.found_on_disk(row, sought, wall));
                Ok((found, Some(sought.token)))
            }
        }
    }

    /// Likewise, as far as that goes without the disk.
    #[inline]
    pub(super) fn look_under_lock(
        &self,
        guarded: &mut Guarded<Side>,
        hash: KeyHash,
        key: &[u8],
        wall: u64,
    ) -> Looked {
        let Guarded { shard, side, .. } = guarded;
        let mut accessed = None;
        if let Some(held) = shard.held(hash, key) {
            let stamp = held.recency();
            if !self.is_over(held.leaves(), stamp, wall) {
                return Looked::Found(held.take(), stamp, Tier::Memory);
            }
            if self.is_over(held.deadline(), stamp, wall) {
                return Looked::Nothing;
            }
            accessed = Some(stamp);
        }
        if self.disk.is_none() {
            return Looked::Nothing;
        }
        let accessed = accessed.or_else(|| side.touched(hash, key));
        match side.below(hash, key) {
            Below::Gone => Looked::Nothing,
            Below::Unknown { token } => Looked::OnDisk(Sought { token, accessed }),
            Below::Value(record) => {
                let accessed = accessed.unwrap_or(record.stamp());
                if self.is_over(record.deadline(), accessed, wall) {
                    return Looked::Nothing;
                }
                Looked::Found(record, accessed, Tier::Disk)
            }
        }
    }

    /// What a row is that was sought, unless its time is over.
    pub(super) fn found_on_disk(&self, row: Row, sought: Sought, wall: u64) -> Option<Found> {
        let accessed = sought.accessed.unwrap_or(row.stamp);
        let is_over = self.is_over(row.record.deadline(), accessed, wall);
        (!is_over).then(|| self.found(row.record, accessed, Tier::Disk))
    }
}

pub(super) fn tier_name(tier: Option<Tier>) -> &'static str {
    tier.map_or("none", Tier::name)
}
