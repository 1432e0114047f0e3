//! The records of one shard: by key, and by number while nothing is inserted.
//!
//! The table holds the records themselves and compares keys in them, so that a hit goes from the bucket
//! to the record and nowhere else. What it goes by is kept in the record, 32 bits of the hash, so that a
//! growing table hashes nothing anew.
//!
//! # Invariants
//!
//! - **B1** every record is filed under the bits of its key's hash, and no two have one key.

use hashbrown::HashTable;

use crate::hash::Check;
use crate::record::{Held, Record, VALUE_LINE};

/// An entry that has left its shard, with what was kept of it there.
pub(crate) use crate::record::Held as Removed;

/// The number of an entry in one shard, until something is inserted there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SlotId(usize);

/// Likewise, as it is kept while others are inserted: it holds until the table moves its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32);

impl From<SlotId> for Slot {
    #[inline]
    fn from(id: SlotId) -> Self {
        match u32::try_from(id.0) {
            Ok(index) => Self(index),
            Err(_) => unreachable!("one shard holds some 2^32 entries"),
        }
    }
}

impl From<Slot> for SlotId {
    #[inline]
    fn from(slot: Slot) -> Self {
        Self(slot.0 as usize)
    }
}

/// The `handed` stamp of an entry that the tier below does not have.
pub(crate) const NOT_BELOW: Option<u64> = None;

/// The records.
#[derive(Debug, Default)]
pub(super) struct Table {
    records: HashTable<Held>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    // Not inlined, so that the search of the table is inlined here.
    #[inline(never)]
    pub(super) fn find(&self, check: Check, key: &[u8]) -> Option<SlotId> {
        let found = self.records.find_bucket_index(check.table_hash(), |held| held.has_key(key));
        found.map(SlotId)
    }

    /// Likewise, the record itself.
    #[inline]
    pub(super) fn find_mut(&mut self, check: Check, key: &[u8]) -> Option<&mut Held> {
        let is_it = |held: &Held| {
            held.fetch_ahead(VALUE_LINE);
            held.has_key(key)
        };
        self.records.find_mut(check.table_hash(), is_it)
    }

    /// Has the processor fetch an entry with these bits, or one that looks like it.
    #[inline]
    pub(super) fn fetch_ahead(&self, check: Check) {
        let _ = self.records.find(check.table_hash(), |held| {
            held.fetch_ahead(0);
            true
        });
    }

    /// An entry with these bits that is filed under this number.
    #[inline]
    pub(super) fn find_filed(&self, check: Check, number: u32) -> Option<SlotId> {
        let is_it = |held: &Held| held.is_filed(check.0, number);
        self.records.find_bucket_index(check.table_hash(), is_it).map(SlotId)
    }

    /// The entry in this slot, if it is filed under this number.
    #[inline]
    pub(super) fn filed_at(&mut self, slot: Slot, number: u32) -> Option<&mut Held> {
        self.records.get_bucket_mut(slot.0 as usize).filter(|held| held.filed() == number)
    }

    /// Whether there is one.
    pub(super) fn is_filed(&self, slot: Slot, number: u32) -> bool {
        self.records.get_bucket(slot.0 as usize).is_some_and(|held| held.filed() == number)
    }

    /// Has the processor fetch the header of what is in this slot.
    #[inline]
    pub(super) fn fetch_slot(&self, slot: Slot) {
        if let Some(held) = self.records.get_bucket(slot.0 as usize) {
            held.fetch_ahead(0);
        }
    }

    /// Likewise, and what the record that takes its place will be written to next.
    #[inline]
    pub(super) fn fetch_victim(&self, slot: Slot) {
        if let Some(held) = self.records.get_bucket(slot.0 as usize) {
            held.fetch_ahead(0);
            held.fetch_ahead(VALUE_LINE);
        }
    }

    /// Of the entries with these bits, the one that was accessed longest ago, and when.
    pub(super) fn longest_idle(&self, check: Check) -> Option<(SlotId, u64)> {
        let same =
            self.records.iter_hash(check.table_hash()).filter(|held| held.check() == check.0);
        let least = same.map(|held| held.recency()).min()?;
        let is_it = |held: &Held| held.check() == check.0 && held.recency() == least;
        let id = self.records.find_bucket_index(check.table_hash(), is_it)?;
        Some((SlotId(id), least))
    }

    #[inline]
    pub(super) fn get(&self, id: SlotId) -> &Held {
        match self.records.get_bucket(id.0) {
            Some(held) => held,
            None => unreachable!("{id:?} is from before an insertion"),
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: SlotId) -> &mut Held {
        match self.records.get_bucket_mut(id.0) {
            Some(held) => held,
            None => unreachable!("{id:?} is from before an insertion"),
        }
    }

    /// Whether there is no room for one more, unless where another one was. When there is room after one was put
    /// in, all have moved to other slots.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.records.len() == self.records.capacity()
    }

    /// Where its slots end, and the number of them less one; `None` if it is empty.
    pub(super) fn whereabouts(&self) -> Option<(usize, usize)> {
        let index = self.records.iter_buckets().next()?;
        let first = std::ptr::from_ref(self.records.get_bucket(index)?).addr();
        Some((first + (index + 1) * size_of::<Held>(), self.records.num_buckets() - 1))
    }

    /// Puts a record in whose key is not there yet.
    #[inline]
    pub(super) fn put(&mut self, held: Held) -> SlotId {
        let hash_of = |held: &Held| Check(held.check()).table_hash();
        let entry = self.records.insert_unique(hash_of(&held), held, hash_of);
        SlotId(entry.bucket_index())
    }

    /// Takes a record out.
    #[inline]
    pub(super) fn take(&mut self, id: SlotId) -> Removed {
        match self.records.get_bucket_entry(id.0) {
            Ok(entry) => entry.remove().0,
            Err(_) => unreachable!("{id:?} is from before an insertion"),
        }
    }

    /// Exchanges a record for another one of the same key; gives the old one. Recency, hits
    /// and place stay.
    pub(super) fn replace(&mut self, id: SlotId, record: Record) -> Record {
        let held = self.get_mut(id);
        let mut new = Held::new(record, held.check());
        new.set_recency(held.recency());
        new.set_filed(held.filed());
        new.set_hits(held.hits());
        std::mem::replace(held, new).into_record()
    }

    /// The numbers of all.
    pub(super) fn ids(&self) -> impl Iterator<Item = SlotId> {
        self.records.iter_buckets().map(SlotId)
    }
}
