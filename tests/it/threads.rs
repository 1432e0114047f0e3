//! Eight threads of random operations on one cache, and threads that must agree on an order.
//!
//! What the eight do, and what is checked, is in `tests/torture/threads.rs`. `LARDER_SEED` sets the
//! seed, `LARDER_THREAD_MS` how long each of the configurations is kept busy.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::Duration;

use larder::{ByteCache, ByteEntry, WhenFull, WritePolicy};

use crate::history::Memory;
use crate::support::{Rng, Watchdog, number_from_env, seed};
use crate::torture::modes::threads::{Case, IN_MEMORY, KEYS, Mix, behind, key, on_disk, run_case};

const THREADS: u64 = 8;

fn run(case: &Case) {
    let time = Duration::from_millis(number_from_env("LARDER_THREAD_MS").unwrap_or(600));
    assert!(run_case(case, seed(), THREADS, time) > 0);
}

#[test]
fn memory_only_is_exact_and_explained() {
    run(&IN_MEMORY);
    run(&Case { name: "memory only, one shard", shards: 1, memory: [Some(5), None], ..IN_MEMORY });
    run(&Case { name: "memory only, expiring", ttls: Some([40, 0, 30]), ..IN_MEMORY });
}

#[test]
fn memory_without_limits_loses_nothing() {
    let memory = [None, None];
    run(&Case { name: "memory without limits", memory, forgets: Memory::Keeps, ..IN_MEMORY });
}

#[test]
fn two_tiers_with_small_limits_are_exact_and_explained() {
    let disk = [Some(20), Some(900)];
    for policy in [behind(2, 64, WhenFull::default()), WritePolicy::Through] {
        run(&Case { disk, ..on_disk("two small tiers", policy) });
        let ttls = Some([30, 60, 50]);
        run(&Case { disk, ttls, ..on_disk("two small tiers, expiring", policy) });
    }
}

#[test]
fn a_large_disk_behind_a_tiny_memory_loses_nothing() {
    for policy in [behind(1, 1 << 16, WhenFull::default()), WritePolicy::Through] {
        let case = Case {
            forgets: Memory::Keeps,
            forgets_reopened: Memory::Keeps,
            memory: [Some(3), None],
            max_memory_entry_bytes: Some(60),
            ..on_disk("large disk", policy)
        };
        run(&case);
        run(&Case { name: "disk only", memory: [Some(0), None], ..case.clone() });
        run(&Case { name: "large disk and memory", memory: [None, None], shards: 64, ..case });
    }
}

#[test]
fn a_full_queue_loses_nothing() {
    let policy = behind(50, 8, WhenFull::default());
    let (forgets, forgets_reopened) = (Memory::Keeps, Memory::Keeps);
    run(&Case { forgets, forgets_reopened, ..on_disk("blocking", policy) });
    // What is shed is in memory only: gone when reopened, but never an older value instead.
    let (memory, forgets) = ([None, None], Memory::Keeps);
    run(&Case { memory, forgets, ..on_disk("shedding", behind(50, 8, WhenFull::Shed)) });
}

/// A batch has its place among the operations before it comes to each of its keys; what rests on the
/// value that was there (a touch, a removal) must not take its place.
#[test]
fn batches_and_clears_are_not_overtaken_by_what_rests_on_older_values() {
    let (forgets, forgets_reopened) = (Memory::Keeps, Memory::Keeps);
    let policy = behind(1, 1 << 10, WhenFull::default());
    let case = Case { forgets, forgets_reopened, mix: Mix::Batches, ..on_disk("batches", policy) };
    run(&case);
    run(&Case { name: "batches in a large memory", memory: [None, None], ..case.clone() });
    let ttls = Some([30, 60, 50]);
    run(&Case {
        name: "batches, expiring",
        forgets: Memory::Forgets,
        forgets_reopened: Memory::Forgets,
        ttls,
        ..case
    });
}

/// A clear that comes while a batch is put in place: what memory has afterwards, the disk has too.
#[test]
fn a_clear_in_the_midst_of_a_batch_leaves_the_tiers_agreed() {
    const ROUNDS: u8 = 60;
    let seed = seed();
    let mut rng = Rng::new(seed);
    let watchdog = Watchdog::start(format!("a clear in a batch, LARDER_SEED={seed}"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.larder");
    let policy = behind(1, 1 << 16, WhenFull::default());
    let builder = ByteCache::builder().path(path).shards(64).write_policy(policy);
    let cache = builder.open().unwrap();
    for _ in 0..ROUNDS {
        let keys: Vec<[u8; 3]> = (0..200).map(|n| [b'k', n, 0]).collect();
        let (start, pause) = (Barrier::new(3), rng.below(400));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                cache.insert_many(keys.iter().map(|key| (&key[..], &b"value"[..]))).unwrap();
            });
            scope.spawn(|| {
                start.wait();
                // The batch is made ready meanwhile.
                let looks = (0..pause).filter(|_| cache.contains_key(b"other").unwrap());
                assert_eq!(looks.count(), 0);
                cache.clear().unwrap();
            });
            start.wait();
        });
        cache.flush().unwrap();
        let there = keys.iter().filter(|key| cache.peek(&key[..]).unwrap().is_some()).count();
        let there = there as u64;
        assert_eq!((cache.disk_len(), cache.len(), cache.memory_len()), (there, there, there));
    }
    drop(watchdog);
}

/// An operation that took its stamp early and comes late does not move an entry back behind what came
/// between.
#[test]
fn a_late_operation_moves_nothing_back() {
    let watchdog = Watchdog::start("late operations".to_owned());
    let cache = ByteCache::builder().memory_max_entries(10).shards(2).open().unwrap();
    let is_over = AtomicBool::new(false);
    let accessed = |key: &[u8]| cache.peek(key).unwrap().unwrap().accessed_at();
    let mut moved_back = None;
    for key in [b"hot", b"own"] {
        cache.insert(key, b"value").unwrap();
    }
    std::thread::scope(|scope| {
        for writes in [false, true] {
            let (cache, is_over) = (&cache, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    if writes {
                        cache.insert(b"hot", b"value").unwrap();
                    } else {
                        cache.get(b"hot").unwrap();
                    }
                }
            });
        }
        let is_moved_back = |_: &u32| {
            cache.get(b"own").unwrap();
            cache.get(b"hot").unwrap();
            accessed(b"hot") <= accessed(b"own")
        };
        moved_back = (0..200_000).find(is_moved_back);
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(moved_back, None, "the round in which it was moved back");
    drop(watchdog);
}

/// The order of eviction is that of operations that follow each other, whichever threads they are on.
#[test]
fn order_across_threads_is_that_of_what_happened_before() {
    let seed = seed();
    let watchdog = Watchdog::start(format!("order across threads, LARDER_SEED={seed}"));
    let folder = tempfile::tempdir().unwrap();
    for (tiers, shards) in [(1, 1), (1, 8), (1, 64), (2, 1), (2, 8)] {
        let left = Arc::new(Mutex::new(Vec::new()));
        let listener = {
            let left = Arc::clone(&left);
            move |key: Vec<u8>, _: ByteEntry, _| left.lock().unwrap().push(key[1])
        };
        let mut builder = ByteCache::builder().shards(shards).eviction_listener(listener);
        if tiers == 2 {
            builder = builder.path(folder.path().join(format!("{shards}.larder")));
            builder = builder.memory_max_entries(7);
        }
        let cache = builder.open().unwrap();
        let order = pass_a_baton(&cache, seed ^ shards as u64);
        // What the writer still has to report of the time before.
        cache.flush().unwrap();
        left.lock().unwrap().clear();
        let mut evicted = Vec::new();
        for keep in (1..order.len() as u64).rev() {
            match tiers {
                1 => cache.set_memory_limits(Some(keep), None).unwrap(),
                _ => cache.set_disk_limits(Some(keep), None).unwrap(),
            }
            evicted.append(&mut left.lock().unwrap());
        }
        assert_eq!(
            evicted,
            order[..order.len() - 1],
            "{tiers} tiers, {shards} shards, seed {seed}"
        );
    }
    drop(watchdog);
}

/// Four threads, of which always the one with the baton does a few operations and hands it on.
/// Gives the keys, the one unused for longest first.
fn pass_a_baton(cache: &ByteCache, seed: u64) -> Vec<u8> {
    const HANDS: usize = 4;
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..HANDS).map(|_| mpsc::channel::<(Vec<u8>, Rng)>()).unzip();
    let (give_back, result) = mpsc::channel();
    let left = AtomicU64::new(400);
    senders[0].send(((0..KEYS).collect(), Rng::new(seed))).unwrap();
    for n in 0..KEYS {
        cache.insert(&key(n), b"first").unwrap();
    }
    std::thread::scope(|scope| {
        for mine in receivers {
            let (senders, give_back, left) = (senders.clone(), give_back.clone(), &left);
            scope.spawn(move || {
                while let Ok((mut order, mut rng)) = mine.recv() {
                    if order.is_empty() {
                        break;
                    }
                    for _ in 0..=rng.below(4) {
                        let n = rng.key(KEYS);
                        match rng.below(3) {
                            0 => cache.insert(&key(n), b"again").unwrap(),
                            1 => assert!(cache.touch(&key(n), None).unwrap()),
                            _ => assert!(cache.get(&key(n)).unwrap().is_some()),
                        }
                        order.retain(|other| *other != n);
                        order.push(n);
                    }
                    if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                        give_back.send(order).unwrap();
                        for sender in &senders {
                            sender.send((Vec::new(), Rng::new(0))).unwrap();
                        }
                        break;
                    }
                    let next = rng.index(HANDS);
                    senders[next].send((order, rng)).unwrap();
                }
            });
        }
    });
    result.recv().unwrap()
}

/// A write that is acknowledged while another thread closes the cache is there afterwards.
#[test]
fn what_is_acknowledged_during_a_close_is_durable() {
    for round in 0..60_u64 {
        let folder = tempfile::tempdir().unwrap();
        let policy = if round % 4 == 3 { WritePolicy::Through } else { WritePolicy::behind() };
        let open = || {
            let path = folder.path().join("cache.larder");
            ByteCache::builder().path(path).write_policy(policy).open().unwrap()
        };
        let cache = open();
        let clone = cache.clone();
        let last = std::thread::scope(|scope| {
            let worker = scope.spawn(move || {
                for number in 1_u64.. {
                    let removes = round % 2 == 0 && number % 2 == 0;
                    let done = if removes {
                        clone.remove(b"key").map(drop)
                    } else {
                        clone.insert(b"key", &number.to_be_bytes())
                    };
                    if let Err(error) = done {
                        assert_eq!(error.kind(), larder::ErrorKind::Closed);
                        return number - 1;
                    }
                }
                0
            });
            std::thread::sleep(Duration::from_micros(200 + round * 37 % 2_000));
            cache.close().unwrap();
            worker.join().unwrap()
        });
        let kept = open().get(b"key").unwrap();
        let kept = kept.map(|entry| u64::from_be_bytes(entry[..].try_into().unwrap()));
        let removed = round % 2 == 0 && last % 2 == 0;
        assert_eq!(kept, Some(last).filter(|last| *last > 0 && !removed), "round {round}");
    }
}

/// The size of an entry is checked before its place is looked for. When the limit became smaller in between,
/// the entry was in neither place, and counted as an insert only.
#[test]
fn what_a_shrinking_limit_leaves_no_place_for_counts_as_evicted() {
    for (is_batch, listens) in [(false, false), (false, true), (true, true)] {
        let told = Arc::new(AtomicU64::new(0));
        let mut builder = ByteCache::builder().shards(1).memory_max_bytes(1_000);
        if listens {
            let told = Arc::clone(&told);
            builder = builder.eviction_listener(move |_, _, _| {
                told.fetch_add(1, Ordering::Relaxed);
            });
        }
        let cache = builder.open().unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    cache.set_memory_limits(None, Some(50)).unwrap();
                    cache.set_memory_limits(None, Some(1_000)).unwrap();
                }
            });
            // Until enough were tried, some of them refused and some not.
            let is_enough = |number: u64| {
                let stats = cache.stats();
                number >= 60_000 && stats.inserts > 0 && stats.rejected > 0
            };
            for number in (0_u64..).take_while(|n| !n.is_multiple_of(1_000) || !is_enough(*n)) {
                let (key, value) = (number.to_be_bytes(), [0; 92]);
                // Refused or not: that depends on the moment.
                let _ = if is_batch {
                    cache.insert_many([(&key[..], &value[..])])
                } else {
                    cache.insert(&key, &value)
                };
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let stats = cache.stats();
        assert_eq!(stats.inserts, stats.memory_evictions + stats.memory_entries, "{stats:?}");
        if listens {
            assert_eq!(told.load(Ordering::Relaxed), stats.memory_evictions, "{stats:?}");
        }
    }
}
