//! One order for each shard: what `Lfu`, `S3Fifo` and `Sieve` keep a cache of many entries by.
//!
//! These strategies are guesses at what will be asked for. Where each shard has many entries, an order of its
//! own guesses as well as one over all shards would, and threads that insert into different shards have
//! nothing to do with each other: once the tier is full, an entry that leaves makes room for one in the same
//! shard, and if that counts as much, the account has nothing to write down.
//!
//! # How it works
//!
//! A newcomer pushes out whom the order of its own shard names, so long as that shard has as many entries as shards
//! have on an average, or nearly; else whom the order of the next one names that has. So a place that is free
//! anywhere may be taken by anybody, and shards that drift apart even out. Where there is no newcomer, shards that
//! have as many as the average take turns.
//!
//! # Invariants
//!
//! - **A1** a part's order knows exactly the entries in its shard.
//! - **A2** while `freed` is what a part has noted, there are as many entries as there may be, so that one which
//!   counts as much may take the place of the one that leaves without the account.
//!
//! # Why not ...
//!
//! - a limit for each shard: a cache for 10,000 entries would evict before it has them, as hashes do not fall evenly.
//! - with a limit in bytes as well: a shard with one large entry would have more than the others, and lose all
//!   that it has to them; tried, with one in a thousand entries of 4 MiB hardly any of those was kept.

use crate::memory::ahead::{Ahead, place_of};
use crate::memory::ordered::Ordered;
use crate::memory::{Evicted, Guarded, Locked, Memory, Newcomer, Removed, Room, Shard, SlotId};
use crate::stats::Limits;
use crate::strategy::{Leaving, Strategy};
use crate::sync::BriefGuard;
use crate::sync::atomic::Ordering;

/// How many entries each shard can have at least, where each has an order of its own. Two in unit tests, models and
/// fuzzing, where caches are small.
const ENTRIES_MIN: u64 = if cfg!(any(test, fuzzing, shuttle)) { 2 } else { 512 };
/// A shard may have this part less than the average before others make room for what comes into it: about what
/// chance makes of [`ENTRIES_MIN`].
const SLACK: u64 = 32;

/// Whether so many shards are to have an order each.
pub(crate) fn have_orders(strategy: &Strategy, limits: Limits, shards: usize) -> bool {
    let share = share_of(limits, shards).entries;
    strategy.is_a_guess()
        && share.is_some_and(|share| share >= ENTRIES_MIN)
        && limits.bytes.is_none()
}

/// What the order of one of so many shards is told of the tier's limits.
pub(super) fn share_of(limits: Limits, shards: usize) -> Limits {
    let of = |limit: Option<u64>| limit.map(|limit| limit / shards as u64);
    Limits { entries: of(limits.entries), bytes: of(limits.bytes) }
}

/// A shard's order.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) ordered: Ordered,
    /// How many entries shards had on an average when there was no room last.
    mean: u64,
    /// What `freed` was then (A2).
    full_at: Option<u64>,
}

impl Part {
    pub(super) fn new(ordered: Ordered) -> Self {
        Self { ordered, mean: 0, full_at: None }
    }

    /// What can be fetched for who brings an entry in.
    pub(super) fn ahead(&self) -> Option<Ahead> {
        self.ordered.ahead(Some(place_of(self)))
    }

    /// Whether its shard has about as many entries as the others.
    fn has_enough(&self, shard: &Shard) -> bool {
        shard.len() >= (self.mean - self.mean / SLACK).max(1)
    }

    /// Whom its order names.
    fn named(&mut self, newcomer: Option<&Newcomer<'_>>, shard: &Shard) -> Option<SlotId> {
        let (number, hash) = self.ordered.named(newcomer, true)?;
        shard.find_filed(hash, number)
    }
}

/// The numbers of so many shards, from this one on.
fn turns(from: usize, shards: usize) -> impl Iterator<Item = usize> {
    (from..shards).chain(0..from)
}

/// Whether a shard can make room for another: it has as many entries as the average, and one at least.
fn can_give(shard: &Shard, mean: u64) -> bool {
    shard.len() >= mean.max(1)
}

/// Whom the order of a shard names that can make room, the first of all from this one on.
pub(super) fn named<S>(
    shards: &mut [BriefGuard<'_, Guarded<S>>],
    mean: u64,
    from: usize,
) -> Option<(usize, SlotId)> {
    let index = turns(from, shards.len()).find(|index| can_give(&shards[*index].shard, mean))?;
    let Guarded { shard, part, .. } = &mut **shards.get_mut(index)?;
    Some((index, part.as_mut()?.named(None, shard)?))
}

impl<S> Guarded<S> {
    /// What its part has noted, if it has one (A2).
    pub(super) fn full_at(&self) -> Option<u64> {
        self.part.as_ref()?.full_at
    }
}

impl<S> Memory<S> {
    /// Says that the account may have room where it had none (A2); under its lock.
    pub(super) fn note_freed(&self) {
        self.freed.fetch_add(1, Ordering::Release);
    }

    /// Whether what a part has noted still holds (A2).
    pub(super) fn is_still_full(&self, full_at: Option<u64>) -> bool {
        full_at == Some(self.freed.load(Ordering::Acquire))
    }

    /// [`Self::evict`] by the shards' orders.
    pub(super) fn evict_in_parts(
        &self,
        newcomer: Option<&Newcomer<'_>>,
        hook: impl FnOnce(&mut S, Removed),
    ) -> Evicted {
        let mean = self.held().0 / self.shards.len() as u64;
        let own = newcomer.map(|newcomer| self.index(newcomer.hash));
        let from = own.unwrap_or_else(|| self.turn.load(Ordering::Relaxed));
        let lock =
            |index| Some(self.lock_nth(index)).filter(|locked| can_give(&locked.shard, mean));
        let found = turns(from, self.shards.len()).find_map(lock).and_then(|mut locked| {
            let coming = newcomer.filter(|_| own == Some(locked.index));
            let Guarded { shard, part, .. } = &mut *locked.guarded;
            let id = part.as_mut()?.named(coming, shard)?;
            Some((locked, id))
        });
        let Some((mut locked, id)) = found else {
            return self.evict_with_all_locked(newcomer, hook);
        };
        self.turn.store(locked.index, Ordering::Relaxed);
        let mut account = self.account.lock();
        if account.has_room(newcomer) {
            return Evicted::Room;
        }
        account.release(locked.shard.charge(id));
        self.note_freed();
        drop(account);
        locked.evict_from_part(id, hook);
        Evicted::Oldest
    }
}

impl<S> Locked<'_, S> {
    /// [`Self::reserve_by_evicting`] by the shards' orders.
    pub(super) fn reserve_in_part(
        &mut self,
        newcomer: &Newcomer<'_>,
        hook: impl FnOnce(&mut S, Removed),
    ) -> Room {
        let memory = self.memory;
        let is_full = memory.is_still_full(self.guarded.full_at());
        if (!is_full || newcomer.old.is_some()) && self.take_room(newcomer) {
            return Room::Reserved;
        }
        let full_at = self.guarded.full_at();
        let mut other = self.next_with_enough();
        // To another shard it does not come.
        let coming = other.is_none().then_some(newcomer);
        let locked = other.as_mut().unwrap_or(self);
        let Guarded { shard, part: Some(part), .. } = &mut *locked.guarded else {
            return Room::None;
        };
        let Some(id) = part.named(coming, shard) else { return Room::None };
        let charge = shard.charge(id);
        if newcomer.replaces(shard.record(id)) {
            return Room::None;
        }
        // Looked at once more: nobody is to leave for what has room by now.
        let is_full = memory.is_still_full(full_at);
        let mut room = Room::Reserved;
        // Else the sums stay as they are.
        if !is_full || newcomer.old.is_some() || charge != newcomer.charge {
            let mut account = memory.account.lock();
            if account.exchange(newcomer.old, newcomer.charge) {
                return Room::Reserved;
            }
            let before = account.entries;
            account.release(charge);
            if !account.exchange(newcomer.old, newcomer.charge) {
                room = Room::More;
            }
            if account.entries < before {
                memory.note_freed();
            }
        }
        locked.evict_from_part(id, hook);
        room
    }

    /// Takes the place of a newcomer where there is one without anybody leaving; notes if there is none.
    fn take_room(&mut self, newcomer: &Newcomer<'_>) -> bool {
        let memory = self.memory;
        let mut account = memory.account.lock();
        let taken = account.exchange(newcomer.old, newcomer.charge);
        if let Some(part) = self.guarded.part.as_mut().filter(|_| !taken) {
            part.mean = account.entries / memory.shards.len() as u64;
            let is_full = account.limits.entries == Some(account.entries) && !account.is_over();
            part.full_at = is_full.then(|| memory.freed.load(Ordering::Acquire));
        }
        taken
    }

    /// The other shard that is to make room, if this one has too few entries and another that is free has enough.
    fn next_with_enough(&self) -> Option<Self> {
        let part = self.guarded.part.as_ref()?;
        if part.has_enough(&self.guarded.shard) {
            return None;
        }
        let memory = self.memory;
        turns(self.index, memory.shards.len()).skip(1).find_map(|index| {
            let guarded = memory.shards[index].try_lock()?;
            can_give(&guarded.shard, part.mean).then_some(Locked { guarded, index, memory })
        })
    }

    /// Takes out whom the shard's order has named; the account knows already.
    fn evict_from_part(&mut self, id: SlotId, hook: impl FnOnce(&mut S, Removed)) {
        let Guarded { shard, side, part, .. } = &mut *self.guarded;
        if let Some(part) = part {
            part.ordered.leave(shard, id, Leaving::Evicted);
        }
        hook(side, shard.remove(id));
    }
}

#[cfg(test)]
mod tests;
