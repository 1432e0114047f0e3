//! Strategies of the disk tier: `Size` against a slow reference, what every one keeps when it is closed,
//! and files that are opened with another one than before.
//!
//! `Fifo` and `Ttl` are judged decision by decision in `model.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{
    Builder, ByteCache, DiskStrategy, ErrorKind, InsertOptions, ManualClock, RemovalCause, Tier,
    Timestamp, VerifyOptions, WhenFull, WritePolicy,
};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, TableHandle};

use crate::errors::refused;
use crate::files::{META, Place, database, place};
use crate::support::{Rng, Watchdog, seed};

const RANKS: TableDefinition<'static, &[u8], ()> = TableDefinition::new("ranks");
const ALL: [DiskStrategy; 4] =
    [DiskStrategy::Lru, DiskStrategy::Fifo, DiskStrategy::Ttl, DiskStrategy::Size];
const START: u64 = 1_000_000_000;
const HOUR: Duration = Duration::from_secs(3_600);

type Key = Vec<u8>;

/// No commits but those that are asked for.
const AT_FLUSH: WritePolicy = WritePolicy::Behind {
    max_delay: HOUR,
    max_pending_ops: 1 << 20,
    max_pending_bytes: 1 << 30,
    when_full: WhenFull::Block(Duration::from_secs(30)),
};

/// An entry on disk, as `Size` sees it.
#[derive(Debug, Clone)]
struct Held {
    charge: u64,
    uses: u64,
    priority: f64,
    /// Its recency when that was found, and as it was handed down since.
    filed: u64,
    known: u64,
}

/// What a cache with `Size` on disk does, said plainly.
#[derive(Debug, Default)]
struct Model {
    max_bytes: u64,
    memory_max: usize,
    level: f64,
    disk: BTreeMap<Key, Held>,
    /// Not committed: the charge and the stamp, or that it is removed.
    pending: BTreeMap<Key, Option<(u64, u64)>>,
    /// Of every key that is there.
    recency: BTreeMap<Key, u64>,
    memory: BTreeSet<Key>,
    evicted: Vec<Key>,
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn quotient(uses: u64, charge: u64) -> f64 {
    uses as f64 / charge as f64
}

impl Model {
    fn access(&mut self, key: &Key, stamp: u64) {
        self.recency.insert(key.clone(), stamp);
        self.memory.insert(key.clone());
        while self.memory.len() > self.memory_max {
            let oldest = self.memory.iter().min_by_key(|key| (self.recency[*key], *key));
            let oldest = oldest.unwrap().clone();
            self.memory.remove(&oldest);
        }
    }

    fn insert(&mut self, key: &Key, charge: u64, stamp: u64) {
        self.access(key, stamp);
        self.pending.insert(key.clone(), Some((charge, stamp)));
    }

    fn remove(&mut self, key: &Key) {
        if self.recency.remove(key).is_some() {
            self.memory.remove(key);
            self.pending.insert(key.clone(), None);
        }
    }

    fn file(&mut self, key: &Key, charge: u64, uses: u64, stamp: u64) {
        let priority = self.level + quotient(uses, charge);
        let held = Held { charge, uses, priority, filed: stamp, known: stamp };
        self.disk.insert(key.clone(), held);
    }

    /// What memory let go of is handed down, or all of it.
    fn commit(&mut self, what: Commit) {
        for (key, put) in std::mem::take(&mut self.pending) {
            match put {
                Some((charge, stamp)) => {
                    let uses = self.disk.get(&key).map_or(0, |held| held.uses) + 1;
                    self.file(&key, charge, uses, stamp);
                }
                None => drop(self.disk.remove(&key)),
            }
        }
        for (key, held) in &mut self.disk {
            if what == Commit::Everything || !self.memory.contains(key) {
                held.known = self.recency[key];
            }
        }
        while self.disk.values().map(|held| held.charge).sum::<u64>() > self.max_bytes {
            let first = self.disk.iter().min_by(|(a_key, a), (b_key, b)| {
                let by_priority = a.priority.total_cmp(&b.priority);
                by_priority.then(a.filed.cmp(&b.filed)).then(a_key.cmp(b_key))
            });
            let (key, held) = first.map(|(key, held)| (key.clone(), held.clone())).unwrap();
            let now = self.recency[&key];
            let used = if held.known == held.filed { now } else { held.known };
            if used == held.filed {
                self.level = self.level.max(held.priority);
                self.disk.remove(&key);
                self.memory.remove(&key);
                self.recency.remove(&key);
                self.evicted.push(key);
            } else {
                self.file(&key, held.charge, held.uses + 1, used);
            }
        }
    }
}

/// What a step commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    Nothing,
    /// What it wrote.
    Write,
    /// All that there is, recency included.
    Everything,
}

/// A cache, and what it has to be like.
struct Case {
    rng: Rng,
    policy: WritePolicy,
    path: PathBuf,
    clock: ManualClock,
    cache: ByteCache,
    evicted: Arc<Mutex<Vec<Key>>>,
    model: Model,
}

impl Case {
    fn new(folder: &Path, seed: u64, policy: WritePolicy) -> Self {
        let mut rng = Rng::new(seed);
        let (memory_max, max_bytes) = (1 + rng.index(8), 200 + rng.below(800));
        let (path, evicted) = (folder.join("cache.larder"), Arc::default());
        let clock = ManualClock::new(Timestamp::from_nanos(START));
        let model = Model { max_bytes, memory_max, ..Model::default() };
        let cache = open(&path, policy, &clock, &evicted, &model);
        Self { rng, policy, path, clock, cache, evicted, model }
    }

    fn step(&mut self) {
        self.clock.advance(Duration::from_nanos(10));
        let stamp = self.clock.now().as_nanos();
        let key = vec![b'a' + self.rng.key(40)];
        let (cache, model) = (&self.cache, &mut self.model);
        let is_through = self.policy == WritePolicy::Through;
        let write = if is_through { Commit::Write } else { Commit::Nothing };
        let commit = match self.rng.below(100) {
            0..40 => {
                let value = vec![7; self.rng.index(8).pow(2) * 3];
                cache.insert(&key, &value).unwrap();
                model.insert(&key, 1 + value.len() as u64, stamp);
                write
            }
            40..85 => {
                let found = cache.get(&key).unwrap();
                assert_eq!(found.is_some(), model.recency.contains_key(&key), "{key:?}");
                if found.is_some() {
                    model.access(&key, stamp);
                }
                Commit::Nothing
            }
            85..90 => {
                cache.invalidate(&key).unwrap();
                model.remove(&key);
                write
            }
            90..97 => {
                cache.flush().unwrap();
                Commit::Everything
            }
            97 => {
                model.max_bytes = 200 + self.rng.below(800);
                cache.set_disk_limits(None, Some(model.max_bytes)).unwrap();
                Commit::Everything
            }
            98 => {
                cache.clone().close().unwrap();
                model.commit(Commit::Everything);
                model.memory.clear();
                model.max_bytes = 200 + self.rng.below(800);
                self.cache = open(&self.path, self.policy, &self.clock, &self.evicted, model);
                Commit::Everything
            }
            _ => {
                // What is queued goes first.
                cache.flush().unwrap();
                cache.compact().unwrap();
                Commit::Everything
            }
        };
        if commit != Commit::Nothing {
            self.model.commit(commit);
            self.compare();
        }
    }

    fn compare(&mut self) {
        let heard = std::mem::take(&mut *self.evicted.lock().unwrap());
        assert_eq!(heard, std::mem::take(&mut self.model.evicted), "who left, in their order");
        let keys: Vec<Key> = self.cache.keys().map(Result::unwrap).collect();
        assert_eq!(keys, self.model.disk.keys().cloned().collect::<Vec<_>>());
        let bytes = self.model.disk.values().map(|held| held.charge).sum::<u64>();
        let held = (self.cache.disk_len(), self.cache.disk_bytes());
        assert_eq!(held, (keys.len() as u64, bytes));
        self.cache.validate().unwrap();
    }
}

fn open(
    path: &Path,
    policy: WritePolicy,
    clock: &ManualClock,
    evicted: &Arc<Mutex<Vec<Key>>>,
    model: &Model,
) -> ByteCache {
    let evicted = Arc::clone(evicted);
    let builder = ByteCache::builder().path(path).write_policy(policy).clock(clock.clone());
    let builder = builder.disk_strategy(DiskStrategy::Size).disk_cache_bytes(1 << 20);
    let builder = builder.eviction_listener(move |key, entry, cause| {
        if (entry.tier(), cause) == (Tier::Disk, RemovalCause::Size) {
            evicted.lock().unwrap().push(key);
        }
    });
    let builder = builder.memory_max_entries(model.memory_max as u64).disk_slack(None);
    builder.disk_max_bytes(model.max_bytes).open().unwrap()
}

/// One random history, with commits after each write or where something asks for them.
fn agrees(seed: u64, policy: WritePolicy, steps: u32) {
    let shared = Path::new("/dev/shm");
    let folder = tempfile::tempdir_in(shared).or_else(|_| tempfile::tempdir()).unwrap();
    let mut case = Case::new(folder.path(), seed, policy);
    (0..steps).for_each(|_| case.step());
    assert!(case.cache.verify().unwrap().is_ok());
}

#[test]
fn size_on_disk_agrees_with_a_slow_reference() {
    let seed = seed();
    for nth in 0..50 {
        agrees(seed.wrapping_add(nth), AT_FLUSH, 400);
    }
    for nth in 0..10 {
        agrees(seed.wrapping_add(nth), WritePolicy::Through, 300);
    }
}

/// A cache whose clock stands still unless it is told.
fn builder(place: &Place, clock: &ManualClock, strategy: DiskStrategy) -> Builder<ByteCache> {
    let builder = place.builder().clock(clock.clone()).disk_strategy(strategy);
    builder.disk_cache_bytes(1 << 20).write_policy(AT_FLUSH)
}

fn names(cache: &ByteCache) -> String {
    cache.keys().map(|key| char::from(key.unwrap()[0])).collect()
}

/// Takes out one entry after the other; gives the order in which they went.
fn order_of(cache: &ByteCache) -> String {
    let mut order = String::new();
    let mut left = names(cache);
    while left.len() > 1 {
        cache.set_disk_limits(Some(left.len() as u64 - 1), None).unwrap();
        let now = names(cache);
        order.extend(left.chars().filter(|c| !now.contains(*c)));
        left = now;
    }
    order + &left
}

/// Six entries in a file, of which some are read and some have deadlines.
fn filled(clock: &ManualClock, strategy: DiskStrategy) -> Place {
    let place = place();
    let cache = builder(&place, clock, strategy).open().unwrap();
    // Key, bytes of key and value, hours to live.
    for (key, charge, hours) in [
        (b'a', 600, 5),
        (b'b', 100, 0),
        (b'c', 300, 2),
        (b'd', 50, 2),
        (b'e', 900, 9),
        (b'f', 10, 0),
    ] {
        clock.advance(Duration::from_nanos(1));
        let options = InsertOptions::default();
        // So that c and d have the same deadline.
        let since = Duration::from_nanos(clock.now().as_nanos() - START);
        let ttl = (hours * HOUR).checked_sub(since).unwrap_or_default();
        let options = if hours > 0 { options.ttl(ttl) } else { options };
        cache.insert_with(&[key], &vec![0; charge - 1], &options).unwrap();
    }
    for key in [b"b", b"a", b"c"] {
        clock.advance(Duration::from_nanos(1));
        cache.get(key).unwrap().unwrap();
    }
    cache.close().unwrap();
    place
}

/// Likewise, where the uses of before are not known, so that each entry has one.
fn by_one_use(before: DiskStrategy, after: DiskStrategy) -> &'static str {
    // Not what every use counts for: b, read once, leaves before d.
    if after == DiskStrategy::Size && before != after { "eacbdf" } else { expected(after) }
}

/// What leaves first with each strategy.
fn expected(strategy: DiskStrategy) -> &'static str {
    match strategy {
        DiskStrategy::Lru => "defbac",
        DiskStrategy::Fifo => "abcdef",
        DiskStrategy::Ttl => "dcaefb",
        // By uses / charge: e 1/900, a 2/600, c 2/300, d 1/50, b 2/100, f 1/10. Those of d and b are equal,
        // and d was accessed before.
        _ => "eacdbf",
    }
}

#[test]
fn the_order_of_every_strategy_is_there_after_a_restart() {
    for strategy in ALL {
        let clock = ManualClock::new(Timestamp::from_nanos(START));
        let place = filled(&clock, strategy);
        let cache = builder(&place, &clock, strategy).open().unwrap();
        assert!(cache.verify().unwrap().is_ok(), "{strategy:?}");
        cache.compact().unwrap();
        assert!(cache.verify().unwrap().is_ok(), "{strategy:?}");
        assert_eq!(order_of(&cache), expected(strategy), "{strategy:?}");
    }
}

#[test]
fn a_file_can_be_opened_with_any_strategy_after_any_other() {
    for before in ALL {
        for after in ALL {
            let clock = ManualClock::new(Timestamp::from_nanos(START));
            let place = filled(&clock, before);
            let cache = builder(&place, &clock, after).open().unwrap();
            assert!(cache.verify().unwrap().is_ok(), "{before:?}, {after:?}");
            assert_eq!(names(&cache), "abcdef");
            assert_eq!(order_of(&cache), by_one_use(before, after), "{before:?}, {after:?}");
        }
    }
}

/// The names of the tables in a closed file, and of the facts about it.
fn tables(path: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let database = database(path);
    let read = database.begin_read().unwrap();
    let tables = read.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
    let meta = read.open_table(META).unwrap();
    let facts = meta.iter().unwrap().map(|row| row.unwrap().0.value().to_owned()).collect();
    (tables, facts)
}

#[test]
fn lru_has_nothing_of_other_strategies_in_its_file() {
    let clock = ManualClock::new(Timestamp::from_nanos(START));
    let plain = filled(&clock, DiskStrategy::Lru);
    let without = tables(&plain.path);
    for strategy in [DiskStrategy::Fifo, DiskStrategy::Ttl, DiskStrategy::Size] {
        let place = filled(&clock, strategy);
        let with = tables(&place.path);
        assert!(with.0.contains("ranks") && with.1.contains("strategy"), "{strategy:?}");
        assert_eq!(with.0.contains("filed"), strategy == DiskStrategy::Size);
        builder(&place, &clock, DiskStrategy::Lru).open().unwrap().close().unwrap();
        assert_eq!(tables(&place.path), without, "{strategy:?}");
    }
    assert!(!without.0.contains("ranks") && !without.0.contains("filed"));
    assert!(!without.1.contains("strategy"));
}

/// Changes a closed file by hand.
fn by_hand(place: &Place, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = database(&place.path);
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

#[test]
fn a_mark_that_is_not_known_is_like_none() {
    let clock = ManualClock::new(Timestamp::from_nanos(START));
    for strategy in ALL {
        let place = filled(&clock, DiskStrategy::Fifo);
        by_hand(&place, |t| {
            t.open_table(META).unwrap().insert("strategy", &b"a newer one"[..]).unwrap();
        });
        let cache = builder(&place, &clock, strategy).open().unwrap();
        assert!(cache.verify().unwrap().is_ok(), "{strategy:?}");
        assert_eq!(cache.len(), 6);
    }
}

/// As if a build that knows nothing of strategies had worked on the file in between.
#[test]
fn ranks_that_are_not_of_the_last_commit_are_made_anew() {
    let clock = ManualClock::new(Timestamp::from_nanos(START));
    let place = filled(&clock, DiskStrategy::Fifo);
    let copied = {
        let database = database(&place.path);
        let read = database.begin_read().unwrap();
        let mark =
            read.open_table(META).unwrap().get("strategy").unwrap().unwrap().value().to_vec();
        let ranks = read.open_table(RANKS).unwrap();
        let rows = ranks.iter().unwrap().map(|row| row.unwrap().0.value().to_vec());
        (mark, rows.collect::<Vec<_>>())
    };
    let cache = builder(&place, &clock, DiskStrategy::Lru).open().unwrap();
    clock.advance(Duration::from_nanos(1));
    cache.insert(b"a", b"newer").unwrap();
    cache.close().unwrap();
    by_hand(&place, |t| {
        t.open_table(META).unwrap().insert("strategy", &copied.0[..]).unwrap();
        let mut ranks = t.open_table(RANKS).unwrap();
        copied.1.iter().for_each(|row| drop(ranks.insert(&row[..], ()).unwrap()));
    });
    let cache = builder(&place, &clock, DiskStrategy::Fifo).open().unwrap();
    assert!(cache.verify().unwrap().is_ok());
    assert_eq!(order_of(&cache), "bcdefa");
}

#[test]
fn verification_finds_ranks_that_are_wrong_and_puts_them_right() {
    for strategy in [DiskStrategy::Fifo, DiskStrategy::Ttl, DiskStrategy::Size] {
        let clock = ManualClock::new(Timestamp::from_nanos(START));
        let place = filled(&clock, strategy);
        by_hand(&place, |t| {
            let mut ranks = t.open_table(RANKS).unwrap();
            let first = ranks.pop_first().unwrap().unwrap().0.value().to_vec();
            // Of an entry that is there, and as many as there should be.
            let wrong = [&[0xEE; 16][..], &first[16..]].concat();
            ranks.insert(&wrong[..], ()).unwrap();
        });
        let cache = builder(&place, &clock, strategy).open().unwrap();
        let report = cache.verify_with(VerifyOptions::default().repair(true)).unwrap();
        assert_eq!((report.unordered, report.is_ok()), (1, false), "{strategy:?}");
        // One was missing and one was no entry's.
        assert_eq!(report.repaired, 2, "{strategy:?}");
        assert!(cache.verify().unwrap().is_ok(), "{strategy:?}");
        assert_eq!(order_of(&cache), expected(strategy), "{strategy:?}");
    }
}

#[test]
fn what_leaves_disk_by_fifo_leaves_memory_though_it_was_read_just_now() {
    let clock = ManualClock::new(Timestamp::from_nanos(START));
    let place = place();
    let cache = builder(&place, &clock, DiskStrategy::Fifo).disk_max_entries(2).open().unwrap();
    for key in [b"a", b"b", b"c"] {
        cache.insert(key, b"value").unwrap();
        cache.get(b"a").unwrap().unwrap();
    }
    cache.flush().unwrap();
    assert_eq!((names(&cache).as_str(), cache.memory_len()), ("bc", 2));
    assert!(cache.get(b"a").unwrap().is_none());
    let stats = cache.stats();
    assert_eq!((stats.disk_evictions, stats.memory_expirations), (1, 0));
}

#[test]
fn time_to_idle_goes_by_recency_with_every_strategy() {
    for strategy in ALL {
        let clock = ManualClock::new(Timestamp::from_nanos(START));
        let place = filled(&clock, strategy);
        let cache = builder(&place, &clock, strategy).time_to_idle(HOUR).open().unwrap();
        clock.advance(Duration::from_secs(3_000));
        cache.get(b"d").unwrap().unwrap();
        clock.advance(Duration::from_secs(1_000));
        cache.purge_expired().unwrap();
        assert_eq!(names(&cache), "d", "{strategy:?}");
        assert!(cache.verify().unwrap().is_ok(), "{strategy:?}");
    }
}

/// Writes, reads and removes while one copy after the other is made.
#[test]
fn compaction_under_load_keeps_every_order() {
    for strategy in [DiskStrategy::Fifo, DiskStrategy::Ttl, DiskStrategy::Size] {
        let _watchdog = Watchdog::start(format!("compaction with {strategy:?}"));
        let place = place();
        let cache = place.builder().disk_strategy(strategy).disk_max_entries(10_000);
        let cache = cache.memory_max_entries(100).open().unwrap();
        // So many that a copy takes a while.
        let filling = (0..10_000_u64).map(|n| (n.to_be_bytes(), [0; 300]));
        let filling: Vec<_> = filling.collect();
        cache.insert_many(filling.iter().map(|(key, value)| (&key[..], &value[..]))).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut rng = Rng::new(seed());
                for n in 0..30_000_u32 {
                    let key = rng.below(15_000).to_be_bytes();
                    let options = InsertOptions::default();
                    let options = if n % 3 == 0 { options.ttl(HOUR) } else { options };
                    let value = vec![1; rng.index(400)];
                    match n % 8 {
                        0..4 => cache.insert_with(&key, &value, &options).unwrap(),
                        4 => drop(cache.invalidate(&key).unwrap()),
                        _ => drop(cache.get(&key).unwrap()),
                    }
                }
            });
            while !writer.is_finished() {
                cache.compact().unwrap();
                // Before the next copy, which would be made from what is right in the entries.
                let report = cache.verify().unwrap();
                assert!(report.is_ok(), "{strategy:?}: {report:?}");
            }
            writer.join().unwrap();
        });
        cache.flush().unwrap();
        assert!(cache.verify().unwrap().is_ok(), "{strategy:?}");
        cache.close().unwrap();
        let database = database(&place.path);
        let read = database.begin_read().unwrap();
        let (entries, ranks) = (read.open_table(crate::files::INDEX), read.open_table(RANKS));
        let (entries, ranks) = (entries.unwrap().len().unwrap(), ranks.unwrap().len().unwrap());
        assert!(ranks == entries || strategy == DiskStrategy::Ttl && ranks < entries);
    }
}

#[test]
fn a_strategy_for_the_disk_needs_a_disk() {
    let builder = |strategy| ByteCache::builder().memory_max_entries(1).disk_strategy(strategy);
    let fifo = builder(DiskStrategy::Fifo).open();
    refused(fifo, ErrorKind::InvalidOption, &["disk_strategy is Fifo", "set a path"]);
    assert!(builder(DiskStrategy::Lru).open().is_ok());
}
