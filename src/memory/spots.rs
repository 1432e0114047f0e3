//! Where each shard's table is, so that what a look-up needs of it is on its way before the lock is taken.
//!
//! A look-up reads the tags of sixteen slots, then the slots whose tag fits, then a record: one line after the
//! other, none of which the processor asks for before the lock is its own. Where a table is and how large it is
//! changes rarely, so that is kept here as well, beside the shards: with it and a hash, tags and slots can be
//! fetched while the stamp and the lock are waited for.
//!
//! # Invariants
//!
//! - **H1** nothing is read at these addresses. One that is stale, or put together from two tables, has a line
//!   fetched for nothing.
//!
//! Which lines they are is what is known of `hashbrown`: slots lie in front of the tags, the first one last, and a
//! search begins at the lowest bits of the hash. A test here notices when that is not so any more.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::hash::Check;
use crate::memory::table::Table;
use crate::record::{Held, fetch_address_ahead};

/// How far a search usually gets, in slots.
const SLOTS_SEARCHED: usize = 4;

/// Where one table is.
#[derive(Debug, Default)]
struct Spot {
    /// The end of its slots, and the begin of its tags.
    tags: AtomicUsize,
    /// The number of its slots, less one.
    mask: AtomicUsize,
}

/// Where all tables are.
#[derive(Debug)]
pub(super) struct Spots(Box<[Spot]>);

impl Spots {
    pub(super) fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| Spot::default()).collect())
    }

    /// Has the processor fetch where the search for an entry begins.
    #[inline]
    pub(super) fn fetch_ahead(&self, shard: usize, check: Check) {
        let Some(spot) = self.0.get(shard) else { return };
        let first = check.first_slot(spot.mask.load(Ordering::Relaxed));
        let tags = spot.tags.load(Ordering::Relaxed);
        fetch_address_ahead(tags.wrapping_add(first));
        fetch_address_ahead(slot_address(tags, first));
        fetch_address_ahead(slot_address(tags, first + SLOTS_SEARCHED));
    }

    /// Notes where a table is that has moved.
    #[cold]
    pub(super) fn note(&self, shard: usize, table: &Table) {
        let (Some(spot), Some((tags, mask))) = (self.0.get(shard), table.whereabouts()) else {
            return;
        };
        spot.tags.store(tags, Ordering::Relaxed);
        spot.mask.store(mask, Ordering::Relaxed);
    }
}

/// The address of a slot, given that of the tags.
#[inline]
fn slot_address(tags: usize, slot: usize) -> usize {
    tags.wrapping_sub((slot + 1) * size_of::<Held>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::KeyHasher;
    use crate::record::Record;

    #[test]
    fn what_is_fetched_ahead_is_where_an_entry_is_looked_for() {
        let (hasher, mut table, spots) = (KeyHasher::default(), Table::default(), Spots::new(2));
        let key = |n: u32| n.to_be_bytes();
        let checks: Vec<_> = (0..10_000).map(|n| hasher.hash(&key(n)).check()).collect();
        let mut moves = 0;
        for (n, check) in (0..).zip(&checks) {
            let was_full = table.is_full();
            table.put(Held::new(Record::of_key(&key(n)), check.0));
            if was_full && !table.is_full() {
                spots.note(1, &table);
                moves += 1;
            }
        }
        assert!((8..16).contains(&moves), "it grows twofold: {moves}");
        let load = |word: &AtomicUsize| word.load(Ordering::Relaxed);
        let (tags, mask) = (load(&spots.0[1].tags), load(&spots.0[1].mask));
        assert_eq!((load(&spots.0[0].tags), load(&spots.0[0].mask)), (0, 0));
        assert_eq!(table.whereabouts(), Some((tags, mask)));
        let mut within = 0;
        for (n, check) in (0..).zip(&checks) {
            let held = table.find_mut(*check, &key(n)).unwrap();
            let address = std::ptr::from_ref(held).addr();
            let first = check.first_slot(mask);
            let searched =
                slot_address(tags, first + 2 * SLOTS_SEARCHED)..=slot_address(tags, first);
            within += u32::from(searched.contains(&address));
        }
        assert!(within > 9_000, "{within} of 10,000");
    }
}
