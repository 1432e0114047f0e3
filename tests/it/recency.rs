//! Recency while it is on its way to the file: it is neither in memory nor in what readers see of the file,
//! and counts.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use larder::{
    Builder, ByteCache, ByteEntry, ManualClock, RemovalCause, Tier, Timestamp, WhenFull,
    WritePolicy,
};
use tempfile::TempDir;

use crate::support::{Rng, Watchdog, seed};
use crate::upkeep::{Fragile, FragileVolume};

const SECOND: Duration = Duration::from_secs(1);
/// Of the notes of recency that wait, a small commit takes fewer along.
const MANY: u64 = 3_000;

/// Of what left the cache, by the number in its value.
type Heard = BTreeMap<u64, Vec<(RemovalCause, Tier)>>;

/// Commits soon after each write.
const SOON: WritePolicy = WritePolicy::Behind {
    max_delay: Duration::from_millis(2),
    max_pending_ops: 1 << 16,
    max_pending_bytes: 64 << 20,
    when_full: WhenFull::Block(Duration::from_secs(30)),
};

/// A cache whose clock stands still, on files that can be kept from being synced.
fn held() -> (Arc<Fragile>, ManualClock, Builder<ByteCache>) {
    let volume = Arc::new(Fragile::default());
    let clock = ManualClock::new(Timestamp::from_secs(1_000));
    let builder = ByteCache::builder().path("cache.larder").clock(clock.clone());
    let builder = builder.volume(Arc::new(FragileVolume(Arc::clone(&volume))));
    (volume, clock, builder.disk_slack(None).write_policy(SOON).shards(8))
}

/// Keeps the commit that `begin` makes necessary from coming out.
fn in_a_commit(volume: &Fragile, begin: impl FnOnce()) -> MutexGuard<'_, ()> {
    let _watchdog = Watchdog::start("waiting for a commit".into());
    let syncing = volume.syncing.lock().unwrap();
    let syncs = volume.syncs.load(Ordering::SeqCst);
    begin();
    while volume.syncs.load(Ordering::SeqCst) == syncs {
        std::thread::yield_now();
    }
    syncing
}

/// Not by `flush`, which hands all recency down.
fn wait_for_commits(cache: &ByteCache) {
    let _watchdog = Watchdog::start("waiting for what is queued".into());
    while cache.stats().pending_ops > 0 {
        std::thread::yield_now();
    }
}

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn keys(count: u64) -> Vec<[u8; 8]> {
    (0..count).map(u64::to_be_bytes).collect()
}

/// A cache with [`MANY`] entries that are on disk, and their keys.
fn filled(builder: Builder<ByteCache>) -> (ByteCache, Vec<[u8; 8]>) {
    let (cache, keys) = (builder.open().unwrap(), keys(MANY));
    for key in &keys {
        cache.insert(key, b"value").unwrap();
    }
    cache.flush().unwrap();
    (cache, keys)
}

fn how_many_are_there(cache: &ByteCache, keys: &[[u8; 8]]) -> usize {
    keys.iter().filter(|key| cache.contains_key(*key).unwrap()).count()
}

#[test]
fn recency_that_is_being_committed_counts() {
    let (volume, clock, builder) = held();
    let cache = builder.memory_max_entries(1).time_to_idle(10 * SECOND).open().unwrap();
    cache.insert(b"used", b"value").unwrap();
    cache.flush().unwrap();
    clock.advance(9 * SECOND);
    assert!(cache.get(b"used").unwrap().is_some());
    // It leaves memory for this one, whose commit takes its recency along.
    let syncing = volume.syncing.lock().unwrap();
    cache.insert(b"other", b"value").unwrap();
    let flush = || {
        let cache = cache.clone();
        let flush = std::thread::spawn(move || cache.flush());
        std::thread::sleep(Duration::from_millis(200));
        flush
    };
    let first = flush();
    clock.advance(3 * SECOND);
    assert!(cache.contains_key(b"used").unwrap());
    assert!(cache.get(b"used").unwrap().is_some(), "used 3 s ago");
    drop(syncing);
    first.join().unwrap().unwrap();
    // It leaves while a flush takes along what memory knew of it.
    clock.advance(9 * SECOND);
    assert!(cache.get(b"used").unwrap().is_some());
    let syncing = volume.syncing.lock().unwrap();
    let second = flush();
    cache.insert(b"another", b"value").unwrap();
    clock.advance(3 * SECOND);
    assert!(cache.get(b"used").unwrap().is_some(), "used 3 s ago");
    drop(syncing);
    second.join().unwrap().unwrap();
    clock.advance(9 * SECOND);
    assert!(cache.contains_key(b"used").unwrap());
}

/// The sweep asks who is above for the recency of what seems to be idle.
#[test]
fn what_is_asked_for_by_a_sweep_is_not_taken_for_idle() {
    for memory in [0, 1_000] {
        let (volume, clock, builder) = held();
        let (cache, keys) = filled(builder.memory_max_entries(memory).time_to_idle(100 * SECOND));
        clock.advance(60 * SECOND);
        assert!(keys.iter().all(|key| cache.get(key).unwrap().is_some()));
        let syncing = in_a_commit(&volume, || clock.advance(60 * SECOND));
        let missed = keys.iter().filter(|key| cache.get(*key).unwrap().is_none()).count();
        assert_eq!(missed, 0, "used 60 s ago, {memory} in memory");
        drop(syncing);
        cache.close().unwrap();
    }
}

/// So does an eviction.
#[test]
fn what_is_asked_for_by_an_eviction_is_not_taken_for_idle() {
    let (volume, clock, builder) = held();
    let builder = builder.memory_max_entries(0).disk_max_entries(MANY);
    let (cache, keys) = filled(builder.time_to_idle(100 * SECOND));
    clock.advance(90 * SECOND);
    assert!(keys.iter().all(|key| cache.get(key).unwrap().is_some()));
    let syncing = in_a_commit(&volume, || cache.insert(b"another", b"value").unwrap());
    clock.advance(20 * SECOND);
    let missed = keys.iter().filter(|key| cache.get(*key).unwrap().is_none()).count();
    assert_eq!(missed, 1, "the one that was used first left");
    drop(syncing);
    cache.close().unwrap();
}

#[test]
fn a_commit_that_fails_forgets_no_recency() {
    let (volume, _, builder) = held();
    let (cache, keys) = filled(builder.memory_max_entries(0).disk_max_entries(MANY));
    let (used, unused) = keys.split_at(keys.len() - 50);
    assert!(used.iter().all(|key| cache.get(key).unwrap().is_some()));
    *volume.failing.lock().unwrap() = Some(("write to the file", 1));
    let new: Vec<[u8; 8]> = (0..50).map(|n: u64| (MANY + n).to_be_bytes()).collect();
    cache.insert_many(new.iter().map(|key| (key.as_slice(), b"value".as_slice()))).unwrap();
    wait_for_commits(&cache);
    assert_eq!(cache.stats().disk_errors, 1);
    let there = [used, unused, &new].map(|keys| how_many_are_there(&cache, keys));
    assert_eq!(there, [used.len(), 0, new.len()]);
    cache.close().unwrap();
}

/// What goes back behind a stamp that is on its way is to be told to the disk at once (P4).
#[test]
fn recency_goes_back_while_a_newer_one_is_on_its_way() {
    let (volume, _, builder) = held();
    let builder = builder.memory_max_entries(1).max_memory_entry_bytes(50).disk_max_entries(4);
    let cache = builder.open().unwrap();
    for (key, stamp) in [(b"a", 100), (b"b", 200), (b"c", 300), (b"d", 400)] {
        cache.insert_at(key, b"value", at(stamp)).unwrap();
    }
    cache.flush().unwrap();
    assert!(cache.get_at(b"a", at(1_000)).unwrap().is_some());
    // This takes the place in memory, so that the next commit takes along what is known of the other one.
    assert!(cache.get_at(b"d", at(1_001)).unwrap().is_some());
    let large = [7; 100];
    let syncing = in_a_commit(&volume, || cache.insert_at(b"c", &large, at(1_002)).unwrap());
    assert!(cache.get_at(b"a", at(1_003)).unwrap().is_some());
    assert!(cache.get_at(b"a", at(150)).unwrap().is_some());
    drop(syncing);
    cache.insert_at(b"e", &large, at(2_000)).unwrap();
    wait_for_commits(&cache);
    let left: Vec<_> = cache.keys().map(Result::unwrap).collect();
    assert_eq!(left, [b"b", b"c", b"d", b"e"]);
    cache.close().unwrap();
}

#[test]
fn recency_of_many_goes_back_while_newer_ones_are_on_their_way() {
    let (volume, _, builder) = held();
    let cache = builder.memory_max_entries(0).disk_max_entries(MANY).open().unwrap();
    let keys = keys(MANY);
    for (key, n) in keys.iter().zip(0..) {
        cache.insert_at(key, b"value", at(100 + n)).unwrap();
    }
    cache.flush().unwrap();
    for (key, n) in keys.iter().zip(0..) {
        assert!(cache.get_at(key, at(10_000_000 + n)).unwrap().is_some());
    }
    let one = || cache.insert_at(&keys[0], b"value", at(20_000_000)).unwrap();
    let syncing = in_a_commit(&volume, one);
    // Some are on their way; now the last one is the oldest.
    for (key, n) in keys.iter().zip(0..).skip(1) {
        assert!(cache.get_at(key, at(5_000_000 - n)).unwrap().is_some());
    }
    drop(syncing);
    let new: Vec<[u8; 8]> = (0..50).map(|n: u64| (MANY + n).to_be_bytes()).collect();
    let puts = new.iter().map(|key| (key.as_slice(), b"value".as_slice()));
    cache.insert_many_at(puts, at(30_000_000)).unwrap();
    wait_for_commits(&cache);
    let (stay, leave) = keys.split_at(keys.len() - 50);
    let there = [stay, leave, &new].map(|keys| how_many_are_there(&cache, keys));
    assert_eq!(there, [stay.len(), 0, new.len()]);
    cache.close().unwrap();
}

/// Who replaces or removes an entry tells of the old value; if the disk evicts that before it knows, it is
/// not told again.
#[test]
fn the_listener_hears_once_of_what_is_evicted_while_it_is_replaced() {
    let mut rng = Rng::new(seed());
    for memory in [0, 100, 2_000] {
        let folder = TempDir::new().unwrap();
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let listener = {
            let heard = Arc::clone(&heard);
            move |_, entry: ByteEntry, cause| {
                let is_gone = entry.tier() == Tier::Disk
                    || matches!(cause, RemovalCause::Replaced | RemovalCause::Explicit);
                if is_gone {
                    let number = u64::from_be_bytes(entry[..8].try_into().unwrap());
                    heard.lock().unwrap().entry(number).or_default().push((cause, entry.tier()));
                }
            }
        };
        let cache = ByteCache::builder().path(folder.path().join("cache.larder"));
        let cache = cache.memory_max_entries(memory).disk_max_entries(1_000).disk_slack(None);
        let cache = cache.write_policy(SOON).eviction_listener(listener).open().unwrap();
        for number in 0..40_000_u64 {
            let mut value = [0; 100];
            value[..8].copy_from_slice(&number.to_be_bytes());
            cache.insert(&rng.below(1_300).to_be_bytes(), &value).unwrap();
            match rng.below(10) {
                0 | 1 => {
                    cache.remove(&rng.below(1_300).to_be_bytes()).unwrap();
                }
                _ => {
                    cache.get(&rng.below(1_300).to_be_bytes()).unwrap();
                }
            }
        }
        cache.flush().unwrap();
        for entry in cache.iter() {
            let number = u64::from_be_bytes(entry.unwrap()[..8].try_into().unwrap());
            heard
                .lock()
                .unwrap()
                .entry(number)
                .or_default()
                .push((RemovalCause::Size, Tier::Memory));
        }
        let heard = heard.lock().unwrap();
        let wrong: Vec<_> = (0..40_000).filter(|n| heard.get(n).map(Vec::len) != Some(1)).collect();
        let first = wrong.first().map(|n| (n, heard.get(n)));
        assert_eq!(first, None, "{} of 40,000 with {memory} in memory", wrong.len());
        cache.close().unwrap();
    }
}
