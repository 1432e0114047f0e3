//! One shard of the memory tier: a table, the slots it points into, their order and their deadlines.
//!
//! A shard is plain single-threaded data; [`Memory`](super::Memory) puts each one behind its own
//! lock. It knows nothing of disk, clocks or limits: callers pass stamps and deadlines.
//!
//! # How it works
//!
//! The table maps a key's hash to a slot number and stores no keys: those are compared in the
//! record, which also has the stamp and the deadline, so that a hit reads and writes nothing else.
//! The slot keeps the hash, so a growing table hashes nothing anew.
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
    table: HashTable<Bucket>,
    slab: Slab,
    order: Lru,
    deadlines: BTreeSet<(u64, SlotId)>,
    bytes: u64,
}

/// What the table has of an entry.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    id: SlotId,
    /// Bits of the hash, so that no record of another key is fetched.
    check: u32,
}

/// The upper half of a hash.
fn check_of(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or_default()
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
    pub(crate) fn len(&self) -> u64 {
        self.table.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    // Not inlined, so that the search of the table is inlined here.
    #[inline(never)]
    pub(crate) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<SlotId> {
        let same = |bucket: &Bucket| {
            bucket.check == check_of(hash.0)
                && self.slab.find(bucket.id).is_some_and(|record| record.has_key(key))
        };
        self.table.find(hash.0, same).map(|bucket| bucket.id)
    }

    /// The record of an entry that is not over by its deadline and stamp, which becomes `stamp`.
    /// Whether that is older is given along, and then [`Self::restamp`] has to follow.
    #[inline]
    pub(crate) fn hit(
        &self,
        id: SlotId,
        stamp: u64,
        is_over: impl FnOnce(u64, u64) -> bool,
    ) -> Option<(&Record, bool)> {
        let record = self.slab.find(id)?;
        let before = record.recency();
        if is_over(record.leaves(), before) {
            return None;
        }
        record.set_recency(stamp);
        Some((record, before > stamp))
    }

    pub(crate) fn record(&self, id: SlotId) -> &Record {
        self.slab.record(id)
    }

    pub(crate) fn hash(&self, id: SlotId) -> KeyHash {
        KeyHash(self.slab.get(id).hash)
    }

    pub(crate) fn charge(&self, id: SlotId) -> u64 {
        self.slab.record(id).charge()
    }

    pub(crate) fn stamp(&self, id: SlotId) -> u64 {
        self.slab.stamp(id)
    }

    pub(crate) fn handed(&self, id: SlotId) -> Option<u64> {
        self.slab.get(id).handed()
    }

    pub(crate) fn set_handed(&mut self, id: SlotId, stamp: Option<u64>) {
        self.slab.get_mut(id).set_handed(stamp);
    }

    pub(crate) fn deadline(&self, id: SlotId) -> u64 {
        self.slab.record(id).leaves()
    }

    /// Puts an entry in whose key is not there yet.
    pub(crate) fn insert(&mut self, hash: KeyHash, record: Record, placement: Placement) -> SlotId {
        debug_assert!(self.find(hash, record.key()).is_none(), "S1: the key is there already");
        self.bytes += record.charge();
        let Placement { stamp, handed, deadline } = placement;
        record.set_recency(stamp);
        record.set_leaves(deadline);
        let id = self.slab.put(record, Slot::new(hash.0, handed));
        let slab = &self.slab;
        let bucket = Bucket { id, check: check_of(hash.0) };
        self.table.insert_unique(hash.0, bucket, |other| slab.get(other.id).hash);
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
        let was = self.deadline(id);
        record.set_leaves(placement.deadline);
        self.set_handed(id, placement.handed);
        let old = self.slab.replace(id, record);
        if was != placement.deadline {
            self.deadlines.remove(&(was, id));
            if placement.deadline != NEVER {
                self.deadlines.insert((placement.deadline, id));
            }
        }
        self.restamp(id, placement.stamp);
        old
    }

    /// Gives an entry a new stamp, and its place in the order.
    pub(crate) fn restamp(&mut self, id: SlotId, stamp: u64) {
        self.order.restamp(&mut self.slab, id, stamp);
    }

    /// Takes an entry out. Only for [`super::Locked::remove`], which keeps the account.
    pub(super) fn remove(&mut self, id: SlotId) -> Removed {
        let (hash, deadline) = (self.slab.get(id).hash, self.deadline(id));
        // By number, not by key: the slot is known.
        let slab = &self.slab;
        if let TableEntry::Occupied(entry) =
            self.table.entry(hash, |other| other.id == id, |other| slab.get(other.id).hash)
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
    pub(crate) fn oldest(&mut self) -> Option<(SlotId, u64, &[u8])> {
        let id = self.order.oldest(&mut self.slab)?;
        Some((id, self.stamp(id), self.record(id).key()))
    }

    /// No entry has an older stamp; `None` only if there is no entry.
    #[inline]
    pub(crate) fn bound(&self) -> Option<u64> {
        self.order.bound()
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
