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
//! A strip sees no further than it is wide, and the smaller the main part, the more often each of its
//! entries comes to the edge: there the strips say that it should grow where it should not. So the whole is
//! weighed as well, less often, against exact LRU of the same size ([`Plain`]). Where that would have found
//! more, by three times the standard deviation, the window grows by the difference, one strip at most; and
//! unless it would have found less, by as much, since the last look but one, the window does not shrink.
//! Should fewer requests be hits after that than before, by twice the standard deviation, the window is set
//! back to what it was, and for some looks the whole does not count: for twice as many each time that this
//! happens again.
//!
//! The paper on adaptive sizes (Einziger, Eytan, Friedman, Manes, 2018) climbs by the hit ratio instead.
//! That was tried, and takes many more requests to be sure of a step, since the ratio also moves with
//! the workload; ARC's ghosts (Megiddo, Modha, 2003) look far ahead and fall for loops.
//!
//! # Invariants
//!
//! - **W1** the share is from `PARTS_MIN` to `PARTS_MAX`.

use super::ghosts::Ghosts;
use super::plain::{Plain, is_after};
use crate::strategy::{Entries, EntryId};

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
/// The longest pause after trials that fail, in looks at the whole.
const PAUSE_MAX: u32 = 64;
/// What one hit counts, so that counts can fade by tenths.
pub(super) const HIT: u64 = 1 << 8;

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

/// What is kept for the looks at the whole.
#[derive(Debug, Default)]
struct Whole {
    plain: Plain,
    /// Since the last look.
    insertions: u64,
    /// The most entries that there were.
    most: u64,
    /// Hits of the cache up to the last look.
    hits_before: u64,
    /// What the window has grown on trial from: the share, hits and requests.
    trial: Option<(u64, u64, u64)>,
    /// Looks that are left until the whole is asked again, and how many it will be after the next trial that
    /// fails.
    pause: u32,
    next_pause: u32,
    /// Whether exact LRU would have found clearly less before the last look.
    was_worse: bool,
    /// Whether the window may not shrink.
    holds: bool,
}

impl Whole {
    /// Forgets what was counted since the last look, with so many entries left.
    fn begin_anew(&mut self, all: u64, time: u32, hits_so_far: u64) {
        self.plain.begin_anew(time);
        (self.most, self.insertions, self.hits_before, self.trial) = (all, 1, hits_so_far, None);
    }
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

    /// An entry in the window was found with hits, and is as if it came in now.
    pub(super) fn window_hit(&mut self) {
        self.time = self.time.wrapping_add(1);
        self.whole.plain.second_chance();
    }

    /// An entry of the main part with this stamp was found with so many hits; it was accessed `before`. Gives
    /// the time when it was last.
    pub(super) fn main_hit(&mut self, hits: u32, before: u32, stamp: u64) -> u32 {
        let last = self.whole.plain.tick(stamp, self.time);
        // It was hit since: a stamp that says otherwise was made up, or went back.
        let last = if is_after(last, before) { last } else { self.time };
        self.whole.plain.main_hit(hits, before, last);
        last
    }

    /// That was in the main part's strip.
    pub(super) fn edge_hit(&mut self) {
        self.time = self.time.wrapping_add(1);
        self.edge_hits += HIT;
    }

    /// An entry was evicted, which came into the window, or was last accessed in the main part, at `born`.
    pub(super) fn evicted(&mut self, hash: u64, born: u32, was_main: bool, entries: u64) {
        self.ghosts.note(hash, born, was_main, self.time, entries);
    }

    /// An entry, with the hash of its key, has come in, with so many in the window and in all.
    pub(super) fn came_in<E: Entries + ?Sized>(
        &mut self,
        id: EntryId,
        hash: u64,
        window: u64,
        all: u64,
        entries: &E,
    ) {
        self.time = self.time.wrapping_add(1);
        self.whole.plain.came_in(entries.stamp(id).as_nanos());
        if let Some((born, was_main)) = self.ghosts.take(hash) {
            let away = u64::from(self.time.wrapping_sub(born));
            if !was_main && away <= all.min(window + Self::edge(all)) {
                self.ghost_hits += HIT;
            }
            self.whole.plain.came_again(away);
        }
        self.insertions += 1;
        if self.insertions * LOOKS >= all {
            self.insertions = 0;
            self.look();
        }
        self.whole.insertions += 1;
        self.whole.most = self.whole.most.max(all);
        if all * 2 < self.whole.most {
            // Most entries have left at once: a look now would be at next to nothing.
            self.whole.begin_anew(all, self.time, entries.hits_so_far());
        }
        if self.whole.insertions >= all * WHOLE_PER_ENTRY {
            self.look_at_whole(window, all, entries.hits_so_far());
        }
    }

    /// Where it is noted that a key was evicted.
    pub(super) fn ghosts(&self, hash: u64) -> Option<&impl Sized> {
        self.ghosts.of(hash)
    }

    fn look(&mut self) {
        let sum = self.ghost_hits + self.edge_hits;
        let difference = self.ghost_hits.abs_diff(self.edge_hits);
        let shrinks = self.edge_hits > self.ghost_hits;
        if is_clear(difference, sum, 2) && !(shrinks && self.whole.holds) {
            let step = PARTS / EDGE * difference / sum;
            let parts = if shrinks { self.parts.saturating_sub(step) } else { self.parts + step };
            self.parts = parts.clamp(PARTS_MIN, PARTS_MAX);
            (self.ghost_hits, self.edge_hits) = (0, 0);
        } else {
            self.ghost_hits -= self.ghost_hits / LOOKS;
            self.edge_hits -= self.edge_hits / LOOKS;
        }
    }

    fn look_at_whole(&mut self, window: u64, all: u64, hits_so_far: u64) {
        let whole = &mut self.whole;
        let hits = hits_so_far.saturating_sub(whole.hits_before);
        let requests = hits + whole.insertions;
        if let Some((parts, hits_before, requests_before)) = whole.trial.take() {
            if are_clearly_fewer((hits, requests), (hits_before, requests_before)) {
                self.parts = self.parts.min(parts);
                whole.pause = whole.next_pause;
                whole.next_pause = (2 * whole.next_pause).clamp(1, PAUSE_MAX);
            } else {
                whole.next_pause = 0;
            }
        }
        let (gains, losses) = whole.plain.counts();
        let sum = gains + losses;
        let is_worse = losses > gains && is_clear(losses - gains, sum, 3);
        whole.holds = !is_worse && !whole.was_worse && whole.pause == 0;
        whole.was_worse = is_worse;
        let grows = gains > losses && whole.pause == 0 && is_clear(gains - losses, sum, 3);
        if grows {
            whole.trial = Some((self.parts, hits, requests));
            let step = (PARTS * (gains - losses) / (HIT * all.max(1))).min(PARTS / EDGE);
            self.parts = (self.parts + step).min(PARTS_MAX);
        }
        whole.plain.count_anew(!grows, window, all, self.time);
        whole.pause = whole.pause.saturating_sub(1);
        (whole.insertions, whole.hits_before) = (0, hits_so_far);
    }

    /// Checks every invariant.
    #[cfg(test)]
    pub(super) fn validate(&self) -> Result<(), String> {
        let is_within = (PARTS_MIN..=PARTS_MAX).contains(&self.parts);
        if is_within { Ok(()) } else { Err(format!("W1: a share of {} parts", self.parts)) }
    }
}

/// Whether a difference of counts in `HIT`s is more than so many times its standard deviation by chance.
fn is_clear(difference: u64, sum: u64, deviations: u64) -> bool {
    difference.saturating_mul(difference) > sum.saturating_mul(deviations * deviations * HIT)
}

/// Whether of some requests a smaller part were hits than of others, by more than twice the standard
/// deviation of that. Both are `(hits, requests)`.
fn are_clearly_fewer((hits, requests): (u64, u64), (others, other_requests): (u64, u64)) -> bool {
    let [hits, requests, others, of] = [hits, requests, others, other_requests].map(u128::from);
    let (all, both) = (hits + others, requests + of);
    let more = (others * requests).saturating_sub(hits * of);
    // Of all requests the same part would have been hits, and both counts spread about it.
    let spread = all * (both - all.min(both)) / both.max(1);
    (more / requests.max(1)).saturating_mul(more) / of.max(1) > spread.saturating_mul(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One look at the whole, after 200 insertions and so many hits, where exact LRU would have found
    /// `gains` more; the share in percent, and the looks that are left of a pause.
    fn look(share: &mut Share, hits: u64, gains: u32) -> (u64, u32) {
        (0..gains).for_each(|_| share.whole.plain.came_again(0));
        share.whole.insertions = 200;
        share.look_at_whole(10, 100, share.whole.hits_before + hits);
        share.whole.plain = Plain::default();
        ((share.parts * 100).div_ceil(PARTS), share.whole.pause)
    }

    #[test]
    fn a_trial_that_fails_is_taken_back_and_pauses_double() {
        let mut share = Share::new();
        assert_eq!(look(&mut share, 800, 5), (10, 0), "not clear");
        assert_eq!(look(&mut share, 800, 100), (15, 0));
        assert_eq!(look(&mut share, 780, 100), (20, 0), "no clearly fewer");
        let looks_until_the_next_trial: Vec<usize> = (0..9)
            .map(|_| {
                assert_eq!(look(&mut share, 400, 0).0, 15);
                (1..100).find(|_| look(&mut share, 800, 100).0 == 20).unwrap_or(100)
            })
            .collect();
        assert_eq!(looks_until_the_next_trial, [1, 1, 2, 4, 8, 16, 32, 64, 64]);
        // One that does not fail ends that.
        assert_eq!(look(&mut share, 800, 100).0, 25);
        assert_eq!(look(&mut share, 400, 0), (20, 0));
    }

    #[test]
    fn fewer_hits_are_told_from_chance() {
        // 80 % of 1000: the standard deviation of a difference is 1.8 %.
        assert!(!are_clearly_fewer((770, 1000), (800, 1000)));
        assert!(are_clearly_fewer((750, 1000), (800, 1000)));
        assert!(!are_clearly_fewer((850, 1000), (800, 1000)));
        assert!(!are_clearly_fewer((0, 0), (800, 1000)) && !are_clearly_fewer((1, 2), (0, 0)));
        assert!(are_clearly_fewer((1 << 40, 1 << 41), (1 << 40, (1 << 41) - (1 << 30))));
    }
}
