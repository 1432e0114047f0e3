//! The memory tier against a sorted map, and under threads.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::record::{Draft, NEVER, Record, Seal};
use crate::strategy::{Entries, EntryId, EvictionOrder, HITS_MAX, Leaving, NewEntry, Victim};

/// Key to stamp, charge and deadline: the judge.
type Model = BTreeMap<Vec<u8>, (u64, u64, u64)>;

pub(super) fn record(key: &[u8], charge: u64) -> Record {
    let draft = Draft { value: b"value", charge: Some(charge), ..Draft::EMPTY };
    draft.finish(key, Seal::Checksummed)
}

/// Numbers from a seed (`xorshift64`, Marsaglia, 2003).
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, n: u64) -> u64 {
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
            assert!(newcomer.is_none_or(|n| (n.stamp, n.key()) > (stamp, &key[..])), "M3");
            model.remove(&key);
            true
        }
        (Evicted::Newcomer, victim) => {
            let newcomer = newcomer.unwrap();
            let newcomer = (newcomer.stamp, newcomer.key());
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
            assert!((newcomer.stamp, newcomer.key()) > (stamp, &key[..]), "M3");
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
        let (old_charge, record) = (old.map(|id| locked.shard.charge(id)), record(key, charge));
        let newcomer = Newcomer { record: &record, charge, hash, stamp, deadline, old: old_charge };
        if reserve(&mut locked, model, &newcomer) {
            match old {
                Some(old) => drop(locked.replace(old, record, placement)),
                None => drop(locked.insert(hash, record, placement)),
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
        let memory = Memory::new(shards, limits, &Strategy::Lru, false, KeyHasher::default());
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
    threads_stay_within(&Strategy::Lru);
    threads_stay_within(&Strategy::custom(Spare::default));
    threads_stay_within(&Strategy::custom(|| Senseless { calls: 0, panics_at: 100 }));
}

fn threads_stay_within(strategy: &Strategy) {
    let limits = Limits { entries: Some(5), bytes: Some(60) };
    let memory: Memory<u64> = Memory::new(4, limits, strategy, true, KeyHasher::default());
    let rounds = if cfg!(miri) { 20 } else { 2_000 };
    std::thread::scope(|scope| {
        for thread in 1..4_u64 {
            let memory = &memory;
            scope.spawn(move || {
                let mut rng = Rng(thread);
                for round in 0..rounds {
                    let key = [u8::try_from(rng.below(12)).unwrap()];
                    let (hash, charge) = (memory.hash(&key), 1 + rng.below(20));
                    let deadline = round + 50;
                    let placement = Placement { stamp: round, handed: NOT_BELOW, deadline };
                    loop {
                        let mut locked = memory.lock(hash);
                        let old = locked.shard.find(hash, &key);
                        if let Some(old) = old {
                            drop(locked.remove(old));
                            continue;
                        }
                        let record = record(&key, charge);
                        let (record, stamp) = (&record, round);
                        let newcomer =
                            Newcomer { record, charge, hash, stamp, deadline, old: None };
                        let room = locked.reserve_by_evicting(&newcomer, |_, _| ());
                        if matches!(room, Room::Reserved) {
                            locked.insert(hash, record.clone(), placement);
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

/// First in, first out, but what was hit twice goes round once more.
#[derive(Debug, Default)]
struct Spare {
    queue: Vec<EntryId>,
}

impl EvictionOrder for Spare {
    fn insert(&mut self, id: EntryId, entries: &mut dyn Entries) {
        assert!(!self.queue.contains(&id), "O1: {id:?} is there twice");
        let (stamp, deadline) = (entries.stamp(id), entries.deadline(id));
        assert_eq!(Some(stamp + Duration::from_nanos(50)), deadline, "it is there as it came");
        assert_eq!((entries.hits(id), entries.charge(id) > 0), (0, true));
        self.queue.push(id);
    }

    fn remove(&mut self, id: EntryId, _: Leaving, entries: &mut dyn Entries) {
        assert!(!entries.key(id).is_empty(), "O1: {id:?} has left already");
        let at = self.queue.iter().position(|other| *other == id).unwrap();
        self.queue.remove(at);
    }

    fn victim(&mut self, _: Option<&NewEntry<'_>>, entries: &mut dyn Entries) -> Option<Victim> {
        while entries.hits(*self.queue.first()?) >= 2 {
            let spared = self.queue.remove(0);
            assert!((2..=HITS_MAX).contains(&entries.take_hits(spared)));
            self.queue.push(spared);
        }
        self.queue.first().copied().map(Victim::Entry)
    }
}

/// An order that names anything, and panics at one of its calls.
#[derive(Debug)]
struct Senseless {
    calls: u64,
    panics_at: u64,
}

impl Senseless {
    fn call(&mut self) -> u64 {
        self.calls += 1;
        assert_ne!(self.calls, self.panics_at, "as planned");
        self.calls
    }
}

impl EvictionOrder for Senseless {
    fn insert(&mut self, _: EntryId, _: &mut dyn Entries) {
        self.call();
    }

    fn remove(&mut self, _: EntryId, _: Leaving, _: &mut dyn Entries) {
        self.call();
    }

    fn victim(&mut self, _: Option<&NewEntry<'_>>, entries: &mut dyn Entries) -> Option<Victim> {
        let id = EntryId::new(u32::try_from(self.call() % 7).unwrap());
        entries.take_hits(id);
        match self.calls % 3 {
            0 => None,
            1 => Some(Victim::Newcomer),
            _ => Some(Victim::Entry(id)),
        }
    }
}

#[test]
fn hits_are_taken_once_also_where_their_shard_is_another_threads() {
    let strategy = Strategy::custom(Spare::default);
    let memory: Memory<u64> =
        Memory::new(2, Limits::default(), &strategy, false, KeyHasher::default());
    let mut model = Queue::new();
    put_in(&memory, &mut model, b"k", 1, 1);
    (2..5).for_each(|stamp| hit(&memory, &mut model, b"k", stamp));
    let take = || {
        let mut account = memory.account.lock();
        account.ordered.as_mut().unwrap().take_hits(EntryId::new(0))
    };
    let held = memory.lock(memory.hash(b"k"));
    assert_eq!([take(), take()], [3, 0]);
    drop(held);
    hit(&memory, &mut model, b"k", 6);
    assert_eq!([take(), take()], [1, 0]);
    hit(&memory, &mut model, b"k", 7);
    assert_eq!([take(), take()], [1, 0]);
}

/// Whoever came in first leaves; notes what others are about to bring in when it is asked.
#[derive(Debug, Default)]
struct Watch {
    queue: Vec<EntryId>,
    seen: Arc<Mutex<Vec<(u64, u64)>>>,
}

impl EvictionOrder for Watch {
    fn insert(&mut self, id: EntryId, entries: &mut dyn Entries) {
        self.seen.lock().unwrap().push(entries.coming());
        self.queue.push(id);
    }

    fn remove(&mut self, id: EntryId, _: Leaving, _: &mut dyn Entries) {
        self.queue.retain(|other| *other != id);
    }

    fn victim(&mut self, _: Option<&NewEntry<'_>>, entries: &mut dyn Entries) -> Option<Victim> {
        self.seen.lock().unwrap().push(entries.coming());
        self.queue.first().copied().map(Victim::Entry)
    }
}

#[test]
fn an_order_knows_what_other_threads_are_about_to_bring_in() {
    let seen = Arc::<Mutex<Vec<(u64, u64)>>>::default();
    let noted = Arc::clone(&seen);
    let strategy = Strategy::custom(move || Watch { seen: Arc::clone(&noted), ..Watch::default() });
    let limits = Limits { entries: Some(2), bytes: None };
    let memory: Memory<u64> = Memory::new(256, limits, &strategy, false, KeyHasher::default());
    let at = Placement { stamp: 1, handed: NOT_BELOW, deadline: NEVER };
    let newcomer = |record| {
        let (hash, charge) = (memory.hash(Record::key(record)), record.charge());
        Newcomer { record, charge, hash, stamp: 1, deadline: NEVER, old: None }
    };
    // Such that all four are in shards of their own.
    let mut keys: Vec<[u8; 1]> = Vec::new();
    for key in (0..=u8::MAX).map(|byte| [byte]) {
        if keys
            .iter()
            .all(|other| memory.index(memory.hash(other)) != memory.index(memory.hash(&key)))
        {
            keys.push(key);
        }
    }
    let [first, second, third, fourth] =
        [(0, 3), (1, 4), (2, 5), (3, 6)].map(|(nth, charge)| record(&keys[nth], charge));
    for record in [&first, &second] {
        let mut locked = memory.lock(memory.hash(record.key()));
        assert_eq!(locked.reserve_by_evicting(&newcomer(record), |_, _| ()), Room::Reserved);
        locked.insert(memory.hash(record.key()), record.clone(), at);
    }
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), [(0, 0); 2]);
    let mut locked = memory.lock(memory.hash(third.key()));
    assert_eq!(locked.reserve_by_evicting(&newcomer(&third), |_, _| ()), Room::Reserved);
    let mut other = memory.lock(memory.hash(fourth.key()));
    assert_eq!(other.reserve_by_evicting(&newcomer(&fourth), |_, _| ()), Room::Reserved);
    locked.insert(memory.hash(third.key()), third.clone(), at);
    other.insert(memory.hash(fourth.key()), fourth.clone(), at);
    drop((locked, other));
    assert_eq!(*seen.lock().unwrap(), [(0, 0), (1, 5), (1, 6), (0, 0)]);
    memory.validate().unwrap();
}

/// What [`Spare`] is to keep: keys in order, their charges and hits.
type Queue = Vec<(Vec<u8>, u64, u32)>;

#[test]
fn one_order_is_over_all_shards() {
    let steps = if cfg!(miri) { 200 } else { 20_000 };
    for shards in [1, 2, 8] {
        let limits = Limits { entries: Some(6), bytes: Some(60) };
        let strategy = Strategy::custom(Spare::default);
        let memory: Memory<u64> =
            Memory::new(shards, limits, &strategy, true, KeyHasher::default());
        let (mut model, mut rng) = (Queue::new(), Rng(shards as u64));
        for stamp in 0..steps {
            let key = [u8::try_from(rng.below(10)).unwrap()];
            match rng.below(8) {
                0 => take_out(&memory, &mut model, &key),
                1..3 => put_in(&memory, &mut model, &key, 1 + rng.below(20), stamp),
                3 => put_all(&memory, &mut model, &mut rng, stamp),
                _ => hit(&memory, &mut model, &key, stamp),
            }
            memory.validate().unwrap();
            let mut kept: Vec<Vec<u8>> = model.iter().map(|entry| entry.0.clone()).collect();
            kept.sort_unstable();
            assert_eq!(keys(&memory), kept);
        }
        for index in 0..shards {
            let mut locked = memory.lock_nth(index);
            let least = locked.shard.ids().map(|id| locked.shard.stamp(id)).min();
            let longest = locked.shard.longest_idle().map(|id| locked.shard.stamp(id));
            assert_eq!((longest, locked.shard.idle_bound()), (least, least));
        }
    }
}

fn keys(memory: &Memory<u64>) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    for index in 0..memory.shard_count() {
        let locked = memory.lock_nth(index);
        keys.extend(locked.shard.ids().map(|id| locked.shard.record(id).key().to_vec()));
    }
    keys.sort_unstable();
    keys
}

fn hit(memory: &Memory<u64>, model: &mut Queue, key: &[u8], stamp: u64) {
    let hash = memory.hash(key);
    let mut locked = memory.lock_for_hit(hash);
    let hit = locked.guarded.shard.hit(hash, key, stamp, |_, _| false, |_| ());
    let entry = model.iter_mut().find(|entry| entry.0 == key);
    assert_eq!(matches!(hit, Hit::Taken(())), entry.is_some());
    if let Some(entry) = entry {
        entry.2 = (entry.2 + 1).min(HITS_MAX);
    }
}

fn take_out(memory: &Memory<u64>, model: &mut Queue, key: &[u8]) {
    let hash = memory.hash(key);
    let mut locked = memory.lock(hash);
    if let Some(id) = locked.shard.find(hash, key) {
        drop(locked.remove(id));
    }
    model.retain(|entry| entry.0 != key);
}

/// Who leaves for a newcomer of this charge, or until the limits are kept.
fn leave(model: &mut Queue, newcomer: Option<u64>) -> Vec<Vec<u8>> {
    let mut left = Vec::new();
    let extra = u64::from(newcomer.is_some());
    while model.len() as u64 + extra > 6
        || model.iter().map(|entry| entry.1).sum::<u64>() + newcomer.unwrap_or(0) > 60
    {
        while model[0].2 >= 2 {
            let mut spared = model.remove(0);
            spared.2 = 0;
            model.push(spared);
        }
        left.push(model.remove(0).0);
    }
    left
}

fn put_in(memory: &Memory<u64>, model: &mut Queue, key: &[u8], charge: u64, stamp: u64) {
    take_out(memory, model, key);
    let (hash, record) = (memory.hash(key), record(key, charge));
    let (deadline, mut left) = (stamp + 50, Vec::new());
    let newcomer = Newcomer { record: &record, charge, hash, stamp, deadline, old: None };
    loop {
        let mut locked = memory.lock(hash);
        let hook = |_: &mut u64, removed: Removed| left.push(removed.key().to_vec());
        match locked.reserve_by_evicting(&newcomer, hook) {
            Room::Reserved => {
                let placement = Placement { stamp, handed: NOT_BELOW, deadline };
                locked.insert(hash, record.clone(), placement);
                break;
            }
            Room::More => {}
            Room::None => panic!("one thread finds every shard free"),
        }
    }
    assert_eq!(left, leave(model, Some(charge)));
    model.push((key.to_vec(), charge, 0));
}

/// As a batch does: all go in, then what is too much leaves.
fn put_all(memory: &Memory<u64>, model: &mut Queue, rng: &mut Rng, stamp: u64) {
    let mut all = memory.lock_all();
    for _ in 0..rng.below(6) {
        let (key, charge) = ([u8::try_from(rng.below(10)).unwrap()], 1 + rng.below(20));
        let placement = Placement { stamp, handed: NOT_BELOW, deadline: stamp + 50 };
        all.put(memory.hash(&key), record(&key, charge), placement);
        match model.iter_mut().find(|entry| entry.0 == key) {
            Some(entry) => (entry.1, entry.2) = (charge, (entry.2 + 1).min(HITS_MAX)),
            None => model.push((key.to_vec(), charge, 0)),
        }
    }
    let mut left = Vec::new();
    while let Some((removed, _)) = all.evict() {
        left.push(removed.key().to_vec());
    }
    drop(all);
    assert_eq!(left, leave(model, None));
}
