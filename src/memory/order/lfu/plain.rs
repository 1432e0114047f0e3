//! What exact LRU of as many entries would have found, from what is known without being told of hits.
//!
//! It is weighed against what was found: its *gains* are keys that come in again, though a plain queue
//! would still have held them; its *losses* are hits of entries that it would have forgotten. All others
//! either finds, or neither.
//!
//! # How it works
//!
//! The *reach* is how long a plain queue remembers: the ticks of the owner's time in which as many keys
//! are accessed as there are entries. In as many ticks as the window is long, each is for a key of its own.
//! From then on second chances are for keys that counted before. Of the main part count those that were
//! accessed within the reach, on an average.
//!
//! An entry of the main part is looked at, and had `h` hits, of which seven are counted at most: so many
//! gaps, which add up to the time `t` between the last access known before and the last one now. With
//! nothing else known of them, they are as if cut at random (uniform spacings; Pyke, 1965):
//! `h (1 - r/t)^(h - 1)` of them are longer than a reach of `r`, and for `(1 - r/t)^h` of the time the entry
//! was not within it.
//!
//! When an entry was last accessed its stamp says; how much of the owner's time that is, goes by how much
//! has passed between the last two looks. One that is before what is known of the entry does not count, and
//! others that users make up cost hits, no more.

use std::hint::select_unpredictable;

use super::share::{HIT, PARTS};

/// Ticks for a nanosecond are counted in so many bits after the point.
const RATE_BITS: u32 = 32;
/// The longest time between two accesses that is told from one that went back.
const TICKS_MAX: u32 = u32::MAX >> 1;

/// Whether a time is after another one; the clock may have begun anew in between.
pub(super) fn is_after(time: u32, other: u32) -> bool {
    (1..=TICKS_MAX).contains(&time.wrapping_sub(other))
}

/// Counts of the plain queue.
#[derive(Debug, Default)]
pub(super) struct Plain {
    /// In ticks; 0 until it is known, so that first all hits of the main part are losses.
    reach: u64,
    /// In `HIT`s.
    gains: u64,
    losses: u64,
    /// The sum over the entries of the main part of the ticks that they were within reach.
    within: u64,
    second_chances: u64,
    /// The newest stamp, and what it was at the last look.
    newest: u64,
    newest_before: u64,
    time_before: u32,
    /// Ticks for a nanosecond.
    rate: u64,
}

impl Plain {
    /// An entry came in with this stamp.
    pub(super) fn came_in(&mut self, stamp: u64) {
        self.newest = self.newest.max(stamp);
    }

    /// An entry got a second chance in the window.
    pub(super) fn second_chance(&mut self) {
        self.second_chances += 1;
    }

    /// What was evicted has come in again, so many ticks after it was last accessed.
    pub(super) fn came_again(&mut self, away: u64) {
        if away <= self.reach {
            self.gains += HIT;
        }
    }

    /// When an entry with this stamp was accessed, if it is `now`.
    pub(super) fn tick(&self, stamp: u64, now: u32) -> u32 {
        let ago = u128::from(self.newest.saturating_sub(stamp)) * u128::from(self.rate);
        now.wrapping_sub(
            u32::try_from(ago >> RATE_BITS).map_or(TICKS_MAX, |ago| ago.min(TICKS_MAX)),
        )
    }

    /// An entry of the main part had so many hits, and was accessed last at these two times, of which the
    /// second is the later one.
    pub(super) fn main_hit(&mut self, hits: u32, before: u32, last: u32) {
        let passed = u64::from(last.wrapping_sub(before).max(1));
        if passed <= self.reach {
            self.within = self.within.saturating_add(passed);
            return;
        }
        let beyond = (passed - self.reach) * PARTS / passed;
        let longer = power(beyond, hits.saturating_sub(1));
        self.losses += u64::from(hits) * HIT * longer / PARTS;
        let within = passed - passed * (longer * beyond / PARTS) / PARTS;
        self.within = self.within.saturating_add(within);
    }

    /// Gains and losses, in `HIT`s.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.gains, self.losses)
    }

    /// Forgets what was counted since the last look, but for gains and losses; the reach stays.
    pub(super) fn begin_anew(&mut self, time: u32) {
        (self.time_before, self.newest_before) = (time, self.newest);
        (self.within, self.second_chances) = (0, 0);
    }

    /// Begins to count anew: from nothing, or with half of what was counted.
    pub(super) fn count_anew(&mut self, half: bool, window: u64, all: u64, time: u32) {
        (self.gains, self.losses) = if half { (self.gains / 2, self.losses / 2) } else { (0, 0) };
        let ticks = u64::from(time.wrapping_sub(self.time_before)).max(1);
        let fresh = ticks.saturating_sub(self.second_chances).max(ticks / 10).max(1);
        let left = all.saturating_sub(window).saturating_sub(self.within / ticks);
        self.reach = window + left.saturating_mul(ticks) / fresh;
        let passed = self.newest.saturating_sub(self.newest_before).max(1);
        let rate = (u128::from(ticks) << RATE_BITS) / u128::from(passed);
        self.rate = u64::try_from(rate).unwrap_or(u64::MAX);
        self.begin_anew(time);
    }
}

/// A part to the power of at most seven, without branches, since how often entries are hit cannot be predicted.
fn power(part: u64, exponent: u32) -> u64 {
    let square = part * part / PARTS;
    let factors = [part, square, square * square / PARTS];
    (0..3).zip(factors).fold(PARTS, |product, (bit, factor)| {
        product * select_unpredictable(exponent >> bit & 1 == 1, factor, PARTS) / PARTS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that reaches 100 ticks of sixteen nanoseconds each, at the time 1000.
    fn with_a_reach_of_100() -> Plain {
        let mut plain = Plain::default();
        plain.came_in(16_000);
        plain.count_anew(false, 100, 100, 1_000);
        assert_eq!(plain.reach, 100);
        plain
    }

    #[test]
    fn a_power_is_the_product_of_as_many_parts() {
        for part in (0..=PARTS).step_by(997).chain([PARTS]) {
            for exponent in 0..=7 {
                let product = (0..exponent).fold(PARTS, |product, _| product * part / PARTS);
                let rounded = power(part, exponent).abs_diff(product);
                assert!(rounded <= 8, "{part}^{exponent}: off by {rounded} of {PARTS}");
            }
        }
    }

    #[test]
    fn the_reach_is_as_many_keys_as_there_are_entries() {
        let mut plain = Plain::default();
        // In 1000 ticks, 600 of which are second chances in a window of 50, ...
        (0..600).for_each(|_| plain.second_chance());
        // ... ten entries of the main part are accessed every 20 ticks, ...
        plain.reach = 20;
        (0..500).for_each(|nth| plain.main_hit(1, nth / 10 * 20, nth / 10 * 20 + 20));
        plain.count_anew(false, 50, 100, 1_000);
        // ... so that of the 100 entries, 50 are of the first 50 ticks, and two in five of what follows.
        assert_eq!(plain.reach, 50 + (100 - 50 - 10) * 5 / 2);
    }

    #[test]
    fn what_comes_again_within_the_reach_is_a_gain() {
        let mut plain = with_a_reach_of_100();
        plain.came_again(100);
        plain.came_again(101);
        assert_eq!(plain.counts(), (HIT, 0));
    }

    #[test]
    fn hits_after_longer_than_the_reach_are_losses() {
        let losses = |hits, passed| {
            let mut plain = with_a_reach_of_100();
            plain.main_hit(hits, 0, passed);
            plain.counts().1
        };
        assert_eq!((losses(1, 100), losses(1, 101)), (0, HIT));
        // One in two of two gaps that add up to 200 ticks, as often as not.
        assert_eq!((losses(2, 100), losses(2, 200), losses(2, 400)), (0, HIT, HIT * 3 / 2));
        // Three quarters squared of three.
        assert_eq!(losses(3, 400), 3 * HIT * 9 / 16);
    }

    #[test]
    fn a_stamp_says_when_it_was() {
        let plain = with_a_reach_of_100();
        assert_eq!((plain.tick(16_000, 1_000), plain.tick(14_400, 1_000)), (1_000, 900));
        // The newest there is, and one from before all time.
        assert_eq!(plain.tick(u64::MAX, 1_000), 1_000);
        assert_eq!(plain.tick(0, 50), 50_u32.wrapping_sub(1_000));
    }

    #[test]
    fn nothing_overflows_whatever_the_stamps() {
        let mut plain = Plain::default();
        for (stamp, time) in [(u64::MAX, 0), (0, u32::MAX), (u64::MAX, 7), (1, 8)] {
            plain.came_in(stamp);
            let last = plain.tick(u64::MAX - stamp, time);
            plain.main_hit(7, last, time);
            (0..3).for_each(|_| plain.main_hit(1, time, time.wrapping_sub(1)));
            plain.came_again(u64::MAX);
            plain.count_anew(true, 10, 100, time);
        }
    }

    #[test]
    fn half_of_what_was_counted_may_be_kept() {
        let mut plain = with_a_reach_of_100();
        plain.came_again(1);
        plain.main_hit(1, 0, 500);
        plain.count_anew(true, 100, 100, 2_000);
        assert_eq!(plain.counts(), (HIT / 2, HIT / 2));
        plain.count_anew(false, 100, 100, 3_000);
        assert_eq!(plain.counts(), (0, 0));
    }
}
