//! Random operations on a memory-only cache of each strategy, which says who leaves: whoever that is, the
//! rest holds.
//!
//! - **S1** what is found is what was stored last, and what was removed is not found.
//! - **S2** after every step the cache is within its limits.
//! - **S3** after every step every structure of the cache is as its invariants say.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::Arbitrary;
use larder::{ByteCache, InsertOptions, ManualClock, Strategy, Timestamp};
use libfuzzer_sys::fuzz_target;

const STEPS_MAX: usize = 300;
const KEYS: u8 = 24;
/// Explicit stamps are around it.
const START: u64 = 1 << 32;

#[derive(Debug, Arbitrary)]
struct Input {
    strategy: u8,
    shards: u8,
    entries_max: Option<u8>,
    bytes_max: Option<u8>,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Insert(u8, u8),
    InsertWith { key: u8, len: u8, weight: Option<u8>, ttl: Option<u8>, stamp: Option<u8> },
    InsertMany(Vec<(u8, u8)>),
    Get(u8),
    GetAt(u8, u8),
    Touch(u8),
    Remove(u8),
    Limits(Option<u8>, Option<u8>),
    Later(u8),
    Purge,
    Clear,
}

fn value(number: u64, len: u8) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(8 + usize::from(len % 32), 0);
    value
}

fn limit(given: Option<u8>) -> Option<u64> {
    given.map(|n| u64::from(n) + 1)
}

fuzz_target!(|input: Input| {
    let all = Strategy::BUILT_IN;
    let clock = ManualClock::new(Timestamp::from_nanos(START));
    let mut builder = ByteCache::builder()
        .shards([1, 2, 8, 64][usize::from(input.shards % 4)])
        .strategy(all[usize::from(input.strategy) % all.len()].clone())
        .clock(clock.clone());
    // From the beginning, since it is by these limits that shards get orders of their own.
    let mut limits = (limit(input.entries_max), limit(input.bytes_max));
    if let Some(entries) = limits.0 {
        builder = builder.memory_max_entries(entries);
    }
    if let Some(bytes) = limits.1 {
        builder = builder.memory_max_bytes(bytes);
    }
    let cache = builder.open().expect("sound options");
    let mut stored: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    for (number, step) in input.steps.iter().take(STEPS_MAX).enumerate() {
        let number = number as u64;
        match step {
            Step::Insert(key, len) => {
                let (key, value) = (key % KEYS, value(number, *len));
                if cache.insert(&[key], &value).is_ok() {
                    stored.insert(key, value);
                }
            }
            Step::InsertWith { key, len, weight, ttl, stamp } => {
                let (key, value) = (key % KEYS, value(number, *len));
                let mut options = InsertOptions::default();
                if let Some(weight) = weight {
                    options = options.weight(u64::from(*weight));
                }
                if let Some(ttl) = ttl {
                    options = options.ttl(Duration::from_nanos(u64::from(*ttl) + 1));
                }
                if let Some(stamp) = stamp {
                    options = options.timestamp(Timestamp::from_nanos(START + u64::from(*stamp)));
                }
                if cache.insert_with(&[key], &value, &options).is_ok() {
                    stored.insert(key, value);
                }
            }
            Step::InsertMany(items) => {
                let items: Vec<([u8; 1], Vec<u8>)> = items
                    .iter()
                    .take(8)
                    .map(|(key, len)| ([key % KEYS], value(number, *len)))
                    .collect();
                if cache.insert_many(items.iter().map(|(k, v)| (&k[..], &v[..]))).is_ok() {
                    stored.extend(items.into_iter().map(|(key, value)| (key[0], value)));
                }
            }
            Step::Get(key) => check(cache.get(&[key % KEYS]), stored.get(&(key % KEYS))),
            Step::GetAt(key, stamp) => {
                let now = Timestamp::from_nanos(START + u64::from(*stamp));
                check(cache.get_at(&[key % KEYS], now), stored.get(&(key % KEYS)));
            }
            Step::Touch(key) => drop(cache.touch(&[key % KEYS], None).expect("an open cache")),
            Step::Remove(key) => {
                cache.invalidate(&[key % KEYS]).expect("an open cache");
                stored.remove(&(key % KEYS));
            }
            Step::Limits(entries, bytes) => {
                limits = (limit(*entries), limit(*bytes));
                cache.set_memory_limits(limits.0, limits.1).expect("limits above zero");
            }
            Step::Later(nanos) => clock.advance(Duration::from_nanos(u64::from(*nanos))),
            Step::Purge => drop(cache.purge_expired().expect("an open cache")),
            Step::Clear => {
                cache.clear().expect("an open cache");
                stored.clear();
            }
        }
        let held = (cache.memory_len(), cache.memory_bytes());
        assert!(limits.0.is_none_or(|max| held.0 <= max), "S2: {held:?}, {limits:?}");
        assert!(limits.1.is_none_or(|max| held.1 <= max), "S2: {held:?}, {limits:?}");
        assert_eq!(cache.validate(), Ok(()), "S3");
    }
    for key in 0..KEYS {
        check(cache.peek(&[key]), stored.get(&key));
    }
});

/// What is found was stored last (S1).
fn check(found: larder::Result<Option<larder::ByteEntry>>, stored: Option<&Vec<u8>>) {
    if let Some(entry) = found.expect("an open cache") {
        assert_eq!(Some(&entry[..]), stored.map(|value| &value[..]), "S1");
    }
}
