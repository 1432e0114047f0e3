//! Caches in memory: hits, misses that are inserted, insertion at capacity, mixtures, and the bytes that
//! an entry takes.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder::{ByteCache, Strategy};
use parking_lot::Mutex;

use crate::count::bytes_of;
use crate::limits::{Queues, Stamped};
use crate::report::{Line, Report};
use crate::workload::{Scale, Skew, fill, keys, order, seconds};

/// What is cached in those that do not have a form of their own.
type Value = Arc<[u8]>;

/// A cache in memory, with its own defaults.
pub trait Peer: Sync + Send + Sized + 'static {
    const NAME: &'static str;

    fn with_capacity(entries: usize) -> Self;

    /// Whether it is of interest where so many threads ask this.
    fn takes_part(ask: Ask, threads: usize) -> bool {
        _ = (ask, threads);
        true
    }

    /// What `get` gives: it keeps the value, whatever becomes of the entry.
    fn get(&self, key: &str) -> Option<u8>;

    /// The value's bytes in a buffer.
    fn get_into(&self, key: &str, buffer: &mut Vec<u8>) -> bool;

    fn insert(&self, key: &str, value: &[u8]);

    /// Inserts before it is measured, where that takes other means.
    fn fill(&mut self, key: &str, value: &[u8]) {
        self.insert(key, value);
    }

    /// Does what it puts off.
    fn settle(&self) {}
}

pub fn copy(value: Option<&[u8]>, buffer: &mut Vec<u8>) -> bool {
    buffer.clear();
    value.map(|value| buffer.extend_from_slice(value)).is_some()
}

impl Peer for ByteCache {
    const NAME: &'static str = "larder";

    fn with_capacity(entries: usize) -> Self {
        Self::builder().memory_max_entries(entries as u64).open().expect("a cache in memory")
    }

    fn get(&self, key: &str) -> Option<u8> {
        Self::get(self, key.as_bytes()).ok().flatten().map(|entry| entry[0])
    }

    fn get_into(&self, key: &str, buffer: &mut Vec<u8>) -> bool {
        Self::get_into(self, key.as_bytes(), buffer).is_ok_and(|hit| hit)
    }

    fn insert(&self, key: &str, value: &[u8]) {
        Self::insert(self, key.as_bytes(), value).expect("within the limits");
    }
}

/// Likewise, asked with a closure.
struct View(ByteCache);

impl Peer for View {
    const NAME: &'static str = "larder, view";

    /// A closure is another way to get, and nothing else.
    fn takes_part(ask: Ask, _threads: usize) -> bool {
        ask == Ask::Get
    }

    fn with_capacity(entries: usize) -> Self {
        Self(ByteCache::with_capacity(entries))
    }

    fn get(&self, key: &str) -> Option<u8> {
        self.0.view(key.as_bytes(), |value| value[0]).ok().flatten()
    }

    fn get_into(&self, key: &str, buffer: &mut Vec<u8>) -> bool {
        Peer::get_into(&self.0, key, buffer)
    }

    fn insert(&self, key: &str, value: &[u8]) {
        Peer::insert(&self.0, key, value);
    }
}

/// Likewise, with another strategy.
macro_rules! of_strategy {
    ($name:ident, $title:literal, $strategy:expr) => {
        struct $name(ByteCache);

        impl Peer for $name {
            const NAME: &'static str = $title;

            /// It matters where there is a choice.
            fn takes_part(ask: Ask, _threads: usize) -> bool {
                ask == Ask::GetOrInsert
            }

            fn with_capacity(entries: usize) -> Self {
                let builder = ByteCache::builder().memory_max_entries(entries as u64);
                Self(builder.strategy($strategy).open().expect("a cache in memory"))
            }

            fn get(&self, key: &str) -> Option<u8> {
                Peer::get(&self.0, key)
            }

            fn get_into(&self, key: &str, buffer: &mut Vec<u8>) -> bool {
                Peer::get_into(&self.0, key, buffer)
            }

            fn insert(&self, key: &str, value: &[u8]) {
                Peer::insert(&self.0, key, value);
            }
        }
    };
}

of_strategy!(Lfu, "larder, Lfu", Strategy::Lfu);
of_strategy!(S3Fifo, "larder, S3Fifo", Strategy::S3Fifo);

/// How a cache is used that gives its values themselves.
macro_rules! of_values {
    () => {
        fn get(&self, key: &str) -> Option<u8> {
            Self::get(self, key).map(|value| value[0])
        }

        fn get_into(&self, key: &str, buffer: &mut Vec<u8>) -> bool {
            copy(Self::get(self, key).as_deref(), buffer)
        }

        fn insert(&self, key: &str, value: &[u8]) {
            Self::insert(self, key.to_owned(), value.into());
        }
    };
}

impl Peer for quick_cache::sync::Cache<String, Value> {
    const NAME: &'static str = "quick_cache";

    fn with_capacity(entries: usize) -> Self {
        Self::new(entries)
    }

    of_values!();
}

impl Peer for moka::sync::Cache<String, Value> {
    const NAME: &'static str = "moka";

    fn with_capacity(entries: usize) -> Self {
        Self::new(entries as u64)
    }

    of_values!();

    fn settle(&self) {
        self.run_pending_tasks();
    }
}

impl Peer for foyer::Cache<String, Value> {
    const NAME: &'static str = "foyer";

    fn with_capacity(entries: usize) -> Self {
        foyer::CacheBuilder::new(entries).build()
    }

    fn get(&self, key: &str) -> Option<u8> {
        Self::get(self, key).map(|entry| entry.value()[0])
    }

    fn get_into(&self, key: &str, buffer: &mut Vec<u8>) -> bool {
        copy(Self::get(self, key).as_ref().map(|entry| &entry.value()[..]), buffer)
    }

    fn insert(&self, key: &str, value: &[u8]) {
        Self::insert(self, key.to_owned(), value.into());
    }
}

/// The crate `lru` in shards.
struct Sharded {
    hasher: RandomState,
    shards: Vec<Mutex<lru::LruCache<String, Value>>>,
}

impl Sharded {
    fn shard(&self, key: &str) -> &Mutex<lru::LruCache<String, Value>> {
        &self.shards[(self.hasher.hash_one(key) >> 48) as usize % self.shards.len()]
    }
}

impl Peer for Sharded {
    const NAME: &'static str = "lru, 64 mutexes";

    fn with_capacity(entries: usize) -> Self {
        let each = NonZeroUsize::new(entries.div_ceil(64)).expect("not zero");
        let shard = || Mutex::new(lru::LruCache::new(each));
        Self {
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(shard).take(64).collect(),
        }
    }

    fn get(&self, key: &str) -> Option<u8> {
        let value = self.shard(key).lock().get(key).cloned();
        value.map(|value| value[0])
    }

    fn get_into(&self, key: &str, buffer: &mut Vec<u8>) -> bool {
        copy(self.shard(key).lock().get(key).map(|value| &value[..]), buffer)
    }

    fn insert(&self, key: &str, value: &[u8]) {
        let old = self.shard(key).lock().push(key.to_owned(), value.into());
        drop(old);
    }
}

/// The limit: a map that nothing protects and that evicts nothing.
struct Unprotected(HashMap<String, Value, foldhash::fast::RandomState>);

impl Peer for Unprotected {
    const NAME: &'static str = "HashMap (the limit)";

    fn takes_part(ask: Ask, threads: usize) -> bool {
        matches!(ask, Ask::Get | Ask::GetInto) && threads == 1
    }

    fn with_capacity(entries: usize) -> Self {
        Self(HashMap::with_capacity_and_hasher(entries, foldhash::fast::RandomState::default()))
    }

    fn get(&self, key: &str) -> Option<u8> {
        self.0.get(key).cloned().map(|value| value[0])
    }

    fn get_into(&self, key: &str, buffer: &mut Vec<u8>) -> bool {
        copy(self.0.get(key).map(|value| &value[..]), buffer)
    }

    fn insert(&self, _key: &str, _value: &[u8]) {
        unreachable!("it is only read");
    }

    fn fill(&mut self, key: &str, value: &[u8]) {
        self.0.insert(key.to_owned(), value.into());
    }
}

/// What is asked of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Get,
    GetInto,
    /// Inserts what is not there.
    GetOrInsert,
    Insert,
    /// One in so many is an insert.
    InsertEvery(u32),
}

/// One workload.
#[derive(Debug, Clone)]
struct Workload {
    name: String,
    ask: Ask,
    skew: Skew,
    keys: usize,
    capacity: usize,
    value_bytes: usize,
    threads: usize,
    operations: usize,
}

/// What all peers are asked in turn.
struct Material {
    workload: Workload,
    keys: Vec<String>,
    /// For each thread.
    orders: Vec<Vec<u32>>,
}

impl Material {
    fn new(workload: Workload) -> Self {
        let each = workload.operations / workload.threads;
        let thread_order = |thread: usize| {
            let mut order = order(workload.skew, workload.keys, each, 7 + thread as u64);
            if workload.skew == Skew::Sequence {
                // Each thread has keys of its own.
                let part = workload.keys / workload.threads;
                let shift = |n: &mut u32| *n = *n % part as u32 + (part * thread) as u32;
                order.iter_mut().for_each(shift);
            }
            order
        };
        Self {
            keys: keys(workload.keys),
            orders: (0..workload.threads).map(thread_order).collect(),
            workload,
        }
    }

    /// A run with one peer: seconds, hits and gets.
    fn run<P: Peer>(&self, peer: &P) -> (f64, u64, u64) {
        let (hits, gets) = (AtomicU64::new(0), AtomicU64::new(0));
        let seconds = seconds(self.workload.threads, |thread| {
            let (mut hit, mut got) = (0_u64, 0_u64);
            let mut value = vec![0; self.workload.value_bytes];
            let mut buffer = Vec::with_capacity(self.workload.value_bytes);
            for (nth, &index) in (0_u32..).zip(&self.orders[thread]) {
                let key = self.keys[index as usize].as_str();
                let mut insert = || {
                    // As unique as a value that somebody computed.
                    value[..8].copy_from_slice(&u64::from(index).to_le_bytes());
                    peer.insert(key, &value);
                };
                match self.workload.ask {
                    Ask::Get => hit += u64::from(black_box(peer.get(key)).is_some()),
                    Ask::GetInto => {
                        hit += u64::from(peer.get_into(key, &mut buffer));
                        black_box(&buffer);
                    }
                    Ask::GetOrInsert => match black_box(peer.get(key)) {
                        Some(_) => hit += 1,
                        None => insert(),
                    },
                    Ask::Insert => insert(),
                    Ask::InsertEvery(every) if nth % every == 0 => {
                        insert();
                        continue;
                    }
                    Ask::InsertEvery(_) => hit += u64::from(black_box(peer.get(key)).is_some()),
                }
                got += u64::from(self.workload.ask != Ask::Insert);
            }
            hits.fetch_add(hit, Ordering::Relaxed);
            gets.fetch_add(got, Ordering::Relaxed);
        });
        (seconds, hits.into_inner(), gets.into_inner())
    }

    /// A peer that holds what it has room for, and how it is run.
    fn contest<P: Peer>(&self) -> Option<Contest<'_>> {
        let Workload { threads, keys, capacity, value_bytes, ask, .. } = self.workload;
        if !P::takes_part(ask, threads) {
            return None;
        }
        let mut peer = P::with_capacity(capacity);
        let mut value = vec![0; value_bytes];
        for number in 0..keys.min(capacity) {
            fill(&mut value, number);
            peer.fill(&self.keys[number], &value);
        }
        peer.settle();
        let run = Box::new(move || self.run(&peer));
        Some(Contest { name: P::NAME, run, speeds: Vec::new(), hits: 0, gets: 0 })
    }
}

/// One peer in a workload.
struct Contest<'m> {
    name: &'static str,
    run: Box<dyn Fn() -> (f64, u64, u64) + 'm>,
    speeds: Vec<f64>,
    hits: u64,
    gets: u64,
}

/// The same function of every peer.
macro_rules! of_all {
    ($function:ident $($argument:expr),*) => {
        [
            $function!(ByteCache $($argument),*),
            $function!(View $($argument),*),
            $function!(Lfu $($argument),*),
            $function!(S3Fifo $($argument),*),
            $function!(quick_cache::sync::Cache<String, Value> $($argument),*),
            $function!(moka::sync::Cache<String, Value> $($argument),*),
            $function!(foyer::Cache<String, Value> $($argument),*),
            $function!(Sharded $($argument),*),
            $function!(Unprotected $($argument),*),
        ]
    };
}

fn measure(workload: Workload, rounds: usize) -> Vec<Line> {
    let material = Material::new(workload);
    macro_rules! contest {
        ($peer:ty) => {
            material.contest::<$peer>()
        };
    }
    let limits = [contest!(Stamped<false>), contest!(Stamped<true>), contest!(Queues)];
    let mut contests: Vec<_> = of_all!(contest).into_iter().chain(limits).flatten().collect();
    for round in 0..=rounds {
        for contest in &mut contests {
            let (seconds, hits, gets) = (contest.run)();
            // The first warms up: what is in a small cache is what was asked for.
            if round > 0 {
                contest.speeds.push(material.workload.operations as f64 / seconds / 1e6);
                contest.hits += hits;
                contest.gets += gets;
            }
        }
    }
    let line = |contest: Contest<'_>| Line {
        workload: material.workload.name.clone(),
        peer: contest.name,
        speeds: contest.speeds,
        hit_ratio: (contest.gets > 0).then(|| 100.0 * contest.hits as f64 / contest.gets as f64),
        overhead: None,
    };
    contests.into_iter().map(line).collect()
}

/// Bytes that each entry takes on top of its key and value.
fn overhead<P: Peer>(entries: usize, value_bytes: usize) -> Line {
    let keys = keys(entries);
    let key_bytes: usize = keys.iter().map(String::len).sum();
    let mut value = vec![0; value_bytes];
    let (bytes, peer) = bytes_of(|| {
        let mut peer = P::with_capacity(2 * entries);
        for (number, key) in keys.iter().enumerate() {
            fill(&mut value, number);
            peer.fill(key, &value);
        }
        peer.settle();
        peer
    });
    drop(peer);
    let beyond = bytes as f64 - (key_bytes + entries * value_bytes) as f64;
    Line {
        workload: format!(
            "bytes an entry takes beyond key and value, {entries} of {value_bytes} bytes"
        ),
        peer: P::NAME,
        speeds: Vec::new(),
        hit_ratio: None,
        overhead: Some(beyond / entries as f64),
    }
}

fn workloads(scale: &Scale) -> Vec<Workload> {
    let mut all = Vec::new();
    let mut add = |name: String, ask, skew, keys, capacity, value_bytes, threads, operations| {
        all.push(Workload {
            name: format!("{name}, {threads} thread{}", if threads == 1 { "" } else { "s" }),
            ask,
            skew,
            keys: scale.of(keys),
            capacity: scale.of(capacity),
            value_bytes,
            threads,
            operations: scale.of(operations),
        });
    };
    let million = 1_000_000;
    for threads in [1, 2, 4, 8] {
        for (entries, text) in [(10_000, "10,000"), (million, "1,000,000")] {
            for (skew, how) in [(Skew::Uniform, "uniform"), (Skew::Zipf, "Zipf 0.99")] {
                let name = format!("hit, {text} entries of 64 B, {how}");
                let operations = if entries == million { 2 * million } else { 4 * million };
                add(name, Ask::Get, skew, entries, 2 * entries, 64, threads, operations);
            }
        }
        let name = "copy out, 10,000 entries of 64 B, uniform".to_owned();
        add(name, Ask::GetInto, Skew::Uniform, 10_000, 20_000, 64, threads, 4 * million);
        let name = "Zipf 0.99, capacity a tenth of 1,000,000, misses inserted".to_owned();
        add(name, Ask::GetOrInsert, Skew::Zipf, million, million / 10, 64, threads, 2 * million);
        let name = "Zipf 0.99, capacity a tenth of 100,000, misses inserted".to_owned();
        add(name, Ask::GetOrInsert, Skew::Zipf, million / 10, 10_000, 64, threads, 2 * million);
        let name = "insert only, at capacity of 100,000".to_owned();
        add(name, Ask::Insert, Skew::Sequence, million, million / 10, 64, threads, million);
        for (every, text) in [(20, "95/5"), (2, "50/50")] {
            let name = format!("{text}, 100,000 entries, Zipf 0.99");
            let ask = Ask::InsertEvery(every);
            add(name, ask, Skew::Zipf, million / 10, million / 5, 64, threads, 2 * million);
        }
        let name = "one hot key".to_owned();
        add(name, Ask::Get, Skew::One, 1_000, 2_000, 64, threads, 4 * million);
    }
    for (value_bytes, text) in [(1 << 10, "1 KiB"), (16 << 10, "16 KiB")] {
        for threads in [1, 2] {
            let name = format!("hit, 10,000 entries of {text}, uniform");
            add(name, Ask::Get, Skew::Uniform, 10_000, 20_000, value_bytes, threads, 2 * million);
            let name = format!("Zipf 0.99, capacity a tenth of 100,000 of {text}, misses inserted");
            let ask = Ask::GetOrInsert;
            add(name, ask, Skew::Zipf, million / 10, 10_000, value_bytes, threads, million / 2);
        }
    }
    all
}

/// Runs the workloads whose names have `only` in them.
pub fn run(scale: &Scale, only: &str, report: &mut Report) {
    let entries = scale.of(1_000_000);
    for value_bytes in [64, 1 << 10] {
        macro_rules! bytes {
            ($peer:ty) => {
                overhead::<$peer>(entries, value_bytes)
            };
        }
        if "bytes".contains(only) {
            let lines = of_all!(bytes).into_iter();
            report.add(lines.filter(|line| line.peer != View::NAME).collect());
        }
    }
    for workload in workloads(scale) {
        if workload.name.contains(only) {
            report.add(measure(workload, scale.rounds));
        }
    }
}
