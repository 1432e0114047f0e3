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
use parking_lot::Mutex;

use crate::memory::{Ask, Peer, copy};

/// As many as larder has on two cores.
const SHARDS: usize = 8;

fn shard(hash: u64) -> usize {
    (hash >> 48) as usize % SHARDS
}

/// An entry, as far as it matters here.
struct Entry {
    stamp: AtomicU64,
    value: Box<[u8]>,
}

/// Hits that take a stamp, which is written to the entry; if `LOCKED`, also the lock of a shard, and count themselves
/// there.
pub struct Stamped<const LOCKED: bool> {
    hasher: RandomState,
    stamp: CachePadded<AtomicU64>,
    shards: Vec<CachePadded<Mutex<u64>>>,
    entries: Vec<Entry>,
}

impl<const LOCKED: bool> Stamped<LOCKED> {
    /// Shows the entry that a key has, whichever that is.
    fn hit<T>(&self, key: &str, show: impl FnOnce(&[u8]) -> T) -> T {
        let stamp = self.stamp.fetch_add(1, Ordering::Relaxed);
        let hash = self.hasher.hash_one(key);
        let mut count = LOCKED.then(|| self.shards[shard(hash)].lock());
        if let Some(count) = &mut count {
            **count += 1;
        }
        let entry = &self.entries[hash as usize % self.entries.len()];
        entry.stamp.store(stamp, Ordering::Relaxed);
        show(&entry.value)
    }
}

impl<const LOCKED: bool> Peer for Stamped<LOCKED> {
    const NAME: &'static str =
        if LOCKED { "stamp, lock (the limit)" } else { "a stamp (the limit)" };

    fn with_capacity(entries: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            stamp: CachePadded::default(),
            shards: (0..SHARDS).map(|_| CachePadded::default()).collect(),
            entries: Vec::with_capacity(entries),
        }
    }

    fn takes_part(ask: Ask, threads: usize) -> bool {
        matches!(ask, Ask::Get | Ask::GetInto) && threads > 1
    }

    fn get(&self, key: &str) -> Option<u8> {
        Some(self.hit(key, |value| value[0]))
    }

    fn get_into(&self, key: &str, buffer: &mut Vec<u8>) -> bool {
        self.hit(key, |value| copy(Some(value), buffer))
    }

    fn insert(&self, _key: &str, _value: &[u8]) {
        unreachable!("it is only read");
    }

    fn fill(&mut self, _key: &str, value: &[u8]) {
        self.entries.push(Entry { stamp: AtomicU64::new(0), value: value.into() });
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
        let index = shard(self.hasher.hash_one(key));
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
