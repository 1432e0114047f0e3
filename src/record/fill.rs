//! The filling: a new record's allocation while its parts are copied in, one behind the other.
//!
//! Whoever makes a record says at the beginning how long it is; [`Filling::finish`] gives it only when all of
//! it is there. What a full memory tier makes again and again, short keys and words, is copied without a
//! call.
//!
//! # Invariants
//!
//! - **F1** the allocation has `size` bytes, and nobody else has it.
//! - **F2** what is in front of `at` is initialised, except for the padding in front of the key.
#![expect(unsafe_code, reason = "parts are copied into a raw allocation; argued at each place")]

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::{Below, CONTROL, Control, NEVER, Record, Seal, layout, lead, spare};

/// See the module.
#[derive(Debug)]
pub(super) struct Filling {
    base: NonNull<u8>,
    layout: Layout,
    lead: usize,
    at: usize,
}

impl Filling {
    /// An allocation with the key and the control words, for `rest` bytes behind these.
    #[inline]
    pub(super) fn begin(key: &[u8], rest: usize, seal: Seal) -> Self {
        let has_row = seal == Seal::Checksummed;
        let lead = lead(key.len(), has_row);
        let layout = layout(lead + CONTROL + rest);
        let base = spare::allocate(layout);
        if has_row {
            let below = Below { leaves: AtomicU64::new(NEVER), handed: AtomicU64::new(0) };
            // SAFETY: F1; `lead` has room for it, the allocation is 16-aligned.
            unsafe { base.cast::<Below>().write(below) };
        }
        let control = Control {
            refs: AtomicU32::new(1),
            taken: AtomicU32::new(0),
            recency: AtomicU64::new(0),
            place: AtomicU32::new(0),
            check: AtomicU32::new(0),
        };
        // SAFETY: F1; the size is that much larger than `lead`.
        let behind_key = unsafe { base.add(lead) };
        // SAFETY: F1; it is 16-aligned, as the allocation and `lead` are, with room for the words.
        unsafe { behind_key.cast::<Control>().write(control) };
        let mut filling = Self { base, layout, lead, at: lead - key.len() };
        filling.put(key);
        filling.at += CONTROL;
        filling
    }

    /// Copies one part.
    #[inline]
    pub(super) fn put(&mut self, part: &[u8]) {
        let len = part.len();
        assert!(len <= self.layout.size() - self.at, "F1: parts fit the allocation");
        // SAFETY: F1; `at` is inside the allocation, or its end.
        let target = unsafe { self.base.add(self.at) };
        self.at += len;
        match (part.first_chunk::<8>(), part.last_chunk::<8>()) {
            (Some(first), Some(last)) if len <= 16 => {
                // SAFETY: F1, F2: `len` bytes fit, by the assertion, and it is 8 at least; any address is
                // aligned for bytes.
                unsafe { target.cast().write(*first) };
                // SAFETY: likewise.
                let end = unsafe { target.add(len - 8) };
                // SAFETY: likewise.
                unsafe { end.cast().write(*last) };
            }
            // SAFETY: F1: `len` bytes fit, by the assertion; a fresh allocation overlaps nothing.
            _ => unsafe { target.copy_from_nonoverlapping(NonNull::from(part).cast(), len) },
        }
    }

    /// Likewise, of a part whose length the compiler knows.
    #[inline]
    pub(super) fn put_word(&mut self, word: [u8; 8]) {
        assert!(word.len() <= self.layout.size() - self.at, "F1: parts fit the allocation");
        // SAFETY: F1; `at` is inside the allocation.
        let target = unsafe { self.base.add(self.at) };
        // SAFETY: F1: it fits, by the assertion; any address is aligned for bytes.
        unsafe { target.cast().write(word) };
        self.at += word.len();
    }

    /// The record, for whose parts R3 holds.
    #[inline]
    pub(super) fn finish(self) -> Record {
        assert!(self.at == self.layout.size(), "R1: the allocation is filled to its end");
        // SAFETY: F1; see `begin`.
        Record { ptr: unsafe { self.base.add(self.lead) } }
    }
}
