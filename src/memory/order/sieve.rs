//! SIEVE: one queue in order of insertion, and a hand that spares what was hit.
//!
//! Zhang, Yang, Yue, Vigfusson, Rashmi, "SIEVE is simpler than LRU: an efficient turn-key eviction algorithm
//! for web caches", NSDI 2024.
//!
//! # How it works
//!
//! A newcomer goes to the newest end of the queue, and nothing in the queue ever moves. The hand points
//! at an entry. When one is to leave, and that one was hit since the hand last came by, this is forgotten
//! and the hand goes on to the next newer one, from the newest to the oldest; the first that was
//! not hit leaves, and the hand stays where it was. So what was hit stays where it is among the old ones,
//! while what came after the hand's last round is tried soon.
//!
//! # Invariants
//!
//! - **V1** every entry is in the queue, and the hand points at one of them or at none, which stands for
//!   the oldest.
//! - **V2** the hand goes round once at most for one victim, however many hits there are meanwhile.

use crate::memory::order::list::Queues;
use crate::memory::order::{Near, Order};
use crate::strategy::{EntryId, Leaving, NewEntry, Victim};

/// The only queue.
const QUEUE: usize = 0;

/// Entries as they came in, and the hand.
#[derive(Debug, Default)]
pub(in crate::memory) struct Sieve {
    queue: Queues<1>,
    hand: Option<EntryId>,
}

impl Order for Sieve {
    fn insert<E: Near + ?Sized>(&mut self, id: EntryId, entries: &mut E) {
        self.queue.push(QUEUE, id);
        if let Some(at) = self.hand.or_else(|| self.queue.oldest(QUEUE)) {
            self.queue.foresee(at, entries);
        }
    }

    fn remove<E: Near + ?Sized>(&mut self, id: EntryId, _: Leaving, _: &mut E) {
        if self.hand == Some(id) {
            self.hand = self.queue.newer(id);
        }
        self.queue.unlink(QUEUE, id);
    }

    fn victim<E: Near + ?Sized>(
        &mut self,
        _: Option<&NewEntry<'_>>,
        entries: &mut E,
    ) -> Option<Victim> {
        let oldest = self.queue.oldest(QUEUE)?;
        let mut at = self.hand.unwrap_or(oldest);
        for _ in 0..self.queue.len(QUEUE) {
            if entries.take_hits(at) == 0 {
                break;
            }
            at = self.queue.newer(at).unwrap_or(oldest);
        }
        self.hand = Some(at);
        Some(Victim::Entry(at))
    }
}

#[cfg(test)]
mod tests;
