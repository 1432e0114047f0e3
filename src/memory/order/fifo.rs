//! First in, first out: whose value was stored first leaves first.
//!
//! The oldest of the strategies; Belady, "A study of replacement algorithms for a virtual-storage computer",
//! IBM Systems Journal, 1966, compares it with the optimum. What counts is when the value was stored, not
//! when the entry was last hit; at equal stamps the smaller key leaves first. A new value is stored anew. A
//! newcomer older than all others does not come in.
//!
//! # How it works
//!
//! Entries are sorted by the stamp they had when they were stored. Stamps usually ascend, which costs
//! [`Sorted`] nothing.
//!
//! # Invariants
//!
//! - **F1** every entry is filed, under the stamp it had when its value was stored.

use std::cmp::Ordering;

use crate::memory::order::heap::Item;
use crate::memory::order::sorted::Sorted;
use crate::strategy::{Entries, EntryId, EvictionOrder, Leaving, NewEntry, Victim};
use crate::time::Timestamp;

/// Entries by when they were stored.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    stored: Sorted<Timestamp>,
}

impl EvictionOrder for Fifo {
    fn insert(&mut self, id: EntryId, entries: &mut dyn Entries) {
        self.stored.file(Item { rank: entries.stamp(id), id }, entries);
    }

    fn replace(&mut self, id: EntryId, entries: &mut dyn Entries) {
        self.stored.remove(id, entries);
        self.insert(id, entries);
    }

    fn remove(&mut self, id: EntryId, _: Leaving, entries: &mut dyn Entries) {
        self.stored.remove(id, entries);
    }

    fn victim(
        &mut self,
        newcomer: Option<&NewEntry<'_>>,
        entries: &mut dyn Entries,
    ) -> Option<Victim> {
        let oldest = self.stored.first(entries)?;
        let is_newer = |newcomer: &NewEntry<'_>| {
            oldest.compare(&newcomer.stamp(), newcomer.key(), entries) == Ordering::Greater
        };
        let is_newcomer = newcomer.is_some_and(is_newer);
        Some(if is_newcomer { Victim::Newcomer } else { Victim::Entry(oldest.id) })
    }
}

#[cfg(test)]
mod tests;
