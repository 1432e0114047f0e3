//! A record as the memory tier holds it: with its recency and its place in the order, and with handles
//! on it that cost no locked instruction to take.
//!
//! # How it works
//!
//! A handle that is taken while the tier's lock is held is counted in a word of its own, `taken`, that
//! nobody else writes, so a plain addition does. Handles are dropped anywhere, and take one off `refs`;
//! so that this never meets zero while the tier holds the record, `refs` has [`ATTACHED`] added as long.
//! When the tier lets go, the two words are added up. This is biased reference counting (Choi, Shull and
//! Torrellas, 2018), with the lock in the place of the owning thread.
//!
//! # Invariants
//!
//! - **H1** a record has one `Held` at most; whoever would make a second gets a copy of the record.
//! - **H2** with a `Held`, handles = `refs` - [`ATTACHED`] + `taken`; without, handles = `refs` and
//!   `taken` is 0.
//! - **H3** `refs` stays below [`COUNTED_MAX`] handles, and `taken` below [`TAKEN_MAX`], a few threads
//!   that are between two lines aside: so an attached counter is never taken for one that is not.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::atomic::Ordering;

use super::{Control, NEVER, Record};
use crate::strategy::HITS_MAX;

/// What the counter has on top while the memory tier holds the record.
const ATTACHED: u32 = 1 << 31;
/// The most handles that are taken until they are counted with the others.
const TAKEN_MAX: u32 = 1 << 28;
/// The most handles that are counted.
const COUNTED_MAX: u32 = 1 << 28;

/// In `Control::place`: the tier below has the entry.
const IS_BELOW: u32 = 1 << 31;
/// In `Control::place`: three bits that count hits, up to [`HITS_MAX`].
const HIT: u32 = 1 << 28;
const HITS: u32 = HIT * HITS_MAX;
/// The largest number that an order can file an entry under.
pub(crate) const FILED_MAX: u32 = HIT - 1;
/// What exact LRU files nothing under.
pub(crate) const UNFILED: u32 = FILED_MAX;

/// Whether one more may be counted where there were `refs`.
#[inline]
pub(super) fn can_count(refs: u32) -> bool {
    // Attached, the counter may be below its mark by what was taken and is gone.
    (refs.wrapping_add(TAKEN_MAX) & (ATTACHED - 1)) <= TAKEN_MAX + COUNTED_MAX
}

/// The memory tier's handle: there is one, and who has it alone may write to it.
#[derive(Debug)]
pub(crate) struct Held(Record);

impl Held {
    /// Holds a record whose key's hash has the bits `check`.
    #[inline]
    pub(crate) fn new(record: Record, check: u32) -> Self {
        let refs = &record.control().refs;
        // Alone, nobody else can count.
        if refs.load(Ordering::Acquire) == 1 {
            refs.store(ATTACHED + 1, Ordering::Relaxed);
        } else {
            let attached = |refs: u32| (refs < ATTACHED - TAKEN_MAX).then_some(refs | ATTACHED);
            if refs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, attached).is_err() {
                return Self::new(record.copied(), check);
            }
        }
        let held = Self(record);
        held.control().check.store(check, Ordering::Relaxed);
        held
    }

    fn control(&self) -> &Control {
        self.0.control()
    }

    /// A handle for somebody else.
    #[inline]
    pub(crate) fn take(&mut self) -> Record {
        let control = self.control();
        let taken = control.taken.load(Ordering::Relaxed);
        if taken >= TAKEN_MAX {
            return self.count_taken();
        }
        control.taken.store(taken + 1, Ordering::Relaxed);
        Record { ptr: self.0.ptr }
    }

    /// Takes a handle on this very record back, without a locked instruction if it can; drops any other.
    #[inline]
    pub(crate) fn give_back(&mut self, handle: Record) {
        let control = self.control();
        let taken = control.taken.load(Ordering::Relaxed);
        // H2: there is one handle less, whichever of the two words counted it.
        if taken > 0 && self.0.is_same(&handle) {
            let _ = ManuallyDrop::new(handle);
            control.taken.store(taken - 1, Ordering::Relaxed);
        }
    }

    /// Counts what was taken with the other handles, and gives one more.
    #[cold]
    fn count_taken(&mut self) -> Record {
        let control = self.control();
        let taken = control.taken.load(Ordering::Relaxed);
        let refs = control.refs.load(Ordering::Relaxed);
        if refs.wrapping_add(taken) > ATTACHED + COUNTED_MAX {
            return self.0.copied();
        }
        control.refs.fetch_add(taken, Ordering::Relaxed);
        control.taken.store(1, Ordering::Relaxed);
        Record { ptr: self.0.ptr }
    }

    /// Makes an ordinary counter of the two (H2).
    #[inline]
    fn detach(&self) {
        let control = self.control();
        let taken = control.taken.load(Ordering::Relaxed);
        if taken > 0 {
            control.taken.store(0, Ordering::Relaxed);
        }
        let difference = taken.wrapping_sub(ATTACHED);
        // Alone, nobody else can count; and what others did with theirs is over.
        if control.refs.load(Ordering::Acquire).wrapping_add(difference) == 1 {
            control.refs.store(1, Ordering::Relaxed);
        } else {
            control.refs.fetch_add(difference, Ordering::Relaxed);
        }
    }

    /// The record, which the memory tier holds no longer.
    #[inline]
    pub(crate) fn into_record(self) -> Record {
        self.detach();
        let held = ManuallyDrop::new(self);
        Record { ptr: held.0.ptr }
    }

    #[inline]
    pub(crate) fn set_recency(&mut self, stamp: u64) {
        self.control().recency.store(stamp, Ordering::Relaxed);
    }

    /// The bits of the key's hash.
    #[inline]
    pub(crate) fn check(&self) -> u32 {
        self.control().check.load(Ordering::Relaxed)
    }

    #[inline]
    fn set_place(&mut self, bits: u32, mask: u32) {
        let place = &self.control().place;
        place.store(place.load(Ordering::Relaxed) & !mask | bits, Ordering::Relaxed);
    }

    /// What the order has filed the entry under, at most [`FILED_MAX`].
    #[inline]
    pub(crate) fn filed(&self) -> u32 {
        self.control().place.load(Ordering::Relaxed) & FILED_MAX
    }

    /// Whether it has these bits, and the order has filed it under this number.
    #[inline]
    pub(crate) fn is_filed(&self, check: u32, number: u32) -> bool {
        self.filed() == number && self.check() == check
    }

    #[inline]
    pub(crate) fn set_filed(&mut self, number: u32) {
        debug_assert!(number <= FILED_MAX);
        self.set_place(number, FILED_MAX);
    }

    /// Counts a hit, up to [`HITS_MAX`].
    #[inline]
    pub(crate) fn count_hit(&mut self) {
        let place = &self.control().place;
        let now = place.load(Ordering::Relaxed);
        if now & HITS != HITS {
            place.store(now + HIT, Ordering::Relaxed);
        }
    }

    /// Takes over what was counted of another record.
    #[inline]
    pub(crate) fn set_hits(&mut self, hits: u32) {
        self.set_place(hits.min(HITS_MAX) * HIT, HITS);
    }

    /// Sets all that is kept of an entry, whatever it was when it was here before: it is not filed.
    #[inline]
    pub(crate) fn begin(&mut self, stamp: u64, handed: Option<u64>, leaves: u64) {
        self.control().place.store(UNFILED, Ordering::Relaxed);
        self.set_recency(stamp);
        self.set_leaves(leaves);
        if handed.is_some() {
            self.set_handed(handed);
        }
    }

    /// When the entry leaves memory, or [`NEVER`].
    #[inline]
    pub(crate) fn leaves(&self) -> u64 {
        self.0.memory_deadline()
    }

    /// Without a tier below, that is the entry's deadline anyway.
    #[inline]
    pub(crate) fn set_leaves(&mut self, deadline: u64) {
        match self.0.below() {
            Some(below) => below.leaves.store(deadline, Ordering::Relaxed),
            None => debug_assert_eq!(deadline, self.0.deadline(), "there is no word for it"),
        }
    }

    /// The stamp that the tier below knows; `None` if it does not have the entry.
    #[inline]
    pub(crate) fn handed(&self) -> Option<u64> {
        let is_below = self.control().place.load(Ordering::Relaxed) & IS_BELOW != 0;
        let below = self.0.below().filter(|_| is_below)?;
        Some(below.handed.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn set_handed(&mut self, handed: Option<u64>) {
        match (self.0.below(), handed) {
            (Some(below), Some(stamp)) => below.handed.store(stamp, Ordering::Relaxed),
            (_, handed) => debug_assert_eq!(handed, None, "there is no word for it"),
        }
        self.set_place(if handed.is_some() { IS_BELOW } else { 0 }, IS_BELOW);
    }
}

const _: () = assert!((IS_BELOW | HITS | FILED_MAX) == u32::MAX && NEVER == u64::MAX);

/// What the memory tier keeps of a record, as whoever has a handle sees it.
impl Record {
    /// The hits that were counted.
    pub(crate) fn hits(&self) -> u32 {
        (self.control().place.load(Ordering::Relaxed) & HITS) / HIT
    }

    /// Likewise, and counts anew. Who holds the record may count a hit in that very moment, and so bring back
    /// what was taken; the other bits of the word are as it wrote them in any case.
    pub(crate) fn take_hits(&self) -> u32 {
        if self.hits() == 0 {
            return 0;
        }
        (self.control().place.fetch_and(!HITS, Ordering::Relaxed) & HITS) / HIT
    }

    /// When it leaves memory, or [`NEVER`].
    #[inline]
    pub(crate) fn memory_deadline(&self) -> u64 {
        match self.below() {
            Some(below) => below.leaves.load(Ordering::Relaxed),
            None => self.deadline(),
        }
    }
}

impl Deref for Held {
    type Target = Record;

    #[inline]
    fn deref(&self) -> &Record {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Draft, Seal};

    fn record() -> Record {
        Draft { value: b"value", ..Draft::EMPTY }.finish(b"key", Seal::Checksummed)
    }

    fn refs(record: &Record) -> u32 {
        record.control().refs.load(Ordering::Relaxed)
    }

    #[test]
    fn handles_outlive_the_tier_and_the_tier_outlives_handles() {
        let mut held = Held::new(record(), 9);
        let (first, second, third) = (held.take(), held.take(), held.clone());
        drop(first);
        let record = held.into_record();
        assert_eq!(refs(&record), 3);
        drop((second, third));
        assert_eq!(refs(&record), 1);
        // And again, with a handle that is there already.
        let other = record.clone();
        let mut held = Held::new(record, 9);
        drop((held.take(), other));
        let record = held.into_record();
        assert_eq!((refs(&record), record.value()), (1, &b"value"[..]));
    }

    #[test]
    fn a_second_tier_gets_a_copy() {
        let record = record();
        let held = Held::new(record.clone(), 1);
        let second = Held::new(record.clone(), 2);
        assert!(!second.is_same(&record) && held.is_same(&record));
        drop(held);
        assert_eq!((refs(&record), second.value()), (1, &b"value"[..]));
    }

    #[test]
    fn what_was_taken_is_counted_before_its_word_is_full() {
        let mut held = Held::new(record(), 1);
        held.control().taken.store(TAKEN_MAX, Ordering::Relaxed);
        held.control().refs.fetch_sub(TAKEN_MAX, Ordering::Relaxed);
        let taken = held.take();
        assert!(taken.is_same(&held));
        assert_eq!((refs(&held), held.control().taken.load(Ordering::Relaxed)), (ATTACHED + 1, 1));
        drop(taken);
        // So many handles that one more cannot be counted.
        held.control().taken.store(TAKEN_MAX, Ordering::Relaxed);
        held.control().refs.fetch_add(COUNTED_MAX, Ordering::Relaxed);
        assert!(!held.take().is_same(&held));
        held.control().taken.store(1, Ordering::Relaxed);
        held.control().refs.fetch_sub(COUNTED_MAX, Ordering::Relaxed);
        assert_eq!(refs(&held.into_record()), 1);
    }

    #[test]
    fn what_the_tier_keeps_does_not_mix() {
        let mut held = Held::new(record(), u32::MAX);
        held.set_filed(FILED_MAX);
        held.set_recency(5);
        held.set_leaves(6);
        assert_eq!((held.handed(), held.filed()), (None, FILED_MAX));
        held.set_handed(Some(u64::MAX));
        held.set_filed(3);
        assert_eq!((held.handed(), held.filed(), held.check()), (Some(u64::MAX), 3, u32::MAX));
        assert_eq!((held.recency(), held.leaves(), held.key()), (5, 6, &b"key"[..]));
        assert_eq!(held.hits(), 0);
        for counted in (1..=HITS_MAX).chain([HITS_MAX; 3]) {
            held.count_hit();
            assert_eq!(held.hits(), counted);
        }
        held.set_handed(None);
        assert_eq!((held.handed(), held.filed(), held.hits()), (None, 3, HITS_MAX));
        assert_eq!((held.take_hits(), held.take_hits()), (HITS_MAX, 0));
        held.set_hits(2);
        assert_eq!((held.hits(), held.filed(), held.check()), (2, 3, u32::MAX));
        drop(held.into_record());
    }

    #[test]
    fn threads_drop_what_was_taken_while_more_is_taken() {
        let mut held = Held::new(record(), 1);
        let rounds = if cfg!(miri) { 20 } else { 2_000 };
        let (send, receive) = std::sync::mpsc::channel::<Record>();
        let drops = std::thread::spawn(move || {
            for record in receive {
                assert_eq!(record.value().len(), 5);
            }
        });
        for _ in 0..rounds {
            send.send(held.take()).unwrap();
            held = Held::new(held.into_record(), 1);
        }
        drop(send);
        drops.join().unwrap();
        assert_eq!(refs(&held.into_record()), 1);
    }
}
