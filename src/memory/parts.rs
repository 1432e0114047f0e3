//! One order for each shard: what `Lfu`, `S3Fifo` and `Sieve` keep a large cache by.
//!
//! These strategies are guesses at what will be asked for. Where each shard has many entries, an order of its
//! own guesses as well as one over all shards would, and threads that insert into different shards have
//! nothing to do with each other: once the tier is full, an entry that leaves makes room for one that counts
//! as much in the same shard, and the account has nothing to write down.
//!
//! # How it works
//!
//! Each shard has a share of the limits. A newcomer whose shard has its share pushes out what that
//! shard's order names; one whose shard has less, what that of the shard with the most names. So a place
//! that was free anywhere may be taken by anybody, and shards even out where they have drifted apart.
//!
//! A shard that found no room in the account need not ask again until something was given up; that is seen
//! by `freed`, which changes then.
//!
//! # Invariants
//!
//! - **A1** a part's order knows exactly the entries in its shard.
//! - **A2** while `freed` is what a part has noted, the account has no room for another entry of the charge
//!   that it noted or more.
//!
//! # Why not a limit for each shard
//!
//! A cache for 10,000 entries would evict before it has them, as hashes do not fall evenly.

use crate::memory::ordered::Ordered;
use crate::memory::{Evicted, Guarded, Locked, Memory, Newcomer, Removed, Room, Shard, SlotId};
use crate::stats::Limits;
use crate::strategy::{Leaving, Strategy};
use crate::sync::BriefGuard;
use crate::sync::atomic::Ordering;

/// How many entries each shard can have at least, where each has an order of its own. Two in unit tests and under
/// fuzzing, where caches are small.
const ENTRIES_MIN: u64 = if cfg!(any(test, fuzzing)) { 2 } else { 512 };
/// Likewise in bytes.
const BYTES_MIN: u64 = if cfg!(any(test, fuzzing)) { 20 } else { 1 << 20 };
/// A shard may have this part less than its share before it takes from others: about what chance makes of
/// [`ENTRIES_MIN`].
const SLACK: u64 = 32;

/// Whether so many shards are to have an order each.
pub(crate) fn have_orders(strategy: &Strategy, limits: Limits, shards: usize) -> bool {
    let share = share_of(limits, shards);
    let is_large = |share: Option<u64>, least| share.is_none_or(|share| share >= least);
    let is_limited = limits.entries.is_some() || limits.bytes.is_some();
    strategy.is_a_guess()
        && is_limited
        && is_large(share.entries, ENTRIES_MIN)
        && is_large(share.bytes, BYTES_MIN)
}

fn share_of(limits: Limits, shards: usize) -> Limits {
    let of = |limit: Option<u64>| limit.map(|limit| limit / shards.max(1) as u64);
    Limits { entries: of(limits.entries), bytes: of(limits.bytes) }
}

/// A shard's order, and its share.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) ordered: Ordered,
    share: Limits,
    /// What `freed` was when there was no room, and for which charge (A2).
    refused: (u64, u64),
}

impl Part {
    pub(super) fn new(ordered: Ordered, limits: Limits, shards: usize) -> Self {
        let mut part = Self { ordered, share: limits, refused: (0, u64::MAX) };
        part.set_limits(limits, shards);
        part
    }

    fn set_limits(&mut self, limits: Limits, shards: usize) {
        self.share = share_of(limits, shards);
        self.ordered.set_limits(self.share);
    }

    /// How much of what its share is of is in.
    fn held(&self, shard: &Shard) -> u64 {
        if self.share.bytes.is_some() { shard.bytes() } else { shard.len() }
    }

    /// Whether that is its share, or little less.
    fn has_its_share(&self, shard: &Shard) -> bool {
        let (held, full) = (self.held(shard), self.share.bytes.or(self.share.entries).unwrap_or(0));
        held > 0 && held >= full - full / SLACK
    }

    /// Whom its order names.
    fn named(&mut self, newcomer: Option<&Newcomer<'_>>, shard: &Shard) -> Option<Chosen> {
        let (number, hash) = self.ordered.named(newcomer, true)?;
        let id = shard.find_filed(hash, number)?;
        Some(Chosen { id, charge: shard.charge(id) })
    }
}

/// Who is to leave.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    id: SlotId,
    charge: u64,
}

/// Which shard holds the most; the first of several.
fn first_of_most(held: impl Iterator<Item = Option<(u64, bool)>>) -> usize {
    let mut most = (0, 0);
    for (index, held) in held.enumerate() {
        most = most.max((held.map_or(0, |(held, _)| held), usize::MAX - index));
    }
    usize::MAX - most.1
}

impl<S> Guarded<S> {
    /// How much of its share a part holds, and whether that is enough; `None` if the shard has no order of its own.
    fn held(&self) -> Option<(u64, bool)> {
        let part = self.part.as_ref()?;
        Some((part.held(&self.shard), part.has_its_share(&self.shard)))
    }
}

/// Whom the order of the shard with the most names, of all shards.
pub(super) fn named<S>(shards: &mut [BriefGuard<'_, Guarded<S>>]) -> Option<(usize, SlotId)> {
    let index = first_of_most(shards.iter().map(|shard| shard.held()));
    let Guarded { shard, part, .. } = &mut **shards.get_mut(index)?;
    Some((index, part.as_mut()?.named(None, shard)?.id))
}

impl<S> Memory<S> {
    /// Tells the parts of new limits, which the account has already.
    pub(super) fn set_limits_of_parts(&self, limits: Limits) {
        for shard in self.shards.iter().filter(|_| self.has_parts) {
            if let Some(part) = &mut shard.lock().part {
                part.set_limits(limits, self.shards.len());
            }
        }
    }

    /// Says that the account may have room where it had none (A2); under its lock, or that of all shards.
    pub(super) fn note_freed(&self) {
        self.freed.fetch_add(1, Ordering::Release);
    }

    /// [`Self::evict`] by the shards' orders.
    pub(super) fn evict_in_parts(
        &self,
        newcomer: Option<&Newcomer<'_>>,
        hook: impl FnOnce(&mut S, Removed),
    ) -> Evicted {
        let own = newcomer.map(|newcomer| self.index(newcomer.hash));
        let own = own.filter(|own| self.lock_nth(*own).held().is_some_and(|(_, enough)| enough));
        let mut locked = self.lock_nth(own.unwrap_or_else(|| self.fullest()));
        let coming = newcomer.filter(|_| own.is_some());
        let Guarded { shard, side, part, .. } = &mut *locked.guarded;
        let chosen = part.as_mut().and_then(|part| Some((part.named(coming, shard)?, part)));
        let Some((chosen, part)) = chosen else {
            drop(locked);
            return self.evict_with_all_locked(newcomer, hook);
        };
        let mut account = self.account.lock();
        if account.has_room(newcomer) {
            return Evicted::Room;
        }
        account.release(chosen.charge);
        self.note_freed();
        drop(account);
        part.ordered.leave(shard, chosen.id, Leaving::Evicted);
        hook(side, shard.remove(chosen.id));
        Evicted::Oldest
    }

    /// The shard that holds the most, as it was lately.
    fn fullest(&self) -> usize {
        first_of_most(self.shards.iter().map(|shard| shard.lock().held()))
    }
}

impl<'a, S> Locked<'a, S> {
    /// [`Self::reserve_by_evicting`] by the shards' orders.
    pub(super) fn reserve_in_part(
        &mut self,
        newcomer: &Newcomer<'_>,
        hook: impl FnOnce(&mut S, Removed),
    ) -> Room {
        let memory = self.memory;
        if !self.is_known_to_be_full(newcomer) && self.take_room(newcomer) {
            return Room::Reserved;
        }
        let is_full = self.is_known_to_be_full(newcomer);
        let mut other = match self.held() {
            Some((held, false)) => self.fullest_other(held),
            _ => None,
        };
        // To another shard it does not come.
        let coming = other.is_none().then_some(newcomer);
        let guarded = other.as_mut().unwrap_or(&mut self.guarded);
        let Guarded { shard, side, part: Some(part), .. } = &mut **guarded else {
            return Room::None;
        };
        let Some(chosen) = part.named(coming, shard) else { return Room::None };
        if newcomer.old.is_some() && shard.record(chosen.id).key() == newcomer.key() {
            // Then it is not there to be replaced, and who asks is to look again.
            return Room::None;
        }
        // Most of the time the sums stay as they are.
        let mut room = Room::Reserved;
        if !is_full || chosen.charge != newcomer.charge {
            let mut account = memory.account.lock();
            if account.exchange(newcomer.old, newcomer.charge) {
                return Room::Reserved;
            }
            let before = account.bytes;
            account.release(chosen.charge);
            if !account.exchange(newcomer.old, newcomer.charge) {
                room = Room::More;
            }
            if account.bytes < before {
                memory.note_freed();
            }
        }
        part.ordered.leave(shard, chosen.id, Leaving::Evicted);
        hook(side, shard.remove(chosen.id));
        room
    }

    /// Whether an entry more has no room, as far as is known without the account (A2).
    fn is_known_to_be_full(&self, newcomer: &Newcomer<'_>) -> bool {
        let Some(part) = &self.guarded.part else { return false };
        let (freed, charge) = part.refused;
        newcomer.old.is_none()
            && newcomer.charge >= charge
            && self.memory.freed.load(Ordering::Acquire) == freed
    }

    /// Takes the place of a newcomer where there is one without anybody leaving; notes if there is none.
    fn take_room(&mut self, newcomer: &Newcomer<'_>) -> bool {
        let mut account = self.memory.account.lock();
        let before = account.bytes;
        let taken = account.exchange(newcomer.old, newcomer.charge);
        if taken && account.bytes < before {
            self.memory.note_freed();
        }
        if let Some(part) = self.guarded.part.as_mut().filter(|_| !taken && !account.is_over()) {
            // Where there are too many of them, what they count does not matter.
            let are_too_many = account.are_too_many(account.entries + 1, account.bytes);
            let charge = if are_too_many { 0 } else { newcomer.charge };
            part.refused = (self.memory.freed.load(Ordering::Acquire), charge);
        }
        taken
    }

    /// Of the other shards that are free, the one that holds the most, if that is more than this.
    fn fullest_other(&self, held: u64) -> Option<BriefGuard<'a, Guarded<S>>> {
        let mut fullest = (held, None);
        for (index, shard) in self.memory.shards.iter().enumerate() {
            if index == self.index {
                continue;
            }
            let Some(guarded) = shard.try_lock() else { continue };
            let held = guarded.held().map_or(0, |(held, _)| held);
            if held > fullest.0 {
                fullest = (held, Some(guarded));
            }
        }
        fullest.1
    }
}

#[cfg(test)]
mod tests;
