//! One order over the whole tier: what every strategy but exact LRU is kept by. (A shard's own is the same over one
//! shard, see `parts.rs`; then "the account's lock" is the shard's, and nobody is about to come in.)
//!
//! # How it works
//!
//! The account has the order beside its sums, under the same lock, and each entry by its number. An entry
//! is told to the order when it is in its shard's table, and taken from it in the step that gives its place
//! up. A hit only counts itself in the record; the order reads that and sets it back without the shard's
//! lock. A hit in just that moment, on another thread, may bring back what was taken.
//!
//! # Invariants
//!
//! - **O1** the order was told of the entries that have a number, and of no others; they are those that the
//!   account counts, besides what is reserved by a thread that holds its shard's lock, which is counted
//!   in `coming`.
//! - **O2** an entry in a table has the number of its record here.
//!
//! # Concurrency
//!
//! Locks are taken as everywhere: shard, then account; with the account, shards are only tried. So what
//! the order names may be out of reach; then the victim's shard is locked first, without another, and the
//! order is asked again.
//!
//! # Failure
//!
//! An order is a user's code that runs under a lock. When it panics, it is not asked any more: from then on
//! entries leave by their numbers, whichever comes next. That is logged when the lock is gone, by who asks
//! [`Memory::has_lost_order`].

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::hash::KeyHash;
use crate::memory::ahead::{Ahead, Foresight};
use crate::memory::order::{AnyOrder, Near};
use crate::memory::{
    Account, Evicted, Guarded, Locked, Memory, Newcomer, Removed, Room, Shard, SlotId,
};
use crate::record::{FILED_MAX, NEVER, Record};
use crate::stats::Limits;
use crate::strategy::{Entries, EntryId, Leaving, NewEntry, Victim};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{LaneCounts, thread};
use crate::time::Timestamp;

/// The most entries that there are numbers for.
pub(super) const ENTRIES_MAX: u64 = FILED_MAX as u64;

/// After so many names that led nowhere, whoever can be reached leaves.
const ROUNDS_TRUSTED: u32 = 1_000;

/// An order, and the entries by the numbers it knows them by.
#[derive(Debug)]
pub(super) struct Ordered {
    /// `None` once it has panicked.
    order: Option<AnyOrder>,
    known: Known,
    /// The numbers that are free.
    free: Vec<u32>,
    /// Where to look for an entry if no order says which.
    next: usize,
    /// Set when the order has panicked, until that is logged.
    is_lost: Arc<AtomicBool>,
}

/// The entries as the order is shown them.
#[derive(Debug)]
struct Known {
    /// By number.
    entries: Vec<Option<Filed>>,
    /// What has a place and is about to come in: entries, and the sum of their charges (O1).
    coming: (u64, u64),
    hits: Hits,
    foresight: Foresight,
}

/// How often the entries of an order were hit.
#[derive(Debug)]
pub(super) struct Hits {
    pub(super) counts: LaneCounts,
    /// The shard that they are in, if it is one.
    pub(super) part: Option<usize>,
}

/// An entry that has a number.
#[derive(Debug)]
struct Filed {
    record: Record,
    hash: KeyHash,
}

impl Known {
    fn get(&self, id: EntryId) -> Option<&Filed> {
        self.entries.get(id.index())?.as_ref()
    }

    fn record(&self, id: EntryId) -> Option<&Record> {
        self.get(id).map(|filed| &filed.record)
    }
}

fn timestamp(deadline: u64) -> Option<Timestamp> {
    (deadline != NEVER).then(|| Timestamp::from_nanos(deadline))
}

impl Entries for Known {
    fn hits(&self, id: EntryId) -> u32 {
        self.record(id).map_or(0, Record::hits)
    }

    fn take_hits(&mut self, id: EntryId) -> u32 {
        self.record(id).map_or(0, Record::take_hits)
    }

    fn stamp(&self, id: EntryId) -> Timestamp {
        Timestamp::from_nanos(self.record(id).map_or(0, Record::recency))
    }

    fn deadline(&self, id: EntryId) -> Option<Timestamp> {
        self.record(id).and_then(|record| timestamp(record.memory_deadline()))
    }

    fn charge(&self, id: EntryId) -> u64 {
        self.record(id).map_or(0, Record::charge)
    }

    fn key(&self, id: EntryId) -> &[u8] {
        self.record(id).map_or(&[], Record::key)
    }

    fn hash(&self, id: EntryId) -> u64 {
        self.get(id).map_or(0, |filed| filed.hash.0)
    }

    fn hits_so_far(&self) -> u64 {
        self.hits.part.map_or_else(|| self.hits.counts.sum(), |part| self.hits.counts.of(part))
    }

    fn coming(&self) -> (u64, u64) {
        self.coming
    }
}

impl Near for Known {
    #[inline]
    fn foresee(&mut self, id: EntryId) {
        let Some(place) = self.entries.get(id.index()) else { return };
        self.foresight.note(place);
        if let Some(filed) = place {
            self.foresight.note_address(filed.record.address());
            self.foresight.note_leaving(filed.hash);
        }
    }

    #[inline]
    fn has_time(&self) -> bool {
        self.foresight.is_alone()
    }

    #[inline]
    fn foresee_behind(&mut self, id: EntryId) {
        if let Some(place) = self.entries.get(id.index()) {
            self.foresight.note(place);
        }
    }

    #[inline]
    fn foresee_own<T>(&mut self, of: &T) {
        self.foresight.note(of);
    }
}

impl Ordered {
    /// `is_lost` is set when the order has panicked.
    pub(super) fn new(
        order: AnyOrder,
        limits: Limits,
        hits: Hits,
        is_lost: Arc<AtomicBool>,
    ) -> Self {
        let known =
            Known { entries: Vec::new(), coming: (0, 0), hits, foresight: Foresight::default() };
        let mut new = Self { order: Some(order), known, free: Vec::new(), next: 0, is_lost };
        new.set_limits(limits);
        new
    }

    /// What can be fetched for who brings an entry in, if the order foresees anything. What is `beside` it keeps its
    /// place as well; the account does not yet.
    pub(super) fn ahead(&self, beside: Option<(usize, usize)>) -> Option<Ahead> {
        let own = self.order.as_ref()?.place()?;
        let places: Vec<_> = beside.into_iter().chain([own]).collect();
        Some(self.known.foresight.ahead(&places))
    }

    /// Lets the order do something, and gives it up if it panics.
    #[inline]
    fn ask<T>(&mut self, ask: impl FnOnce(&mut AnyOrder, &mut Known) -> T) -> Option<T> {
        let order = self.order.as_mut()?;
        let known = &mut self.known;
        match catch_unwind(AssertUnwindSafe(|| ask(order, known))) {
            Ok(done) => return Some(done),
            // What it drops may panic again, and what that panics with, too.
            Err(panic) => _ = ManuallyDrop::new(panic),
        }
        self.known.foresight.end();
        let broken = self.order.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(broken))) {
            _ = ManuallyDrop::new(panic);
        }
        self.is_lost.store(true, Ordering::Relaxed);
        None
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.ask(|order, _| order.set_limits(limits.entries, limits.bytes));
    }

    /// Notes that somebody has a place for an entry of this charge, who [`Self::enter`]s it later.
    fn expect(&mut self, charge: u64) {
        let (entries, charges) = self.known.coming;
        self.known.coming = (entries + 1, charges.saturating_add(charge));
    }

    /// That entry comes in now.
    fn expect_no_more(&mut self, charge: u64) {
        let (entries, charges) = self.known.coming;
        self.known.coming = (entries.saturating_sub(1), charges.saturating_sub(charge));
    }

    /// Tells of an entry that has come into a shard, and files it there under its number.
    pub(super) fn enter(&mut self, shard: &mut Shard, id: SlotId, hash: KeyHash) {
        let filed = Some(Filed { record: shard.filed(id).0, hash });
        let number = if let Some(number) = self.free.pop() {
            self.known.entries[number as usize] = filed;
            number
        } else {
            self.known.entries.push(filed);
            u32::try_from(self.known.entries.len() - 1).unwrap_or(u32::MAX)
        };
        self.ask(|order, entries| {
            entries.foresight.begin();
            order.insert(EntryId(number), entries);
        });
        shard.set_filed(id, number);
    }

    /// Tells of a new value of an entry in a shard.
    pub(super) fn replace(&mut self, shard: &mut Shard, id: SlotId) {
        let (record, number) = shard.filed(id);
        let Some(Some(filed)) = self.known.entries.get_mut(number as usize) else { return };
        filed.record = record;
        self.ask(|order, entries| order.replace(EntryId(number), entries));
    }

    /// Tells of an entry that leaves its shard; its number is free then.
    pub(super) fn leave(&mut self, shard: &mut Shard, id: SlotId, leaving: Leaving) {
        let number = shard.number(id);
        self.ask(|order, entries| order.remove(EntryId(number), leaving, entries));
        if let Some(place) = self.known.entries.get_mut(number as usize) {
            if let Some(filed) = place.take() {
                shard.give_back(id, filed.record);
            }
            self.free.push(number);
        }
    }

    /// Who leaves next; `None` only if there is no entry.
    fn victim(&mut self, newcomer: Option<&NewEntry<'_>>) -> Option<Victim> {
        let named = self.ask(|order, entries| order.victim(newcomer, entries)).flatten();
        match named {
            Some(Victim::Newcomer) if newcomer.is_some() => named,
            Some(Victim::Entry(id)) if self.known.get(id).is_some() => named,
            _ => self.any().map(Victim::Entry),
        }
    }

    /// Likewise: number and hash, if it is not the newcomer; any entry unless the order `is_trusted`.
    pub(super) fn named(
        &mut self,
        newcomer: Option<&Newcomer<'_>>,
        is_trusted: bool,
    ) -> Option<(u32, KeyHash)> {
        let victim = if is_trusted {
            self.victim(newcomer.map(Newcomer::entry).as_ref())
        } else {
            self.any().map(Victim::Entry)
        };
        let Some(Victim::Entry(id)) = victim else { return None };
        Some((id.0, self.known.get(id)?.hash))
    }

    /// Any entry, by no order; the same one until it has left.
    fn any(&mut self) -> Option<EntryId> {
        let entries = &self.known.entries;
        let (before, from) = entries.split_at(self.next.min(entries.len()));
        let found = from.iter().position(Option::is_some).map(|at| at + before.len());
        self.next = found.or_else(|| before.iter().position(Option::is_some))?;
        u32::try_from(self.next).ok().map(EntryId)
    }

    /// Whether it knows the entries of a shard by their numbers (O2).
    pub(super) fn knows(&self, shard: &Shard) -> bool {
        shard.ids().all(|id| {
            let known = self.known.record(EntryId(shard.number(id)));
            known.is_some_and(|known| known.is_same(shard.record(id)))
        })
    }

    /// [`Entries::take_hits`], as the order would ask.
    #[cfg(test)]
    pub(super) fn take_hits(&mut self, id: EntryId) -> u32 {
        self.known.take_hits(id)
    }

    /// How many entries it knows of.
    pub(super) fn len(&self) -> usize {
        self.known.entries.len() - self.free.len()
    }
}

impl Newcomer<'_> {
    fn entry(&self) -> NewEntry<'_> {
        NewEntry {
            key: self.key(),
            hash: self.hash.0,
            charge: self.charge,
            stamp: Timestamp::from_nanos(self.stamp),
            deadline: timestamp(self.deadline),
        }
    }
}

impl Account {
    /// Whether nobody is in yet, and somebody who has a place is about to be.
    fn is_entering(&self) -> bool {
        let is_of = |ordered: &Ordered| ordered.len() == 0 && ordered.known.coming.0 > 0;
        self.ordered.as_ref().is_some_and(is_of)
    }

    /// [`Self::exchange`], for a newcomer that the order is to expect.
    fn exchange_for(&mut self, newcomer: &Newcomer<'_>) -> bool {
        let exchanged = self.exchange(newcomer.old, newcomer.charge);
        if let Some(ordered) = self.ordered.as_mut().filter(|_| exchanged && newcomer.old.is_none())
        {
            ordered.expect(newcomer.charge);
        }
        exchanged
    }

    /// Gives up the place of an entry, and tells the tier's order if there is one.
    pub(super) fn give_up(&mut self, shard: &mut Shard, id: SlotId, leaving: Leaving) {
        if let Some(ordered) = &mut self.ordered {
            ordered.leave(shard, id, leaving);
        }
        self.release(shard.charge(id));
    }

    /// Whom the order names: number and hash.
    pub(super) fn named(
        &mut self,
        newcomer: Option<&Newcomer<'_>>,
        is_trusted: bool,
    ) -> Result<(u32, KeyHash), Evicted> {
        let nobody = newcomer.map_or(Evicted::Nothing, |_| Evicted::Newcomer);
        let ordered = self.ordered.as_mut().ok_or(nobody)?;
        ordered.named(newcomer, is_trusted).ok_or(nobody)
    }
}

impl<S> Memory<S> {
    /// Whether the tier's order has panicked since this was asked last.
    #[inline]
    pub(crate) fn has_lost_order(&self) -> bool {
        let lost = self.is_lost.as_ref();
        lost.is_some_and(|lost| lost.load(Ordering::Relaxed) && lost.swap(false, Ordering::Relaxed))
    }

    /// [`Self::evict`] by the tier's order, or those of the shards.
    pub(super) fn evict_in_order(
        &self,
        newcomer: Option<&Newcomer<'_>>,
        hook: impl FnOnce(&mut S, Removed),
    ) -> Evicted {
        if self.has_parts {
            return self.evict_in_parts(newcomer, hook);
        }
        let mut account = self.account.lock();
        let mut rounds = 0_u32;
        loop {
            let trusted = rounds < ROUNDS_TRUSTED;
            if account.has_room(newcomer) {
                return Evicted::Room;
            }
            let index = match account.named(newcomer, trusted) {
                Ok((_, hash)) => self.index(hash),
                Err(_) if account.is_entering() => {
                    drop(account);
                    thread::yield_now();
                    account = self.account.lock();
                    continue;
                }
                Err(evicted) => return evicted,
            };
            drop(account);
            let mut locked = self.lock_nth(index);
            account = self.account.lock();
            if account.has_room(newcomer) {
                return Evicted::Room;
            }
            let (number, hash) = match account.named(newcomer, trusted) {
                Ok(named) => named,
                Err(_) if account.is_entering() => continue,
                Err(evicted) => return evicted,
            };
            // One that names another entry each time may never name one whose shard is locked.
            rounds = rounds.saturating_add(1);
            if self.index(hash) != index {
                continue;
            }
            let Guarded { shard, side, .. } = &mut *locked.guarded;
            let Some(id) = shard.find_filed(hash, number) else { continue };
            account.give_up(shard, id, Leaving::Evicted);
            drop(account);
            hook(side, shard.remove(id));
            return Evicted::Oldest;
        }
    }
}

impl<S> Locked<'_, S> {
    /// [`Self::remove`] where there is another order than exact LRU.
    #[inline(never)]
    pub(super) fn remove_from_order(&mut self, id: SlotId) -> Removed {
        let Guarded { shard, part, .. } = &mut *self.guarded;
        let mut account = self.memory.account.lock();
        if let Some(part) = part {
            account.release(shard.charge(id));
            self.memory.note_freed();
            drop(account);
            part.ordered.leave(shard, id, Leaving::Removed);
        } else {
            account.give_up(shard, id, Leaving::Removed);
        }
        shard.remove(id)
    }

    /// Tells that order of a new value.
    #[inline(never)]
    pub(super) fn replace_in_order(&mut self, id: SlotId) {
        let Guarded { shard, part, .. } = &mut *self.guarded;
        if let Some(part) = part {
            part.ordered.replace(shard, id);
        } else if let Some(ordered) = &mut self.memory.account.lock().ordered {
            ordered.replace(shard, id);
        }
    }

    /// [`Self::reserve_by_evicting`] by the tier's order, or those of the shards.
    #[inline(never)]
    pub(super) fn reserve_in_order(
        &mut self,
        newcomer: &Newcomer<'_>,
        hook: impl FnOnce(&mut S, Removed),
    ) -> Room {
        let memory = self.memory;
        if memory.has_parts {
            return self.reserve_in_part(newcomer, hook);
        }
        let mut account = memory.account.lock();
        if account.exchange_for(newcomer) {
            return Room::Reserved;
        }
        let Ok((victim, hash)) = account.named(Some(newcomer), true) else { return Room::None };
        let index = memory.index(hash);
        let mut other = None;
        if index != self.index {
            let Some(guarded) = memory.shards[index].try_lock() else { return Room::None };
            other = Some(Locked { guarded, index, memory });
        }
        let Guarded { shard, side, .. } = &mut *other.as_mut().unwrap_or(self).guarded;
        let Some(id) = shard.find_filed(hash, victim) else { return Room::None };
        if newcomer.replaces(shard.record(id)) {
            return Room::None;
        }
        account.give_up(shard, id, Leaving::Evicted);
        let reserved = account.exchange_for(newcomer);
        drop(account);
        hook(side, shard.remove(id));
        if reserved { Room::Reserved } else { Room::More }
    }

    /// Tells it of an entry that has come in.
    #[inline(never)]
    pub(super) fn enter_order(&mut self, hash: KeyHash, id: SlotId) {
        let Guarded { shard, part, .. } = &mut *self.guarded;
        if let Some(part) = part {
            part.ordered.enter(shard, id, hash);
        } else if let Some(ordered) = &mut self.memory.account.lock().ordered {
            ordered.expect_no_more(shard.charge(id));
            ordered.enter(shard, id, hash);
        }
    }
}
