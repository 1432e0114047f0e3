//! Least recently used, exactly: a list of slots that ascends by (stamp, key).
//!
//! The links are inside the slots, so a hit moves a slot without allocating. A new stamp is
//! usually the newest, so the place is searched from that end: an explicit stamp costs as many
//! steps as it is out of order.
//!
//! # Invariants
//!
//! - **L1** following `newer` from `oldest`, and `older` from `newest`, visits the same slots, all
//!   the occupied ones, once.
//! - **L2** along `newer`, (stamp, key) ascends strictly.
//! - **L3** `oldest_stamp` is the stamp of `oldest`, unless there is none.

use crate::memory::slab::{Slab, SlotId};

/// The two ends of the list.
#[derive(Debug)]
pub(in crate::memory) struct Lru {
    oldest: SlotId,
    newest: SlotId,
    /// The stamp of `oldest`, kept here so that nobody has to fetch its slot to know it (L3).
    oldest_stamp: u64,
}

impl Default for Lru {
    fn default() -> Self {
        Self { oldest: SlotId::NIL, newest: SlotId::NIL, oldest_stamp: 0 }
    }
}

impl Lru {
    pub(in crate::memory) fn oldest(&self) -> Option<SlotId> {
        Some(self.oldest).filter(|id| *id != SlotId::NIL)
    }

    pub(in crate::memory) fn oldest_stamp(&self) -> Option<u64> {
        self.oldest().map(|_| self.oldest_stamp)
    }

    /// Links a slot that is not linked at the place of its stamp and key (L2).
    pub(in crate::memory) fn link(&mut self, slab: &mut Slab, id: SlotId) {
        let stamp = slab.get(id).stamp;
        let mut older = self.newest;
        while older != SlotId::NIL {
            let at = slab.get(older).stamp;
            if at < stamp || at == stamp && slab.record(older).key() < slab.record(id).key() {
                break;
            }
            older = slab.get(older).older;
        }
        let newer = match older {
            SlotId::NIL => {
                self.oldest_stamp = stamp;
                std::mem::replace(&mut self.oldest, id)
            }
            older => std::mem::replace(&mut slab.get_mut(older).newer, id),
        };
        match newer {
            SlotId::NIL => self.newest = id,
            newer => slab.get_mut(newer).older = id,
        }
        let slot = slab.get_mut(id);
        (slot.older, slot.newer) = (older, newer);
    }

    /// Takes a linked slot out of the list.
    pub(in crate::memory) fn unlink(&mut self, slab: &mut Slab, id: SlotId) {
        let slot = slab.get(id);
        let (older, newer) = (slot.older, slot.newer);
        match older {
            SlotId::NIL => {
                self.oldest = newer;
                if newer != SlotId::NIL {
                    self.oldest_stamp = slab.get(newer).stamp;
                }
            }
            older => slab.get_mut(older).newer = newer,
        }
        match newer {
            SlotId::NIL => self.newest = older,
            newer => slab.get_mut(newer).older = older,
        }
    }

    /// Gives a linked slot a new stamp and the place that goes with it.
    pub(in crate::memory) fn restamp(&mut self, slab: &mut Slab, id: SlotId, stamp: u64) {
        if self.newest == id && slab.get(id).stamp <= stamp {
            slab.get_mut(id).stamp = stamp;
            if self.oldest == id {
                self.oldest_stamp = stamp;
            }
            return;
        }
        self.unlink(slab, id);
        slab.get_mut(id).stamp = stamp;
        self.link(slab, id);
    }

    /// Walks the list both ways and checks it.
    pub(in crate::memory) fn validate(&self, slab: &Slab, len: usize) -> Result<(), String> {
        let (mut at, mut before, mut seen) = (self.oldest, SlotId::NIL, 0);
        while at != SlotId::NIL {
            let slot = slab.get(at);
            if slot.older != before || slot.record.is_none() || seen > len {
                return Err(format!("L1: {at:?} is linked wrongly"));
            }
            if before != SlotId::NIL {
                let place = |id| (slab.get(id).stamp, slab.record(id).key());
                if place(before) >= place(at) {
                    return Err(format!("L2: {before:?} is not older than {at:?}"));
                }
            }
            (before, at, seen) = (at, slot.newer, seen + 1);
        }
        if self.oldest().is_some_and(|id| slab.get(id).stamp != self.oldest_stamp) {
            return Err(format!("L3: {} is not the oldest stamp", self.oldest_stamp));
        }
        if before != self.newest || seen != len {
            return Err(format!("L1: {seen} slots linked, {len} occupied"));
        }
        Ok(())
    }
}
