//! W-TinyLFU: what is seldom asked for does not push out what is often asked for.
//!
//! After Einziger, Friedman and Manes (2017): new entries go through a *window*, and at its end one has to
//! be asked for more often than the entry that would leave for it. How large the window is adapts to
//! the workload, see [`Share`]. Unlike theirs, all queues here are looked through only when room is
//! needed, as hits tell nothing until then.
//!
//! # How it works
//!
//! ```text
//! comes in -> [ window ] -> more often asked for? -> [ body ] -> not hit -> [ edge ] -> leaves
//!                 |  ^             |                  |    ^                |    ^
//!                 +--+             no: leaves         +----+---- hit -------+----+ kept
//!                 hit                                  hit
//! ```
//!
//! 1. At the end of the window an entry that was hit goes to its front again. The first one that was not
//!    is the candidate.
//! 2. The *main part* is the body and the edge. At the end of the body an entry that was hit goes to
//!    the front again, any other into the edge, until that has its length. At the end of the edge an
//!    entry that was hit goes back to the front of the body; one that was not is the resident.
//! 3. The one of the two that was asked for more often stays, by the [`Sketch`] of counts, and so the
//!    candidate goes to the front of the body, or the resident to that of the edge. The resident stays
//!    at a draw.
//! 4. A count of two is as good as chance when many keys are asked for once or twice: of all those
//!    candidates, the lucky ones would wear the main part down. So the candidate also needs two more than
//!    the resident, and than one. That holds once the sketch has seen enough.
//! 5. One in 128 candidates that have such a count and lose all the same are admitted at random, lest
//!    someone keep residents in by asking for keys that count for theirs, too.
//!
//! While the window is smaller than its share, the resident leaves without a contest; while it is
//! larger, candidates go over without one. Shares are taken of the bytes if there is a limit in
//! bytes, else of the number of entries.
//!
//! # Invariants
//!
//! - **F1** every entry is in one of the queues, as [`Segments`] keeps them.
//! - **F2** `named` is in a queue, and stays the answer until it leaves or the limits change.
//!
//! # Why not ...
//!
//! - a protected part, as in the papers: being spared for hits and the sketch together do its work.
//! - candidates from the window by count alone, with no second chance: worse where recency is all.
//! - one resident that waits at the end until it loses: it may be stale, and the edge finds fewer hits.

mod ghosts;
mod plain;
mod share;
#[cfg(test)]
mod tests;

use self::share::Share;
use super::segments::Segments;
use super::sketch::Sketch;
use super::{Near, Order};
use crate::record::fetch_line_ahead;
use crate::strategy::{EntryId, Leaving, NewEntry, Victim};

const WINDOW: u8 = 0;
const BODY: u8 = 1;
const EDGE: u8 = 2;

/// What is counted by chance.
const CHANCE: u32 = 1;
/// One in so many candidates is admitted at random.
const RANDOM_ONE_IN: u64 = 128;

/// The order of W-TinyLFU.
#[derive(Debug)]
pub(in crate::memory) struct Lfu {
    /// The window, the body and the edge (F1). The mark is the time when an entry came into the window, or when
    /// it was found to be accessed last in the main part.
    segments: Segments<3>,
    sketch: Sketch,
    share: Share,
    /// What was answered last (F2).
    named: Option<EntryId>,
    /// Whether shares are taken of bytes.
    by_bytes: bool,
    random: u64,
}

impl Lfu {
    /// An order of no entries; `seed` is for the admission at random.
    pub(in crate::memory) fn new(seed: u64) -> Self {
        Self {
            segments: Segments::new(),
            sketch: Sketch::new(None),
            share: Share::new(),
            named: None,
            by_bytes: false,
            random: seed | 1,
        }
    }

    fn entries(&self) -> u64 {
        [WINDOW, BODY, EDGE].into_iter().map(|queue| self.segments.len(queue)).sum()
    }

    /// How much a queue holds, in entries or bytes.
    fn held(&self, queue: u8) -> u64 {
        if self.by_bytes { self.segments.charge(queue) } else { self.segments.len(queue) }
    }

    /// Decides who leaves; does at once what follows for all others.
    fn choose<E: Near + ?Sized>(
        &mut self,
        newcomer: Option<&NewEntry<'_>>,
        entries: &mut E,
    ) -> Option<EntryId> {
        let new = newcomer.filter(|_| self.by_bytes).map_or(1, NewEntry::charge);
        // All who come go into the window. Without those of other threads it would seem to be too small, and
        // then too large, and so nobody would have to win a contest.
        let (entries_coming, charges_coming) = entries.coming();
        let others = if self.by_bytes { charges_coming } else { entries_coming };
        loop {
            let held = self.held(WINDOW) + others;
            let share = self.share.of(held + self.held(BODY) + self.held(EDGE));
            if held.saturating_add(new) <= share
                && let Some(resident) = self.resident(entries)
            {
                return Some(resident);
            }
            let Some(candidate) = self.candidate(entries) else { return self.resident(entries) };
            let own = if self.by_bytes { self.segments.charge_of(candidate) } else { 1 };
            if held - own >= share {
                self.segments.send(BODY, candidate);
                continue;
            }
            let Some(resident) = self.resident(entries) else { return Some(candidate) };
            let [count, least] =
                [candidate, resident].map(|id| self.sketch.estimate(entries.hash(id)));
            if self.admits(count, least) {
                self.segments.send(BODY, candidate);
                return Some(resident);
            }
            self.segments.send(EDGE, resident);
            return Some(candidate);
        }
    }

    /// The last of the window that was not hit.
    fn candidate<E: Near + ?Sized>(&mut self, entries: &mut E) -> Option<EntryId> {
        let mut chances = self.segments.len(WINDOW);
        loop {
            let id = self.segments.back(WINDOW)?;
            let hits = self.count(id, entries);
            if hits == 0 || chances == 0 {
                return Some(id);
            }
            chances -= 1;
            self.share.window_hit();
            self.segments.send(WINDOW, id);
            self.segments.set_mark(id, self.share.time());
        }
    }

    /// The last of the main part that was not hit.
    fn resident<E: Near + ?Sized>(&mut self, entries: &mut E) -> Option<EntryId> {
        // Hits go on meanwhile, and must not keep this going for ever.
        let mut chances = 2 * (self.segments.len(BODY) + self.segments.len(EDGE));
        loop {
            while self.segments.len(EDGE) < Share::edge(self.entries())
                && let Some(id) = self.segments.back(BODY)
            {
                let hits = if chances > 0 { self.count(id, entries) } else { 0 };
                chances = chances.saturating_sub(1);
                if hits > 0 {
                    self.note_main_hit(id, hits, entries);
                }
                self.segments.send(if hits > 0 { BODY } else { EDGE }, id);
            }
            let id = self.segments.back(EDGE)?;
            let hits = self.count(id, entries);
            if hits == 0 || chances == 0 {
                return Some(id);
            }
            chances -= 1;
            self.note_main_hit(id, hits, entries);
            self.share.edge_hit();
            self.segments.send(BODY, id);
        }
    }

    /// Notes the hits of an entry in the main part, and when the last one was.
    fn note_main_hit<E: Near + ?Sized>(&mut self, id: EntryId, hits: u32, entries: &E) {
        let stamp = entries.stamp(id).as_nanos();
        let last = self.share.main_hit(hits, self.segments.mark_of(id), stamp);
        self.segments.set_mark(id, last);
    }

    /// Takes an entry's hits over into the sketch; gives them.
    fn count<E: Near + ?Sized>(&mut self, id: EntryId, entries: &mut E) -> u32 {
        let hits = entries.take_hits(id);
        if hits > 0 {
            self.sketch.add(entries.hash(id), hits);
        }
        hits
    }

    /// Tells what is looked at when the next one comes in; the body is seldom.
    fn foresee<E: Near + ?Sized>(&self, entries: &mut E) {
        let queues: &[u8] =
            if entries.has_time() { &[WINDOW, BODY, EDGE] } else { &[WINDOW, EDGE] };
        for &queue in queues {
            let Some(back) = self.segments.foresee_back(queue, entries) else { continue };
            let hash = entries.hash(back);
            if queue != BODY
                && let Some(counters) = self.sketch.counters(hash)
            {
                entries.foresee_own(counters);
            }
            // Most of those who leave are of the window.
            if queue == WINDOW
                && let Some(ghosts) = self.share.ghosts(hash)
            {
                entries.foresee_own(ghosts);
            }
        }
    }

    /// Whether a candidate that was asked for so often wins against a resident that was so often.
    fn admits(&mut self, candidate: u32, resident: u32) -> bool {
        let bar = if self.sketch.is_settled(self.entries()) {
            resident.max(CHANCE) + 1
        } else {
            resident
        };
        candidate > bar || candidate > CHANCE + 1 && self.is_lucky()
    }

    /// True once in a while (xorshift64*; Marsaglia, 2003, Vigna, 2016).
    fn is_lucky(&mut self) -> bool {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32).is_multiple_of(RANDOM_ONE_IN)
    }
}

impl Order for Lfu {
    fn set_limits(&mut self, max_entries: Option<u64>, max_bytes: Option<u64>) {
        self.by_bytes = max_bytes.is_some();
        self.named = None;
        let room = u64::try_from(self.sketch.len_words()).unwrap_or(u64::MAX);
        let fresh = Sketch::new(max_entries);
        let is_smaller = fresh.len_words() < self.sketch.len_words();
        if self.entries() == 0 || max_entries.is_some_and(|most| most < room) && is_smaller {
            self.sketch = fresh;
        }
        // With a limit in bytes there may be far fewer.
        self.sketch.expect(max_entries.filter(|_| max_bytes.is_none()));
    }

    fn insert<E: Near + ?Sized>(&mut self, id: EntryId, entries: &mut E) {
        let hash = entries.hash(id);
        self.segments.insert(WINDOW, id, entries.charge(id));
        let all = self.entries();
        self.share.came_in(id, hash, self.segments.len(WINDOW), all, entries);
        self.segments.set_mark(id, self.share.time());
        self.sketch.add(hash, 1);
        self.sketch.keep_up(all);
        self.foresee(entries);
    }

    fn replace<E: Near + ?Sized>(&mut self, id: EntryId, entries: &mut E) {
        self.segments.recharge(id, entries.charge(id));
    }

    fn remove<E: Near + ?Sized>(&mut self, id: EntryId, leaving: Leaving, entries: &mut E) {
        if self.named == Some(id) {
            self.named = None;
        }
        if leaving == Leaving::Evicted {
            let (all, was_main) = (self.entries(), self.segments.queue_of(id) != Some(WINDOW));
            self.share.evicted(entries.hash(id), self.segments.mark_of(id), was_main, all);
        }
        self.segments.remove(id);
    }

    fn victim<E: Near + ?Sized>(
        &mut self,
        newcomer: Option<&NewEntry<'_>>,
        entries: &mut E,
    ) -> Option<Victim> {
        if self.named.is_none() {
            if let Some(newcomer) = newcomer {
                if let Some(counters) = self.sketch.counters(newcomer.hash()) {
                    fetch_line_ahead(counters);
                }
                if let Some(ghosts) = self.share.ghosts(newcomer.hash()) {
                    fetch_line_ahead(ghosts);
                }
            }
            self.named = self.choose(newcomer, entries);
        }
        self.named.map(Victim::Entry)
    }
}
