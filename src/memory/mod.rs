//! The memory tier: shards behind locks, one order over all of them, limits that are never passed.
//!
//! [`Memory`] knows nothing of disk or time: callers bring stamps and deadlines and are given what
//! was evicted. Beside each shard it keeps a value of the caller's, the *side*, under the same
//! lock: the engine's pending writes.
//!
//! # How it works
//!
//! A shard publishes a lower bound of its stamps in `bounds` whenever its lock is let go; hits do
//! not change it. To evict, take the shard with the smallest bound, lock it and find its oldest
//! entry: that is the victim if all other bounds are above it; else publish the better bound and
//! look again. Where several shards show the same stamp, or the newcomer may be the oldest itself, all are
//! locked, and decide together.
//!
//! An entry goes in only after its place was reserved in the [`Account`], under the shard's lock;
//! while there is no place, the oldest entry of all shards is evicted, and if the newcomer is older
//! than that, it is itself the victim. Usually that is done with the newcomer's shard locked, and the
//! other one beside it ([`Locked::reserve_by_evicting`]).
//!
//! That is the exact LRU. With any other strategy there are no bounds, and one order over all shards says
//! who leaves (`ordered.rs`), or with some of them that of each shard (`parts.rs`).
//!
//! # Invariants
//!
//! - **M1** with no lock held, `bounds[i]` is at most the stamp of every entry of shard `i`; at most
//!   that of a newcomer already when its place is reserved, so who finds no place finds all entries.
//! - **M2** the account's sums are those of all shards plus what is reserved by a thread that holds
//!   a shard's lock; they never exceed its limits.
//! - **M3** no entry leaves by a limit while an older one, by (stamp, key), stays; with another strategy,
//!   while the order names another one.
//!
//! # Concurrency
//!
//! One mutex per shard, one for the account, taken in that order. No thread waits for a shard while it
//! holds another one, except one that takes them all, in ascending order ([`AllLocked`], for batches).
//! Nothing of a caller's runs under either, except the engine's own hook, which is given what left.
//! What was removed is returned, and dropped by the caller when the lock is gone.
//!
//! # Why not one queue for all shards
//!
//! Every hit would take its lock. Why not a queue per shard, evicted in turn: that is not the order
//! that was promised.

mod account;
mod ahead;
mod all;
mod idle;
mod order;
mod ordered;
mod parts;
mod shard;
mod spots;
mod table;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::hash::{KeyHash, KeyHasher};
use crate::record::Record;
use crate::stats::Limits;
use crate::strategy::Strategy;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{BriefGuard, BriefMutex, CachePadded, LaneCounts};

use account::Account;
use ahead::Ahead;
use ordered::{ENTRIES_MAX, Hits, Ordered};
use parts::Part;
use spots::Spots;

pub(crate) use account::Newcomer;
pub(crate) use all::AllLocked;
pub(crate) use parts::have_orders;
pub(crate) use shard::{Hit, Placement, Shard};
pub(crate) use table::{NOT_BELOW, Removed, SlotId};

/// The bound of an empty shard. A stamp may have this value too, which only costs a second look; an
/// empty shard may have a lower bound until somebody looks.
const EMPTY: u64 = u64::MAX;

/// No limit, where one is an atomic.
const NONE: u64 = u64::MAX;

/// The shards, the order over them, and the account.
#[derive(Debug)]
pub(crate) struct Memory<S> {
    shards: Box<[CachePadded<BriefMutex<Guarded<S>>>]>,
    bounds: Box<[AtomicU64]>,
    /// Where the shards' tables are.
    spots: Spots,
    /// What can be fetched for who brings an entry in: for each shard, or for all; nothing with exact LRU.
    ahead: Box<[Ahead]>,
    /// Changes after a bound has become lower, which is rare: so who sees it unchanged need not look at the
    /// bounds again.
    lowered: AtomicU64,
    account: CachePadded<BriefMutex<Account>>,
    /// The account's limits, for whom they need not be those of this very moment; [`NONE`] for none.
    limits: [AtomicU64; 2],
    hasher: KeyHasher,
    /// How often entries were hit, by shard.
    hits: LaneCounts,
    /// Whether the account has an order, or the shards have another one than exact LRU.
    is_ordered: bool,
    /// Whether it is the shards.
    has_parts: bool,
    /// Changes after something was given up, if they have; see `parts.rs`.
    freed: CachePadded<AtomicU64>,
    /// The shard that is next to make room where no newcomer says which, likewise.
    turn: AtomicUsize,
    /// What an order sets when it has panicked.
    is_lost: Option<Arc<AtomicBool>>,
}

/// What one shard's lock guards.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    pub(crate) shard: Shard,
    pub(crate) side: S,
    /// What `bounds` has for this shard, so that nobody fetches a shared line to see it unchanged.
    published: u64,
    /// Whether there was no room when this shard last asked for some.
    was_full: bool,
    /// The shard's order, if it has another than exact LRU.
    part: Option<Box<Part>>,
}

/// One shard, locked; publishes its bound when it is let go (M1).
#[derive(Debug)]
pub(crate) struct Locked<'a, S> {
    guarded: BriefGuard<'a, Guarded<S>>,
    index: usize,
    memory: &'a Memory<S>,
}

impl<S> Deref for Locked<'_, S> {
    type Target = Guarded<S>;

    fn deref(&self) -> &Guarded<S> {
        &self.guarded
    }
}

impl<S> DerefMut for Locked<'_, S> {
    fn deref_mut(&mut self) -> &mut Guarded<S> {
        &mut self.guarded
    }
}

impl<S> Drop for Locked<'_, S> {
    #[inline]
    fn drop(&mut self) {
        self.publish();
    }
}

/// One shard, locked for a hit, which changes no bound.
#[derive(Debug)]
pub(crate) struct LockedForHit<'a, S> {
    pub(crate) guarded: BriefGuard<'a, Guarded<S>>,
    index: usize,
    memory: &'a Memory<S>,
}

impl<'a, S> LockedForHit<'a, S> {
    /// Counts hits in this shard.
    #[inline]
    pub(crate) fn count_hits(&self, n: u64) {
        self.memory.hits.add(self.index, n);
    }

    /// The same lock, for everything else.
    pub(crate) fn for_all(self) -> Locked<'a, S> {
        let Self { guarded, index, memory } = self;
        Locked { guarded, index, memory }
    }
}

impl<S> Guarded<S> {
    /// Stores the shard's bound unless it is there already (M1).
    #[inline]
    fn publish(&mut self, memory: &Memory<S>, index: usize) {
        if let Some(table) = self.shard.moved() {
            memory.spots.note(index, table);
        }
        let now = self.shard.bound().unwrap_or(EMPTY);
        if now != self.published {
            self.set_bound(memory, index, now);
        }
    }

    #[inline]
    fn set_bound(&mut self, memory: &Memory<S>, index: usize, now: u64) {
        let is_lower = now < self.published;
        self.published = now;
        memory.bounds[index].store(now, Ordering::Release);
        if is_lower {
            memory.lowered.fetch_add(1, Ordering::Release);
        }
    }
}

impl<S> Locked<'_, S> {
    #[inline]
    fn publish(&mut self) {
        self.guarded.publish(self.memory, self.index);
    }

    /// Reserves the place of a newcomer, if there is one.
    #[must_use]
    pub(crate) fn reserve(&mut self, newcomer: &Newcomer<'_>) -> bool {
        self.show(newcomer.stamp);
        let reserved = self.memory.account.lock().exchange(newcomer.old, newcomer.charge);
        self.guarded.was_full = !reserved;
        reserved
    }

    /// Likewise, and where there is none, the oldest entry of all shards leaves. Its shard is locked
    /// beside this one if it is free; where it is not, or more has to be looked at, nothing is done,
    /// and [`Memory::evict`] is the way.
    pub(crate) fn reserve_by_evicting(
        &mut self,
        newcomer: &Newcomer<'_>,
        hook: impl FnOnce(&mut S, Removed),
    ) -> Room {
        // The sums stay as they are.
        if newcomer.old == Some(newcomer.charge) {
            return Room::Reserved;
        }
        if self.memory.is_ordered {
            return self.reserve_in_order(newcomer, hook);
        }
        if !self.was_full && self.reserve(newcomer) {
            return Room::Reserved;
        }
        match self.evict_for(newcomer, hook) {
            // There may be room by now.
            Room::None if self.reserve(newcomer) => Room::Reserved,
            room => room,
        }
    }

    fn evict_for(&mut self, newcomer: &Newcomer<'_>, hook: impl FnOnce(&mut S, Removed)) -> Room {
        let memory = self.memory;
        for _ in 0..EVICT_ATTEMPTS {
            self.publish();
            // First, so that what is lowered after a look changes it.
            let lowered = memory.lowered.load(Ordering::Acquire);
            let least = memory.least_bound();
            let index = least.index;
            if newcomer.stamp < least.bound {
                return Room::None;
            }
            let mut other = None;
            if index != self.index {
                let Some(guarded) = memory.shards[index].try_lock() else {
                    return Room::None;
                };
                other = Some(Locked { guarded, index, memory });
            }
            self.show(newcomer.stamp);
            let locked = other.as_mut().unwrap_or(self);
            let Some((id, stamp, key)) = locked.guarded.shard.oldest() else { return Room::None };
            if (newcomer.stamp, newcomer.key()) <= (stamp, key) {
                return Room::None;
            }
            let charge = locked.shard.charge(id);
            let mut account = memory.account.lock();
            let Some((entries, bytes)) = account.with(newcomer.old, newcomer.charge) else {
                return Room::None;
            };
            if !account.are_too_many(entries, bytes) {
                (account.entries, account.bytes) = (entries, bytes);
                drop(account);
                self.was_full = false;
                return Room::Reserved;
            }
            // Who took the room since the bounds were read has shown its own before (M1).
            let is_as_seen = memory.lowered.load(Ordering::Acquire) == lowered;
            let is_least = stamp == least.bound && !least.is_tied && is_as_seen;
            if !is_least && !memory.are_above(stamp, index) {
                // If its bound said so, others are as old, or seem to be; else it was hit, and its bound
                // will say so.
                if stamp == least.bound {
                    return Room::None;
                }
                continue;
            }
            // The victim is not the old entry, whose stamp is the newcomer's.
            let (entries, bytes) = (entries - 1, bytes - charge);
            let reserved = !account.are_too_many(entries, bytes);
            if reserved {
                (account.entries, account.bytes) = (entries, bytes);
            } else {
                account.release(charge);
            }
            drop(account);
            let Guarded { shard, side, .. } = &mut *locked.guarded;
            hook(side, shard.remove(id));
            return if reserved { Room::Reserved } else { Room::More };
        }
        Room::None
    }

    /// Sees to it that the bound is at most this stamp (M1).
    #[inline]
    fn show(&mut self, stamp: u64) {
        if stamp < self.guarded.published {
            self.guarded.set_bound(self.memory, self.index, stamp);
        }
    }

    /// Puts an entry in whose place was reserved, and whose key is not there.
    #[inline]
    pub(crate) fn insert(&mut self, hash: KeyHash, record: Record, at: Placement) -> SlotId {
        let id = self.guarded.shard.insert(hash, record, at);
        if self.memory.is_ordered {
            self.enter_order(hash, id);
        }
        id
    }

    /// Exchanges the record of an entry for a newer one of the same key, for which a place was reserved;
    /// gives the old one.
    pub(crate) fn replace(&mut self, id: SlotId, record: Record, at: Placement) -> Record {
        let old = self.guarded.shard.replace(id, record, at);
        if self.memory.is_ordered {
            self.replace_in_order(id);
        }
        old
    }

    /// Takes an entry out of the shard and the account.
    pub(crate) fn remove(&mut self, id: SlotId) -> Removed {
        if self.memory.is_ordered {
            return self.remove_from_order(id);
        }
        let removed = self.shard.remove(id);
        self.memory.account.lock().release(removed.charge());
        removed
    }
}

/// How often [`Locked::reserve_by_evicting`] looks for the oldest entry.
const EVICT_ATTEMPTS: usize = 8;

/// What [`Locked::reserve_by_evicting`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// There was a place, or is now.
    Reserved,
    /// An entry has left, and more have to.
    More,
    /// Nothing.
    None,
}

/// What [`Memory::evict`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evicted {
    /// The oldest has left.
    Oldest,
    /// There is room by now.
    Room,
    /// The newcomer is older than every entry.
    Newcomer,
    /// There is nothing to evict.
    Nothing,
}

impl<S: Default> Memory<S> {
    /// A tier of `shards` shards, which is a power of two. `knows_idle`: [`Shard::longest_idle`] is to
    /// know, with any strategy.
    pub(crate) fn new(
        shards: usize,
        limits: Limits,
        strategy: &Strategy,
        knows_idle: bool,
        hasher: KeyHasher,
    ) -> Self {
        debug_assert!(shards.is_power_of_two());
        let hits = LaneCounts::new(shards);
        let lost = Arc::default();
        let order = |limits, part| {
            let hits = Hits { counts: hits.clone(), part };
            Some(Ordered::new(order::make(strategy)?, limits, hits, Arc::clone(&lost)))
        };
        let has_parts = have_orders(strategy, limits, shards);
        let ordered = if has_parts { None } else { order(limits, None) };
        let is_ordered = has_parts || ordered.is_some();
        let share = parts::share_of(limits, shards);
        let guarded = |index| Guarded {
            shard: if is_ordered { Shard::of_tier(knows_idle) } else { Shard::default() },
            side: S::default(),
            published: EMPTY,
            was_full: false,
            part: has_parts
                .then(|| order(share, Some(index)))
                .flatten()
                .map(Part::new)
                .map(Box::new),
        };
        let guarded: Vec<_> = (0..shards).map(guarded).collect();
        let as_number = |limit: Option<u64>| AtomicU64::new(limit.unwrap_or(NONE));
        let of_part = |guarded: &Guarded<S>| guarded.part.as_ref()?.ahead();
        let of_tier = ordered.as_ref().and_then(|ordered| ordered.ahead(None));
        let ahead: Box<[_]> =
            of_tier.into_iter().chain(guarded.iter().filter_map(of_part)).collect();
        let lock = |guarded| CachePadded::new(BriefMutex::new(guarded));
        let shards: Box<[_]> = guarded.into_iter().map(lock).collect();
        debug_assert!(ahead.len() <= 1 || ahead.len() == shards.len(), "one for each shard");
        Self {
            ahead,
            limits: [limits.entries, limits.bytes].map(as_number),
            bounds: shards.iter().map(|_| AtomicU64::new(EMPTY)).collect(),
            lowered: AtomicU64::new(0),
            spots: Spots::new(shards.len()),
            shards,
            account: CachePadded::new(BriefMutex::new(Account {
                limits,
                numbers: if is_ordered { ENTRIES_MAX } else { u64::MAX },
                ordered,
                ..Account::default()
            })),
            hasher,
            hits,
            is_ordered,
            has_parts,
            freed: CachePadded::new(AtomicU64::new(0)),
            turn: AtomicUsize::new(0),
            is_lost: is_ordered.then_some(lost),
        }
    }
}

impl<S> Memory<S> {
    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> KeyHash {
        self.hasher.hash(key)
    }

    pub(crate) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// The number of a key's shard.
    #[inline]
    pub(crate) fn index(&self, hash: KeyHash) -> usize {
        hash.shard(self.shards.len() - 1)
    }

    /// Has the processor fetch what a look-up of this key needs first, for who is about to lock its shard.
    #[inline]
    pub(crate) fn fetch_ahead(&self, hash: KeyHash) {
        self.spots.fetch_ahead(self.index(hash), hash.check());
    }

    /// Likewise for who is about to bring an entry in.
    #[inline]
    pub(crate) fn fetch_ahead_for_insert(&self, hash: KeyHash) {
        self.fetch_ahead(hash);
        if let Some(ahead) = self.ahead.get(if self.has_parts { self.index(hash) } else { 0 }) {
            ahead.fetch(&self.spots, |hash| self.index(hash));
        }
    }

    /// Locks the shard of a key.
    #[inline]
    pub(crate) fn lock(&self, hash: KeyHash) -> Locked<'_, S> {
        self.lock_nth(self.index(hash))
    }

    /// Locks a shard by its number.
    #[inline]
    pub(crate) fn lock_nth(&self, index: usize) -> Locked<'_, S> {
        Locked { guarded: self.shards[index].lock(), index, memory: self }
    }

    /// Locks the shard of a key for a hit.
    #[inline]
    pub(crate) fn lock_for_hit(&self, hash: KeyHash) -> LockedForHit<'_, S> {
        self.lock_nth_for_hits(self.index(hash))
    }

    /// Locks a shard by its number for hits.
    #[inline]
    pub(crate) fn lock_nth_for_hits(&self, index: usize) -> LockedForHit<'_, S> {
        LockedForHit { guarded: self.shards[index].lock(), index, memory: self }
    }

    /// How often entries were hit since the tier was made.
    pub(crate) fn hits_so_far(&self) -> u64 {
        self.hits.sum()
    }

    /// Entries and bytes held.
    pub(crate) fn held(&self) -> (u64, u64) {
        let account = self.account.lock();
        (account.entries, account.bytes)
    }

    pub(crate) fn limits(&self) -> Limits {
        self.account.lock().limits
    }

    /// The limits as they were lately, without a lock.
    #[inline]
    pub(crate) fn recent_limits(&self) -> Limits {
        let [entries, bytes] = &self.limits;
        let limit = |limit: &AtomicU64| Some(limit.load(Ordering::Relaxed)).filter(|n| *n != NONE);
        Limits { entries: limit(entries), bytes: limit(bytes) }
    }

    pub(crate) fn over_limits(&self) -> bool {
        self.account.lock().is_over()
    }

    /// Removes the oldest entry of all shards, unless `newcomer` is older still (M3), or another
    /// thread has made room meanwhile. `hook` is called under the lock of the shard that the entry
    /// left.
    pub(crate) fn evict(
        &self,
        newcomer: Option<&Newcomer<'_>>,
        hook: impl FnOnce(&mut S, Removed),
    ) -> Evicted {
        if self.is_ordered {
            return self.evict_in_order(newcomer, hook);
        }
        loop {
            let Least { index, bound, is_tied } = self.least_bound();
            if is_tied || newcomer.is_some_and(|newcomer| newcomer.stamp <= bound) {
                return self.evict_with_all_locked(newcomer, hook);
            }
            let mut locked = self.lock_nth(index);
            let Some((id, stamp, key)) = locked.guarded.shard.oldest() else { continue };
            if newcomer.is_some_and(|newcomer| (newcomer.stamp, newcomer.key()) <= (stamp, key)) {
                drop(locked);
                return self.evict_with_all_locked(newcomer, hook);
            }
            let charge = locked.shard.charge(id);
            let mut account = self.account.lock();
            if account.has_room(newcomer) {
                return Evicted::Room;
            }
            // Who took the room since the bounds were read has shown its own before (M1).
            if !self.are_above(stamp, index) {
                continue;
            }
            account.release(charge);
            drop(account);
            let Guarded { shard, side, .. } = &mut *locked.guarded;
            hook(side, shard.remove(id));
            return Evicted::Oldest;
        }
    }

    /// Whether all bounds but one are above this.
    #[inline]
    fn are_above(&self, stamp: u64, but: usize) -> bool {
        // Without branches: which one is not cannot be predicted.
        let is_not = |bound: &AtomicU64| usize::from(bound.load(Ordering::Acquire) <= stamp);
        let not: usize = self.bounds.iter().map(is_not).sum();
        not == self.bounds.get(but).map_or(0, is_not)
    }

    /// Whose bound is the smallest.
    #[inline]
    fn least_bound(&self) -> Least {
        let (mut first, mut last, mut smallest) = (0, 0, EMPTY);
        let mut index = 0;
        let mut look = |bound: &AtomicU64| {
            let bound = bound.load(Ordering::Acquire);
            // Likewise.
            first = std::hint::select_unpredictable(bound < smallest, index, first);
            last = std::hint::select_unpredictable(bound <= smallest, index, last);
            smallest = smallest.min(bound);
            index += 1;
        };
        let (fours, rest) = self.bounds.as_chunks::<4>();
        fours.iter().flatten().for_each(&mut look);
        rest.iter().for_each(look);
        Least { index: first, bound: smallest, is_tied: first != last || smallest == EMPTY }
    }
}

/// What [`Memory::least_bound`] found.
#[derive(Debug, Clone, Copy)]
struct Least {
    index: usize,
    bound: u64,
    /// Others have the same bound, or there is no entry.
    is_tied: bool,
}

#[cfg(test)]
mod tests;
