//! What many threads use at once without writing to a common line: each has a lane, and its own of each lane.
//!
//! [`Lanes`] is a value that many read and that is seldom exchanged. A lane has a lock and a counter of its own.
//! Whoever exchanges the value does so lane after lane: for a moment some threads get the new one and others the
//! old one still.
//!
//! [`LaneCounts`] is a count that many raise under locks of their own, and that is seldom read.

use std::cell::Cell;
// Which lane a thread has outlives a run of a model, and nothing but what is fetched ahead is decided by it.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::sync::{CachePadded, RwLock};

/// More threads than that share some.
pub(crate) const LANES: usize = if cfg!(shuttle) { 2 } else { 8 };

/// Counts on one line of the processor's cache, and the one beside it that it fetches along.
const ON_A_LINE: usize = 16;

/// The lane of the next thread that asks for one.
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// [`LANES`] until the thread has one.
    static LANE: Cell<usize> = const { Cell::new(LANES) };
}

/// This thread's, below [`LANES`].
#[inline]
pub(crate) fn lane() -> usize {
    match LANE.get() {
        LANES => take_lane(),
        lane => lane,
    }
}

#[cold]
fn take_lane() -> usize {
    let lane = NEXT.fetch_add(1, Ordering::Relaxed) % LANES;
    LANE.set(lane);
    lane
}

/// The value, counted once for all of a lane.
pub(crate) type InLane<T> = Arc<Arc<T>>;

type Lane<T> = CachePadded<RwLock<Option<InLane<T>>>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Lanes<T>([Lane<T>; LANES]);

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| CachePadded::new(RwLock::new(None))))
    }
}

impl<T> Lanes<T> {
    /// The value, counted in this thread's lane.
    pub(crate) fn get(&self) -> Option<InLane<T>> {
        self.0.get(lane())?.read().clone()
    }

    /// Exchanges it.
    pub(crate) fn set(&self, value: Option<&Arc<T>>) {
        for lane in &self.0 {
            let value = value.map(|value| Arc::new(Arc::clone(value)));
            let old = std::mem::replace(&mut *lane.write(), value);
            drop(old);
        }
    }
}

/// What happened in each of several parts, each of which has a lock; see the module.
///
/// Who counts has the lock of the part, so there is no exchange; and each thread has a line of its own for all
/// parts, so none goes from one to the other with the lock.
#[derive(Debug, Clone)]
pub(crate) struct LaneCounts {
    /// By lane and part.
    counts: Arc<[AtomicU64]>,
    /// From one lane to the next.
    stride: usize,
}

impl LaneCounts {
    pub(crate) fn new(parts: usize) -> Self {
        // One line between two lanes that neither writes to, wherever the first begins.
        let stride = parts.next_multiple_of(ON_A_LINE) + ON_A_LINE;
        Self { counts: (0..LANES * stride).map(|_| AtomicU64::new(0)).collect(), stride }
    }

    /// Counts in a part of which the caller has the lock.
    #[inline]
    pub(crate) fn add(&self, part: usize, n: u64) {
        let count = &self.counts[lane() * self.stride + part];
        count.store(count.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// The sum over all parts, as it was lately: it is exact when nobody counts.
    pub(crate) fn sum(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The sum of one part, likewise.
    pub(crate) fn of(&self, part: usize) -> u64 {
        let lanes = self.counts.chunks(self.stride);
        lanes.map(|lane| lane[part].load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Mutex;

    #[test]
    fn nothing_is_lost_of_what_more_threads_than_lanes_count() {
        let parts: Vec<Mutex<()>> = (0..=ON_A_LINE).map(|_| Mutex::new(())).collect();
        let counts = LaneCounts::new(parts.len());
        let (threads, each) = (LANES + 3, if cfg!(miri) { 20 } else { 5_000 });
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for nth in 0..each {
                        let part = nth % parts.len();
                        let _held = parts[part].lock();
                        counts.add(part, 1 + nth as u64 % 2);
                    }
                });
            }
        });
        let of_one: u64 = (0..each as u64).map(|nth| 1 + nth % 2).sum();
        assert_eq!(counts.sum(), threads as u64 * of_one);
    }
}
