//! What a cache does on a device that is full, or fails and gets well again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use larder::{
    Builder, ByteCache, InsertOptions, ManualClock, RemovalCause, TierHealth, Timestamp,
    WritePolicy,
};

use crate::torture::modes::sim::{Call, Fault, How, Sim};

const PATH: &str = "cache.larder";

fn builder(sim: &Sim) -> Builder<ByteCache> {
    let builder = ByteCache::builder().path(PATH).volume(Arc::new(sim.clone()));
    builder.memory_max_entries(10).write_policy(WritePolicy::Through)
}

fn fail_next(sim: &Sim, count: u64, how: How) {
    let fault = Fault { call: Call::Grow, how, first: sim.calls(Call::Grow), count };
    sim.set_fault(Some(fault));
}

fn keys(cache: &ByteCache) -> Vec<u8> {
    cache.keys().map(|key| key.unwrap()[0]).collect()
}

#[test]
fn on_a_full_device_the_oldest_entries_make_room() {
    let sim = Sim::default();
    let cache = builder(&sim).open().unwrap();
    // Larger than the pages that are free in the file.
    let large = vec![7; 200_000];
    (0..100_u8).for_each(|n| cache.insert(&[n], &[n; 1_000]).unwrap());
    // Once may be a hiccup.
    fail_next(&sim, 1, How::Full);
    cache.insert(&[100], &large).unwrap();
    assert!(sim.has_failed());
    assert_eq!(keys(&cache), (0..=100).collect::<Vec<_>>());
    fail_next(&sim, 2, How::Full);
    cache.insert(&[101], &large).unwrap();
    assert!(sim.has_failed());
    assert_eq!(keys(&cache), (11..=101).collect::<Vec<_>>());
    // That is what the device has room for, until it is told otherwise.
    cache.insert(&[102], &large).unwrap();
    assert_eq!(keys(&cache), (13..=102).collect::<Vec<_>>());
    assert_eq!(cache.health().disk, Some(TierHealth::Ok));
    let stats = cache.stats();
    assert_eq!((stats.disk_evictions, stats.disk_errors, stats.shed), (13, 3, 0));
    cache.set_disk_limits(None, None).unwrap();
    cache.insert(&[103], &large).unwrap();
    assert_eq!(keys(&cache), (13..=103).collect::<Vec<_>>());
    cache.close().unwrap();
    assert_eq!(keys(&builder(&sim).open().unwrap()), (13..=103).collect::<Vec<_>>());
}

#[test]
fn a_full_device_goes_on_with_the_newest_entries() {
    let sim = Sim::default();
    sim.set_room(24 << 20);
    let open = || {
        let builder = ByteCache::builder().path(PATH).volume(Arc::new(sim.clone()));
        builder.memory_max_entries(10).open().unwrap()
    };
    let value = |n: u32| vec![n.to_le_bytes()[0]; 8_000];
    let cache = open();
    for n in 0..4_000_u32 {
        cache.insert(&n.to_be_bytes(), &value(n)).unwrap();
        if n % 40 < 4 {
            cache.flush().unwrap();
        }
    }
    cache.flush().unwrap();
    assert_eq!(cache.health().disk, Some(TierHealth::Ok));
    let stats = cache.stats();
    assert_eq!((stats.shed, stats.disk_evictions), (0, 4_000 - cache.len()));
    assert!((2..100).contains(&stats.disk_errors), "{}", stats.disk_errors);
    cache.close().unwrap();
    let cache = open();
    assert!(cache.verify().unwrap().is_ok());
    // At least half of what the device has room for.
    let first = 4_000 - u32::try_from(cache.len()).unwrap();
    assert!(first < 4_000 - (12 << 20) / 8_000, "{first}");
    for (key, n) in cache.keys().zip(first..) {
        let key = key.unwrap();
        assert_eq!(key[..], n.to_be_bytes());
        assert_eq!(cache.get(&key).unwrap().as_deref(), Some(&value(n)[..]));
    }
}

#[test]
fn a_device_that_was_full_is_used_again_when_it_has_room() {
    for entries in [0, 1, 2, 7, 30] {
        for count in [1, 3, 20] {
            let sim = Sim::default();
            let cache = builder(&sim).open().unwrap();
            (0..entries).for_each(|n| cache.insert(&[n], &[n; 1_000]).unwrap());
            fail_next(&sim, count, How::Full);
            let _ = cache.insert(&[100], &vec![7; 200_000]);
            while cache.flush().is_err() {}
            sim.set_fault(None);
            let left = cache.len();
            assert!(left > u64::from(entries) / 2, "{entries}, {count}: {left}");
            assert!(cache.get(&[100]).unwrap().is_some());
            // What is written to find that out is not counted.
            (101..200_u8).for_each(|n| cache.insert(&[n], &vec![n; 20_000]).unwrap());
            cache.flush().unwrap();
            let newest = (150..200_u8).all(|n| cache.get(&[n]).unwrap().is_some());
            assert!(newest, "{entries}, {count}: {:?}", keys(&cache));
            assert!(!sim.has("cache.larder.reserve"));
        }
    }
}

/// What is gone by an operation that is not durable yet is not acknowledged as gone.
#[test]
fn a_removal_of_what_just_went_waits_until_that_is_durable() {
    let (entered, is_stuck) = mpsc::channel();
    let (go_on, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let clock = ManualClock::new(Timestamp::from_nanos(1_000));
    let cache = builder(&Sim::default())
        .memory_max_entries(0)
        .disk_max_entries(3)
        .clock(clock)
        .eviction_listener(move |key, _, _| {
            // The writer stands still.
            if key == b"victim" {
                entered.send(()).unwrap();
                gate.lock().unwrap().recv().unwrap();
            }
        })
        .open()
        .unwrap();
    let hour = InsertOptions::default().ttl(Duration::from_secs(3_600));
    for key in [&b"victim"[..], b"a", b"b"] {
        cache.insert_with(key, b"1", &hour).unwrap();
    }
    assert!(!cache.invalidate(b"nothing").unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| cache.insert(b"cause", b"2").unwrap());
        is_stuck.recv().unwrap();
        let late = Timestamp::from_nanos(u64::MAX);
        assert!(cache.get_at(b"a", late).unwrap().is_none());
        let removals: [fn(&ByteCache) -> bool; 3] = [
            |cache| cache.remove(b"a").unwrap().is_none(),
            |cache| !cache.invalidate(b"nothing").unwrap(),
            |cache| cache.remove_many([&b"a"[..]]).unwrap() == 0,
        ];
        for removal in removals {
            let (tell, cache) = (tell.clone(), &cache);
            scope.spawn(move || tell.send(removal(cache)).unwrap());
        }
        let early = told.recv_timeout(Duration::from_millis(300));
        go_on.send(()).unwrap();
        assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
        assert!((0..3).all(|_| told.recv().unwrap()));
    });
}

/// Whichever sync of its commits fails: who is told of what was evicted is told once.
#[test]
fn what_a_commit_evicted_that_failed_is_told_once() {
    for nth in 0..8 {
        let sim = Sim::default();
        let gone = Arc::new(AtomicU64::new(0));
        let heard = Arc::clone(&gone);
        let cache = builder(&sim)
            .memory_max_entries(0)
            .disk_max_entries(5)
            .eviction_listener(move |_, _, cause| {
                assert_eq!(cause, RemovalCause::Size);
                heard.fetch_add(1, Ordering::SeqCst);
            })
            .open()
            .unwrap();
        (0..5_u8).for_each(|n| cache.insert(&[n], b"value").unwrap());
        let first = sim.calls(Call::Sync) + nth;
        sim.set_fault(Some(Fault { call: Call::Sync, how: How::Io, first, count: 1 }));
        (5..9_u8).for_each(|n| cache.insert(&[n], b"value").unwrap());
        cache.flush().unwrap();
        assert_eq!(keys(&cache), [4, 5, 6, 7, 8], "{nth}");
        let told = (gone.load(Ordering::SeqCst), cache.stats().disk_evictions);
        assert_eq!(told, (4, 4), "sync {nth}");
    }
}

#[test]
fn a_listener_hears_that_the_disk_fails_and_that_it_works_again() {
    let sim = Sim::default();
    let (tell, heard) = mpsc::channel();
    let cache = builder(&sim)
        .health_listener(move |health| {
            tell.send(health.disk).unwrap();
            panic!("which harms nothing");
        })
        .open()
        .unwrap();
    cache.insert(b"a", b"1").unwrap();
    sim.set_fault(Some(Fault { call: Call::Sync, how: How::Io, first: 0, count: u64::MAX }));
    cache.insert(b"b", b"2").unwrap();
    assert!(matches!(heard.recv().unwrap(), Some(TierHealth::Degraded { .. })));
    assert_eq!(cache.get(b"b").unwrap().as_deref(), Some(&b"2"[..]));
    sim.set_fault(None);
    assert_eq!(heard.recv().unwrap(), Some(TierHealth::Ok));
    cache.insert(b"c", b"3").unwrap();
    // It heard nothing twice.
    assert!(heard.try_recv().is_err());
    assert_eq!((keys(&cache), cache.len()), (b"abc".to_vec(), 3));
}

#[test]
fn what_memory_has_is_listed_and_counted_while_the_disk_cannot_be_read() {
    let sim = Sim::default();
    let cache = builder(&sim).open().unwrap();
    (0..5_u8).for_each(|n| cache.insert(&[n, n], b"value").unwrap());
    for call in [Call::Sync, Call::Read] {
        sim.set_fault(Some(Fault { call, how: How::Io, first: 0, count: u64::MAX }));
        cache.insert(&[5], b"new").unwrap();
        assert!(matches!(cache.health().disk, Some(TierHealth::Degraded { .. })));
        assert!((0..5_u8).all(|n| cache.peek(&[n, n]).unwrap().is_some()));
        assert_eq!((keys(&cache), cache.len()), ((0..6).collect(), 6));
        assert_eq!((cache.iter().count(), cache.keys_with_prefix(&[3]).count()), (6, 1));
    }
    assert_eq!(cache.clear().unwrap(), 6);
    assert_eq!((keys(&cache), cache.len(), cache.memory_len()), (vec![], 0, 0));
    sim.set_fault(None);
    cache.insert(b"a", b"1").unwrap();
    cache.flush().unwrap();
    assert_eq!((keys(&cache), cache.len()), (b"a".to_vec(), 1));
}
