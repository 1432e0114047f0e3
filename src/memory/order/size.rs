//! GreedyDual-Size-Frequency: large and seldom used entries leave first.
//!
//! Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy", HP
//! Laboratories, HPL-98-69R1, 1998. It keeps as many small and popular entries as fit, for the best hit
//! ratio by requests rather than by bytes.
//!
//! # How it works
//!
//! An entry's priority is `level + frequency / charge`, and the least leaves; at equal priorities the one
//! with the older stamp, then the smaller key. The level rises to the priority of what leaves. So what
//! was not used since is overtaken by what comes in later, however popular it once was.
//!
//! Hits are asked for only when an entry is about to leave: if there were any, its frequency grows by
//! them, and it is filed anew at the level of that moment. The paper does both at each hit; here a
//! hit costs nothing, and an entry that is hit gets the later, higher level. A charge of 0 counts as 1.
//!
//! # Numbers
//!
//! Priorities are whole numbers of 2^-40, rounded down; nothing else is ever rounded. Charges up to a
//! million differ in priority from their neighbours, ones of a GiB by tenths of a percent, and above 2^40
//! only the frequency tells them apart. A frequency counts up to 65,535, so `frequency / charge` is less than
//! 2^56. When the level comes to 2^62, it is taken off from all priorities, itself included: only
//! differences matter, so no precision is lost however many leave. What is in then was filed since the
//! level was last at 0, or it would have left by now; that pays for the walk.
//!
//! # Invariants
//!
//! - **G1** every entry is in the heap, under its priority and its stamp of when it was filed.
//! - **G2** the level is not above any priority in the heap, and never falls against them.
//! - **G3** the level is below [`LEVEL_END`].

use crate::memory::order::heap::{Heap, Item};
use crate::strategy::{Entries, EntryId, EvictionOrder, Leaving, NewEntry, Victim};
use crate::time::Timestamp;

/// What a frequency of 1 is worth at a charge of 1.
const UNIT: u64 = 1 << 40;
/// Where the level begins anew. In unit tests it does so all the time.
const LEVEL_END: u64 = if cfg!(test) { 1 << 41 } else { 1 << 62 };

/// Entries by priority.
#[derive(Debug, Default)]
pub(super) struct Size {
    /// By priority, then by stamp.
    heap: Heap<(u64, Timestamp)>,
    level: u64,
    /// By number.
    frequencies: Vec<u16>,
    max_bytes: Option<u64>,
}

impl Size {
    fn file(&mut self, id: EntryId, frequency: u16, entries: &dyn Entries) {
        self.frequencies[id.index()] = frequency;
        let worth = u64::from(frequency) * UNIT / entries.charge(id).max(1);
        let rank = (self.level + worth, entries.stamp(id));
        self.heap.file(Item { rank, id }, entries);
    }

    /// The frequency with the hits since it was last asked for.
    fn frequency(&self, id: EntryId, hits: u32) -> u16 {
        self.frequencies[id.index()].saturating_add(u16::try_from(hits).unwrap_or(u16::MAX))
    }

    /// Raises the level to the least priority there is.
    fn raise_level(&mut self) {
        self.level = self.heap.first().map_or(self.level, |least| least.rank.0);
        if self.level >= LEVEL_END {
            let level = std::mem::take(&mut self.level);
            self.heap.change_ranks(|(priority, stamp)| (priority.saturating_sub(level), stamp));
        }
    }
}

impl EvictionOrder for Size {
    fn set_limits(&mut self, _: Option<u64>, max_bytes: Option<u64>) {
        self.max_bytes = max_bytes;
    }

    fn insert(&mut self, id: EntryId, entries: &mut dyn Entries) {
        if self.frequencies.len() <= id.index() {
            self.frequencies.resize(id.index() + 1, 0);
        }
        self.file(id, 1, entries);
    }

    fn replace(&mut self, id: EntryId, entries: &mut dyn Entries) {
        let hits = entries.take_hits(id);
        self.file(id, self.frequency(id, hits), entries);
    }

    fn remove(&mut self, id: EntryId, leaving: Leaving, entries: &mut dyn Entries) {
        if leaving == Leaving::Evicted {
            self.raise_level();
        }
        self.heap.remove(id, entries);
    }

    fn victim(
        &mut self,
        newcomer: Option<&NewEntry<'_>>,
        entries: &mut dyn Entries,
    ) -> Option<Victim> {
        let is_too_large =
            |newcomer: &NewEntry<'_>| self.max_bytes.is_some_and(|max| newcomer.charge() > max);
        if newcomer.is_some_and(is_too_large) {
            return Some(Victim::Newcomer);
        }
        loop {
            let least = self.heap.first()?;
            let hits = entries.take_hits(least.id);
            if hits > 0 {
                self.file(least.id, self.frequency(least.id, hits), entries);
            }
            // It may still be the least, and be hit again and again.
            if hits == 0 || self.heap.first().is_some_and(|first| first.id == least.id) {
                return Some(Victim::Entry(least.id));
            }
        }
    }
}

#[cfg(test)]
mod tests;
