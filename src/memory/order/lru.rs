//! Least recently used, exactly, with hits that move nothing.
//!
//! A hit only sets the stamp in its record. Where the entry is filed stays as it was, and is put right
//! when eviction comes by: what it finds with a newer stamp than the one it is filed under is filed
//! anew, and the first one that it finds with its own stamp is the oldest of all. Every such
//! correction is paid for by a hit that did none. The idea is that of a lazy priority queue; the
//! queue is cut into runs by stamp, as a radix heap is (Ahuja, Mehlhorn, Orlin, Tarjan, 1990), with
//! the bounds taken from what comes in.
//!
//! # How it works
//!
//! `front` holds the oldest entries, sorted. Behind it come runs, each for a range of stamps, with
//! their entries in no order. What is inserted goes to the end of the last run, which is followed by
//! a new one when it is full. When `front` is used up, the next run is sorted into it; of one that
//! has grown large, first the older half is split off.
//!
//! An explicit stamp that is older than the place of an entry moves it at once, so that a place is
//! never newer than the stamp. In a run that leaves a dead item behind, as removal does; when there
//! are more dead than living, all runs are cleaned.
//!
//! # Invariants
//!
//! - **L1** an occupied slot is filed in one place: `Slot::run` names a run that has its number, or
//!   is [`FRONT`], and then `front` has it once. A run's other items are dead.
//! - **L2** `Slot::place` is at most the stamp, and not below the start of its run.
//! - **L3** along `front`, (place, key) descends strictly; so the oldest is at its end.
//! - **L4** the starts of the runs ascend strictly, all places in a run are below the next start,
//!   and all those in `front` are below the first.
//! - **L5** `items` counts what the runs hold, dead ones included.

use std::collections::VecDeque;

use crate::memory::slab::{FRONT, NOWHERE, Slab, SlotId};

/// A run that has this many entries is followed by a new one. Two in unit tests and under fuzzing,
/// where few entries are to make many runs.
const RUN_ITEMS: usize = if cfg!(any(test, fuzzing)) { 2 } else { 256 };
/// What `front` may hold before its newer half becomes a run again.
const FRONT_ITEMS_MAX: usize = 4 * RUN_ITEMS;

/// The order of one shard.
#[derive(Debug, Default)]
pub(in crate::memory) struct Lru {
    /// Place and slot, the oldest last (L3).
    front: Vec<(u64, SlotId)>,
    runs: VecDeque<Run>,
    /// Numbers of runs that are gone, and the next one that was never used.
    free_numbers: Vec<u32>,
    next_number: u32,
    items: usize,
}

/// Entries whose stamps were from `start` up to the start of the next run when they were filed.
#[derive(Debug)]
struct Run {
    number: u32,
    start: u64,
    /// The largest place.
    end: u64,
    slots: Vec<SlotId>,
}

impl Lru {
    /// A lower bound of all stamps; `None` if nothing is filed.
    pub(in crate::memory) fn bound(&self) -> Option<u64> {
        match self.front.last() {
            Some((place, _)) => Some(*place),
            None => self.runs.front().map(|run| run.start),
        }
    }

    /// Files a slot that is not filed under its stamp.
    pub(in crate::memory) fn link(&mut self, slab: &mut Slab, id: SlotId) {
        let stamp = slab.stamp(id);
        let is_newest = match self.runs.back() {
            Some(last) if last.slots.len() < RUN_ITEMS => stamp >= last.start,
            Some(last) if stamp > last.end => self.open_run(stamp),
            Some(last) => stamp >= last.start,
            None => {
                let newest = self.front.first();
                newest.is_none_or(|(place, _)| stamp > *place) && self.open_run(stamp)
            }
        };
        if is_newest && let Some(last) = self.runs.back_mut() {
            last.take(slab, id, stamp);
            self.items += 1;
        } else {
            self.link_older(slab, id, stamp);
        }
    }

    fn link_older(&mut self, slab: &mut Slab, id: SlotId, stamp: u64) {
        let behind = self.runs.partition_point(|run| run.start <= stamp);
        if let Some(run) = behind.checked_sub(1).and_then(|index| self.runs.get_mut(index)) {
            run.take(slab, id, stamp);
            self.items += 1;
            return;
        }
        let at = self.front.partition_point(|(place, other)| {
            let key = || slab.record(*other).key() > slab.record(id).key();
            *place > stamp || *place == stamp && key()
        });
        self.front.insert(at, (stamp, id));
        let slot = slab.get_mut(id);
        (slot.place, slot.run) = (stamp, FRONT);
        if self.front.len() > FRONT_ITEMS_MAX {
            self.split_front(slab);
        }
    }

    /// Opens an empty run behind all others; `true`.
    fn open_run(&mut self, start: u64) -> bool {
        let run = self.new_run(start);
        self.runs.push_back(run);
        true
    }

    fn new_run(&mut self, start: u64) -> Run {
        let number = self.free_numbers.pop().unwrap_or_else(|| {
            self.next_number += 1;
            self.next_number - 1
        });
        Run { number, start, end: start, slots: Vec::new() }
    }

    /// Takes a filed slot out.
    pub(in crate::memory) fn unlink(&mut self, slab: &mut Slab, id: SlotId) {
        let slot = slab.get_mut(id);
        let (place, run) = (slot.place, std::mem::replace(&mut slot.run, NOWHERE));
        if run == FRONT {
            // Usually it is the last one: eviction looked there.
            let newer = self.front.partition_point(|(other, _)| *other > place);
            let tied = self.front.iter().skip(newer).position(|(_, other)| *other == id);
            if let Some(tied) = tied {
                self.front.remove(newer + tied);
            }
        } else if self.items > 2 * slab.occupied_count() + 2 * RUN_ITEMS {
            self.clean(slab);
        }
    }

    /// Gives a filed slot a new stamp: moves nothing unless that is older than its place.
    pub(in crate::memory) fn restamp(&mut self, slab: &mut Slab, id: SlotId, stamp: u64) {
        slab.record(id).set_recency(stamp);
        if stamp < slab.get(id).place {
            self.unlink(slab, id);
            self.link(slab, id);
        }
    }

    /// The oldest slot; puts the order right as far as it must to know.
    pub(in crate::memory) fn oldest(&mut self, slab: &mut Slab) -> Option<SlotId> {
        loop {
            while let Some((place, id)) = self.front.last().copied() {
                if slab.stamp(id) == place {
                    return Some(id);
                }
                self.front.pop();
                self.link(slab, id);
            }
            let run = self.runs.pop_front()?;
            self.sort_in(slab, run);
        }
    }

    /// Fills `front`, which is empty, with the living of the first run, which was taken out.
    fn sort_in(&mut self, slab: &mut Slab, mut run: Run) {
        self.items -= run.slots.len();
        let next_start = self.runs.front().map(|next| next.start);
        for id in run.slots.drain(..) {
            if slab.get(id).run != run.number {
                continue;
            }
            let stamp = slab.stamp(id);
            if next_start.is_some_and(|start| stamp >= start) {
                self.link(slab, id);
            } else {
                let slot = slab.get_mut(id);
                (slot.place, slot.run) = (stamp, FRONT);
                self.front.push((stamp, id));
            }
        }
        self.free_numbers.push(run.number);
        while self.front.len() > 2 * RUN_ITEMS && self.split_front(slab) {}
        self.front.sort_unstable_by(|a, b| {
            let keys = || slab.record(b.1).key().cmp(slab.record(a.1).key());
            b.0.cmp(&a.0).then_with(keys)
        });
    }

    /// Makes a run of the newer half of `front`, which need not be sorted for that, and stays so if
    /// it is; `false` if all of it has one stamp.
    fn split_front(&mut self, slab: &mut Slab) -> bool {
        let middle = self.front.len() / 2;
        let mut places: Vec<u64> = self.front.iter().map(|(place, _)| *place).collect();
        let (older, pivot, _) = places.select_nth_unstable(middle);
        // All of one stamp stay together: the pivot's go with the newer ones unless nothing is left.
        let mut start = *pivot;
        if older.iter().all(|place| *place >= start) {
            let newer = self.front.iter().map(|(place, _)| *place).filter(|place| *place > start);
            let Some(least) = newer.min() else { return false };
            start = least;
        }
        let mut run = self.new_run(start);
        for (place, id) in self.front.extract_if(.., |(place, _)| *place >= start) {
            run.take(slab, id, place);
        }
        self.items += run.slots.len();
        self.runs.push_front(run);
        true
    }

    /// Takes the dead items out of all runs.
    #[cold]
    fn clean(&mut self, slab: &Slab) {
        for run in &mut self.runs {
            run.slots.retain(|id| slab.get(*id).run == run.number);
            run.slots.sort_unstable();
            run.slots.dedup();
            run.slots.shrink_to(RUN_ITEMS);
        }
        let free_numbers = &mut self.free_numbers;
        self.runs.retain(|run| {
            let keep = !run.slots.is_empty();
            if !keep {
                free_numbers.push(run.number);
            }
            keep
        });
        self.items = self.runs.iter().map(|run| run.slots.len()).sum();
    }

    /// Checks every invariant; `len` is the number of occupied slots.
    pub(in crate::memory) fn validate(&self, slab: &Slab, len: usize) -> Result<(), String> {
        let order = |(place, id): &(u64, SlotId)| (*place, slab.record(*id).key());
        for (at, (place, id)) in self.front.iter().enumerate() {
            let slot = slab.get(*id);
            if slab.find(*id).is_none() || (slot.place, slot.run) != (*place, FRONT) {
                return Err(format!("L1: {id:?} is in front and filed elsewhere"));
            }
            if self.front.get(at + 1).is_some_and(|next| order(next) >= order(&(*place, *id))) {
                return Err(format!("L3: what is behind {id:?} is not older"));
            }
        }
        let mut filed = self.front.len();
        let mut below = self.front.first().map(|(place, _)| *place);
        for run in &self.runs {
            if below.is_some_and(|below| below >= run.start) || run.end < run.start {
                return Err(format!("L4: the run from {} begins too early", run.start));
            }
            let mut living: Vec<SlotId> = run.slots.clone();
            living.retain(|id| slab.get(*id).run == run.number);
            living.sort_unstable();
            living.dedup();
            if living.iter().any(|id| !(run.start..=run.end).contains(&slab.get(*id).place)) {
                return Err(format!("L2, L4: a place is outside the run from {}", run.start));
            }
            filed += living.len();
            below = Some(run.end);
        }
        if slab.occupied().any(|id| slab.get(id).place > slab.stamp(id)) {
            return Err("L2: a place is newer than the stamp".to_owned());
        }
        let items: usize = self.runs.iter().map(|run| run.slots.len()).sum();
        if filed != len || items != self.items {
            return Err(format!("L1, L5: {filed} slots filed of {len}, {items} items"));
        }
        Ok(())
    }
}

impl Run {
    fn take(&mut self, slab: &mut Slab, id: SlotId, place: u64) {
        self.slots.push(id);
        self.end = self.end.max(place);
        let slot = slab.get_mut(id);
        (slot.place, slot.run) = (place, self.number);
    }
}
