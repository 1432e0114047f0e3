//! A room: a place in the queue that is promised to a caller.

use super::{Load, Queue};

/// Room in the queue, given back when dropped unless it was used.
#[derive(Debug)]
pub(crate) struct Room<'q> {
    pub(super) queue: &'q Queue,
    pub(super) load: Load,
    pub(super) used: bool,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if !self.used {
            let mut state = self.queue.state.lock();
            state.load = state.load.minus(self.load);
            self.queue.leave_room(&mut state);
            self.queue.progress.notify_all();
        }
    }
}
