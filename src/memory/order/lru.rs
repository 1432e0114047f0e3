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
//! Each run, and each place in `front`, has a number, and a record has the number under which it is
//! filed. A run's items are four bytes each, the slots of the table that the records are in: a record that has
//! another number by now is not meant, and a slot that is there twice counts once. When the table grows, it
//! moves its records, and all items are made anew ([`Lru::follow`]).
//!
//! An explicit stamp that is older than what an entry is filed under moves it at once. In a run that
//! leaves a dead item behind, as removal does; when there are more dead than living, all runs are
//! cleaned.
//!
//! # Invariants
//!
//! - **L1** an entry has the number of one run, which has its slot among its items; or that of one item in
//!   `front`, which is its own. Between [`Table::put`] and [`Lru::link`] it has none.
//! - **L2** `starts` has under the number of an entry a stamp that is not newer than its own.
//! - **L3** along `front`, (start, key) descends strictly; so the oldest is at its end.
//! - **L4** the starts of the runs ascend strictly; what is filed in a run was older than the next
//!   start then, and all that is in `front` is older than the first.
//! - **L5** `items` counts what the runs hold, dead ones included.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::memory::table::{Slot, SlotId, Table};
use crate::record::{Held, UNFILED};

/// A run that has this many entries is followed by a new one. Two in unit tests and under fuzzing,
/// where few entries are to make many runs.
const RUN_ITEMS: usize = if cfg!(any(test, fuzzing)) { 2 } else { 256 };
/// How many records are fetched ahead where a run is gone through.
const AHEAD: usize = 16;
/// How many evictions ahead the record of a victim is fetched.
const NEXT: usize = 2;
/// What `front` may hold before its newer half becomes a run again.
const FRONT_ITEMS_MAX: usize = 4 * RUN_ITEMS;

/// The order of one shard.
#[derive(Debug, Default)]
pub(in crate::memory) struct Lru {
    /// The oldest last (L3).
    front: Vec<Item>,
    runs: VecDeque<Run>,
    /// By number: the stamp under which the item is filed, or where the run starts (L2).
    starts: Vec<u64>,
    /// Those that are free.
    numbers: Vec<u32>,
    items: usize,
    /// What the last run that was sorted in had its items in.
    spare: Vec<Slot>,
}

/// A place in `front`.
#[derive(Debug, Clone, Copy)]
struct Item {
    start: u64,
    number: u32,
    slot: Slot,
}

/// Entries whose stamps were from `start` up to the start of the next run when they were filed.
#[derive(Debug)]
struct Run {
    number: u32,
    start: u64,
    /// The newest stamp that was filed here.
    end: u64,
    items: Vec<Slot>,
}

impl Lru {
    /// A lower bound of all stamps; `None` if nothing is filed.
    #[inline]
    pub(in crate::memory) fn bound(&self) -> Option<u64> {
        match self.front.last() {
            Some(item) => Some(item.start),
            None => self.runs.front().map(|run| run.start),
        }
    }

    /// Files an entry that is not filed, or not under its stamp.
    #[inline]
    pub(in crate::memory) fn link(&mut self, table: &mut Table, id: SlotId) {
        let held = table.get_mut(id);
        let (stamp, slot) = (held.recency(), id.into());
        match self.file_newest(stamp, slot).or_else(|| self.file_in_run(stamp, slot)) {
            Some(number) => held.set_filed(number),
            None => self.link_in_front(table, id),
        }
    }

    #[cold]
    #[inline(never)]
    fn link_in_front(&mut self, table: &mut Table, id: SlotId) {
        let held = table.get_mut(id);
        let (stamp, record) = (held.recency(), held.take());
        let number = self.file_in_front(table, stamp, id.into(), record.key());
        table.get_mut(id).set_filed(number);
    }

    /// Puts what is not older than the last run's start into that run, or opens one behind it.
    #[inline]
    fn file_newest(&mut self, stamp: u64, slot: Slot) -> Option<u32> {
        if let Some(last) = self.runs.back_mut()
            && stamp >= last.start
            && (last.items.len() < RUN_ITEMS || stamp <= last.end)
        {
            self.items += 1;
            return Some(last.take(stamp, slot));
        }
        self.file_behind(stamp, slot)
    }

    /// Opens a run for what is newer than all that is filed, if it is.
    #[inline(never)]
    fn file_behind(&mut self, stamp: u64, slot: Slot) -> Option<u32> {
        let is_newest = match self.runs.back() {
            Some(last) => last.items.len() >= RUN_ITEMS && stamp > last.end,
            None => self.front.first().is_none_or(|newest| stamp > newest.start),
        };
        if !is_newest {
            return None;
        }
        let mut run = self.new_run(stamp);
        let number = run.take(stamp, slot);
        self.items += 1;
        self.runs.push_back(run);
        Some(number)
    }

    /// Puts what is older than the last run's start into its run, if that is not `front`.
    #[inline(never)]
    fn file_in_run(&mut self, stamp: u64, slot: Slot) -> Option<u32> {
        let behind = self.runs.partition_point(|run| run.start <= stamp);
        let run = self.runs.get_mut(behind.checked_sub(1)?)?;
        self.items += 1;
        Some(run.take(stamp, slot))
    }

    fn file_in_front(&mut self, table: &mut Table, stamp: u64, slot: Slot, key: &[u8]) -> u32 {
        let is_of_one_stamp =
            self.front.first().map(|item| item.start) == self.front.last().map(|item| item.start);
        let is_long = self.front.len() >= FRONT_ITEMS_MAX && !is_of_one_stamp;
        if is_long && self.split_front(table) {
            let in_run = self.file_in_run(stamp, slot);
            return in_run.unwrap_or_else(|| self.file_in_front(table, stamp, slot, key));
        }
        let at = self.front.partition_point(|item| {
            item.start > stamp || item.start == stamp && item.key(table) > key
        });
        let number = self.new_number(stamp);
        self.front.insert(at, Item { start: stamp, number, slot });
        number
    }

    /// A number for what is filed from `start` on.
    #[inline]
    fn new_number(&mut self, start: u64) -> u32 {
        if let Some(number) = self.numbers.pop() {
            self.starts[number as usize] = start;
            return number;
        }
        let number = u32::try_from(self.starts.len()).unwrap_or(u32::MAX);
        assert!(number < UNFILED, "one shard holds some 2^30 entries");
        self.starts.push(start);
        number
    }

    fn new_run(&mut self, start: u64) -> Run {
        let items = std::mem::take(&mut self.spare);
        Run { number: self.new_number(start), start, end: start, items }
    }

    /// Finds all records again after the table has moved them.
    #[cold]
    pub(in crate::memory) fn follow(&mut self, table: &Table) {
        // By number, where the items are: first those of `front`, then the runs.
        let mut places = vec![usize::MAX; self.starts.len()];
        let numbers = self.front.iter().map(|item| item.number);
        for (place, number) in numbers.chain(self.runs.iter().map(|run| run.number)).enumerate() {
            places[number as usize] = place;
        }
        self.runs.iter_mut().for_each(|run| run.items.clear());
        self.items = 0;
        for id in table.ids() {
            // Of a number that is not known is who has just come.
            let place = places.get(table.get(id).filed() as usize).copied().unwrap_or(usize::MAX);
            if let Some(item) = self.front.get_mut(place) {
                item.slot = id.into();
            } else if let Some(run) = self.runs.get_mut(place - self.front.len()) {
                run.items.push(id.into());
                self.items += 1;
            }
        }
    }

    fn start(&self, table: &Table, id: SlotId) -> u64 {
        self.starts[table.get(id).filed() as usize]
    }

    /// Takes a filed entry out of the order; its number means nothing then.
    #[inline]
    pub(in crate::memory) fn unlink(&mut self, table: &mut Table, id: SlotId) {
        let number = table.get(id).filed();
        // Usually it is the last one: eviction looked there.
        if self.front.last().is_some_and(|item| item.number == number) {
            self.front.pop();
            self.numbers.push(number);
            return;
        }
        let start = self.start(table, id);
        if self.front.first().is_some_and(|newest| start <= newest.start) {
            let newer = self.front.partition_point(|item| item.start > start);
            let tied = self.front.iter().skip(newer).position(|item| item.number == number);
            if let Some(tied) = tied {
                self.front.remove(newer + tied);
                self.numbers.push(number);
            }
        } else if self.items > 2 * table.len() + 2 * RUN_ITEMS {
            // Of no run: what is dead from here on is not to be kept.
            table.get_mut(id).set_filed(UNFILED);
            self.clean(table);
        }
    }

    /// Gives a filed entry a new stamp: moves nothing unless that is older than what it is filed under.
    pub(in crate::memory) fn restamp(&mut self, table: &mut Table, id: SlotId, stamp: u64) {
        table.get_mut(id).set_recency(stamp);
        if stamp < self.start(table, id) {
            self.unlink(table, id);
            self.link(table, id);
        }
    }

    /// The oldest entry and its stamp; puts the order right as far as it must to know.
    #[inline]
    pub(in crate::memory) fn oldest(&mut self, table: &mut Table) -> Option<(SlotId, u64)> {
        match self.front.last() {
            Some(item) if item.held(table).recency() == item.start => {
                // Some of the others will be asked for soon.
                if let Some(next) = self.front.len().checked_sub(1 + NEXT) {
                    table.fetch_victim(self.front[next].slot);
                }
                Some((item.slot.into(), item.start))
            }
            _ => self.look_for_oldest(table),
        }
    }

    /// Likewise, where the last item was accessed since it was filed, or there is none.
    #[inline(never)]
    fn look_for_oldest(&mut self, table: &mut Table) -> Option<(SlotId, u64)> {
        loop {
            while let Some(item) = self.front.last().copied() {
                let id = item.slot.into();
                if table.get(id).recency() == item.start {
                    return Some((id, item.start));
                }
                self.front.pop();
                self.numbers.push(item.number);
                self.link(table, id);
            }
            let run = self.runs.pop_front()?;
            self.sort_in(table, run);
        }
    }

    /// Fills `front`, which is empty, with the living of the first run, which was taken out.
    fn sort_in(&mut self, table: &mut Table, mut run: Run) {
        self.items -= run.items.len();
        let next_start = self.runs.front().map(|next| next.start);
        for (nth, slot) in run.items.iter().enumerate() {
            if let Some(slot) = run.items.get(nth + AHEAD) {
                table.fetch_slot(*slot);
            }
            let Some(held) = table.filed_at(*slot, run.number) else { continue };
            let stamp = held.recency();
            if next_start.is_some_and(|start| stamp >= start) {
                self.link(table, (*slot).into());
            } else {
                let number = self.new_number(stamp);
                held.set_filed(number);
                self.front.push(Item { start: stamp, number, slot: *slot });
            }
        }
        self.numbers.push(run.number);
        if run.items.capacity() <= 2 * RUN_ITEMS {
            run.items.clear();
            self.spare = run.items;
        }
        while self.front.len() > 2 * RUN_ITEMS && self.split_front(table) {}
        // By stamp alone, which the processor need not guess; a batch aside, few are of one stamp. Those that came
        // in here are in order, in front of what was filed anew: a sort by merging makes use of it.
        self.front.sort_by_key(|item| Reverse(item.start));
        let is_tied = |pair: &[Item]| matches!(pair, [a, b] if a.start == b.start);
        if self.front.windows(2).any(is_tied) {
            for tied in self.front.chunk_by_mut(|a, b| a.start == b.start) {
                tied.sort_unstable_by(|a, b| b.key(table).cmp(a.key(table)));
            }
        }
    }

    /// Makes a run of the newer half of `front`, which need not be sorted for that, and stays so if
    /// it is; `false` if all of it has one stamp.
    fn split_front(&mut self, table: &mut Table) -> bool {
        let middle = self.front.len() / 2;
        let mut starts: Vec<u64> = self.front.iter().map(|item| item.start).collect();
        let (older, pivot, _) = starts.select_nth_unstable(middle);
        // All of one stamp stay together: the pivot's go with the newer ones unless nothing is left.
        let mut start = *pivot;
        if older.iter().all(|other| *other >= start) {
            let newer = self.front.iter().map(|item| item.start).filter(|other| *other > start);
            let Some(least) = newer.min() else { return false };
            start = least;
        }
        let mut run = self.new_run(start);
        for item in self.front.extract_if(.., |item| item.start >= start) {
            let number = run.take(item.start, item.slot);
            table.get_mut(item.slot.into()).set_filed(number);
            self.numbers.push(item.number);
        }
        self.items += run.items.len();
        self.runs.push_front(run);
        true
    }

    /// Takes the dead items out of all runs.
    #[cold]
    fn clean(&mut self, table: &Table) {
        for run in &mut self.runs {
            let mut living = run.living(table);
            living.shrink_to(RUN_ITEMS);
            run.items = living;
        }
        let numbers = &mut self.numbers;
        self.runs.retain(|run| {
            let keep = !run.items.is_empty();
            if !keep {
                numbers.push(run.number);
            }
            keep
        });
        self.items = self.runs.iter().map(|run| run.items.len()).sum();
    }

    fn start_of(&self, number: u32) -> Option<u64> {
        self.starts.get(number as usize).copied()
    }

    /// Checks every invariant.
    pub(in crate::memory) fn validate(&self, table: &Table) -> Result<(), String> {
        let mut filed = self.front.len();
        let mut behind: Option<&Item> = None;
        for item in self.front.iter().rev() {
            if !table.is_filed(item.slot, item.number) {
                return Err(format!("L1: {item:?} in front is of no entry"));
            }
            let order = |item: &Item| (item.start, item.key(table));
            if behind.is_some_and(|behind| order(behind) >= order(item)) {
                return Err(format!("L3: {item:?} is not newer than what is behind it"));
            }
            if self.start_of(item.number) != Some(item.start) {
                return Err(format!("L2: {item:?} has another start by its number"));
            }
            behind = Some(item);
        }
        let mut below = self.front.first().map(|item| item.start);
        for run in &self.runs {
            if below.is_some_and(|below| below >= run.start) || run.end < run.start {
                return Err(format!("L4: the run from {} begins too early", run.start));
            }
            if self.start_of(run.number) != Some(run.start) {
                return Err(format!("L2: the run from {} has another start", run.start));
            }
            filed += run.living(table).len();
            below = Some(run.end);
        }
        for id in table.ids() {
            let start = self.start_of(table.get(id).filed());
            if start.is_none_or(|start| start > table.get(id).recency()) {
                return Err(format!("L2: {id:?} is filed under a stamp newer than its own"));
            }
        }
        let mut numbers: Vec<u32> = self.numbers.clone();
        numbers.extend(self.front.iter().map(|item| item.number));
        numbers.extend(self.runs.iter().map(|run| run.number));
        numbers.sort_unstable();
        numbers.dedup();
        let items: usize = self.runs.iter().map(|run| run.items.len()).sum();
        if filed != table.len() || items != self.items || numbers.len() != self.starts.len() {
            let all = table.len();
            return Err(format!("L1, L5: {filed} entries filed of {all}, {items} items"));
        }
        Ok(())
    }
}

impl Item {
    #[inline]
    fn held(self, table: &Table) -> &Held {
        table.get(self.slot.into())
    }

    fn key(self, table: &Table) -> &[u8] {
        self.held(table).key()
    }
}

impl Run {
    /// Files an entry that is in this slot; gives the run's number.
    #[inline]
    fn take(&mut self, stamp: u64, slot: Slot) -> u32 {
        self.items.push(slot);
        self.end = self.end.max(stamp);
        self.number
    }

    /// The slots of the entries that are filed here.
    fn living(&self, table: &Table) -> Vec<Slot> {
        let mut living = self.items.clone();
        living.sort_unstable();
        living.dedup();
        living.retain(|slot| table.is_filed(*slot, self.number));
        living
    }
}
