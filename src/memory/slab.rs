//! The slots of one shard: where records sit, and numbers instead of pointers to name them.
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
    /// Names no slot: the end of a list.
    pub(super) const NIL: Self = Self(u32::MAX);

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// The `handed` stamp of an entry that the tier below does not have.
pub(crate) const NOT_BELOW: u64 = u64::MAX;

/// One slot. Links are those of the order while occupied, of the free list (`next`) otherwise.
#[derive(Debug)]
pub(super) struct Slot {
    /// `None` while on the free list.
    pub(super) record: Option<Record>,
    pub(super) hash: u64,
    /// The last access: the entry's place in the order.
    pub(super) stamp: u64,
    /// The stamp that the tier below knows, or [`NOT_BELOW`].
    pub(super) handed: u64,
    /// When the entry leaves memory, or [`crate::record::NEVER`].
    pub(super) deadline: u64,
    pub(super) older: SlotId,
    pub(super) newer: SlotId,
}

/// An entry that has left its shard.
#[derive(Debug)]
pub(crate) struct Removed {
    pub(crate) record: Record,
    pub(crate) hash: u64,
    pub(crate) stamp: u64,
    pub(crate) handed: u64,
}

/// The slots and the list of free ones.
#[derive(Debug)]
pub(super) struct Slab {
    slots: Vec<Slot>,
    free: SlotId,
}

impl Default for Slab {
    fn default() -> Self {
        Self { slots: Vec::new(), free: SlotId::NIL }
    }
}

impl Slab {
    pub(super) fn get(&self, id: SlotId) -> &Slot {
        &self.slots[id.index()]
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[id.index()]
    }

    /// Puts a slot in, unlinked.
    pub(super) fn put(&mut self, slot: Slot) -> SlotId {
        let id = self.free;
        if id == SlotId::NIL {
            // 2^32 slots of 56 bytes are 240 GB in one shard: memory ends first.
            let id = SlotId(u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
            assert!(id != SlotId::NIL, "B2: one shard holds at most 2^32 - 1 entries");
            self.slots.push(slot);
            return id;
        }
        let target = &mut self.slots[id.index()];
        self.free = target.newer;
        *target = slot;
        id
    }

    /// Empties an unlinked slot.
    pub(super) fn take(&mut self, id: SlotId) -> Removed {
        let slot = &mut self.slots[id.index()];
        let Some(record) = slot.record.take() else { unreachable!("B1: {id:?} is free") };
        slot.newer = self.free;
        self.free = id;
        Removed { record, hash: slot.hash, stamp: slot.stamp, handed: slot.handed }
    }

    pub(super) fn record(&self, id: SlotId) -> &Record {
        match &self.get(id).record {
            Some(record) => record,
            None => unreachable!("B1: {id:?} is free"),
        }
    }

    /// The numbers of all occupied slots.
    pub(super) fn occupied(&self) -> impl Iterator<Item = SlotId> {
        let occupied = |(_, slot): &(u32, &Slot)| slot.record.is_some();
        (0..).zip(&self.slots).filter(occupied).map(|(i, _)| SlotId(i))
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let mut free = 0;
        let mut id = self.free;
        while id != SlotId::NIL {
            if self.get(id).record.is_some() || free > self.slots.len() {
                return Err(format!("B1: {id:?} is on the free list and occupied, or in a circle"));
            }
            free += 1;
            id = self.get(id).newer;
        }
        if free + self.occupied().count() != self.slots.len() {
            return Err(format!("B1: a slot is neither free ({free}) nor occupied"));
        }
        Ok(())
    }
}
