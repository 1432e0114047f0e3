//! Soonest deadline first, beside a list that is searched from end to end.

use proptest::prelude::*;

use super::*;
use crate::memory::order::testing::{
    ByRank, Driver, Key, Known, New, Rank, Step, Subject, check, check_adversaries, histories,
};

/// By the deadline; those without one last, by their stamps.
#[derive(Debug, Default)]
struct Deadline;

impl Rank for Deadline {
    type Rank = (bool, Option<u64>, u64, Key);
    const SEES_HITS: bool = true;

    fn of(known: &Known) -> Self::Rank {
        (known.deadline.is_none(), known.deadline, known.stamp, known.key)
    }
}

type Slow = ByRank<Deadline>;

impl Subject for Ttl {
    fn validate(&self, ids: &[EntryId], entries: &dyn Entries) -> Result<(), String> {
        self.filed.validate(ids, entries)?;
        for id in ids {
            let (filed, now) = (self.filed.get(*id), item(*id, entries));
            if filed.is_none_or(|filed| filed.rank > now.rank) {
                return Err(format!("D2: {filed:?} is after {now:?}"));
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn agrees_with_a_list_on_random_histories(steps in histories(16)) {
        check::<Ttl, Slow>(&steps);
    }

    /// So many that the heap has several levels.
    #[test]
    fn agrees_with_a_list_on_random_histories_of_many_keys(steps in histories(80)) {
        check::<Ttl, Slow>(&steps);
    }
}

#[test]
fn agrees_with_a_list_on_hard_histories() {
    check_adversaries::<Ttl, Slow>();
}

fn insert(key: Key, deadline: Option<u64>) -> Step {
    Step::Insert { key, stamp: None, new: New { deadline, ..New::PLAIN } }
}

#[test]
fn what_has_no_deadline_leaves_last_and_by_its_last_access() {
    let mut driver = Driver::<Ttl>::new(Some(4), None);
    for (key, deadline) in [(1, None), (2, Some(900)), (3, None), (4, Some(800))] {
        driver.step(insert(key, deadline));
    }
    driver.ask(1);
    driver.ask(4);
    (5..9).for_each(|key| driver.step(insert(key, None)));
    assert_eq!(driver.left, [4, 2, 3, 1]);
    // Sooner than all that is in, so it stays out itself.
    driver.step(insert(9, Some(950)));
    assert_eq!(driver.left, [4, 2, 3, 1, 9]);
}

/// A stamp that a caller moved back is found late, but nothing else breaks.
#[test]
fn a_stamp_that_went_back_counts_when_it_is_seen() {
    let mut driver = Driver::<Ttl>::new(Some(2), None);
    driver.ask(1);
    driver.ask(2);
    driver.set_stamp(2, 0);
    driver.ask(3);
    driver.ask(4);
    assert_eq!(driver.left, [1, 2]);
}
