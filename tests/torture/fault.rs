//! The device errs: one workload for each call that it makes below, with an error at that call; then
//! the device is well again, and nothing may be lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use larder::{ByteCache, DiskStrategy, Timestamp, WritePolicy};

use super::oracle::{Commits, Content, Found, Key, Limits, Log, NEVER, Op, Put, Stamps, examine};
use super::script::AT_FLUSH;
use super::sim::{Call, Fault, How, Sim};
use super::{Budget, Figures, Progress, Violation};
use crate::support::Rng;

const PATH: &str = "cache.larder";
const KEYS: u64 = 12;
/// By then a device that is well again must have been noticed.
const PATIENCE: Duration = Duration::from_secs(20);

const CALLS: [Call; 5] = [Call::Read, Call::Write, Call::Sync, Call::SetLen, Call::Names];
const HOWS: [How; 3] = [How::Io, How::Full, How::Short];

/// A fixed sequence of operations, and how the cache is opened for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Each write is a commit; the file is made, closed and opened again.
    Through,
    /// Commits at flushes only, and small ones.
    Behind,
    /// Limits on disk, so commits evict, and values that make the file grow and shrink.
    Limited,
}

const WORKLOADS: [Workload; 3] = [Workload::Limited, Workload::Through, Workload::Behind];

impl Workload {
    fn limits(self) -> Limits {
        let entries = (self == Self::Limited).then_some(KEYS / 2);
        Limits { entries, bytes: None }
    }

    /// What the oracle judges goes by recency: nothing is read, so `Fifo` evicts as `Lru` does.
    fn strategy(self) -> DiskStrategy {
        match self {
            Self::Limited => DiskStrategy::Fifo,
            Self::Through => DiskStrategy::Lru,
            Self::Behind => DiskStrategy::Size,
        }
    }

    fn open(self, sim: &Sim) -> larder::Result<ByteCache> {
        let policy = match self {
            Self::Through => WritePolicy::Through,
            Self::Behind | Self::Limited => AT_FLUSH,
        };
        let builder = ByteCache::builder()
            .path(PATH)
            .volume(Arc::new(sim.clone()))
            .memory_max_entries(3)
            .disk_cache_bytes(0)
            .shards(1)
            .disk_strategy(self.strategy())
            .write_policy(policy);
        match self.limits().entries {
            Some(entries) => builder.disk_max_entries(entries).open(),
            None => builder.open(),
        }
    }
}

fn key(number: u64) -> Key {
    format!("key {number}").into_bytes()
}

/// Calls again until it succeeds. After a few times the device is made well again.
fn insist<T>(
    sim: &Sim,
    what: &str,
    mut call: impl FnMut() -> larder::Result<T>,
) -> Result<T, String> {
    let start = Timestamp::now();
    for attempt in 1.. {
        if attempt > 3 {
            sim.set_fault(None);
        }
        match call() {
            Ok(done) => return Ok(done),
            Err(e) if Timestamp::now() > start + PATIENCE => {
                return Err(format!("{what} fails for ever: {e}"));
            }
            Err(e) if e.kind() != larder::ErrorKind::Io => {
                return Err(format!("{what} gives {:?}: {e}", e.kind()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Err(format!("{what} fails for ever"))
}

/// How many calls in a row fail. The last: until the device is made well again.
const COUNTS: [u64; 3] = [1, 2, u64::MAX];
/// One in so many faults that pause the writer is tried.
const PAUSING: usize = 10;

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// The first so many of the workloads.
    pub(crate) workloads: usize,
    pub(crate) operations: u64,
    /// The first so many of the numbers of calls in a row that fail.
    pub(crate) counts: usize,
}

/// An error from each call on, in each way, in each workload. A cycle is one of them; it ends when
/// all were tried, or over budget.
pub(crate) fn run(
    plan: Plan,
    seed: u64,
    budget: Budget,
    on: Progress<'_>,
) -> Result<Figures, Violation> {
    let Plan { operations, .. } = plan;
    let counts = &COUNTS[..plan.counts];
    let mut figures = Figures::default();
    let mut cycles = budget.start();
    for (workload, count) in
        WORKLOADS[..plan.workloads].iter().flat_map(|w| counts.iter().map(move |c| (*w, *c)))
    {
        let calm = run_with(workload, operations, seed, &Sim::default(), None);
        let calls = calm.map_err(|what| Violation { seed, cycle: 0, what })?;
        let kinds = CALLS.into_iter().zip(calls);
        let ways = kinds.flat_map(|kind| HOWS.map(|how| (kind.0, kind.1, how)));
        // A file that ends early again and again is a damaged one, and on a device that is full again
        // the oldest entries make room.
        let ways = ways.filter(|(call, _, how)| {
            count == 1 || (*call, *how) != (Call::Read, How::Short) && *how != How::Full
        });
        for (call, calls, how) in ways {
            for first in (0..calls).step_by(if count == 1 { 1 } else { PAUSING }) {
                let Some(cycle) = cycles.next() else { return Ok(figures) };
                let fault = Fault { call, how, first, count };
                let sim = Sim::default();
                sim.set_fault(Some(fault));
                run_with(workload, operations, seed, &sim, Some(call)).map_err(|what| {
                    let what = format!("{workload:?}, {operations} operations, {fault:?}: {what}");
                    Violation { seed, cycle, what }
                })?;
                figures.add("cycles", 1);
                figures.add("came up", u64::from(sim.has_failed()));
                on(&figures);
            }
        }
        figures.add("sweeps done", 1);
    }
    Ok(figures)
}

/// Runs a workload to its end, however often something fails, and compares what is there. Gives the
/// number of calls.
fn run_with(
    workload: Workload,
    operations: u64,
    seed: u64,
    sim: &Sim,
    fails: Option<Call>,
) -> Result<[u64; 5], String> {
    let mut rng = Rng::new(seed);
    let mut log = Log {
        before: Found::default(),
        ops: Vec::new(),
        limits: workload.limits(),
        commits: match workload {
            Workload::Through => Commits::EachOperation,
            // A read that fails has the writer open the file anew, and commit what there is.
            _ if fails == Some(Call::Read) => Commits::Anywhere,
            _ => Commits::AtFlush,
        },
        stamps: Stamps::Known,
    };
    // What a read may find: the value, or that there is none.
    let mut held: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
    let mut cache = insist(sim, "open", || workload.open(sim))?;
    for nth in 1..=operations {
        let key = key(rng.below(KEYS));
        let stamp = Timestamp::from_nanos(nth * 1_000);
        match rng.below(20) {
            0..9 => {
                let value = vec![nth.to_le_bytes()[0]; [10, 500, 6_000, 50_000][rng.index(4)]];
                insist(sim, "insert", || cache.insert_at(&key, &value, stamp))?;
                let (content, stamp) = (Content::of(&value), stamp.as_nanos());
                held.insert(key.clone(), value);
                log.ops.push(Op::Put(Put { key, content, stamp, deadline: NEVER }));
            }
            9..12 => {
                insist(sim, "invalidate", || cache.invalidate(&key))?;
                held.remove(&key);
                log.ops.push(Op::Remove(key));
            }
            12..15 => {
                insist(sim, "flush", || cache.flush())?;
                log.ops.push(Op::Flush);
            }
            16 => {
                // It may fail, and nothing is lost then.
                let _ = cache.compact();
            }
            15 => {
                // A close that fails has closed; what was pending is pending no more, so first this.
                insist(sim, "flush", || cache.flush())?;
                log.ops.push(Op::Flush);
                let _ = cache.close();
                cache = insist(sim, "open", || workload.open(sim))?;
            }
            _ => {
                let got = insist(sim, "peek", || cache.peek(&key))?;
                let right = match (&got, held.get(&key)) {
                    (Some(entry), Some(value)) => entry[..] == value[..],
                    (Some(_), None) => false,
                    // While the disk fails, or evicted.
                    (None, _) => true,
                };
                if !right {
                    let len = got.map(|entry| entry.len());
                    return Err(format!("operation {nth} found a wrong value, of {len:?} bytes"));
                }
            }
        }
    }
    insist(sim, "flush", || cache.flush())?;
    log.ops.push(Op::Flush);
    if sim.has(&format!("{PATH}.damaged")) {
        return Err("the file was taken for damaged".to_owned());
    }
    let calls = CALLS.map(|call| sim.calls(call));
    sim.set_fault(None);
    everything_is_there(workload, sim, cache, &log)?;
    Ok(calls)
}

/// Now, and after opening again.
fn everything_is_there(
    workload: Workload,
    sim: &Sim,
    cache: ByteCache,
    log: &Log,
) -> Result<(), String> {
    let all = log.ops.len();
    cache.reset_stats();
    let found = examine(&cache, log.limits)?;
    log.explain(&found, all, all, 0)?;
    cache.close().map_err(|e| format!("close: {e}"))?;
    let cache = workload.open(sim).map_err(|e| format!("open after all: {e}"))?;
    let again = examine(&cache, log.limits)?;
    log.explain(&again, all, all, 0).map_err(|e| format!("after opening again: {e}"))?;
    Ok(())
}
