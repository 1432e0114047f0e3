//! The order against a slow one that is plain to see through, and against workloads made to defeat it.

mod slow;

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::strategy::Strategy;

use self::slow::Slow;
use super::*;
use crate::strategy::{Entries, EvictionOrder, HITS_MAX};
use crate::time::Timestamp;

/// The entries of a cache of one thread.
#[derive(Debug, Default)]
struct Table {
    held: HashMap<usize, Held>,
    hits_so_far: u64,
    coming: (u64, u64),
    /// The time: moves on with each request.
    now: u64,
    /// Hits leave the stamps of entries as they are.
    stamps_stay: bool,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    key: u64,
    charge: u64,
    hits: u32,
    stamp: u64,
}

impl Table {
    fn hit(&mut self, id: EntryId) {
        self.now += 1_000;
        let held = self.held.get_mut(&id.index()).unwrap();
        held.hits = (held.hits + 1).min(HITS_MAX);
        if !self.stamps_stay {
            held.stamp = self.now;
        }
        self.hits_so_far += 1;
    }
}

impl Entries for Table {
    fn hits(&self, id: EntryId) -> u32 {
        self.held[&id.index()].hits
    }

    fn take_hits(&mut self, id: EntryId) -> u32 {
        std::mem::take(&mut self.held.get_mut(&id.index()).unwrap().hits)
    }

    fn stamp(&self, id: EntryId) -> Timestamp {
        Timestamp::from_nanos(self.held[&id.index()].stamp)
    }

    fn deadline(&self, _: EntryId) -> Option<Timestamp> {
        None
    }

    fn charge(&self, id: EntryId) -> u64 {
        self.held[&id.index()].charge
    }

    fn key(&self, _: EntryId) -> &[u8] {
        &[]
    }

    fn hash(&self, id: EntryId) -> u64 {
        hash(self.held[&id.index()].key)
    }

    fn hits_so_far(&self) -> u64 {
        self.hits_so_far
    }

    fn coming(&self) -> (u64, u64) {
        self.coming
    }
}

fn hash(key: u64) -> u64 {
    let mixed = (key + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (mixed ^ mixed >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

fn newcomer(key: u64, charge: u64) -> NewEntry<'static> {
    let stamp = Timestamp::default();
    NewEntry { key: &[], hash: hash(key), charge, stamp, deadline: None }
}

/// A cache of one thread, with an order.
#[derive(Debug)]
struct Cache<O> {
    order: O,
    table: Table,
    ids: HashMap<u64, EntryId>,
    free: Vec<u32>,
    limits: (Option<u64>, Option<u64>),
    evicted: Vec<u64>,
}

impl<O: EvictionOrder> Cache<O> {
    fn new(order: O, entries: Option<u64>, bytes: Option<u64>) -> Self {
        let (table, ids) = (Table::default(), HashMap::new());
        let mut cache =
            Self { order, table, ids, free: vec![], limits: (None, None), evicted: vec![] };
        cache.limit(entries, bytes);
        cache
    }

    fn limit(&mut self, entries: Option<u64>, bytes: Option<u64>) {
        self.limits = (entries, bytes);
        self.order.set_limits(entries, bytes);
        self.make_room(None);
    }

    fn make_room(&mut self, coming: Option<&NewEntry<'_>>) {
        loop {
            let more = u64::from(coming.is_some()) + self.table.coming.0;
            let held: u64 = self.table.held.values().map(|held| held.charge).sum();
            let charge = held + self.table.coming.1;
            let fits = self.limits.0.is_none_or(|most| self.ids.len() as u64 + more <= most)
                && self
                    .limits
                    .1
                    .is_none_or(|most| charge + coming.map_or(0, NewEntry::charge) <= most);
            if fits {
                return;
            }
            let Some(Victim::Entry(id)) = self.order.victim(coming, &mut self.table) else {
                return;
            };
            let again = self.order.victim(coming, &mut self.table);
            assert_eq!(again, Some(Victim::Entry(id)), "F2: asked again, another answer");
            self.evicted.push(self.table.held[&id.index()].key);
            self.leave(id, Leaving::Evicted);
        }
    }

    fn leave(&mut self, id: EntryId, leaving: Leaving) {
        self.order.remove(id, leaving, &mut self.table);
        let held = self.table.held.remove(&id.index()).unwrap();
        self.ids.remove(&held.key);
        self.free.push(id.0);
    }

    /// Asks for a key, and brings it in if it is not there; `true` if it was.
    fn ask(&mut self, key: u64, charge: u64) -> bool {
        if let Some(id) = self.ids.get(&key) {
            self.table.hit(*id);
            return true;
        }
        if self.limits.1.is_some_and(|most| charge > most) || self.limits.0 == Some(0) {
            return false;
        }
        self.make_room(Some(&newcomer(key, charge)));
        self.enter(key, charge);
        false
    }

    /// Asks for two keys at once, as two threads do: room is made for both before either comes in.
    fn ask_both(&mut self, keys: [u64; 2], charge: u64) -> u64 {
        let new = keys.map(|key| !self.ids.contains_key(&key));
        if new != [true, true] || keys[0] == keys[1] {
            return keys.into_iter().map(|key| u64::from(self.ask(key, charge))).sum();
        }
        self.make_room(Some(&newcomer(keys[0], charge)));
        self.table.coming = (1, charge);
        self.make_room(Some(&newcomer(keys[1], charge)));
        self.table.coming = (0, 0);
        for key in keys {
            self.enter(key, charge);
        }
        0
    }

    fn enter(&mut self, key: u64, charge: u64) {
        let id = EntryId(self.free.pop().unwrap_or(u32::try_from(self.ids.len()).unwrap()));
        self.table.now += 1_000;
        let stamp = self.table.now;
        self.table.held.insert(id.index(), Held { key, charge, hits: 0, stamp });
        self.ids.insert(key, id);
        self.order.insert(id, &mut self.table);
    }

    fn remove(&mut self, key: u64) {
        if let Some(id) = self.ids.get(&key) {
            self.leave(*id, Leaving::Removed);
        }
    }

    fn replace(&mut self, key: u64, charge: u64) {
        if let Some(id) = self.ids.get(&key).copied() {
            self.table.held.get_mut(&id.index()).unwrap().charge = charge;
            self.table.hit(id);
            self.order.replace(id, &mut self.table);
            self.make_room(None);
        }
    }
}

/// Checks every invariant.
fn validate(cache: &Cache<Lfu>) -> Result<(), String> {
    let order = &cache.order;
    order.segments.validate()?;
    order.share.validate()?;
    let queued: Vec<EntryId> =
        [WINDOW, BODY, EDGE].into_iter().flat_map(|queue| order.segments.ids(queue)).collect();
    let all = queued.len() == cache.ids.len()
        && queued.iter().all(|id| {
            let charge = cache.table.held.get(&id.index()).map(|held| held.charge);
            charge == Some(order.segments.charge_of(*id))
        });
    if !all {
        return Err(format!("F1: {} queued of {}", queued.len(), cache.ids.len()));
    }
    match order.named {
        Some(named) if !queued.contains(&named) => Err(format!("F2: {named:?} is named and gone")),
        _ => Ok(()),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ask(u64, u64),
    AskRun(u64, u64),
    Remove(u64),
    Replace(u64, u64),
    Limit(Option<u64>, Option<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (0..60u64, 1..9u64).prop_map(|(key, charge)| Step::Ask(key, charge)),
        40 => (0..8u64, 1..9u64).prop_map(|(key, charge)| Step::Ask(key, charge)),
        8 => (100..120u64, 1..40u64).prop_map(|(first, many)| Step::AskRun(first, many)),
        4 => (0..60u64).prop_map(Step::Remove),
        4 => (0..60u64, 1..12u64).prop_map(|(key, charge)| Step::Replace(key, charge)),
        1 => (proptest::option::of(1..40u64), proptest::option::of(1..160u64))
            .prop_map(|(entries, bytes)| Step::Limit(entries, bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_decides_as_the_slow_one_does(
        limits in (proptest::option::of(1..40u64), proptest::option::of(1..160u64)),
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..400),
    ) {
        let mut cache = Cache::new(Lfu::new(seed), limits.0, limits.1);
        let mut slow = Cache::new(Slow::new(seed), limits.0, limits.1);
        for step in steps {
            match step.clone() {
                Step::Ask(key, charge) => prop_assert_eq!(cache.ask(key, charge), slow.ask(key, charge)),
                Step::AskRun(first, many) => for key in first..first + many {
                    prop_assert_eq!(cache.ask(key, 3), slow.ask(key, 3));
                },
                Step::Remove(key) => {
                    cache.remove(key);
                    slow.remove(key);
                }
                Step::Replace(key, charge) => {
                    cache.replace(key, charge);
                    slow.replace(key, charge);
                }
                Step::Limit(entries, bytes) => {
                    cache.limit(entries, bytes);
                    slow.limit(entries, bytes);
                }
            }
            prop_assert_eq!(&cache.evicted, &slow.evicted, "after {:?}", step);
            prop_assert_eq!(validate(&cache), Ok(()));
        }
    }
}

/// Keys that are asked for around one that moves on by one in so many requests.
fn drift(around: u64, every: u64) -> impl Iterator<Item = u64> {
    random(around).zip(0..).map(move |(key, nth)| nth / every + key)
}

/// Looks at the whole, trials and pauses take more requests than the histories above have.
#[test]
fn it_decides_as_the_slow_one_does_over_many_requests() {
    for entries in [30, 60] {
        let mut cache = Cache::new(Lfu::new(3), Some(entries), None);
        let mut slow = Cache::new(Slow::new(3), Some(entries), None);
        let looped = |keys: u64| (0..).map(move |nth| 10_000 + nth % keys);
        for round in 0..4 {
            let keys = drift(2 * entries, 8)
                .take(4_000)
                .chain(looped(entries + 1).take(2_000))
                .chain(drift(entries + entries / 4, 20).take(4_000))
                .chain(
                    random(8 * entries).zip(random(8 * entries)).map(|(a, b)| a.min(b)).take(2_000),
                )
                .chain(looped(2 * entries).take(1_000));
            for key in keys {
                assert_eq!(cache.ask(key, 1), slow.ask(key, 1), "round {round}, key {key}");
            }
            assert_eq!(cache.evicted, slow.evicted);
        }
    }
}

/// Hits in percent, of the second half of what is asked.
fn late_hits(entries: u64, keys: impl Iterator<Item = u64>) -> f64 {
    let mut cache = Cache::new(Lfu::new(1), Some(entries), None);
    let hits: Vec<bool> = keys.map(|key| cache.ask(key, 1)).collect();
    assert_eq!(validate(&cache), Ok(()));
    let late = &hits[hits.len() / 2..];
    let found = late.iter().filter(|hit| **hit).count();
    100.0 * f64::from(u32::try_from(found).unwrap()) / f64::from(u32::try_from(late.len()).unwrap())
}

/// Numbers that look random, below `below`.
fn random(below: u64) -> impl Iterator<Item = u64> {
    (0..).map(move |nth| hash(nth << 20) % below)
}

#[test]
fn a_loop_one_larger_than_the_cache_is_nearly_all_hits() {
    assert!(late_hits(100, (0..40_000).map(|nth| nth % 101)) > 90.0);
    assert!(late_hits(20, (0..20_000).map(|nth| nth % 21)) > 75.0);
}

#[test]
fn a_loop_twice_as_large_as_the_cache_is_nearly_half_hits() {
    assert!(late_hits(100, (0..80_000).map(|nth| nth % 200)) > 45.0);
}

#[test]
fn a_loop_is_learnt_in_its_second_round() {
    for entries in [350, 450, 1079] {
        let mut cache = Cache::new(Lfu::new(7), Some(entries), None);
        let keys = entries * 57 / 20;
        let hits = (0..5 * keys).filter(|nth| cache.ask(nth % keys, 1)).count();
        // In each of four rounds as many as there are entries, at best.
        let best = usize::try_from(4 * entries).unwrap();
        assert!(hits * 10 > best * 9, "{hits} of {best} with {entries} entries");
    }
}

#[test]
fn keys_asked_for_once_do_not_push_out_those_asked_for_often() {
    // Every second one of 80 keys, every second one never again.
    let keys = random(80).take(20_000).zip(1000..).flat_map(|(key, once)| [key, once]);
    assert!(late_hits(100, keys) > 48.0);
}

#[test]
fn a_scan_costs_little_of_what_is_asked_for_often() {
    let scans = (0..40u64).flat_map(|scan| {
        let often = random(90).skip(usize::try_from(scan).unwrap() * 1000).take(1000);
        often.chain(1000 + scan * 500..1500 + scan * 500)
    });
    assert!(late_hits(100, scans) > 60.0);
}

#[test]
fn keys_that_come_back_once_and_soon_are_found_however_large_the_distance() {
    for distance in [10, 25, 40] {
        let keys = (1000..40_000u64).flat_map(|key| [key, key - distance]);
        assert!(late_hits(100, keys) > 47.0, "at {distance}");
    }
}

#[test]
fn where_recency_is_all_it_is_not_far_behind_exact_lru() {
    let lru = |entries: usize, keys: &[u64]| {
        let (mut queue, mut hits) = (Vec::new(), 0);
        for (nth, key) in keys.iter().enumerate() {
            let found = queue.iter().rposition(|other| other == key);
            hits += u32::from(found.is_some() && nth >= keys.len() / 2);
            if found.is_some() || queue.len() == entries {
                queue.remove(found.unwrap_or(0));
            }
            queue.push(*key);
        }
        200.0 * f64::from(hits) / f64::from(u32::try_from(keys.len()).unwrap())
    };
    for (entries, around, every) in [(200, 250, 20), (200, 300, 5), (100, 90, 3)] {
        let keys: Vec<u64> = drift(around, every).take(100_000).collect();
        let (most, found) = (lru(entries, &keys), late_hits(entries as u64, keys.into_iter()));
        assert!(found > most - 2.5, "{found} % of hits, exact LRU has {most} %");
    }
}

/// One look at the whole must not be taken just when next to nothing is in.
#[test]
fn what_was_learnt_of_recency_outlives_a_moment_of_emptiness() {
    let hits = |is_cut: bool| {
        let mut cache = Cache::new(Lfu::new(7), Some(1_000), None);
        let mut keys = drift(1_250, 20);
        keys.by_ref().take(80_000).for_each(|key| _ = cache.ask(key, 1));
        if is_cut {
            cache.limit(Some(1), None);
            cache.limit(Some(1_000), None);
        }
        keys.take(60_000).filter(|key| cache.ask(*key, 1)).count()
    };
    let (cut, never) = (hits(true), hits(false));
    assert!(cut * 1000 > never * 975, "{cut} hits, {never} if it was never empty");
}

#[test]
fn stamps_that_stay_behind_do_not_pass_for_recency() {
    let hits = |stamps_stay: bool| {
        let mut cache = Cache::new(Lfu::new(7), Some(1_000), None);
        cache.table.stamps_stay = stamps_stay;
        // The smaller a key, the more often it is asked for.
        let draws = random(200).zip(random(1 << 30).skip(7));
        let keys = draws.map(|(bits, draw)| draw >> (10 + bits / 10));
        keys.take(400_000).filter(|key| cache.ask(*key, 1)).count()
    };
    let (stay, moved) = (hits(true), hits(false));
    assert!(stay * 100 > moved * 97, "{stay} hits, {moved} if stamps are those of the hits");
}

#[test]
fn after_a_flood_of_often_asked_keys_the_next_ones_come_in() {
    // Each of 200 keys fifteen times, never again; then 80 others.
    let flood = (0..200u64).flat_map(|key| [key; 15]);
    let keys = flood.chain(random(80).map(|key| 1000 + key).take(5000));
    assert!(late_hits(100, keys) > 90.0);
}

#[test]
fn where_all_are_alike_it_finds_as_many_as_it_holds() {
    let found = late_hits(100, random(300).take(30_000));
    assert!((30.0..37.0).contains(&found), "{found}");
}

#[test]
fn keys_made_to_collide_with_those_inside_do_not_keep_others_out_for_ever() {
    let mut cache = Cache::new(Lfu::new(1), Some(100), None);
    for key in 0..100 {
        cache.ask(key, 1);
    }
    // As whoever knew the seed could: whatever is in counts as much as can be, again and again.
    let mut admitted = 0;
    for nth in 0..60_000u64 {
        for id in cache.ids.values() {
            cache.order.sketch.add(hash(cache.table.held[&id.index()].key), 15);
        }
        let key = 1000 + nth % 300;
        cache.ask(key, 1);
        admitted = cache.ids.keys().filter(|key| **key >= 1000).count();
        if admitted > 60 {
            break;
        }
    }
    assert!(admitted > 60, "{admitted} of 100");
}

#[test]
fn with_limits_of_one_two_and_three_it_always_names_someone() {
    for limit in 1..=3 {
        let mut cache = Cache::new(Lfu::new(7), Some(limit), None);
        for key in random(5).take(2000) {
            cache.ask(key, 1);
            assert!(cache.ids.len() as u64 <= limit);
            assert_eq!(validate(&cache), Ok(()));
        }
        assert_eq!(cache.ids.len() as u64, limit);
    }
}

#[test]
fn without_a_limit_the_sketch_grows_with_the_entries_and_no_further() {
    let mut cache = Cache::new(Lfu::new(7), None, None);
    for key in 0..20_000 {
        cache.ask(key, 1);
        cache.ask(key, 1);
    }
    assert_eq!(cache.ids.len(), 20_000);
    assert!((10_000..=20_000).contains(&cache.order.sketch.len_words()));
}

#[test]
fn a_new_value_counts_with_its_new_charge() {
    let mut cache = Cache::new(Lfu::new(7), None, Some(1000));
    for key in 0..100 {
        cache.ask(key, 10);
    }
    cache.replace(50, 500);
    assert!(cache.ids.len() < 60);
    assert_eq!(validate(&cache), Ok(()));
}

#[test]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 10,000")]
fn two_that_come_in_at_once_have_to_win_as_one_does() {
    let hits = |limits: (Option<u64>, Option<u64>), at_once: bool| {
        let mut cache = Cache::new(Lfu::new(1), limits.0, limits.1);
        let mut keys = random(1 << 20).map(|draw| {
            // As by Zipf: one in so many of all is a key below 10 to this power.
            let power = f64::from(u32::try_from(draw).unwrap()) / f64::from(1 << 20);
            10_000_f64.powf(power) as u64
        });
        let mut hits = 0;
        for _ in 0..60_000 {
            let pair = [keys.next().unwrap(), keys.next().unwrap()];
            hits += if at_once {
                cache.ask_both(pair, 10)
            } else {
                pair.into_iter().map(|key| u64::from(cache.ask(key, 10))).sum()
            };
        }
        validate(&cache).unwrap();
        hits
    };
    for limits in [(Some(500), None), (None, Some(5_000))] {
        let (apart, at_once) = (hits(limits, false), hits(limits, true));
        assert!(at_once.abs_diff(apart) < 600, "{at_once} hits, {apart} one by one");
    }
}
