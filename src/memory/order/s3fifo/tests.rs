//! S3-FIFO beside lists in which all is searched for.

use proptest::prelude::*;

use super::*;
use crate::memory::order::testing::{
    Choice, Driver, Key, Known, New, Reference, Step, Subject, check, check_adversaries, histories,
};
use crate::memory::order::traces::check_traces;
use crate::strategy::Entries;

/// The oldest first: keys, frequencies and charges.
type Queue = Vec<(Key, u32, u64)>;

#[derive(Debug, Default)]
struct Slow {
    small: Queue,
    main: Queue,
    ghost: Vec<(Key, u64)>,
    limits: (Option<u64>, Option<u64>),
    had_to_evict: bool,
    /// Who came last to make room for, and whether the ghost knew it.
    newcomer: Option<(Key, bool)>,
    most: usize,
}

/// Whether a queue has as much as a share of the limits.
fn is_filled(queue: &Queue, limits: (Option<u64>, Option<u64>), share: fn(u64) -> u64) -> bool {
    let charge: u128 = queue.iter().map(|(_, _, charge)| u128::from(*charge)).sum();
    limits.0.is_some_and(|max| queue.len() as u64 >= share(max))
        || limits.1.is_some_and(|max| charge >= u128::from(share(max)))
}

/// Nine tenths, rounded down.
fn ghost_share(limit: u64) -> u64 {
    u64::try_from(u128::from(limit) * 9 / 10).expect("less than the limit")
}

impl Slow {
    fn entry(&mut self, key: Key) -> &mut (Key, u32, u64) {
        let mut all = self.small.iter_mut().chain(&mut self.main);
        all.find(|held| held.0 == key).expect("it is in")
    }

    fn take_ghost(&mut self, key: Key) -> bool {
        let before = self.ghost.len();
        self.ghost.retain(|(left, _)| *left != key);
        self.ghost.len() < before
    }

    fn remember(&mut self, key: Key, charge: u64) {
        let charge = charge.min(u64::from(u32::MAX));
        let most = self.limits.0.unwrap_or(u64::MAX).min(self.most as u64);
        let fits = |ghost: &[(Key, u64)]| {
            let sum: u64 = ghost.iter().map(|(_, charge)| charge).sum();
            ghost.len() as u64 <= ghost_share(most)
                && self.limits.1.is_none_or(|max| sum <= ghost_share(max))
        };
        if !fits(&[(key, charge)]) {
            return;
        }
        self.ghost.push((key, charge));
        while !fits(&self.ghost) {
            self.ghost.remove(0);
        }
    }
}

impl Reference for Slow {
    fn set_limits(&mut self, max_entries: Option<u64>, max_bytes: Option<u64>) {
        self.limits = (max_entries, max_bytes);
        self.had_to_evict = false;
    }

    fn hit(&mut self, entry: Known) {
        let held = self.entry(entry.key);
        held.1 = (held.1 + 1).min(3);
    }

    fn insert(&mut self, entry: Known) {
        let asked = self.newcomer.take().filter(|(key, _)| *key == entry.key);
        let returns = asked.map_or_else(|| self.take_ghost(entry.key), |(_, returns)| returns);
        let overflows =
            !self.had_to_evict && is_filled(&self.small, self.limits, |limit| limit / 10);
        let queue = if returns || overflows { &mut self.main } else { &mut self.small };
        queue.push((entry.key, 0, entry.charge));
        self.most = self.most.max(self.small.len() + self.main.len());
    }

    fn replace(&mut self, entry: Known) {
        self.hit(entry);
        self.entry(entry.key).2 = entry.charge;
        self.newcomer = None;
    }

    fn remove(&mut self, key: Key, leaving: Leaving) {
        let charge = self.entry(key).2;
        if leaving == Leaving::Evicted {
            self.had_to_evict = true;
            let is_own = self.newcomer.is_some_and(|(newcomer, _)| newcomer == key);
            if !is_own && self.small.iter().any(|held| held.0 == key) {
                self.remember(key, charge);
            }
        }
        self.small.retain(|held| held.0 != key);
        self.main.retain(|held| held.0 != key);
        let is_cleared = self.small.is_empty() && self.main.is_empty();
        self.had_to_evict &= leaving == Leaving::Evicted || !is_cleared;
    }

    fn victim(&mut self, newcomer: Option<Known>) -> Choice {
        let asked = self.newcomer.filter(|(key, _)| newcomer.is_some_and(|new| new.key == *key));
        self.newcomer = asked.or_else(|| newcomer.map(|new| (new.key, self.take_ghost(new.key))));
        let main_share = |limit: u64| (limit - limit / 10).saturating_add(1);
        if !is_filled(&self.main, self.limits, main_share) {
            while let Some((key, frequency, charge)) = self.small.first().copied() {
                if frequency < 2 {
                    return Choice::Key(key);
                }
                self.small.remove(0);
                self.main.push((key, 0, charge));
            }
        }
        while let Some((key, frequency, charge)) = self.main.first().copied() {
            if frequency == 0 {
                return Choice::Key(key);
            }
            self.main.remove(0);
            self.main.push((key, frequency - 1, charge));
        }
        self.small.first().map_or(Choice::Nobody, |held| Choice::Key(held.0))
    }
}

impl Subject for S3Fifo {
    fn validate(&self, ids: &[EntryId], _: &dyn Entries) -> Result<(), String> {
        self.queues.validate()?;
        self.ghost.validate(None)?;
        for queue in [SMALL, MAIN] {
            let of = |id: &EntryId| self.state(*id).queue() == queue;
            let own: Vec<EntryId> = self.queues.iter(queue).collect();
            if !own.iter().all(of) || own.len() != ids.iter().filter(|id| of(id)).count() {
                return Err(format!("S1: queue {queue} has {own:?}"));
            }
            let charge: u128 = own.iter().map(|id| u128::from(self.state(*id).counted)).sum();
            if charge != self.charges[queue] {
                return Err(format!("S2: queue {queue} counts {charge}"));
            }
        }
        let is_in = |named| ids.contains(&named);
        self.named.is_none_or(is_in).then_some(()).ok_or_else(|| "S3: who left is named".to_owned())
    }
}

proptest! {
    #[test]
    fn agrees_with_lists_on_random_histories(steps in histories(16)) {
        check::<S3Fifo, Slow>(&steps);
    }

    /// With a small queue of several, and a ghost of many.
    #[test]
    fn agrees_with_lists_on_random_histories_of_many_keys(steps in histories(80)) {
        check::<S3Fifo, Slow>(&steps);
    }
}

#[test]
fn agrees_with_lists_on_hard_histories() {
    check_adversaries::<S3Fifo, Slow>();
}

#[test]
fn hits_like_the_reference_simulator() {
    check_traces::<S3Fifo>("S3FIFO", 0.0);
}

#[test]
fn a_scan_pushes_out_only_what_came_with_it() {
    let mut driver = Driver::<S3Fifo>::new(Some(20), None);
    for _ in 0..6 {
        (0..10).for_each(|key| driver.ask(key));
    }
    (100..1_100).for_each(|key| driver.ask(key));
    assert!((2..10).all(|key| driver.holds(key)), "{:?}", driver.order);
}

#[test]
fn what_comes_back_soon_goes_to_main() {
    let mut driver = Driver::<S3Fifo>::new(Some(20), None);
    (0..21).for_each(|key| driver.ask(key));
    assert_eq!(driver.left, [0]);
    driver.ask(0);
    // Small's newcomers leave one after the other, and it stays.
    (100..115).for_each(|key| driver.ask(key));
    assert!(driver.holds(0));
}

/// Weights may sum up to more than any number of bytes, as long as only entries are limited.
#[test]
fn sums_of_huge_weights_are_exact() {
    let mut driver = Driver::<S3Fifo>::new(Some(4), None);
    let new = New { charge: u64::MAX, ..New::PLAIN };
    (0..40).for_each(|key| driver.step(Step::Insert { key: key % 6, stamp: None, new }));
    assert_eq!(driver.validate(), Ok(()));
    driver.step(Step::Limits { entries: None, bytes: Some(u64::MAX) });
    assert_eq!(driver.validate(), Ok(()));
}
