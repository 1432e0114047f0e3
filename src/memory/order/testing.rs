//! A cache in miniature that drives an order as the memory tier does, and compares it with a slow one.
//!
//! [`Driver`] keeps entries without values, makes room before one goes in, and removes whom the order names.
//! With a [`Reference`] beside it, both are asked who leaves, each time, and have to agree. References
//! are told of hits at once and know entries by key; orders ask for hits when they look, and know
//! entries by number; so they share nothing but the definition.

use std::collections::HashMap;
use std::fmt::Debug;
use std::marker::PhantomData;

use proptest::prelude::*;

use super::Order;
use crate::strategy::{Entries, EntryId, EvictionOrder, HITS_MAX, Leaving, NewEntry, Victim};
use crate::time::Timestamp;

/// A key by its number; its bytes sort alike.
pub(super) type Key = u32;

/// What is known of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) key: Key,
    pub(super) stamp: u64,
    pub(super) charge: u64,
    pub(super) deadline: Option<u64>,
}

/// Who leaves, by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Key(Key),
    Newcomer,
    Nobody,
}

/// Has an order be one for entries that are known at run time only, too.
macro_rules! is_also_for_any {
    ($($order:ty),*) => {$(
        impl EvictionOrder for $order {
            fn set_limits(&mut self, max_entries: Option<u64>, max_bytes: Option<u64>) {
                Order::set_limits(self, max_entries, max_bytes);
            }
            fn insert(&mut self, id: EntryId, entries: &mut dyn Entries) {
                Order::insert(self, id, entries);
            }
            fn replace(&mut self, id: EntryId, entries: &mut dyn Entries) {
                Order::replace(self, id, entries);
            }
            fn remove(&mut self, id: EntryId, leaving: Leaving, entries: &mut dyn Entries) {
                Order::remove(self, id, leaving, entries);
            }
            fn victim(
                &mut self,
                newcomer: Option<&NewEntry<'_>>,
                entries: &mut dyn Entries,
            ) -> Option<Victim> {
                Order::victim(self, newcomer, entries)
            }
        }
    )*};
}

is_also_for_any!(super::lfu::Lfu, super::s3fifo::S3Fifo, super::sieve::Sieve);

/// An order that can check itself.
pub(super) trait Subject: EvictionOrder + Default {
    fn validate(&self, ids: &[EntryId], entries: &dyn Entries) -> Result<(), String>;
}

/// A slow and obvious order. The stamp and deadline of what is hit are as they are after it.
pub(super) trait Reference: Debug {
    fn set_limits(&mut self, max_entries: Option<u64>, max_bytes: Option<u64>) {
        let _ = (max_entries, max_bytes);
    }
    fn hit(&mut self, entry: Known);
    fn insert(&mut self, entry: Known);
    fn replace(&mut self, entry: Known);
    fn remove(&mut self, key: Key, leaving: Leaving);
    fn victim(&mut self, newcomer: Option<Known>) -> Choice;
}

/// What an order goes by, where the entry with the least rank leaves.
pub(super) trait Rank: Debug + Default {
    type Rank: Ord;
    /// Whether a hit changes the rank.
    const SEES_HITS: bool;

    fn of(known: &Known) -> Self::Rank;
}

/// Entries in no order, searched from end to end for the least rank.
#[derive(Debug, Default)]
pub(super) struct ByRank<R> {
    held: Vec<Known>,
    rank: PhantomData<R>,
}

impl<R: Rank> Reference for ByRank<R> {
    fn hit(&mut self, entry: Known) {
        if R::SEES_HITS {
            self.replace(entry);
        }
    }

    fn insert(&mut self, entry: Known) {
        self.held.push(entry);
    }

    fn replace(&mut self, entry: Known) {
        self.held.retain(|held| held.key != entry.key);
        self.held.push(entry);
    }

    fn remove(&mut self, key: Key, _: Leaving) {
        self.held.retain(|held| held.key != key);
    }

    fn victim(&mut self, newcomer: Option<Known>) -> Choice {
        match (self.held.iter().min_by_key(|held| R::of(held)), newcomer) {
            (None, _) => Choice::Nobody,
            (Some(least), Some(new)) if R::of(&new) < R::of(least) => Choice::Newcomer,
            (Some(least), _) => Choice::Key(least.key),
        }
    }
}

/// The entries of a [`Driver`], by number.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Slot>>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    known: Known,
    key: [u8; 4],
    hits: u32,
}

impl Table {
    fn slot(&self, id: EntryId) -> Option<&Slot> {
        self.slots.get(id.index())?.as_ref()
    }
}

pub(super) fn hash(key: Key) -> u64 {
    u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Entries for Table {
    fn hits(&self, id: EntryId) -> u32 {
        self.slot(id).map_or(0, |slot| slot.hits)
    }

    fn take_hits(&mut self, id: EntryId) -> u32 {
        let slot = self.slots.get_mut(id.index()).and_then(Option::as_mut);
        slot.map_or(0, |slot| std::mem::take(&mut slot.hits))
    }

    fn stamp(&self, id: EntryId) -> Timestamp {
        Timestamp::from_nanos(self.slot(id).map_or(0, |slot| slot.known.stamp))
    }

    fn deadline(&self, id: EntryId) -> Option<Timestamp> {
        self.slot(id)?.known.deadline.map(Timestamp::from_nanos)
    }

    fn charge(&self, id: EntryId) -> u64 {
        self.slot(id).map_or(0, |slot| slot.known.charge)
    }

    fn key(&self, id: EntryId) -> &[u8] {
        self.slot(id).map_or(&[], |slot| &slot.key)
    }

    fn hash(&self, id: EntryId) -> u64 {
        self.slot(id).map_or(0, |slot| hash(slot.known.key))
    }

    /// None of the orders that are driven by this asks.
    fn hits_so_far(&self) -> u64 {
        0
    }
}

/// One step of a history. What has no stamp happens at a time of the clock, which moves on by one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// A hit, or an insertion of what is not there.
    Get {
        key: Key,
        stamp: Option<u64>,
        new: New,
    },
    /// An insertion, or a replacement.
    Insert {
        key: Key,
        stamp: Option<u64>,
        new: New,
    },
    Remove {
        key: Key,
    },
    Limits {
        entries: Option<u64>,
        bytes: Option<u64>,
    },
    Clear,
}

/// What an insertion brings with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct New {
    pub(super) charge: u64,
    pub(super) deadline: Option<u64>,
    /// The deadline is so long after each access instead.
    pub(super) idle: Option<u64>,
}

impl New {
    pub(super) const PLAIN: Self = Self { charge: 1, deadline: None, idle: None };
}

/// The cache in miniature.
#[derive(Debug, Default)]
pub(super) struct Driver<O> {
    pub(super) order: O,
    pub(super) table: Table,
    ids: HashMap<Key, EntryId>,
    free: Vec<EntryId>,
    idle: HashMap<Key, u64>,
    limits: (Option<u64>, Option<u64>),
    charge: u128,
    clock: u64,
    reference: Option<Box<dyn Reference>>,
    /// Who was evicted or stayed out, in this order.
    pub(super) left: Vec<Key>,
    pub(super) hits: u64,
    pub(super) gets: u64,
}

impl<O: EvictionOrder + Default> Driver<O> {
    pub(super) fn new(entries: Option<u64>, bytes: Option<u64>) -> Self {
        let mut driver = Self::default();
        driver.set_limits(entries, bytes);
        driver
    }

    pub(super) fn beside(mut self, mut reference: Box<dyn Reference>) -> Self {
        let (entries, bytes) = self.limits;
        reference.set_limits(entries, bytes);
        self.reference = Some(reference);
        self
    }

    pub(super) fn step(&mut self, step: Step) {
        self.clock += 1;
        let clock = self.clock;
        match step {
            Step::Get { key, stamp, new } => self.get(key, stamp.unwrap_or(clock), new),
            Step::Insert { key, stamp, new } => self.insert(key, stamp.unwrap_or(clock), new),
            Step::Remove { key } => self.remove(key, Leaving::Removed),
            Step::Limits { entries, bytes } => self.set_limits(entries, bytes),
            Step::Clear => {
                let mut keys: Vec<Key> = self.ids.keys().copied().collect();
                keys.sort_unstable();
                for key in keys {
                    self.remove(key, Leaving::Removed);
                }
            }
        }
    }

    /// Gets a key at the next time of the clock, and inserts it if it is not there.
    pub(super) fn ask(&mut self, key: Key) {
        self.step(Step::Get { key, stamp: None, new: New::PLAIN });
    }

    pub(super) fn holds(&self, key: Key) -> bool {
        self.ids.contains_key(&key)
    }

    /// Gives an entry a stamp that its order is not told of.
    pub(super) fn set_stamp(&mut self, key: Key, stamp: u64) {
        if let Some(slot) = self.ids.get(&key).and_then(|id| self.table.slots[id.index()].as_mut())
        {
            slot.known.stamp = stamp;
        }
    }

    fn get(&mut self, key: Key, stamp: u64, new: New) {
        self.gets += 1;
        let Some(id) = self.ids.get(&key) else { return self.insert(key, stamp, new) };
        self.hits += 1;
        if let Some(slot) = self.table.slots[id.index()].as_mut() {
            slot.known.stamp = slot.known.stamp.max(stamp);
            slot.hits = (slot.hits + 1).min(HITS_MAX);
            if let Some(idle) = self.idle.get(&key) {
                slot.known.deadline = Some(slot.known.stamp + idle);
            }
            if let Some(reference) = &mut self.reference {
                reference.hit(slot.known);
            }
        }
    }

    fn insert(&mut self, key: Key, stamp: u64, new: New) {
        let deadline = new.idle.map(|idle| stamp + idle).or(new.deadline);
        let known = Known { key, stamp, charge: new.charge, deadline };
        if self.limits.1.is_some_and(|max| new.charge > max) {
            return self.remove(key, Leaving::Removed);
        }
        while !self.has_room(Some(known)) {
            match self.choose(Some(known)) {
                Choice::Key(victim) => self.evict(victim),
                Choice::Newcomer => {
                    self.left.push(key);
                    return self.remove(key, Leaving::Removed);
                }
                Choice::Nobody => panic!("nobody leaves, and there is no room for {known:?}"),
            }
        }
        match new.idle {
            Some(idle) => self.idle.insert(key, idle),
            None => self.idle.remove(&key),
        };
        self.charge += u128::from(known.charge);
        if let Some(id) = self.ids.get(&key).copied() {
            let slot = self.table.slots[id.index()].as_mut().expect("a number of one that is in");
            self.charge -= u128::from(slot.known.charge);
            slot.known = known;
            slot.hits = (slot.hits + 1).min(HITS_MAX);
            self.order.replace(id, &mut self.table);
            self.reference.iter_mut().for_each(|reference| reference.replace(known));
        } else {
            let next = u32::try_from(self.table.slots.len()).expect("few entries");
            let id = self.free.pop().unwrap_or(EntryId(next));
            self.table.slots.resize(self.table.slots.len().max(id.index() + 1), None);
            let slot = Slot { known, key: key.to_be_bytes(), hits: 0 };
            self.table.slots[id.index()] = Some(slot);
            self.ids.insert(key, id);
            self.order.insert(id, &mut self.table);
            self.reference.iter_mut().for_each(|reference| reference.insert(known));
        }
    }

    fn has_room(&self, newcomer: Option<Known>) -> bool {
        let (max_entries, max_bytes) = self.limits;
        let old = newcomer.and_then(|newcomer| self.ids.get(&newcomer.key));
        let old_charge = old.map_or(0, |id| self.table.charge(*id));
        let charge = newcomer.map_or(0, |newcomer| newcomer.charge);
        let entries = self.ids.len() + usize::from(newcomer.is_some() && old.is_none());
        let bytes = self.charge - u128::from(old_charge) + u128::from(charge);
        max_entries.is_none_or(|max| entries as u64 <= max)
            && max_bytes.is_none_or(|max| bytes <= u128::from(max))
    }

    /// Asks the order twice, and the reference; all have to agree.
    fn choose(&mut self, newcomer: Option<Known>) -> Choice {
        let key = newcomer.map(|known| known.key.to_be_bytes()).unwrap_or_default();
        let new = newcomer.map(|known| NewEntry {
            key: &key,
            hash: hash(known.key),
            charge: known.charge,
            stamp: Timestamp::from_nanos(known.stamp),
            deadline: known.deadline.map(Timestamp::from_nanos),
        });
        let victim = self.order.victim(new.as_ref(), &mut self.table);
        if self.reference.is_some() {
            let again = self.order.victim(new.as_ref(), &mut self.table);
            assert_eq!(again, victim, "asked again, with nothing done");
        }
        let choice = match victim {
            None => Choice::Nobody,
            Some(Victim::Newcomer) => Choice::Newcomer,
            Some(Victim::Entry(id)) => {
                let slot = self.table.slot(id);
                Choice::Key(slot.expect("who is named is there").known.key)
            }
        };
        if let Some(reference) = &mut self.reference {
            assert_eq!(choice, reference.victim(newcomer), "of {:?}", self.order);
        }
        choice
    }

    fn evict(&mut self, key: Key) {
        self.left.push(key);
        self.remove(key, Leaving::Evicted);
    }

    fn remove(&mut self, key: Key, leaving: Leaving) {
        let Some(id) = self.ids.remove(&key) else { return };
        self.order.remove(id, leaving, &mut self.table);
        self.reference.iter_mut().for_each(|reference| reference.remove(key, leaving));
        self.charge -= u128::from(self.table.charge(id));
        self.table.slots[id.index()] = None;
        self.free.push(id);
    }

    fn set_limits(&mut self, entries: Option<u64>, bytes: Option<u64>) {
        self.limits = (entries, bytes);
        self.order.set_limits(entries, bytes);
        self.reference.iter_mut().for_each(|reference| reference.set_limits(entries, bytes));
        while !self.has_room(None) {
            match self.choose(None) {
                Choice::Key(victim) => self.evict(victim),
                other => panic!("{other:?} leaves while the limits are exceeded"),
            }
        }
    }
}

impl<O: Subject> Driver<O> {
    pub(super) fn validate(&self) -> Result<(), String> {
        let ids: Vec<EntryId> = self.ids.values().copied().collect();
        self.order.validate(&ids, &self.table)
    }
}

/// Goes through a history with the reference beside the order, and checks the order after each step.
pub(super) fn check<O: Subject, R: Reference + Default + 'static>(steps: &[Step]) {
    let mut driver = Driver::<O>::new(Some(8), None).beside(Box::<R>::default());
    for step in steps {
        driver.step(*step);
        assert_eq!(driver.validate(), Ok(()), "after {step:?}");
    }
}

/// Random histories of that many keys, with limits up to twice as many entries or half as many bytes.
pub(super) fn histories(keys: u32) -> impl Strategy<Value = Vec<Step>> {
    let most = u64::from(keys);
    let charge = prop_oneof![
        4 => Just(1),
        4 => 0_u64..most / 2,
        1 => Just(u64::from(u32::MAX) + 9),
        1 => Just(u64::MAX),
    ];
    let deadline = proptest::option::of(0_u64..12);
    let new = (charge, deadline, proptest::option::weighted(0.2, 0_u64..9))
        .prop_map(|(charge, deadline, idle)| New { charge, deadline, idle });
    let stamp = proptest::option::weighted(0.3, prop_oneof![0_u64..9, 0_u64..400]);
    let one = (0..keys, stamp, new);
    let limit = |limits: std::ops::Range<u64>| {
        proptest::option::weighted(0.8, prop_oneof![1..4_u64, limits])
    };
    let step = prop_oneof![
        24 => one.clone().prop_map(|(key, stamp, new)| Step::Get { key, stamp, new }),
        12 => (0..keys).prop_map(|key| Step::Get { key, stamp: None, new: New::PLAIN }),
        6 => one.prop_map(|(key, stamp, new)| Step::Insert { key, stamp, new }),
        3 => (0..keys).prop_map(|key| Step::Remove { key }),
        1 => (limit(1..most * 3 / 4), limit(1..most * 2))
            .prop_map(|(entries, bytes)| Step::Limits { entries, bytes }),
        1 => Just(Step::Clear),
    ];
    // Limits that let nothing leave for long are not of interest.
    let limits = (limit(1..most * 3 / 4), limit(1..most * 2))
        .prop_map(|(entries, bytes)| Step::Limits { entries, bytes });
    (limits, proptest::collection::vec(step, 1..300)).prop_map(|(limits, mut steps)| {
        steps.insert(0, limits);
        steps
    })
}

/// Histories that were thought out to be hard, each for a cache of `room` entries.
pub(super) fn adversaries(room: u32) -> Vec<(&'static str, Vec<Key>)> {
    let scan = |from: u32| from..from + 3 * room;
    let hot = |times: u32| (0..times * room / 2).map(move |n| n % (room / 2));
    vec![
        ("a loop one larger than the cache", (0..20 * room).map(|n| n % (room + 1)).collect()),
        ("a loop just as large", (0..8 * room).map(|n| n % room).collect()),
        ("a loop twice as large", (0..12 * room).map(|n| n % (2 * room)).collect()),
        ("one hit each", (0..10 * room).flat_map(|key| [key, key]).collect()),
        ("no hits", (0..10 * room).collect()),
        ("scans through what is hot", {
            let rounds = (1..5).map(|n| n * 1_000);
            rounds.flat_map(|from| hot(4).chain(scan(from))).collect()
        }),
        ("all equally often", {
            let round = |from: u32| (0..5).flat_map(move |_| from..from + room);
            (0..6).flat_map(|n| round(n * room)).collect()
        }),
        ("there and back", {
            let round = || (0..2 * room).chain((0..2 * room).rev());
            (0..5).flat_map(|_| round()).collect()
        }),
    ]
}

/// Goes through all [`adversaries`] with the reference beside the order, in caches of several sizes.
pub(super) fn check_adversaries<O: Subject, R: Reference + Default + 'static>() {
    for room in [2, 3, 10, 37] {
        for (_, keys) in adversaries(room) {
            let mut steps = vec![Step::Limits { entries: Some(u64::from(room)), bytes: None }];
            steps.extend(keys.iter().map(|key| Step::Get {
                key: *key,
                stamp: None,
                new: New::PLAIN,
            }));
            check::<O, R>(&steps);
            let weigh = |key: Key| New { charge: u64::from(key % 3), ..New::PLAIN };
            steps[0] = Step::Limits { entries: None, bytes: Some(u64::from(room)) };
            steps.truncate(1);
            steps.extend(keys.iter().map(|key| Step::Get {
                key: *key,
                stamp: None,
                new: weigh(*key),
            }));
            check::<O, R>(&steps);
        }
    }
}
