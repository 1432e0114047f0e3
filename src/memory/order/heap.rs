//! Entries by rank, the least first; what has the same rank by key.
//!
//! An order files an entry under a rank of its choice, and may file it anew or take it out at any time.
//!
//! # How it works
//!
//! A heap in which every item has four below it, so that it is half as high as one with two. An entry's
//! place in it is kept by its number, which makes removal as cheap as insertion: as many steps as the
//! heap is high. Ranks are in the items; keys are only looked at where ranks are equal.
//!
//! # Invariants
//!
//! - **H1** no item is before the one above it, by (rank, key).
//! - **H2** `places` has for every entry that is filed the place of its item, and [`NOWHERE`] for all
//!   others.

use std::cmp::Ordering;

use crate::strategy::{Entries, EntryId};

/// How many items are below one: with ranks of two words, four of them are in two or three cache lines.
const BELOW: usize = 4;
/// The place of an entry that is not filed.
const NOWHERE: u32 = u32::MAX;

/// The entries that are filed.
#[derive(Debug)]
pub(super) struct Heap<R> {
    items: Vec<Item<R>>,
    /// By number of the entry.
    places: Vec<u32>,
}

/// One that is filed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item<R> {
    pub(super) rank: R,
    pub(super) id: EntryId,
}

impl<R: Ord> Item<R> {
    /// How this one compares with one of that rank and key.
    pub(super) fn compare(&self, rank: &R, key: &[u8], entries: &dyn Entries) -> Ordering {
        self.rank.cmp(rank).then_with(|| entries.key(self.id).cmp(key))
    }

    pub(super) fn is_before(&self, other: &Self, entries: &dyn Entries) -> bool {
        match self.rank.cmp(&other.rank) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => entries.key(self.id) < entries.key(other.id),
        }
    }
}

impl<R> Default for Heap<R> {
    fn default() -> Self {
        Self { items: Vec::new(), places: Vec::new() }
    }
}

impl<R: Ord + Copy> Heap<R> {
    /// The least of all.
    pub(super) fn first(&self) -> Option<Item<R>> {
        self.items.first().copied()
    }

    fn place(&self, id: EntryId) -> Option<usize> {
        let place = self.places.get(id.index()).copied()?;
        (place != NOWHERE).then_some(place as usize)
    }

    /// Files an entry, anew if it is filed.
    pub(super) fn file(&mut self, item: Item<R>, entries: &dyn Entries) {
        if let Some(place) = self.place(item.id) {
            return self.settle(place, item, entries);
        }
        if self.places.len() <= item.id.index() {
            self.places.resize(item.id.index() + 1, NOWHERE);
        }
        self.items.push(item);
        self.rise(self.items.len() - 1, item, entries);
    }

    /// Takes an entry out; `false` if it was not filed.
    pub(super) fn remove(&mut self, id: EntryId, entries: &dyn Entries) -> bool {
        let Some(place) = self.place(id) else { return false };
        self.places[id.index()] = NOWHERE;
        if let Some(last) = self.items.pop().filter(|last| last.id != id) {
            self.settle(place, last, entries);
        }
        true
    }

    /// Changes all ranks; they have to stay in their order.
    pub(super) fn change_ranks(&mut self, change: impl Fn(R) -> R) {
        for item in &mut self.items {
            item.rank = change(item.rank);
        }
    }

    /// Finds the place of an item, to begin with at one whose own item is to be overwritten.
    fn settle(&mut self, place: usize, item: Item<R>, entries: &dyn Entries) {
        let above = place.checked_sub(1).map(|below| self.items[below / BELOW]);
        if above.is_some_and(|above| item.is_before(&above, entries)) {
            self.rise(place, item, entries);
        } else {
            self.sink(place, item, entries);
        }
    }

    fn rise(&mut self, mut place: usize, item: Item<R>, entries: &dyn Entries) {
        while place > 0 {
            let above = (place - 1) / BELOW;
            let other = self.items[above];
            if !item.is_before(&other, entries) {
                break;
            }
            self.put(place, other);
            place = above;
        }
        self.put(place, item);
    }

    fn sink(&mut self, mut place: usize, item: Item<R>, entries: &dyn Entries) {
        loop {
            let from = place * BELOW + 1;
            let until = self.items.len().min(from + BELOW);
            let Some(mut least) = self.items.get(from).copied() else { break };
            let mut at = from;
            for (nth, other) in self.items[from..until].iter().enumerate().skip(1) {
                if other.is_before(&least, entries) {
                    (at, least) = (from + nth, *other);
                }
            }
            if !least.is_before(&item, entries) {
                break;
            }
            self.put(place, least);
            place = at;
        }
        self.put(place, item);
    }

    fn put(&mut self, place: usize, item: Item<R>) {
        self.items[place] = item;
        // An entry's number is smaller than `NOWHERE`, and places are no more than numbers.
        self.places[item.id.index()] = u32::try_from(place).unwrap_or(NOWHERE);
    }
}

#[cfg(test)]
impl<R: Ord + Copy + std::fmt::Debug> Heap<R> {
    /// What an entry is filed under.
    pub(super) fn get(&self, id: EntryId) -> Option<Item<R>> {
        self.items.get(self.place(id)?).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Item<R>> {
        self.items.iter()
    }

    /// Checks every invariant.
    pub(super) fn validate(&self, entries: &dyn Entries) -> Result<(), String> {
        for (place, item) in self.items.iter().enumerate() {
            if place > 0 && item.is_before(&self.items[(place - 1) / BELOW], entries) {
                return Err(format!("H1: {item:?} is before the one above it"));
            }
            if self.place(item.id) != Some(place) {
                return Err(format!("H2: {item:?} is kept under another place than {place}"));
            }
        }
        let placed = self.places.iter().filter(|place| **place != NOWHERE).count();
        if placed != self.items.len() {
            return Err(format!("H2: {placed} places for {} items", self.items.len()));
        }
        Ok(())
    }
}
