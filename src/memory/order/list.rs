//! Queues of entries, threaded through their numbers.
//!
//! One table of links serves several queues of one order: an entry is in one of them, or in none. Queues
//! own nothing and know nothing of entries but their numbers.
//!
//! # How it works
//!
//! A link has the numbers of its neighbours, and stands in the table at the place of its own number. So an
//! entry is taken out of the middle without a search, and eight bytes are all that it needs here. The
//! table is as long as the largest number that was ever in. Beside the link may stand a note of the order's,
//! so that both come from memory together.
//!
//! # Invariants
//!
//! - **Q1** from the oldest of a queue, `newer` leads through `len` entries to its newest, and `older`
//!   leads back.
//! - **Q2** an entry is in one queue at most; one that is in none is its own neighbour.

use super::Near;
use crate::strategy::EntryId;

/// No neighbour, and nobody at the end of an empty queue.
const NONE: u32 = u32::MAX;

/// Some queues, each with a number below `N`, and a note of each entry.
#[derive(Debug)]
pub(super) struct Queues<const N: usize, T = ()> {
    /// By number of the entry.
    links: Vec<Link<T>>,
    ends: [Ends; N],
}

#[derive(Debug, Clone, Copy)]
struct Link<T> {
    older: u32,
    newer: u32,
    note: T,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    oldest: u32,
    newest: u32,
    len: usize,
}

impl<const N: usize, T> Default for Queues<N, T> {
    fn default() -> Self {
        Self { links: Vec::new(), ends: [Ends { oldest: NONE, newest: NONE, len: 0 }; N] }
    }
}

impl<const N: usize, T: Copy + Default> Queues<N, T> {
    /// What is noted of an entry; `None` if it was never in a queue.
    pub(super) fn note(&self, id: EntryId) -> Option<&T> {
        self.links.get(id.index()).map(|link| &link.note)
    }

    /// Likewise, to change it.
    pub(super) fn note_mut(&mut self, id: EntryId) -> Option<&mut T> {
        self.links.get_mut(id.index()).map(|link| &mut link.note)
    }

    /// How many are in a queue.
    pub(super) fn len(&self, queue: usize) -> usize {
        self.ends[queue].len
    }

    /// The largest number that was ever in any queue, and one more.
    pub(super) fn numbers(&self) -> usize {
        self.links.len()
    }

    /// Who has been in a queue for longest.
    pub(super) fn oldest(&self, queue: usize) -> Option<EntryId> {
        some(self.ends[queue].oldest)
    }

    /// Tells that this entry, which is in a queue, will be looked at.
    pub(super) fn foresee<E: Near + ?Sized>(&self, id: EntryId, entries: &mut E) {
        entries.foresee(id);
        entries.foresee_own(&self.links[id.index()]);
        if entries.has_time()
            && let Some(newer) = self.newer(id)
        {
            entries.foresee_behind(newer);
        }
    }

    /// Who came last into a queue.
    pub(super) fn newest(&self, queue: usize) -> Option<EntryId> {
        some(self.ends[queue].newest)
    }

    /// Who came next after `id`, which is in a queue.
    pub(super) fn newer(&self, id: EntryId) -> Option<EntryId> {
        debug_assert!(!self.is_free(id), "Q2: {id:?} is in no queue");
        some(self.links[id.index()].newer)
    }

    /// Puts an entry that is in no queue at the newest end of one.
    pub(super) fn push(&mut self, queue: usize, id: EntryId) {
        while self.links.len() <= id.index() {
            let own = u32::try_from(self.links.len()).unwrap_or(NONE);
            self.links.push(Link { older: own, newer: own, note: T::default() });
        }
        debug_assert!(self.is_free(id), "Q2: {id:?} is in a queue already");
        let ends = &mut self.ends[queue];
        let older = std::mem::replace(&mut ends.newest, id.0);
        ends.len += 1;
        let link = &mut self.links[id.index()];
        (link.older, link.newer) = (older, NONE);
        match some(older) {
            Some(older) => self.links[older.index()].newer = id.0,
            None => self.ends[queue].oldest = id.0,
        }
    }

    /// Takes an entry out of the queue that it is in.
    pub(super) fn unlink(&mut self, queue: usize, id: EntryId) {
        debug_assert!(!self.is_free(id), "Q2: {id:?} is in no queue");
        let link = &mut self.links[id.index()];
        let older = std::mem::replace(&mut link.older, id.0);
        let newer = std::mem::replace(&mut link.newer, id.0);
        match some(older) {
            Some(older) => self.links[older.index()].newer = newer,
            None => self.ends[queue].oldest = newer,
        }
        match some(newer) {
            Some(newer) => self.links[newer.index()].older = older,
            None => self.ends[queue].newest = older,
        }
        self.ends[queue].len -= 1;
    }

    /// Whether an entry is in no queue.
    pub(super) fn is_free(&self, id: EntryId) -> bool {
        self.links.get(id.index()).is_none_or(|link| link.older == id.0)
    }
}

fn some(number: u32) -> Option<EntryId> {
    (number != NONE).then_some(EntryId(number))
}

#[cfg(test)]
impl<const N: usize, T: Copy + Default> Queues<N, T> {
    /// All of one queue, oldest first.
    pub(super) fn iter(&self, queue: usize) -> impl Iterator<Item = EntryId> {
        std::iter::successors(self.oldest(queue), |id| self.newer(*id))
    }

    /// All notes.
    pub(super) fn notes(&self) -> impl Iterator<Item = &T> {
        self.links.iter().map(|link| &link.note)
    }

    /// Checks every invariant.
    pub(super) fn validate(&self) -> Result<(), String> {
        let mut linked = 0;
        for (queue, ends) in self.ends.iter().enumerate() {
            let mut older = NONE;
            let mut len = 0;
            for id in self.iter(queue).take(self.links.len() + 1) {
                if self.links[id.index()].older != older {
                    return Err(format!("Q1: behind {id:?} there is another one than before it"));
                }
                older = id.0;
                len += 1;
            }
            if older != ends.newest || len != ends.len {
                return Err(format!("Q1: queue {queue} has {len} of {} entries", ends.len));
            }
            linked += len;
        }
        let own = |(number, link): &(usize, &Link<T>)| link.older as usize == *number;
        let free = self.links.iter().enumerate().filter(own).count();
        if linked + free != self.links.len() {
            return Err(format!("Q2: {linked} linked, {free} free of {}", self.links.len()));
        }
        Ok(())
    }
}
