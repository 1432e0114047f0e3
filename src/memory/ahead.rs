//! What an order will look at for the next entry that comes in, so that all of it is on its way before the order's
//! lock is taken.
//!
//! Who comes in looks at the order, then at whom that names: its number, its record, its link, the counters of
//! its key, and the slot of the table that it leaves. Each is a line that the processor does not ask for before it has
//! the one before, and where several threads insert, most were last written by another one. So when an entry has come
//! in, the order notes these addresses here; who comes next has all of them fetched at once, and makes its
//! record meanwhile.
//!
//! Where one thread alone brings entries in, they are fetched as soon as they are known: then the next one is
//! brought in by the same core, and they have more time.
//!
//! # Invariants
//!
//! - **H2** as with [`Spots`], nothing is read at these addresses. One that is stale has a line fetched for nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::hash::KeyHash;
use crate::memory::spots::Spots;
use crate::record::fetch_address_ahead;
use crate::sync::lane;

/// Bytes of a line.
const LINE: usize = 64;
/// The most lines that are noted; `Lfu` has so many.
const LINES: usize = 9;
/// So many entries in a row are brought in by one thread if it is alone; where two take turns by chance, one time in
/// 65,536.
const ALONE: u32 = 16;
/// The most entries that are noted as those that may leave.
const LEAVING: usize = 2;

/// What is noted for the next entry, on two lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Notes {
    lines: [AtomicUsize; LINES],
    /// The hashes of who may leave, for the slots of the table.
    leaving: [AtomicU64; LEAVING],
    /// Whether nothing is noted, as one thread alone brings entries in.
    is_alone: AtomicBool,
}

/// Notes what is looked at for the next entry.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    notes: Arc<Notes>,
    lines: usize,
    leaving: usize,
    /// The lane of the thread that brought an entry in last, and how often in a row that was so; [`ALONE`] is enough.
    lane: usize,
    in_a_row: u32,
}

impl Foresight {
    /// Begins anew, with an entry that this thread brings in.
    #[inline]
    pub(super) fn begin(&mut self) {
        (self.lines, self.leaving) = (0, 0);
        let (lane, was_alone) = (lane(), self.is_alone());
        self.in_a_row = if lane == self.lane { ALONE.min(self.in_a_row + 1) } else { 0 };
        self.lane = lane;
        if self.is_alone() != was_alone {
            self.notes.is_alone.store(self.is_alone(), Ordering::Relaxed);
        }
    }

    /// Whether one thread alone brings entries in.
    #[inline]
    pub(super) fn is_alone(&self) -> bool {
        self.in_a_row == ALONE
    }

    /// Notes what begins here, or has it fetched.
    #[inline]
    pub(super) fn note<T>(&mut self, of: &T) {
        self.note_address(std::ptr::from_ref(of).addr());
    }

    #[inline]
    pub(super) fn note_address(&mut self, address: usize) {
        if self.is_alone() {
            fetch_address_ahead(address);
        } else if let Some(line) = self.notes.lines.get(self.lines) {
            line.store(address, Ordering::Relaxed);
            self.lines += 1;
        }
    }

    /// Notes an entry that may leave.
    #[inline]
    pub(super) fn note_leaving(&mut self, hash: KeyHash) {
        if !self.is_alone()
            && let Some(leaving) = self.notes.leaving.get(self.leaving)
        {
            leaving.store(hash.0, Ordering::Relaxed);
            self.leaving += 1;
        }
    }

    /// What somebody reads who does not have the lock; the order itself is in `places`, from an address to another.
    pub(super) fn ahead(&self, places: &[(usize, usize)]) -> Ahead {
        let lines = |(from, to): &(usize, usize)| (from / LINE * LINE..*to).step_by(LINE);
        Ahead { own: places.iter().flat_map(lines).collect(), notes: Arc::clone(&self.notes) }
    }
}

/// Where something is: from this address to that one.
pub(super) fn place_of<T>(of: &T) -> (usize, usize) {
    let from = std::ptr::from_ref(of).addr();
    (from, from + size_of::<T>())
}

/// What is fetched for who brings an entry in.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The lines of the order itself, which does not move.
    own: Box<[usize]>,
    notes: Arc<Notes>,
}

impl Ahead {
    /// Has the processor fetch everything that is noted; `index` gives the shard of a hash.
    #[inline]
    pub(super) fn fetch(&self, spots: &Spots, index: impl Fn(KeyHash) -> usize) {
        if self.notes.is_alone.load(Ordering::Relaxed) {
            return;
        }
        for line in &self.own {
            fetch_address_ahead(*line);
        }
        for line in &self.notes.lines {
            fetch_address_ahead(line.load(Ordering::Relaxed));
        }
        for hash in &self.notes.leaving {
            let hash = KeyHash(hash.load(Ordering::Relaxed));
            spots.fetch_ahead(index(hash), hash.check());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_last_is_what_is_fetched_and_nothing_beyond() {
        let mut foresight = Foresight::default();
        let ahead = foresight.ahead(&[(70, 129), (256, 257)]);
        assert_eq!(*ahead.own, [64, 128, 256]);
        for round in 1..3 {
            foresight.begin();
            for n in 0..=LINES {
                foresight.note_address(1_000 * round + n);
            }
            for n in 0..3 {
                foresight.note_leaving(KeyHash(n));
            }
        }
        let lines = ahead.notes.lines.each_ref().map(|line| line.load(Ordering::Relaxed));
        assert!(lines.iter().zip(2_000..).all(|(line, n)| *line == n), "{lines:?}");
        assert_eq!(ahead.notes.leaving[1].load(Ordering::Relaxed), 1);
    }

    #[test]
    fn nothing_is_noted_while_one_thread_alone_brings_entries_in() {
        let mut foresight = Foresight::default();
        let is_alone = |ahead: &Ahead| ahead.notes.is_alone.load(Ordering::Relaxed);
        let ahead = foresight.ahead(&[]);
        for _ in 0..=ALONE {
            assert!(!is_alone(&ahead) && !foresight.is_alone());
            foresight.begin();
            if foresight.in_a_row == ALONE {
                break;
            }
        }
        assert!(is_alone(&ahead));
        foresight.note_address(5);
        foresight.note_leaving(KeyHash(5));
        assert_eq!(ahead.notes.lines[0].load(Ordering::Relaxed), 0);
        assert_eq!(ahead.notes.leaving[0].load(Ordering::Relaxed), 0);
        let mut begin = || std::thread::scope(|scope| scope.spawn(|| foresight.begin()).join());
        begin().unwrap();
        foresight.note_address(5);
        assert!(!is_alone(&ahead) && !foresight.is_alone());
        assert_eq!(ahead.notes.lines[0].load(Ordering::Relaxed), 5);
    }
}
