//! Who left not long ago: keys that are remembered without their entries.
//!
//! Of a key there are 32 bits of its hash. Two keys that share them are taken for one, which is as likely
//! as one in 2^32 for each that is remembered, and does no harm but a needless chance for the other.
//!
//! # How it works
//!
//! A ring has them in the order in which they left, oldest first, and a table leads from the hash to the
//! place in the ring, by numbers that count on and on. What comes back is only taken out of the
//! table; its place stays in the ring, dead, until it is the oldest. When more are dead than alive, the
//! ring is made anew without them. Eight bytes for each in the ring, and five in a full table.
//!
//! # Invariants
//!
//! - **E1** the table has numbers of places in the ring, each under the hash that is there.
//! - **E2** `charge` is the sum of those that the table has.
//! - **E3** after one was remembered, no more are alive than the bounds allow.
//! - **E4** the dead are no more than the living and [`DEAD_FREE`].

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::hash::{Check, KeyHash};

/// As many dead are not worth making the ring anew.
const DEAD_FREE: usize = if cfg!(test) { 2 } else { 64 };

/// How much is remembered at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) entries: usize,
    pub(super) bytes: Option<u64>,
}

/// The keys that are remembered.
#[derive(Debug, Default)]
pub(super) struct Ghost {
    ring: VecDeque<Left>,
    /// The number of the oldest in the ring; the others follow, and 0 follows the last there is.
    first: u32,
    /// Numbers of the living.
    alive: HashTable<u32>,
    charge: u64,
}

#[derive(Debug, Clone, Copy)]
struct Left {
    check: Check,
    /// `u32::MAX` for all that is more.
    charge: u32,
}

impl Ghost {
    /// Remembers one that leaves and is not remembered, and forgets the oldest until all are within the
    /// bounds. What is out of bounds by itself is not remembered.
    pub(super) fn remember(&mut self, hash: u64, charge: u64, bounds: Bounds) {
        let check = KeyHash(hash).check();
        let charge = u32::try_from(charge).unwrap_or(u32::MAX);
        let left = Left { check, charge };
        let fits_alone = bounds.bytes.is_none_or(|max| u64::from(charge) <= max);
        if bounds.entries == 0 || !fits_alone {
            return;
        }
        while self.alive.len() >= bounds.entries
            || bounds.bytes.is_some_and(|max| self.charge + u64::from(charge) > max)
        {
            if !self.forget_oldest() {
                break;
            }
        }
        self.push(left);
        self.bury();
    }

    /// Whether a key is remembered; it no longer is then.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        let Some(number) = self.find(KeyHash(hash).check()) else { return false };
        self.kill(number);
        self.bury();
        true
    }

    fn left(&self, number: u32) -> Option<Left> {
        self.ring.get(number.wrapping_sub(self.first) as usize).copied()
    }

    fn find(&self, check: Check) -> Option<u32> {
        let is_same = |number: &u32| self.left(*number).is_some_and(|left| left.check == check);
        self.alive.find(check.table_hash(), is_same).copied()
    }

    fn push(&mut self, left: Left) {
        // A ring of 2^32 is longer than numbers of entries allow.
        let number = self.first.wrapping_add(u32::try_from(self.ring.len()).unwrap_or(u32::MAX));
        self.ring.push_back(left);
        self.charge += u64::from(left.charge);
        let (ring, first) = (&self.ring, self.first);
        let hash = |number: &u32| {
            let left = ring.get(number.wrapping_sub(first) as usize);
            left.map_or(0, |left| left.check.table_hash())
        };
        self.alive.insert_unique(left.check.table_hash(), number, hash);
    }

    /// Takes one out of the table if it is there.
    fn kill(&mut self, number: u32) {
        let Some(left) = self.left(number) else { return };
        let found = self.alive.find_entry(left.check.table_hash(), |other| *other == number);
        if let Ok(found) = found {
            found.remove();
            self.charge -= u64::from(left.charge);
        }
    }

    /// Takes out the oldest of the ring, dead or alive; `false` if there is none.
    fn forget_oldest(&mut self) -> bool {
        self.kill(self.first);
        self.first = self.first.wrapping_add(1);
        self.ring.pop_front().is_some()
    }

    /// Makes the ring anew, without the dead, if they are too many.
    fn bury(&mut self) {
        if self.ring.len() <= 2 * self.alive.len() + DEAD_FREE {
            return;
        }
        let mut old = std::mem::take(self);
        while let Some(left) = old.ring.front().copied() {
            let first = |number: &u32| *number == old.first;
            if old.alive.find(left.check.table_hash(), first).is_some() {
                self.push(left);
            }
            old.forget_oldest();
        }
    }
}

#[cfg(test)]
impl Ghost {
    /// Checks every invariant.
    pub(super) fn validate(&self, bounds: Option<Bounds>) -> Result<(), String> {
        let mut charge = 0;
        for number in &self.alive {
            let Some(left) = self.left(*number) else {
                return Err(format!("E1: number {number} is not in the ring"));
            };
            if self.find(left.check).is_none() {
                return Err(format!("E1: {left:?} is not found"));
            }
            charge += u64::from(left.charge);
        }
        if charge != self.charge {
            return Err(format!("E2: charges sum up to {charge}, not {}", self.charge));
        }
        let dead = self.ring.len() - self.alive.len();
        let is_in_bounds = bounds.is_none_or(|bounds| {
            self.alive.len() <= bounds.entries && bounds.bytes.is_none_or(|max| self.charge <= max)
        });
        if !is_in_bounds {
            return Err(format!("E3: {} alive, bounds {bounds:?}", self.alive.len()));
        }
        if dead > self.alive.len() + DEAD_FREE {
            return Err(format!("E4: {dead} dead, {} alive", self.alive.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
