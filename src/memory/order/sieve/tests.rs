//! SIEVE beside a list in which all is searched for.

use proptest::prelude::*;

use super::*;
use crate::memory::order::testing::{
    Choice, Driver, Key, Known, Reference, Subject, check, check_adversaries, histories,
};
use crate::memory::order::traces::check_traces;
use crate::strategy::Entries;

/// The oldest first, and whether each was hit.
#[derive(Debug, Default)]
struct Slow {
    held: Vec<(Key, bool)>,
    hand: Option<Key>,
}

impl Slow {
    fn position(&self, key: Key) -> Option<usize> {
        self.held.iter().position(|(held, _)| *held == key)
    }
}

impl Reference for Slow {
    fn hit(&mut self, entry: Known) {
        let at = self.position(entry.key).expect("it is in");
        self.held[at].1 = true;
    }

    fn insert(&mut self, entry: Known) {
        self.held.push((entry.key, false));
    }

    fn replace(&mut self, entry: Known) {
        self.hit(entry);
    }

    fn remove(&mut self, key: Key, _: Leaving) {
        let at = self.position(key).expect("it is in");
        self.held.remove(at);
        if self.hand == Some(key) {
            self.hand = self.held.get(at).map(|(newer, _)| *newer);
        }
    }

    fn victim(&mut self, _: Option<Known>) -> Choice {
        if self.held.is_empty() {
            return Choice::Nobody;
        }
        let mut at = self.hand.and_then(|hand| self.position(hand)).unwrap_or(0);
        while self.held[at].1 {
            self.held[at].1 = false;
            at = (at + 1) % self.held.len();
        }
        self.hand = Some(self.held[at].0);
        Choice::Key(self.held[at].0)
    }
}

impl Subject for Sieve {
    fn validate(&self, ids: &[EntryId], _: &dyn Entries) -> Result<(), String> {
        self.queue.validate()?;
        let is_lost = |id: &EntryId| self.queue.is_free(*id);
        if self.queue.len(QUEUE) != ids.len() || ids.iter().any(is_lost) {
            return Err(format!("V1: {} are queued of {}", self.queue.len(QUEUE), ids.len()));
        }
        if self.hand.is_some_and(|hand| !ids.contains(&hand)) {
            return Err(format!("V1: the hand points at {:?}", self.hand));
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn agrees_with_a_list_on_random_histories(steps in histories(16)) {
        check::<Sieve, Slow>(&steps);
    }
}

#[test]
fn agrees_with_a_list_on_hard_histories() {
    check_adversaries::<Sieve, Slow>();
}

#[test]
fn hits_like_the_reference_simulator() {
    check_traces::<Sieve>("Sieve", 0.0);
}

#[test]
fn a_scan_does_not_push_out_what_is_hit() {
    let mut driver = Driver::<Sieve>::new(Some(10), None);
    for round in 0..20 {
        (0..5).for_each(|key| driver.ask(key));
        (0..3).for_each(|nth| driver.ask(100 + 3 * round + nth));
    }
    assert!((0..5).all(|key| driver.holds(key)));
    assert_eq!(driver.hits, 19 * 5);
}

/// Entries that are hit each time the order looks, as by other threads.
struct Busy;

impl Near for Busy {}

impl Entries for Busy {
    fn hits(&self, _: EntryId) -> u32 {
        1
    }

    fn take_hits(&mut self, _: EntryId) -> u32 {
        1
    }

    fn stamp(&self, _: EntryId) -> crate::time::Timestamp {
        crate::time::Timestamp::from_nanos(1)
    }

    fn deadline(&self, _: EntryId) -> Option<crate::time::Timestamp> {
        None
    }

    fn charge(&self, _: EntryId) -> u64 {
        1
    }

    fn key(&self, _: EntryId) -> &[u8] {
        b"key"
    }

    fn hash(&self, _: EntryId) -> u64 {
        1
    }

    fn hits_so_far(&self) -> u64 {
        0
    }
}

#[test]
fn the_hand_goes_round_once_at_most() {
    let mut order = Sieve::default();
    (0..5).for_each(|number| order.insert(EntryId(number), &mut Busy));
    assert_eq!(order.victim(None, &mut Busy), Some(Victim::Entry(EntryId(0))));
}
