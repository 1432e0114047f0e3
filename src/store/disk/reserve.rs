//! Room that is kept for the time when the device is full.
//!
//! redb changes nothing in place, so a commit that evicts needs room before it gives any. Where the
//! device has none, the oldest entries could not make room for new ones, ever. So a small file beside
//! a cache file that is large enough occupies some, which is given back then. It is made again when there
//! is room for it. Nothing depends on what is in it, nor on its being there.

use crate::store::disk::Writer;
use crate::store::disk::lock::beside;

/// What is kept. A commit that evicts sixteen entries writes some sixty pages, and what it frees is
/// there for the commit after the next.
const RESERVE_BYTES: usize = 1 << 20;
/// Where the cache file occupies at least so much; it is given up below half of that.
const KEPT_FROM: u64 = 16 << 20;

/// Whether the room is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserve {
    /// Perhaps, since an earlier opening.
    Unknown,
    Kept,
    Spent,
}

impl Writer {
    /// Keeps room where the cache file, which occupies so many bytes, is large enough for that. Gives
    /// whether the device has room for that and for `more` bytes, which are not kept.
    pub(crate) fn keep_reserve(&mut self, occupied: u64, more: u64) -> bool {
        let is_large =
            occupied >= KEPT_FROM || self.reserve == Reserve::Kept && occupied >= KEPT_FROM / 2;
        if self.reserve == Reserve::Kept && is_large && more == 0 {
            return true;
        }
        let mut has_room = true;
        if is_large || more > 0 {
            let bytes = RESERVE_BYTES.saturating_add(usize::try_from(more).unwrap_or(usize::MAX));
            let path = beside(&self.options.path, ".reserve");
            has_room = self.options.place.write(&path, &noise(bytes), RESERVE_BYTES).is_ok();
            self.reserve = Reserve::Kept;
        }
        if !(has_room && is_large) {
            self.spend_reserve();
        }
        has_room
    }

    /// Gives the device what is kept, perhaps since an earlier opening. Whether there was anything.
    pub(crate) fn spend_reserve(&mut self) -> bool {
        let is_kept = self.reserve != Reserve::Spent;
        if is_kept {
            // If this fails there is as little room as before.
            let _ = self.options.place.remove(&beside(&self.options.path, ".reserve"));
            self.reserve = Reserve::Spent;
        }
        is_kept
    }
}

/// Bytes that no file system makes smaller (Marsaglia's xorshift).
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(count / 8).flatten().collect()
}
