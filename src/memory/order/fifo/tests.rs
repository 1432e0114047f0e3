//! First in, first out, beside a list that is searched from end to end.

use proptest::prelude::*;

use super::*;
use crate::memory::order::testing::{
    ByRank, Driver, Key, Known, New, Rank, Step, Subject, check, check_adversaries, histories,
};
use crate::memory::order::traces::check_traces;

/// By when it was stored.
#[derive(Debug, Default)]
struct Stored;

impl Rank for Stored {
    type Rank = (u64, Key);
    const SEES_HITS: bool = false;

    fn of(known: &Known) -> Self::Rank {
        (known.stamp, known.key)
    }
}

type Slow = ByRank<Stored>;

impl Subject for Fifo {
    fn validate(&self, ids: &[EntryId], entries: &dyn Entries) -> Result<(), String> {
        self.stored.validate(ids, entries)
    }
}

proptest! {
    #[test]
    fn agrees_with_a_list_on_random_histories(steps in histories(16)) {
        check::<Fifo, Slow>(&steps);
    }
}

#[test]
fn agrees_with_a_list_on_hard_histories() {
    check_adversaries::<Fifo, Slow>();
}

#[test]
fn hits_like_the_reference_simulator() {
    check_traces::<Fifo>("FIFO", 0.0);
}

#[test]
fn what_is_late_leaves_in_its_turn() {
    let mut driver = Driver::<Fifo>::new(Some(4), None);
    let insert = |key, stamp| Step::Insert { key, stamp: Some(stamp), new: New::PLAIN };
    for (key, stamp) in [(1, 50), (2, 90), (3, 70), (4, 60)] {
        driver.step(insert(key, stamp));
    }
    // Stored anew.
    driver.step(insert(1, 95));
    // Older than all, so it stays out; hits change nothing.
    driver.step(insert(5, 59));
    driver.step(Step::Get { key: 4, stamp: Some(99), new: New::PLAIN });
    (6..=9).for_each(|key| driver.step(insert(key, 100)));
    assert_eq!(driver.left, [5, 4, 3, 2, 1]);
}

/// Nobody is filed in the heap where stamps ascend, so insertion does not depend on how many there are.
#[test]
fn ascending_stamps_use_the_queue_alone() {
    let mut driver = Driver::<Fifo>::new(Some(10), None);
    (0..100).for_each(|key| driver.ask(key));
    assert!(driver.order.stored.late().next().is_none());
    assert!(driver.left.iter().copied().eq(0..90));
}
