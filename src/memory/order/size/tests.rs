//! GreedyDual-Size-Frequency beside a list that is searched from end to end, with a level that never
//! begins anew.

use proptest::prelude::*;

use super::*;
use crate::memory::order::testing::{
    Choice, Driver, Key, Known, New, Reference, Step, Subject, check, check_adversaries, histories,
};
use crate::strategy::HITS_MAX;

#[derive(Debug)]
struct Held {
    now: Known,
    frequency: u128,
    hits: u128,
    priority: u128,
    filed_stamp: u64,
}

impl Held {
    fn file(&mut self, level: u128) {
        self.frequency = (self.frequency + self.hits).min(65_535);
        self.hits = 0;
        self.priority = level + (self.frequency << 40) / u128::from(self.now.charge.max(1));
        self.filed_stamp = self.now.stamp;
    }

    fn hit(&mut self, now: Known) {
        self.now = now;
        self.hits = (self.hits + 1).min(u128::from(HITS_MAX));
    }
}

#[derive(Debug, Default)]
struct Slow {
    held: Vec<Held>,
    level: u128,
}

impl Slow {
    fn find(&mut self, key: Key) -> &mut Held {
        self.held.iter_mut().find(|held| held.now.key == key).expect("it is in")
    }

    fn least(&mut self) -> Option<&mut Held> {
        self.held.iter_mut().min_by_key(|held| (held.priority, held.filed_stamp, held.now.key))
    }
}

impl Reference for Slow {
    fn hit(&mut self, entry: Known) {
        self.find(entry.key).hit(entry);
    }

    fn insert(&mut self, entry: Known) {
        let mut new = Held { now: entry, frequency: 1, hits: 0, priority: 0, filed_stamp: 0 };
        new.file(self.level);
        self.held.push(new);
    }

    fn replace(&mut self, entry: Known) {
        let level = self.level;
        let held = self.find(entry.key);
        held.hit(entry);
        held.file(level);
    }

    fn remove(&mut self, key: Key, leaving: Leaving) {
        if leaving == Leaving::Evicted {
            self.level = self.find(key).priority;
        }
        self.held.retain(|held| held.now.key != key);
    }

    fn victim(&mut self, _: Option<Known>) -> Choice {
        let level = self.level;
        loop {
            let Some(least) = self.least() else { return Choice::Nobody };
            if least.hits == 0 {
                return Choice::Key(least.now.key);
            }
            least.file(level);
        }
    }
}

impl Subject for Size {
    fn validate(&self, ids: &[EntryId], entries: &dyn Entries) -> Result<(), String> {
        self.heap.validate(entries)?;
        for id in ids {
            let Some(filed) = self.heap.get(*id) else {
                return Err(format!("G1: {id:?} is not filed"));
            };
            if filed.rank.0 < self.level {
                return Err(format!("G2: {filed:?} is below the level, {}", self.level));
            }
        }
        if self.level >= LEVEL_END {
            return Err(format!("G3: the level is {}", self.level));
        }
        let filed = self.heap.iter().count();
        (filed == ids.len()).then_some(()).ok_or_else(|| format!("G1: {filed} of {}", ids.len()))
    }
}

proptest! {
    #[test]
    fn agrees_with_a_list_on_random_histories(steps in histories(16)) {
        check::<Size, Slow>(&steps);
    }

    /// So many that the heap has several levels.
    #[test]
    fn agrees_with_a_list_on_random_histories_of_many_keys(steps in histories(80)) {
        check::<Size, Slow>(&steps);
    }
}

#[test]
fn agrees_with_a_list_on_hard_histories() {
    check_adversaries::<Size, Slow>();
}

fn insert(key: Key, charge: u64) -> Step {
    Step::Insert { key, stamp: None, new: New { charge, ..New::PLAIN } }
}

#[test]
fn the_large_leave_before_the_small_and_before_the_popular() {
    let mut driver = Driver::<Size>::new(None, Some(100));
    for (key, charge) in [(1, 40), (2, 20), (3, 30)] {
        driver.step(insert(key, charge));
    }
    // 2/40 is as much as 1/20, and newer.
    driver.ask(1);
    driver.step(insert(4, 20));
    driver.step(insert(5, 30));
    assert_eq!(driver.left, [3, 2]);
}

#[test]
fn what_was_popular_long_ago_leaves_in_the_end() {
    let mut driver = Driver::<Size>::new(Some(4), None);
    (0..7).for_each(|_| driver.ask(0));
    let leaves_after = (1..1_000).find(|key| {
        driver.ask(*key);
        !driver.holds(0)
    });
    assert!(leaves_after.is_some_and(|key| key > 10), "{leaves_after:?}");
}

#[test]
fn only_what_is_larger_than_the_limit_stays_out() {
    let mut driver = Driver::<Size>::new(Some(9), Some(100));
    driver.step(insert(1, 100));
    let mut victim = |charge| {
        let newcomer = NewEntry {
            key: b"new",
            hash: 1,
            charge,
            stamp: Timestamp::from_nanos(0),
            deadline: None,
        };
        driver.order.victim(Some(&newcomer), &mut driver.table)
    };
    assert_eq!(victim(100), Some(Victim::Entry(EntryId(0))));
    assert_eq!(victim(101), Some(Victim::Newcomer));
}

/// The level begins anew every few evictions here (G3), and nothing is to be seen of it.
#[test]
fn the_level_begins_anew_and_nobody_notices() {
    let mut driver = Driver::<Size>::new(Some(5), None).beside(Box::<Slow>::default());
    let mut fell = 0;
    for key in 0..2_000 {
        let before = driver.order.level;
        driver.step(insert(key % 11, u64::from(key % 7)));
        fell += u32::from(driver.order.level < before);
        assert_eq!(driver.validate(), Ok(()));
    }
    assert!(fell > 10, "it fell {fell} times");
}
