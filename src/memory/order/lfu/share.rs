//! How large the window is: a share of all entries, moved towards where the next entry gives more hits.
//!
//! It weighs two strips of entries of the same width, the *edge*, against each other. One is real: the
//! last entries of the main part, which it would lose. The other is made of ghosts: what the window
//! would still hold if it were that much larger. Both are seen without being told of hits: an entry
//! at the end of the main part has been hit when it is looked at, a ghost comes in again.
//!
//! # How it works
//!
//! *Time* goes by one for each entry that comes in, or gets a second chance in the window, or is hit in
//! the real strip. So it says how far what came in at some time would have gone by now in a window that
//! gets these too. A key that comes back after no more time than the window and its strip are
//! long is a hit for the ghosts.
//!
//! Where hits of one strip outnumber those of the other by more than chance explains, twice the standard
//! deviation, the share moves, by the more the clearer it is. Ten looks are taken while as many entries
//! come in as there are, and what was counted fades over that time.
//!
//! A strip sees no further than it is wide. So the whole is weighed as well, less often: if keys come back
//! soon enough that a plain queue of all entries would have held them, more of them than there were hits
//! in all of the main part, that queue would have done better, and the window grows by the difference.
//!
//! The paper on adaptive sizes (Einziger, Eytan, Friedman, Manes, 2018) climbs by the hit ratio instead.
//! That was tried, and takes many more requests to be sure of a step, since the ratio also moves with
//! the workload; ARC's ghosts (Megiddo, Modha, 2003) look far ahead and fall for loops.
//!
//! # Invariants
//!
//! - **W1** the share is from `PARTS_MIN` to `PARTS_MAX`.

use super::ghosts::Ghosts;
use crate::strategy::Entries;

/// A share of 1.
pub(super) const PARTS: u64 = 1 << 16;
/// One in a hundred, and what leaves as much for the main part.
const PARTS_MIN: u64 = PARTS / 100;
const PARTS_MAX: u64 = PARTS - PARTS_MIN;
/// One in ten to begin with, as the short queue of S3-FIFO: enough to see what comes back soon.
const PARTS_FIRST: u64 = PARTS / 10;
/// A strip is one in so many of all entries, and the largest step as large. Strips of one in ten are as
/// good; a strip of one in thirty takes a loop just longer than the cache for what comes back soon.
const EDGE: u64 = 20;
/// And no fewer entries than this, lest a strip see nothing.
const EDGE_MIN: u64 = 4;
/// Looks while as many entries come in as there are.
const LOOKS: u64 = 10;
/// Looks at the whole come once in as many insertions as this times the entries.
const WHOLE_PER_ENTRY: u64 = 2;
/// What one hit counts, so that counts can fade by tenths.
const HIT: u64 = 1 << 8;

/// The window's share, and what it is decided by.
#[derive(Debug)]
pub(super) struct Share {
    /// In `PARTS` (W1).
    parts: u64,
    time: u32,
    ghosts: Ghosts,
    /// Hits of the strips, fading, in `HIT`s.
    ghost_hits: u64,
    edge_hits: u64,
    /// Insertions since the last look.
    insertions: u64,
    whole: Whole,
}

/// What is counted for a look at the whole.
#[derive(Debug, Default)]
struct Whole {
    insertions: u64,
    /// What a plain queue would have held.
    ghost_hits: u64,
    /// Hits found in the window.
    window_hits: u64,
    /// Hits of the cache up to the last look.
    hits_before: u64,
    /// The time of the last look.
    time_before: u32,
    /// Hits in the main part between the last two looks, and the time that went by.
    pace: (u64, u64),
}

impl Share {
    pub(super) fn new() -> Self {
        Self {
            parts: PARTS_FIRST,
            time: 0,
            ghosts: Ghosts::default(),
            ghost_hits: 0,
            edge_hits: 0,
            insertions: 0,
            whole: Whole::default(),
        }
    }

    /// The window's part of so much.
    pub(super) fn of(&self, all: u64) -> u64 {
        let part = u128::from(all) * u128::from(self.parts) / u128::from(PARTS);
        u64::try_from(part).unwrap_or(u64::MAX).max(1)
    }

    /// How many entries a strip has.
    pub(super) fn edge(entries: u64) -> u64 {
        entries.div_ceil(EDGE).max(EDGE_MIN)
    }

    /// The time, to be noted of an entry that comes into the window.
    pub(super) fn time(&self) -> u32 {
        self.time
    }

    /// An entry in the window was found with so many hits, and is as if it came in now.
    pub(super) fn window_hit(&mut self, hits: u32) {
        self.time = self.time.wrapping_add(1);
        self.whole.window_hits += u64::from(hits);
    }

    /// An entry of the main part's strip was found with hits.
    pub(super) fn edge_hit(&mut self) {
        self.time = self.time.wrapping_add(1);
        self.edge_hits += HIT;
    }

    /// An entry was turned away at the end of the window.
    pub(super) fn turned_away(&mut self, hash: u64, born: u32, entries: u64) {
        self.ghosts.note(hash, born, self.time, entries);
    }

    /// An entry has come in, with so many in the window and in all.
    pub(super) fn came_in(&mut self, hash: u64, window: u64, all: u64, entries: &dyn Entries) {
        self.time = self.time.wrapping_add(1);
        if let Some(born) = self.ghosts.take(hash) {
            let away = u64::from(self.time.wrapping_sub(born));
            if away <= all.min(window + Self::edge(all)) {
                self.ghost_hits += HIT;
            }
            // In a plain queue, hits of the main part would have put entries in front of it, too.
            let (main_hits, time) = self.whole.pace;
            if away.saturating_mul(main_hits + time) <= all.saturating_mul(time.max(1)) {
                self.whole.ghost_hits += 1;
            }
        }
        self.insertions += 1;
        if self.insertions * LOOKS >= all {
            self.insertions = 0;
            self.look();
        }
        self.whole.insertions += 1;
        if self.whole.insertions >= all * WHOLE_PER_ENTRY {
            self.look_at_whole(all, entries.hits_so_far());
        }
    }

    fn look(&mut self) {
        let sum = self.ghost_hits + self.edge_hits;
        let difference = self.ghost_hits.abs_diff(self.edge_hits);
        if is_clear(difference, sum, HIT) {
            let step = PARTS / EDGE * difference / sum;
            let parts = if self.ghost_hits > self.edge_hits {
                self.parts + step
            } else {
                self.parts.saturating_sub(step)
            };
            self.parts = parts.clamp(PARTS_MIN, PARTS_MAX);
            (self.ghost_hits, self.edge_hits) = (0, 0);
        } else {
            self.ghost_hits -= self.ghost_hits / LOOKS;
            self.edge_hits -= self.edge_hits / LOOKS;
        }
    }

    fn look_at_whole(&mut self, all: u64, hits_so_far: u64) {
        let hits = hits_so_far.saturating_sub(self.whole.hits_before);
        let main_hits = hits.saturating_sub(self.whole.window_hits);
        let ghost_hits = self.whole.ghost_hits;
        let more = ghost_hits.saturating_sub(main_hits);
        if is_clear(more, ghost_hits + main_hits, 1) {
            self.parts = (self.parts + PARTS * more / all.max(1)).min(PARTS_MAX);
        }
        let passed = u64::from(self.time.wrapping_sub(self.whole.time_before));
        self.whole = Whole {
            hits_before: hits_so_far,
            time_before: self.time,
            pace: (main_hits, passed),
            ..Whole::default()
        };
    }

    /// Checks every invariant.
    #[cfg(test)]
    pub(super) fn validate(&self) -> Result<(), String> {
        let is_within = (PARTS_MIN..=PARTS_MAX).contains(&self.parts);
        if is_within { Ok(()) } else { Err(format!("W1: a share of {} parts", self.parts)) }
    }
}

/// Whether a difference of counts is more than twice its standard deviation by chance.
fn is_clear(difference: u64, sum: u64, unit: u64) -> bool {
    difference.saturating_mul(difference) > sum.saturating_mul(4 * unit)
}
