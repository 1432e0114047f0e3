//! Soonest deadline first: what would be over soon anyway leaves first.
//!
//! A strategy of practice rather than of a paper: Redis has it as `volatile-ttl`, there by sampling, here
//! exactly. What has no deadline comes after all that has one. Equal deadlines, and entries without
//! one, are told apart by the stamp of their last access, then by key, which is least recently used
//! where nothing has a deadline.
//!
//! # How it works
//!
//! Entries are sorted by (deadline, stamp, key). A hit changes nothing there, but makes the stamp newer, and
//! the deadline later where that counts from the last access; both only ever move an entry back. So what
//! is found to be first with another stamp or deadline than it is filed under is filed anew, and one that
//! has its own is the first of all. Each such correction is paid for by a hit. Where all live equally
//! long, or without end, newcomers rank last, which costs [`Sorted`] nothing.
//!
//! # Invariants
//!
//! - **D1** every entry is filed, under a deadline and a stamp that it had at that time.
//! - **D2** what an entry is filed under is not after what it has now. It rests on hits that do not move a
//!   stamp back; one that does is noticed when the entry is first by what it is filed under.

use std::cmp::Ordering;

use crate::memory::order::heap::Item;
use crate::memory::order::sorted::Sorted;
use crate::strategy::{Entries, EntryId, EvictionOrder, Leaving, NewEntry, Victim};
use crate::time::Timestamp;

/// No deadline is as good as one at the end of time.
const NEVER: Timestamp = Timestamp::from_nanos(u64::MAX);

/// Entries by deadline, then by stamp.
#[derive(Debug, Default)]
pub(super) struct Ttl {
    filed: Sorted<(Timestamp, Timestamp)>,
}

/// The entry as it is to be filed now.
fn item(id: EntryId, entries: &dyn Entries) -> Item<(Timestamp, Timestamp)> {
    Item { rank: (entries.deadline(id).unwrap_or(NEVER), entries.stamp(id)), id }
}

impl Ttl {
    fn refile(&mut self, item: Item<(Timestamp, Timestamp)>, entries: &dyn Entries) {
        self.filed.remove(item.id, entries);
        self.filed.file(item, entries);
    }

    /// Who is first, when what was filed wrongly before it is put right.
    fn soonest(&mut self, entries: &dyn Entries) -> Option<Item<(Timestamp, Timestamp)>> {
        loop {
            let first = self.filed.first(entries)?;
            let now = item(first.id, entries);
            if now == first {
                return Some(first);
            }
            self.refile(now, entries);
            // It stays the first, however often it is being hit.
            if self.filed.first(entries) == Some(now) {
                return Some(now);
            }
        }
    }
}

impl EvictionOrder for Ttl {
    fn insert(&mut self, id: EntryId, entries: &mut dyn Entries) {
        self.filed.file(item(id, entries), entries);
    }

    fn replace(&mut self, id: EntryId, entries: &mut dyn Entries) {
        self.refile(item(id, entries), entries);
    }

    fn remove(&mut self, id: EntryId, _: Leaving, entries: &mut dyn Entries) {
        self.filed.remove(id, entries);
    }

    fn victim(
        &mut self,
        newcomer: Option<&NewEntry<'_>>,
        entries: &mut dyn Entries,
    ) -> Option<Victim> {
        let soonest = self.soonest(entries)?;
        let is_sooner = |newcomer: &NewEntry<'_>| {
            let rank = (newcomer.deadline().unwrap_or(NEVER), newcomer.stamp());
            soonest.compare(&rank, newcomer.key(), entries) == Ordering::Greater
        };
        let is_newcomer = newcomer.is_some_and(is_sooner);
        Some(if is_newcomer { Victim::Newcomer } else { Victim::Entry(soonest.id) })
    }
}

#[cfg(test)]
mod tests;
