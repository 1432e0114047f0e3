//! A disk that fails: the cache goes on in memory, says so, and recovers by itself.
//!
//! Method: a child process whose files may not grow beyond a few MiB, until its parent lifts that.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::time::Duration;

use larder::{ByteCache, ErrorKind, ErrorPolicy, TierHealth, Timestamp, WhenFull, WritePolicy};

use crate::child::{Child, say, wait};
use crate::support::Watchdog;

const VALUE_BYTES: usize = 10_000;

fn key(n: u32) -> [u8; 4] {
    n.to_be_bytes()
}

fn value(n: u32) -> Vec<u8> {
    key(n).repeat(VALUE_BYTES / 4)
}

fn is_degraded(cache: &ByteCache) -> bool {
    matches!(cache.health().disk, Some(TierHealth::Degraded { .. }))
}

fn policy(max_pending_ops: usize) -> WritePolicy {
    WritePolicy::Behind {
        max_delay: Duration::from_millis(1),
        max_pending_ops,
        max_pending_bytes: 1 << 30,
        when_full: WhenFull::default(),
    }
}

/// Inserts from `n` on until the disk has failed; gives the next number.
fn fill(cache: &ByteCache, mut n: u32) -> u32 {
    while !is_degraded(cache) {
        assert!(n < 10_000, "the disk does not fail");
        cache.insert(&key(n), &value(n)).unwrap();
        n += 1;
    }
    n
}

/// What the child does that goes on in memory.
pub(crate) fn fail_and_recover(path: &Path) {
    let builder = ByteCache::builder().path(path).write_policy(policy(100));
    let cache = builder.open().unwrap();
    let before = Timestamp::now();
    let degraded = fill(&cache, 0);
    let Some(TierHealth::Degraded { reason, since }) = cache.health().disk else {
        panic!("it is ok")
    };
    assert!(!reason.is_empty() && since + Duration::from_secs(1) > before);
    assert_eq!(cache.health().memory, TierHealth::Ok);
    // More than the queue holds: the rest is in memory only.
    let count = degraded + 300;
    for n in degraded..count {
        cache.insert(&key(n), &value(n)).unwrap();
    }
    cache.insert_many([(&b"batch"[..], &b"one"[..]), (b"of", b"two")]).unwrap();
    assert!(cache.remove(&key(0)).unwrap().is_some());
    assert_eq!(cache.remove_many([&key(1)[..], &key(count)]).unwrap(), 1);
    let stats = cache.stats();
    assert!(stats.shed > 0 && stats.disk_errors > 0, "{stats:?}");
    let right = |n| cache.get(&key(n)).unwrap().is_some_and(|entry| entry[..] == value(n)[..]);
    assert!((2..count).all(right) && cache.get(&key(0)).unwrap().is_none());
    // What is also on disk is there as well, whether or not that can be read.
    let there = u64::from(count);
    assert_eq!((cache.len(), cache.keys().count() as u64), (there, there));
    assert_eq!(cache.keys_with_prefix(b"batch").count(), 1);
    let error = cache.flush().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("writing is tried again"), "{error}");
    say("degraded");
    wait();

    // The limit is gone.
    let attempts = (0..10).take_while(|_| cache.flush().is_err()).count();
    assert!(attempts < 10, "no recovery: {:?}", cache.health());
    assert_eq!(cache.health().disk, Some(TierHealth::Ok));
    assert!((2..count).all(right), "lost from memory");
    cache.insert(b"after", b"all is well").unwrap();
    cache.insert(&key(0), &value(0)).unwrap();
    cache.flush().unwrap();
    assert_eq!(cache.stats().pending_ops, 0);
    // From now on only what is on disk.
    cache.set_memory_limits(Some(0), None).unwrap();
    assert_eq!(cache.get(b"after").unwrap().as_deref(), Some(&b"all is well"[..]));
    assert!(cache.get(&key(1)).unwrap().is_none(), "back from removal");
    assert!(right(0), "lost after the recovery");
    let found = (0..count).filter(|n| match cache.get(&key(*n)).unwrap() {
        Some(entry) => entry[..] == value(*n)[..] || panic!("a wrong value"),
        None => false,
    });
    let others = [&b"after"[..], b"batch", b"of"];
    let found = found.count() + others.iter().filter(|k| cache.contains_key(k).unwrap()).count();
    assert_eq!((cache.disk_len(), cache.len()), (found as u64, found as u64));
    assert_eq!((cache.keys().count(), cache.validate()), (found, Ok(())));
    cache.close().unwrap();
    let cache = ByteCache::builder().path(path).open().unwrap();
    assert_eq!((cache.len(), cache.keys().count()), (found as u64, found));
    say("recovered");
}

/// What the child does that wants to hear of errors.
pub(crate) fn fail_strictly(path: &Path) {
    let builder = ByteCache::builder().path(path).error_policy(ErrorPolicy::Strict);
    let builder = builder.memory_max_entries(10);
    let cache = builder.write_policy(WritePolicy::Through).open().unwrap();
    let inserted = (0..10_000).take_while(|n| cache.insert(&key(*n), &value(*n)).is_ok()).count();
    let failed = u32::try_from(inserted).unwrap();
    assert!(failed < 10_000 && is_degraded(&cache));
    let refused = cache.insert(&key(failed + 1), &value(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Io);
    assert!(cache.get(&key(failed - 1)).unwrap().is_some(), "it is in memory");
    if let Err(error) = cache.get(&key(0)) {
        assert_eq!(error.kind(), ErrorKind::Io);
    }
    say("degraded");
    wait();
    let attempts = (0..10).take_while(|_| cache.flush().is_err()).count();
    assert!(attempts < 10, "no recovery: {:?}", cache.health());
    for n in 0..failed {
        assert!(cache.get(&key(n)).unwrap().is_some_and(|entry| entry[..] == value(n)[..]));
    }
    cache.insert(&key(failed), &value(failed)).unwrap();
    cache.close().unwrap();
    let cache = ByteCache::builder().path(path).open().unwrap();
    assert!((0..=failed).all(|n| cache.contains_key(&key(n)).unwrap()));
    say("recovered");
}

/// What the child does that closes its cache meanwhile.
pub(crate) fn fail_and_close(path: &Path) {
    let builder = ByteCache::builder().path(path).write_policy(WritePolicy::Through);
    let cache = builder.open().unwrap();
    let count = fill(&cache, 0);
    let clone = cache.clone();
    let error = cache.close().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("lost (operations: "), "{error}");
    assert_eq!(clone.get(&key(0)).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(clone.health().disk, Some(TierHealth::Closed));
    clone.close().unwrap();
    say("degraded");
    wait();
    let cache = ByteCache::builder().path(path).open().unwrap();
    let there = u32::try_from(cache.len()).unwrap();
    assert!(there > 0 && there < count);
    for n in 0..there {
        assert!(cache.get(&key(n)).unwrap().is_some_and(|entry| entry[..] == value(n)[..]));
    }
    say("recovered");
}

/// What the child does that removes what is only on disk, while that cannot be asked.
pub(crate) fn fail_and_remove(path: &Path) {
    let builder = ByteCache::builder().path(path).memory_max_entries(10);
    let cache = builder.write_policy(WritePolicy::Through).open().unwrap();
    let count = fill(&cache, 0);
    // In the pauses between two attempts there is nothing to read.
    while cache.contains_key(&key(0)).unwrap() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(cache.remove(&key(0)).unwrap().is_none(), "not known to be there");
    assert!(!cache.invalidate(&key(1)).unwrap());
    assert_eq!(cache.remove_many([&key(2)[..], &key(3)]).unwrap(), 0);
    let error = cache.invalidate_prefix(&key(4)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    say("degraded");
    wait();
    let attempts = (0..10).take_while(|_| cache.flush().is_err()).count();
    assert!(attempts < 10, "no recovery: {:?}", cache.health());
    let gone = |n| !cache.contains_key(&key(n)).unwrap();
    assert!((0..4).all(gone), "back from removal");
    assert!((4..count - 1).all(|n| !gone(n)), "lost");
    cache.close().unwrap();
    let cache = ByteCache::builder().path(path).open().unwrap();
    assert!((0..4).all(|n| !cache.contains_key(&key(n)).unwrap()), "back after reopening");
    say("recovered");
}

fn recovers(task: &str) {
    let watchdog = Watchdog::start(format!("the task to {task}"));
    let folder = tempfile::tempdir().unwrap();
    let mut child = Child::start_with_small_files(task, &folder.path().join("cache.larder"));
    assert_eq!(child.hear().as_deref(), Some("degraded"));
    if child.lift_limit() {
        child.go_on();
        assert_eq!(child.hear().as_deref(), Some("recovered"));
        child.end();
    }
    drop(watchdog);
}

#[test]
fn a_cache_goes_on_in_memory_while_its_disk_fails_and_recovers() {
    recovers("fail");
}

#[test]
fn what_is_removed_while_the_disk_fails_does_not_come_back() {
    recovers("fail and remove");
}

#[test]
fn a_cache_can_be_closed_while_its_disk_fails() {
    recovers("fail and close");
}

#[test]
fn a_strict_cache_says_that_its_disk_fails_and_recovers() {
    recovers("fail strictly");
}
