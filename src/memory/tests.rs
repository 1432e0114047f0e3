//! The memory tier against a sorted map, and under threads.

use std::collections::BTreeMap;

use super::*;
use crate::record::{Draft, NEVER, Record, Seal};

/// Key to stamp, charge and deadline: the judge.
type Model = BTreeMap<Vec<u8>, (u64, u64, u64)>;

fn record(key: &[u8], charge: u64) -> Record {
    let draft = Draft { value: b"value", charge: Some(charge), ..Draft::EMPTY };
    draft.finish(key, Seal::Checksummed)
}

/// Numbers from a seed (`xorshift64`, Marsaglia, 2003).
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

fn oldest(model: &Model) -> Option<(u64, Vec<u8>)> {
    model.iter().map(|(key, (stamp, ..))| (*stamp, key.clone())).min()
}

fn exceeds(model: &Model, limits: Limits) -> bool {
    limits.exceeded(model.len() as u64, model.values().map(|entry| entry.1).sum())
}

/// Evicts from both, for room or down to the limits; gives the key that left.
fn evict(memory: &Memory<u64>, model: &mut Model, newcomer: Option<&Newcomer<'_>>) -> bool {
    let victim = oldest(model);
    let mut left = None;
    let evicted = memory.evict(newcomer, |_, removed| left = Some(removed));
    match (evicted, victim) {
        (Evicted::Oldest, Some((stamp, key))) => {
            let removed = left.unwrap();
            assert_eq!((removed.recency(), removed.key()), (stamp, &key[..]), "M3");
            assert!(newcomer.is_none_or(|n| (n.stamp, n.key) > (stamp, &key[..])), "M3");
            model.remove(&key);
            true
        }
        (Evicted::Newcomer, victim) => {
            let newcomer = newcomer.unwrap();
            let newcomer = (newcomer.stamp, newcomer.key);
            assert!(victim.is_none_or(|(stamp, key)| newcomer <= (stamp, &key[..])), "M3");
            false
        }
        (Evicted::Nothing, None) => false,
        (Evicted::Room, _) => {
            assert!(newcomer.is_none() && !memory.over_limits());
            false
        }
        (evicted, victim) => panic!("M3: {evicted:?} instead of {victim:?}"),
    }
}

/// Gives an entry a new stamp in both, if it is there, and finds it.
fn restamp(
    locked: &mut Locked<'_, u64>,
    model: &mut Model,
    hash: KeyHash,
    key: &[u8],
    stamp: u64,
) -> Option<SlotId> {
    let found = locked.shard.find(hash, key);
    assert_eq!(found.is_some(), model.contains_key(key));
    if let (Some(id), Some(entry)) = (found, model.get_mut(key)) {
        locked.shard.restamp(id, stamp);
        entry.0 = stamp;
    }
    found
}

/// Reserves the place of a newcomer in one way or the other.
fn reserve(locked: &mut Locked<'_, u64>, model: &mut Model, newcomer: &Newcomer<'_>) -> bool {
    if newcomer.charge.is_multiple_of(3) {
        return locked.reserve(newcomer);
    }
    loop {
        let mut left = None;
        let room = locked.reserve_by_evicting(newcomer, |_, removed| left = Some(removed));
        if let Some(removed) = left {
            let (stamp, key) = oldest(model).unwrap();
            assert_eq!((removed.recency(), removed.key()), (stamp, &key[..]), "M3");
            assert!((newcomer.stamp, newcomer.key) > (stamp, &key[..]), "M3");
            model.remove(&key);
        }
        match room {
            Room::Reserved => return true,
            Room::None => return false,
            Room::More => {}
        }
    }
}

/// Inserts or replaces, as the engine does: room is made first, and the newcomer may be the victim.
fn put(memory: &Memory<u64>, model: &mut Model, key: &[u8], entry: (u64, u64, u64)) {
    let (stamp, charge, deadline) = entry;
    let hash = memory.hash(key);
    let placement = Placement { stamp, handed: NOT_BELOW, deadline };
    loop {
        let mut locked = memory.lock(hash);
        let old = restamp(&mut locked, model, hash, key, stamp);
        let newcomer = Newcomer { stamp, key, charge, old: old.map(|id| locked.shard.charge(id)) };
        if reserve(&mut locked, model, &newcomer) {
            match old {
                Some(old) => drop(locked.shard.replace(old, record(key, charge), placement)),
                None => drop(locked.shard.insert(hash, record(key, charge), placement)),
            }
            model.insert(key.to_vec(), entry);
            return;
        }
        drop(locked);
        if !evict(memory, model, Some(&newcomer)) {
            return;
        }
    }
}

fn step(memory: &Memory<u64>, model: &mut Model, rng: &mut Rng) {
    // Keys of which some begin others, few stamps: ties are the rule.
    let n = rng.below(24);
    let key = [n / 2, n % 2].map(|part| u8::try_from(part).unwrap());
    let key = if n.is_multiple_of(3) { &key[..1] } else { &key[..] };
    let stamp = rng.below(12);
    let hash = memory.hash(key);
    match rng.below(10) {
        0..5 => {
            let deadline = if rng.below(2) == 0 { NEVER } else { rng.below(12) };
            put(memory, model, key, (stamp, rng.below(20), deadline));
        }
        5..7 => {
            restamp(&mut memory.lock(hash), model, hash, key, stamp);
        }
        7 => {
            let mut locked = memory.lock(hash);
            let removed = locked.shard.find(hash, key).map(|id| locked.remove(id));
            let removed = removed.map(|removed| (removed.recency(), removed.charge()));
            assert_eq!(removed, model.remove(key).map(|entry| (entry.0, entry.1)));
        }
        8 => drop(evict(memory, model, None)),
        _ => {
            let some = |rng: &mut Rng, n| (rng.below(4) > 0).then(|| rng.below(n));
            let limits = Limits { entries: some(rng, 16), bytes: some(rng, 150) };
            memory.set_limits(limits);
            while memory.over_limits() {
                assert!(exceeds(model, limits) && evict(memory, model, None));
            }
            assert!(!exceeds(model, limits));
        }
    }
}

fn compare(memory: &Memory<u64>, model: &Model) {
    memory.validate().unwrap();
    let bytes: u64 = model.values().map(|entry| entry.1).sum();
    assert_eq!(memory.held(), (model.len() as u64, bytes), "M2");
    for (key, (stamp, charge, deadline)) in model {
        let hash = memory.hash(key);
        let locked = memory.lock(hash);
        let id = locked.shard.find(hash, key).unwrap();
        assert_eq!((locked.shard.stamp(id), locked.shard.charge(id)), (*stamp, *charge));
        assert_eq!(locked.shard.deadline(id), *deadline);
    }
}

#[test]
fn random_operations_agree_with_a_sorted_map() {
    let steps = if cfg!(miri) { 150 } else { 5_000 };
    for (shards, entries) in [(1, 9), (2, 9), (8, 9), (1, 20)] {
        let limits = Limits { entries: Some(entries), bytes: Some(15 * entries) };
        let memory = Memory::new(shards, limits);
        let (mut model, mut rng) = (Model::new(), Rng(shards as u64 + entries));
        for _ in 0..steps {
            step(&memory, &mut model, &mut rng);
            compare(&memory, &model);
        }
        let mut all = memory.lock_all();
        assert_eq!(all.drain().len(), model.len());
        drop(all);
        compare(&memory, &Model::new());
    }
}

#[test]
fn entries_whose_hashes_look_the_same_keep_their_order() {
    let mut rng = Rng(11);
    for checks in [1, 2, 3] {
        let (mut shard, mut model) = (Shard::default(), BTreeMap::new());
        // By the number of the key: three of them have one hash, or all have.
        let hash = |key: u8| KeyHash(u64::from(key) % checks);
        for _ in 0..if cfg!(miri) { 200 } else { 20_000 } {
            let key = u8::try_from(rng.below(20)).unwrap();
            let stamp = rng.below(1_000);
            let found = shard.find(hash(key), &[key]);
            assert_eq!(found.is_some(), model.contains_key(&key));
            match (rng.below(4), found) {
                (0, Some(id)) => {
                    drop(shard.remove(id));
                    model.remove(&key);
                }
                (1, _) => {
                    let oldest = shard.oldest().map(|(id, stamp, key)| (id, stamp, key[0]));
                    let expected = model.iter().map(|(key, stamp)| (*stamp, *key)).min();
                    assert_eq!(oldest.map(|(_, stamp, key)| (stamp, key)), expected);
                    if let Some((id, _, key)) = oldest {
                        drop(shard.remove(id));
                        model.remove(&key);
                    }
                }
                (_, Some(id)) => {
                    shard.restamp(id, stamp);
                    model.insert(key, stamp);
                }
                (_, None) => {
                    let placement = Placement { stamp, handed: NOT_BELOW, deadline: NEVER };
                    shard.insert(hash(key), record(&[key], 1), placement);
                    model.insert(key, stamp);
                }
            }
            shard.validate(|key| Some(hash(key[0]))).unwrap();
        }
    }
}

#[test]
fn threads_never_exceed_the_limits() {
    let limits = Limits { entries: Some(5), bytes: Some(60) };
    let memory: Memory<u64> = Memory::new(4, limits);
    let rounds = if cfg!(miri) { 20 } else { 2_000 };
    std::thread::scope(|scope| {
        for thread in 1..4_u64 {
            let memory = &memory;
            scope.spawn(move || {
                let mut rng = Rng(thread);
                for round in 0..rounds {
                    let key = [u8::try_from(rng.below(12)).unwrap()];
                    let (hash, charge) = (memory.hash(&key), 1 + rng.below(20));
                    let placement = Placement { stamp: round, handed: NOT_BELOW, deadline: NEVER };
                    loop {
                        let mut locked = memory.lock(hash);
                        let old = locked.shard.find(hash, &key);
                        if let Some(old) = old {
                            drop(locked.remove(old));
                            continue;
                        }
                        let newcomer = Newcomer { stamp: round, key: &key, charge, old: None };
                        let room = locked.reserve_by_evicting(&newcomer, |_, _| ());
                        if matches!(room, Room::Reserved) {
                            locked.shard.insert(hash, record(&key, charge), placement);
                            break;
                        }
                        if matches!(room, Room::None) {
                            drop(locked);
                            if matches!(memory.evict(Some(&newcomer), |_, _| ()), Evicted::Newcomer)
                            {
                                break;
                            }
                        }
                    }
                    let (entries, bytes) = memory.held();
                    assert!(!limits.exceeded(entries, bytes), "M2: {entries}, {bytes}");
                }
            });
        }
    });
    memory.validate().unwrap();
}
