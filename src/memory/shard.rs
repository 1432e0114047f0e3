//! One shard of the memory tier: a table of records, their order and their deadlines.
//!
//! A shard is plain single-threaded data; [`Memory`](super::Memory) puts each one behind its own
//! lock. It knows nothing of disk, clocks or limits: callers pass stamps and deadlines.
//!
//! # How it works
//!
//! The table has the records, and everything that is kept of an entry is in its record (`Held`): a hit
//! reads and writes nothing else.
//!
//! # Invariants
//!
//! - **S1** every record in the table is found under its key, and no key is there twice.
//! - **S2** a record is filed in the order exactly while it is in the table: in the shard's own, or under
//!   its number in that of the whole tier, which the callers see to.
//! - **S3** `bytes` is the sum of the charges of all records.
//! - **S4** `deadlines` has (deadline, key) for exactly those entries that have a deadline.
//!
//! # Failure
//!
//! Nothing here runs a caller's code, so nothing here panics halfway.

use std::cmp;
use std::collections::BTreeSet;

use crate::hash::{Check, KeyHash};
use crate::memory::idle::Idle;
use crate::memory::order::Lru;
use crate::memory::table::{Removed, SlotId, Table};
use crate::record::{Held, NEVER, Record};

/// The data of one shard.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    table: Table,
    order: Order,
    deadlines: BTreeSet<Dated>,
    bytes: u64,
    /// Whether the table has moved since that was noted.
    has_moved: bool,
}

/// Who keeps the order of a shard's entries.
#[derive(Debug)]
pub(super) enum Order {
    /// The shard does.
    Own(Lru),
    /// One over all shards does, or another one of the shard's, and entries count their hits for it.
    OfTier {
        /// What was accessed longest ago, if that matters.
        idle: Option<Idle>,
    },
}

impl Default for Order {
    fn default() -> Self {
        Self::Own(Lru::default())
    }
}

/// An entry with a deadline in memory, by that and the key.
#[derive(Debug)]
struct Dated(u64, Record);

impl Dated {
    fn order(&self) -> (u64, &[u8]) {
        (self.0, self.1.key())
    }
}

impl Ord for Dated {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Dated {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Dated {}

impl PartialEq for Dated {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

/// What a hit found.
#[derive(Debug)]
pub(crate) enum Hit<T> {
    Taken(T),
    /// Likewise, and the new stamp is older than the one before, so [`Shard::restamp`] has to follow.
    WentBack(T),
    /// Its time in memory is over.
    Over,
    Nothing,
}

/// What an entry brings into a shard besides its record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement {
    pub(crate) stamp: u64,
    /// The stamp that the tier below knows, or [`super::NOT_BELOW`].
    pub(crate) handed: Option<u64>,
    /// When it leaves memory, or [`NEVER`].
    pub(crate) deadline: u64,
}

impl Shard {
    /// A shard whose entries one order over the tier keeps; `knows_idle` says whether it is to know which of them
    /// has been idle longest.
    pub(super) fn of_tier(knows_idle: bool) -> Self {
        let idle = knows_idle.then(Idle::default);
        Self { order: Order::OfTier { idle }, ..Self::default() }
    }

    /// The table, if it has moved since it was asked for last.
    #[inline]
    pub(super) fn moved(&mut self) -> Option<&Table> {
        std::mem::take(&mut self.has_moved).then_some(&self.table)
    }

    pub(crate) fn len(&self) -> u64 {
        self.table.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline]
    pub(crate) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<SlotId> {
        self.table.find(hash.check(), key)
    }

    /// The entry that the tier's order knows by this number.
    pub(super) fn find_filed(&self, hash: KeyHash, number: u32) -> Option<SlotId> {
        self.table.find_filed(hash.check(), number)
    }

    /// Gives an entry that is not over by its deadline and stamp a new stamp, and gives what `take` makes
    /// of it.
    #[inline]
    pub(crate) fn hit<T>(
        &mut self,
        hash: KeyHash,
        key: &[u8],
        stamp: u64,
        is_over: impl FnOnce(u64, u64) -> bool,
        take: impl FnOnce(&mut Held) -> T,
    ) -> Hit<T> {
        let Some(held) = self.table.find_mut(hash.check(), key) else { return Hit::Nothing };
        let before = held.recency();
        if is_over(held.leaves(), before) {
            return Hit::Over;
        }
        if let Order::OfTier { .. } = &self.order {
            held.count_hit();
        }
        if before > stamp {
            return Hit::WentBack(take(held));
        }
        held.set_recency(stamp);
        Hit::Taken(take(held))
    }

    /// The record of a key, to look at it and to take handles.
    #[inline]
    pub(crate) fn held(&mut self, hash: KeyHash, key: &[u8]) -> Option<&mut Held> {
        self.table.find_mut(hash.check(), key)
    }

    /// A handle on the record of an entry.
    pub(crate) fn take_record(&mut self, id: SlotId) -> Record {
        self.table.get_mut(id).take()
    }

    /// Has the processor fetch the entry of a key that is asked for soon.
    #[inline]
    pub(crate) fn fetch_ahead(&self, hash: KeyHash) {
        self.table.fetch_ahead(hash.check());
    }

    #[inline]
    pub(crate) fn record(&self, id: SlotId) -> &Record {
        self.table.get(id)
    }

    #[inline]
    pub(crate) fn charge(&self, id: SlotId) -> u64 {
        self.table.get(id).charge()
    }

    #[inline]
    pub(crate) fn stamp(&self, id: SlotId) -> u64 {
        self.table.get(id).recency()
    }

    #[inline]
    pub(crate) fn handed(&self, id: SlotId) -> Option<u64> {
        self.table.get(id).handed()
    }

    pub(crate) fn set_handed(&mut self, id: SlotId, stamp: Option<u64>) {
        self.table.get_mut(id).set_handed(stamp);
    }

    #[inline]
    pub(crate) fn deadline(&self, id: SlotId) -> u64 {
        self.table.get(id).leaves()
    }

    /// Puts an entry in whose key is not there yet. Only for [`super::Locked::insert`] and the like, which
    /// tell the tier's order.
    #[inline]
    pub(super) fn insert(&mut self, hash: KeyHash, record: Record, placement: Placement) -> SlotId {
        debug_assert!(self.find(hash, record.key()).is_none(), "S1: the key is there already");
        self.bytes += record.charge();
        let Placement { stamp, handed, deadline } = placement;
        let check = hash.check();
        let mut held = Held::new(record, check.0);
        held.begin(stamp, handed, deadline);
        let was_full = self.table.is_full();
        let id = self.table.put(held);
        let has_moved = was_full && !self.table.is_full();
        if let Order::Own(lru) = &mut self.order {
            if has_moved {
                lru.follow(&self.table);
            }
            lru.link(&mut self.table, id);
        }
        self.has_moved |= has_moved;
        self.note_idle(id);
        self.note_deadline(id, deadline);
        id
    }

    /// Exchanges the record of an entry for a newer one of the same key; gives the old one. Likewise only
    /// for [`super::Locked::replace`] and the like.
    pub(super) fn replace(&mut self, id: SlotId, record: Record, placement: Placement) -> Record {
        debug_assert_eq!(self.record(id).key(), record.key(), "S1: the key stays");
        self.bytes = self.bytes - self.charge(id) + record.charge();
        let was = self.deadline(id);
        let old = self.table.replace(id, record);
        let held = self.table.get_mut(id);
        held.set_leaves(placement.deadline);
        held.set_handed(placement.handed);
        // The old record goes in any case.
        self.forget_deadline(was, &old);
        self.note_deadline(id, placement.deadline);
        self.restamp(id, placement.stamp);
        old
    }

    /// A handle on a record, and the number that the tier's order knows it by.
    pub(super) fn filed(&mut self, id: SlotId) -> (Record, u32) {
        let held = self.table.get_mut(id);
        (held.take(), held.filed())
    }

    /// Takes a handle on an entry's record back.
    #[inline]
    pub(super) fn give_back(&mut self, id: SlotId, record: Record) {
        self.table.get_mut(id).give_back(record);
    }

    /// That number.
    pub(super) fn number(&self, id: SlotId) -> u32 {
        self.table.get(id).filed()
    }

    /// Sets it.
    pub(super) fn set_filed(&mut self, id: SlotId, number: u32) {
        self.table.get_mut(id).set_filed(number);
    }

    /// Counts a hit, if there is an order that asks for it.
    pub(crate) fn count_hit(&mut self, id: SlotId) {
        if let Order::OfTier { .. } = self.order {
            self.table.get_mut(id).count_hit();
        }
    }

    /// Notes an entry that may be idle longer than another.
    #[inline]
    fn note_idle(&mut self, id: SlotId) {
        if let Order::OfTier { idle: Some(idle), .. } = &mut self.order {
            idle.note(&self.table, id);
        }
    }
    #[inline]
    fn note_deadline(&mut self, id: SlotId, deadline: u64) {
        if deadline != NEVER {
            self.deadlines.insert(Dated(deadline, self.table.get_mut(id).take()));
        }
    }

    #[inline]
    fn forget_deadline(&mut self, deadline: u64, record: &Record) {
        if deadline != NEVER {
            self.deadlines.remove(&Dated(deadline, record.clone()));
        }
    }

    /// Gives an entry a new stamp, and its place in an order by stamps.
    #[inline]
    pub(crate) fn restamp(&mut self, id: SlotId, stamp: u64) {
        if let Order::Own(lru) = &mut self.order {
            lru.restamp(&mut self.table, id, stamp);
            return;
        }
        let held = self.table.get_mut(id);
        let went_back = stamp < held.recency();
        held.set_recency(stamp);
        if went_back {
            self.note_idle(id);
        }
    }

    /// Takes an entry out. Only for [`super::Locked::remove`] and the like, which keep the account and tell
    /// the tier's order.
    #[inline]
    pub(super) fn remove(&mut self, id: SlotId) -> Removed {
        if let Order::Own(lru) = &mut self.order {
            lru.unlink(&mut self.table, id);
        }
        let removed = self.table.take(id);
        self.bytes -= removed.charge();
        self.forget_deadline(removed.leaves(), &removed);
        removed
    }

    /// The oldest entry by (stamp, key), if the shard keeps the order.
    #[inline]
    pub(super) fn oldest(&mut self) -> Option<(SlotId, u64, &[u8])> {
        let Order::Own(lru) = &mut self.order else { return None };
        let (id, stamp) = lru.oldest(&mut self.table)?;
        Some((id, stamp, self.record(id).key()))
    }

    /// No entry has an older stamp; `None` only if there is no entry, or the shard keeps no order.
    #[inline]
    pub(super) fn bound(&self) -> Option<u64> {
        match &self.order {
            Order::Own(lru) => lru.bound(),
            Order::OfTier { .. } => None,
        }
    }

    /// The entry that was accessed longest ago; `None` if there is none, or nobody wants to know.
    pub(crate) fn longest_idle(&mut self) -> Option<SlotId> {
        match &mut self.order {
            Order::Own(lru) => lru.oldest(&mut self.table).map(|(id, _)| id),
            Order::OfTier { idle, .. } => idle.as_mut()?.longest(&self.table),
        }
    }

    /// No entry was accessed before this; likewise.
    pub(crate) fn idle_bound(&self) -> Option<u64> {
        match &self.order {
            Order::Own(lru) => lru.bound(),
            Order::OfTier { idle, .. } => idle.as_ref()?.bound(),
        }
    }

    /// When the next entry leaves memory by its deadline, or [`NEVER`].
    pub(crate) fn next_deadline(&self) -> u64 {
        self.deadlines.first().map_or(NEVER, |dated| dated.0)
    }

    /// The entry that leaves memory first by its deadline, if that is before `wall`.
    pub(crate) fn first_over(&self, wall: u64, hash: impl Fn(&[u8]) -> KeyHash) -> Option<SlotId> {
        let Dated(_, record) = self.deadlines.first().filter(|dated| dated.0 < wall)?;
        self.find(hash(record.key()), record.key())
    }

    /// All entries, in no order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = SlotId> {
        self.table.ids()
    }

    /// Checks every invariant; `hash` is the hash of a key, if it is this shard's.
    pub(crate) fn validate(&self, hash: impl Fn(&[u8]) -> Option<KeyHash>) -> Result<(), String> {
        match &self.order {
            Order::Own(lru) => lru.validate(&self.table)?,
            Order::OfTier { idle: Some(idle), .. } => idle.validate(&self.table)?,
            Order::OfTier { idle: None, .. } => {}
        }
        let (mut bytes, mut dated) = (0, 0);
        for id in self.ids() {
            let held = self.table.get(id);
            let hash = hash(held.key()).filter(|hash| hash.check() == Check(held.check()));
            if hash.and_then(|hash| self.find(hash, held.key())) != Some(id) {
                return Err(format!("S1: {id:?} is not found under its key"));
            }
            bytes += held.charge();
            let deadline = held.leaves();
            if deadline != NEVER {
                dated += 1;
                if !self.deadlines.contains(&Dated(deadline, Record::clone(held))) {
                    return Err(format!("S4: the deadline of {id:?} is missing"));
                }
            }
        }
        if bytes != self.bytes || dated != self.deadlines.len() {
            return Err(format!("S3, S4: a recount has {bytes} bytes and {dated} deadlines"));
        }
        Ok(())
    }
}
