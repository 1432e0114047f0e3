//! On which pages rows were seen, so that one can be read from the file at once, past redb's tree and its
//! cache.
//!
//! # How it works
//!
//! Each page of rows that redb has read for a look-up leaves the number of its block under the places of its
//! rows, and the block is noted, which the next write of it takes back ([`Groups`]). Who wants a row reads
//! that block, and has it compared with its checksum, and the note looked for, afterwards, in one step. The
//! caller compares the key and the row's own checksum. Where anything differs, or nothing is known, the way
//! is through redb, which also meets damage and says so. So slots are lost freely: a place shares one with
//! others. As long as the whole file fits the page cache, nobody looks here: redb is faster where it has no
//! page to fetch. Rows that reach out of their page's first block are for redb, too.
//!
//! # Invariants
//!
//! - **W1** what is read under a place is what a commit of this file has there, since it was opened. A block
//!   that is noted is as redb read it for a look-up, in the table of rows of a commit; the bytes of a value or
//!   a key never come to be taken for a page. The page may have been given up since: no two commits have
//!   different rows at one place (`Writer::next_place`), and a commit that failed was never looked up.
//! - **W2** what was half written over, or by somebody else, differs from the block's checksum, which is
//!   exchanged, and the note taken back, when a write is done.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::store::disk::blocks::{BLOCK, BLOCK_BYTES, Groups, Watch, place_of};
use crate::store::disk::holding::Holding;
use crate::store::disk::leaf::Leaf;

/// So much of the page cache's bytes, one in this many, is for slots.
const PART: usize = 8;
/// Slots are made so many at a time, when the first of them is needed.
const TOGETHER: usize = 512;
const SLOT_BYTES: usize = size_of::<AtomicU64>();
/// With as many, they take 128 MiB.
const SLOTS_MAX: usize = 1 << 24;
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
    groups: Arc<Groups>,
    /// Whether redb has room for all of the file.
    is_cached: AtomicBool,
    pages_bytes: usize,
    /// By place, as many as there are.
    slots: Box<[OnceLock<Box<Slots>>]>,
}

/// How many slots there are beside a page cache of so many bytes.
fn slots_for(cache_bytes: usize) -> usize {
    let slots = (cache_bytes / PART / SLOT_BYTES).clamp(TOGETHER, SLOTS_MAX);
    1 << slots.ilog2()
}

impl Places {
    /// For a file that has a page cache of so many bytes.
    pub(super) fn new(
        file: Arc<Holding>,
        watch: Arc<Watch>,
        groups: Arc<Groups>,
        cache_bytes: usize,
    ) -> Self {
        let count = slots_for(cache_bytes);
        let slots = (0..count / TOGETHER).map(|_| OnceLock::new()).collect();
        let pages_bytes = cache_bytes - (count * SLOT_BYTES).min(cache_bytes / PART);
        let is_cached = AtomicBool::new(false);
        let new = Self { file, watch, groups, is_cached, pages_bytes, slots };
        new.set_len(new.file.len().unwrap_or(u64::MAX));
        new
    }

    /// Notes how long the file is.
    pub(super) fn set_len(&self, len: u64) {
        self.is_cached.store(len <= self.pages_bytes as u64, Ordering::Relaxed);
    }

    /// What slots leave of the page cache's bytes, once there are all.
    pub(super) fn pages_bytes(&self) -> usize {
        self.pages_bytes
    }

    /// The slot of a place: those it is among, its number there, and what it has with a block of zero.
    fn slot(&self, place: u64) -> Option<(&OnceLock<Box<Slots>>, usize, u64)> {
        let all = (self.slots.len() * TOGETHER) as u64;
        let (nth, round) = (usize::try_from(place % all).unwrap_or(0), place / all);
        Some((self.slots.get(nth / TOGETHER)?, nth % TOGETHER, round << BLOCK_BITS))
    }

    /// Notes the rows of a page of rows, which begins at a block; `false` if it is a page that leads to such
    /// pages, or nobody looks here.
    pub(super) fn note(&self, block: u64, page: &[u8]) -> bool {
        // Until the file is longer, whatever is looked for is in redb.
        let is_wanted = !self.is_cached.load(Ordering::Relaxed) && block >> BLOCK_BITS == 0;
        let Some(leaf) = Leaf::of(page).filter(|_| is_wanted) else { return false };
        for (place, row) in leaf.rows() {
            if row.is_none_or(|row| row.end > BLOCK) {
                continue;
            }
            let Some((slots, nth, round)) = self.slot(place) else { continue };
            let slots = slots.get_or_init(|| Box::new([const { AtomicU64::new(0) }; TOGETHER]));
            if let Some(slot) = slots.get(nth) {
                // Relaxed: what is read there is compared.
                slot.store(round | block, Ordering::Relaxed);
            }
        }
        true
    }

    /// What `read` makes of what is stored at a place, key and row; `None` if it is not known where that is,
    /// or `read` wants none of it.
    pub(super) fn look<R>(&self, place: u64, read: impl FnOnce(&[u8]) -> Option<R>) -> Option<R> {
        if self.is_cached.load(Ordering::Relaxed) {
            return None;
        }
        let (slots, nth, round) = self.slot(place)?;
        let slot = slots.get()?.get(nth)?;
        let known = slot.load(Ordering::Relaxed);
        let block = known & ((1 << BLOCK_BITS) - 1);
        // The first block is no page's.
        if block == 0 || known - block != round {
            return None;
        }
        self.watch.check().ok()?;
        // A thread that ends may have no buffer any more, and still read.
        let buffer = BUFFER.try_with(Cell::take).ok().flatten();
        let mut buffer = buffer.unwrap_or_else(|| Box::new([0; BLOCK]));
        let found = self.look_at(block, place, &mut buffer, read);
        let _ = BUFFER.try_with(|kept| kept.set(Some(buffer)));
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
    ) -> Option<R> {
        self.file.read(place_of(block) * BLOCK_BYTES, buffer).ok()?;
        // After it was read (W2).
        if !self.groups.has_rows(block, buffer) {
            return None;
        }
        let stored = Leaf::of(buffer)?.find(place)?;
        read(buffer.get(stored)?)
    }
}

#[cfg(test)]
mod tests;
