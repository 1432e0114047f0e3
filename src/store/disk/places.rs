//! Where entries are, as far as earlier look-ups showed it: so that one is read from the file at once, past
//! redb's trees and its cache.
//!
//! # How it works
//!
//! Buckets of a few slots, found by a part of the key's hash. A slot has the rest of the hash, what the index
//! says of the key, and where the row is: its place or, where redb had to read the page that it is on, for it
//! or for the row that this thread looked for before, the bytes of the file. Who finds such a slot reads just
//! these bytes, and compares the key and the row's own checksum; where anything differs, or nothing is known,
//! the way is through redb, which also meets damage and says so. So slots are lost freely. A commit exchanges
//! the stamps that it changed, and drops the slots of what it took out or replaced, before its operations
//! leave the pending maps.
//!
//! As long as the whole file fits the page cache no bytes are noted: redb is faster where it has no page to
//! fetch. Rows that reach out of their page's first block are for redb, too.
//!
//! # Invariants
//!
//! - **W1** a slot says what the index says of its key in the snapshot of each commit since it was made, or
//!   the commit that changed that is out and the operation still pending, so that nobody relies on it. What a
//!   reader saw is noted only if that snapshot was the newest when it asked, and nothing in the bucket
//!   changed since ([`Asked`]).
//! - **W2** bytes that are noted are those of a row that redb found by its place, in a block that was not
//!   written since: writes are counted, by block, before they are done and after. So what looks like a row
//!   amid the bytes of a value, or is left of an older one, never comes to be taken for this. Besides, a part
//!   of the row's checksum is noted: a device that goes back to older bytes does not go unnoticed.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::hash::KeyHash;
use crate::record::fetch_line_ahead;
use crate::store::disk::blocks::{BLOCK, BLOCK_BYTES, Watch, place_of};
use crate::store::disk::holding::Holding;
use crate::store::disk::leaf::Leaf;
use crate::store::disk::schema::split_row;
use crate::sync::{BriefMutex, CachePadded, Mutex};

/// So much of the page cache's bytes, one in this many, is for slots.
const PART: usize = 3;
/// Buckets are made so many at a time, when the first of them is needed.
const TOGETHER: usize = 32;
/// A bucket is used for so many bytes of the file, rounded up to a power of two: with entries of a fifth of
/// that there is a slot for each.
const BYTES_PER_BUCKET: u64 = 256 * SLOTS as u64;
const BUCKET_BYTES: usize = size_of::<CachePadded<BriefMutex<Bucket>>>();
/// More bits are not taken from the hash.
const BUCKETS_MAX: usize = 1 << BUCKET_BITS;
/// The lowest bits of the hash choose the bucket, ...
const BUCKET_BITS: u32 = 24;
/// ... the others are in the slot, the lowest few of them beside where the row is.
const TAG_LOW_BITS: u32 = 8;
const SLOTS: usize = 5;
/// Writes are counted by block, modulo this: what shares a count with a block that is written is looked for
/// through redb once more.
const COUNTS: usize = 1 << 16;

thread_local! {
    /// What this thread reads rows into.
    static BUFFER: Cell<Option<Box<[u8; BLOCK]>>> = const { Cell::new(None) };
    /// The last page of rows that redb has read for this thread.
    static MET: RefCell<Met> = const { RefCell::new(Met { of: 0, spots: Vec::new() }) };
}

/// Numbers those that there are, from 1.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// A page of rows.
#[derive(Debug)]
struct Met {
    /// Whose.
    of: u64,
    /// By place.
    spots: Vec<(u64, Spot)>,
}

/// The bytes of a row in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    block: u32,
    start: u16,
    len: u16,
    /// What was counted for the block before it was read; never zero.
    writes: u16,
    /// Of the row's checksum.
    print: u16,
}

impl Spot {
    /// That of a row on a page that begins at a block, for which so many writes were counted before the page
    /// was read.
    fn on_page(block: u64, page: &[u8], range: Range<usize>, writes: u16) -> Option<Self> {
        let is_inside = range.end <= BLOCK && range.len() < BLOCK;
        let block = u32::try_from(block).ok().filter(|_| is_inside)?;
        let (start, len) = (u16::try_from(range.start).ok()?, u16::try_from(range.len()).ok()?);
        let print = print_of(page.get(range)?)?;
        Some(Self { block, start, len, writes, print })
    }
}

/// A part of the checksum of what is stored, key and row.
fn print_of(stored: &[u8]) -> Option<u16> {
    split_row(stored)?.1.first_chunk().map(|print| u16::from_le_bytes(*print))
}

/// Where a row is known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lead {
    Place(u64),
    Spot(Spot),
}

/// What is known of a key, as three numbers: its stamp; 56 bits of where, and 8 of the hash; 32 of the hash,
/// and of a spot its count and its print. All zero for nothing. In halves, so that a bucket has room for its
/// lock.
#[derive(Debug, Clone, Copy, Default)]
struct Slot([u32; 6]);

impl Slot {
    /// `None` if the place has no room: that is for redb, then.
    fn new(hash: KeyHash, stamp: u64, lead: Lead) -> Option<Self> {
        let (at, more) = match lead {
            // So nothing is all zero.
            Lead::Place(place) => (place.checked_add(1)?, 0),
            Lead::Spot(spot) => (
                u64::from(spot.block) << 24 | u64::from(spot.start) << 12 | u64::from(spot.len),
                u64::from(spot.writes) << 16 | u64::from(spot.print),
            ),
        };
        if at >> (64 - TAG_LOW_BITS) != 0 {
            return None;
        }
        let tag = hash.0 >> BUCKET_BITS;
        let low = tag & ((1 << TAG_LOW_BITS) - 1);
        let words = [stamp, at << TAG_LOW_BITS | low, tag >> TAG_LOW_BITS << 32 | more];
        let mut slot = Self::default();
        for (halves, word) in slot.0.as_chunks_mut().0.iter_mut().zip(words) {
            *halves = halves_of(word);
        }
        Some(slot)
    }

    fn word(&self, nth: usize) -> u64 {
        let [low, high] = self.0.as_chunks().0.get(nth).copied().unwrap_or_default();
        u64::from(high) << 32 | u64::from(low)
    }

    fn stamp(&self) -> u64 {
        self.word(0)
    }

    fn is_of(&self, hash: KeyHash) -> bool {
        let tag = hash.0 >> BUCKET_BITS;
        let low = (1 << TAG_LOW_BITS) - 1;
        self.word(1) & low == tag & low
            && self.word(2) >> 32 == tag >> TAG_LOW_BITS
            && !self.is_free()
    }

    fn is_free(&self) -> bool {
        self.word(1) >> TAG_LOW_BITS == 0
    }

    fn lead(&self) -> Lead {
        let at = self.word(1) >> TAG_LOW_BITS;
        let [more, _] = halves_of(self.word(2));
        let [print, writes] = [more & 0xFFFF, more >> 16].map(|part| part.try_into().unwrap_or(0));
        if writes == 0 {
            return Lead::Place(at - 1);
        }
        let [start, len] = [at >> 12 & 0xFFF, at & 0xFFF].map(|part| part.try_into().unwrap_or(0));
        Lead::Spot(Spot { block: (at >> 24).try_into().unwrap_or(0), start, len, writes, print })
    }
}

/// The lower and the upper half.
fn halves_of(word: u64) -> [u32; 2] {
    [word & u64::from(u32::MAX), word >> 32].map(|half| half.try_into().unwrap_or(0))
}

/// As large as two lines, lock included.
#[derive(Debug, Default)]
struct Bucket {
    slots: [Slot; SLOTS],
    /// Counts what was noted, exchanged or dropped here.
    changes: u32,
}
const _: () = assert!(cfg!(shuttle) || BUCKET_BYTES == 128, "a bucket is two lines");

/// What was known when it was asked for, and what has to be so still when more is to be noted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    hash: KeyHash,
    /// The bucket.
    nth: usize,
    /// Of the bucket; `None` if the snapshot is not that of the last commit.
    changes: Option<u32>,
    /// With the stamp of the last access.
    pub(super) known: Option<(u64, Lead)>,
}

/// What a commit makes of what is known of a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// Its entry was replaced, or is gone.
    Gone,
    /// Its stamp was the one, and is the other.
    Stamp(u64, u64),
}

type Buckets = [CachePadded<BriefMutex<Bucket>>; TOGETHER];

/// The places and spots of a file's rows.
#[derive(Debug)]
pub(super) struct Places {
    file: Arc<Holding>,
    watch: Arc<Watch>,
    number: u64,
    /// Of the newest snapshot.
    epoch: AtomicU64,
    /// Whether redb has room for all of the file.
    is_cached: AtomicBool,
    pages_bytes: usize,
    buckets: Box<[OnceLock<Box<Buckets>>]>,
    /// How many of them are used, which doubles as the file grows. What was noted before is out of reach then, or
    /// where it was. Only the writer's commits change it: who sees an operation settled sees that, too (W1).
    used: AtomicUsize,
    /// Buckets are made with it; and it is taken between a new epoch and the changes of its commit, so that
    /// either these find a bucket, or who made it finds the epoch (W1).
    making: Mutex<()>,
    writes: Box<[AtomicU16]>,
}

impl Places {
    /// For a file that has a page cache of so many bytes.
    pub(super) fn new(file: Arc<Holding>, watch: Arc<Watch>, cache_bytes: usize) -> Self {
        let together = TOGETHER * BUCKET_BYTES;
        let count = (cache_bytes / PART / together).clamp(1, BUCKETS_MAX / TOGETHER);
        let new = Self {
            file,
            watch,
            number: LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1,
            epoch: AtomicU64::new(0),
            is_cached: AtomicBool::new(false),
            pages_bytes: cache_bytes - (count * together).min(cache_bytes / PART),
            buckets: (0..count).map(|_| OnceLock::new()).collect(),
            used: AtomicUsize::new(1),
            making: Mutex::default(),
            writes: (0..COUNTS).map(|_| AtomicU16::new(0)).collect(),
        };
        new.set_len(new.file.len().unwrap_or(u64::MAX));
        new
    }

    /// Notes how long the file is.
    pub(super) fn set_len(&self, len: u64) {
        self.is_cached.store(len <= self.pages_bytes as u64, Ordering::Relaxed);
        let most = self.buckets.len() * TOGETHER;
        let wanted = usize::try_from((len / BYTES_PER_BUCKET).next_power_of_two());
        self.used.fetch_max(wanted.unwrap_or(most).min(most), Ordering::Relaxed);
    }

    /// What slots leave of the page cache's bytes, once there are all.
    pub(super) fn pages_bytes(&self) -> usize {
        self.pages_bytes
    }

    /// The number of a key's bucket.
    fn nth(&self, hash: KeyHash) -> usize {
        let bits = hash.0 & ((1 << BUCKET_BITS) - 1);
        let used = self.used.load(Ordering::Relaxed) as u64;
        usize::try_from((bits * used) >> BUCKET_BITS).unwrap_or(0)
    }

    /// A bucket, if it was made.
    fn made(&self, nth: usize) -> Option<&BriefMutex<Bucket>> {
        let some = self.buckets.get(nth / TOGETHER)?.get()?;
        some.get(nth % TOGETHER).map(|bucket| &**bucket)
    }

    /// Has the processor fetch the bucket of a key.
    #[inline]
    pub(super) fn fetch_ahead(&self, hash: KeyHash) {
        if let Some(bucket) = self.made(self.nth(hash)) {
            fetch_line_ahead(bucket);
        }
    }

    /// Makes a bucket, and those beside it.
    #[cold]
    fn make(&self, nth: usize) -> Option<&BriefMutex<Bucket>> {
        let _making = self.making.lock();
        let some = self.buckets.get(nth / TOGETHER)?.get_or_init(Box::default);
        some.get(nth % TOGETHER).map(|bucket| &**bucket)
    }

    /// What is known of a key; `epoch` is that of the snapshot in which more is looked for.
    pub(super) fn ask(&self, hash: KeyHash, epoch: u64) -> Asked {
        let nth = self.nth(hash);
        let Some(bucket) = self.made(nth).or_else(|| self.make(nth)) else {
            return Asked { hash, nth, changes: None, known: None };
        };
        let bucket = bucket.lock();
        let slot = bucket.slots.iter().find(|slot| slot.is_of(hash));
        let known = slot.map(|slot| (slot.stamp(), slot.lead()));
        let changes = bucket.changes;
        drop(bucket);
        // After the bucket was looked at: if it is the newest now, no later commit has changed it (W1).
        let is_newest = self.epoch.load(Ordering::Acquire) == epoch;
        Asked { hash, nth, changes: is_newest.then_some(changes), known }
    }

    /// Notes where the row of a key is that was asked for, and the stamp of its last access.
    pub(super) fn note(&self, asked: Asked, stamp: u64, lead: Lead) {
        // In the bucket that was asked, though another may be the key's by now: that one was not looked at.
        let (Some(slot), Some(bucket)) = (Slot::new(asked.hash, stamp, lead), self.made(asked.nth))
        else {
            return;
        };
        let mut bucket = bucket.lock();
        if asked.changes != Some(bucket.changes) {
            return;
        }
        let taken = bucket.slots.iter().position(|slot| slot.is_of(asked.hash));
        let taken = taken.or_else(|| bucket.slots.iter().position(Slot::is_free));
        let taken = taken.unwrap_or(bucket.changes as usize % SLOTS);
        if let Some(place) = bucket.slots.get_mut(taken) {
            *place = slot;
        }
        bucket.changes = bucket.changes.wrapping_add(1);
    }

    /// From now on this is the epoch of the newest snapshot. Call before the changes of its commit are told.
    pub(super) fn begin(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
        drop(self.making.lock());
    }

    /// Takes over what a commit has changed, before its operations are settled (W1).
    pub(super) fn change(&self, hash: KeyHash, change: Change) {
        let Some(bucket) = self.made(self.nth(hash)) else { return };
        let mut bucket = bucket.lock();
        bucket.changes = bucket.changes.wrapping_add(1);
        if let Some(slot) = bucket.slots.iter_mut().find(|slot| slot.is_of(hash)) {
            let changed = match change {
                Change::Stamp(old, new) if old == slot.stamp() => Slot::new(hash, new, slot.lead()),
                Change::Stamp(..) | Change::Gone => None,
            };
            *slot = changed.unwrap_or_default();
        }
    }

    /// Forgets everything, since a commit may have changed everything.
    pub(super) fn change_all(&self) {
        for bucket in self.buckets.iter().filter_map(OnceLock::get).flat_map(|some| some.iter()) {
            let mut bucket = bucket.lock();
            bucket.slots = Default::default();
            bucket.changes = bucket.changes.wrapping_add(1);
        }
    }

    /// What is counted for a block; never zero.
    pub(super) fn writes(&self, block: u64) -> u16 {
        self.count(block).map_or(0, |count| count.load(Ordering::SeqCst)) | 1 << 15
    }

    /// Counts that blocks are written, or were.
    pub(super) fn wrote(&self, first: u64, count: usize) {
        for block in first..first + count as u64 {
            if let Some(count) = self.count(block) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn count(&self, block: u64) -> Option<&AtomicU16> {
        self.writes.get(usize::try_from(block % COUNTS as u64).unwrap_or(0))
    }

    /// redb has read a page for a look-up in the table of rows, which begins at a block, for which so many
    /// writes were counted before.
    pub(super) fn met(&self, block: u64, page: &[u8], writes: u16) {
        let Some(leaf) = Leaf::of(page).filter(|_| !self.is_cached.load(Ordering::Relaxed)) else {
            return;
        };
        let spot = |(place, range): (u64, Option<Range<usize>>)| {
            Some((place, Spot::on_page(block, page, range?, writes)?))
        };
        // A thread that ends may have none any more.
        let _ = MET.try_with(|met| {
            let mut met = met.borrow_mut();
            met.of = self.number;
            met.spots.clear();
            met.spots.extend(leaf.rows().filter_map(spot));
        });
    }

    /// Where the row of a place is, if that is on the page that redb has read last for this thread.
    pub(super) fn spot(&self, place: u64) -> Option<Spot> {
        let find = |met: &RefCell<Met>| {
            let met = met.borrow();
            let (_, spot) = met.spots.iter().find(|(of, _)| *of == place)?;
            (met.of == self.number && self.writes(spot.block.into()) == spot.writes)
                .then_some(*spot)
        };
        MET.try_with(find).ok().flatten()
    }

    /// What `read` makes of what is stored at a spot, key and row; `None` if something else is there by now,
    /// or `read` wants none of it.
    pub(super) fn read<R>(&self, spot: Spot, read: impl FnOnce(&[u8]) -> Option<R>) -> Option<R> {
        self.watch.check().ok()?;
        // A thread that ends may have no buffer any more, and still read.
        let buffer = BUFFER.try_with(Cell::take).ok().flatten();
        let mut buffer = buffer.unwrap_or_else(|| Box::new([0; BLOCK]));
        let found = self.read_into(spot, &mut buffer).and_then(read);
        let _ = BUFFER.try_with(|kept| kept.set(Some(buffer)));
        found
    }

    fn read_into<'b>(&self, spot: Spot, buffer: &'b mut [u8; BLOCK]) -> Option<&'b [u8]> {
        let block = u64::from(spot.block);
        let stored = buffer.get_mut(..spot.len.into())?;
        if let Some(count) = self.count(block) {
            fetch_line_ahead(count);
        }
        self.file.read(place_of(block) * BLOCK_BYTES + u64::from(spot.start), stored).ok()?;
        // After it was read (W2).
        let is_it = self.writes(block) == spot.writes && print_of(stored) == Some(spot.print);
        is_it.then_some(stored)
    }
}

#[cfg(test)]
mod tests;
