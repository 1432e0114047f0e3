//! S3-FIFO: three queues, the first of them small, so that what is asked for once leaves soon.
//!
//! Yang, Zhang, Qiu, Yue, Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023; where that
//! leaves a choice, as in the authors' simulator libCacheSim.
//!
//! # How it works
//!
//! A newcomer goes to the *small* queue, which has a tenth of the room; one that the *ghost* remembers goes
//! to the *main* queue, which has the rest. When one is to leave and main is over its budget, or small is
//! empty, main's oldest is looked at: with a frequency it goes back to main's newest end, with
//! one less, and without it leaves. Else small's oldest is looked at: hit twice it goes to main, where its
//! frequency begins at none, else it leaves and the ghost remembers it. The ghost
//! has room for nine tenths of what the cache holds.
//!
//! A frequency is at most 3. It grows by the hits that are asked for when its entry is looked at.
//!
//! While the cache fills up, what small has no room for goes to main, as in the simulator, so that main is
//! not empty when the first has to leave.
//!
//! A limit in entries and one in bytes each give a budget, and main is over its own when it is over
//! either. The ghost counts in both as well; without a limit in entries, it has at most nine tenths of
//! the most entries that were in at a time. With very low limits a tenth is nothing; small is then the
//! newcomer alone.
//!
//! # Invariants
//!
//! - **S1** every entry is in one of the two queues, the one that its state names.
//! - **S2** `charges` has the sum of what each queue's entries counted when they came in or were replaced.
//! - **S3** who was named as a victim and not hit since is named again until something comes in or leaves.

use crate::memory::order::ghost::{Bounds, Ghost};
use crate::memory::order::list::Queues;
use crate::memory::order::{Near, Order};
use crate::strategy::{EntryId, Leaving, NewEntry, Victim};

const SMALL: usize = 0;
const MAIN: usize = 1;

/// So many hits in the small queue lead to main.
const HITS_TO_MAIN: u8 = 2;
/// As two bits can tell.
const FREQUENCY_MAX: u8 = 3;

/// The two queues, and who left.
#[derive(Debug, Default)]
pub(in crate::memory) struct S3Fifo {
    queues: Queues<2, State>,
    ghost: Ghost,
    /// By queue. Without a limit in bytes, sums of weights may be larger than any limit.
    charges: [u128; 2],
    max_entries: Option<u64>,
    max_bytes: Option<u64>,
    /// Whether one had to leave since the cache was empty or its limits were set.
    was_full: bool,
    /// The newcomer that room was last made for, by its hash, and whether the ghost remembered it.
    newcomer: Option<(u64, bool)>,
    named: Option<EntryId>,
}

/// What an entry counts, where it is, and its frequency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    counted: u64,
    is_main: bool,
    frequency: u8,
}

impl State {
    fn queue(self) -> usize {
        if self.is_main { MAIN } else { SMALL }
    }
}

/// The small queue's share of a limit.
fn tenth(limit: u64) -> u64 {
    limit / 10
}

fn nine_tenths(limit: u64) -> u64 {
    limit / 10 * 9 + limit % 10 * 9 / 10
}

impl S3Fifo {
    fn len(&self, queue: usize) -> u64 {
        self.queues.len(queue) as u64
    }

    fn small_is_full(&self) -> bool {
        self.max_entries.is_some_and(|max| self.len(SMALL) >= tenth(max))
            || self.max_bytes.is_some_and(|max| self.charges[SMALL] >= u128::from(tenth(max)))
    }

    fn main_is_over(&self) -> bool {
        self.max_entries.is_some_and(|max| self.len(MAIN) > max - tenth(max))
            || self.max_bytes.is_some_and(|max| self.charges[MAIN] > u128::from(max - tenth(max)))
    }

    fn ghost_bounds(&self) -> Bounds {
        let most = self.queues.numbers() as u64;
        let entries = self.max_entries.map_or(most, |max| max.min(most));
        Bounds {
            entries: usize::try_from(nine_tenths(entries)).unwrap_or(usize::MAX),
            bytes: self.max_bytes.map(nine_tenths),
        }
    }

    fn state(&self, id: EntryId) -> State {
        self.queues.note(id).copied().unwrap_or_default()
    }

    fn push(&mut self, id: EntryId, state: State) {
        self.charges[state.queue()] += u128::from(state.counted);
        self.queues.push(state.queue(), id);
        if let Some(note) = self.queues.note_mut(id) {
            *note = state;
        }
    }

    fn unlink(&mut self, id: EntryId) -> State {
        let state = self.state(id);
        self.charges[state.queue()] -= u128::from(state.counted);
        self.queues.unlink(state.queue(), id);
        state
    }

    /// Takes a newcomer out of the ghost, and keeps whether it was there.
    fn look_for(&mut self, hash: u64) {
        if self.newcomer.is_none_or(|(other, _)| other != hash) {
            self.newcomer = Some((hash, self.ghost.take(hash)));
        }
    }

    /// Looks at the oldest of one queue: gives it as the victim, or moves it.
    fn look<E: Near + ?Sized>(&mut self, queue: usize, entries: &mut E) -> Option<EntryId> {
        let id = self.queues.oldest(queue)?;
        let hits = u8::try_from(entries.take_hits(id)).unwrap_or(u8::MAX);
        let state = self.queues.note_mut(id)?;
        state.frequency = state.frequency.saturating_add(hits).min(FREQUENCY_MAX);
        let frequency = match queue {
            MAIN => state.frequency.checked_sub(1),
            _ => (state.frequency >= HITS_TO_MAIN).then_some(0),
        };
        let Some(frequency) = frequency else { return Some(id) };
        let State { counted, .. } = self.unlink(id);
        self.push(id, State { counted, is_main: true, frequency });
        None
    }

    /// Goes through the one queue or the other until there is a victim.
    fn choose<E: Near + ?Sized>(&mut self, entries: &mut E) -> Option<EntryId> {
        let mut queue = if self.main_is_over() { MAIN } else { SMALL };
        // One entry goes to main once and stays there three times; more only if it is hit meanwhile.
        let all = self.queues.len(SMALL) + self.queues.len(MAIN);
        for _ in 0..=5 * all {
            // Small is gone through until one leaves, even if that brings main over its budget.
            if self.queues.len(SMALL) == 0 {
                queue = MAIN;
            }
            if let Some(id) = self.look(queue, entries) {
                return Some(id);
            }
        }
        self.queues.oldest(MAIN)
    }
}

impl Order for S3Fifo {
    fn set_limits(&mut self, max_entries: Option<u64>, max_bytes: Option<u64>) {
        (self.max_entries, self.max_bytes) = (max_entries, max_bytes);
        self.was_full = false;
        self.named = None;
    }

    fn insert<E: Near + ?Sized>(&mut self, id: EntryId, entries: &mut E) {
        self.named = None;
        let hash = entries.hash(id);
        self.look_for(hash);
        let returns = self.newcomer.take().is_some_and(|(_, returns)| returns);
        let is_main = returns || !self.was_full && self.small_is_full();
        self.push(id, State { counted: entries.charge(id), is_main, frequency: 0 });
        for queue in [SMALL, MAIN] {
            if let Some(oldest) = self.queues.oldest(queue) {
                self.queues.foresee(oldest, entries);
            }
        }
    }

    fn replace<E: Near + ?Sized>(&mut self, id: EntryId, entries: &mut E) {
        (self.named, self.newcomer) = (None, None);
        let Some(state) = self.queues.note_mut(id) else { return };
        let charge = &mut self.charges[state.queue()];
        *charge -= u128::from(state.counted);
        state.counted = entries.charge(id);
        *charge += u128::from(state.counted);
    }

    fn remove<E: Near + ?Sized>(&mut self, id: EntryId, leaving: Leaving, entries: &mut E) {
        self.named = None;
        let State { counted, is_main, .. } = self.unlink(id);
        if leaving == Leaving::Evicted {
            self.was_full = true;
            // What makes room for its own new value is not gone.
            let is_own = self.newcomer.is_some_and(|(hash, _)| hash == entries.hash(id));
            if !is_own && !is_main {
                self.ghost.remember(entries.hash(id), counted, self.ghost_bounds());
            }
        }
        if self.queues.len(SMALL) + self.queues.len(MAIN) == 0 && leaving == Leaving::Removed {
            self.was_full = false;
        }
    }

    fn victim<E: Near + ?Sized>(
        &mut self,
        newcomer: Option<&NewEntry<'_>>,
        entries: &mut E,
    ) -> Option<Victim> {
        match newcomer {
            // Before who leaves for it takes the oldest's place in the ghost.
            Some(newcomer) => self.look_for(newcomer.hash()),
            None => self.newcomer = None,
        }
        let named = self.named.filter(|named| entries.hits(*named) == 0);
        self.named = named.or_else(|| self.choose(entries));
        self.named.map(Victim::Entry)
    }
}

#[cfg(test)]
mod tests;
