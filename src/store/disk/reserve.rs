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
    Kept,
    Spent,
}

impl Writer {
    /// Keeps room where the cache file, which occupies so many bytes, is large enough for that.
    pub(crate) fn keep_reserve(&mut self, occupied: u64) {
        match self.reserve {
            Reserve::Spent if occupied >= KEPT_FROM => {
                let path = beside(&self.options.path, ".reserve");
                self.reserve = Reserve::Kept;
                if self.options.place.write(&path, &noise(RESERVE_BYTES)).is_err() {
                    self.spend_reserve();
                }
            }
            Reserve::Kept if occupied < KEPT_FROM / 2 => self.spend_reserve(),
            Reserve::Kept | Reserve::Spent => {}
        }
    }

    /// Gives the device what is kept, perhaps since an earlier opening.
    pub(crate) fn spend_reserve(&mut self) {
        // If this fails there is as little room as before.
        let _ = self.options.place.remove(&beside(&self.options.path, ".reserve"));
        self.reserve = Reserve::Spent;
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
