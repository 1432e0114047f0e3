//! What could be hit at most: the optimum of Belady (1966), who evicts what is asked for again last.
//!
//! # How it works
//!
//! A first walk, backwards, turns the list of requests into a list of the position at which each key is
//! asked for next. The replay keeps the next positions of what it holds, sorted. A request is a hit
//! when its own position is among them, the victim is the last of them, and what is never asked for
//! again need not be held at all: it only makes room for itself once. No keys are needed for that.
//!
//! In entries this is the optimum, proven by Mattson, Gecsei, Slutz and Traiger (1970). In bytes it is
//! not: the farthest first may give up many small ones for a large one, and finding the best choice is
//! NP-hard (Chrobak, Woeginger, Makino, Xu, 2012). There it is called what it is, the farthest first.
//!
//! # Invariants
//!
//! - **B1** the charges of what is held add up to `used`, at most the capacity after each request.
//! - **B2** every position that is held is one that is still to come.

use std::collections::BTreeMap;

use super::report::{Capacity, Tally};
use super::trace::invalid;
use crate::error::Result;

/// The next position of what is never asked for again.
const NEVER: u32 = u32::MAX;

/// A ceiling to compare strategies with, which knows what will be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Ceiling {
    /// MIN: every newcomer comes in, and what is asked for again last makes room. This is what other
    /// simulators and papers call Belady's optimum. A strategy that may refuse newcomers can beat it,
    /// by little unless the cache is tiny.
    Belady,
    /// Likewise, and it may refuse the newcomer. In entries no strategy hits more often.
    Bypass,
}

impl Ceiling {
    /// Its name in a report. In bytes it is no optimum, and not called one.
    pub fn name(self, capacity: Capacity) -> &'static str {
        match (self, capacity) {
            (Self::Belady, Capacity::Entries(_)) => "Belady",
            (Self::Bypass, Capacity::Entries(_)) => "Belady-bypass",
            (Self::Belady, Capacity::Bytes(_)) => "Farthest",
            (Self::Bypass, Capacity::Bytes(_)) => "Farthest-bypass",
        }
    }
}

/// The requests of a trace as they come by: 12 bytes each.
#[derive(Debug, Default)]
pub(super) struct Past {
    keys: Vec<u32>,
    sizes: Vec<u64>,
}

impl Past {
    /// Adds the next request.
    pub(super) fn push(&mut self, key: u32, size_bytes: u64) -> Result<()> {
        if self.keys.len() >= NEVER as usize {
            return Err(invalid(format!(
                "the trace has more than {NEVER} requests; leave the ceilings out"
            )));
        }
        self.keys.push(key);
        self.sizes.push(size_bytes);
        Ok(())
    }

    /// Finds out when each key is asked for next.
    pub(super) fn future(self) -> Future {
        let Self { keys: mut next, sizes } = self;
        let mut seen_at = vec![NEVER; next.iter().max().map_or(0, |key| *key as usize + 1)];
        let positions = 0..u32::try_from(next.len()).unwrap_or(NEVER);
        for (position, key) in positions.rev().zip(next.iter_mut().rev()) {
            if let Some(seen_at) = seen_at.get_mut(*key as usize) {
                *key = std::mem::replace(seen_at, position);
            }
        }
        Future { next, sizes }
    }
}

/// The requests of a trace, each with the position at which its key is asked for next.
#[derive(Debug)]
pub(super) struct Future {
    next: Vec<u32>,
    sizes: Vec<u64>,
}

impl Future {
    /// Replays all requests.
    pub(super) fn replay(&self, ceiling: Ceiling, capacity: Capacity) -> Tally {
        let mut held = Held::default();
        let mut tally = Tally::default();
        for (position, (next, size)) in (0..NEVER).zip(self.next.iter().zip(&self.sizes)) {
            let (charge, max) = match capacity {
                Capacity::Entries(max) => (1, max),
                Capacity::Bytes(max) => (*size, max),
            };
            let found = held.take(position);
            tally.count(*size, found && charge <= max);
            if charge > max {
                continue;
            }
            match ceiling {
                Ceiling::Belady => {
                    held.shrink_to(max - charge);
                    held.insert(*next, charge);
                }
                Ceiling::Bypass => {
                    held.insert(*next, charge);
                    held.shrink_to(max);
                }
            }
            debug_assert!(held.used <= max, "B1");
            debug_assert!(held.charges.keys().next().is_none_or(|next| *next > position), "B2");
        }
        tally
    }
}

#[derive(Default)]
struct Held {
    /// By the position at which it is asked for next: what it counts.
    charges: BTreeMap<u32, u64>,
    used: u64,
}

impl Held {
    /// Whether what is asked for at this position is held; it no longer is.
    fn take(&mut self, position: u32) -> bool {
        let charge = self.charges.remove(&position);
        self.used -= charge.unwrap_or(0);
        charge.is_some()
    }

    fn insert(&mut self, next: u32, charge: u64) {
        if next != NEVER {
            self.charges.insert(next, charge);
            self.used += charge;
        }
    }

    /// Evicts what is asked for last until no more than `max` is held.
    fn shrink_to(&mut self, max: u64) {
        while self.used > max
            && let Some((_, charge)) = self.charges.pop_last()
        {
            self.used -= charge;
        }
    }
}
