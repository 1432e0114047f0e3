//! The slots of one shard: where records sit, and numbers instead of pointers to name them.
//!
//! The records are side by side, apart from the rest, since a hit needs no more than them.
//!
//! # Invariants
//!
//! - **B1** a slot is occupied (has a record) or on the free list, never both.
//! - **B2** the slab never shrinks, so a number stays inside it.

use crate::record::Record;

/// The number of a slot in one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SlotId(u32);

impl SlotId {
    /// Names no slot: the end of the free list.
    const NIL: Self = Self(u32::MAX);

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// The `handed` stamp of an entry that the tier below does not have.
pub(crate) const NOT_BELOW: Option<u64> = None;

/// The `run` of a slot that the order holds sorted, and of one that it does not hold.
pub(super) const FRONT: u32 = u32::MAX;
pub(super) const NOWHERE: u32 = u32::MAX - 1;

/// What is known of an entry besides what is in its record.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) hash: u64,
    /// The stamp that the tier below knows, if `is_below`.
    handed: u64,
    /// The stamp under which the order has filed it; of a free one, the number of the next.
    pub(super) place: u64,
    /// Where the order has filed it.
    pub(super) run: u32,
    is_below: bool,
}

impl Slot {
    /// A slot that is not filed yet.
    pub(super) fn new(hash: u64, handed: Option<u64>) -> Self {
        let mut slot = Self { hash, handed: 0, place: 0, run: NOWHERE, is_below: false };
        slot.set_handed(handed);
        slot
    }

    pub(super) fn handed(&self) -> Option<u64> {
        self.is_below.then_some(self.handed)
    }

    pub(super) fn set_handed(&mut self, handed: Option<u64>) {
        (self.is_below, self.handed) = (handed.is_some(), handed.unwrap_or(0));
    }

    fn next_free(&self) -> SlotId {
        SlotId(u32::try_from(self.place).unwrap_or(u32::MAX))
    }
}

/// An entry that has left its shard.
#[derive(Debug)]
pub(crate) struct Removed {
    pub(crate) record: Record,
    pub(crate) hash: u64,
    pub(crate) stamp: u64,
    pub(crate) handed: Option<u64>,
}

/// The slots and the list of free ones.
#[derive(Debug)]
pub(super) struct Slab {
    /// `None` while on the free list.
    records: Vec<Option<Record>>,
    slots: Vec<Slot>,
    free: SlotId,
    occupied: usize,
}

impl Default for Slab {
    fn default() -> Self {
        Self { records: Vec::new(), slots: Vec::new(), free: SlotId::NIL, occupied: 0 }
    }
}

impl Slab {
    pub(super) fn occupied_count(&self) -> usize {
        self.occupied
    }

    pub(super) fn get(&self, id: SlotId) -> &Slot {
        &self.slots[id.index()]
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[id.index()]
    }

    /// Puts a slot in, unlinked.
    pub(super) fn put(&mut self, record: Record, slot: Slot) -> SlotId {
        self.occupied += 1;
        let id = self.free;
        if id == SlotId::NIL {
            // 2^32 slots of 40 bytes are 172 GB in one shard: memory ends first.
            let id = SlotId(u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
            assert!(id != SlotId::NIL, "B2: one shard holds at most 2^32 - 1 entries");
            self.slots.push(slot);
            self.records.push(Some(record));
            return id;
        }
        let target = &mut self.slots[id.index()];
        self.free = target.next_free();
        *target = slot;
        self.records[id.index()] = Some(record);
        id
    }

    /// Empties an unlinked slot.
    pub(super) fn take(&mut self, id: SlotId) -> Removed {
        let Some(record) = self.records[id.index()].take() else {
            unreachable!("B1: {id:?} is free")
        };
        let slot = &mut self.slots[id.index()];
        slot.place = self.free.0.into();
        self.free = id;
        self.occupied -= 1;
        Removed { stamp: record.recency(), record, hash: slot.hash, handed: slot.handed() }
    }

    /// Exchanges the record of an occupied slot; gives the old one.
    pub(super) fn replace(&mut self, id: SlotId, record: Record) -> Record {
        match self.records[id.index()].replace(record) {
            Some(old) => old,
            None => unreachable!("B1: {id:?} is free"),
        }
    }

    #[inline]
    pub(super) fn find(&self, id: SlotId) -> Option<&Record> {
        self.records[id.index()].as_ref()
    }

    #[inline]
    pub(super) fn record(&self, id: SlotId) -> &Record {
        match self.find(id) {
            Some(record) => record,
            None => unreachable!("B1: {id:?} is free"),
        }
    }

    /// The last access: what the order goes by.
    pub(super) fn stamp(&self, id: SlotId) -> u64 {
        self.record(id).recency()
    }

    /// The numbers of all occupied slots.
    pub(super) fn occupied(&self) -> impl Iterator<Item = SlotId> {
        let occupied = |(_, record): &(u32, &Option<Record>)| record.is_some();
        (0..).zip(&self.records).filter(occupied).map(|(i, _)| SlotId(i))
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let mut free = 0;
        let mut id = self.free;
        while id != SlotId::NIL {
            if self.find(id).is_some() || free > self.slots.len() {
                return Err(format!("B1: {id:?} is on the free list and occupied, or in a circle"));
            }
            free += 1;
            id = self.get(id).next_free();
        }
        if free + self.occupied != self.slots.len() || self.occupied().count() != self.occupied {
            return Err(format!("B1: a slot is neither free ({free}) nor occupied"));
        }
        Ok(())
    }
}
