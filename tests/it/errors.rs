//! Calls with bad input: each gives its kind and a sentence that names the value and the limit, and
//! changes nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use larder::{
    Builder, ByteCache, Cache, Error, ErrorKind, InsertOptions, ManualClock, RemovalCause, Result,
    Strategy, TierHealth, Timestamp, WhenFull, WritePolicy,
};

/// Asserts that `result` is an error of this kind whose sentence has all these parts.
#[track_caller]
pub(crate) fn refused<T>(result: Result<T>, kind: ErrorKind, parts: &[&str]) {
    let Err(error) = result else { panic!("not refused, though {kind:?} was expected: {parts:?}") };
    let sentence = error.to_string();
    assert_eq!(error.kind(), kind, "{sentence}");
    for part in parts {
        assert!(sentence.contains(part), "'{part}' is not in '{sentence}'");
    }
    let first = sentence.chars().next().unwrap();
    assert!(!first.is_uppercase() && !sentence.ends_with('.'), "the style of '{sentence}'");
}

/// A call on a cache, by name.
type Call = (&'static str, fn(&ByteCache, &[u8]) -> Result<()>);

/// Every call that takes a key.
const WITH_KEY: &[Call] = &[
    ("get", |c, k| c.get(k).map(drop)),
    ("get_at", |c, k| c.get_at(k, Timestamp::from_secs(1)).map(drop)),
    ("get_into", |c, k| c.get_into(k, &mut Vec::new()).map(drop)),
    ("get_many", |c, k| c.get_many([b"old", k]).map(drop)),
    ("get_many_at", |c, k| c.get_many_at([b"old", k], Timestamp::from_secs(1)).map(drop)),
    ("view", |c, k| c.view(k, <[u8]>::len).map(drop)),
    ("peek", |c, k| c.peek(k).map(drop)),
    ("peek_at", |c, k| c.peek_at(k, Timestamp::from_secs(1)).map(drop)),
    ("contains_key", |c, k| c.contains_key(k).map(drop)),
    ("contains_key_at", |c, k| c.contains_key_at(k, Timestamp::from_secs(1)).map(drop)),
    ("insert", |c, k| c.insert(k, b"v")),
    ("insert_at", |c, k| c.insert_at(k, b"v", Timestamp::from_secs(1))),
    ("insert_with", |c, k| c.insert_with(k, b"v", &InsertOptions::default().weight(1))),
    ("insert_if_absent", |c, k| c.insert_if_absent(k, b"v").map(drop)),
    ("insert_many", |c, k| c.insert_many([(&b"fine"[..], &b"v"[..]), (k, b"v")])),
    ("insert_many_at", |c, k| {
        c.insert_many_at([(&b"fine"[..], &b"v"[..]), (k, b"v")], Timestamp::from_secs(1))
    }),
    ("touch", |c, k| c.touch(k, Duration::from_secs(1)).map(drop)),
    ("remove", |c, k| c.remove(k).map(drop)),
    ("invalidate", |c, k| c.invalidate(k).map(drop)),
    ("remove_many", |c, k| c.remove_many([b"old", k]).map(drop)),
];

/// Every other call that can fail.
const WITHOUT_KEY: &[Call] = &[
    ("clear", |c, _| c.clear().map(drop)),
    ("flush", |c, _| c.flush()),
    ("invalidate_prefix", |c, _| c.invalidate_prefix(b"o").map(drop)),
    ("keys", |c, _| c.keys().next().map_or(Ok(()), |key| key.map(drop))),
    ("keys_with_prefix", |c, _| {
        c.keys_with_prefix(b"o").next().map_or(Ok(()), |key| key.map(drop))
    }),
    ("iter", |c, _| c.iter().next().map_or(Ok(()), |entry| entry.map(drop))),
    ("set_memory_limits", |c, _| c.set_memory_limits(Some(1), None)),
    ("set_disk_limits", |c, _| c.set_disk_limits(Some(1), None)),
    ("purge_expired", |c, _| c.purge_expired().map(drop)),
];

/// What must not change: entries with their place in the order, sums, and counters.
#[derive(Debug, PartialEq)]
struct State {
    entries: Vec<(Vec<u8>, Vec<u8>, Timestamp)>,
    sums: [u64; 5],
    counts: [u64; 5],
}

fn state(cache: &ByteCache) -> State {
    let entry = |e: Result<larder::ByteEntry>| {
        let e = e.unwrap();
        (e.key().to_vec(), e.to_vec(), e.accessed_at())
    };
    let mut entries: Vec<_> = cache.iter().map(entry).collect();
    entries.sort();
    let s = cache.stats();
    State {
        entries,
        sums: [
            cache.len(),
            cache.memory_len(),
            cache.memory_bytes(),
            cache.disk_len(),
            cache.disk_bytes(),
        ],
        counts: [s.gets, s.inserts, s.removes, s.memory_evictions, s.disk_evictions],
    }
}

/// A cache in memory and one with a disk tier, with an entry each.
fn both(
    folder: &tempfile::TempDir,
    with: impl Fn(Builder<ByteCache>) -> Builder<ByteCache>,
) -> [ByteCache; 2] {
    let path = folder.path().join("cache.larder");
    [ByteCache::builder(), ByteCache::builder().path(path)].map(|builder| {
        let cache = with(builder).open().unwrap();
        cache.insert(b"old", b"value").unwrap();
        cache.flush().unwrap();
        cache
    })
}

#[test]
fn bad_keys_are_refused_by_every_call() {
    let (short, long) = (vec![b'k'; 256], vec![b'k'; 257]);
    let folder = tempfile::tempdir().unwrap();
    for cache in both(&folder, |builder| builder) {
        let before = state(&cache);
        for (name, call) in WITH_KEY {
            let parts = ["the key is empty", "1 to 256 bytes"];
            refused(call(&cache, b""), ErrorKind::InvalidKey, &parts);
            let parts = ["257 bytes", "the limit is 256", "max_key_bytes"];
            refused(call(&cache, &long), ErrorKind::InvalidKey, &parts);
            assert_eq!(state(&cache), before, "{name}");
        }
        cache.insert(&short, b"v").unwrap();
    }
}

#[test]
fn the_limit_on_keys_is_the_one_that_was_set() {
    let folder = tempfile::tempdir().unwrap();
    for cache in both(&folder, |builder| builder.max_key_bytes(3)) {
        let parts = ["4 bytes", "the limit is 3"];
        refused(cache.insert(b"four", b"v"), ErrorKind::InvalidKey, &parts);
    }
    let folder = tempfile::tempdir().unwrap();
    for cache in both(&folder, |builder| builder.max_key_bytes(4096)) {
        cache.insert(&[1; 4096], b"v").unwrap();
        cache.flush().unwrap();
        assert!(cache.get(&[1; 4096]).unwrap().is_some());
        refused(cache.get(&[1; 4097]), ErrorKind::InvalidKey, &["4097", "4096"]);
    }
}

#[test]
fn an_entry_above_the_lowest_tiers_byte_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.larder");
    let memory_only = ByteCache::builder().memory_max_bytes(100);
    let two_tier = ByteCache::builder().path(path).memory_max_bytes(1000).disk_max_bytes(100);
    for (builder, limit) in [(memory_only, "memory_max_bytes"), (two_tier, "disk_max_bytes")] {
        let cache = builder.open().unwrap();
        cache.insert(b"key", b"older").unwrap();
        cache.insert(b"other", &[7; 50]).unwrap();
        cache.flush().unwrap();
        let before = state(&cache);
        let (large, parts) = ([0; 98], ["101 bytes", "the limit is 100", limit]);
        let weight = InsertOptions::default().weight(101);
        let attempts: [Result<()>; 5] = [
            cache.insert(b"key", &large),
            cache.insert_at(b"key", &large, Timestamp::from_secs(1)),
            cache.insert_with(b"key", b"v", &weight),
            cache.insert_if_absent(b"new", &large).map(drop),
            cache.insert_many([(&b"fine"[..], &b"v"[..]), (b"key", &large)]),
        ];
        for attempt in attempts {
            refused(attempt, ErrorKind::TooLarge, &parts);
        }
        assert_eq!(state(&cache), before);
        assert_eq!(cache.stats().rejected, 4 + 2, "each key of a batch");
        // What just fits, fits.
        cache.insert(b"key", &large[..97]).unwrap();
        cache.flush().unwrap();
        assert_eq!(cache.len(), 1);
    }
}

#[test]
fn an_entry_that_memory_cannot_hold_lives_on_disk_only() {
    let folder = tempfile::tempdir().unwrap();
    for max_entry in [None, Some(50)] {
        let path = folder.path().join(format!("{max_entry:?}.larder"));
        let builder = ByteCache::builder().path(path).memory_max_bytes(100);
        let builder = max_entry.into_iter().fold(builder, Builder::max_memory_entry_bytes);
        let cache = builder.open().unwrap();
        cache.insert(b"key", b"small").unwrap();
        assert_eq!(cache.memory_len(), 1);
        let large = if max_entry.is_some() { [1; 98][..48].to_vec() } else { vec![1; 98] };
        cache.insert(b"key", &large).unwrap();
        assert_eq!((cache.memory_len(), cache.memory_bytes(), cache.len()), (0, 0, 1));
        for _ in 0..2 {
            let entry = cache.get(b"key").unwrap().unwrap();
            assert_eq!((&*entry, entry.tier()), (&large[..], larder::Tier::Disk));
            cache.flush().unwrap();
        }
        assert_eq!((cache.memory_len(), cache.stats().promotions), (0, 0));
    }
}

#[test]
fn weighers_and_weights_are_what_counts() {
    let weigher = |_: &[u8], value: &[u8]| value.len() as u64 * 10;
    let cache = ByteCache::builder().memory_max_bytes(100).weigher(weigher).open().unwrap();
    cache.insert(b"a long key that counts nothing", &[1; 10]).unwrap();
    assert_eq!(cache.memory_bytes(), 100);
    refused(cache.insert(b"k", &[1; 11]), ErrorKind::TooLarge, &["110 bytes", "100"]);
    let too_heavy = InsertOptions::default().weight(u64::MAX);
    refused(cache.insert_with(b"k", b"v", &too_heavy), ErrorKind::TooLarge, &["100"]);
    let unlimited = ByteCache::builder().open().unwrap();
    let refusal = unlimited.insert_with(b"k", b"v", &too_heavy);
    refused(refusal, ErrorKind::TooLarge, &["the limit is 72057594037927936"]);
    assert_eq!(unlimited.len(), 0);
}

#[test]
fn sums_of_weights_stay_right_however_large_they_are() {
    let keys: Vec<String> = (0..400).map(|n| format!("key {n:03}")).collect();
    for strategy in [Strategy::Lru, Strategy::Lfu] {
        let builder = ByteCache::builder().strategy(strategy).weigher(|_, _| 1 << 56);
        let cache = builder.open().unwrap();
        let insert = |keys: &[String]| {
            cache.insert_many(keys.iter().map(|key| (key.as_bytes(), &b"value"[..])))
        };
        insert(&keys[..100]).unwrap();
        let before = state(&cache);
        let limit = (u64::MAX / 2).to_string();
        refused(insert(&keys), ErrorKind::TooLarge, &["the weights of the batch", &limit]);
        assert_eq!(state(&cache), before);
        // Both batches do not fit: 127 times that is the most.
        insert(&keys[200..300]).unwrap();
        assert_eq!((cache.len(), cache.memory_bytes()), (127, 127 << 56));
        cache.insert(b"one more", b"value").unwrap();
        assert_eq!((cache.len(), cache.validate()), (127, Ok(())));
        for key in keys.iter().map(String::as_str).chain(["one more"]) {
            cache.invalidate(key.as_bytes()).unwrap();
        }
        assert_eq!((cache.len(), cache.memory_bytes()), (0, 0));
    }
}

#[test]
fn attributes_that_are_too_long_are_refused() {
    let cache = ByteCache::builder().open().unwrap();
    cache.insert(b"key", b"older").unwrap();
    let before = state(&cache);
    let tag = InsertOptions::default().tags(["x".repeat(65_536)]);
    refused(cache.insert_with(b"key", b"v", &tag), ErrorKind::TooLarge, &["65536", "65535"]);
    let many = (0..20).map(|n| (n.to_string(), "y".repeat(60_000)));
    let many = InsertOptions::default().metadata(many);
    refused(cache.insert_with(b"key", b"v", &many), ErrorKind::TooLarge, &["1048576"]);
    assert_eq!(state(&cache), before);
}

fn behind(max_delay: Duration, max_pending_ops: usize, max_pending_bytes: usize) -> WritePolicy {
    let when_full = WhenFull::default();
    WritePolicy::Behind { max_delay, max_pending_ops, max_pending_bytes, when_full }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    type Options = fn(Builder<ByteCache>) -> Builder<ByteCache>;
    let in_memory: &[(Options, &[&str])] = &[
        (|b| b.memory_max_entries(0), &["memory limit is 0 (memory_max_entries)", "set a path"]),
        (|b| b.memory_max_bytes(0), &["memory limit is 0", "set a path"]),
        (|b| b.disk_max_entries(5), &["disk_max_entries is 5", "set a path"]),
        (|b| b.disk_max_bytes(5), &["disk_max_bytes is 5", "set a path"]),
        (
            |b| b.disk_time_to_live(Duration::from_secs(1)),
            &["disk_time_to_live is 1s", "set a path"],
        ),
        (|b| b.max_memory_entry_bytes(5), &["max_memory_entry_bytes is 5", "set a path"]),
    ];
    let anywhere: &[(Options, &[&str])] = &[
        (|b| b.max_key_bytes(0), &["max_key_bytes is 0", "1 to 4096"]),
        (|b| b.max_key_bytes(5000), &["max_key_bytes is 5000", "1 to 4096"]),
        (|b| b.shards(0), &["shards is 0", "1 to 4096"]),
        (|b| b.shards(5000), &["shards is 5000", "1 to 4096"]),
        (|b| b.memory_time_to_live(Duration::ZERO), &["memory_time_to_live is 0"]),
        (|b| b.time_to_idle(Duration::ZERO), &["time_to_idle is 0"]),
    ];
    let on_disk: &[(Options, &[&str])] = &[
        (|b| b.disk_time_to_live(Duration::ZERO), &["disk_time_to_live is 0"]),
        (|b| b.disk_max_entries(0), &["disk_max_entries is 0", "leave the path out"]),
        (|b| b.disk_max_bytes(0), &["disk_max_bytes is 0", "leave the path out"]),
        (|b| b.write_policy(behind(Duration::ZERO, 0, 1)), &["max_pending_ops is 0"]),
        (|b| b.write_policy(behind(Duration::ZERO, 1, 0)), &["max_pending_bytes is 0"]),
        (|b| b.write_policy(behind(Duration::from_secs(4000), 1, 1)), &["4000 s", "3600 s"]),
    ];
    for (options, parts) in in_memory.iter().chain(anywhere) {
        refused(options(ByteCache::builder()).open(), ErrorKind::InvalidOption, parts);
    }
    let folder = tempfile::tempdir().unwrap();
    for (options, parts) in anywhere.iter().chain(on_disk) {
        let builder = ByteCache::builder().path(folder.path().join("new").join("cache.larder"));
        refused(options(builder).open(), ErrorKind::InvalidOption, parts);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
    let typed = Cache::<str, u64>::builder().memory_max_entries(0).open();
    refused(typed, ErrorKind::InvalidOption, &["memory limit is 0"]);
}

#[test]
fn limits_that_make_no_sense_are_refused_at_run_time() {
    let folder = tempfile::tempdir().unwrap();
    let [memory_only, two_tier] = both(&folder, |builder| builder);
    let kind = ErrorKind::InvalidOption;
    let before = state(&memory_only);
    refused(memory_only.set_memory_limits(Some(0), None), kind, &["memory limit is 0"]);
    refused(memory_only.set_memory_limits(None, Some(0)), kind, &["memory limit is 0"]);
    refused(
        memory_only.set_disk_limits(Some(5), None),
        kind,
        &["disk_max_entries", "no disk tier"],
    );
    refused(memory_only.set_disk_limits(None, Some(5)), kind, &["disk_max_bytes", "no disk tier"]);
    memory_only.set_disk_limits(None, None).unwrap();
    assert_eq!(state(&memory_only), before);
    let before = state(&two_tier);
    refused(two_tier.set_disk_limits(Some(0), None), kind, &["disk_max_entries is 0"]);
    refused(two_tier.set_disk_limits(None, Some(0)), kind, &["disk_max_bytes is 0"]);
    assert_eq!(state(&two_tier), before);
    two_tier.set_memory_limits(Some(0), None).unwrap();
    assert_eq!((two_tier.memory_len(), two_tier.len()), (0, 1));
}

#[test]
fn every_call_on_a_closed_cache_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for cache in both(&folder, |builder| builder) {
        let has_disk = cache.disk_len() > 0;
        let clone = cache.clone();
        cache.close().unwrap();
        for (name, call) in WITH_KEY.iter().chain(WITHOUT_KEY) {
            match call(&clone, b"old") {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "{name}: {error}"),
                Ok(()) => panic!("{name} succeeds on a closed cache"),
            }
        }
        let error = clone.get(b"old").unwrap_err();
        assert_eq!(error.to_string(), "the cache was closed; open it again to use it");
        let health = clone.health();
        assert_eq!(health.memory, TierHealth::Closed);
        assert_eq!(health.disk, has_disk.then_some(TierHealth::Closed));
        // These give plain values, and must not panic.
        let _ = (clone.len(), clone.is_empty(), clone.stats(), clone.memory_bytes());
        clone.reset_stats();
        clone.clone().close().unwrap();
        clone.close().unwrap();
    }
}

#[test]
fn a_walk_that_began_before_close_ends_with_closed() {
    let folder = tempfile::tempdir().unwrap();
    for cache in both(&folder, |builder| builder) {
        cache.insert(b"second", b"value").unwrap();
        let mut walk = cache.keys();
        assert!(walk.next().unwrap().is_ok());
        cache.close().unwrap();
        assert_eq!(walk.next().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert!(walk.next().is_none());
    }
}

/// Runs what panics, and asserts that it does.
fn panics(call: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err(), "the panic did not reach the caller");
}

#[test]
fn a_panicking_weigher_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let weigher = |_: &[u8], value: &[u8]| {
        assert_ne!(value, b"bad", "a bad value");
        value.len() as u64
    };
    for cache in both(&folder, |builder| builder.weigher(weigher)) {
        let before = state(&cache);
        panics(|| cache.insert(b"old", b"bad").unwrap());
        panics(|| assert!(cache.insert_if_absent(b"new", b"bad").unwrap()));
        panics(|| cache.insert_many([(&b"a"[..], &b"v"[..]), (b"b", b"bad")]).unwrap());
        assert_eq!((state(&cache), cache.validate()), (before, Ok(())));
        cache.insert(b"old", b"good").unwrap();
        cache.flush().unwrap();
        assert_eq!(cache.get(b"old").unwrap().as_deref(), Some(&b"good"[..]));
        cache.close().unwrap();
    }
}

#[test]
fn a_panicking_listener_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let two_tier = ByteCache::builder().path(folder.path().join("c.larder")).disk_max_entries(4);
    for builder in [ByteCache::builder(), two_tier] {
        let calls = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&calls);
        let builder = builder.memory_max_entries(2).eviction_listener(move |_, _, cause| {
            counter.fetch_add(1, Ordering::Relaxed);
            assert_ne!(cause, RemovalCause::Size, "a listener that panics");
        });
        let cache = builder.open().unwrap();
        for n in 0..20_u8 {
            cache.insert(&[n], b"value").unwrap();
        }
        cache.flush().unwrap();
        assert_eq!((cache.memory_len(), cache.validate()), (2, Ok(())));
        assert!(cache.remove(&[19]).unwrap().is_some());
        assert!(calls.load(Ordering::Relaxed) > 10);
        cache.close().unwrap();
    }
}

#[test]
fn a_panic_while_a_value_is_viewed_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for cache in both(&folder, |builder| builder) {
        panics(|| assert!(cache.view(b"old", |_| panic!("a viewer that panics")).is_ok()));
        assert_eq!(cache.view(b"old", <[u8]>::len).unwrap(), Some(5));
        // No lock is held meanwhile.
        let nested = cache.view(b"old", |value| {
            cache.insert(b"old", b"newer value").unwrap();
            assert_eq!(cache.get(b"old").unwrap().unwrap().len(), 11);
            cache.clear().unwrap();
            value.to_vec()
        });
        assert_eq!(nested.unwrap().as_deref(), Some(&b"value"[..]));
    }
}

/// A value whose `Serialize` fails or panics, as its content says.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moody {
    Fine,
    Fails,
    Panics,
}

#[derive(Debug)]
struct Unwilling;

impl std::fmt::Display for Unwilling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("unwilling to be encoded")
    }
}

impl std::error::Error for Unwilling {}

impl rkyv::Archive for Moody {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: rkyv::Place<()>) {}
}

impl<S: rkyv::rancor::Fallible<Error: rkyv::rancor::Source> + ?Sized> rkyv::Serialize<S> for Moody {
    fn serialize(&self, _: &mut S) -> std::result::Result<(), S::Error> {
        match self {
            Self::Fine => Ok(()),
            Self::Fails => Err(rkyv::rancor::Source::new(Unwilling)),
            Self::Panics => panic!("a value that panics"),
        }
    }
}

impl<D: rkyv::rancor::Fallible + ?Sized> rkyv::Deserialize<Moody, D> for () {
    fn deserialize(&self, _: &mut D) -> std::result::Result<Moody, D::Error> {
        Ok(Moody::Fine)
    }
}

#[test]
fn a_value_that_cannot_be_encoded_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let in_memory = Cache::<str, Moody>::builder();
    let two_tier = Cache::<str, Moody>::builder().path(folder.path().join("cache.larder"));
    for builder in [in_memory, two_tier] {
        let cache = builder.open().unwrap();
        cache.insert("old", &Moody::Fine).unwrap();
        let refusals = [
            cache.insert("old", &Moody::Fails),
            cache.insert_if_absent("new", &Moody::Fails).map(drop),
            cache.insert_many([("a", &Moody::Fine), ("b", &Moody::Fails)]),
        ];
        for refusal in refusals {
            let source =
                std::error::Error::source(refusal.as_ref().unwrap_err()).map(ToString::to_string);
            assert!(source.unwrap().contains("unwilling to be encoded"));
            refused(refusal, ErrorKind::Encode, &["Moody", "failed to encode"]);
        }
        panics(|| cache.insert("old", &Moody::Panics).unwrap());
        panics(|| cache.insert_many([("a", &Moody::Fine), ("b", &Moody::Panics)]).unwrap());
        let keys: Vec<String> = cache.keys().map(Result::unwrap).collect();
        assert_eq!((keys, cache.stats().inserts), (vec!["old".to_owned()], 1));
        cache.insert("new", &Moody::Fine).unwrap();
        assert_eq!(cache.get("new").unwrap().unwrap().to_owned(), Moody::Fine);
    }
}

/// A cache whose writer stands still, in a listener, with `pending` operations in a full queue.
struct Stuck {
    cache: ByteCache,
    go_on: mpsc::Sender<()>,
}

const PENDING_MAX: usize = 4;

/// The writer stands still when it evicts `victim` to make room for `cause`. Before that, `key` and
/// `other` are on disk.
fn stuck(path: &std::path::Path, when_full: WhenFull) -> Stuck {
    let (entered, is_stuck) = mpsc::channel();
    let (go_on, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let policy = WritePolicy::Behind {
        max_delay: Duration::from_millis(1),
        max_pending_ops: PENDING_MAX,
        max_pending_bytes: 1 << 20,
        when_full,
    };
    let cache = ByteCache::builder()
        .path(path)
        .disk_max_entries(3)
        .write_policy(policy)
        .eviction_listener(move |key, _, _| {
            if key == b"victim" {
                let _ = entered.send(());
                let _ = gate.lock().unwrap().recv();
            }
        })
        .open()
        .unwrap();
    for key in [&b"victim"[..], b"key", b"other"] {
        cache.insert(key, b"older").unwrap();
    }
    cache.flush().unwrap();
    cache.insert(b"cause", b"1").unwrap();
    is_stuck.recv().unwrap();
    Stuck { cache, go_on }
}

#[test]
fn a_full_queue_gives_busy_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.larder");
    let Stuck { cache, go_on } = stuck(&path, WhenFull::Block(Duration::from_millis(20)));
    let more = (0..100_u8).take_while(|n| cache.insert(b"other", &[*n]).is_ok()).count();
    // One operation is being committed.
    assert_eq!(more, PENDING_MAX - 1);
    assert_eq!(cache.stats().pending_ops, PENDING_MAX as u64);
    let before = state(&cache);
    let parts = ["full for 20 ms", "4 operations", "raise its limits"];
    refused(cache.insert(b"key", b"newer"), ErrorKind::Busy, &parts);
    refused(cache.insert(b"new", b"newer"), ErrorKind::Busy, &parts);
    refused(cache.insert_if_absent(b"new", b"newer"), ErrorKind::Busy, &parts);
    let two = [(&b"new"[..], &b"newer"[..]), (b"newer", b"still")];
    refused(cache.insert_many(two), ErrorKind::Busy, &parts);
    refused(cache.touch(b"key", None), ErrorKind::Busy, &parts);
    // With the one that found the queue full.
    assert_eq!(cache.stats().rejected, 1 + 3 + 2, "inserts, each key of a batch");
    assert_eq!(state(&cache), before);
    refused(cache.remove(b"key"), ErrorKind::Busy, &parts);
    refused(cache.remove_many([&b"key"[..]]), ErrorKind::Busy, &parts);
    refused(cache.invalidate_prefix(b"k"), ErrorKind::Busy, &parts);
    assert_eq!(state(&cache).entries, before.entries);
    go_on.send(()).unwrap();
    cache.flush().unwrap();
    assert_eq!(cache.get(b"key").unwrap().as_deref(), Some(&b"older"[..]));
    cache.insert(b"key", b"newer").unwrap();
    assert_eq!(cache.get(b"key").unwrap().as_deref(), Some(&b"newer"[..]));
    cache.close().unwrap();
}

#[test]
fn what_a_full_queue_sheds_is_in_memory_only_and_its_older_value_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.larder");
    let Stuck { cache, go_on } = stuck(&path, WhenFull::Shed);
    for n in 0..u8::try_from(PENDING_MAX - 1).unwrap() {
        cache.insert(b"other", &[n]).unwrap();
    }
    assert_eq!(cache.stats().shed, 0);
    // That began when it was on disk.
    let walk = cache.keys();
    cache.insert(b"key", b"newer").unwrap();
    assert_eq!(cache.stats().shed, 1);
    let entry = cache.get(b"key").unwrap().unwrap();
    assert_eq!((&*entry, entry.tier()), (&b"newer"[..], larder::Tier::Memory));
    go_on.send(()).unwrap();
    cache.flush().unwrap();
    assert_eq!(cache.get(b"key").unwrap().as_deref(), Some(&b"newer"[..]));
    assert!(walk.map(Result::unwrap).any(|key| key == b"key"));
    assert_eq!((cache.len(), cache.memory_len(), cache.disk_len()), (3, 3, 2));
    let keys: Vec<Vec<u8>> = cache.keys().map(Result::unwrap).collect();
    assert_eq!(keys, [&b"cause"[..], b"key", b"other"]);
    cache.close().unwrap();
    let cache = ByteCache::builder().path(&path).open().unwrap();
    assert!(cache.get(b"key").unwrap().is_none());
    assert_eq!(cache.get(b"other").unwrap().as_deref(), Some(&[2][..]));
}

/// A clock that goes backwards, by hours, between any two calls.
#[test]
fn a_clock_that_jumps_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp::from_secs(1_000_000));
    let ttl = Duration::from_secs(60);
    let caches =
        both(&folder, |b| b.clock(clock.clone()).memory_time_to_live(ttl).time_to_idle(ttl));
    for cache in caches {
        for n in 0..50_u8 {
            clock.set(Timestamp::from_secs(1_000_000 - 3_600 * u64::from(n % 7)));
            cache.insert(&[n], b"value").unwrap();
            assert!(cache.get(&[n]).unwrap().is_some(), "its own write, at the same time");
        }
        clock.set(Timestamp::from_secs(u64::MAX));
        cache.purge_expired().unwrap();
        cache.flush().unwrap();
        assert_eq!((cache.len(), cache.validate()), (0, Ok(())));
        clock.set(Timestamp::from_secs(1_000_000));
    }
}

#[test]
fn errors_are_what_programs_expect_of_errors() {
    fn check<E: std::error::Error + Send + Sync + 'static>() {}
    check::<Error>();
    assert_eq!(size_of::<Error>(), size_of::<usize>());
    let seen = AtomicBool::new(false);
    let cache = ByteCache::builder().open().unwrap();
    // `?` turns it into a boxed error.
    let attempt = || -> std::result::Result<(), Box<dyn std::error::Error>> {
        cache.insert(b"", b"")?;
        seen.store(true, Ordering::Relaxed);
        Ok(())
    };
    assert!(attempt().unwrap_err().to_string().contains("empty"));
    assert!(!seen.load(Ordering::Relaxed));
}
