//! Stores on disk: filling, reading what is not in memory, a mixture, deleting, opening again, and the
//! blocks that the files occupy.

use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    PsyncIoEngineConfig,
};
use larder::{ByteCache, Timestamp};
use parking_lot::Mutex;
use redb::{ReadableDatabase, TableDefinition};
use tokio::runtime::Runtime;

use crate::report::{Line, Report};
use crate::workload::{Scale, Skew, fill, keys, order, seconds};

const VALUE_BYTES: usize = 1 << 10;
/// Of those that have transactions.
const BATCH: usize = 1_000;

/// A store on disk, with its own defaults besides the memory that it may use.
trait Peer: Sync + Send + Sized + 'static {
    const NAME: &'static str;
    /// One in so many of the writes is made, where each takes that much longer.
    const WRITES_LESS: usize = 1;

    fn open(folder: &Path, memory_bytes: usize) -> Self;

    fn put(&self, key: &str, value: &[u8]);

    fn get(&self, key: &str) -> Option<u8>;

    fn delete(&self, key: &str);

    /// Waits until everything is durable.
    fn settle(&self);

    /// Closes it in an orderly way.
    fn close(self) {}
}

impl Peer for ByteCache {
    const NAME: &'static str = "larder";

    fn open(folder: &Path, memory_bytes: usize) -> Self {
        Self::builder()
            .path(folder.join("cache.larder"))
            .memory_max_bytes(memory_bytes as u64 / 2)
            .disk_cache_bytes(memory_bytes / 2)
            .open()
            .expect("a cache file")
    }

    fn put(&self, key: &str, value: &[u8]) {
        self.insert(key.as_bytes(), value).expect("within the limits");
    }

    fn get(&self, key: &str) -> Option<u8> {
        Self::get(self, key.as_bytes()).expect("a sound file").map(|entry| entry[0])
    }

    fn delete(&self, key: &str) {
        self.invalidate(key.as_bytes()).expect("a sound file");
    }

    fn settle(&self) {
        self.flush().expect("a sound device");
    }

    fn close(self) {
        Self::close(self).expect("a sound device");
    }
}

/// foyer's hybrid cache, and the runtime that it needs.
struct Foyer {
    runtime: Runtime,
    cache: HybridCache<String, Vec<u8>>,
}

impl Peer for Foyer {
    const NAME: &'static str = "foyer, hybrid";

    fn open(folder: &Path, memory_bytes: usize) -> Self {
        let runtime = Runtime::new().expect("threads");
        let cache = runtime.block_on(async {
            let device = FsDeviceBuilder::new(folder).with_capacity(4 << 30).build();
            HybridCacheBuilder::new()
                .memory(memory_bytes)
                .with_weighter(|key: &String, value: &Vec<u8>| key.len() + value.len())
                .storage()
                .with_io_engine_config(PsyncIoEngineConfig::new())
                .with_engine_config(BlockEngineConfig::new(device.expect("a device")))
                .build()
                .await
                .expect("a cache")
        });
        Self { runtime, cache }
    }

    fn put(&self, key: &str, value: &[u8]) {
        self.cache.insert(key.to_owned(), value.to_vec());
    }

    fn get(&self, key: &str) -> Option<u8> {
        let found = self.runtime.block_on(self.cache.get(key)).expect("a sound device");
        found.map(|entry| entry.value()[0])
    }

    fn delete(&self, key: &str) {
        self.cache.remove(key);
    }

    fn settle(&self) {
        self.runtime.block_on(self.cache.storage().wait());
    }

    fn close(self) {
        self.runtime.block_on(self.cache.close()).expect("a sound device");
    }
}

/// fjall, whose log is made durable when that is asked for.
struct Fjall {
    database: fjall::Database,
    keyspace: fjall::Keyspace,
}

impl Peer for Fjall {
    const NAME: &'static str = "fjall";

    fn open(folder: &Path, memory_bytes: usize) -> Self {
        let builder = fjall::Database::builder(folder.join("fjall"));
        let database = builder.cache_size(memory_bytes as u64).open().expect("a database");
        let keyspace = database.keyspace("all", fjall::KeyspaceCreateOptions::default);
        Self { keyspace: keyspace.expect("a keyspace"), database }
    }

    fn put(&self, key: &str, value: &[u8]) {
        self.keyspace.insert(key, value).expect("a sound device");
    }

    fn get(&self, key: &str) -> Option<u8> {
        self.keyspace.get(key).expect("a sound device").map(|value| value[0])
    }

    fn delete(&self, key: &str) {
        self.keyspace.remove(key).expect("a sound device");
    }

    fn settle(&self) {
        self.database.persist(fjall::PersistMode::SyncAll).expect("a sound device");
    }
}

/// A key, and its value unless it is to go.
type Change = (String, Option<Vec<u8>>);

/// What waits for a transaction.
#[derive(Default)]
struct Waiting(Mutex<Vec<Change>>);

impl Waiting {
    fn add(&self, key: &str, value: Option<&[u8]>, commit: impl FnOnce(&mut Vec<Change>)) {
        let mut waiting = self.0.lock();
        waiting.push((key.to_owned(), value.map(<[u8]>::to_vec)));
        if waiting.len() >= BATCH {
            commit(&mut waiting);
        }
    }
}

/// How a store is written whose `commit` takes what waits.
macro_rules! in_batches {
    () => {
        fn put(&self, key: &str, value: &[u8]) {
            self.waiting.add(key, Some(value), |waiting| self.commit(waiting));
        }

        fn delete(&self, key: &str) {
            self.waiting.add(key, None, |waiting| self.commit(waiting));
        }

        fn settle(&self) {
            self.commit(&mut self.waiting.0.lock());
        }
    };
}

/// redb alone, in batches, with one transaction for each read.
struct Redb {
    database: redb::Database,
    waiting: Waiting,
}

const TABLE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("all");

impl Redb {
    fn commit(&self, waiting: &mut Vec<Change>) {
        let transaction = self.database.begin_write().expect("a sound device");
        {
            let mut table = transaction.open_table(TABLE).expect("a sound file");
            for (key, value) in waiting.drain(..) {
                match value {
                    Some(value) => table.insert(key.as_str(), value.as_slice()).map(drop),
                    None => table.remove(key.as_str()).map(drop),
                }
                .expect("a sound file");
            }
        }
        transaction.commit().expect("a sound device");
    }
}

impl Peer for Redb {
    const NAME: &'static str = "redb, batches of 1,000";

    fn open(folder: &Path, memory_bytes: usize) -> Self {
        let mut builder = redb::Builder::new();
        let database = builder.set_cache_size(memory_bytes).create(folder.join("redb"));
        Self { database: database.expect("a database"), waiting: Waiting::default() }
    }

    in_batches!();

    fn get(&self, key: &str) -> Option<u8> {
        let transaction = self.database.begin_read().expect("a sound file");
        let table = transaction.open_table(TABLE).expect("a sound file");
        table.get(key).expect("a sound file").map(|value| value.value()[0])
    }
}

/// LMDB through heed, in batches.
struct Lmdb {
    environment: heed::Env,
    database: heed::Database<heed::types::Str, heed::types::Bytes>,
    waiting: Waiting,
}

impl Lmdb {
    fn commit(&self, waiting: &mut Vec<Change>) {
        let mut transaction = self.environment.write_txn().expect("a sound device");
        for (key, value) in waiting.drain(..) {
            match value {
                Some(value) => self.database.put(&mut transaction, &key, &value),
                None => self.database.delete(&mut transaction, &key).map(drop),
            }
            .expect("a sound file");
        }
        transaction.commit().expect("a sound device");
    }
}

impl Peer for Lmdb {
    const NAME: &'static str = "LMDB, batches of 1,000";

    fn open(folder: &Path, _memory_bytes: usize) -> Self {
        let mut options = heed::EnvOpenOptions::new();
        options.map_size(4 << 30);
        // SAFETY: nobody else opens or changes the files of this folder, which is a new one.
        let environment = unsafe { options.open(folder) }.expect("an environment");
        let mut transaction = environment.write_txn().expect("a sound device");
        let database = environment.create_database(&mut transaction, None);
        let database = database.expect("a database");
        transaction.commit().expect("a sound device");
        Self { environment, database, waiting: Waiting::default() }
    }

    in_batches!();

    fn get(&self, key: &str) -> Option<u8> {
        let transaction = self.environment.read_txn().expect("a sound file");
        self.database.get(&transaction, key).expect("a sound file").map(|value| value[0])
    }
}

/// The store of the crate `cached`: a commit for each write.
struct Cached(cached::RedbCache<String, Vec<u8>>);

impl Peer for Cached {
    const NAME: &'static str = "cached, redb store";
    const WRITES_LESS: usize = 100;

    fn open(folder: &Path, _memory_bytes: usize) -> Self {
        Self(cached::RedbCache::builder("all").disk_dir(folder).build().expect("a cache"))
    }

    fn put(&self, key: &str, value: &[u8]) {
        use cached::ConcurrentCached;
        self.0.cache_set(key.to_owned(), value.to_vec()).expect("a sound device");
    }

    fn get(&self, key: &str) -> Option<u8> {
        use cached::ConcurrentCached;
        let value = self.0.cache_get(&key.to_owned()).expect("a sound device");
        value.map(|value| value[0])
    }

    fn delete(&self, key: &str) {
        use cached::ConcurrentCached;
        self.0.cache_remove(&key.to_owned()).expect("a sound device");
    }

    fn settle(&self) {}
}

/// What is asked of every store.
struct Material {
    keys: Vec<String>,
    memory_bytes: usize,
    /// Reads, in order of popularity and not.
    uniform: Vec<u32>,
    zipf: Vec<u32>,
}

/// What came of one round with one store, by workload.
type Figures = Vec<(&'static str, Line)>;

fn line(workload: &str, peer: &'static str, operations: usize, seconds: f64) -> Line {
    Line {
        workload: workload.to_owned(),
        peer,
        speeds: vec![operations as f64 / seconds / 1e6],
        hit_ratio: None,
        overhead: None,
    }
}

/// Bytes that the files of a folder occupy.
fn occupied(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => occupied(&entry.path()),
        #[cfg(unix)]
        Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
        #[cfg(not(unix))]
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

impl Material {
    /// Writes as many keys again as there are, at random; gives what 99 of 100 writes stay below, in nanoseconds, and
    /// the seconds until all is durable.
    fn churn<P: Peer>(&self, store: &P, count: usize) -> (f64, f64) {
        let mut value = vec![0; VALUE_BYTES];
        let mut took: Vec<u64> = Vec::with_capacity(count);
        let begin = Timestamp::now();
        for (number, index) in self.uniform.iter().cycle().take(count).enumerate() {
            fill(&mut value, number);
            let start = Timestamp::now();
            store.put(&self.keys[*index as usize % count], &value);
            took.push(Timestamp::now().as_nanos().saturating_sub(start.as_nanos()));
        }
        store.settle();
        let nanos = Timestamp::now().as_nanos().saturating_sub(begin.as_nanos());
        took.sort_unstable();
        (took[took.len() * 99 / 100] as f64, nanos as f64 / 1e9)
    }

    /// Everything, on a new folder.
    fn round<P: Peer>(&self) -> Figures {
        let folder = tempfile::tempdir().expect("a folder");
        let mut figures = Figures::new();
        let mut add = |workload: &'static str, operations: usize, seconds: f64| {
            figures.push((workload, line(workload, P::NAME, operations, seconds)));
        };
        let count = self.keys.len() / P::WRITES_LESS;
        let store = P::open(folder.path(), self.memory_bytes);
        let mut calls = 0.0;
        let filled = seconds(1, |_| {
            let mut value = vec![0; VALUE_BYTES];
            for (number, key) in self.keys[..count].iter().enumerate() {
                fill(&mut value, number);
                store.put(key, &value);
            }
        });
        calls += filled;
        add("fill, until the calls have returned", count, calls);
        calls += seconds(1, |_| store.settle());
        add("fill, until all is durable", count, calls);
        let bytes = occupied(folder.path());
        store.close();

        let mut again = None;
        let opening = Mutex::new(&mut again);
        let opened = seconds(1, |_| {
            **opening.lock() = Some(P::open(folder.path(), self.memory_bytes));
        });
        let store = again.expect("it was opened");
        add("opened again: entries at hand a second", count, opened);
        let there = self.keys[..count].iter().filter(|key| store.get(key).is_some()).count();
        for threads in [1, 2] {
            let found = AtomicU64::new(0);
            let reads = self.uniform.len() / threads;
            let took = seconds(threads, |thread| {
                let hits = self.uniform[thread * reads..][..reads]
                    .iter()
                    .filter(|index| {
                        let key = &self.keys[**index as usize % count];
                        black_box(store.get(key)).is_some()
                    })
                    .count();
                found.fetch_add(hits as u64, Ordering::Relaxed);
            });
            let workload = if threads == 1 {
                "reads, a fifth fits memory, 1 thread"
            } else {
                "reads, a fifth fits memory, 2 threads"
            };
            let mut line = line(workload, P::NAME, reads * threads, took);
            line.hit_ratio = Some(100.0 * found.into_inner() as f64 / (reads * threads) as f64);
            figures.push((workload, line));
        }
        for threads in [1, 2] {
            let mixed = self.zipf.len() / P::WRITES_LESS / threads;
            let took = seconds(threads, |thread| {
                let mut value = vec![0; VALUE_BYTES];
                for (nth, index) in self.zipf[thread * mixed..][..mixed].iter().enumerate() {
                    let key = &self.keys[*index as usize % count];
                    if nth % 20 == 0 {
                        fill(&mut value, nth);
                        store.put(key, &value);
                    } else {
                        black_box(store.get(key));
                    }
                }
            });
            let workload = if threads == 1 {
                "95/5, Zipf 0.99, 1 thread"
            } else {
                "95/5, Zipf 0.99, 2 threads"
            };
            figures.push((workload, line(workload, P::NAME, mixed * threads, took)));
        }
        let (slow, churned) = self.churn(&store, count);
        let workload = "writes at random, as many as there are, until all is durable";
        figures.push((workload, line(workload, P::NAME, count, churned)));
        let after = occupied(folder.path());
        let deleted = count / 4;
        let took = seconds(1, |_| {
            self.keys[..deleted].iter().for_each(|key| store.delete(key));
            store.settle();
        });
        figures.push(("delete", line("delete, until that is durable", P::NAME, deleted, took)));
        store.close();
        let per_thousand =
            |blocks: u64| 1_000.0 * blocks as f64 / (count * (VALUE_BYTES + 16)) as f64;
        let mut tell = |workload: &'static str, hit_ratio: Option<f64>, overhead: f64| {
            let line = Line {
                workload: workload.to_owned(),
                peer: P::NAME,
                speeds: Vec::new(),
                hit_ratio,
                overhead: Some(overhead),
            };
            figures.push((workload, line));
        };
        tell("nanoseconds that 99 of 100 writes at random stay below", None, slow);
        tell("blocks occupied per 1,000 bytes after writes at random", None, per_thousand(after));
        tell(
            "blocks occupied per 1,000 bytes after a fill; entries there, %",
            Some(100.0 * there as f64 / count as f64),
            per_thousand(bytes),
        );
        figures
    }
}

/// Runs everything with every store, in turn.
pub fn run(scale: &Scale, only: &str, report: &mut Report) {
    if !"disk".contains(only) {
        return;
    }
    let count = scale.of(200_000);
    let reads = scale.of(200_000);
    let material = Material {
        keys: keys(count),
        memory_bytes: count * (VALUE_BYTES + 16) / 5,
        uniform: order(Skew::Uniform, count, reads, 3),
        zipf: order(Skew::Zipf, count, reads, 4),
    };
    let contests: [fn(&Material) -> Figures; 6] = [
        Material::round::<ByteCache>,
        Material::round::<Foyer>,
        Material::round::<Fjall>,
        Material::round::<Redb>,
        Material::round::<Lmdb>,
        Material::round::<Cached>,
    ];
    let mut all: Vec<Figures> = contests.iter().map(|_| Figures::new()).collect();
    for _ in 0..scale.rounds.min(3) {
        for (contest, kept) in contests.iter().zip(&mut all) {
            let figures = contest(&material);
            if kept.is_empty() {
                *kept = figures;
            } else {
                for ((_, kept), (_, line)) in kept.iter_mut().zip(figures) {
                    kept.speeds.extend(line.speeds);
                }
            }
        }
    }
    for workload in 0..all[0].len() {
        report.add(all.iter().map(|figures| figures[workload].1.clone()).collect());
    }
}
