//! Requests to the writer that are answered by a commit.

use std::collections::VecDeque;

/// What callers ask the writer for, and wait for: it is done with the first commit that has all that
/// was queued when they asked, so nobody waits for what others go on queueing.
#[derive(Debug)]
pub(super) struct Asked<T> {
    /// The ticket of each, the last number at that time, and what was asked; at most two.
    open: VecDeque<(u64, u64, T)>,
    /// The last ticket given out, and the last one answered.
    last: u64,
    pub(super) done: u64,
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self { open: VecDeque::new(), last: 0, done: 0 }
    }
}

impl<T> Asked<T> {
    /// Whether nothing is asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// What was asked for last and is not answered.
    pub(super) fn latest(&self) -> Option<&T> {
        self.open.back().map(|(_, _, what)| what)
    }

    /// Gives the ticket. Those that come while one is open are answered together, behind it.
    pub(super) fn ask(&mut self, number: u64, what: T) -> u64 {
        self.last += 1;
        self.open.truncate(1);
        self.open.push_back((self.last, number, what));
        self.last
    }

    /// Takes what a commit up to `number` answers; gives the last ticket of it.
    pub(super) fn take(&mut self, number: u64) -> Option<(u64, T)> {
        let due = self.open.iter().take_while(|(_, asked, _)| *asked <= number).count();
        self.open.drain(..due).next_back().map(|(ticket, _, what)| (ticket, what))
    }

    pub(super) fn answer(&mut self, ticket: Option<u64>) {
        self.done = self.done.max(ticket.unwrap_or(0));
    }
}
