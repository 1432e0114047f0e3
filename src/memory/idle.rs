//! Which entry of a shard was accessed longest ago, where the order does not say so.
//!
//! A heap has an item for each entry, under the stamp that the entry had when it was looked at last. Hits
//! leave it alone; the first item is put right when it is asked for. Items are bits of the keys' hashes,
//! so that nothing is kept alive; those of entries that have left are dropped when they come first, and
//! all at once when they are more than half.
//!
//! # Invariants
//!
//! - **I1** for bits that entries have there is an item with a stamp that is not newer than any of theirs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::hash::Check;
use crate::memory::table::{SlotId, Table};

/// So many dead items are not worth a cleaning.
const DEAD_MIN: usize = 64;

/// The entries of one shard by time of last access.
#[derive(Debug, Default)]
pub(super) struct Idle {
    items: BinaryHeap<Reverse<(u64, Check)>>,
}

impl Idle {
    /// Notes an entry that has come in, or whose stamp went back.
    pub(super) fn note(&mut self, table: &Table, id: SlotId) {
        let held = table.get(id);
        self.items.push(Reverse((held.recency(), Check(held.check()))));
        if self.items.len() > 2 * table.len() + DEAD_MIN {
            let item = |id| (table.get(id).recency(), Check(table.get(id).check()));
            self.items = table.ids().map(|id| Reverse(item(id))).collect();
        }
    }

    /// The entry that was accessed longest ago.
    pub(super) fn longest(&mut self, table: &Table) -> Option<SlotId> {
        loop {
            let mut first = self.items.peek_mut()?;
            let Reverse((stamp, check)) = *first;
            match table.longest_idle(check) {
                None => {
                    std::collections::binary_heap::PeekMut::pop(first);
                }
                Some((id, now)) if now <= stamp => return Some(id),
                Some((_, now)) => *first = Reverse((now, check)),
            }
        }
    }

    /// No entry was accessed before this; `None` only if there is none.
    pub(super) fn bound(&self) -> Option<u64> {
        self.items.peek().map(|Reverse((stamp, _))| *stamp)
    }

    /// Checks every invariant.
    pub(super) fn validate(&self, table: &Table) -> Result<(), String> {
        let mut first = std::collections::HashMap::new();
        for Reverse((stamp, Check(bits))) in &self.items {
            let least = first.entry(*bits).or_insert(*stamp);
            *least = (*least).min(*stamp);
        }
        for id in table.ids() {
            let held = table.get(id);
            if first.get(&held.check()).is_none_or(|stamp| *stamp > held.recency()) {
                return Err(format!("I1: {id:?} has no item, or only newer ones"));
            }
        }
        Ok(())
    }
}
