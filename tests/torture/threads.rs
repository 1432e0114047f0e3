//! Many threads of random operations on one cache.
//!
//! Goal: limits, sums and counters are exact, every answer is explained by some write, nothing comes
//! back, nothing hangs. Method: few keys and small limits, so that evictions, promotions and
//! replacements meet all the time; every value names its write; afterwards the history is checked
//! (see `history.rs`), and once more after the cache was opened again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::{
    ByteCache, ByteEntry, InsertOptions, ManualClock, Tier, Timestamp, WhenFull, WritePolicy,
};

use super::script::mixed;
use super::{Budget, Figures, Progress, Violation, scratch, words};
use crate::history::{Event, Memory, Ticks, What, WriteId, check};
use crate::support::{Rng, Watchdog};

/// Threads, and how long they work on one cache.
const THREADS: u64 = 16;
const CASE_MS: u64 = 500;
pub(crate) const KEYS: u8 = 40;
const KEY_BYTES: u64 = 2;
/// Where the clock of caches with a time-to-live begins, in seconds.
const START_SECS: u64 = 1_000_000;

pub(crate) fn key(n: u8) -> [u8; 2] {
    [b'k', n]
}

/// A value that names its key and its write, of 9 to 72 bytes.
fn value(n: u8, id: WriteId, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![n];
    bytes.extend(id.to_le_bytes());
    bytes.resize(9 + rng.index(64), n);
    bytes
}

/// The write that a value names; it must be one of this key.
fn write_of(n: u8, bytes: &[u8]) -> WriteId {
    assert_eq!((bytes[0], bytes.iter().skip(9).all(|b| *b == n)), (n, true), "another key's value");
    WriteId::from_le_bytes(bytes[1..9].try_into().unwrap())
}

/// One configuration and what it promises.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) policy: Option<WritePolicy>,
    /// Entries and bytes.
    pub(crate) memory: [Option<u64>; 2],
    pub(crate) disk: [Option<u64>; 2],
    pub(crate) shards: usize,
    pub(crate) max_memory_entry_bytes: Option<u64>,
    /// Of memory, of the disk, idle; in milliseconds.
    pub(crate) ttls: Option<[u64; 3]>,
    /// Whether entries may be lost by a limit or by time, and by being reopened.
    pub(crate) forgets: Memory,
    pub(crate) forgets_reopened: Memory,
    pub(crate) mix: Mix,
}

/// Which operations the threads choose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    Everything,
    /// Batches and clears, and what rests on the value that is there.
    Batches,
}

pub(crate) const IN_MEMORY: Case = Case {
    name: "memory only",
    policy: None,
    memory: [Some(12), Some(600)],
    disk: [None, None],
    shards: 4,
    max_memory_entry_bytes: None,
    ttls: None,
    forgets: Memory::Forgets,
    forgets_reopened: Memory::Forgets,
    mix: Mix::Everything,
};

pub(crate) fn behind(
    max_delay_ms: u64,
    max_pending_ops: usize,
    when_full: WhenFull,
) -> WritePolicy {
    WritePolicy::Behind {
        max_delay: Duration::from_millis(max_delay_ms),
        max_pending_ops,
        max_pending_bytes: 1 << 20,
        when_full,
    }
}

pub(crate) fn on_disk(name: &'static str, policy: WritePolicy) -> Case {
    Case { name, policy: Some(policy), memory: [Some(6), Some(400)], ..IN_MEMORY }
}

impl Case {
    fn open(&self, folder: &Path, clock: &ManualClock) -> ByteCache {
        let mut builder = ByteCache::builder().shards(self.shards);
        if let Some(policy) = self.policy {
            builder = builder.path(folder.join("cache.larder")).write_policy(policy);
            // So that rows are read past redb.
            builder = builder.disk_cache_bytes(1 << 12);
        }
        let [entries, bytes] = self.memory;
        builder = entries.into_iter().fold(builder, larder::Builder::memory_max_entries);
        builder = bytes.into_iter().fold(builder, larder::Builder::memory_max_bytes);
        let [entries, bytes] = self.disk;
        builder = entries.into_iter().fold(builder, larder::Builder::disk_max_entries);
        builder = bytes.into_iter().fold(builder, larder::Builder::disk_max_bytes);
        if let Some(max) = self.max_memory_entry_bytes {
            builder = builder.max_memory_entry_bytes(max);
        }
        if let Some(ttls) = self.ttls {
            let [memory, disk, idle] = ttls.map(Duration::from_millis);
            builder = builder.memory_time_to_live(memory).time_to_idle(idle).clock(clock.clone());
            if self.policy.is_some() {
                builder = builder.disk_time_to_live(disk);
            }
        }
        builder.open().unwrap()
    }
}

/// What one thread did.
#[derive(Debug, Default)]
struct Done {
    events: Vec<Event>,
    gets: u64,
    inserts: u64,
    removes: u64,
}

impl Done {
    fn add(&mut self, other: Self) {
        self.events.extend(other.events);
        self.gets += other.gets;
        self.inserts += other.inserts;
        self.removes += other.removes;
    }
}

/// One thread at work.
struct Worker<'a> {
    case: &'a Case,
    cache: ByteCache,
    ticks: &'a Ticks,
    clock: &'a ManualClock,
    rng: Rng,
    thread: u64,
    time: Duration,
    writes: u64,
    done: Done,
}

impl Worker<'_> {
    fn run(mut self) -> Done {
        let end = Timestamp::now() + self.time;
        while Timestamp::now() < end {
            match self.case.mix {
                Mix::Everything => self.step(),
                Mix::Batches => self.step_of_batches(),
            }
        }
        self.done
    }

    fn write(&mut self) -> WriteId {
        self.writes += 1;
        self.thread << 32 | self.writes
    }

    /// Does `operation` to `keys` and records for each what `told` makes of the answer.
    fn record<R>(
        &mut self,
        keys: &[u8],
        operation: impl FnOnce(&ByteCache) -> larder::Result<R>,
        told: impl Fn(usize, &R) -> Vec<What>,
    ) -> R {
        let start = self.ticks.next();
        let answer = operation(&self.cache).unwrap();
        let end = self.ticks.next();
        for (i, key) in keys.iter().enumerate() {
            let events = told(i, &answer).into_iter();
            self.done.events.extend(events.map(|what| Event { key: *key, start, end, what }));
        }
        answer
    }

    /// A time near the clock's, or long ago: any order must do.
    fn stamp(&mut self) -> Timestamp {
        match self.case.ttls {
            Some(_) => {
                let now = self.clock.now().as_nanos();
                Timestamp::from_nanos(now - self.rng.below(30) * 1_000_000)
            }
            None => Timestamp::from_nanos(self.rng.below(50)),
        }
    }

    fn some_keys(&mut self) -> Vec<u8> {
        let most = if self.case.mix == Mix::Batches { KEYS.into() } else { 4 };
        let mut keys: Vec<u8> = (0..=self.rng.below(most)).map(|_| self.rng.key(KEYS)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn step(&mut self) {
        let n = self.rng.key(KEYS);
        match self.rng.below(1000) {
            0..250 => self.insert(n),
            250..500 => self.get(n),
            500..620 => self.read_otherwise(n),
            620..760 => self.remove(n),
            760..840 => self.insert_many(),
            840..900 => self.remove_many(),
            900..950 => self.insert_if_absent(n),
            950..980 => self.touch(n),
            980..983 => self.clear(),
            983..987 => self.remove_prefix(),
            987..993 => self.change_limits(),
            993..996 => self.cache.flush().unwrap(),
            996..998 => drop(self.cache.purge_expired().unwrap()),
            _ => self.walk(),
        }
    }

    fn step_of_batches(&mut self) {
        let n = self.rng.key(KEYS);
        match self.rng.below(100) {
            0..30 => self.insert_many(),
            30..45 => self.remove_many(),
            45..60 => self.touch(n),
            60..70 => self.insert_if_absent(n),
            70..78 => self.remove(n),
            78..83 => self.insert(n),
            83..86 => self.clear(),
            _ => self.get(n),
        }
    }

    fn insert(&mut self, n: u8) {
        let id = self.write();
        let bytes = value(n, id, &mut self.rng);
        let at = if self.rng.below(3) == 0 { Some(self.stamp()) } else { None };
        let mut options = InsertOptions::default();
        if let (Some(_), 0) = (self.case.ttls, self.rng.below(3)) {
            options = options.ttl(Duration::from_millis(20));
        }
        let insert = |cache: &ByteCache| match at {
            None => cache.insert_with(&key(n), &bytes, &options),
            Some(at) => cache.insert_with(&key(n), &bytes, &options.timestamp(at)),
        };
        self.record(&[n], insert, |_, ()| vec![What::Put(id)]);
        self.done.inserts += 1;
    }

    fn get(&mut self, n: u8) {
        let at = (self.rng.below(3) == 0).then(|| self.stamp());
        let get = |cache: &ByteCache| match at {
            None => cache.get(&key(n)),
            Some(at) => cache.get_at(&key(n), at),
        };
        self.record(&[n], get, |_, found| vec![saw(n, found.as_ref())]);
        self.done.gets += 1;
    }

    fn read_otherwise(&mut self, n: u8) {
        match self.rng.below(5) {
            0 => {
                let peek = |cache: &ByteCache| cache.peek(&key(n));
                self.record(&[n], peek, |_, found| vec![saw(n, found.as_ref())]);
            }
            1 => {
                let contains = |cache: &ByteCache| cache.contains_key(&key(n));
                self.record(&[n], contains, |_, there| vec![there_or_not(*there)]);
            }
            2 => {
                let mut buf = Vec::new();
                let get = |cache: &ByteCache| {
                    let there = cache.get_into(&key(n), &mut buf)?;
                    Ok(there.then_some(buf))
                };
                let told = |_, buf: &Option<Vec<u8>>| vec![saw_bytes(n, buf.as_deref())];
                self.record(&[n], get, told);
                self.done.gets += 1;
            }
            3 => {
                let view = |cache: &ByteCache| cache.view(&key(n), <[u8]>::to_vec);
                let told = |_, seen: &Option<Vec<u8>>| vec![saw_bytes(n, seen.as_deref())];
                self.record(&[n], view, told);
                self.done.gets += 1;
            }
            _ => {
                let keys = self.some_keys();
                let get = |cache: &ByteCache| {
                    let encoded: Vec<_> = keys.iter().map(|n| key(*n)).collect();
                    cache.get_many(encoded.iter().map(<[u8; 2]>::as_slice))
                };
                let told = |i: usize, found: &Vec<Option<ByteEntry>>| {
                    vec![saw(keys[i], found[i].as_ref())]
                };
                self.record(&keys, get, told);
                self.done.gets += keys.len() as u64;
            }
        }
    }

    fn remove(&mut self, n: u8) {
        self.done.removes += 1;
        if self.rng.below(2) == 0 {
            let remove = |cache: &ByteCache| cache.remove(&key(n));
            self.record(&[n], remove, |_, found| vec![saw(n, found.as_ref()), What::Gone]);
        } else {
            let invalidate = |cache: &ByteCache| cache.invalidate(&key(n));
            self.record(&[n], invalidate, |_, there| vec![there_or_not(*there), What::Gone]);
        }
    }

    fn insert_many(&mut self) {
        let keys = self.some_keys();
        let items: Vec<_> = keys
            .iter()
            .map(|n| {
                let id = self.write();
                (key(*n), id, value(*n, id, &mut self.rng))
            })
            .collect();
        let insert = |cache: &ByteCache| {
            cache.insert_many(items.iter().map(|(key, _, value)| (&key[..], &value[..])))
        };
        self.record(&keys, insert, |i, ()| vec![What::Put(items[i].1)]);
        self.done.inserts += keys.len() as u64;
    }

    fn remove_many(&mut self) {
        let keys = self.some_keys();
        let remove = |cache: &ByteCache| {
            let encoded: Vec<_> = keys.iter().map(|n| key(*n)).collect();
            cache.remove_many(encoded.iter().map(<[u8; 2]>::as_slice))
        };
        self.record(&keys, remove, |_, _| vec![What::Gone]);
        self.done.removes += keys.len() as u64;
    }

    fn insert_if_absent(&mut self, n: u8) {
        let id = self.write();
        let bytes = value(n, id, &mut self.rng);
        let insert = |cache: &ByteCache| cache.insert_if_absent(&key(n), &bytes);
        let told = |_, done: &bool| match done {
            true => vec![What::SawNothing, What::Put(id)],
            false => vec![What::SawSome],
        };
        self.done.inserts += u64::from(self.record(&[n], insert, told));
    }

    fn touch(&mut self, n: u8) {
        let ttl = (self.rng.below(2) == 0).then_some(Duration::from_secs(3600));
        let touch = |cache: &ByteCache| cache.touch(&key(n), ttl);
        self.record(&[n], touch, |_, there| vec![there_or_not(*there)]);
    }

    fn clear(&mut self) {
        let all: Vec<u8> = (0..KEYS).collect();
        self.record(&all, ByteCache::clear, |_, _| vec![What::Gone]);
    }

    /// A prefix that is one whole key.
    fn remove_prefix(&mut self) {
        let n = self.rng.key(KEYS);
        let remove = |cache: &ByteCache| cache.invalidate_prefix(&key(n));
        // What comes meanwhile may stay, so only what was told to be there says that it is gone.
        let told =
            |_, count: &u64| if *count == 1 { vec![What::SawSome, What::Gone] } else { vec![] };
        self.record(&[n], remove, told);
    }

    /// To something up to the limits of the case.
    fn change_limits(&mut self) {
        let rng = &mut self.rng;
        let mut below = |limit: Option<u64>, least: u64| {
            limit.map(|l| least.min(l).max(l - rng.below(l / 2 + 1)))
        };

        let (entries, bytes) = (below(self.case.memory[0], 1), below(self.case.memory[1], 80));
        let disk = (below(self.case.disk[0], 1), below(self.case.disk[1], 80));
        self.cache.set_memory_limits(entries, bytes).unwrap();
        if self.case.disk != [None, None] {
            self.cache.set_disk_limits(disk.0, disk.1).unwrap();
        }
    }

    /// In key order, each once, every value its key's own.
    fn walk(&mut self) {
        let entries: Vec<ByteEntry> = self.cache.iter().map(Result::unwrap).collect();
        for entry in &entries {
            write_of(entry.key()[1], entry);
        }
        if self.case.policy.is_some() {
            assert!(entries.is_sorted_by(|a, b| a.key() < b.key()), "a walk out of order");
        }
    }
}

fn there_or_not(there: bool) -> What {
    if there { What::SawSome } else { What::SawNothing }
}

fn saw(n: u8, found: Option<&ByteEntry>) -> What {
    saw_bytes(n, found.map(|entry| &**entry))
}

fn saw_bytes(n: u8, found: Option<&[u8]>) -> What {
    found.map_or(What::SawNothing, |bytes| What::Saw(write_of(n, bytes)))
}

/// Looks at sums and limits while the others work; moves the clock.
fn watch(case: &Case, cache: &ByteCache, clock: &ManualClock, stop: &AtomicBool) -> u64 {
    let mut looks = 0;
    let within = |held: u64, limit: Option<u64>| limit.is_none_or(|limit| held <= limit);
    while !stop.load(Ordering::Acquire) {
        let sums = [cache.memory_len(), cache.memory_bytes(), cache.disk_len(), cache.disk_bytes()];
        let limits = [case.memory[0], case.memory[1], case.disk[0], case.disk[1]];
        for (held, limit) in sums.into_iter().zip(limits) {
            assert!(within(held, limit), "{}: {sums:?} with limits {limits:?}", case.name);
        }
        let stats = cache.stats();
        assert!(within(stats.memory_entries, case.memory[0]) && stats.hit_ratio() <= 1.0);
        assert!(within(cache.len(), Some(KEYS.into())), "{}: more entries than keys", case.name);
        if case.ttls.is_some() {
            clock.advance(Duration::from_millis(1));
        }
        looks += 1;
        std::thread::yield_now();
    }
    looks
}

/// Has so many threads work on a cache of this case; gives the number of events. Panics where a promise
/// is not kept.
pub(crate) fn run_case(case: &Case, seed: u64, threads: u64, time: Duration) -> u64 {
    let watchdog = Watchdog::start(format!("{}, seed {seed}", case.name));
    let folder = scratch().unwrap();
    let clock = ManualClock::new(Timestamp::from_secs(START_SECS));
    let cache = case.open(folder.path(), &clock);
    let (ticks, stop) = (Ticks::default(), AtomicBool::new(false));
    let mut done = Done::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (case, ticks, clock) = (case, &ticks, &clock);
                let rng = Rng::new(seed ^ thread << 56);
                let cache = cache.clone();
                let done = Done::default();
                let writes = 0;
                let worker = Worker { case, cache, ticks, clock, rng, thread, time, writes, done };
                scope.spawn(move || worker.run())
            })
            .collect();
        let watcher = scope.spawn(|| watch(case, &cache, &clock, &stop));
        let finished: Vec<_> =
            workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Release);
        for finished in finished {
            done.add(finished.unwrap());
        }
        assert!(watcher.join().unwrap() > 0);
    });
    at_rest(case, &cache, &done);
    final_reads(&cache, &ticks, &mut done);
    check(&done.events, case.forgets).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    if case.policy.is_some() {
        cache.close().unwrap();
        let cache = case.open(folder.path(), &clock);
        final_reads(&cache, &ticks, &mut done);
        check(&done.events, case.forgets_reopened)
            .unwrap_or_else(|e| panic!("{}, reopened: {e}", case.name));
        at_rest_sums(case, &cache);
    }
    drop(watchdog);
    done.events.len() as u64
}

/// Every key's value at the end, as part of the history.
fn final_reads(cache: &ByteCache, ticks: &Ticks, done: &mut Done) {
    for n in 0..KEYS {
        let start = ticks.next();
        let found = cache.peek(&key(n)).unwrap();
        let end = ticks.next();
        done.events.push(Event { key: n, start, end, what: saw(n, found.as_ref()) });
    }
}

/// Counters are those of what was done, sums those of what is there.
fn at_rest(case: &Case, cache: &ByteCache, done: &Done) {
    let name = case.name;
    let stats = cache.stats();
    assert_eq!(stats.gets, done.gets, "{name}: gets");
    assert_eq!(stats.gets, stats.memory_hits + stats.disk_hits + stats.misses, "{name}");
    assert_eq!(stats.inserts, done.inserts, "{name}: inserts");
    assert_eq!(stats.removes, done.removes, "{name}: removes");
    assert_eq!((stats.corrupt, stats.disk_errors, stats.rejected), (0, 0, 0), "{name}");
    at_rest_sums(case, cache);
    let stats = cache.stats();
    assert_eq!((stats.pending_ops, stats.pending_bytes), (0, 0), "{name}: after a flush");
}

fn at_rest_sums(case: &Case, cache: &ByteCache) {
    let name = case.name;
    cache.purge_expired().unwrap();
    cache.flush().unwrap();
    assert_eq!(cache.validate(), Ok(()), "{name}");
    let there: Vec<ByteEntry> = (0..KEYS).filter_map(|n| cache.peek(&key(n)).unwrap()).collect();
    let count = there.len() as u64;
    let bytes = |tier: Option<Tier>| -> (u64, u64) {
        let entries = there.iter().filter(|e| tier.is_none_or(|tier| e.tier() == tier));
        entries.fold((0, 0), |(n, sum), e| (n + 1, sum + KEY_BYTES + e.len() as u64))
    };
    let walked: Vec<Vec<u8>> = cache.keys().map(Result::unwrap).collect();
    assert_eq!((walked.len() as u64, cache.len()), (count, count), "{name}: walk and len");
    let held = (cache.memory_len(), cache.memory_bytes());
    assert_eq!(held, bytes(Some(Tier::Memory)), "{name}: memory and its recount");
    if case.policy.is_some() && case.forgets_reopened == case.forgets {
        let held = (cache.disk_len(), cache.disk_bytes());
        assert_eq!(held, bytes(None), "{name}: the disk and everything that is there");
    }
}

/// One configuration after the other until the budget is used up.
pub(crate) fn run(seed: u64, budget: Budget, progress: Progress<'_>) -> Result<Figures, Violation> {
    let mut figures = Figures::default();
    for cycle in budget.start() {
        let mut rng = mixed(seed, cycle, 5);
        let case = Case::any(&mut rng);
        let time = Duration::from_millis(CASE_MS / 2 + rng.below(CASE_MS));
        let ran = catch_unwind(AssertUnwindSafe(|| run_case(&case, rng.next(), THREADS, time)));
        let violation = |what| Violation { seed, cycle, what };
        let events =
            ran.map_err(|panic| violation(format!("{}: {}", case.name, words(&*panic))))?;
        figures.add("events", events);
        figures.add("cycles", 1);
        progress(&figures);
    }
    Ok(figures)
}

impl Case {
    /// Limits, times and policies at random.
    fn any(rng: &mut Rng) -> Self {
        let ttls = (rng.below(3) == 0).then_some([30, 60, 50]);
        let mix = if rng.below(4) == 0 { Mix::Batches } else { Mix::Everything };
        let mut some = |limit: u64| (rng.below(3) > 0).then_some(limit);
        let (memory, disk) = ([some(6), some(500)], [some(20), some(1_000)]);
        let shards = [1, 4, 64][rng.index(3)];
        let limited = |limits: [Option<u64>; 2]| limits != [None, None];
        let forgets = |may| if may { Memory::Forgets } else { Memory::Keeps };
        if rng.below(4) == 0 {
            let ttls = ttls.map(|[memory, _, idle]| [memory, 0, idle]);
            let forgets = forgets(limited(memory) || ttls.is_some());
            return Self { name: "memory", memory, shards, ttls, forgets, mix, ..IN_MEMORY };
        }
        let pending_max = [8, 64, 1 << 16][rng.index(3)];
        let policy = match rng.below(3) {
            0 => WritePolicy::Through,
            _ => behind(1 + rng.below(5), pending_max, WhenFull::default()),
        };
        let forgets = forgets(limited(disk) || ttls.is_some());
        let case = on_disk("two tiers", policy);
        Self { memory, disk, shards, ttls, mix, forgets, forgets_reopened: forgets, ..case }
    }
}
