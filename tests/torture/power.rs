//! The power goes: a history is written on a volume that notes every change, and then opened as it
//! may be after a power cut at each sync and at moments in between.

use std::sync::Arc;
use std::time::Duration;

use larder::{ByteCache, DiskStrategy, InsertOptions, Timestamp, WhenFull, WritePolicy};

use super::oracle::{Commits, Content, Found, Key, Limits, Log, NEVER, Op, Put, Stamps, examine};
use super::script::any_strategy;
use super::sim::{Cutter, Sim};
use super::timeline::Timeline;
use super::{Budget, Figures, Progress, Violation};
use crate::support::Rng;

const PATH: &str = "cache.larder";
const KEYS: u64 = 24;
/// Images of one history.
const IMAGES: usize = 400;
/// One in so many images loses the power again while it is opened.
const CUT_AGAIN: u64 = 8;
const SECOND: u64 = 1_000_000_000;

fn key(number: u64) -> Key {
    // Of different lengths, in an order that is not that of the numbers.
    let digits = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
    let mut key: Key = (0..=number % 7).zip(digits).map(|(_, digit)| digit).collect();
    key.extend(number.to_string().bytes());
    key
}

/// How the cache of one history is opened.
#[derive(Debug, Clone, Copy)]
struct Setup {
    through: bool,
    max_delay: Duration,
    limits: Limits,
    memory: u64,
    strategy: DiskStrategy,
}

impl Setup {
    fn random(rng: &mut Rng) -> Self {
        let limits = match rng.below(6) {
            0 => Limits { entries: Some(1 + rng.below(12)), bytes: None },
            1 => Limits { entries: None, bytes: Some(50_000 + rng.below(50_000)) },
            _ => Limits::NONE,
        };
        Self {
            through: rng.below(3) == 0,
            max_delay: Duration::from_micros([200, 1_000, 5_000, 1_000_000][rng.index(4)]),
            limits,
            memory: rng.below(20),
            strategy: any_strategy(rng, limits),
        }
    }

    fn open(&self, sim: &Sim) -> larder::Result<ByteCache> {
        let policy = if self.through {
            WritePolicy::Through
        } else {
            WritePolicy::Behind {
                max_delay: self.max_delay,
                max_pending_ops: 1_000,
                max_pending_bytes: 8 << 20,
                when_full: WhenFull::default(),
            }
        };
        let cache = ByteCache::builder()
            .path(PATH)
            .volume(Arc::new(sim.clone()))
            .memory_max_entries(self.memory)
            .disk_cache_bytes(if self.memory.is_multiple_of(2) { 1 << 12 } else { 1 << 20 })
            .shards(2)
            .write_policy(policy)
            .disk_strategy(self.strategy)
            .open()?;
        cache.set_disk_limits(self.limits.entries, self.limits.bytes)?;
        Ok(cache)
    }
}

/// Writes a history.
struct Author<'r> {
    rng: &'r mut Rng,
    setup: Setup,
    stamp: u64,
    written: u64,
}

impl Author<'_> {
    /// Rising where entries are limited, or else anything near.
    fn stamp(&mut self) -> u64 {
        self.stamp += self.rng.below(3);
        if self.setup.limits != Limits::NONE {
            self.stamp += 1;
            return self.stamp;
        }
        match self.rng.below(20) {
            0 => u64::MAX - self.rng.below(2),
            1..4 => self.stamp.saturating_sub(self.rng.below(10 * SECOND)),
            4 => self.stamp + self.rng.below(SECOND),
            _ => self.stamp,
        }
    }

    fn value(&mut self) -> Vec<u8> {
        self.written += 1;
        let len = match self.rng.below(20) {
            0 => 20_000 + self.rng.index(20_000),
            1..4 => 2_000 + self.rng.index(3_000),
            4 => 0,
            _ => self.rng.index(300),
        };
        self.written.to_le_bytes().into_iter().cycle().take(len).collect()
    }

    fn keys(&mut self) -> Vec<Key> {
        let first = self.rng.below(KEYS);
        (first..KEYS).take(self.rng.index(7)).map(key).collect()
    }

    fn put(&mut self, key: Key, stamp: u64, deadline: u64) -> (Put, Vec<u8>) {
        let value = self.value();
        (Put { key, content: Content::of(&value), stamp, deadline }, value)
    }

    /// Does one operation; `None` if it is none that changes anything.
    fn act(&mut self, cache: &mut ByteCache, sim: &Sim) -> larder::Result<Op> {
        let any = self.rng.below(KEYS);
        let stamp = self.stamp();
        let at = Timestamp::from_nanos(stamp);
        let limited = self.setup.limits != Limits::NONE;
        Ok(match self.rng.below(if limited { 74 } else { 100 }) {
            0..40 => {
                let (put, value) = self.put(key(any), stamp, NEVER);
                cache.insert_at(&put.key, &value, at)?;
                Op::Put(put)
            }
            40..46 => {
                let keys = self.keys();
                let (puts, values): (Vec<Put>, Vec<Vec<u8>>) =
                    keys.into_iter().map(|key| self.put(key, stamp, NEVER)).unzip();
                let items = puts.iter().zip(&values).map(|(put, v)| (&put.key[..], &v[..]));
                cache.insert_many_at(items, at)?;
                Op::PutMany(puts)
            }
            46..52 => {
                cache.flush()?;
                Op::Flush
            }
            52..56 => {
                cache.clone().close()?;
                *cache = self.setup.open(sim)?;
                Op::Flush
            }
            56..62 => {
                cache.invalidate(&key(any))?;
                Op::Remove(key(any))
            }
            62..68 => {
                let keys = self.keys();
                cache.remove_many(keys.iter().map(Vec::as_slice))?;
                Op::RemoveMany(keys)
            }
            68..70 => {
                cache.clear()?;
                Op::Clear
            }
            // A compaction changes nothing that can be seen.
            70..72 => {
                cache.compact()?;
                Op::PutMany(Vec::new())
            }
            72..74 => {
                std::thread::sleep(Duration::from_millis(self.rng.below(3)));
                Op::PutMany(Vec::new())
            }
            74..86 => {
                let ttl = Duration::from_secs(3_600 + self.rng.below(1_000));
                let (put, value) =
                    self.put(key(any), self.stamp, (at_nanos(self.stamp) + ttl).as_nanos());
                let options = InsertOptions::default().timestamp(at_nanos(self.stamp)).ttl(ttl);
                cache.insert_with(&put.key, &value, &options)?;
                Op::Put(put)
            }
            // At a time that expires nothing.
            _ => match cache.get_at(&key(any), at_nanos(self.stamp))? {
                Some(_) => Op::Touch(key(any), self.stamp),
                None => Op::PutMany(Vec::new()),
            },
        })
    }
}

fn at_nanos(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn write(sim: &Sim, setup: Setup, rng: &mut Rng) -> larder::Result<Timeline> {
    let log = Log {
        before: Found::default(),
        ops: Vec::new(),
        limits: setup.limits,
        commits: Commits::Anywhere,
        stamps: Stamps::Known,
    };
    let mut timeline = Timeline::new(log);
    let mut cache = setup.open(sim)?;
    let stamp = Timestamp::now().as_nanos();
    let count = 20 + rng.index(60);
    let mut author = Author { rng, setup, stamp, written: 0 };
    for _ in 0..count {
        timeline.begin(sim);
        let op = author.act(&mut cache, sim)?;
        let durable =
            setup.through && !matches!(op, Op::Touch(..)) || matches!(op, Op::Flush | Op::Clear);
        timeline.end(sim, op, durable);
    }
    if author.rng.below(2) == 0 {
        timeline.begin(sim);
        cache.close()?;
        timeline.end(sim, Op::Flush, true);
    }
    Ok(timeline)
}

fn open(setup: Setup, image: &Sim) -> Result<(ByteCache, Found), String> {
    let cache = setup.open(image).map_err(|e| format!("cannot be opened: {e}"))?;
    if image.has(&format!("{PATH}.damaged")) {
        return Err("the file was taken for damaged".to_owned());
    }
    let found = examine(&cache, setup.limits)?;
    Ok((cache, found))
}

/// A cache that was opened after a cut works as any other.
fn go_on(cache: &ByteCache) -> larder::Result<()> {
    cache.insert(b"one more", b"entry")?;
    cache.flush()?;
    cache.invalidate(b"one more")?;
    cache.clone().close()
}

/// A cycle is a history, and [`IMAGES`] of what may become of it.
pub(crate) fn run(seed: u64, budget: Budget, on: Progress<'_>) -> Result<Figures, Violation> {
    let mut figures = Figures::default();
    for cycle in budget.start() {
        // The seed that is told gives this history first.
        let seed = seed.wrapping_add(cycle);
        cut(seed, &mut figures).map_err(|what| Violation { seed, cycle, what })?;
        figures.add("cycles", 1);
        on(&figures);
    }
    Ok(figures)
}

/// One history, and what may become of it.
fn cut(seed: u64, figures: &mut Figures) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let setup = Setup::random(&mut rng);
    let sim = Sim::default();
    let before = sim.copy();
    let timeline = write(&sim, setup, &mut rng).map_err(|e| format!("writing failed: {e}"))?;
    figures.add("operations", timeline.log.ops.len() as u64);
    let mut cutter = Cutter::new(&before, &sim);
    let (events, edges) = (cutter.events(), sim.sync_edges());
    let mut moments: Vec<u64> = (0..IMAGES)
        .map(|nth| match nth % 2 {
            0 => edges[rng.index(edges.len())],
            _ => rng.below(events + 1),
        })
        .collect();
    moments.sort_unstable();
    for moment in moments {
        let wrong = |what| format!("{setup:?}, cut at event {moment} of {events}: {what}");
        let image = cutter.image(moment, &mut rng);
        let first = image.copy();
        figures.add("images", 1);
        let (cache, found) = open(setup, &image).map_err(wrong)?;
        let (least, most) = timeline.range(moment);
        let there = timeline.log.explain(&found, least, most, 0).map_err(wrong)?;
        figures.add("lost, none of them durable", (most - there) as u64);
        if rng.below(CUT_AGAIN) != 0 {
            go_on(&cache).map_err(|e| wrong(format!("it does not go on: {e}")))?;
            continue;
        }
        drop(cache);
        figures.add("cut again", 1);
        let mut again = Cutter::new(&first, &image);
        let image = again.image(rng.below(again.events() + 1), &mut rng);
        if open(setup, &image).map_err(wrong)?.1 != found {
            return Err(wrong("after a second cut there is something else".to_owned()));
        }
    }
    Ok(())
}
