//! Orders of shards beside lists in which all is searched for, and under threads.

use super::*;
use crate::hash::{KeyHash, KeyHasher};
use crate::memory::tests::{Rng, record};
use crate::memory::{Hit, NOT_BELOW, Placement};
use crate::record::{NEVER, Record};

fn newcomer(record: &Record, hash: KeyHash, old: Option<u64>) -> Newcomer<'_> {
    Newcomer::new(record, hash, 1, NEVER, old)
}

const AT: Placement = Placement { stamp: 1, handed: NOT_BELOW, deadline: NEVER };

fn memory(shards: usize, limits: Limits, strategy: &Strategy) -> Memory<u64> {
    let memory = Memory::new(shards, limits, strategy, true, KeyHasher::default());
    assert!(memory.has_parts);
    memory
}

/// SIEVE of one shard: keys in the order in which they came, their charges, and whether they were hit.
#[derive(Debug, Default)]
struct List {
    held: Vec<(Vec<u8>, u64, bool)>,
    hand: Option<Vec<u8>>,
}

impl List {
    fn position(&self, key: &[u8]) -> Option<usize> {
        self.held.iter().position(|entry| entry.0 == key)
    }

    fn remove(&mut self, key: &[u8]) {
        let Some(at) = self.position(key) else { return };
        self.held.remove(at);
        if self.hand.as_deref() == Some(key) {
            self.hand = self.held.get(at).map(|newer| newer.0.clone());
        }
    }

    fn evict(&mut self) {
        let mut at = self.hand.as_ref().and_then(|hand| self.position(hand)).unwrap_or(0);
        while std::mem::take(&mut self.held[at].2) {
            at = (at + 1) % self.held.len();
        }
        let key = self.held[at].0.clone();
        self.hand = Some(key.clone());
        self.remove(&key);
    }
}

#[derive(Debug)]
struct Model {
    shards: Vec<List>,
    turn: usize,
    limits: Limits,
}

impl Model {
    fn is_over(&self, charge: Option<u64>) -> bool {
        let all = || self.shards.iter().flat_map(|list| &list.held);
        let entries = all().count() as u64 + u64::from(charge.is_some());
        let bytes: u64 = all().map(|entry| entry.1).sum();
        self.limits.exceeded(entries, bytes + charge.unwrap_or(0))
    }

    /// Who leaves for a newcomer to this shard, or because there is too much.
    fn evict(&mut self, own: Option<usize>) {
        let held: Vec<u64> = self.shards.iter().map(|list| list.held.len() as u64).collect();
        let mean = held.iter().sum::<u64>() / held.len() as u64;
        let has_enough = |index: &usize| held[*index] >= mean.max(1);
        let after = |index: usize| (index..held.len()).chain(0..index);
        let index = match own {
            Some(own) if held[own] >= (mean - mean / 32).max(1) => own,
            Some(own) => after(own).find(has_enough).unwrap(),
            None => {
                self.turn = after(self.turn).find(has_enough).unwrap();
                self.turn
            }
        };
        self.shards[index].evict();
    }
}

fn put(memory: &Memory<u64>, model: &mut Model, key: &[u8], charge: u64) {
    let (hash, record) = (memory.hash(key), record(key, charge));
    let index = memory.index(hash);
    let mut locked = memory.lock(hash);
    if let Some(id) = locked.shard.find(hash, key) {
        drop(locked.remove(id));
    }
    model.shards[index].remove(key);
    while locked.reserve_by_evicting(&newcomer(&record, hash, None), |left, _| *left += 1)
        == Room::More
    {}
    locked.insert(hash, record, AT);
    while model.is_over(Some(charge)) {
        model.evict(Some(index));
    }
    model.shards[index].held.push((key.to_vec(), charge, false));
}

fn hit(memory: &Memory<u64>, model: &mut Model, key: &[u8]) {
    let hash = memory.hash(key);
    let mut locked = memory.lock_for_hit(hash);
    let hit = locked.guarded.shard.hit(hash, key, 1, |_, _| false, |_| ());
    let list = &mut model.shards[memory.index(hash)];
    let at = list.position(key);
    assert_eq!(matches!(hit, Hit::Taken(())), at.is_some());
    if let Some(at) = at {
        list.held[at].2 = true;
    }
}

fn put_all(memory: &Memory<u64>, model: &mut Model, rng: &mut Rng) {
    let mut all = memory.lock_all();
    for _ in 0..rng.below(6) {
        let (key, charge) = ([u8::try_from(rng.below(40)).unwrap()], rng.below(9));
        let hash = memory.hash(&key);
        all.put(hash, record(&key, charge), AT);
        let list = &mut model.shards[memory.index(hash)];
        match list.position(&key) {
            Some(at) => (list.held[at].1, list.held[at].2) = (charge, true),
            None => list.held.push((key.to_vec(), charge, false)),
        }
    }
    while all.evict().is_some() {
        assert!(model.is_over(None));
        model.evict(None);
    }
    assert!(!model.is_over(None));
}

fn keys(memory: &Memory<u64>, index: usize) -> Vec<Vec<u8>> {
    let locked = memory.lock_nth(index);
    let ids = locked.shard.ids();
    let mut keys: Vec<_> = ids.map(|id| locked.shard.record(id).key().to_vec()).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn who_leaves_is_whom_the_order_of_the_shard_names() {
    let steps = if cfg!(miri) { 150 } else { 10_000 };
    let limits = Limits { entries: Some(20), bytes: None };
    let lists = || (0..4).map(|_| List::default()).collect();
    for stays in [true, false] {
        let memory = memory(4, limits, &Strategy::Sieve);
        let (mut model, mut rng) = (Model { shards: lists(), turn: 0, limits }, Rng(7));
        for _ in 0..steps {
            let key = [u8::try_from(rng.below(40)).unwrap()];
            let hash = memory.hash(&key);
            match rng.below(40) {
                0..20 => put(&memory, &mut model, &key, rng.below(9)),
                20..36 => hit(&memory, &mut model, &key),
                36 => put_all(&memory, &mut model, &mut rng),
                37..39 => {
                    let mut locked = memory.lock(hash);
                    if let Some(id) = locked.shard.find(hash, &key) {
                        drop(locked.remove(id));
                    }
                    model.shards[memory.index(hash)].remove(&key);
                }
                _ => {
                    // Shards keep their orders whatever limits they are given later, and none has to be left.
                    let of = |rng: &mut Rng, n| (rng.below(3) > 0).then(|| 12 + rng.below(n));
                    model.limits = if stays {
                        Limits { entries: Some(12 + rng.below(9)), bytes: None }
                    } else {
                        Limits { entries: of(&mut rng, 9), bytes: of(&mut rng, 90) }
                    };
                    memory.set_limits(model.limits);
                    while memory.over_limits() {
                        assert_eq!(memory.evict(None, |_, _| ()), Evicted::Oldest);
                        model.evict(None);
                    }
                }
            }
            memory.validate().unwrap();
            for (index, list) in model.shards.iter().enumerate() {
                let mut held: Vec<_> = list.held.iter().map(|entry| entry.0.clone()).collect();
                held.sort_unstable();
                assert_eq!(keys(&memory, index), held, "shard {index}, {:?}", model.limits);
            }
        }
    }
}

#[test]
fn a_cache_that_is_full_is_full_though_hashes_do_not_fall_evenly() {
    let limits = Limits { entries: Some(64), bytes: None };
    let (memory, mut rng) = (memory(8, limits, &Strategy::Lfu), Rng(3));
    for nth in 1..=if cfg!(miri) { 200 } else { 2_000_u64 } {
        let key = nth.to_le_bytes();
        let (hash, record) = (memory.hash(&key), record(&key, 1 + rng.below(3)));
        let mut locked = memory.lock(hash);
        let mut left = 0;
        let room = locked.reserve_by_evicting(&newcomer(&record, hash, None), |_, _| left += 1);
        assert_eq!((room, left), (Room::Reserved, u64::from(nth > 64)));
        locked.insert(hash, record, AT);
        drop(locked);
        assert_eq!(memory.held().0, nth.min(64));
    }
    let held: Vec<u64> = (0..8).map(|index| memory.lock_nth(index).shard.len()).collect();
    assert_eq!(held, [8; 8], "what fell unevenly at first has evened out");
    memory.validate().unwrap();
}

#[test]
fn threads_never_exceed_the_limits() {
    let limits = Limits { entries: Some(9), bytes: None };
    for strategy in [Strategy::Lfu, Strategy::S3Fifo, Strategy::Sieve] {
        let memory = memory(4, limits, &strategy);
        let rounds = if cfg!(miri) { 20 } else { 4_000 };
        std::thread::scope(|scope| {
            for thread in 1..4_u64 {
                let memory = &memory;
                scope.spawn(move || {
                    let mut rng = Rng(thread);
                    for _ in 0..rounds {
                        race(memory, &mut rng);
                        let (entries, bytes) = memory.held();
                        assert!(!limits.exceeded(entries, bytes), "M2: {entries}, {bytes}");
                        if thread == 1 && rng.below(100) == 0 {
                            let bytes = (rng.below(2) == 0).then_some(40);
                            memory.set_limits(Limits { bytes, ..limits });
                            while memory.over_limits() {
                                memory.evict(None, |_, _| ());
                            }
                        }
                    }
                });
            }
        });
        memory.validate().unwrap();
    }
}

/// Inserts, replaces, or takes something out, as the engine does.
fn race(memory: &Memory<u64>, rng: &mut Rng) {
    let key = [u8::try_from(rng.below(20)).unwrap()];
    let (hash, record) = (memory.hash(&key), record(&key, rng.below(12)));
    let takes_out = rng.below(4) == 0;
    loop {
        let mut locked = memory.lock(hash);
        let old = locked.shard.find(hash, &key);
        if let Some(old) = old.filter(|_| takes_out) {
            drop(locked.remove(old));
            return;
        }
        let newcomer = newcomer(&record, hash, old.map(|old| locked.shard.charge(old)));
        match locked.reserve_by_evicting(&newcomer, |_, _| ()) {
            Room::Reserved => {
                match old {
                    Some(old) => drop(locked.replace(old, record, AT)),
                    None => drop(locked.insert(hash, record, AT)),
                }
                return;
            }
            Room::More => {}
            Room::None => {
                drop(locked);
                if memory.evict(Some(&newcomer), |_, _| ()) == Evicted::Newcomer {
                    return;
                }
            }
        }
    }
}
