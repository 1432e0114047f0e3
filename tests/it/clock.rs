//! A clock that the cache's own threads do not see move.

use std::thread::{self, ThreadId};

use larder::{Clock, ManualClock, Timestamp};

/// Shows its time to the thread that made it only: so the background sweep finds nothing, and what has
/// expired is there until an operation meets it.
pub(crate) struct OwnClock {
    time: ManualClock,
    owner: ThreadId,
}

impl OwnClock {
    pub(crate) fn of(time: &ManualClock) -> Self {
        Self { time: time.clone(), owner: thread::current().id() }
    }
}

impl Clock for OwnClock {
    fn now(&self) -> Timestamp {
        if thread::current().id() == self.owner {
            self.time.now()
        } else {
            Timestamp::from_nanos(0)
        }
    }
}
