//! Several queues of entries, each entry in one of them at most.
//!
//! The links are numbers in one table with a place for each entry, so that an entry goes from any place in
//! a queue to the front of any other without a search and without allocating.
//!
//! # Invariants
//!
//! - **G1** along a queue from its front, each node's `behind` names the next, whose `ahead` names the
//!   first; both ends are where the queue says they are.
//! - **G2** a node is in the queue that its `queue` names, and in none if that is `None`.
//! - **G3** a queue's `len` and `charge` are the number and the sum of charges of its nodes.

use crate::strategy::EntryId;

/// No node.
const NONE: u32 = u32::MAX;

/// Queues, told apart by a number below `N`.
#[derive(Debug)]
pub(super) struct Segments<const N: usize> {
    /// By the number of the entry.
    nodes: Vec<Node>,
    queues: [Queue; N],
}

#[derive(Debug, Clone, Copy)]
struct Node {
    ahead: u32,
    behind: u32,
    /// As it was when it was told, and no more than this can hold.
    charge: u32,
    /// What the owner notes of the entry.
    mark: u32,
    queue: Option<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Queue {
    front: u32,
    back: u32,
    len: u64,
    charge: u64,
}

impl<const N: usize> Segments<N> {
    pub(super) fn new() -> Self {
        let empty = Queue { front: NONE, back: NONE, len: 0, charge: 0 };
        Self { nodes: Vec::new(), queues: [empty; N] }
    }

    /// Entries in a queue.
    pub(super) fn len(&self, queue: u8) -> u64 {
        self.queues[usize::from(queue)].len
    }

    /// The sum of their charges.
    pub(super) fn charge(&self, queue: u8) -> u64 {
        self.queues[usize::from(queue)].charge
    }

    /// The entry that has been in a queue for the longest time.
    pub(super) fn back(&self, queue: u8) -> Option<EntryId> {
        let back = self.queues[usize::from(queue)].back;
        (back != NONE).then(|| EntryId::new(back))
    }

    /// The queue that an entry is in.
    pub(super) fn queue_of(&self, id: EntryId) -> Option<u8> {
        self.nodes.get(id.index()).and_then(|node| node.queue)
    }

    /// The charge with which an entry counts.
    pub(super) fn charge_of(&self, id: EntryId) -> u64 {
        self.nodes.get(id.index()).map_or(0, |node| u64::from(node.charge))
    }

    /// What was noted of an entry.
    pub(super) fn mark_of(&self, id: EntryId) -> u32 {
        self.nodes.get(id.index()).map_or(0, |node| node.mark)
    }

    /// Notes something of an entry.
    pub(super) fn set_mark(&mut self, id: EntryId, mark: u32) {
        if let Some(node) = self.nodes.get_mut(id.index()) {
            node.mark = mark;
        }
    }

    /// Puts an entry that is in no queue at the front of one.
    pub(super) fn insert(&mut self, queue: u8, id: EntryId, charge: u64) {
        if self.nodes.len() <= id.index() {
            let free = Node { ahead: NONE, behind: NONE, charge: 0, mark: 0, queue: None };
            self.nodes.resize(id.index() + 1, free);
        }
        debug_assert!(self.queue_of(id).is_none(), "G2: {id:?} is in a queue");
        self.nodes[id.index()].charge = u32::try_from(charge).unwrap_or(u32::MAX);
        self.link(queue, id);
    }

    /// Puts an entry that is in some queue at the front of this one.
    pub(super) fn send(&mut self, queue: u8, id: EntryId) {
        self.remove(id);
        self.link(queue, id);
    }

    /// Gives an entry another charge, where it is.
    pub(super) fn recharge(&mut self, id: EntryId, charge: u64) {
        let Some(queue) = self.queue_of(id) else { return };
        let node = &mut self.nodes[id.index()];
        let before = std::mem::replace(&mut node.charge, u32::try_from(charge).unwrap_or(u32::MAX));
        let queue = &mut self.queues[usize::from(queue)];
        queue.charge = queue.charge - u64::from(before) + u64::from(node.charge);
    }

    /// Takes an entry out of its queue, if it is in one.
    pub(super) fn remove(&mut self, id: EntryId) {
        let Some(queue) = self.queue_of(id) else { return };
        let Node { ahead, behind, charge, .. } = self.nodes[id.index()];
        self.nodes[id.index()].queue = None;
        let queue = &mut self.queues[usize::from(queue)];
        match self.nodes.get_mut(index(ahead)) {
            Some(node) => node.behind = behind,
            None => queue.front = behind,
        }
        match self.nodes.get_mut(index(behind)) {
            Some(node) => node.ahead = ahead,
            None => queue.back = ahead,
        }
        queue.len -= 1;
        queue.charge -= u64::from(charge);
    }

    fn link(&mut self, queue: u8, id: EntryId) {
        let number = u32::try_from(id.index()).unwrap_or(NONE);
        let at = &mut self.queues[usize::from(queue)];
        match self.nodes.get_mut(index(at.front)) {
            Some(node) => node.ahead = number,
            None => at.back = number,
        }
        let node = &mut self.nodes[id.index()];
        (node.ahead, node.behind, node.queue) = (NONE, at.front, Some(queue));
        at.front = number;
        at.len += 1;
        at.charge += u64::from(node.charge);
    }

    /// The entries of a queue, the one that came last first.
    #[cfg(test)]
    pub(super) fn ids(&self, queue: u8) -> Vec<EntryId> {
        let mut ids = Vec::new();
        let mut at = self.queues[usize::from(queue)].front;
        while let Some(node) = self.nodes.get(index(at)) {
            ids.push(EntryId::new(at));
            at = node.behind;
        }
        ids
    }

    /// Checks every invariant.
    #[cfg(test)]
    pub(super) fn validate(&self) -> Result<(), String> {
        let mut queued = 0;
        for (number, queue) in (0u8..).zip(&self.queues) {
            let (mut at, mut ahead) = (queue.front, NONE);
            let (mut len, mut charge) = (0, 0);
            while let Some(node) = self.nodes.get(index(at)) {
                if node.ahead != ahead || node.queue != Some(number) || len > self.nodes.len() {
                    return Err(format!("G1, G2: {at} in queue {number}: {node:?}"));
                }
                (len, charge) = (len + 1, charge + u64::from(node.charge));
                (ahead, at) = (at, node.behind);
            }
            if queue.back != ahead || queue.len != len as u64 || queue.charge != charge {
                return Err(format!(
                    "G1, G3: {queue:?} has {len} nodes of {charge}, ends at {ahead}"
                ));
            }
            queued += len;
        }
        let named = self.nodes.iter().filter(|node| node.queue.is_some()).count();
        if named == queued { Ok(()) } else { Err(format!("G2: {named} named, {queued} queued")) }
    }
}

/// Beyond every table for `NONE`.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
