//! Random operations on a memory-only cache, judged by a sorted map.
//!
//! Few keys, few timestamps and small limits, so that ties, replacements and evictions are the rule.
//! Explicit stamps lie in the first nanoseconds after the epoch and the cache's clock starts decades
//! later, so that the model knows the order of every two stamps without knowing the clock's.
//!
//! - **O1** every answer is the model's.
//! - **O2** after every step the cache holds what the model holds: entries, bytes and values.
//! - **O3** the counters are the model's.
//! - **O4** after every step every structure of the cache is as its invariants say.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use larder::{ByteCache, ManualClock, Timestamp};
use libfuzzer_sys::fuzz_target;

const STEPS_MAX: usize = 200;
const KEYS: u8 = 12;
/// Above every explicit stamp, which is one byte.
const FIRST_CLOCK_STAMP: u64 = 1 << 32;

#[derive(Debug, Arbitrary)]
struct Input {
    shards: u8,
    entries_max: Option<u8>,
    bytes_max: Option<u8>,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Insert(Key, Value),
    InsertAt(Key, Value, u8),
    InsertMany(Vec<(Key, Value)>),
    Get(Key),
    GetAt(Key, u8),
    Peek(Key),
    ContainsKey(Key),
    Remove(Key),
    Clear,
}

/// One of a few keys, of one or two bytes; rarely the empty key, which the cache refuses.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Key(u8);

impl Key {
    fn bytes(self) -> Vec<u8> {
        match self.0 {
            u8::MAX => Vec::new(),
            n if n % 2 == 0 => vec![n % KEYS],
            n => vec![n % KEYS, 0],
        }
    }
}

/// A value of 0 to 31 equal bytes.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Value {
    len: u8,
    fill: u8,
}

impl Value {
    fn bytes(self) -> Vec<u8> {
        vec![self.fill; usize::from(self.len % 32)]
    }
}

/// The judge: an exact LRU, written to be read.
struct Model {
    entries_max: u64,
    bytes_max: u64,
    entries: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    clock_stamp: u64,
    gets: u64,
    hits: u64,
    evictions: u64,
}

impl Model {
    fn clock(&mut self) -> u64 {
        self.clock_stamp += 1;
        self.clock_stamp
    }

    fn bytes(&self) -> u64 {
        self.entries.iter().map(|(key, (_, value))| charge(key, value)).sum()
    }

    /// Whether the cache takes these items. All go in under one stamp, then the oldest go out.
    fn insert(&mut self, items: &[(Vec<u8>, Vec<u8>)], stamp: u64) -> bool {
        let fits = |(key, value): &(Vec<u8>, Vec<u8>)| {
            !key.is_empty() && charge(key, value) <= self.bytes_max
        };
        if !items.iter().all(fits) {
            return false;
        }
        for (key, value) in items {
            self.entries.insert(key.clone(), (stamp, value.clone()));
        }
        while self.entries.len() as u64 > self.entries_max || self.bytes() > self.bytes_max {
            let oldest = self.entries.iter().min_by_key(|(key, (stamp, _))| (*stamp, *key));
            let victim = oldest.expect("something is over the limit").0.clone();
            self.entries.remove(&victim);
            self.evictions += 1;
        }
        true
    }

    fn get(&mut self, key: &[u8], now: u64) -> Option<&[u8]> {
        self.gets += 1;
        let (stamp, value) = self.entries.get_mut(key)?;
        self.hits += 1;
        *stamp = now;
        Some(value)
    }

    fn peek(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key).map(|(_, value)| value.as_slice())
    }
}

fn charge(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

fuzz_target!(|input: Input| {
    let entries_max = input.entries_max.map_or(u64::MAX, |n| u64::from(n % 16) + 1);
    let bytes_max = input.bytes_max.map_or(u64::MAX, |n| u64::from(n) + 1);
    let mut model = Model {
        entries_max,
        bytes_max,
        entries: BTreeMap::new(),
        clock_stamp: FIRST_CLOCK_STAMP,
        gets: 0,
        hits: 0,
        evictions: 0,
    };
    let mut builder = ByteCache::builder()
        .shards([1, 2, 8, 64][usize::from(input.shards % 4)])
        .clock(ManualClock::new(Timestamp::from_secs(1 << 30)));
    if input.entries_max.is_some() {
        builder = builder.memory_max_entries(entries_max);
    }
    if input.bytes_max.is_some() {
        builder = builder.memory_max_bytes(bytes_max);
    }
    let cache = builder.open().expect("limits above zero");

    for step in input.steps.iter().take(STEPS_MAX) {
        apply(step, &cache, &mut model);
        compare(&cache, &model);
    }
    let stats = cache.stats();
    assert_eq!(stats.gets, model.gets, "O3");
    assert_eq!(stats.memory_hits, model.hits, "O3");
    assert_eq!(stats.misses, model.gets - model.hits, "O3");
    assert_eq!(stats.memory_evictions, model.evictions, "O3");
});

/// Does `step` to both and compares the answers (O1).
fn apply(step: &Step, cache: &ByteCache, model: &mut Model) {
    match step {
        Step::Insert(key, value) => {
            let (key, value) = (key.bytes(), value.bytes());
            let taken = cache.insert(&key, &value).is_ok();
            let stamp = model.clock();
            assert_eq!(taken, model.insert(&[(key, value)], stamp), "O1: insert");
        }
        Step::InsertAt(key, value, now) => {
            let (key, value) = (key.bytes(), value.bytes());
            let taken = cache.insert_at(&key, &value, stamp(*now)).is_ok();
            assert_eq!(taken, model.insert(&[(key, value)], u64::from(*now)), "O1: insert_at");
        }
        Step::InsertMany(items) => {
            let items: Vec<_> =
                items.iter().map(|(key, value)| (key.bytes(), value.bytes())).collect();
            let pairs = items.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
            let taken = cache.insert_many(pairs).is_ok();
            let stamp = model.clock();
            assert_eq!(taken, model.insert(&items, stamp), "O1: insert_many");
        }
        Step::Get(key) => with_key(*key, |key| {
            let found = cache.get(key)?;
            let now = model.clock();
            assert_eq!(found.as_deref(), model.get(key, now), "O1: get");
            Ok(())
        }),
        Step::GetAt(key, now) => with_key(*key, |key| {
            let found = cache.get_at(key, stamp(*now))?;
            assert_eq!(found.as_deref(), model.get(key, u64::from(*now)), "O1: get_at");
            Ok(())
        }),
        Step::Peek(key) => with_key(*key, |key| {
            assert_eq!(cache.peek(key)?.as_deref(), model.peek(key), "O1: peek");
            Ok(())
        }),
        Step::ContainsKey(key) => with_key(*key, |key| {
            assert_eq!(cache.contains_key(key)?, model.peek(key).is_some(), "O1: contains_key");
            Ok(())
        }),
        Step::Remove(key) => with_key(*key, |key| {
            let found = cache.remove(key)?;
            let expected = model.entries.remove(key).map(|(_, value)| value);
            assert_eq!(found.as_deref(), expected.as_deref(), "O1: remove");
            Ok(())
        }),
        Step::Clear => {
            let cleared = cache.clear().expect("memory does not fail");
            assert_eq!(cleared, model.entries.len() as u64, "O1: clear");
            model.entries.clear();
        }
    }
}

/// Runs `step`, which fails exactly when the key is the empty one.
fn with_key(key: Key, step: impl FnOnce(&[u8]) -> Result<(), larder::Error>) {
    let key = key.bytes();
    assert_eq!(step(&key).is_ok(), !key.is_empty(), "O1: which keys are refused");
}

fn stamp(now: u8) -> Timestamp {
    Timestamp::from_nanos(u64::from(now))
}

/// Compares everything the two hold (O2, O4).
fn compare(cache: &ByteCache, model: &Model) {
    assert_eq!(cache.validate(), Ok(()), "O4");
    assert_eq!(cache.len(), model.entries.len() as u64, "O2: len");
    assert_eq!(cache.memory_bytes(), model.bytes(), "O2: bytes");
    for (key, (_, value)) in &model.entries {
        let found = cache.peek(key).expect("memory does not fail");
        assert_eq!(found.as_deref(), Some(value.as_slice()), "O2: {key:?}");
    }
}
