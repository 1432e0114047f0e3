//! What a read found, in one word: a hit in memory allocates nothing, and is returned in registers.
//!
//! An entry of several words is copied on its way through `Result` and `Option`, by instructions that are
//! wider than those that stored it, and that wait for the stores: 10 of the 28 ns of a hit.
//!
//! # Invariants
//!
//! - **E1** the word is a record's handle, or the pointer of a boxed [`Found`] with [`BOXED`] set, which
//!   no pointer of either kind has. It owns what it points to.
//!
//! # Safety
//!
//! All `unsafe` rests on E1: the word is private, made in two places and never changed.
#![expect(unsafe_code, reason = "one word for pointers of two kinds; argued above")]

use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::entry::Tier;
use crate::record::Record;
use crate::time::Clock;

/// A record as found by a lookup, not yet typed.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) record: Record,
    pub(crate) accessed: u64,
    pub(crate) tier: Tier,
    /// `None`: the system's clock, and no time-to-idle.
    pub(crate) age: Option<Arc<Age>>,
}

/// What entries of one cache measure their age with.
pub(crate) struct Age {
    /// In nanoseconds.
    pub(crate) time_to_idle: u64,
    /// `None`: the system's.
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

/// In the word: it points to a [`Found`].
const BOXED: usize = 1;
const _: () = assert!(align_of::<Found>() > BOXED);

/// What a lookup found: a record in memory as it is there, or anything else with what there is to say.
#[repr(transparent)]
pub(crate) struct Handle(NonNull<u8>);

// SAFETY: E1: it owns a record or a `Found`, and both are `Send`.
unsafe impl Send for Handle where Found: Send {}
// SAFETY: likewise, and it is only read.
unsafe impl Sync for Handle where Found: Sync {}

impl From<Record> for Handle {
    #[inline]
    fn from(record: Record) -> Self {
        Self(record.into_pointer())
    }
}

impl From<Found> for Handle {
    fn from(found: Found) -> Self {
        let found = NonNull::from(Box::leak(Box::new(found))).cast::<u8>();
        Self(found.map_addr(|address| address | BOXED))
    }
}

impl Handle {
    #[inline]
    fn is_boxed(&self) -> bool {
        self.0.addr().get() & BOXED != 0
    }

    /// Where the [`Found`] is, if the word is one's.
    fn pointer(&self) -> NonNull<Found> {
        // Never zero: nothing is allocated there.
        let clear = |address: NonZeroUsize| NonZeroUsize::new(address.get() & !BOXED);
        self.0.map_addr(|address| clear(address).unwrap_or(address)).cast()
    }

    fn found(&self) -> Option<&Found> {
        // SAFETY: E1: it is owned, and alive as long as this.
        self.is_boxed().then(|| unsafe { self.pointer().as_ref() })
    }

    #[inline]
    pub(crate) fn record(&self) -> &Record {
        match self.found() {
            Some(found) => &found.record,
            // SAFETY: E1, and `Record` is that pointer and nothing else.
            None => unsafe { NonNull::from(self).cast::<Record>().as_ref() },
        }
    }

    pub(crate) fn accessed(&self) -> u64 {
        self.found().map_or_else(|| self.record().recency(), |found| found.accessed)
    }

    pub(crate) fn tier(&self) -> Tier {
        self.found().map_or(Tier::Memory, |found| found.tier)
    }

    pub(crate) fn age(&self) -> Option<&Arc<Age>> {
        self.found().and_then(|found| found.age.as_ref())
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        match self.found() {
            Some(found) => found.clone().into(),
            None => self.record().clone().into(),
        }
    }
}

/// Drops it where the way of a plain record does not come by.
#[cold]
#[inline(never)]
fn drop_found(found: Box<Found>) {
    drop(found);
}

impl Drop for Handle {
    #[inline]
    fn drop(&mut self) {
        if self.is_boxed() {
            // SAFETY: E1: it was a box, and is used no more.
            drop_found(unsafe { Box::from_raw(self.pointer().as_ptr()) });
        } else {
            let word = ManuallyDrop::new(Self(self.0));
            // SAFETY: E1: the handle that it was made of, which is used no more.
            drop(unsafe { Record::from_pointer(word.0) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Draft, Seal};

    #[test]
    fn both_kinds_are_cloned_read_and_dropped() {
        let record = Draft { value: b"value", ..Draft::EMPTY }.finish(b"key", Seal::MemoryOnly);
        let age = Arc::new(Age { time_to_idle: 3, clock: None });
        let found =
            Found { record: record.clone(), accessed: 9, tier: Tier::Disk, age: Some(age.clone()) };
        let (plain, boxed) = (Handle::from(record.clone()), Handle::from(found));
        assert_eq!(size_of::<Option<Handle>>(), size_of::<usize>());
        for handle in [&plain, &plain.clone(), &boxed, &boxed.clone()] {
            assert!(handle.record().is_same(&record));
        }
        assert_eq!(
            (plain.accessed(), plain.tier(), plain.age().is_none()),
            (0, Tier::Memory, true)
        );
        assert_eq!((boxed.accessed(), boxed.tier(), boxed.age().is_some()), (9, Tier::Disk, true));
        drop((plain, boxed));
        assert_eq!(Arc::strong_count(&age), 1);
    }
}
