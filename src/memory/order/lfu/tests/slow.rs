//! The same algorithm with lists that are searched, the oldest entry first. Counts, ghosts and the plain
//! queue are the tested ones.

use std::collections::HashMap;

use super::super::ghosts::Ghosts;
use super::super::plain::Plain;
use crate::memory::order::sketch::Sketch;
use crate::strategy::{Entries, EntryId, EvictionOrder, Leaving, NewEntry, Victim};

/// The order.
#[derive(Debug)]
pub(super) struct Slow {
    queues: [Vec<EntryId>; 3],
    charges: HashMap<EntryId, u64>,
    born: HashMap<EntryId, u32>,
    sketch: Sketch,
    ghosts: Ghosts,
    named: Option<EntryId>,
    by_bytes: bool,
    random: u64,
    parts: u64,
    time: u64,
    /// In 256ths.
    ghost_hits: u64,
    edge_hits: u64,
    insertions: u64,
    /// Tested on its own.
    plain: Plain,
    insertions_whole: u64,
    most: u64,
    hits_before: u64,
    /// The share before, and hits and requests.
    trial: Option<(u64, u64, u64)>,
    pause: u64,
    next_pause: u64,
    was_worse: bool,
    holds: bool,
}

impl Slow {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            queues: [vec![], vec![], vec![]],
            charges: HashMap::new(),
            born: HashMap::new(),
            sketch: Sketch::new(None),
            ghosts: Ghosts::default(),
            named: None,
            by_bytes: false,
            random: seed | 1,
            parts: 6553,
            time: 0,
            ghost_hits: 0,
            edge_hits: 0,
            insertions: 0,
            plain: Plain::default(),
            insertions_whole: 0,
            most: 0,
            hits_before: 0,
            trial: None,
            pause: 0,
            next_pause: 0,
            was_worse: false,
            holds: false,
        }
    }

    fn now(&self) -> u32 {
        u32::try_from(self.time).unwrap_or(u32::MAX)
    }

    fn all(&self) -> u64 {
        self.queues.iter().map(|queue| queue.len() as u64).sum()
    }

    fn held(&self, queue: &[EntryId]) -> u64 {
        queue.iter().map(|id| if self.by_bytes { self.charges[id] } else { 1 }).sum()
    }

    fn send(&mut self, to: usize, id: EntryId) {
        for queue in &mut self.queues {
            queue.retain(|other| *other != id);
        }
        self.queues[to].push(id);
    }

    fn look_at(&mut self, id: EntryId, entries: &mut dyn Entries) -> u32 {
        let hits = entries.take_hits(id);
        if hits > 0 {
            self.sketch.add(entries.hash(id), hits);
        }
        hits
    }

    fn candidate(&mut self, entries: &mut dyn Entries) -> Option<EntryId> {
        let mut chances = self.queues[0].len();
        loop {
            let id = *self.queues[0].first()?;
            let hits = self.look_at(id, entries);
            if hits == 0 || chances == 0 {
                return Some(id);
            }
            chances -= 1;
            self.time += 1;
            self.plain.second_chance();
            self.send(0, id);
            self.born.insert(id, self.now());
        }
    }

    fn resident(&mut self, entries: &mut dyn Entries) -> Option<EntryId> {
        let mut chances = 2 * (self.queues[1].len() + self.queues[2].len());
        let edge = usize::try_from(self.all().div_ceil(20).max(4)).unwrap_or(usize::MAX);
        loop {
            while self.queues[2].len() < edge && !self.queues[1].is_empty() {
                let id = self.queues[1][0];
                let hits = if chances > 0 { self.look_at(id, entries) } else { 0 };
                chances = chances.saturating_sub(1);
                if hits > 0 {
                    self.main_hit(id, hits, entries);
                }
                self.send(if hits > 0 { 1 } else { 2 }, id);
            }
            let id = *self.queues[2].first()?;
            let hits = self.look_at(id, entries);
            if hits == 0 || chances == 0 {
                return Some(id);
            }
            chances -= 1;
            self.main_hit(id, hits, entries);
            self.time += 1;
            self.edge_hits += 256;
            self.send(1, id);
        }
    }

    fn main_hit(&mut self, id: EntryId, hits: u32, entries: &dyn Entries) {
        let last = self.plain.tick(entries.stamp(id).as_nanos(), self.now());
        let before = self.born[&id];
        // Both may be from before the clock began.
        let is_after = (1..1 << 31).contains(&last.wrapping_sub(before));
        let last = if is_after { last } else { self.now() };
        self.plain.main_hit(hits, before, last);
        self.born.insert(id, last);
    }

    fn choose(&mut self, coming: u64, entries: &mut dyn Entries) -> Option<EntryId> {
        loop {
            let window = self.held(&self.queues[0]);
            let all = window + self.held(&self.queues[1]) + self.held(&self.queues[2]);
            let share = (all * self.parts / 65_536).max(1);
            if window + coming <= share
                && let Some(resident) = self.resident(entries)
            {
                return Some(resident);
            }
            let Some(candidate) = self.candidate(entries) else { return self.resident(entries) };
            if window - self.held(&[candidate]) >= share {
                self.send(1, candidate);
                continue;
            }
            let Some(resident) = self.resident(entries) else { return Some(candidate) };
            let often = self.sketch.estimate(entries.hash(candidate));
            let seldom = self.sketch.estimate(entries.hash(resident));
            let is_settled = self.sketch.is_settled(self.all());
            let wins = often > seldom && (!is_settled || often > 2 && often > seldom + 1);
            if wins || often >= 3 && self.lucky() {
                self.send(1, candidate);
                return Some(resident);
            }
            self.send(2, resident);
            return Some(candidate);
        }
    }

    fn lucky(&mut self) -> bool {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32).is_multiple_of(128)
    }

    fn adapt(&mut self, hits_so_far: u64) {
        self.insertions += 1;
        if self.insertions * 10 >= self.all() {
            self.insertions = 0;
            let (sum, more) =
                (self.ghost_hits + self.edge_hits, self.ghost_hits.abs_diff(self.edge_hits));
            let may_shrink = !self.holds || self.ghost_hits >= self.edge_hits;
            if more * more > 4 * 256 * sum && may_shrink {
                let step = 65_536 / 20 * more / sum;
                let grown = self.parts + if self.ghost_hits > self.edge_hits { step } else { 0 };
                let shrunk = if self.ghost_hits < self.edge_hits { step } else { 0 };
                self.parts = grown.saturating_sub(shrunk).clamp(655, 65_536 - 655);
                (self.ghost_hits, self.edge_hits) = (0, 0);
            } else {
                self.ghost_hits -= self.ghost_hits / 10;
                self.edge_hits -= self.edge_hits / 10;
            }
        }
        self.insertions_whole += 1;
        self.most = self.most.max(self.all());
        if self.most > 2 * self.all() {
            self.plain.begin_anew(self.now());
            (self.most, self.insertions_whole, self.hits_before) = (self.all(), 1, hits_so_far);
            self.trial = None;
        }
        if self.insertions_whole >= 2 * self.all() {
            let hits = hits_so_far - self.hits_before;
            let requests = hits + self.insertions_whole;
            if let Some((parts, others, of)) = self.trial.take() {
                if fewer((hits, requests), (others, of)) {
                    self.parts = self.parts.min(parts);
                    self.pause = self.next_pause;
                    self.next_pause = (2 * self.next_pause).clamp(1, 64);
                } else {
                    self.next_pause = 0;
                }
            }
            let (gains, losses) = self.plain.counts();
            let clear = gains.abs_diff(losses).pow(2) > 9 * 256 * (gains + losses);
            let is_worse = clear && losses > gains;
            self.holds = self.pause == 0 && !is_worse && !self.was_worse;
            self.was_worse = is_worse;
            let grows = self.pause == 0 && clear && gains > losses;
            if grows {
                self.trial = Some((self.parts, hits, requests));
                let more = 65_536 * (gains - losses) / (256 * self.all());
                self.parts = (self.parts + more.min(65_536 / 20)).min(65_536 - 655);
            }
            let window = self.queues[0].len() as u64;
            self.plain.count_anew(!grows, window, self.all(), self.now());
            self.pause = self.pause.saturating_sub(1);
            (self.hits_before, self.insertions_whole) = (hits_so_far, 0);
        }
    }
}

/// Whether a smaller part are hits, by more than twice the standard deviation.
fn fewer((hits, requests): (u64, u64), (others, of): (u64, u64)) -> bool {
    let (all, both) = (u128::from(hits + others), u128::from(requests + of));
    let more = u128::from((others * requests).saturating_sub(hits * of));
    let [requests, of] = [requests, of].map(u128::from);
    more / requests.max(1) * more / of.max(1) > 4 * (all * (both - all) / both.max(1))
}

impl EvictionOrder for Slow {
    fn set_limits(&mut self, max_entries: Option<u64>, max_bytes: Option<u64>) {
        (self.by_bytes, self.named) = (max_bytes.is_some(), None);
        let (words, fresh) = (self.sketch.len_words(), Sketch::new(max_entries));
        let is_too_small = max_entries.is_some_and(|most| most < words as u64);
        if self.all() == 0 || is_too_small && fresh.len_words() < words {
            self.sketch = fresh;
        }
        self.sketch.expect(if max_bytes.is_some() { None } else { max_entries });
    }

    fn insert(&mut self, id: EntryId, entries: &mut dyn Entries) {
        self.charges.insert(id, entries.charge(id));
        self.queues[0].push(id);
        self.time += 1;
        self.plain.came_in(entries.stamp(id).as_nanos());
        if let Some((born, was_main)) = self.ghosts.take(entries.hash(id)) {
            let away = u64::from(self.now().wrapping_sub(born));
            let edge = self.all().div_ceil(20).max(4);
            if !was_main && away <= self.all() && away <= self.queues[0].len() as u64 + edge {
                self.ghost_hits += 256;
            }
            self.plain.came_again(away);
        }
        self.adapt(entries.hits_so_far());
        self.born.insert(id, self.now());
        self.sketch.add(entries.hash(id), 1);
        self.sketch.keep_up(self.all());
    }

    fn replace(&mut self, id: EntryId, entries: &mut dyn Entries) {
        self.charges.insert(id, entries.charge(id));
    }

    fn remove(&mut self, id: EntryId, leaving: Leaving, entries: &mut dyn Entries) {
        self.named = self.named.filter(|named| *named != id);
        if leaving == Leaving::Evicted {
            let was_main = !self.queues[0].contains(&id);
            let born = self.born[&id];
            self.ghosts.note(entries.hash(id), born, was_main, self.now(), self.all());
        }
        for queue in &mut self.queues {
            queue.retain(|other| *other != id);
        }
    }

    fn victim(
        &mut self,
        newcomer: Option<&NewEntry<'_>>,
        entries: &mut dyn Entries,
    ) -> Option<Victim> {
        if self.named.is_none() {
            let coming = if self.by_bytes { newcomer.map_or(1, NewEntry::charge) } else { 1 };
            self.named = self.choose(coming, entries);
        }
        self.named.map(Victim::Entry)
    }
}
