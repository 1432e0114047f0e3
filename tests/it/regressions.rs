//! One test per bug that was fixed.

use std::panic::catch_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use larder::{
    Builder, ByteCache, ErrorKind, InsertOptions, ManualClock, RemovalCause, Tier, Timestamp,
    VerifyOptions, WhenFull, WritePolicy,
};

use crate::clock::OwnClock;
use crate::support::Watchdog;

/// Commits happen only when a call asks for one.
const BY_HAND: WritePolicy = WritePolicy::Behind {
    max_delay: Duration::from_secs(3_600),
    max_pending_ops: 1 << 16,
    max_pending_bytes: 1 << 20,
    when_full: WhenFull::Block(Duration::from_secs(1)),
};

type Heard = Receiver<(Vec<u8>, Vec<u8>, Tier, RemovalCause)>;

fn two_tier(folder: &Path) -> Builder<ByteCache> {
    ByteCache::builder().path(folder.join("cache.larder")).write_policy(BY_HAND).disk_slack(None)
}

fn listening(builder: Builder<ByteCache>) -> (ByteCache, Heard) {
    let (left, heard) = mpsc::channel();
    let cache = builder
        .eviction_listener(move |key, entry, cause| {
            let _ = left.send((key, entry.to_vec(), entry.tier(), cause));
        })
        .open()
        .unwrap();
    (cache, heard)
}

/// The listener heard `Replaced` of an entry whose value was still in the cache.
#[test]
fn a_touched_entry_is_not_reported_as_replaced() {
    let folder = tempfile::tempdir().unwrap();
    for builder in [ByteCache::builder(), two_tier(folder.path())] {
        let (cache, heard) = listening(builder);
        cache.insert(b"key", b"value").unwrap();
        assert!(cache.touch(b"key", None).unwrap());
        assert!(cache.touch(b"key", Duration::from_secs(60)).unwrap());
        cache.close().unwrap();
        assert_eq!(heard.iter().next(), None);
    }
}

/// The old value of a key of the batch was evicted to make room for another key of the batch, and
/// then somebody else for the key itself.
#[test]
fn a_batch_evicts_none_of_the_values_that_it_replaces() {
    let (cache, heard) = listening(ByteCache::builder().memory_max_entries(2));
    cache.insert(b"z", b"old").unwrap();
    cache.insert(b"other", b"1").unwrap();
    cache.insert_many([(&b"a"[..], &b"2"[..]), (b"z", b"new!")]).unwrap();
    assert_eq!(cache.stats().memory_evictions, 1);
    cache.close().unwrap();
    let causes: Vec<_> = heard.iter().map(|(key, .., cause)| (key, cause)).collect();
    let evicted = (b"other".to_vec(), RemovalCause::Size);
    // All are in before any leaves.
    assert_eq!(causes, [(b"z".to_vec(), RemovalCause::Replaced), evicted]);
}

/// The new value of `z` lives on disk only, so there is room in memory for both others.
#[test]
fn a_batch_has_the_room_of_what_grows_out_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    let cache = two_tier(folder.path()).memory_max_bytes(20).open().unwrap();
    cache.insert(b"a", b"123456789").unwrap();
    cache.insert(b"z", b"123456789").unwrap();
    cache.insert_many([(&b"b"[..], &b"123456789"[..]), (b"z", &[0; 30])]).unwrap();
    assert_eq!(cache.stats().memory_evictions, 0);
    assert_eq!(cache.peek(b"a").unwrap().unwrap().tier(), Tier::Memory);
}

/// `clear` asked for no commit, so it took as long as a write may be pending.
#[test]
fn clear_does_not_wait_for_the_delay_of_write_behind() {
    let folder = tempfile::tempdir().unwrap();
    let cache = two_tier(folder.path()).open().unwrap();
    cache.insert(b"key", b"value").unwrap();
    let (done, cleared) = mpsc::channel();
    let clearing = thread::spawn(move || done.send(cache.clear().unwrap()));
    assert_eq!(cleared.recv_timeout(Duration::from_secs(60)), Ok(1));
    clearing.join().unwrap().unwrap();
}

/// A get at an older time was forgotten when the entry left memory, until the next commit.
#[test]
fn recency_that_went_back_survives_leaving_memory() {
    let folder = tempfile::tempdir().unwrap();
    let cache = two_tier(folder.path()).open().unwrap();
    let at = Timestamp::from_secs;
    cache.insert_at(b"key", b"value", at(9)).unwrap();
    cache.get_at(b"key", at(4)).unwrap();
    cache.set_memory_limits(Some(0), None).unwrap();
    assert_eq!(cache.peek(b"key").unwrap().unwrap().accessed_at(), at(4));
}

/// A get at an older time came down after the insert that followed it.
#[test]
fn recency_that_went_back_is_gone_with_the_next_insert() {
    let folder = tempfile::tempdir().unwrap();
    let cache = two_tier(folder.path()).open().unwrap();
    let at = Timestamp::from_secs;
    cache.insert_at(b"key", b"value", at(9)).unwrap();
    cache.get_at(b"key", at(4)).unwrap();
    cache.insert_at(b"key", b"newer", at(10)).unwrap();
    cache.insert_at(b"other", b"1", at(5)).unwrap();
    cache.flush().unwrap();
    cache.set_memory_limits(Some(0), None).unwrap();
    assert_eq!(cache.peek(b"key").unwrap().unwrap().accessed_at(), at(10));
    cache.set_disk_limits(Some(1), None).unwrap();
    assert!(cache.contains_key(b"key").unwrap());
}

/// The sweep reported the copy in memory, and then the entry.
#[test]
fn an_entry_that_expires_in_both_tiers_is_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp::from_secs(1_000));
    let builder = two_tier(folder.path()).disk_time_to_live(Duration::from_secs(60));
    let (cache, heard) = listening(builder.clock(clock.clone()));
    cache.insert(b"key", b"value").unwrap();
    cache.flush().unwrap();
    clock.advance(Duration::from_secs(61));
    cache.purge_expired().unwrap();
    let stats = cache.stats();
    assert_eq!((stats.memory_expirations, stats.disk_expirations), (1, 1));
    cache.close().unwrap();
    let expired = (b"key".to_vec(), b"value".to_vec(), Tier::Disk, RemovalCause::Expired);
    assert_eq!(heard.iter().collect::<Vec<_>>(), [expired]);
}

/// The writer reports what a put replaces on disk, and forgot to if a removal came before it.
#[test]
fn a_replaced_value_is_reported_though_its_key_was_removed_after() {
    let folder = tempfile::tempdir().unwrap();
    let cache = two_tier(folder.path()).open().unwrap();
    cache.insert(b"key", b"first").unwrap();
    cache.close().unwrap();
    let (cache, heard) = listening(two_tier(folder.path()));
    cache.insert(b"key", b"second").unwrap();
    cache.remove(b"key").unwrap();
    cache.close().unwrap();
    let mut values: Vec<_> = heard.iter().map(|(_, value, _, cause)| (value, cause)).collect();
    values.sort_by(|a, b| a.0.cmp(&b.0));
    let first = (b"first".to_vec(), RemovalCause::Replaced);
    assert_eq!(values, [first, (b"second".to_vec(), RemovalCause::Explicit)]);
}

/// The last of all timestamps stood for "not on disk", so a removal did not go there.
#[test]
fn an_entry_of_the_last_timestamp_can_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let last = Timestamp::from_nanos(u64::MAX);
    let cache = two_tier(folder.path()).open().unwrap();
    cache.insert_at(b"a", b"1", last).unwrap();
    cache.insert(b"b", b"1").unwrap();
    cache.flush().unwrap();
    cache.get_at(b"b", last).unwrap();
    cache.insert_at(b"c", b"1", last).unwrap();
    cache.insert(b"c", b"2").unwrap();
    cache.flush().unwrap();
    assert_eq!((cache.len(), cache.disk_len(), cache.keys().count()), (3, 3, 3));
    for key in [b"a", b"b", b"c"] {
        assert!(cache.remove(key).unwrap().is_some());
    }
    cache.close().unwrap();
    let cache = two_tier(folder.path()).open().unwrap();
    assert_eq!((cache.len(), cache.keys().count()), (0, 0));
}

/// A sweep went with the next part of the queue, whose later parts had entries that were over as well.
#[test]
fn a_purge_takes_what_is_still_queued_along() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp::from_secs(1_000));
    let builder = two_tier(folder.path()).disk_time_to_live(Duration::from_secs(60));
    // Parts of 512 operations, and more than one of them queued at the end.
    let policy = WritePolicy::Behind {
        max_delay: Duration::from_secs(3_600),
        max_pending_ops: 1 << 12,
        max_pending_bytes: 1 << 20,
        when_full: WhenFull::default(),
    };
    let builder = builder.write_policy(policy).memory_max_entries(10);
    let cache = builder.clock(clock.clone()).open().unwrap();
    for number in 0..20_000_u32 {
        cache.insert(&number.to_be_bytes(), b"value").unwrap();
    }
    clock.advance(Duration::from_secs(61));
    cache.purge_expired().unwrap();
    cache.flush().unwrap();
    assert_eq!((cache.len(), cache.disk_len()), (0, 0));
}

/// With less than the file in the page cache, and nothing in memory.
fn on_disk_alone(folder: &Path) -> Builder<ByteCache> {
    let builder = two_tier(folder).write_policy(WritePolicy::Through);
    builder.memory_max_entries(0).disk_cache_bytes(1 << 16)
}

/// Where pages were taken for pages of rows by what was on them, a key could be one, and answer for another
/// key.
#[test]
fn a_key_that_is_like_a_page_of_rows_answers_for_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let cache = on_disk_alone(folder.path()).max_key_bytes(4_096).open().unwrap();
    for n in 0..200_u32 {
        cache.insert(&n.to_be_bytes(), &[7; 1_000]).unwrap();
    }
    cache.insert(b"other", b"its own").unwrap();
    for n in 200..250_u32 {
        cache.insert(&n.to_be_bytes(), &[7; 1_000]).unwrap();
    }
    assert_eq!(cache.get(b"other").unwrap().as_deref(), Some(&b"its own"[..]));
    // The row that another value of it would have, as the index would have it behind a place.
    let value = [b'!'; 3_000];
    let mut row = vec![0; 24];
    row[4] = 1;
    row[6..8].copy_from_slice(&5_u16.to_le_bytes());
    row[8..12].copy_from_slice(&3_000_u32.to_le_bytes());
    row[16..24].copy_from_slice(&1_u64.to_le_bytes());
    row.extend(value);
    let crc = crc32fast::hash(&[&b"other"[..], &row[4..]].concat());
    row[..4].copy_from_slice(&crc.to_le_bytes());
    for place in 195..206_u64 {
        let key = [&place.to_le_bytes()[..], &5_u16.to_le_bytes(), b"other", &row].concat();
        cache.insert(&key, b"x").unwrap();
        assert_eq!(cache.get(b"other").unwrap().as_deref(), Some(&b"its own"[..]), "{place}");
    }
}

/// A block that became, while the file was open, what it was in an earlier session.
#[test]
fn a_block_that_went_back_does_not_bring_a_removed_value_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.larder");
    let block_of = |file: &[u8], text: &[u8]| {
        let at = file.windows(text.len()).rposition(|window| window == text).unwrap();
        at / 4_096 * 4_096
    };
    let value = |text: &[u8], rest: u8| [text, &[rest; 3_000]].concat();
    let cache = on_disk_alone(folder.path()).open().unwrap();
    for n in 0..400_u32 {
        cache.insert(&n.to_be_bytes(), &[7; 1_000]).unwrap();
    }
    cache.insert(b"key", &value(b"the old one", 1)).unwrap();
    let file = std::fs::read(&path).unwrap();
    let old = file[block_of(&file, b"the old one")..][..4_096].to_vec();
    assert!(cache.remove(b"key").unwrap().is_some());
    cache.close().unwrap();
    let cache = on_disk_alone(folder.path()).open().unwrap();
    cache.insert(b"key", &value(b"the new one", 2)).unwrap();
    for _ in 0..3 {
        let found = cache.get(b"key").unwrap().unwrap();
        assert!(found.starts_with(b"the new one"));
        // Pushes its page out of redb's cache.
        for n in 0..400_u32 {
            assert!(cache.get(&n.to_be_bytes()).unwrap().is_some());
        }
    }
    let file = std::fs::read(&path).unwrap();
    let at = block_of(&file, b"the new one") as u64;
    let device = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&device, &old, at).unwrap();
    let found = cache.get(b"key").unwrap();
    assert!(found.is_none_or(|found| found.starts_with(b"the new one")));
}

/// Two threads compared the tied shards' oldest keys, and one of them evicted what was next there.
#[test]
fn of_one_stamp_the_smallest_keys_leave_whoever_evicts() {
    let keys: Vec<String> = (0..2_000).map(|n| format!("a{n:05}")).collect();
    for round in 0..120 {
        let cache = ByteCache::builder()
            .memory_max_entries(2_000)
            .shards(if round % 3 == 0 { 8 } else { 64 })
            .open()
            .unwrap();
        cache.insert_many(keys.iter().map(|key| (key.as_bytes(), &b"v"[..]))).unwrap();
        thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for n in 0..400 {
                        cache.insert(format!("b{thread}{n}").as_bytes(), b"v").unwrap();
                    }
                });
            }
        });
        let stayed = keys.iter().map(|key| cache.contains_key(key.as_bytes()).unwrap());
        assert!(stayed.eq((0..2_000).map(|n| n >= 1_600)), "round {round}");
        cache.validate().unwrap();
    }
}

/// The purge read the clock in the place of the thread that keeps the time, which slept on: from then on the time
/// of the cache stood still.
#[test]
fn what_comes_after_a_purge_of_an_idle_cache_expires() {
    let ttl = Duration::from_millis(50);
    let cache = ByteCache::builder().memory_time_to_live(ttl).open().unwrap();
    cache.insert(b"first", b"value").unwrap();
    // Until nobody keeps the time.
    thread::sleep(Duration::from_millis(800));
    assert_eq!(cache.purge_expired().unwrap(), 0);
    cache.insert(b"key", b"value").unwrap();
    let end = Timestamp::now() + Duration::from_secs(10);
    while cache.contains_key(b"key").unwrap() {
        assert!(Timestamp::now() < end, "it does not expire");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The thread that sweeps slept without an end, since there was nothing on disk that could expire.
#[test]
fn what_is_committed_while_the_cache_is_idle_is_swept() {
    for idles in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let policy = WritePolicy::Behind {
            max_delay: Duration::from_millis(1_600),
            max_pending_ops: 100,
            max_pending_bytes: 1 << 20,
            when_full: WhenFull::default(),
        };
        let builder = ByteCache::builder().path(folder.path().join("cache.larder"));
        let builder = builder.write_policy(policy).memory_max_entries(0);
        let time = Duration::from_millis(200);
        let builder =
            if idles { builder.time_to_idle(time) } else { builder.disk_time_to_live(time) };
        let cache = builder.open().unwrap();
        cache.insert(b"key", b"value").unwrap();
        let end = Timestamp::now() + Duration::from_secs(10);
        // Only what changes no time is asked.
        while cache.stats().pending_ops > 0 || cache.disk_len() > 0 {
            assert!(Timestamp::now() < end, "it is not swept, by idleness: {idles}");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(cache.stats().disk_expirations, 1);
    }
}

/// Whoever closed the cache waited for the thread on which a listener closed it, too, and that one for the lock of
/// the first.
#[test]
fn a_listener_may_close_what_somebody_is_closing() {
    for disk in [false, true] {
        let _watchdog = Watchdog::start(format!("two that close, with a disk: {disk}"));
        let folder = tempfile::tempdir().unwrap();
        let (entered, is_in) = mpsc::channel();
        let handle: Arc<OnceLock<ByteCache>> = Arc::default();
        let other = Arc::clone(&handle);
        let builder = ByteCache::builder().eviction_listener(move |_, _, _| {
            let _ = entered.send(());
            thread::sleep(Duration::from_millis(50));
            other.get().unwrap().clone().close().unwrap();
        });
        let builder = if disk {
            builder.path(folder.path().join("cache.larder")).disk_max_entries(2)
        } else {
            builder.memory_time_to_live(Duration::from_millis(20))
        };
        let cache = builder.open().unwrap();
        handle.set(cache.clone()).unwrap();
        for n in 0..3 {
            cache.insert(&[n], b"value").unwrap();
        }
        is_in.recv().unwrap();
        cache.clone().close().unwrap();
        assert_eq!(cache.get(b"key").unwrap_err().kind(), ErrorKind::Closed);
    }
}

/// What a batch of removals had found below was taken for what is there, though somebody had removed it meanwhile.
#[test]
fn of_two_that_remove_a_key_one_had_it() {
    const KEYS: u32 = 20_000;
    for _ in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let builder = ByteCache::builder().path(folder.path().join("cache.larder"));
        let (cache, heard) = listening(builder.memory_max_entries(0));
        let keys: Vec<[u8; 4]> = (0..KEYS).map(u32::to_be_bytes).collect();
        cache.insert_many(keys.iter().map(|key| (&key[..], &b"value"[..]))).unwrap();
        cache.flush().unwrap();
        let (one, other) = thread::scope(|scope| {
            let one_by_one = scope.spawn(|| {
                let is_ours = |key: &&[u8; 4]| cache.remove(&key[..]).unwrap().is_some();
                keys.iter().filter(is_ours).count()
            });
            let together = cache.remove_many(keys.iter().map(|key| &key[..])).unwrap();
            (one_by_one.join().unwrap(), together)
        });
        assert_eq!(one + other, keys.len(), "{one} and {other}");
        cache.close().unwrap();
        let explicit = heard.iter().filter(|(.., cause)| *cause == RemovalCause::Explicit);
        assert_eq!(explicit.count(), keys.len());
    }
}

/// What the queue had no room for, and so was in memory only, was not counted.
#[test]
fn a_purge_counts_what_is_in_memory_only() {
    let folder = tempfile::tempdir().unwrap();
    let policy = WritePolicy::Behind {
        max_delay: Duration::from_secs(3_600),
        max_pending_ops: 1,
        max_pending_bytes: 1 << 20,
        when_full: WhenFull::Shed,
    };
    let clock = ManualClock::new(Timestamp::from_secs(1_000));
    let builder = ByteCache::builder().path(folder.path().join("cache.larder"));
    let builder = builder.write_policy(policy).clock(OwnClock::of(&clock));
    let cache = builder.disk_time_to_live(Duration::from_secs(1)).open().unwrap();
    for n in 0..50_u8 {
        cache.insert(&[n], b"value").unwrap();
    }
    assert!(cache.stats().shed > 0);
    clock.advance(Duration::from_secs(2));
    assert_eq!(cache.purge_expired().unwrap(), 50);
    assert!(cache.is_empty());
}

/// The sum on disk stopped at the largest number, and was wrong from then on.
#[test]
fn the_sum_of_weights_on_disk_is_exact_however_large_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let cache = two_tier(folder.path()).open().unwrap();
    let options = InsertOptions::default().weight(1 << 56);
    for n in 0..600_u32 {
        cache.insert_with(&n.to_be_bytes(), b"value", &options).unwrap();
    }
    cache.flush().unwrap();
    // Half of what a number holds.
    assert_eq!((cache.disk_len(), cache.disk_bytes()), (127, 127 << 56));
    for n in 500..600_u32 {
        assert!(cache.remove(&n.to_be_bytes()).unwrap().is_some());
    }
    cache.flush().unwrap();
    assert_eq!((cache.disk_len(), cache.disk_bytes()), (27, 27 << 56));
    cache.set_disk_limits(None, Some(9 << 56)).unwrap();
    assert_eq!((cache.disk_len(), cache.disk_bytes()), (9, 9 << 56));
    assert!(!cache.verify().unwrap().wrong_totals);
}

/// What a copy takes was not known after opening, so twice what it may take was kept free: each time that a full
/// cache with a bound for its file was opened, up to two thirds of the entries left.
#[test]
fn opening_a_file_with_a_bound_again_evicts_nothing() {
    for (value, count) in [(20, 25_000_u32), (1_000, 3_000)] {
        let folder = tempfile::tempdir().unwrap();
        let builder = ByteCache::builder().path(folder.path().join("cache.larder"));
        let builder = builder.disk_max_file_bytes(8 << 20).memory_max_entries(0);
        let cache = builder.clone().open().unwrap();
        let key = |n: u32| u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        let fill = |numbers: std::ops::Range<u32>| {
            numbers.for_each(|n| cache.insert(&key(n), &vec![1; value]).unwrap());
        };
        fill(0..count);
        cache.compact().unwrap();
        fill(count..2 * count);
        cache.flush().unwrap();
        let held = cache.len();
        assert!(cache.stats().disk_evictions > 0);
        cache.close().unwrap();
        for _ in 0..3 {
            let cache = builder.clone().open().unwrap();
            cache.flush().unwrap();
            assert_eq!((cache.len(), cache.stats().disk_evictions), (held, 0), "{value} bytes");
            cache.close().unwrap();
        }
    }
}

/// After opening, stamps began at the clock, not above those in the file: where the clock stood still or had gone
/// back, what was new was older than all that was there.
#[test]
fn what_is_used_after_opening_is_newer_than_what_is_in_the_file() {
    for back in [0, 1, 100] {
        let folder = tempfile::tempdir().unwrap();
        let open = |at| {
            let clock = ManualClock::new(Timestamp::from_secs(at));
            two_tier(folder.path()).clock(clock).disk_max_entries(3).open().unwrap()
        };
        let keys =
            |cache: &ByteCache| -> Vec<u8> { cache.keys().flat_map(|key| key.unwrap()).collect() };
        let cache = open(1_000);
        for key in [b"a", b"b", b"c"] {
            cache.insert(key, b"value").unwrap();
        }
        // The caller's own, which says nothing of the clock.
        cache.insert_at(b"z", b"value", Timestamp::from_secs(5_000)).unwrap();
        cache.remove(b"z").unwrap();
        cache.close().unwrap();

        let cache = open(1_000 - back);
        assert!(cache.get(b"a").unwrap().is_some());
        cache.insert(b"d", b"value").unwrap();
        cache.flush().unwrap();
        assert_eq!(keys(&cache), b"acd", "{back} s");
        let accessed = cache.peek(b"d").unwrap().unwrap().accessed_at();
        assert!(accessed < Timestamp::from_secs(1_001), "{accessed:?}");
        cache.compact().unwrap();
        cache.close().unwrap();

        let cache = open(1_000 - back);
        cache.insert(b"e", b"value").unwrap();
        cache.close().unwrap();
        assert_eq!(keys(&open(1_000)), b"ade", "{back} s, after a compaction");
    }
}

/// Where the system's clock was set back, an entry's lifetime still goes by it.
#[test]
fn a_lifetime_goes_by_the_clock_though_stamps_are_ahead_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let ahead = Timestamp::now() + Duration::from_secs(3_600);
    let cache = two_tier(folder.path()).clock(ManualClock::new(ahead)).open().unwrap();
    cache.insert(b"old", b"value").unwrap();
    cache.close().unwrap();
    let cache = two_tier(folder.path()).disk_max_entries(1).open().unwrap();
    let options = InsertOptions::default().ttl(Duration::from_secs(60));
    cache.insert_with(b"new", b"value", &options).unwrap();
    cache.flush().unwrap();
    let new = cache.get(b"new").unwrap().expect("newer than what was there");
    assert!(new.accessed_at() > ahead && new.created_at() < ahead);
    let left = new.ttl_remaining().unwrap();
    assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(30), "{left:?}");
}

/// With a full queue and `Shed`, what memory did not take was lost, and a touch took the row away that it is to keep.
#[test]
fn what_cannot_be_shed_waits() {
    for limit in [0, 10_000] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.larder");
        let builder = ByteCache::builder().path(&path).memory_max_entries(limit);
        let cache = builder
            .clone()
            .max_memory_entry_bytes(20)
            .write_policy(WritePolicy::Behind {
                max_delay: Duration::from_millis(20),
                max_pending_ops: 1,
                max_pending_bytes: 1 << 20,
                when_full: WhenFull::Shed,
            })
            .open()
            .unwrap();
        for n in 0..100_u8 {
            cache.insert(&[n], &[n; 30]).unwrap();
            assert_eq!(cache.get(&[n]).unwrap().as_deref(), Some(&[n; 30][..]));
            assert!(cache.insert_if_absent(&[n, n], &[n; 30]).unwrap());
            assert!(cache.contains_key(&[n, n]).unwrap());
        }
        for n in 0..100_u8 {
            assert!(cache.touch(&[n], Duration::from_secs(3_600)).unwrap());
        }
        assert_eq!((cache.len(), cache.stats().shed), (200, 0), "memory for {limit}");
        cache.close().unwrap();
        assert_eq!(builder.open().unwrap().len(), 200, "memory for {limit}");
    }
}

/// It waited for itself, or for a thread that waited for it.
#[test]
fn verifying_within_a_verification_is_busy() {
    let _watchdog = Watchdog::start("verifying within a verification".to_owned());
    let folder = tempfile::tempdir().unwrap();
    let (cell, busy) = (Arc::new(OnceLock::<ByteCache>::new()), Arc::new(AtomicBool::new(false)));
    let (own, was_busy) = (Arc::clone(&cell), Arc::clone(&busy));
    let cache = two_tier(folder.path())
        .disk_max_entries(1)
        .eviction_listener(move |_, _, _| {
            if let Some(cache) = own.get() {
                let is_busy = cache.verify().is_err_and(|e| e.kind() == ErrorKind::Busy);
                was_busy.fetch_or(is_busy, Ordering::Relaxed);
            }
        })
        .open()
        .unwrap();
    cache.insert(b"first", b"value").unwrap();
    cache.flush().unwrap();
    let _ = cell.set(cache.clone());
    let mut within = Vec::new();
    let options = VerifyOptions::default().progress(|_, _| {
        within.push(cache.verify().map_err(|error| error.kind()).map(drop));
        cache.insert(b"another", b"value").unwrap();
        cache.flush().unwrap();
    });
    cache.verify_with(options).unwrap();
    assert!(!within.is_empty() && within.iter().all(|done| *done == Err(ErrorKind::Busy)));
    assert!(busy.load(Ordering::Relaxed), "the listener verified, too");
    // Afterwards, and after a panic in it, one can verify again; who comes meanwhile waits.
    let panicking =
        || cache.verify_with(VerifyOptions::default().progress(|_, _| panic!("as asked")));
    assert!(catch_unwind(panicking).is_err());
    thread::scope(|scope| {
        let options = VerifyOptions::default().progress(|_, _| {
            scope.spawn(|| assert!(cache.verify().unwrap().is_ok()));
            thread::sleep(Duration::from_millis(20));
        });
        cache.verify_with(options).unwrap();
    });
    cache.close().unwrap();
}

/// What had expired and was not swept stayed, and counted in `len`.
#[test]
fn what_has_expired_goes_with_its_prefix() {
    let folder = tempfile::tempdir().unwrap();
    for builder in [ByteCache::builder(), two_tier(folder.path())] {
        let clock = ManualClock::new(Timestamp::from_secs(1_000));
        let (cache, heard) = listening(builder.clock(clock.clone()));
        let options = InsertOptions::default().ttl(Duration::from_secs(1));
        cache.insert_with(b"short", b"1", &options).unwrap();
        cache.insert(b"sound", b"2").unwrap();
        clock.advance(Duration::from_secs(2));
        assert_eq!(cache.invalidate_prefix(b"s").unwrap(), 1);
        assert_eq!(cache.len(), 0);
        cache.close().unwrap();
        let mut heard: Vec<_> = heard.iter().map(|(key, _, _, cause)| (key, cause)).collect();
        heard.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            (b"short".to_vec(), RemovalCause::Expired),
            (b"sound".to_vec(), RemovalCause::Explicit),
        ];
        assert_eq!(heard, expected);
    }
}
