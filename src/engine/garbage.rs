//! What left under a lock: kept until the lock is gone, then told the listener, and dropped.

use std::mem::{self, ManuallyDrop};

use crate::entry::{RemovalCause, Tier};
use crate::memory::Removed;
use crate::record::Record;

/// An entry that left, when it was last accessed, from where and why.
type Gone = (Record, u64, Tier, RemovalCause);

/// What left, to be dropped and told when no lock is held. Mostly that is one entry, or none.
#[derive(Debug, Default)]
pub(super) struct Garbage {
    pub(super) records: Few<Gone>,
    /// Of these the listener does not hear.
    pub(super) silent: Few<Record>,
    /// How many touches there are more.
    pub(super) touches: isize,
}

impl Garbage {
    #[inline]
    pub(super) fn note(&mut self, removed: Removed, tier: Tier, cause: RemovalCause) {
        let stamp = removed.recency();
        self.records.push((removed.into_record(), stamp, tier, cause));
    }

    /// Drops all.
    #[inline]
    pub(super) fn discard(self) {
        let Self { records, silent, touches: _ } = self;
        records.discard();
        silent.discard();
    }
}

/// A list that allocates for the second item.
#[derive(Debug)]
pub(super) struct Few<T> {
    first: Option<T>,
    /// Empty if `first` is.
    more: Vec<T>,
}

impl<T> Default for Few<T> {
    #[inline]
    fn default() -> Self {
        Self { first: None, more: Vec::new() }
    }
}

impl<T> Few<T> {
    #[inline]
    pub(super) fn push(&mut self, item: T) {
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.more.push(item);
        }
    }

    /// Drops all. What the compiler makes of dropping is two calls, and this is two comparisons: most
    /// operations that come by here have a list that is empty, or has one item.
    #[inline]
    fn discard(self) {
        let Self { first, more } = self;
        drop(first);
        let mut more = ManuallyDrop::new(more);
        if more.capacity() > 0 {
            drop(mem::take(&mut *more));
        }
    }
}

impl<T> Extend<T> for Few<T> {
    #[inline]
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        items.into_iter().for_each(|item| self.push(item));
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::option::IntoIter<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_what_was_pushed_in_that_order() {
        for count in 0..5 {
            let mut few = Few::default();
            few.extend(0..count);
            assert_eq!(usize::from(few.first.is_some()) + few.more.len(), count);
            few.push(count);
            assert!(few.into_iter().eq(0..=count));
        }
    }
}
