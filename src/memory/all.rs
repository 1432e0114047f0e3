//! All shards and the account, locked at once: what a batch does is one step for everybody else.
//!
//! Here the limits may be exceeded between two calls, since nobody can see it; the caller evicts
//! down to them before it lets go (M2). What it puts in adds up to [`CHARGES_MAX`](crate::record::CHARGES_MAX) at
//! most.

use crate::hash::KeyHash;
use crate::memory::shard::{Placement, Shard};
use crate::memory::table::{NOT_BELOW, Removed, SlotId};
use crate::memory::{Account, Evicted, Guarded, Memory, NONE, Newcomer, parts};
use crate::record::Record;
use crate::stats::Limits;
use crate::strategy::Leaving;
use crate::sync::BriefGuard;
use crate::sync::atomic::Ordering;

/// The whole tier, locked.
#[derive(Debug)]
pub(crate) struct AllLocked<'a, S> {
    memory: &'a Memory<S>,
    /// In ascending order, which is also the order of locking.
    shards: Vec<BriefGuard<'a, Guarded<S>>>,
    account: BriefGuard<'a, Account>,
    /// Whether an entry was given up, or the limits are others now.
    has_freed: bool,
}

impl<S> Memory<S> {
    /// Locks everything.
    pub(crate) fn lock_all(&self) -> AllLocked<'_, S> {
        let shards = self.shards.iter().map(|shard| shard.lock()).collect();
        AllLocked { memory: self, shards, account: self.account.lock(), has_freed: false }
    }
}

impl<S> Memory<S> {
    /// Sets the limits; the caller then evicts while [`Self::over_limits`].
    pub(crate) fn set_limits(&self, limits: Limits) {
        let mut all = self.lock_all();
        all.has_freed = true;
        all.account.set_limits(limits);
        let share = parts::share_of(limits, self.shards.len());
        for part in all.shards.iter_mut().filter_map(|shard| shard.part.as_mut()) {
            part.ordered.set_limits(share);
        }
        // Relaxed: who sees the old ones is as if it had come earlier.
        for (seen, limit) in self.limits.iter().zip([limits.entries, limits.bytes]) {
            seen.store(limit.unwrap_or(NONE), Ordering::Relaxed);
        }
    }

    /// [`Memory::evict`] where keys have to tell, or a newcomer may have to go: between two looks at them,
    /// room or something older could come.
    pub(super) fn evict_with_all_locked(
        &self,
        newcomer: Option<&Newcomer<'_>>,
        hook: impl FnOnce(&mut S, Removed),
    ) -> Evicted {
        let mut all = self.lock_all();
        if all.account.has_room(newcomer) {
            return Evicted::Room;
        }
        let Some((index, id)) = all.next() else {
            return if newcomer.is_some() { Evicted::Newcomer } else { Evicted::Nothing };
        };
        let is_older = |newcomer: &Newcomer<'_>| {
            (newcomer.stamp, newcomer.key()) <= all.place(index, id) && !self.is_ordered
        };
        if newcomer.is_some_and(is_older) {
            return Evicted::Newcomer;
        }
        let removed = all.take_out(index, id, Leaving::Evicted);
        hook(&mut all.shards[index].side, removed);
        Evicted::Oldest
    }

    /// Checks every invariant; for tests and fuzzing.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let all = self.lock_all();
        let (mut entries, mut bytes) = (0, 0);
        for (index, (guarded, bound)) in all.shards.iter().zip(&self.bounds).enumerate() {
            let shard = &guarded.shard;
            let hash = |key: &[u8]| Some(self.hash(key)).filter(|hash| self.index(*hash) == index);
            shard.validate(hash)?;
            let part = guarded.part.as_ref().map(|part| &part.ordered);
            if part.or(all.account.ordered.as_ref()).is_some_and(|ordered| !ordered.knows(shard)) {
                return Err(format!("O2: shard {index} has an entry with another's number"));
            }
            if part.is_some_and(|part| part.len() as u64 != shard.len()) {
                return Err(format!("A1: the order of shard {index} knows others than are in it"));
            }
            if self.is_still_full(guarded.full_at())
                && (all.account.is_over() || all.account.exchanged(None, 0).is_some())
            {
                return Err(format!("A2: shard {index} says that there is no room"));
            }
            entries += shard.len();
            bytes += shard.bytes();
            let oldest = shard.ids().map(|id| shard.stamp(id)).min();
            let oldest = oldest.filter(|_| !self.is_ordered);
            if oldest.is_some_and(|oldest| bound.load(Ordering::Acquire) > oldest) {
                return Err(format!("M1: shard {index} has an entry older than its bound"));
            }
        }
        let Account { entries: counted, bytes: summed, limits, ordered, .. } = &*all.account;
        if (*counted, *summed) != (entries, bytes) {
            let held = (counted, summed);
            return Err(format!("M2: the account has {held:?}, a recount {:?}", (entries, bytes)));
        }
        if let Some(known) = ordered.as_ref().map(|ordered| ordered.len() as u64)
            && known != entries
        {
            return Err(format!("O1: the order knows {known} entries of {entries}"));
        }
        if limits.exceeded(entries, bytes) {
            return Err(format!("M2: {entries} entries, {bytes} bytes, {limits:?}"));
        }
        Ok(())
    }
}

impl<S> Drop for AllLocked<'_, S> {
    fn drop(&mut self) {
        for (index, shard) in self.shards.iter_mut().enumerate() {
            shard.publish(self.memory, index);
        }
        if self.has_freed && self.memory.has_parts {
            self.memory.note_freed();
        }
    }
}

impl<S> AllLocked<'_, S> {
    fn index(&self, hash: KeyHash) -> usize {
        self.memory.index(hash)
    }

    /// The shard of a key, to look at.
    pub(crate) fn shard(&self, hash: KeyHash) -> &Shard {
        &self.shards[self.index(hash)].shard
    }

    /// The side of the shard of a key.
    pub(crate) fn side(&mut self, hash: KeyHash) -> &mut S {
        let index = self.index(hash);
        &mut self.shards[index].side
    }

    /// All sides.
    pub(crate) fn sides(&mut self) -> impl Iterator<Item = &mut S> {
        self.shards.iter_mut().map(|shard| &mut shard.side)
    }

    /// Puts a record in; gives the one that it replaces, and that one's stamp.
    pub(crate) fn put(
        &mut self,
        hash: KeyHash,
        record: Record,
        placement: Placement,
    ) -> Option<(Record, u64)> {
        let charge = record.charge();
        let index = self.index(hash);
        let Guarded { shard, part, .. } = &mut *self.shards[index];
        let part = part.as_mut().map(|part| &mut part.ordered);
        let old = shard.find(hash, record.key());
        let old = if let Some(id) = old {
            let stamp = shard.stamp(id);
            self.account.bytes -= shard.charge(id);
            shard.count_hit(id);
            let old = shard.replace(id, record, placement);
            if let Some(ordered) = part.or(self.account.ordered.as_mut()) {
                ordered.replace(shard, id);
            }
            Some((old, stamp))
        } else {
            let id = shard.insert(hash, record, placement);
            if let Some(ordered) = part.or(self.account.ordered.as_mut()) {
                ordered.enter(shard, id, hash);
            }
            self.account.entries += 1;
            None
        };
        self.account.bytes += charge;
        old
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, hash: KeyHash, id: SlotId) -> Removed {
        self.take_out(self.index(hash), id, Leaving::Removed)
    }

    fn take_out(&mut self, index: usize, id: SlotId, leaving: Leaving) -> Removed {
        let Guarded { shard, part, .. } = &mut *self.shards[index];
        if let Some(part) = part {
            part.ordered.leave(shard, id, leaving);
        }
        self.account.give_up(shard, id, leaving);
        self.has_freed = true;
        shard.remove(id)
    }

    /// Says of every entry that the tier below does not have it, unless `keep` knows better.
    pub(crate) fn forget_below(&mut self, keep: impl Fn(&S, KeyHash, &[u8]) -> bool) {
        for guarded in &mut self.shards {
            let Guarded { shard, side, .. } = &mut **guarded;
            let ids: Vec<SlotId> = shard.ids().collect();
            for id in ids {
                let key = shard.record(id).key();
                if !keep(side, self.memory.hash(key), key) {
                    shard.set_handed(id, NOT_BELOW);
                }
            }
        }
    }

    /// Takes everything out.
    pub(crate) fn drain(&mut self) -> Vec<Removed> {
        let mut all = Vec::new();
        for index in 0..self.shards.len() {
            let ids: Vec<SlotId> = self.shards[index].shard.ids().collect();
            all.extend(ids.into_iter().map(|id| self.take_out(index, id, Leaving::Removed)));
        }
        all
    }

    /// While over a limit: takes out the oldest entry of all, and gives it with its shard's side.
    pub(crate) fn evict(&mut self) -> Option<(Removed, &mut S)> {
        if !self.account.is_over() {
            return None;
        }
        let (index, id) = self.next()?;
        let removed = self.take_out(index, id, Leaving::Evicted);
        Some((removed, &mut self.shards[index].side))
    }

    /// Who leaves next.
    fn next(&mut self) -> Option<(usize, SlotId)> {
        if self.memory.is_ordered { self.named() } else { self.oldest() }
    }

    /// The oldest entry of all.
    fn oldest(&mut self) -> Option<(usize, SlotId)> {
        let mut oldest: Option<(usize, SlotId)> = None;
        for index in 0..self.shards.len() {
            let Some((id, ..)) = self.shards[index].shard.oldest() else { continue };
            if oldest.is_none_or(|oldest| self.place(index, id) < self.place(oldest.0, oldest.1)) {
                oldest = Some((index, id));
            }
        }
        oldest
    }

    /// Where an entry is in the order.
    fn place(&self, index: usize, id: SlotId) -> (u64, &[u8]) {
        let shard = &self.shards[index].shard;
        (shard.stamp(id), shard.record(id).key())
    }

    /// The entry that the tier's order names, or that of a shard with as many as the average.
    fn named(&mut self) -> Option<(usize, SlotId)> {
        if self.memory.has_parts {
            let mean = self.account.entries / self.shards.len() as u64;
            let turn = self.memory.turn.load(Ordering::Relaxed);
            let named = parts::named(&mut self.shards, mean, turn);
            self.memory.turn.store(named?.0, Ordering::Relaxed);
            return named;
        }
        let (number, hash) = self.account.named(None, true).ok()?;
        let index = self.index(hash);
        Some((index, self.shards[index].shard.find_filed(hash, number)?))
    }
}
