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
//! filed. A run's items are four bytes each, bits of the keys' hashes: with the number they lead to the
//! record. Where two records of a run have the same bits, there are two items, and it does not matter
//! which is whose.
//!
//! An explicit stamp that is older than what an entry is filed under moves it at once. In a run that
//! leaves a dead item behind, as removal does; when there are more dead than living, all runs are
//! cleaned.
//!
//! # Invariants
//!
//! - **L1** an entry has the number of one run, which has as many items with its bits as there are such
//!   entries, or more; or that of one item in `front`, which is its own.
//! - **L2** `starts` has under the number of an entry a stamp that is not newer than its own.
//! - **L3** along `front`, (start, key) descends strictly; so the oldest is at its end.
//! - **L4** the starts of the runs ascend strictly; what is filed in a run was older than the next
//!   start then, and all that is in `front` is older than the first.
//! - **L5** `items` counts what the runs hold, dead ones included.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::hash::Check;
use crate::memory::table::{SlotId, Table};
use crate::record::FILED_MAX;

/// A run that has this many entries is followed by a new one. Two in unit tests and under fuzzing,
/// where few entries are to make many runs.
const RUN_ITEMS: usize = if cfg!(any(test, fuzzing)) { 2 } else { 256 };
/// How many records are fetched ahead where a run is gone through.
const AHEAD: usize = 8;
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
    spare: Vec<Check>,
}

/// A place in `front`.
#[derive(Debug, Clone, Copy)]
struct Item {
    start: u64,
    number: u32,
    check: Check,
}

/// Entries whose stamps were from `start` up to the start of the next run when they were filed.
#[derive(Debug)]
struct Run {
    number: u32,
    start: u64,
    /// The newest stamp that was filed here.
    end: u64,
    items: Vec<Check>,
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
    pub(in crate::memory) fn link(&mut self, table: &mut Table, id: SlotId) {
        let held = table.get_mut(id);
        let (stamp, check) = (held.recency(), Check(held.check()));
        if let Some(number) = self.file_newest(stamp, check) {
            held.set_filed(number);
            return;
        }
        let record = held.take();
        let number = self.file_older(table, stamp, check, record.key());
        table.get_mut(id).set_filed(number);
    }

    /// Where an entry that is not in the table yet is filed.
    #[inline]
    pub(in crate::memory) fn file(
        &mut self,
        table: &mut Table,
        stamp: u64,
        check: Check,
        key: &[u8],
    ) -> u32 {
        match self.file_newest(stamp, check) {
            Some(number) => number,
            None => self.file_older(table, stamp, check, key),
        }
    }

    /// Puts what is not older than the last run's start into that run, or opens one behind it.
    #[inline]
    fn file_newest(&mut self, stamp: u64, check: Check) -> Option<u32> {
        let is_newest = match self.runs.back() {
            Some(last) if last.items.len() < RUN_ITEMS => stamp >= last.start,
            Some(last) if stamp > last.end => self.open_run(stamp),
            Some(last) => stamp >= last.start,
            None => {
                let newest = self.front.first();
                newest.is_none_or(|item| stamp > item.start) && self.open_run(stamp)
            }
        };
        let last = self.runs.back_mut().filter(|_| is_newest)?;
        self.items += 1;
        Some(last.take(stamp, check))
    }

    #[inline(never)]
    fn file_older(&mut self, table: &mut Table, stamp: u64, check: Check, key: &[u8]) -> u32 {
        let behind = self.runs.partition_point(|run| run.start <= stamp);
        if let Some(run) = behind.checked_sub(1).and_then(|index| self.runs.get_mut(index)) {
            self.items += 1;
            return run.take(stamp, check);
        }
        // First, since the table does not know of the new item yet.
        let is_of_one_stamp =
            self.front.first().map(|item| item.start) == self.front.last().map(|item| item.start);
        let is_long = self.front.len() >= FRONT_ITEMS_MAX && !is_of_one_stamp;
        if is_long && self.split_front(table) {
            return self.file_older(table, stamp, check, key);
        }
        let at = self.front.partition_point(|item| {
            item.start > stamp || item.start == stamp && item.key(table) > key
        });
        let number = self.new_number(stamp);
        self.front.insert(at, Item { start: stamp, number, check });
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
        assert!(number <= FILED_MAX, "one shard holds some 2^30 entries");
        self.starts.push(start);
        number
    }

    fn new_run(&mut self, start: u64) -> Run {
        let items = std::mem::take(&mut self.spare);
        Run { number: self.new_number(start), start, end: start, items }
    }

    /// Opens an empty run behind all others; `true`.
    fn open_run(&mut self, start: u64) -> bool {
        let run = self.new_run(start);
        self.runs.push_back(run);
        true
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
            table.get_mut(id).set_filed(FILED_MAX);
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
    pub(in crate::memory) fn oldest(&mut self, table: &mut Table) -> Option<(SlotId, u64)> {
        loop {
            while let Some(item) = self.front.last().copied() {
                let id = item.id(table);
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
        for (nth, check) in run.items.iter().enumerate() {
            if let Some(check) = run.items.get(nth + AHEAD) {
                table.fetch_ahead(*check);
            }
            let Some(id) = table.find_filed(*check, run.number) else { continue };
            let stamp = table.get(id).recency();
            if next_start.is_some_and(|start| stamp >= start) {
                self.link(table, id);
            } else {
                let number = self.new_number(stamp);
                table.get_mut(id).set_filed(number);
                self.front.push(Item { start: stamp, number, check: *check });
            }
        }
        self.numbers.push(run.number);
        if run.items.capacity() <= 2 * RUN_ITEMS {
            run.items.clear();
            self.spare = run.items;
        }
        while self.front.len() > 2 * RUN_ITEMS && self.split_front(table) {}
        // By stamp alone, which the processor need not guess; a batch aside, few are of one stamp.
        self.front.sort_unstable_by_key(|item| Reverse(item.start));
        for tied in self.front.chunk_by_mut(|a, b| a.start == b.start) {
            if tied.len() > 1 {
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
            let id = item.id(table);
            table.get_mut(id).set_filed(run.take(item.start, item.check));
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
            run.items.sort_unstable();
            let mut living = Vec::with_capacity(run.items.len());
            for same in run.items.chunk_by(|a, b| a == b) {
                let alive = same.first().map_or(0, |check| table.count_filed(*check, run.number));
                living.extend(same.iter().take(alive));
            }
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

    /// Checks every invariant.
    pub(in crate::memory) fn validate(&self, table: &Table) -> Result<(), String> {
        let mut filed = 0;
        let mut behind: Option<&Item> = None;
        for item in self.front.iter().rev() {
            if table.count_filed(item.check, item.number) != 1 {
                return Err(format!("L1: {item:?} in front is of no entry, or of several"));
            }
            let order = |item: &Item| (item.start, table.get(item.id(table)).key());
            if behind.is_some_and(|behind| order(behind) >= order(item)) {
                return Err(format!("L3: {item:?} is not newer than what is behind it"));
            }
            if self.starts.get(item.number as usize) != Some(&item.start) {
                return Err(format!("L2: {item:?} has another start by its number"));
            }
            filed += 1;
            behind = Some(item);
        }
        let mut below = self.front.first().map(|item| item.start);
        for run in &self.runs {
            if below.is_some_and(|below| below >= run.start) || run.end < run.start {
                return Err(format!("L4: the run from {} begins too early", run.start));
            }
            if self.starts.get(run.number as usize) != Some(&run.start) {
                return Err(format!("L2: the run from {} has another start", run.start));
            }
            let mut items = run.items.clone();
            items.sort_unstable();
            for same in items.chunk_by(|a, b| a == b) {
                let living = same.first().map_or(0, |check| table.count_filed(*check, run.number));
                filed += living.min(same.len());
            }
            below = Some(run.end);
        }
        for id in table.ids() {
            let start = self.starts.get(table.get(id).filed() as usize);
            if start.is_none_or(|start| *start > table.get(id).recency()) {
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
    fn id(self, table: &Table) -> SlotId {
        match table.find_filed(self.check, self.number) {
            Some(id) => id,
            None => unreachable!("L1: {self:?} is of no entry"),
        }
    }

    fn key(self, table: &Table) -> &[u8] {
        table.get(self.id(table)).key()
    }
}

impl Run {
    /// Files an entry with these bits; gives the run's number.
    #[inline]
    fn take(&mut self, stamp: u64, check: Check) -> u32 {
        self.items.push(check);
        self.end = self.end.max(stamp);
        self.number
    }
}
