//! What a program sees of a cache over its life: events, order and deadlines across restarts, the
//! background sweep, and what a crash leaves.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use larder::{
    Builder, ByteCache, ByteEntry, Cache, CacheKey, CacheValue, Entry, Error, Health,
    InsertOptions, ManualClock, RemovalCause, Stats, Strategy, Tier, Timestamp, WhenFull,
    WritePolicy,
};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::child::{Child, is_alone, nth};
use crate::strategies::Undecided;
use crate::support::{Rng, Watchdog, seed};

const SECOND: Duration = Duration::from_secs(1);
const START: Timestamp = Timestamp::from_secs(1_000_000);

/// Commits happen only when a call asks for one.
const BY_HAND: WritePolicy = WritePolicy::Behind {
    max_delay: Duration::from_secs(3600),
    max_pending_ops: 1 << 16,
    max_pending_bytes: 1 << 20,
    when_full: WhenFull::Block(SECOND),
};

fn two_tier(folder: &Path) -> Builder<ByteCache> {
    ByteCache::builder().path(folder.join("cache.larder")).write_policy(BY_HAND)
}

/// The keys that leave when one after the other has to: the order of eviction, but for the newest.
fn order_on_disk(folder: &Path) -> Vec<String> {
    let cache = two_tier(folder).open().unwrap();
    let mut order = Vec::new();
    let mut before: Vec<Vec<u8>> = cache.keys().map(Result::unwrap).collect();
    while before.len() > 1 {
        cache.set_disk_limits(Some(before.len() as u64 - 1), None).unwrap();
        let after: Vec<Vec<u8>> = cache.keys().map(Result::unwrap).collect();
        let gone: Vec<_> = before.iter().filter(|key| !after.contains(key)).collect();
        assert_eq!(gone.len(), 1);
        order.push(String::from_utf8(gone[0].clone()).unwrap());
        before = after;
    }
    order
}

// Events.

/// The fields of TRACE events, by name.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<BTreeMap<&'static str, String>>>>);

impl<S: tracing::Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Fields(BTreeMap<&'static str, String>);
        impl Visit for Fields {
            fn record_str(&mut self, field: &Field, value: &str) {
                self.0.insert(field.name(), value.to_owned());
            }
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.0.insert(field.name(), format!("{value:?}"));
            }
        }
        if *event.metadata().level() == tracing::Level::TRACE {
            let mut fields = Fields(BTreeMap::new());
            event.record(&mut fields);
            self.0.lock().unwrap().push(fields.0);
        }
    }
}

impl Events {
    /// What `call` emits: operation, key, outcome and tier, in words.
    fn of<R>(&self, call: impl FnOnce() -> larder::Result<R>) -> Vec<String> {
        self.0.lock().unwrap().clear();
        call().unwrap();
        let told = |fields: &BTreeMap<&str, String>| {
            ["operation", "key", "outcome", "tier"].map(|name| fields[name].as_str()).join(" ")
        };
        self.0.lock().unwrap().iter().map(told).collect()
    }
}

/// Which subscribers an event is for is remembered per process.
#[test]
fn every_operation_emits_an_event() {
    if !is_alone("behaviour::every_operation_emits_an_event") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let events = Events::default();
    let subscriber = tracing_subscriber::registry().with(events.clone());
    tracing::subscriber::with_default(subscriber, || {
        let c = two_tier(folder.path()).open().unwrap();
        assert_eq!(events.of(|| c.insert(b"k", b"v")), ["insert k done disk"]);
        assert_eq!(events.of(|| c.get(b"k")), ["get k hit memory"]);
        assert_eq!(events.of(|| c.view(b"k", |_| ())), ["get k hit memory"]);
        assert_eq!(events.of(|| c.get_into(b"k", &mut Vec::new())), ["get k hit memory"]);
        assert_eq!(events.of(|| c.get(b"other")), ["get other miss disk"]);
        assert_eq!(events.of(|| c.flush()), ["flush  done disk"]);
        assert_eq!(events.of(|| Ok(c.keys().count())), ["walk  begun disk"]);
        assert_eq!(events.of(|| Ok(c.iter().count())), ["walk  begun disk"]);
        assert_eq!(events.of(|| Ok(c.keys_with_prefix(b"k").count())), ["walk k begun disk"]);
        assert_eq!(events.of(|| c.purge_expired()), ["purge_expired  done disk"]);
        assert_eq!(events.of(|| c.verify()), ["verify  done disk"]);
        assert_eq!(events.of(|| c.compact()), ["compact  done disk"]);
        assert_eq!(events.of(|| c.set_disk_limits(None, None)), ["set_disk_limits  done disk"]);
        let expected = ["set_memory_limits  done memory"];
        assert_eq!(events.of(|| c.set_memory_limits(Some(0), None)), expected);
        assert_eq!(events.of(|| c.get(b"k")), ["get k hit disk"]);
        c.set_memory_limits(None, None).unwrap();
        assert_eq!(events.of(|| c.peek(b"k")), ["peek k hit disk"]);
        assert_eq!(events.of(|| c.contains_key(b"x")), ["contains_key x miss none"]);
        let keys = [&b"k"[..], b"x"];
        let expected = ["get_many k hit disk", "get_many x miss none"];
        assert_eq!(events.of(|| c.get_many(keys)), expected);
        assert_eq!(events.of(|| c.touch(b"k", None)), ["touch k done disk"]);
        assert_eq!(events.of(|| c.touch(b"x", None)), ["touch x miss none"]);
        assert_eq!(events.of(|| c.insert_if_absent(b"k", b"v")), ["insert_if_absent k there disk"]);
        assert_eq!(events.of(|| c.insert_if_absent(b"n", b"v")), ["insert_if_absent n done disk"]);
        let items = [(&b"a"[..], &b"1"[..]), (b"b", b"2")];
        let expected = ["insert_many a done disk", "insert_many b done disk"];
        assert_eq!(events.of(|| c.insert_many(items)), expected);
        assert_eq!(events.of(|| c.remove(b"a")), ["remove a done memory"]);
        assert_eq!(events.of(|| c.remove(b"a")), ["remove a miss none"]);
        assert_eq!(events.of(|| c.invalidate(b"b")), ["invalidate b done memory"]);
        let expected = ["remove_many k done disk", "remove_many x done disk"];
        assert_eq!(events.of(|| c.remove_many(keys)), expected);
        assert_eq!(events.of(|| c.invalidate_prefix(b"n")), ["invalidate_prefix n done disk"]);
        assert_eq!(events.of(|| c.clear()), ["clear  done disk"]);
        assert_eq!(events.of(|| c.close()), ["close  done disk"]);

        let c = ByteCache::builder().open().unwrap();
        assert_eq!(events.of(|| c.insert(b"k", b"v")), ["insert k done memory"]);
        assert_eq!(events.of(|| c.get(b"x")), ["get x miss memory"]);
        assert_eq!(events.of(|| c.clear()), ["clear  done memory"]);
    });
}

/// Uses a cache when it hears a warning.
#[derive(Clone)]
struct Asking(ByteCache, Arc<Mutex<Vec<u64>>>);

impl<S: tracing::Subscriber> Layer<S> for Asking {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::WARN {
            self.0.insert(b"heard", b"1").unwrap();
            self.1.lock().unwrap().push(self.0.len());
        }
    }
}

#[test]
fn who_hears_that_an_order_panicked_can_use_the_cache() {
    if !is_alone("behaviour::who_hears_that_an_order_panicked_can_use_the_cache") {
        return;
    }
    let _watchdog = Watchdog::start("a subscriber that uses its cache".to_owned());
    let strategy = Strategy::custom(|| Undecided);
    let c = ByteCache::builder().memory_max_entries(3).strategy(strategy).open().unwrap();
    let heard = Arc::<Mutex<Vec<u64>>>::default();
    let asking = Asking(c.clone(), Arc::clone(&heard));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(asking), || {
        for key in 0..9_u8 {
            c.insert(&[key], b"value").unwrap();
        }
    });
    assert_eq!(c.len(), 3);
    assert_eq!(*heard.lock().unwrap(), [3]);
}

// The listener.

type Heard = mpsc::Receiver<(String, Tier, RemovalCause)>;

fn listening(builder: Builder<ByteCache>) -> (ByteCache, Heard) {
    let (left, heard) = mpsc::channel();
    let builder = builder.eviction_listener(move |key, entry: ByteEntry, cause| {
        assert_eq!(&*entry, b"value", "the value that left");
        let _ = left.send((String::from_utf8(key).unwrap(), entry.tier(), cause));
    });
    (builder.open().unwrap(), heard)
}

#[test]
fn the_listener_of_a_cache_in_memory_hears_why_entries_leave() {
    use RemovalCause::{Expired, Explicit, Replaced, Size};
    let clock = ManualClock::new(START);
    let builder = ByteCache::builder().memory_max_entries(2).clock(clock.clone());
    let (cache, heard) = listening(builder.memory_time_to_live(SECOND));
    let hear = || {
        heard
            .try_iter()
            .map(|(key, tier, cause)| {
                assert_eq!(tier, Tier::Memory);
                (key, cause)
            })
            .collect::<Vec<_>>()
    };
    let named = |key: &str, cause| vec![(key.to_owned(), cause)];
    cache.insert(b"a", b"value").unwrap();
    cache.insert(b"b", b"value").unwrap();
    assert_eq!(hear(), []);
    cache.insert(b"a", b"value").unwrap();
    assert_eq!(hear(), named("a", Replaced));
    cache.insert(b"c", b"value").unwrap();
    assert_eq!(hear(), named("b", Size));
    cache.insert_at(b"old", b"value", Timestamp::from_secs(1)).unwrap();
    assert_eq!(hear(), named("old", Size));
    cache.remove(b"a").unwrap();
    assert_eq!(hear(), named("a", Explicit));
    assert!(!cache.invalidate(b"a").unwrap());
    assert_eq!(hear(), []);
    clock.advance(2 * SECOND);
    assert!(cache.get(b"c").unwrap().is_none());
    // Either the get met it, or the sweep was faster.
    assert_eq!(heard.recv_timeout(5 * SECOND), Ok(("c".to_owned(), Tier::Memory, Expired)));
    cache.insert(b"d", b"value").unwrap();
    cache.set_memory_limits(Some(1), None).unwrap();
    assert_eq!(hear(), []);
    cache.insert(b"e", b"value").unwrap();
    assert_eq!(hear(), named("d", Size));
    assert_eq!(cache.clear().unwrap(), 1);
    drop(cache);
    assert_eq!(hear(), []);
}

#[test]
fn the_listener_of_two_tiers_hears_once_of_what_leaves_the_cache() {
    use RemovalCause::{Expired, Explicit, Replaced, Size};
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let builder = two_tier(folder.path()).memory_max_entries(2).disk_max_entries(3);
    let (cache, heard) = listening(builder.clock(clock.clone()).disk_time_to_live(SECOND));
    let hear = || {
        cache.flush().unwrap();
        heard.try_iter().collect::<Vec<_>>()
    };
    let named = |key: &str, tier, cause| vec![(key.to_owned(), tier, cause)];
    for key in [b"a", b"b", b"c"] {
        cache.insert(key, b"value").unwrap();
    }
    assert_eq!(hear(), named("a", Tier::Memory, Size));
    // Promoted, for which another leaves memory.
    assert_eq!(cache.get(b"a").unwrap().unwrap().tier(), Tier::Disk);
    assert_eq!(hear(), named("b", Tier::Memory, Size));
    // It leaves the disk, and is not in memory.
    cache.set_memory_limits(Some(3), None).unwrap();
    cache.insert(b"d", b"value").unwrap();
    assert_eq!(hear(), named("b", Tier::Disk, Size));
    // It leaves both.
    cache.set_disk_limits(Some(2), None).unwrap();
    assert_eq!(hear(), named("c", Tier::Disk, Size));
    assert_eq!((cache.memory_len(), cache.disk_len()), (2, 2));
    cache.insert(b"a", b"value").unwrap();
    assert_eq!(hear(), named("a", Tier::Memory, Replaced));
    cache.set_memory_limits(Some(1), None).unwrap();
    assert_eq!(hear(), named("d", Tier::Memory, Size));
    cache.insert(b"d", b"value").unwrap();
    let replaced = hear();
    assert!(replaced.contains(&("d".to_owned(), Tier::Disk, Replaced)), "{replaced:?}");
    assert!(cache.remove(b"a").unwrap().is_some());
    assert_eq!(hear(), named("a", Tier::Disk, Explicit));
    clock.advance(2 * SECOND);
    cache.purge_expired().unwrap();
    assert_eq!(hear(), named("d", Tier::Disk, Expired));
    assert_eq!(cache.len(), 0);
}

#[test]
fn a_listener_may_use_its_cache() {
    let folder = tempfile::tempdir().unwrap();
    let watchdog = Watchdog::start("a listener that uses its cache".to_owned());
    for builder in [ByteCache::builder(), ByteCache::builder().path(folder.path().join("c.larder"))]
    {
        let slot: Arc<Mutex<Option<ByteCache>>> = Arc::default();
        let (inside, busy) = (Arc::clone(&slot), AtomicBool::new(false));
        let builder = builder.memory_max_entries(2).eviction_listener(move |key, _, _| {
            let cache = inside.lock().unwrap().clone();
            // What it does makes entries leave in turn.
            if let Some(cache) = cache.filter(|_| !busy.swap(true, Ordering::AcqRel)) {
                cache.insert(b"left", &key).unwrap();
                cache.get(&key).unwrap();
                cache.flush().unwrap();
                busy.store(false, Ordering::Release);
            }
        });
        let cache = builder.open().unwrap();
        *slot.lock().unwrap() = Some(cache.clone());
        for n in 0..9_u8 {
            cache.insert(&[n], b"value").unwrap();
        }
        cache.flush().unwrap();
        assert!(cache.contains_key(b"left").unwrap());
        *slot.lock().unwrap() = None;
        cache.close().unwrap();
    }
    drop(watchdog);
}

// Order across restarts.

/// Inserts `a` to `e`, and reads some of them again.
fn read_some(cache: &ByteCache) {
    for key in [b"a", b"b", b"c", b"d", b"e"] {
        cache.insert(key, b"value").unwrap();
    }
    cache.flush().unwrap();
    cache.get(b"b").unwrap();
    cache.get(b"a").unwrap();
    // These change nothing.
    cache.peek(b"c").unwrap();
    cache.get_many([&b"d"[..]]).unwrap();
    assert_eq!(cache.iter().count(), 5);
}

const AFTER_READS: [&str; 4] = ["c", "d", "e", "b"];

#[test]
fn recency_survives_close_in_memory_and_below() {
    for entries in [None, Some(2), Some(0)] {
        let folder = tempfile::tempdir().unwrap();
        let builder = two_tier(folder.path());
        let builder = entries.into_iter().fold(builder, Builder::memory_max_entries);
        let cache = builder.open().unwrap();
        read_some(&cache);
        cache.close().unwrap();
        assert_eq!(order_on_disk(folder.path()), AFTER_READS, "{entries:?}");
    }
}

#[test]
fn recency_survives_a_crash_once_flushed() {
    for entries in [None, Some(2), Some(0)] {
        let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let builder = two_tier(folder.path());
        let builder = entries.into_iter().fold(builder, Builder::memory_max_entries);
        let cache = builder.open().unwrap();
        read_some(&cache);
        cache.flush().unwrap();
        cache.get(b"c").unwrap();
        let name = "cache.larder";
        std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
        assert_eq!(order_on_disk(copy.path()), AFTER_READS, "{entries:?}");
    }
}

#[test]
fn recency_survives_dropping_the_last_handle() {
    let folder = tempfile::tempdir().unwrap();
    let cache = two_tier(folder.path()).open().unwrap();
    let clone = cache.clone();
    read_some(&cache);
    drop(cache);
    clone.get(b"e").unwrap();
    drop(clone);
    assert_eq!(order_on_disk(folder.path()), ["c", "d", "b", "a"]);
}

// Time.

#[test]
fn deadlines_survive_restart_and_promotion() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let open = || two_tier(folder.path()).clock(clock.clone()).open().unwrap();
    let cache = open();
    cache.insert_with(b"key", b"value", &InsertOptions::default().ttl(60 * SECOND)).unwrap();
    let deadline = Some(START + 60 * SECOND);
    assert_eq!(cache.get(b"key").unwrap().unwrap().expires_at(), deadline);
    for secs in [10, 30, 60] {
        cache.clone().close().unwrap();
        clock.set(START + secs * SECOND);
        let cache = open();
        // The first is a disk hit, which promotes.
        for tier in [Tier::Disk, Tier::Memory] {
            let entry = cache.get(b"key").unwrap().unwrap();
            assert_eq!((entry.expires_at(), entry.tier()), (deadline, tier));
            assert_eq!(entry.created_at(), START);
            assert_eq!(entry.ttl_remaining(), Some((60 - secs) * SECOND));
        }
        cache.close().unwrap();
    }
    let cache = open();
    cache.get(b"key").unwrap().unwrap();
    clock.set(Timestamp::from_nanos((START + 60 * SECOND).as_nanos() + 1));
    assert!(cache.get(b"key").unwrap().is_none());
    cache.close().unwrap();
    let cache = open();
    assert_eq!((cache.len(), cache.disk_bytes()), (0, 0));
}

#[test]
fn what_is_past_its_time_in_memory_only_is_a_disk_hit_and_promoted_anew() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let builder = two_tier(folder.path()).clock(clock.clone());
    let builder = builder.memory_time_to_live(10 * SECOND).disk_time_to_live(60 * SECOND);
    let cache = builder.open().unwrap();
    cache.insert(b"key", b"value").unwrap();
    cache.flush().unwrap();
    for round in 1..=5 {
        clock.advance(11 * SECOND);
        for tier in [Tier::Disk, Tier::Memory] {
            assert_eq!(cache.get(b"key").unwrap().unwrap().tier(), tier, "round {round}");
        }
        let stats = cache.stats();
        assert_eq!((stats.promotions, stats.memory_expirations), (round, round));
        assert_eq!((stats.disk_expirations, stats.disk_entries), (0, 1));
    }
    clock.advance(11 * SECOND);
    assert!(cache.get(b"key").unwrap().is_none());
    cache.flush().unwrap();
    assert_eq!((cache.len(), cache.disk_len(), cache.stats().disk_expirations), (0, 0, 1));
}

#[test]
fn an_entry_that_is_used_is_not_idle() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let two_tier = two_tier(folder.path()).memory_max_entries(1);
    for builder in [ByteCache::builder(), two_tier] {
        let cache = builder.clock(clock.clone()).time_to_idle(10 * SECOND).open().unwrap();
        cache.insert(b"used", b"value").unwrap();
        cache.insert(b"left", b"value").unwrap();
        for _ in 0..5 {
            clock.advance(6 * SECOND);
            assert!(cache.get(b"used").unwrap().is_some());
            cache.flush().unwrap();
        }
        // To look is not to use.
        assert!(cache.peek(b"left").unwrap().is_none());
        clock.advance(6 * SECOND);
        assert!(cache.peek(b"used").unwrap().is_some());
        clock.advance(6 * SECOND);
        assert!(cache.peek(b"used").unwrap().is_none());
        cache.purge_expired().unwrap();
        assert_eq!(cache.len(), 0);
    }
}

/// Looks until `done`, five seconds at most.
fn soon(what: &str, done: impl Fn() -> bool) {
    let end = Timestamp::now() + 5 * SECOND;
    while !done() {
        assert!(Timestamp::now() < end, "{what}: not within five seconds");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn is_empty(cache: &ByteCache) -> bool {
    let sums = [cache.memory_len(), cache.memory_bytes(), cache.disk_len(), cache.disk_bytes()];
    sums == [0; 4] && cache.is_empty()
}

/// Its time is over whether or not it was swept: by the system's clock, with thousands to sweep.
#[test]
fn what_is_over_is_not_found_while_others_are_swept() {
    for round in 0..4_u32 {
        let cache = ByteCache::builder().memory_max_entries(30_000).shards(8).open().unwrap();
        let options = InsertOptions::default().ttl(Duration::from_millis(300));
        let key = |n: u32| (round << 16 | n).to_le_bytes();
        let last = 20_000;
        for n in 0..=last {
            cache.insert_with(&key(n), b"value", &options).unwrap();
        }
        // It leaves last.
        while cache.get(&key(last)).unwrap().is_some() {}
        for n in (0..last).rev().take(2_000) {
            assert!(cache.get(&key(n)).unwrap().is_none());
            assert!(cache.view(&key(n), |_| ()).unwrap().is_none());
            assert!(!cache.get_into(&key(n), &mut Vec::new()).unwrap());
        }
    }
}

#[test]
fn what_expires_frees_its_space_without_being_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let ms = Duration::from_millis;
    let on_disk = |name: &str| ByteCache::builder().path(folder.path().join(name));
    let caches = [
        ("memory", ByteCache::builder().memory_time_to_live(ms(50))),
        ("idle memory", ByteCache::builder().time_to_idle(ms(50))),
        ("two tiers", on_disk("a").disk_time_to_live(ms(50))),
        ("two tiers, idle", on_disk("b").time_to_idle(ms(50))),
        ("disk", on_disk("c").disk_time_to_live(ms(50)).memory_max_entries(0)),
        ("idle disk", on_disk("d").time_to_idle(ms(50)).memory_max_entries(0)),
    ];
    for (name, builder) in caches {
        let cache = builder.open().unwrap();
        for n in 0..100_u8 {
            cache.insert(&[n], b"value").unwrap();
        }
        soon(name, || is_empty(&cache));
        assert!(cache.stats().memory_expirations + cache.stats().disk_expirations >= 100, "{name}");
    }
    // One entry's own time, where nothing else expires; and behind a clock of the program's.
    let cache = ByteCache::builder().open().unwrap();
    cache.insert_with(b"key", b"value", &InsertOptions::default().ttl(ms(20))).unwrap();
    soon("its own time", || is_empty(&cache));
    let clock = ManualClock::new(START);
    let cache = on_disk("e").clock(clock.clone()).disk_time_to_live(SECOND).open().unwrap();
    cache.insert(b"key", b"value").unwrap();
    cache.flush().unwrap();
    clock.advance(2 * SECOND);
    soon("the program's clock", || is_empty(&cache));
}

#[test]
fn what_expires_in_a_file_that_was_opened_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.larder");
    let open = || ByteCache::builder().path(&path).open().unwrap();
    let cache = open();
    let ttl = |ms| InsertOptions::default().ttl(Duration::from_millis(ms));
    cache.insert_with(b"soon", b"value", &ttl(300)).unwrap();
    cache.insert_with(b"later", b"value", &ttl(3_600_000)).unwrap();
    cache.close().unwrap();
    let cache = open();
    soon("what was in the file", || cache.disk_len() == 1);
    assert!(cache.contains_key(b"later").unwrap());
}

// A crash.

#[test]
fn a_killed_process_leaves_a_prefix_of_what_it_wrote() {
    killed("write", 4);
}

/// Whatever it was about to do with the copy.
#[test]
fn a_process_killed_during_compactions_leaves_a_prefix_of_what_it_wrote() {
    killed("write and compact", 12);
}

/// Kills a process that does a task, so many times, and looks at what it left.
fn killed(task: &str, times: u32) {
    let seed = seed();
    let mut rng = Rng::new(seed);
    for _ in 0..times {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.larder");
        let mut child = Child::start(task, &path);
        let flushed = (0..=rng.below(4)).map(|_| child.hear().unwrap()).last();
        let flushed: u64 = flushed.unwrap().parse().unwrap();
        // At any point of what it does next.
        std::thread::park_timeout(Duration::from_micros(rng.below(5_000)));
        child.kill();
        let cache = ByteCache::builder().path(&path).open().unwrap();
        let count = cache.disk_len();
        assert!(count >= flushed, "{count} of {flushed} that were flushed, LARDER_SEED={seed}");
        let mut bytes = 0;
        for (n, entry) in (0..).zip(cache.iter()) {
            let ((key, value), entry) = (nth(n), entry.unwrap());
            assert_eq!(
                (entry.key(), &*entry),
                (&key[..], &value[..]),
                "a hole, LARDER_SEED={seed}"
            );
            bytes += entry.size_bytes();
        }
        assert_eq!((cache.keys().count() as u64, cache.len()), (count, count));
        assert_eq!(cache.disk_bytes(), bytes, "LARDER_SEED={seed}");
        assert!(cache.verify().unwrap().is_ok(), "LARDER_SEED={seed}");
        cache.insert(b"more", b"value").unwrap();
        cache.close().unwrap();
    }
}

// Types.

#[test]
fn handles_and_what_they_give_may_be_shared_between_threads() {
    fn shared<T: Send + Sync + Debug + 'static>() {}
    fn handle<T: Send + Sync + Debug + Clone + 'static>() {}
    handle::<ByteCache>();
    handle::<Cache<str, String>>();
    handle::<Cache<[u8], Vec<u32>>>();
    handle::<ByteEntry>();
    handle::<Entry<String>>();
    handle::<Stats>();
    handle::<Health>();
    handle::<ManualClock>();
    handle::<InsertOptions>();
    handle::<Builder<ByteCache>>();
    handle::<Builder<Cache<str, String>>>();
    shared::<Error>();
}

/// Inserts keys in any order, and asserts that walks give them in theirs.
fn walks_in_order<K>(mut keys: Vec<K>)
where
    K: CacheKey<Owned = K> + Ord + Clone + Debug,
    u64: CacheValue,
{
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.larder");
    let open = || Cache::<K, u64>::builder().path(&path).memory_max_entries(2).open().unwrap();
    let cache = open();
    for (n, key) in (0..).zip(&keys) {
        cache.insert(key, &n).unwrap();
    }
    for (n, key) in (0..).zip(&keys) {
        assert_eq!(cache.get(key).unwrap().unwrap().to_owned(), n);
    }
    keys.sort();
    assert_eq!(cache.keys().map(Result::unwrap).collect::<Vec<_>>(), keys);
    cache.close().unwrap();
    let cache = open();
    assert_eq!(cache.keys().map(Result::unwrap).collect::<Vec<_>>(), keys);
    assert!(cache.remove(&keys[0]).unwrap().is_some());
    assert_eq!(cache.keys().map(Result::unwrap).collect::<Vec<_>>(), keys[1..]);
}

/// A shelf, and a place on it; shelves from the top, places from the left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    shelf: std::cmp::Reverse<u8>,
    place: i16,
}

impl CacheKey for Spot {
    type Owned = Self;
    type Bytes<'a> = [u8; 3];

    fn to_key_bytes(&self) -> [u8; 3] {
        let [a, b] = self.place.to_key_bytes();
        [!self.shelf.0, a, b]
    }

    fn from_key_bytes(bytes: &[u8]) -> Option<Self> {
        let (shelf, place) = bytes.split_first()?;
        Some(Self { shelf: std::cmp::Reverse(!shelf), place: i16::from_key_bytes(place)? })
    }
}

#[test]
fn keys_walk_in_their_own_order() {
    walks_in_order(vec![7_u8, 0, 255, 128, 1]);
    walks_in_order(vec![300_u64, 2, u64::MAX, 0, 256]);
    walks_in_order(vec![-1_i32, 0, i32::MIN, 1, i32::MAX, -300]);
    walks_in_order(vec![5_i128, -5, 0]);
    walks_in_order(vec![5_usize, 1, 0]);
    walks_in_order(["b", "a", "ab", "B", "\u{e9}"].map(str::to_owned).to_vec());
    walks_in_order(vec![vec![1_u8], vec![0], vec![0, 0], vec![255, 1]]);
    let spots = [(1, 5), (3, -2), (1, -5), (3, 2), (2, 0)];
    let spot = |(shelf, place)| Spot { shelf: std::cmp::Reverse(shelf), place };
    walks_in_order(spots.map(spot).to_vec());
    let cache = Cache::<Spot, u64>::builder().open().unwrap();
    cache.insert(&spot((3, 1)), &1).unwrap();
    assert_eq!(cache.get(&spot((3, 1))).unwrap().unwrap().key(), [!3, 0x80, 1]);
}

#[test]
fn many_keys_are_found_wherever_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ByteCache::builder()
        .path(folder.path().join("many.larder"))
        .memory_max_entries(40)
        .shards(8)
        .write_policy(BY_HAND)
        .open()
        .unwrap();
    let key = |n: u32| format!("{n:04}").into_bytes();
    let put = |n: u32, value: u32| cache.insert(&key(n), &value.to_le_bytes()).unwrap();
    (0..400).for_each(|n| put(n, n));
    cache.flush().unwrap();
    // Not committed: newer values, of which memory has some, and removals.
    (0..60).for_each(|n| put(n, n + 1_000));
    let removed: Vec<Vec<u8>> = (60..80).map(key).collect();
    assert_eq!(cache.remove_many(removed.iter().map(|key| &key[..])).unwrap(), 20);
    cache.reset_stats();
    let before = cache.stats();

    // In no order, some of them twice.
    let asked: Vec<u32> = (0..900).map(|n| n * 7 % 450).collect();
    let keys: Vec<Vec<u8>> = asked.iter().map(|n| key(*n)).collect();
    let found = cache.get_many(keys.iter().map(|key| &key[..])).unwrap();
    let (mut tiers, mut misses) = ([0, 0], 0);
    for (n, slot) in asked.iter().zip(&found) {
        let expected = match n {
            0..60 => Some(n + 1_000),
            60..80 | 400.. => None,
            80..400 => Some(*n),
        };
        let value = slot.as_ref().map(|entry| u32::from_le_bytes(entry[..].try_into().unwrap()));
        assert_eq!(value, expected, "{n}");
        match slot {
            Some(entry) => tiers[usize::from(entry.tier() == Tier::Disk)] += 1,
            None => misses += 1,
        }
    }
    let after = cache.stats();
    assert_eq!([after.memory_hits, after.disk_hits, after.misses], [tiers[0], tiers[1], misses]);
    assert_eq!((after.gets, tiers[0]), (900, 80));
    let kept = |stats: &Stats| (stats.memory_entries, stats.promotions);
    assert_eq!(kept(&after), kept(&before));
}
