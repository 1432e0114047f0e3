//! Every strategy under everything that a cache does: values are right, limits hold, order or not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use larder::{
    ByteCache, Entries, EntryId, EvictionOrder, InsertOptions, Leaving, ManualClock, NewEntry,
    RemovalCause, Strategy, Tier, Timestamp, Victim,
};

use crate::clock::OwnClock;
use crate::support::{Rng, Watchdog, seed};

const SECOND: Duration = Duration::from_secs(1);

fn value(key: u8, version: u64) -> Vec<u8> {
    let mut value = vec![key; 1 + usize::from(key % 7)];
    value.extend(version.to_le_bytes());
    value
}

/// One operation, of the cache and of a map that forgets nothing.
fn step(cache: &ByteCache, map: &mut BTreeMap<u8, Vec<u8>>, rng: &mut Rng, version: u64) {
    let (key, new) = (rng.key(60), rng.below(100));
    let stored = value(key, version);
    let name = [b'k', key];
    match new {
        0..40 => {
            let found = cache.get(&name).unwrap().map(|entry| entry.to_vec());
            assert_eq!(found.as_ref(), map.get(&key), "{key}");
        }
        40..60 => cache.insert(&name, &stored).unwrap(),
        60..70 => {
            let options = InsertOptions::default().weight(rng.below(40));
            cache.insert_with(&name, &stored, &options).unwrap();
        }
        70..75 => {
            let options = InsertOptions::default().ttl(Duration::from_secs(3600 + rng.below(9)));
            cache.insert_with(&name, &stored, &options).unwrap();
        }
        75..80 => {
            let earlier = Timestamp::from_secs(1_000 + rng.below(50));
            cache.insert_at(&name, &stored, earlier).unwrap();
        }
        80..84 => {
            let names: Vec<[u8; 2]> = (key..key + 9).map(|key| [b'k', key]).collect();
            let values: Vec<Vec<u8>> = (key..key + 9).map(|key| value(key, version)).collect();
            cache.insert_many(names.iter().zip(&values).map(|(n, v)| (&n[..], &v[..]))).unwrap();
            map.extend((key..key + 9).zip(values));
            return;
        }
        84..90 => {
            assert_eq!(cache.invalidate(&name).unwrap(), map.remove(&key).is_some());
            return;
        }
        90..94 => {
            let there = cache.touch(&name, Some(Duration::from_secs(7200))).unwrap();
            assert_eq!(there, map.contains_key(&key));
        }
        94..97 => {
            let names: Vec<[u8; 2]> = (0..70).map(|key| [b'k', key]).collect();
            for (name, slot) in
                names.iter().zip(cache.get_many(names.iter().map(|n| &n[..])).unwrap())
            {
                assert_eq!(slot.map(|entry| entry.to_vec()).as_ref(), map.get(&name[1]));
            }
        }
        97 => {
            cache.get_at(&name, Timestamp::from_secs(2_000 + version % 100)).unwrap();
        }
        98 => {
            let entries = Some(1 + rng.below(25)).filter(|_| rng.below(4) > 0);
            let bytes = Some(50 + rng.below(300)).filter(|_| rng.below(2) > 0);
            cache.set_memory_limits(entries, bytes).unwrap();
        }
        _ if rng.below(10) == 0 => {
            cache.clear().unwrap();
            map.clear();
        }
        _ => {}
    }
    if (40..80).contains(&new) {
        map.insert(key, stored);
    }
}

#[test]
fn every_strategy_keeps_every_value_right() {
    let seed = seed();
    for (strategy, shards) in Strategy::BUILT_IN.into_iter().flat_map(|s| [(s.clone(), 1), (s, 8)])
    {
        let dog = Watchdog::start(format!("{strategy:?}, {shards} shards"));
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(Timestamp::from_secs(10_000));
        let cache = ByteCache::builder()
            .path(folder.path().join("strategies.larder"))
            .memory_max_entries(12)
            .memory_max_bytes(200)
            .strategy(strategy.clone())
            .shards(shards)
            .clock(clock.clone())
            .open()
            .unwrap();
        let (mut map, mut rng) = (BTreeMap::new(), Rng::new(seed ^ shards as u64));
        for version in 0..4_000 {
            clock.advance(Duration::from_micros(1));
            step(&cache, &mut map, &mut rng, version);
            cache.validate().unwrap_or_else(|broken| panic!("{strategy:?}: {broken}"));
        }
        assert_eq!(cache.len(), map.len() as u64);
        assert!(cache.stats().memory_evictions > 500, "{:?}", cache.stats());
        drop(dog);
    }
}

#[test]
fn what_is_kept_does_not_depend_on_the_shards() {
    let seed = seed();
    // What goes by the hashes of keys, of which every cache has its own, is not among them.
    for strategy in [Strategy::Sieve, Strategy::Fifo, Strategy::Ttl, Strategy::Size] {
        let kept = |shards: usize| {
            let clock = ManualClock::new(Timestamp::from_secs(10_000));
            let cache = ByteCache::builder().memory_max_entries(20).strategy(strategy.clone());
            let cache = cache.shards(shards).clock(clock.clone()).open().unwrap();
            let mut rng = Rng::new(seed);
            for _ in 0..3_000 {
                clock.advance(Duration::from_micros(1));
                let key = [rng.key(60)];
                let options =
                    InsertOptions::default().ttl(Duration::from_secs(1 + rng.below(1_000)));
                if cache.get(&key).unwrap().is_none() {
                    let value = vec![0; 1 + rng.index(50)];
                    cache.insert_with(&key, &value, &options).unwrap();
                }
            }
            let mut keys: Vec<Vec<u8>> = cache.keys().map(Result::unwrap).collect();
            keys.sort_unstable();
            (keys, cache.stats().memory_hits)
        };
        let one = kept(1);
        assert_eq!([kept(2), kept(8), kept(64)], [(); 3].map(|()| one.clone()), "{strategy:?}");
    }
}

/// What one of several threads may do with a key of which only the value that begins with it is ever there.
fn ask(cache: &ByteCache, rng: &mut Rng, key: &[u8], insert: impl Fn()) {
    match rng.below(10) {
        0 => drop(cache.remove(key).unwrap()),
        1..6 => match cache.get(key).unwrap() {
            Some(entry) => assert_eq!(&entry[..key.len()], key),
            None => insert(),
        },
        _ => insert(),
    }
}

#[test]
fn threads_stay_within_the_limits_of_every_strategy() {
    for strategy in Strategy::BUILT_IN {
        let dog = Watchdog::start(format!("{strategy:?}"));
        let cache = ByteCache::builder()
            .memory_max_entries(50)
            .memory_max_bytes(2_000)
            .strategy(strategy.clone())
            .shards(8)
            .open()
            .unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (cache, over) = (&cache, &over);
                scope.spawn(move || {
                    let mut rng = Rng::new(thread);
                    for version in 0..10_000 {
                        let key = rng.key(200);
                        let insert = || cache.insert(&[key], &value(key, version)).unwrap();
                        ask(cache, &mut rng, &[key], insert);
                        if cache.memory_len() > 50 || cache.memory_bytes() > 2_000 {
                            over.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(!over.into_inner(), "{strategy:?} exceeded a limit");
        assert_eq!(cache.validate(), Ok(()), "{strategy:?}");
        drop(dog);
    }
}

#[test]
fn what_is_idle_is_swept_with_every_strategy() {
    for strategy in Strategy::BUILT_IN {
        let clock = ManualClock::new(Timestamp::from_secs(10_000));
        let cache = ByteCache::builder()
            .memory_max_entries(100)
            .strategy(strategy.clone())
            .time_to_idle(Duration::from_secs(10))
            .clock(OwnClock::of(&clock))
            .open()
            .unwrap();
        for key in 0..50 {
            cache.insert(&[key], b"value").unwrap();
        }
        clock.advance(Duration::from_secs(6));
        for key in 0..20 {
            assert!(cache.get(&[key]).unwrap().is_some());
        }
        clock.advance(Duration::from_secs(6));
        assert_eq!(cache.purge_expired().unwrap(), 30, "{strategy:?}");
        assert_eq!((cache.len(), cache.validate()), (20, Ok(())), "{strategy:?}");
        assert_eq!(cache.stats().memory_expirations, 30, "{strategy:?}");
    }
}

/// What is in memory after each of these keys was asked for, and stored with so many bytes where it was
/// not there: three fit.
fn kept(strategy: Strategy, asked: &[(&str, usize)], ttl: impl Fn(&str) -> u64) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp::from_secs(10_000));
    let builder = ByteCache::builder().path(folder.path().join("kept.larder")).shards(4);
    let builder = builder.memory_max_entries(3).strategy(strategy).clock(clock.clone());
    let cache = builder.open().unwrap();
    for (key, bytes) in asked {
        clock.advance(SECOND);
        let found = cache.peek(key.as_bytes()).unwrap();
        if found.is_some_and(|entry| entry.tier() == Tier::Memory) {
            cache.get(key.as_bytes()).unwrap();
        } else {
            let options = InsertOptions::default().ttl(SECOND * u32::try_from(ttl(key)).unwrap());
            cache.insert_with(key.as_bytes(), &vec![0; *bytes], &options).unwrap();
        }
    }
    let mut names = Vec::new();
    for name in cache.keys().map(Result::unwrap) {
        if cache.peek(&name).unwrap().is_some_and(|entry| entry.tier() == Tier::Memory) {
            names.push(String::from_utf8(name).unwrap());
        }
    }
    names
}

#[test]
fn each_strategy_evicts_whom_it_says() {
    let one = |keys: &'static str| -> Vec<(&str, usize)> {
        keys.split(' ').map(|key| (key, 10)).collect()
    };
    let forever = |_: &str| 1_000_000;
    // What was stored first leaves, whatever was used since.
    assert_eq!(kept(Strategy::Fifo, &one("c b a c c d"), forever), ["a", "b", "d"]);
    assert_eq!(kept(Strategy::Fifo, &one("z y x w v u"), forever), ["u", "v", "w"]);
    assert_eq!(kept(Strategy::Lru, &one("c b a c c d"), forever), ["a", "c", "d"]);
    // The hand spares what was hit, and goes on from where it was.
    assert_eq!(kept(Strategy::Sieve, &one("c b a c b d"), forever), ["b", "c", "d"]);
    // What is asked for once leaves before what was asked for twice more, however long ago.
    assert_eq!(kept(Strategy::S3Fifo, &one("a a a b c d e f"), forever)[0], "a");
    // The soonest deadline, whatever was used since.
    let ttl = |key: &str| if key == "b" { 500 } else { 1_000 };
    assert_eq!(kept(Strategy::Ttl, &one("a b c d"), ttl), ["a", "c", "d"]);
    let by_age = |_: &str| 1_000;
    assert_eq!(kept(Strategy::Ttl, &one("a b c a d"), by_age), ["b", "c", "d"]);
    // The largest.
    let sizes = [("a", 10), ("b", 500), ("c", 10), ("d", 10)];
    assert_eq!(kept(Strategy::Size, &sizes, forever), ["a", "c", "d"]);
}

/// Panics when it is asked who leaves.
#[derive(Debug)]
pub(crate) struct Undecided;

impl EvictionOrder for Undecided {
    fn insert(&mut self, _: EntryId, _: &mut dyn Entries) {}

    fn remove(&mut self, _: EntryId, _: Leaving, _: &mut dyn Entries) {}

    fn victim(&mut self, _: Option<&NewEntry<'_>>, _: &mut dyn Entries) -> Option<Victim> {
        panic!("who can say")
    }
}

#[test]
fn a_panicking_order_harms_nothing() {
    let cache = ByteCache::builder()
        .memory_max_entries(3)
        .strategy(Strategy::custom(|| Undecided))
        .open()
        .unwrap();
    for key in 0..10 {
        cache.insert(&[key], b"value").unwrap();
        assert!(cache.get(&[key]).unwrap().is_some());
    }
    assert_eq!((cache.len(), cache.validate()), (3, Ok(())));
}

/// Panics with what panics when it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a bomb");
    }
}

/// First in, first out; and the hits that entries came with.
#[derive(Debug, Default)]
struct Odd {
    ids: Vec<EntryId>,
    calls: usize,
    is_fickle: bool,
    bombs_at: usize,
    came_with: Arc<AtomicU32>,
}

impl EvictionOrder for Odd {
    fn insert(&mut self, id: EntryId, entries: &mut dyn Entries) {
        self.came_with.fetch_max(entries.hits(id), Ordering::Relaxed);
        self.ids.push(id);
    }

    fn remove(&mut self, id: EntryId, _: Leaving, _: &mut dyn Entries) {
        self.ids.retain(|other| *other != id);
    }

    fn victim(&mut self, _: Option<&NewEntry<'_>>, _: &mut dyn Entries) -> Option<Victim> {
        self.calls += 1;
        if self.calls == self.bombs_at {
            std::panic::panic_any(Bomb);
        }
        let nth = if self.is_fickle { self.calls % self.ids.len().max(1) } else { 0 };
        self.ids.get(nth).copied().map(Victim::Entry)
    }
}

#[test]
fn an_order_that_never_says_the_same_hangs_nothing() {
    let dog = Watchdog::start("a fickle order".to_owned());
    let strategy = Strategy::custom(|| Odd { is_fickle: true, ..Odd::default() });
    let cache = ByteCache::builder().memory_max_entries(100).shards(8).strategy(strategy);
    let cache = cache.open().unwrap();
    for key in 0..150 {
        cache.insert(&[key], b"value").unwrap();
    }
    cache.set_memory_limits(Some(1), None).unwrap();
    assert_eq!((cache.len(), cache.validate()), (1, Ok(())));
    drop(dog);
}

#[test]
fn an_order_that_panics_with_something_that_panics_harms_nothing() {
    let strategy = Strategy::custom(|| Odd { bombs_at: 3, ..Odd::default() });
    let cache = ByteCache::builder().memory_max_entries(3).strategy(strategy).open().unwrap();
    for key in 0..20 {
        cache.insert(&[key], b"value").unwrap();
        assert!(cache.get(&[key]).unwrap().is_some());
    }
    assert_eq!((cache.len(), cache.validate()), (3, Ok(())));
}

#[test]
fn hits_do_not_come_back_with_an_entry() {
    let folder = tempfile::tempdir().unwrap();
    let came_with = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&came_with);
    let strategy = Strategy::custom(move || Odd { came_with: Arc::clone(&seen), ..Odd::default() });
    let builder = ByteCache::builder().path(folder.path().join("hits.larder"));
    let cache = builder.memory_max_entries(1).strategy(strategy).open().unwrap();
    for _ in 0..20 {
        cache.insert(b"a", b"value").unwrap();
        (0..5).for_each(|_| drop(cache.get(b"a").unwrap()));
        cache.insert(b"b", b"value").unwrap();
        // Promoted, before its write is committed or after.
        assert!(cache.get(b"a").unwrap().is_some());
    }
    assert_eq!(came_with.load(Ordering::Relaxed), 0);
}

#[test]
fn a_cache_makes_one_order_of_a_users_strategy() {
    let made = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&made);
    let strategy = Strategy::custom(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Undecided
    });
    let cache = ByteCache::builder().memory_max_entries(100_000).shards(8).strategy(strategy);
    drop(cache.open().unwrap());
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

/// A cache in which each shard has an order of its own, with this limit in entries, and how much has left.
fn of_shards(strategy: Strategy, entries: u64) -> (ByteCache, Arc<AtomicU32>) {
    let left = Arc::new(AtomicU32::new(0));
    let noted = Arc::clone(&left);
    let cache = ByteCache::builder()
        .memory_max_entries(entries)
        .strategy(strategy)
        .shards(4)
        .eviction_listener(move |_, _, cause| {
            noted.fetch_add(u32::from(cause == RemovalCause::Size), Ordering::Relaxed);
        });
    (cache.open().unwrap(), left)
}

#[test]
fn orders_of_shards_evict_nobody_while_there_is_room() {
    for strategy in [Strategy::Lfu, Strategy::S3Fifo, Strategy::Sieve] {
        let (cache, left) = of_shards(strategy, 2_048);
        let left = || left.load(Ordering::Relaxed);
        let put = |n: u64| cache.insert(&n.to_le_bytes(), &n.to_le_bytes()).unwrap();
        (0..2_048).for_each(put);
        assert_eq!((cache.len(), left()), (2_048, 0), "as many as may be");
        (2_048..10_000).for_each(put);
        assert_eq!((cache.len(), left()), (2_048, 10_000 - 2_048));
        // Room that one shard gave up is there for all.
        let keys: Vec<_> = cache.keys().map(|key| key.unwrap()).collect();
        for key in keys.iter().take(300) {
            assert!(cache.invalidate(key).unwrap());
        }
        (10_000..10_300).for_each(put);
        assert_eq!((cache.len(), left()), (2_048, 10_000 - 2_048), "into the room");
        put(10_300);
        assert_eq!((cache.len(), left()), (2_048, 10_001 - 2_048));
        cache.set_memory_limits(Some(3_000), None).unwrap();
        (20_000..20_952).for_each(put);
        assert_eq!((cache.len(), left()), (3_000, 10_001 - 2_048), "into the new room");
        cache.validate().unwrap();
    }
}

#[test]
fn orders_of_shards_stay_within_limits_whatever_entries_weigh() {
    const LIMITS: (u64, u64) = (2_048, 4 << 20);
    for strategy in [Strategy::Lfu, Strategy::S3Fifo, Strategy::Sieve] {
        let dog = Watchdog::start(format!("{strategy:?}"));
        let (cache, _) = of_shards(strategy.clone(), LIMITS.0);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (cache, over) = (&cache, &over);
                scope.spawn(move || {
                    let mut rng = Rng::new(thread);
                    for version in 0..20_000_u64 {
                        let key = rng.below(6_000).to_le_bytes();
                        let weight = match rng.below(500) {
                            0 => 3 << 20,
                            1..100 => 1,
                            _ => rng.below(8_192),
                        };
                        let options = InsertOptions::default().weight(weight);
                        let insert = || cache.insert_with(&key, &key, &options).unwrap();
                        ask(cache, &mut rng, &key, insert);
                        if thread == 0 && version % 1_000 == 0 {
                            let less = version % 2_000 / 2;
                            let (entries, bytes) = (LIMITS.0 - less, LIMITS.1 - (less << 10));
                            let is_in_bytes = version > 10_000;
                            let max_bytes = is_in_bytes.then_some(bytes);
                            cache.set_memory_limits(Some(entries), max_bytes).unwrap();
                            let held = (cache.memory_len(), cache.memory_bytes());
                            if held.0 > entries || is_in_bytes && held.1 > bytes {
                                over.store(true, Ordering::Relaxed);
                            }
                        }
                        if cache.memory_len() > LIMITS.0 {
                            over.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(!over.into_inner(), "{strategy:?} exceeded a limit");
        assert_eq!(cache.validate(), Ok(()), "{strategy:?}");
        drop(dog);
    }
}
