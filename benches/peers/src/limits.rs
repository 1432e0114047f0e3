//! What one order over all entries costs at the least, with several threads: caches that find nothing and check
//! nothing.
//!
//! Whoever keeps exact LRU over all threads gives each hit and each insert a stamp that says what came before, and
//! evicts the oldest entry there is. Here is that and nothing else: no look-up, no comparison of keys, no handles, and
//! fewer entries, as keys share some. What larder and its peers do besides is what they are away from this. The locks
//! are parking_lot's, which exchange a word to be let go as well; larder's store one.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};

use crate::memory::{Ask, Peer, copy};

/// As many as larder has on two cores.
const SHARDS: usize = 8;

/// An entry, as far as it matters here.
struct Entry {
    stamp: AtomicU64,
    value: Box<[u8]>,
}

/// A stamp for each hit, and the entry that has it written to it.
struct Stamped {
    hasher: RandomState,
    stamp: CachePadded<AtomicU64>,
    entries: Vec<Entry>,
}

impl Stamped {
    fn with_capacity(entries: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            stamp: CachePadded::default(),
            entries: Vec::with_capacity(entries),
        }
    }

    /// The entry that a key has, whichever that is; stamped.
    fn hit(&self, hash: u64, stamp: u64) -> &[u8] {
        let entry = &self.entries[hash as usize % self.entries.len()];
        entry.stamp.store(stamp, Ordering::Relaxed);
        &entry.value
    }

    fn next_stamp(&self) -> u64 {
        self.stamp.fetch_add(1, Ordering::Relaxed)
    }
}

/// Hits that take a stamp and nothing else.
pub struct StampOnly(Stamped);

impl Peer for StampOnly {
    const NAME: &'static str = "a stamp (the limit)";

    fn with_capacity(entries: usize) -> Self {
        Self(Stamped::with_capacity(entries))
    }

    fn takes_part(ask: Ask, threads: usize) -> bool {
        matches!(ask, Ask::Get | Ask::GetInto) && threads > 1
    }

    fn get(&self, key: &str) -> Option<u8> {
        let stamp = self.0.next_stamp();
        Some(self.0.hit(self.0.hasher.hash_one(key), stamp)[0])
    }

    fn get_into(&self, key: &str, buffer: &mut Vec<u8>) -> bool {
        let stamp = self.0.next_stamp();
        copy(Some(self.0.hit(self.0.hasher.hash_one(key), stamp)), buffer)
    }

    fn insert(&self, _key: &str, _value: &[u8]) {
        unreachable!("it is only read");
    }

    fn fill(&mut self, _key: &str, value: &[u8]) {
        self.0.entries.push(Entry { stamp: AtomicU64::new(0), value: value.into() });
    }
}

/// Hits that take a stamp and the lock of a shard, and count themselves there.
pub struct StampAndLock {
    stamped: Stamped,
    locks: Vec<CachePadded<Mutex<u64>>>,
}

impl StampAndLock {
    fn locked(&self, hash: u64) -> MutexGuard<'_, u64> {
        let mut count = self.locks[(hash >> 48) as usize % SHARDS].lock();
        *count += 1;
        count
    }
}

impl Peer for StampAndLock {
    const NAME: &'static str = "stamp, lock (the limit)";

    fn with_capacity(entries: usize) -> Self {
        let locks = (0..SHARDS).map(|_| CachePadded::default()).collect();
        Self { stamped: Stamped::with_capacity(entries), locks }
    }

    fn takes_part(ask: Ask, threads: usize) -> bool {
        StampOnly::takes_part(ask, threads)
    }

    fn get(&self, key: &str) -> Option<u8> {
        let (stamp, hash) = (self.stamped.next_stamp(), self.stamped.hasher.hash_one(key));
        let _locked = self.locked(hash);
        Some(self.stamped.hit(hash, stamp)[0])
    }

    fn get_into(&self, key: &str, buffer: &mut Vec<u8>) -> bool {
        let (stamp, hash) = (self.stamped.next_stamp(), self.stamped.hasher.hash_one(key));
        let _locked = self.locked(hash);
        copy(Some(self.stamped.hit(hash, stamp)), buffer)
    }

    fn insert(&self, _key: &str, _value: &[u8]) {
        unreachable!("it is only read");
    }

    fn fill(&mut self, _key: &str, value: &[u8]) {
        self.stamped.entries.push(Entry { stamp: AtomicU64::new(0), value: value.into() });
    }
}

/// What came into a shard, by stamps.
type Queue = VecDeque<(u64, Box<[u8]>)>;

/// Inserts into full queues: the oldest of all leaves, and an account says how many there are.
pub struct Queues {
    hasher: RandomState,
    stamp: CachePadded<AtomicU64>,
    shards: Vec<CachePadded<Mutex<Queue>>>,
    /// The stamp of each shard's oldest.
    bounds: Vec<AtomicU64>,
    account: CachePadded<Mutex<usize>>,
    capacity: usize,
}

impl Queues {
    fn publish(&self, shard: usize, queue: &Queue) {
        let oldest = queue.front().map_or(u64::MAX, |(stamp, _)| *stamp);
        self.bounds[shard].store(oldest, Ordering::Release);
    }

    /// Takes the oldest of all out, unless its shard is locked by another thread; `own` is locked by this one.
    fn evict(&self, own: (usize, &mut Queue)) -> Option<Box<[u8]>> {
        let bounds = self.bounds.iter().map(|bound| bound.load(Ordering::Acquire)).enumerate();
        let (least, _) = bounds.min_by_key(|(_, bound)| *bound)?;
        if least == own.0 {
            let oldest = own.1.pop_front();
            self.publish(own.0, own.1);
            return oldest.map(|(_, value)| value);
        }
        let mut other = self.shards[least].try_lock()?;
        let oldest = other.pop_front();
        self.publish(least, &other);
        oldest.map(|(_, value)| value)
    }
}

impl Peer for Queues {
    const NAME: &'static str = "queues (the limit)";

    fn with_capacity(entries: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            stamp: CachePadded::default(),
            shards: (0..SHARDS).map(|_| CachePadded::default()).collect(),
            bounds: (0..SHARDS).map(|_| AtomicU64::new(u64::MAX)).collect(),
            account: CachePadded::default(),
            capacity: entries,
        }
    }

    fn takes_part(ask: Ask, _threads: usize) -> bool {
        ask == Ask::Insert
    }

    fn get(&self, _key: &str) -> Option<u8> {
        unreachable!("it finds nothing");
    }

    fn get_into(&self, _key: &str, _buffer: &mut Vec<u8>) -> bool {
        unreachable!("it finds nothing");
    }

    fn insert(&self, key: &str, value: &[u8]) {
        let value: Box<[u8]> = value.into();
        let index = (self.hasher.hash_one(key) >> 48) as usize % SHARDS;
        loop {
            let mut own = self.shards[index].lock();
            let stamp = self.stamp.fetch_add(1, Ordering::Relaxed);
            let mut entries = self.account.lock();
            let left = if *entries < self.capacity {
                *entries += 1;
                None
            } else {
                let Some(left) = self.evict((index, &mut own)) else {
                    drop((entries, own));
                    std::thread::yield_now();
                    continue;
                };
                Some(left)
            };
            drop(entries);
            own.push_back((stamp, value));
            self.publish(index, &own);
            drop(own);
            drop(left);
            return;
        }
    }
}
