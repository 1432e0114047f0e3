//! One order over the whole tier: what every strategy but exact LRU is kept by.
//!
//! # How it works
//!
//! The account has the order beside its sums, under the same lock, and each entry by its number. An entry
//! is told to the order when it is in its shard's table, and taken from it in the step that gives its place
//! up. A hit only counts itself in the record, under its shard's lock; the order reads that from anywhere,
//! and sets it back only where the shard can be locked, which with one thread is always; where it cannot be,
//! what was taken is kept beside.
//!
//! # Invariants
//!
//! - **O1** the order was told of the entries that have a number, and of no others; they are those that the
//!   account counts, besides what is reserved by a thread that holds its shard's lock.
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
//! An order is a user's code that runs under a lock. When it panics, that is logged, and it is not asked
//! any more: from then on entries leave by their numbers, whichever comes next.

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::hash::KeyHash;
use crate::memory::{
    Account, Evicted, Guarded, Locked, Memory, Newcomer, Removed, Room, Shard, SlotId,
};
use crate::record::{FILED_MAX, NEVER, Record};
use crate::stats::Limits;
use crate::strategy::{Entries, EntryId, EvictionOrder, Leaving, NewEntry, Victim};
use crate::sync::atomic::Ordering;
use crate::sync::thread;
use crate::time::Timestamp;
use crate::trace;

/// The most entries that there are numbers for.
pub(super) const ENTRIES_MAX: u64 = FILED_MAX as u64;

/// After so many names that led nowhere, whoever can be reached leaves.
const ROUNDS_TRUSTED: u32 = 1_000;

/// An order, and the entries by the numbers it knows them by.
#[derive(Debug)]
pub(super) struct Ordered {
    /// `None` once it has panicked.
    order: Option<Box<dyn EvictionOrder>>,
    records: Vec<Option<Record>>,
    /// By number: hits that the order has taken, and that could not be set back in the record yet.
    taken: Vec<u8>,
    /// The numbers that are free.
    free: Vec<u32>,
    /// Where to look for an entry if no order says which.
    next: usize,
}

/// How the shards can be reached by a thread that has the account.
#[derive(Debug)]
pub(super) struct Reach<'m, S> {
    pub(super) memory: &'m Memory<S>,
    pub(super) mine: Mine,
}

/// The shards that it has locked itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mine {
    None,
    One(usize),
    All,
}

/// The entries as the order is shown them.
struct Shown<'a, S> {
    records: &'a [Option<Record>],
    taken: &'a mut [u8],
    reach: &'a Reach<'a, S>,
}

impl<S> Shown<'_, S> {
    fn record(&self, id: EntryId) -> Option<&Record> {
        self.records.get(id.index())?.as_ref()
    }
}

fn timestamp(deadline: u64) -> Option<Timestamp> {
    (deadline != NEVER).then(|| Timestamp::from_nanos(deadline))
}

impl<S> Entries for Shown<'_, S> {
    fn hits(&self, id: EntryId) -> u32 {
        let taken = self.taken.get(id.index()).copied().unwrap_or_default();
        self.record(id).map_or(0, Record::hits).saturating_sub(taken.into())
    }

    fn take_hits(&mut self, id: EntryId) -> u32 {
        let hits = self.hits(id);
        let Some(record) = self.records.get(id.index()).and_then(Option::as_ref) else { return 0 };
        let Some(taken) = self.taken.get_mut(id.index()) else { return 0 };
        if record.hits() > 0 {
            let was_set_back = self.reach.with_shard_of(record.key(), || record.forget_hits());
            *taken = if was_set_back { 0 } else { u8::try_from(record.hits()).unwrap_or(u8::MAX) };
        }
        hits
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
        self.record(id).map_or(0, |record| self.reach.memory.hash(record.key()).0)
    }

    fn hits_so_far(&self) -> u64 {
        self.reach.memory.hits.iter().map(|hits| hits.load(Ordering::Relaxed)).sum()
    }
}

impl<S> Reach<'_, S> {
    /// Does something under the lock of a key's shard; `false`, and nothing, if another thread has that.
    fn with_shard_of(&self, key: &[u8], act: impl FnOnce()) -> bool {
        let index = self.memory.index(self.memory.hash(key));
        let is_mine = match self.mine {
            Mine::All => true,
            Mine::One(mine) => mine == index,
            Mine::None => false,
        };
        let guard = if is_mine { None } else { self.memory.shards[index].try_lock() };
        let can_act = is_mine || guard.is_some();
        if can_act {
            act();
        }
        can_act
    }
}

impl Ordered {
    pub(super) fn new(order: Box<dyn EvictionOrder>, limits: Limits) -> Self {
        let mut new = Self {
            order: Some(order),
            records: Vec::new(),
            taken: Vec::new(),
            free: Vec::new(),
            next: 0,
        };
        new.guarded(|order, _, _| order.set_limits(limits.entries, limits.bytes));
        new
    }

    /// Lets the order do something, and gives it up if it panics.
    fn guarded<T>(
        &mut self,
        act: impl FnOnce(&mut dyn EvictionOrder, &[Option<Record>], &mut [u8]) -> T,
    ) -> Option<T> {
        let order = self.order.as_deref_mut()?;
        let (records, taken) = (&self.records, &mut self.taken);
        match catch_unwind(AssertUnwindSafe(|| act(order, records, taken))) {
            Ok(done) => return Some(done),
            // What it drops may panic again, and what that panics with, too.
            Err(panic) => _ = ManuallyDrop::new(panic),
        }
        let broken = self.order.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(broken))) {
            _ = ManuallyDrop::new(panic);
        }
        trace::warn("the eviction order panicked, entries leave in no order", &"give it up");
        None
    }

    fn ask<S, T>(
        &mut self,
        reach: &Reach<'_, S>,
        ask: impl FnOnce(&mut dyn EvictionOrder, &mut dyn Entries) -> T,
    ) -> Option<T> {
        self.guarded(|order, records, taken| ask(order, &mut Shown { records, taken, reach }))
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.guarded(|order, _, _| order.set_limits(limits.entries, limits.bytes));
    }

    /// Tells of an entry that comes in; gives its number.
    pub(super) fn enter<S>(&mut self, reach: &Reach<'_, S>, record: Record) -> u32 {
        let number = if let Some(number) = self.free.pop() {
            self.records[number as usize] = Some(record);
            self.taken[number as usize] = 0;
            number
        } else {
            self.records.push(Some(record));
            self.taken.push(0);
            u32::try_from(self.records.len() - 1).unwrap_or(u32::MAX)
        };
        self.ask(reach, |order, entries| order.insert(EntryId(number), entries));
        number
    }

    /// Tells of a new value.
    pub(super) fn replace<S>(&mut self, reach: &Reach<'_, S>, number: u32, record: Record) {
        let Some(place) = self.records.get_mut(number as usize) else { return };
        drop(place.replace(record));
        self.ask(reach, |order, entries| order.replace(EntryId(number), entries));
    }

    /// Tells of an entry that leaves; its number is free then.
    pub(super) fn leave<S>(&mut self, reach: &Reach<'_, S>, number: u32, leaving: Leaving) {
        self.ask(reach, |order, entries| order.remove(EntryId(number), leaving, entries));
        if let Some(place) = self.records.get_mut(number as usize) {
            drop(place.take());
            self.free.push(number);
        }
    }

    /// Who leaves next; `None` only if there is no entry.
    pub(super) fn victim<S>(
        &mut self,
        reach: &Reach<'_, S>,
        newcomer: Option<&NewEntry<'_>>,
    ) -> Option<Victim> {
        let named = self.ask(reach, |order, entries| order.victim(newcomer, entries)).flatten();
        match named {
            Some(Victim::Newcomer) if newcomer.is_some() => named,
            Some(Victim::Entry(id)) if self.record(id).is_some() => named,
            _ => self.any().map(Victim::Entry),
        }
    }

    pub(super) fn record(&self, id: EntryId) -> Option<&Record> {
        self.records.get(id.index())?.as_ref()
    }

    /// Any entry, by no order; the same one until it has left.
    fn any(&mut self) -> Option<EntryId> {
        let (before, from) = self.records.split_at(self.next.min(self.records.len()));
        let found = from.iter().position(Option::is_some).map(|at| at + before.len());
        self.next = found.or_else(|| before.iter().position(Option::is_some))?;
        u32::try_from(self.next).ok().map(EntryId)
    }

    /// Whether it knows the entries of a shard by their numbers (O2).
    pub(super) fn knows(&self, shard: &Shard) -> bool {
        shard.ids().all(|id| {
            let known = self.record(EntryId(shard.number(id)));
            known.is_some_and(|known| known.is_same(shard.record(id)))
        })
    }

    /// [`Entries::take_hits`], as the order would ask.
    #[cfg(test)]
    pub(super) fn take_hits<S>(&mut self, reach: &Reach<'_, S>, id: EntryId) -> u32 {
        self.ask(reach, |_, entries| entries.take_hits(id)).unwrap_or_default()
    }

    /// How many entries it knows of.
    pub(super) fn len(&self) -> usize {
        self.records.len() - self.free.len()
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
        self.entries > 0 && self.ordered.as_ref().is_some_and(|ordered| ordered.len() == 0)
    }

    /// Gives up the place of the entry with this number, for the tier's order if there is one.
    pub(super) fn give_up<S>(
        &mut self,
        reach: &Reach<'_, S>,
        (number, charge): (u32, u64),
        leaving: Leaving,
    ) {
        if let Some(ordered) = &mut self.ordered {
            ordered.leave(reach, number, leaving);
        }
        self.release(charge);
    }
}

impl<S> Memory<S> {
    /// Whom the order names: number and hash.
    pub(super) fn named(
        &self,
        account: &mut Account,
        mine: Mine,
        newcomer: Option<&Newcomer<'_>>,
        is_trusted: bool,
    ) -> Result<(u32, KeyHash), Evicted> {
        let nobody = newcomer.map_or(Evicted::Nothing, |_| Evicted::Newcomer);
        let ordered = account.ordered.as_mut().ok_or(nobody)?;
        let entry = newcomer.map(Newcomer::entry);
        let reach = Reach { memory: self, mine };
        let victim = if is_trusted {
            ordered.victim(&reach, entry.as_ref())
        } else {
            ordered.any().map(Victim::Entry)
        };
        match victim {
            Some(Victim::Entry(id)) => {
                let record = ordered.record(id).ok_or(nobody)?;
                Ok((id.0, self.hash(record.key())))
            }
            Some(Victim::Newcomer) | None => Err(nobody),
        }
    }

    /// [`Self::evict`] by the tier's order.
    pub(super) fn evict_in_order(
        &self,
        newcomer: Option<&Newcomer<'_>>,
        hook: impl FnOnce(&mut S, Removed),
    ) -> Evicted {
        let mut account = self.account.lock();
        let mut rounds = 0_u32;
        loop {
            // One that names another entry each time may never name one whose shard is locked.
            rounds = rounds.saturating_add(1);
            let trusted = rounds <= ROUNDS_TRUSTED;
            if account.has_room(newcomer) {
                return Evicted::Room;
            }
            let index = match self.named(&mut account, Mine::None, newcomer, trusted) {
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
            let named = self.named(&mut account, Mine::One(index), newcomer, trusted);
            let (number, hash) = match named {
                Ok(named) => named,
                Err(_) if account.is_entering() => continue,
                Err(evicted) => return evicted,
            };
            if self.index(hash) != index {
                continue;
            }
            let Guarded { shard, side, .. } = &mut *locked.guarded;
            let Some(id) = shard.find_filed(hash, number) else { continue };
            let reach = Reach { memory: self, mine: Mine::One(index) };
            account.give_up(&reach, (number, shard.charge(id)), Leaving::Evicted);
            drop(account);
            hook(side, shard.remove(id));
            return Evicted::Oldest;
        }
    }
}

impl<S> Locked<'_, S> {
    /// [`Self::remove`] where there is a tier's order.
    pub(super) fn remove_from_order(&mut self, id: SlotId) -> Removed {
        let reach = Reach { memory: self.memory, mine: Mine::One(self.index) };
        let shard = &mut self.guarded.shard;
        let place = (shard.number(id), shard.charge(id));
        self.memory.account.lock().give_up(&reach, place, Leaving::Removed);
        shard.remove(id)
    }

    /// [`Self::reserve_by_evicting`] by the tier's order.
    pub(super) fn reserve_in_order(
        &mut self,
        newcomer: &Newcomer<'_>,
        hook: impl FnOnce(&mut S, Removed),
    ) -> Room {
        let memory = self.memory;
        let reach = Reach { memory, mine: Mine::One(self.index) };
        let mut account = memory.account.lock();
        if account.exchange(newcomer.old, newcomer.charge) {
            return Room::Reserved;
        }
        let named = memory.named(&mut account, reach.mine, Some(newcomer), true);
        let Ok((victim, hash)) = named else { return Room::None };
        let index = memory.index(hash);
        let mut other = None;
        if index != self.index {
            let Some(guarded) = memory.shards[index].try_lock() else { return Room::None };
            other = Some(Locked { guarded, index, memory });
        }
        let shard = &other.as_ref().unwrap_or(self).guarded.shard;
        let Some(id) = shard.find_filed(hash, victim) else { return Room::None };
        if newcomer.old.is_some() && shard.record(id).key() == newcomer.key() {
            // Then it is not there to be replaced, and who asks is to look again.
            return Room::None;
        }
        account.give_up(&reach, (victim, shard.charge(id)), Leaving::Evicted);
        let reserved = account.exchange(newcomer.old, newcomer.charge);
        drop(account);
        let Guarded { shard, side, .. } = &mut *other.as_mut().unwrap_or(self).guarded;
        hook(side, shard.remove(id));
        if reserved { Room::Reserved } else { Room::More }
    }

    /// Tells the tier's order of an entry that has come in.
    pub(super) fn enter_order(&mut self, id: SlotId) {
        let reach = Reach { memory: self.memory, mine: Mine::One(self.index) };
        let shard = &mut self.guarded.shard;
        let (record, _) = shard.filed(id);
        if let Some(ordered) = &mut self.memory.account.lock().ordered {
            shard.set_filed(id, ordered.enter(&reach, record));
        }
    }
}
