//! What commits changed, for those who read the file in slices and have to know what moved behind them.
//!
//! Nobody watches most of the time, and then nothing is noted. While somebody does, each commit leaves
//! its changes here before readers see its snapshot: so whoever has a snapshot, and takes the changes
//! after that, has all that led to it.

use crate::sync::Mutex;

/// What one commit changed in the rows that were there before it.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    /// Rows that were taken out: place and charge.
    pub(super) taken: Vec<(u64, u64)>,
    /// Keys that were given another stamp, or another place in the order of eviction.
    pub(super) touched: Vec<Box<[u8]>>,
    /// Anything may be different.
    pub(super) all: bool,
}

impl Changes {
    /// Adds what the next commit changed.
    pub(super) fn add(&mut self, next: Self) {
        self.taken.extend(next.taken);
        self.touched.extend(next.touched);
        self.all |= next.all;
    }
}

/// The changes of commits, each with the number of the snapshot that shows it, for one watcher.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Option<Vec<(u64, Changes)>>>);

/// As many rows may be noted until the watcher takes them, 16 bytes each; beyond that it is told that
/// anything may be different.
const TAKEN_MAX: usize = 1 << 20;

impl Log {
    /// Begins to watch.
    pub(super) fn watch(&self) {
        *self.0.lock() = Some(Vec::new());
    }

    pub(super) fn unwatch(&self) {
        *self.0.lock() = None;
    }

    /// Where a commit is to note its changes, if somebody watches.
    pub(super) fn begin(&self) -> Option<Changes> {
        self.0.lock().as_ref().map(|_| Changes::default())
    }

    /// Leaves the changes of a commit that began when nobody watched as `None`.
    pub(super) fn leave(&self, epoch: u64, changes: Option<Changes>) {
        if let Some(log) = &mut *self.0.lock() {
            let unknown = || Changes { all: true, ..Changes::default() };
            // No watcher looks at stamps.
            let known = changes.map(|changes| Changes { touched: Vec::new(), ..changes });
            log.push((epoch, known.unwrap_or_else(unknown)));
            if log.iter().map(|(_, changes)| changes.taken.len()).sum::<usize>() > TAKEN_MAX {
                let first = log.first().map_or(epoch, |(first, _)| *first);
                *log = vec![(first, unknown())];
            }
        }
    }

    /// Takes what was left since the last time.
    pub(super) fn take(&self) -> Vec<(u64, Changes)> {
        self.0.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }
}
