//! What commits changed, for those who read the file in slices and have to know what moved behind them.
//!
//! Nobody watches most of the time, and then nothing is noted. While somebody does, each commit leaves
//! its changes here before readers see its snapshot: so whoever has a snapshot, and takes the changes
//! after that, has all that led to it. Whoever begins to watch between the two is told that the snapshot to
//! come may differ in anything.

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
    /// What is said of a commit of which nothing was noted.
    fn unknown() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Adds what the next commit changed.
    pub(super) fn add(&mut self, next: Self) {
        self.taken.extend(next.taken);
        self.touched.extend(next.touched);
        self.all |= next.all;
    }
}

/// The changes of commits, each with the number of the snapshot that shows it, for one watcher.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// The snapshot that shows what was left last, watched or not.
    newest: u64,
    /// Nothing while nobody watches.
    log: Option<Vec<(u64, Changes)>>,
}

/// As many rows may be noted until the watcher takes them, 16 bytes each; beyond that it is told that
/// anything may be different.
const TAKEN_MAX: usize = 1 << 20;

impl Log {
    /// Begins to watch.
    pub(super) fn watch(&self) {
        let mut noted = self.0.lock();
        noted.log = Some(vec![(noted.newest, Changes::unknown())]);
    }

    pub(super) fn unwatch(&self) {
        self.0.lock().log = None;
    }

    /// Where a commit is to note its changes, if somebody watches.
    pub(super) fn begin(&self) -> Option<Changes> {
        self.0.lock().log.as_ref().map(|_| Changes::default())
    }

    /// Leaves the changes of a commit that began when nobody watched as `None`.
    pub(super) fn leave(&self, epoch: u64, changes: Option<Changes>) {
        let mut noted = self.0.lock();
        noted.newest = epoch;
        if let Some(log) = &mut noted.log {
            // No watcher looks at stamps.
            let known = changes.map(|changes| Changes { touched: Vec::new(), ..changes });
            log.push((epoch, known.unwrap_or_else(Changes::unknown)));
            if log.iter().map(|(_, changes)| changes.taken.len()).sum::<usize>() > TAKEN_MAX {
                let first = log.first().map_or(epoch, |(first, _)| *first);
                *log = vec![(first, Changes::unknown())];
            }
        }
    }

    /// Takes what was left since the last time.
    pub(super) fn take(&self) -> Vec<(u64, Changes)> {
        self.0.lock().log.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its snapshot may not be out yet, and nothing of it was noted.
    #[test]
    fn who_begins_to_watch_knows_nothing_of_the_last_commit() {
        let log = Log::default();
        log.leave(7, None);
        log.watch();
        log.leave(8, log.begin());
        let taken: Vec<_> = log.take().into_iter().map(|(epoch, c)| (epoch, c.all)).collect();
        assert_eq!(taken, [(7, true), (8, false)]);
        log.leave(9, None);
        assert!(log.take().into_iter().all(|(epoch, changes)| epoch == 9 && changes.all));
    }
}
