//! Operations made from a seed: done to a cache by one process, told to the oracle by another.
//!
//! The same seed, cycle and thread give the same steps, whatever the cache answers. Steps do not
//! depend on what the file holds when they begin.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use larder::{
    Builder, ByteCache, DamagePolicy, DiskStrategy, InsertOptions, ManualClock, Timestamp,
    WhenFull, WritePolicy,
};

use super::oracle::{Commits, Content, Key, Limits, NEVER, Op, Put};
use crate::support::Rng;

/// The time at which the first cycle begins, and how long each one is on its clock.
const START_NANOS: u64 = 1_000_000_000_000_000;
const CYCLE_NANOS: u64 = 1_000_000_000;
/// The clock's time between two steps.
const STEP_NANOS: u64 = 1_000;
/// The keys of each thread.
const KEYS: u64 = 150;
const LARGE_BYTES: u64 = 100 << 10;

/// No commits but those that are asked for.
pub(crate) const AT_FLUSH: WritePolicy = WritePolicy::Behind {
    max_delay: Duration::from_secs(3_600),
    max_pending_ops: 1 << 20,
    max_pending_bytes: 64 << 20,
    when_full: WhenFull::Block(Duration::from_secs(30)),
};

/// What a cache file is used for as long as it lives, because it decides what the oracle must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Everything but limits; written behind, or through.
    Unlimited,
    /// Everything but short lives, within limits, written through.
    Through,
    /// Likewise, written behind with no commits but those that are asked for.
    AtFlush,
    /// Within limits, written behind; stamps rise and nothing is read.
    Rising,
    /// Four threads, each with its own keys, without limits.
    Threads,
}

/// Any of them where nothing is evicted. With limits stamps rise, and nothing is read: then `Fifo` evicts
/// as `Lru` does.
pub(super) fn any_strategy(rng: &mut Rng, limits: Limits) -> DiskStrategy {
    use DiskStrategy::{Fifo, Lru, Size, Ttl};
    let count = if limits == Limits::NONE { 4 } else { 2 };
    [Lru, Fifo, Ttl, Size][rng.index(count)]
}

/// How the cache is opened for one cycle.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) limits: Limits,
    pub(crate) threads: u8,
    memory: Limits,
    policy: WritePolicy,
    pub(crate) strategy: DiskStrategy,
    shards: usize,
    /// When the cycle begins on its clock.
    start: u64,
}

impl Plan {
    /// For a cycle on a file that was new in cycle `life`.
    pub(crate) fn new(seed: u64, life: u64, cycle: u64) -> Self {
        let kinds = [Kind::Unlimited, Kind::Through, Kind::AtFlush, Kind::Rising, Kind::Threads];
        let kind = kinds[mixed(seed, life, 0).index(kinds.len())];
        let mut rng = mixed(seed, cycle, 1);
        let mut some =
            |least: u64, most: u64| (rng.below(3) > 0).then(|| least + rng.below(most - least));
        let limits = match kind {
            Kind::Unlimited | Kind::Threads => Limits::NONE,
            // All that a step can put in fits.
            _ => Limits { entries: some(1, 100), bytes: some(12_000, 60_000) },
        };
        let memory = Limits { entries: some(0, 60), bytes: some(0, 40_000) };
        let delay = Duration::from_micros([0, 200, 1_000, 5_000][rng.index(4)]);
        let behind = |max_delay, max_pending_ops| WritePolicy::Behind {
            max_delay,
            max_pending_ops,
            max_pending_bytes: 16 << 20,
            when_full: WhenFull::default(),
        };
        let pending_max = [4, 64, 1 << 16][rng.index(3)];
        let policy = match kind {
            Kind::Through => WritePolicy::Through,
            Kind::AtFlush => AT_FLUSH,
            Kind::Unlimited | Kind::Threads if rng.below(4) == 0 => WritePolicy::Through,
            Kind::Unlimited | Kind::Threads | Kind::Rising => behind(delay, pending_max),
        };
        let threads = if kind == Kind::Threads { 4 } else { 1 };
        let shards = [1, 2, 16][rng.index(3)];
        let start = START_NANOS + cycle * CYCLE_NANOS;
        let strategy = match kind {
            Kind::Unlimited | Kind::Threads | Kind::Rising => any_strategy(&mut rng, limits),
            // What they evict is told by recency.
            Kind::Through | Kind::AtFlush => DiskStrategy::Lru,
        };
        Self { kind, limits, threads, memory, policy, strategy, shards, start }
    }

    pub(crate) fn commits(&self) -> Commits {
        match (self.kind, self.policy) {
            (Kind::AtFlush, _) => Commits::AtFlush,
            (Kind::Threads, _) | (_, WritePolicy::Behind { .. }) => Commits::Anywhere,
            (_, WritePolicy::Through) => Commits::EachOperation,
        }
    }

    /// The end of the cycle on its clock.
    pub(crate) fn end(&self) -> u64 {
        self.start + CYCLE_NANOS - STEP_NANOS
    }

    pub(crate) fn builder(&self, path: &Path, clock: &ManualClock) -> Builder<ByteCache> {
        let mut builder = ByteCache::builder()
            .path(path)
            .write_policy(self.policy)
            .on_damage(DamagePolicy::Fail)
            .shards(self.shards)
            .disk_cache_bytes(if self.shards.is_multiple_of(2) { 1 << 12 } else { 1 << 20 })
            .disk_strategy(self.strategy)
            .clock(clock.clone());
        if self.kind == Kind::AtFlush {
            builder = builder.disk_slack(None);
        }
        builder = self.memory.entries.into_iter().fold(builder, Builder::memory_max_entries);
        builder = self.memory.bytes.into_iter().fold(builder, Builder::memory_max_bytes);
        builder = self.limits.entries.into_iter().fold(builder, Builder::disk_max_entries);
        self.limits.bytes.into_iter().fold(builder, Builder::disk_max_bytes)
    }

    pub(crate) fn clock(&self) -> ManualClock {
        ManualClock::new(Timestamp::from_nanos(self.start))
    }

    /// Whether a step is durable as soon as it has returned. A read never is, nor is the removal of
    /// what it finds to have expired.
    pub(crate) fn is_durable(&self, step: &Step) -> bool {
        match step.what {
            What::Flush | What::Clear => true,
            What::Get(_) => false,
            _ => self.policy == WritePolicy::Through,
        }
    }
}

/// Random numbers for one purpose in one cycle.
pub(crate) fn mixed(seed: u64, cycle: u64, purpose: u64) -> Rng {
    let seed = Rng::new(seed).next() ^ Rng::new(cycle).next();
    Rng::new(Rng::new(seed).next().wrapping_add(purpose))
}

/// What the keys of a thread begin with.
pub(crate) fn prefix(thread: u8) -> [u8; 2] {
    [b'a' + thread, b'-']
}

/// An entry to put in.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) key: Key,
    pub(crate) value: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Put(Item, Option<Duration>),
    PutMany(Vec<Item>),
    Remove(Key),
    Invalidate(Key),
    RemoveMany(Vec<Key>),
    Clear,
    Get(Key),
    Flush,
}

/// One operation, at a time of the clock, with a stamp of its own where it is given one.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) what: What,
    /// What the clock is set to first; with more than one thread it stands still.
    pub(crate) clock: Option<u64>,
    /// If there is none, it is that of the clock.
    pub(crate) stamp: Option<u64>,
}

impl Step {
    /// Does it. The error says what answer was wrong.
    pub(crate) fn perform(&self, cache: &ByteCache, clock: &ManualClock) -> Result<(), String> {
        if let Some(now) = self.clock {
            clock.set(Timestamp::from_nanos(now));
        }
        self.try_perform(cache).map_err(|error| format!("{:?}: {error}", self.op()))
    }

    pub(crate) fn try_perform(&self, cache: &ByteCache) -> larder::Result<()> {
        let at = self.stamp.map(Timestamp::from_nanos);
        match &self.what {
            What::Put(item, ttl) => {
                let options = InsertOptions::default();
                let options = at.into_iter().fold(options, InsertOptions::timestamp);
                let options = ttl.iter().fold(options, |options, ttl| options.ttl(*ttl));
                cache.insert_with(&item.key, &item.value, &options)
            }
            What::PutMany(items) => {
                let items = items.iter().map(|item| (&item.key[..], &item.value[..]));
                match at {
                    None => cache.insert_many(items),
                    Some(at) => cache.insert_many_at(items, at),
                }
            }
            What::Remove(key) => cache.remove(key).map(drop),
            What::Invalidate(key) => cache.invalidate(key).map(drop),
            What::RemoveMany(keys) => cache.remove_many(keys.iter().map(Vec::as_slice)).map(drop),
            What::Clear => cache.clear().map(drop),
            What::Get(key) => match at {
                None => cache.get(key).map(drop),
                Some(at) => cache.get_at(key, at).map(drop),
            },
            What::Flush => cache.flush(),
        }
    }

    /// What the oracle is told.
    pub(crate) fn op(&self) -> Op {
        let stamp = self.stamp.or(self.clock).unwrap_or(0);
        let put = |item: &Item, ttl: Option<Duration>| {
            let ttl = ttl.map_or(NEVER, |ttl| u64::try_from(ttl.as_nanos()).unwrap_or(NEVER));
            let content = Content::of(&item.value);
            Put { key: item.key.clone(), content, stamp, deadline: stamp.saturating_add(ttl) }
        };
        match &self.what {
            What::Put(item, ttl) => Op::Put(put(item, *ttl)),
            What::PutMany(items) => Op::PutMany(items.iter().map(|i| put(i, None)).collect()),
            What::Remove(key) | What::Invalidate(key) => Op::Remove(key.clone()),
            What::RemoveMany(keys) => Op::RemoveMany(keys.clone()),
            What::Clear => Op::Clear,
            What::Get(key) => Op::Touch(key.clone(), stamp),
            What::Flush => Op::Flush,
        }
    }

    /// Notes what a read must find from now on: the content and when it expires, or nothing.
    pub(crate) fn note(&self, latest: &mut BTreeMap<Key, Option<(Content, u64)>>) {
        match self.op() {
            Op::Put(put) => drop(latest.insert(put.key, Some((put.content, put.deadline)))),
            Op::PutMany(puts) => {
                latest.extend(puts.into_iter().map(|p| (p.key, Some((p.content, p.deadline)))));
            }
            Op::Remove(key) => drop(latest.insert(key, None)),
            Op::RemoveMany(keys) => latest.extend(keys.into_iter().map(|key| (key, None))),
            Op::Clear => latest.values_mut().for_each(|entry| *entry = None),
            Op::Touch(key, now) => {
                let expired = |entry: &mut Option<(Content, u64)>| {
                    *entry = entry.filter(|(_, deadline)| *deadline >= now);
                };
                latest.entry(key).and_modify(expired);
            }
            Op::Flush => {}
        }
    }
}

/// The steps of one thread, without end.
pub(crate) struct Script {
    plan: Plan,
    thread: u8,
    rng: Rng,
    done: u64,
}

impl Script {
    pub(crate) fn new(plan: &Plan, seed: u64, cycle: u64, thread: u8) -> Self {
        let rng = mixed(seed, cycle, 100 + u64::from(thread));
        Self { plan: plan.clone(), thread, rng, done: 0 }
    }

    fn key(&mut self) -> Key {
        let n = self.rng.below(KEYS).min(self.rng.below(KEYS));
        let mut key = prefix(self.thread).to_vec();
        key.extend(format!("{n:03}").bytes());
        // Some keys are long, and those of one thread always have the same length each.
        key.resize(key.len() + if n % 10 == 7 { 100 } else { 0 }, b'.');
        key
    }

    fn keys(&mut self) -> Vec<Key> {
        (0..=self.rng.below(8)).map(|_| self.key()).collect()
    }

    fn item(&mut self) -> Item {
        let key = self.key();
        let limited = self.plan.limits != Limits::NONE;
        let len = match self.rng.below(200) {
            0..140 => self.rng.below(100),
            140..190 => self.rng.below(1_000),
            190..199 => self.rng.below(if limited { 1_000 } else { 8_000 }),
            _ => self.rng.below(if limited { 1_000 } else { LARGE_BYTES }),
        };
        Item { key, value: self.value(len) }
    }

    fn value(&mut self, len: u64) -> Vec<u8> {
        let len = usize::try_from(len).unwrap_or(0);
        let mut value = Vec::with_capacity(len + 8);
        while value.len() < len {
            value.extend(self.rng.next().to_le_bytes());
        }
        value.truncate(len);
        value
    }

    /// A stamp other than the clock's: equal to others, older, in the future, or the last one.
    fn odd_stamp(&mut self, now: u64) -> u64 {
        match self.rng.below(8) {
            0 | 1 => START_NANOS,
            2..5 => now - self.rng.below(100) * STEP_NANOS,
            5 | 6 => now + self.rng.below(3) * CYCLE_NANOS,
            _ => u64::MAX,
        }
    }

    fn ttl(&mut self) -> Option<Duration> {
        if self.rng.below(4) > 0 {
            return None;
        }
        let short = self.plan.kind == Kind::Unlimited && self.rng.below(2) == 0;
        let steps = if short { 1 + self.rng.below(500) } else { 1 << 40 };
        Some(Duration::from_nanos(steps * STEP_NANOS))
    }
}

impl Iterator for Script {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        self.done += 1;
        let now = self.plan.start + self.done * STEP_NANOS;
        let rising = self.plan.kind == Kind::Rising;
        let flushes = if self.plan.kind == Kind::AtFlush { 200 } else { 20 };
        let what = match self.rng.below(1_000 + flushes) {
            0..500 => What::Put(self.item(), self.ttl()),
            500..580 => What::PutMany((0..=self.rng.below(8)).map(|_| self.item()).collect()),
            580..680 => What::Remove(self.key()),
            680..700 => What::Invalidate(self.key()),
            700..760 => What::RemoveMany(self.keys()),
            760..763 if self.plan.threads == 1 => What::Clear,
            760..1_000 if rising => What::Put(self.item(), self.ttl()),
            760..1_000 => What::Get(self.key()),
            _ => What::Flush,
        };
        let odd = !rising && self.rng.below(6) == 0;
        let stamp = if odd { Some(self.odd_stamp(now)) } else { None };
        if self.plan.threads == 1 {
            return Some(Step { what, clock: Some(now), stamp });
        }
        Some(Step { what, clock: None, stamp: stamp.or(Some(now)) })
    }
}
