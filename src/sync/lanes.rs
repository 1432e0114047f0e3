//! A value that many read and that is seldom exchanged: each thread takes it from a lane of its own, so that
//! threads which read at once write to no common line.
//!
//! A lane has a lock and a counter of its own. Whoever exchanges the value does so lane after lane: for a
//! moment some threads get the new one and others the old one still.

use std::cell::Cell;
// Which lane a thread has outlives a run of a model, and nothing is decided by it.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::{CachePadded, RwLock};

/// More threads than that share some.
pub(crate) const LANES: usize = if cfg!(shuttle) { 2 } else { 8 };

/// The lane of the next thread that asks for one.
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static LANE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// This thread's, below [`LANES`].
pub(crate) fn lane() -> usize {
    LANE.get().unwrap_or_else(|| {
        let lane = NEXT.fetch_add(1, Ordering::Relaxed) % LANES;
        LANE.set(Some(lane));
        lane
    })
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
