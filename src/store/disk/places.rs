//! On which pages rows were seen, so that one can be read from the file at once, past redb's tree and its
//! cache.
//!
//! # How it works
//!
//! Each page of rows that is written, or read for redb, leaves the number of its block under the places of
//! its rows. Who wants a row reads that block, looks for the place in it, and gets what is there. The caller
//! compares the key and the checksum; where either differs, or nothing is known, the way is through redb,
//! which also meets damage and says so. So what is kept here need not be right, and is lost freely: a number
//! has one slot, which it shares with others. As long as the whole file fits the page cache, nobody looks
//! here: redb is faster where it has no page to fetch.
//!
//! Blocks are not compared with their own checksums here: rows have theirs.
//!
//! # Invariants
//!
//! - **W1** a sound row of a key, found under its place, is the row that every commit has which has that key
//!   at that place. No place is used twice as long as a file is open, except by a commit that failed, whose
//!   pages nothing leads to: and when that place is written again, its slot is, too. So it does not matter
//!   that a page may have been given up, or be half written over.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::store::disk::blocks::{BLOCK, Span, Watch};
use crate::store::disk::holding::Holding;
use crate::store::disk::leaf::Leaf;

/// So much of the page cache's bytes, one in this many, is for slots.
const PART: usize = 8;
/// Slots are made so many at a time, when the first of them is needed.
const TOGETHER: usize = 512;
const SLOT_BYTES: usize = size_of::<AtomicU64>();
/// Bits of a slot for the block; above them are those of the place.
const BLOCK_BITS: u32 = 40;

type Slots = [AtomicU64; TOGETHER];

thread_local! {
    /// What this thread reads blocks into.
    static BUFFER: Cell<Option<Box<[u8; BLOCK]>>> = const { Cell::new(None) };
}

/// The blocks of places.
#[derive(Debug)]
pub(super) struct Places {
    file: Arc<Holding>,
    watch: Arc<Watch>,
    /// Whether the page cache has room for all of the file.
    is_cached: AtomicBool,
    cache_bytes: usize,
    /// By place, as many as there are.
    slots: Box<[OnceLock<Box<Slots>>]>,
}

/// How many slots there are beside a page cache of so many bytes.
fn slots_for(cache_bytes: usize) -> usize {
    let slots = (cache_bytes / PART / SLOT_BYTES).max(TOGETHER);
    1 << slots.ilog2()
}

impl Places {
    /// For a file that has a page cache of so many bytes.
    pub(super) fn new(file: Arc<Holding>, watch: Arc<Watch>, cache_bytes: usize) -> Self {
        let slots = (0..slots_for(cache_bytes) / TOGETHER).map(|_| OnceLock::new()).collect();
        let new = Self { file, watch, is_cached: AtomicBool::new(false), cache_bytes, slots };
        new.set_len(new.file.len().unwrap_or(u64::MAX));
        new
    }

    /// Notes how long the file is.
    pub(super) fn set_len(&self, len: u64) {
        self.is_cached.store(len <= self.cache_bytes as u64, Ordering::Relaxed);
    }

    /// What of the page cache's bytes slots take, once there are all.
    pub(super) fn bytes(cache_bytes: usize) -> usize {
        slots_for(cache_bytes) * SLOT_BYTES
    }

    /// The slot of a place, and what it has there with a block of zero.
    fn slot(&self, place: u64) -> (Option<&OnceLock<Box<Slots>>>, usize, u64) {
        let all = (self.slots.len() * TOGETHER) as u64;
        let (nth, round) = (usize::try_from(place % all).unwrap_or(0), place / all);
        (self.slots.get(nth / TOGETHER), nth % TOGETHER, round << BLOCK_BITS)
    }

    /// Notes the rows of a page, if it is one of rows, which begins at a block.
    pub(super) fn note(&self, block: u64, page: &[u8]) {
        let Some(leaf) = Leaf::of(page).filter(|leaf| leaf.has_rows()) else { return };
        if block >> BLOCK_BITS != 0 {
            return;
        }
        for place in leaf.places() {
            let (Some(slots), nth, round) = self.slot(place) else { return };
            let slots = slots.get_or_init(|| Box::new([const { AtomicU64::new(0) }; TOGETHER]));
            if let Some(slot) = slots.get(nth) {
                // Relaxed: what is read there is looked at anyway.
                slot.store(round | block, Ordering::Relaxed);
            }
        }
    }

    /// What `read` makes of what is stored at a place, key and row; `None` if it is not known where that is,
    /// or `read` wants none of it.
    pub(super) fn look<R>(&self, place: u64, read: impl FnOnce(&[u8]) -> Option<R>) -> Option<R> {
        if self.is_cached.load(Ordering::Relaxed) {
            return None;
        }
        let (slots, nth, round) = self.slot(place);
        let slot = slots?.get()?.get(nth)?;
        let known = slot.load(Ordering::Relaxed);
        let block = known & ((1 << BLOCK_BITS) - 1);
        // The first block is no page's.
        if block == 0 || known - block != round {
            return None;
        }
        self.watch.check().ok()?;
        let mut buffer = BUFFER.take().unwrap_or_else(|| Box::new([0; BLOCK]));
        let found = self.look_at(block, place, &mut buffer, read).ok().flatten();
        BUFFER.set(Some(buffer));
        if found.is_none() {
            // It would not be there next time either.
            slot.store(0, Ordering::Relaxed);
        }
        found
    }

    fn look_at<R>(
        &self,
        block: u64,
        place: u64,
        buffer: &mut [u8; BLOCK],
        read: impl FnOnce(&[u8]) -> Option<R>,
    ) -> io::Result<Option<R>> {
        let Some(first) = Span::of(block, 0..BLOCK) else { return Ok(None) };
        self.file.read(first.offset, buffer)?;
        let Some(range) = Leaf::of(buffer).and_then(|leaf| leaf.find(place)) else {
            return Ok(None);
        };
        if let Some(stored) = buffer.get(range.clone()) {
            return Ok(read(stored));
        }
        let Some(rest) = Span::of(block, range) else { return Ok(None) };
        let mut stored = vec![0; rest.len];
        self.file.read(rest.offset, &mut stored)?;
        Ok(read(&stored))
    }
}

#[cfg(test)]
mod tests;
