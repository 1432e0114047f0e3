//! One shard of the memory tier: a table, the slots it points into, their order and their deadlines.
//!
//! A shard is plain single-threaded data; [`Memory`](super::Memory) puts each one behind its own
//! lock. It knows nothing of disk, clocks or limits: callers pass stamps and deadlines.
//!
//! # How it works
//!
//! The table maps a key's hash to a slot number and stores no keys: those are compared in the
//! record. The slot keeps the hash, so a growing table hashes nothing anew.
//!
//! # Invariants
//!
//! - **S1** every number in the table names an occupied slot, and every occupied slot is in the
//!   table once, under its key's hash.
//! - **S2** a slot is linked in the order exactly when it is occupied.
//! - **S3** `bytes` is the sum of the charges of the records in occupied slots.
//! - **S4** `deadlines` has (deadline, slot) for exactly those slots that have a deadline.
//!
//! # Failure
//!
//! Nothing here runs a caller's code, so nothing here panics halfway.

use std::collections::BTreeSet;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;

use crate::hash::KeyHash;
use crate::memory::order::Lru;
use crate::memory::slab::{Removed, Slab, Slot, SlotId};
use crate::record::{NEVER, Record};

/// The data of one shard.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    table: HashTable<SlotId>,
    slab: Slab,
    order: Lru,
    deadlines: BTreeSet<(u64, SlotId)>,
    bytes: u64,
}

/// What an entry brings into a shard besides its record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement {
    pub(crate) stamp: u64,
    /// The stamp that the tier below knows, or [`super::NOT_BELOW`].
    pub(crate) handed: u64,
    /// When it leaves memory, or [`NEVER`].
    pub(crate) deadline: u64,
}

impl Shard {
    pub(crate) fn len(&self) -> u64 {
        self.table.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<SlotId> {
        let slab = &self.slab;
        let same = |id: &SlotId| slab.get(*id).hash == hash.0 && slab.record(*id).key() == key;
        self.table.find(hash.0, same).copied()
    }

    pub(crate) fn record(&self, id: SlotId) -> &Record {
        self.slab.record(id)
    }

    pub(crate) fn charge(&self, id: SlotId) -> u64 {
        self.slab.record(id).charge()
    }

    pub(crate) fn stamp(&self, id: SlotId) -> u64 {
        self.slab.get(id).stamp
    }

    pub(crate) fn handed(&self, id: SlotId) -> u64 {
        self.slab.get(id).handed
    }

    pub(crate) fn set_handed(&mut self, id: SlotId, stamp: u64) {
        self.slab.get_mut(id).handed = stamp;
    }

    pub(crate) fn deadline(&self, id: SlotId) -> u64 {
        self.slab.get(id).deadline
    }

    /// Puts an entry in whose key is not there yet.
    pub(crate) fn insert(&mut self, hash: KeyHash, record: Record, placement: Placement) -> SlotId {
        debug_assert!(self.find(hash, record.key()).is_none(), "S1: the key is there already");
        self.bytes += record.charge();
        let Placement { stamp, handed, deadline } = placement;
        let (older, newer) = (SlotId::NIL, SlotId::NIL);
        let record = Some(record);
        let slot = Slot { record, hash: hash.0, stamp, handed, deadline, older, newer };
        let id = self.slab.put(slot);
        let slab = &self.slab;
        self.table.insert_unique(hash.0, id, |id| slab.get(*id).hash);
        self.order.link(&mut self.slab, id);
        if deadline != NEVER {
            self.deadlines.insert((deadline, id));
        }
        id
    }

    /// Exchanges the record of an entry for a newer one of the same key; gives the old one.
    pub(crate) fn replace(&mut self, id: SlotId, record: Record, placement: Placement) -> Record {
        debug_assert_eq!(self.record(id).key(), record.key(), "S1: the key stays");
        self.bytes = self.bytes - self.charge(id) + record.charge();
        let slot = self.slab.get_mut(id);
        let was = std::mem::replace(&mut slot.deadline, placement.deadline);
        slot.handed = placement.handed;
        let old = slot.record.replace(record);
        if was != placement.deadline {
            self.deadlines.remove(&(was, id));
            if placement.deadline != NEVER {
                self.deadlines.insert((placement.deadline, id));
            }
        }
        self.restamp(id, placement.stamp);
        match old {
            Some(old) => old,
            None => unreachable!("S1: {id:?} is free"),
        }
    }

    /// Gives an entry a new stamp, and its place in the order.
    pub(crate) fn restamp(&mut self, id: SlotId, stamp: u64) {
        self.order.restamp(&mut self.slab, id, stamp);
    }

    /// Takes an entry out. Only for [`super::Locked::remove`], which keeps the account.
    pub(super) fn remove(&mut self, id: SlotId) -> Removed {
        let slot = self.slab.get(id);
        let (hash, deadline) = (slot.hash, slot.deadline);
        // By number, not by key: the slot is known.
        let slab = &self.slab;
        if let TableEntry::Occupied(entry) =
            self.table.entry(hash, |other| *other == id, |other| slab.get(*other).hash)
        {
            entry.remove();
        }
        if deadline != NEVER {
            self.deadlines.remove(&(deadline, id));
        }
        self.order.unlink(&mut self.slab, id);
        let removed = self.slab.take(id);
        self.bytes -= removed.record.charge();
        removed
    }

    /// The oldest entry by (stamp, key).
    pub(crate) fn oldest(&self) -> Option<(SlotId, u64, &[u8])> {
        let id = self.order.oldest()?;
        Some((id, self.stamp(id), self.record(id).key()))
    }

    pub(crate) fn oldest_stamp(&self) -> Option<u64> {
        self.order.oldest_stamp()
    }

    /// The entry that leaves memory first by its deadline.
    pub(crate) fn next_deadline(&self) -> Option<(u64, SlotId)> {
        self.deadlines.first().copied()
    }

    /// All entries, in no order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = SlotId> {
        self.slab.occupied()
    }

    /// Checks every invariant; `belongs` tells whether a key is this shard's.
    pub(crate) fn validate(&self, belongs: impl Fn(&[u8]) -> bool) -> Result<(), String> {
        self.slab.validate()?;
        self.order.validate(&self.slab, self.table.len())?;
        let (mut bytes, mut dated) = (0, 0);
        for id in self.ids() {
            let (hash, record) = (self.slab.get(id).hash, self.record(id));
            if self.find(KeyHash(hash), record.key()) != Some(id) || !belongs(record.key()) {
                return Err(format!("S1: {id:?} is not found under its key"));
            }
            bytes += record.charge();
            let deadline = self.deadline(id);
            if deadline != NEVER {
                dated += 1;
                if !self.deadlines.contains(&(deadline, id)) {
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
