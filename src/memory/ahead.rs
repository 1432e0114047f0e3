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
//! As with [`Spots`] (H1), nothing is read at these addresses: one that is stale has a line fetched for nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::hash::KeyHash;
use crate::memory::spots::Spots;
use crate::record::{LINE, fetch_address_ahead};
use crate::sync::lane;

/// The most lines that are noted. `Lfu` tells so many: place, record, link and counters of one entry of the window and
/// one of the edge, and the ghosts of the first.
const LINES: usize = 9;
/// So many entries in a row are brought in by one thread if it is alone; where two take turns by chance, one time in
/// 65,536.
const ALONE: u32 = 16;
/// The most entries that are noted as those that may leave.
const LEAVING: usize = 2;

/// What is noted for the next entry, on two lines; 0 where that is less.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Notes {
    lines: [AtomicUsize; LINES],
    /// The hashes of who may leave, for the slots of the table.
    leaving: [AtomicU64; LEAVING],
    /// Whether nothing is noted: one thread alone brings entries in, or there is no order any more.
    is_silent: AtomicBool,
}

/// Notes what is looked at for the next entry.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    notes: Arc<Notes>,
    lines: usize,
    leaving: usize,
    /// The lane of the thread that brought an entry in last, and how often in a row that was so; [`ALONE`] is enough.
    /// Threads that share one pass for one thread, which costs no more than time.
    lane: usize,
    in_a_row: u32,
}

impl Foresight {
    /// Begins anew, with an entry that this thread brings in.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.begin_in(lane());
    }

    #[inline]
    fn begin_in(&mut self, lane: usize) {
        (self.lines, self.leaving) = (0, 0);
        let was_alone = self.is_alone();
        self.in_a_row = if lane == self.lane { ALONE.min(self.in_a_row + 1) } else { 0 };
        self.lane = lane;
        if self.is_alone() != was_alone {
            self.notes.is_silent.store(self.is_alone(), Ordering::Relaxed);
        }
    }

    /// Has nothing fetched any more: there is no order that would look at it.
    #[cold]
    pub(super) fn end(&self) {
        self.notes.is_silent.store(true, Ordering::Relaxed);
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
        if self.notes.is_silent.load(Ordering::Relaxed) {
            return;
        }
        for line in &self.own {
            fetch_address_ahead(*line);
        }
        let lines = self.notes.lines.iter().map(|line| line.load(Ordering::Relaxed));
        lines.take_while(|line| *line != 0).for_each(fetch_address_ahead);
        let leaving = self.notes.leaving.iter().map(|hash| hash.load(Ordering::Relaxed));
        for hash in leaving.take_while(|hash| *hash != 0).map(KeyHash) {
            spots.fetch_ahead(index(hash), hash.check());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is noted.
    fn noted(ahead: &Ahead) -> (Vec<usize>, Vec<u64>) {
        let Notes { lines, leaving, .. } = &*ahead.notes;
        let lines = lines.iter().map(|line| line.load(Ordering::Relaxed));
        (lines.collect(), leaving.iter().map(|hash| hash.load(Ordering::Relaxed)).collect())
    }

    #[test]
    fn what_is_noted_last_is_there_and_nothing_beyond() {
        let mut foresight = Foresight::default();
        let ahead = foresight.ahead(&[(70, 129), (256, 257)]);
        assert_eq!(*ahead.own, [64, 128, 256]);
        for round in 1..3 {
            foresight.begin_in(1);
            for n in 0..=LINES {
                foresight.note_address(1_000 * round + n);
            }
            for n in 0..3 {
                foresight.note_leaving(KeyHash(10 * round as u64 + n));
            }
        }
        assert_eq!(noted(&ahead), ((2_000..2_000 + LINES).collect(), vec![20, 21]));
    }

    #[test]
    fn nothing_is_noted_while_one_thread_alone_brings_entries_in_or_there_is_no_order() {
        let mut foresight = Foresight::default();
        let is_silent = |ahead: &Ahead| ahead.notes.is_silent.load(Ordering::Relaxed);
        let ahead = foresight.ahead(&[]);
        for _ in 0..=ALONE {
            assert!(!is_silent(&ahead) && !foresight.is_alone());
            foresight.begin_in(1);
        }
        assert!(is_silent(&ahead));
        foresight.note_address(5);
        foresight.note_leaving(KeyHash(5));
        assert_eq!(noted(&ahead), (vec![0; LINES], vec![0; LEAVING]));
        foresight.begin_in(2);
        foresight.note_address(5);
        assert!(!is_silent(&ahead) && noted(&ahead).0[0] == 5);
        foresight.end();
        assert!(is_silent(&ahead));
    }
}
