//! Entries by rank, the least first, at no cost for those that come in that order.
//!
//! What [`Heap`] does, for orders where a newcomer usually ranks last: among stamps of the clock, or among
//! deadlines as far away for all.
//!
//! # How it works
//!
//! What ranks after the newest of a queue goes to its end; what does not is *late*, and goes to a heap. The
//! least of all is the oldest of the queue or the first of the heap. Nothing ever moves from the one
//! to the other. One entry of a very high rank makes all that comes after it late until it
//! leaves, which costs time but no order.
//!
//! # Invariants
//!
//! - **R1** an entry is in the queue or in the heap, and `ranks` has its rank.
//! - **R2** along the queue, (rank, key) ascends.

use crate::memory::order::heap::{Heap, Item};
use crate::memory::order::list::Queues;
use crate::strategy::{Entries, EntryId};

/// The only queue.
const QUEUE: usize = 0;

/// The entries that are filed.
#[derive(Debug)]
pub(super) struct Sorted<R> {
    queue: Queues<1>,
    /// By number.
    ranks: Vec<R>,
    late: Heap<R>,
}

impl<R> Default for Sorted<R> {
    fn default() -> Self {
        Self { queue: Queues::default(), ranks: Vec::new(), late: Heap::default() }
    }
}

impl<R: Ord + Copy> Sorted<R> {
    fn item(&self, id: EntryId) -> Item<R> {
        Item { rank: self.ranks[id.index()], id }
    }

    /// Files an entry that is not filed.
    pub(super) fn file(&mut self, item: Item<R>, entries: &dyn Entries) {
        if self.ranks.len() <= item.id.index() {
            self.ranks.resize(item.id.index() + 1, item.rank);
        }
        self.ranks[item.id.index()] = item.rank;
        let newest = self.queue.newest(QUEUE).map(|newest| self.item(newest));
        if newest.is_some_and(|newest| item.is_before(&newest, entries)) {
            self.late.file(item, entries);
        } else {
            self.queue.push(QUEUE, item.id);
        }
    }

    /// Takes out an entry that is filed.
    pub(super) fn remove(&mut self, id: EntryId, entries: &dyn Entries) {
        if !self.late.remove(id, entries) {
            self.queue.unlink(QUEUE, id);
        }
    }

    /// The least of all.
    pub(super) fn first(&self, entries: &dyn Entries) -> Option<Item<R>> {
        let queued = self.queue.oldest(QUEUE).map(|oldest| self.item(oldest));
        match (queued, self.late.first()) {
            (Some(queued), Some(late)) if late.is_before(&queued, entries) => Some(late),
            (queued, late) => queued.or(late),
        }
    }
}

#[cfg(test)]
impl<R: Ord + Copy + std::fmt::Debug> Sorted<R> {
    pub(super) fn get(&self, id: EntryId) -> Option<Item<R>> {
        let is_filed = !self.queue.is_free(id) || self.late.get(id).is_some();
        is_filed.then(|| self.item(id))
    }

    /// Those that are in the heap.
    pub(super) fn late(&self) -> impl Iterator<Item = &Item<R>> {
        self.late.iter()
    }

    /// Checks every invariant; `ids` are those that are to be filed.
    pub(super) fn validate(&self, ids: &[EntryId], entries: &dyn Entries) -> Result<(), String> {
        self.queue.validate()?;
        self.late.validate(entries)?;
        for id in ids {
            let late = self.late.get(*id);
            if self.queue.is_free(*id) == late.is_none() {
                return Err(format!("R1: {id:?} is in both or in neither"));
            }
            if late.is_some_and(|late| late != self.item(*id)) {
                return Err(format!("R1: {late:?} has another rank by its number"));
            }
        }
        let queue: Vec<Item<R>> = self.queue.iter(QUEUE).map(|id| self.item(id)).collect();
        if !queue.is_sorted_by(|a, b| a.is_before(b, entries)) {
            return Err(format!("R2: {queue:?} does not ascend"));
        }
        let filed = queue.len() + self.late.iter().count();
        (filed == ids.len()).then_some(()).ok_or_else(|| format!("R1: {filed} of {}", ids.len()))
    }
}
