//! Several queues of entries that know how much they hold, and where each entry is.
//!
//! [`Queues`] with a charge and a mark for each entry.
//!
//! # Invariants
//!
//! - **N1** an entry is in the queue that its node names, and in none if that is `None`.
//! - **N2** a queue's charge is the sum of the charges of those in it.

use super::Near;
use super::list::Queues;
use crate::strategy::EntryId;

/// Queues, told apart by a number below `N`.
#[derive(Debug)]
pub(super) struct Segments<const N: usize> {
    queues: Queues<N, Node>,
    charges: [u64; N],
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// As it was when it was told, and no more than this can hold.
    charge: u32,
    /// What the owner notes of the entry.
    mark: u32,
    queue: Option<u8>,
}

impl<const N: usize> Segments<N> {
    pub(super) fn new() -> Self {
        Self { queues: Queues::default(), charges: [0; N] }
    }

    /// Entries in a queue.
    pub(super) fn len(&self, queue: u8) -> u64 {
        self.queues.len(queue.into()) as u64
    }

    /// The sum of their charges.
    pub(super) fn charge(&self, queue: u8) -> u64 {
        self.charges[usize::from(queue)]
    }

    /// The entry that has been in a queue for the longest time.
    pub(super) fn back(&self, queue: u8) -> Option<EntryId> {
        self.queues.oldest(queue.into())
    }

    /// Likewise, and tells that it will be looked at.
    pub(super) fn foresee_back<E: Near + ?Sized>(
        &self,
        queue: u8,
        entries: &mut E,
    ) -> Option<EntryId> {
        let back = self.back(queue)?;
        self.queues.foresee(back, entries);
        Some(back)
    }

    /// The queue that an entry is in.
    pub(super) fn queue_of(&self, id: EntryId) -> Option<u8> {
        self.queues.note(id).and_then(|node| node.queue)
    }

    /// The charge with which an entry counts.
    pub(super) fn charge_of(&self, id: EntryId) -> u64 {
        self.queues.note(id).map_or(0, |node| u64::from(node.charge))
    }

    /// What was noted of an entry.
    pub(super) fn mark_of(&self, id: EntryId) -> u32 {
        self.queues.note(id).map_or(0, |node| node.mark)
    }

    /// Notes something of an entry.
    pub(super) fn set_mark(&mut self, id: EntryId, mark: u32) {
        if let Some(node) = self.queues.note_mut(id) {
            node.mark = mark;
        }
    }

    /// Puts an entry that is in no queue at the front of one.
    pub(super) fn insert(&mut self, queue: u8, id: EntryId, charge: u64) {
        debug_assert!(self.queue_of(id).is_none(), "N1: {id:?} is in a queue");
        self.link(queue, id, u32::try_from(charge).unwrap_or(u32::MAX));
    }

    /// Puts an entry that is in some queue at the front of this one.
    pub(super) fn send(&mut self, queue: u8, id: EntryId) {
        if let Some(charge) = self.unlink(id) {
            self.link(queue, id, charge);
        }
    }

    /// Gives an entry another charge, where it is.
    pub(super) fn recharge(&mut self, id: EntryId, charge: u64) {
        let Some(node) = self.queues.note_mut(id) else { return };
        let Some(queue) = node.queue else { return };
        let before = std::mem::replace(&mut node.charge, u32::try_from(charge).unwrap_or(u32::MAX));
        let sum = &mut self.charges[usize::from(queue)];
        *sum = *sum - u64::from(before) + u64::from(node.charge);
    }

    /// Takes an entry out of its queue, if it is in one.
    pub(super) fn remove(&mut self, id: EntryId) {
        self.unlink(id);
    }

    /// Likewise; gives its charge.
    fn unlink(&mut self, id: EntryId) -> Option<u32> {
        let node = self.queues.note_mut(id)?;
        let (queue, charge) = (node.queue.take()?, node.charge);
        self.charges[usize::from(queue)] -= u64::from(charge);
        self.queues.unlink(queue.into(), id);
        Some(charge)
    }

    fn link(&mut self, queue: u8, id: EntryId, charge: u32) {
        self.charges[usize::from(queue)] += u64::from(charge);
        self.queues.push(queue.into(), id);
        if let Some(node) = self.queues.note_mut(id) {
            (node.queue, node.charge) = (Some(queue), charge);
        }
    }
}

#[cfg(test)]
impl<const N: usize> Segments<N> {
    /// The entries of a queue, the one that came last first.
    pub(super) fn ids(&self, queue: u8) -> Vec<EntryId> {
        let mut ids: Vec<EntryId> = self.queues.iter(queue.into()).collect();
        ids.reverse();
        ids
    }

    /// Checks every invariant.
    pub(super) fn validate(&self) -> Result<(), String> {
        self.queues.validate()?;
        let mut queued = 0;
        for (number, charge) in (0_u8..).zip(&self.charges) {
            let ids = self.ids(number);
            if let Some(id) = ids.iter().find(|id| self.queue_of(**id) != Some(number)) {
                return Err(format!("N1: {id:?} is in queue {number}: {:?}", self.queue_of(*id)));
            }
            let sum: u64 = ids.iter().map(|id| self.charge_of(*id)).sum();
            if sum != *charge {
                return Err(format!(
                    "N2: queue {number} has a charge of {charge}, a recount {sum}"
                ));
            }
            queued += ids.len();
        }
        let named = self.queues.notes().filter(|node| node.queue.is_some()).count();
        if named == queued { Ok(()) } else { Err(format!("N1: {named} named, {queued} queued")) }
    }
}
