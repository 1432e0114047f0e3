//! The spare: the allocation that a thread freed last, kept for the next record that it makes.
//!
//! A full cache frees a record for each one that it makes. An allocator that has one lock for all large
//! blocks, or has them go back to the thread that made them, makes threads wait for each other there: with
//! glibc's, which keeps blocks of up to 1,032 bytes for each thread, two threads that read entries of
//! 1 KiB from disk waited a hundred thousand times in a million reads, some of them with a shard's lock.
//!
//! # Invariants
//!
//! - **A1** a [`Spare`] is an allocation of the global allocator with this layout, and nobody else has it.
#![expect(unsafe_code, reason = "allocations are made, kept and freed; argued at each place")]

use std::alloc::{self, Layout};
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use super::{LINE, fetch_ahead};

/// The largest that is kept. None under Miri and when fuzzing, where use after freeing is to be seen.
const BYTES_MAX: usize = if cfg!(any(miri, fuzzing)) { 0 } else { 32 << 10 };

/// How much of it is fetched ahead: about as many lines as a processor can wait for at once.
const FETCHED_BYTES: usize = 8 * LINE;
/// How much while a row's bytes are read.
const FETCHED_MAX: usize = 32 * LINE;

/// An allocation that nobody uses (A1).
#[derive(Debug)]
struct Spare {
    base: NonNull<u8>,
    layout: Layout,
}

thread_local! {
    static SPARE: Cell<Option<Spare>> = const { Cell::new(None) };
}

impl Spare {
    /// Has the processor fetch what the next record is written to. Who freed this has not seen more of it than
    /// its header for long, and the next lock that is taken would wait until all is written.
    #[inline]
    fn fetch_ahead(&self) {
        self.fetch::<LINE, FETCHED_BYTES>();
    }

    /// Likewise, from one offset up to another.
    #[inline]
    fn fetch<const FROM: usize, const TO: usize>(&self) {
        let (size, mut at) = (self.layout.size().min(TO), FROM);
        while at < size {
            fetch_ahead(self.base.as_ptr().wrapping_add(at));
            at += LINE;
        }
        fetch_ahead(self.base.as_ptr().wrapping_add(size - 1));
    }

    fn into_base(self) -> NonNull<u8> {
        ManuallyDrop::new(self).base
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        // SAFETY: A1.
        unsafe { alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// An allocation of this layout, whose size is not zero.
#[inline]
pub(super) fn allocate(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0, "an allocation has a size");
    let take = |slot: &Cell<Option<Spare>>| match slot.take() {
        Some(spare) if spare.layout == layout => Some(spare.into_base()),
        other => {
            slot.set(other);
            None
        }
    };
    // An error: the thread is ending, and has kept nothing.
    if let Ok(Some(base)) = SPARE.try_with(take) {
        return base;
    }
    // SAFETY: the size is not zero, by the assertion.
    let raw = unsafe { alloc::alloc(layout) };
    NonNull::new(raw).unwrap_or_else(|| alloc::handle_alloc_error(layout))
}

/// Has the processor fetch more of what the next record is written to, while its bytes are got.
pub(super) fn fetch_rest_ahead() {
    let fetch = |slot: &Cell<Option<Spare>>| {
        let spare = slot.take();
        if let Some(spare) = &spare {
            spare.fetch::<FETCHED_BYTES, FETCHED_MAX>();
        }
        slot.set(spare);
    };
    let _ = SPARE.try_with(fetch);
}

/// Frees what [`allocate`] gave, or keeps it in the place of what was kept.
///
/// # Safety
///
/// - `base` is from [`allocate`] with this very layout, and nobody uses it any more.
pub(super) unsafe fn free(base: NonNull<u8>, layout: Layout) {
    let spare = Spare { base, layout };
    if layout.size() <= BYTES_MAX {
        spare.fetch_ahead();
        // Dropped if the thread is ending.
        let _ = SPARE.try_with(|slot| slot.set(Some(spare)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 16).unwrap()
    }

    /// What is kept on this thread.
    fn kept() -> Option<NonNull<u8>> {
        SPARE.with(|slot| {
            let spare = slot.take();
            let base = spare.as_ref().map(|spare| spare.base);
            slot.set(spare);
            base
        })
    }

    fn freed(size: usize) -> NonNull<u8> {
        let base = allocate(layout(size));
        // SAFETY: from `allocate`, with this layout, and not used.
        unsafe { free(base, layout(size)) };
        base
    }

    #[test]
    fn the_last_one_is_kept_for_one_of_the_same_size() {
        if BYTES_MAX == 0 {
            assert_eq!((freed(48), kept()).1, None);
            return;
        }
        let first = freed(48);
        assert_eq!(kept(), Some(first));
        let other = allocate(layout(64));
        assert_ne!(other, first);
        assert_eq!(kept(), Some(first), "another size leaves it");
        assert_eq!(allocate(layout(48)), first);
        assert_eq!(kept(), None);
        for (base, size) in [(first, 48), (other, 64)] {
            // SAFETY: from `allocate`, with this layout, and not used.
            unsafe { free(base, layout(size)) };
        }
        assert_eq!(kept(), Some(other), "the newer one takes its place");
        freed(BYTES_MAX + 16);
        assert_eq!(kept(), Some(other), "large ones are not kept");
    }

    #[test]
    fn a_thread_frees_what_it_kept_and_frees_while_it_ends() {
        struct Late;
        impl Drop for Late {
            fn drop(&mut self) {
                freed(48);
            }
        }
        thread_local! {
            static LATE: Late = const { Late };
        }
        let work = || {
            LATE.with(|_| freed(48));
        };
        std::thread::spawn(work).join().unwrap();
    }
}
