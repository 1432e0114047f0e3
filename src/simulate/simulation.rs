//! A simulation: traces replayed through real caches, many at once.
//!
//! # How it works
//!
//! The trace is read once. Its keys are numbered as they come, and the requests of a while, as pairs of
//! number and size, are replayed through one cache after the other, so that each cache finds its own
//! entries in the processor's cache. What a cache holds is the number under the number: the keys
//! themselves are kept once. The ceilings are replayed at the end, from the list of all numbers.
//!
//! # Why not each request for all caches at once
//!
//! Dozens of caches then push each other out of the processor's cache: it took up to twice as long.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::belady::{Ceiling, Past};
use super::report::{Capacity, Report, Row, Tally};
use super::trace::{Readings, Trace, invalid};
use crate::bytes::ByteCache;
use crate::error::{Error, ErrorKind, Result};
use crate::strategy::Strategy;

/// Requests that one cache replays before it is the next one's turn.
const TURN: usize = 1 << 14;

/// Without capacities, caches hold this part of the keys and twice, four times ... as much, up to half.
const SMALLEST_PART: u64 = 256;

/// Which strategies to compare, and at which capacities.
///
/// A request is a hit if its key is held; otherwise its key is inserted. In bytes an entry counts the
/// size of its request, nothing more. A request whose size is above the capacity is a miss and nothing
/// goes in. A key that is asked for with another size is a hit, and counts the new size from then on, as
/// in other simulators; what no longer fits leaves.
///
/// The caches have no disk tier and no times to live, so [`Strategy::Ttl`] evicts as
/// [`Strategy::Lru`] does. In entries all entries are of one size, to [`Strategy::Size`] too. What a
/// strategy of your own sees as the key is a number of four bytes. A strategy that draws random numbers
/// may hit a little more or less often the next time.
///
/// # Examples
///
/// ```
/// use larder::simulate::{Simulation, Trace};
///
/// // Three keys in turn: the least recently used is always the one that is asked for next.
/// let trace = Trace::from_bytes("loop", "a\nb\nc\n".repeat(100));
/// let report = Simulation::new().entries([2, 3]).run(&trace, |_| {})?;
/// let hits = |strategy: &str| -> Vec<_> {
///     let rows = report.rows().iter().filter(|row| row.strategy == strategy);
///     rows.map(|row| (row.capacity.amount(), row.hits)).collect()
/// };
/// assert_eq!(hits("Lru"), [(2, 0), (3, 297)]);
/// assert_eq!(hits("Belady"), [(2, 149), (3, 297)]);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is replayed until `run` is called"]
pub struct Simulation {
    strategies: Vec<(String, Strategy)>,
    capacities: BTreeSet<Capacity>,
    ceilings: BTreeSet<Ceiling>,
}

impl Default for Simulation {
    fn default() -> Self {
        let ceilings = BTreeSet::from([Ceiling::Belady]);
        Self { strategies: Vec::new(), capacities: BTreeSet::new(), ceilings }
    }
}

/// How far a simulation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The trace is read to count its keys, since no capacities are given.
    Counting {
        /// Bytes of the file that are read.
        read_bytes: u64,
        /// Bytes of the file; 0 if unknown.
        len_bytes: u64,
    },
    /// The trace is read and replayed.
    Replaying {
        /// Bytes of the file that are read and replayed.
        read_bytes: u64,
        /// Bytes of the file; 0 if unknown.
        len_bytes: u64,
    },
    /// The ceilings are computed.
    Ceilings {
        /// How many are done.
        done: u64,
        /// How many there are.
        total: u64,
    },
}

impl Simulation {
    /// A simulation of [`Strategy::BUILT_IN`], unless some are named, below Belady's optimum.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replays with this strategy too, under its own name. Default: [`Strategy::BUILT_IN`].
    pub fn strategy(self, strategy: Strategy) -> Self {
        self.named(strategy.name(), strategy)
    }

    /// Replays with this strategy too, under a name of your own. The chart has one line for each name.
    pub fn named(mut self, name: impl Into<String>, strategy: Strategy) -> Self {
        self.strategies.push((name.into(), strategy));
        self
    }

    /// Replays with caches of so many entries too. Default: if no bytes are given either, eight
    /// capacities from 1/256 to 1/2 of the different keys of the trace, which is read twice then.
    pub fn entries(mut self, capacities: impl IntoIterator<Item = u64>) -> Self {
        self.capacities.extend(capacities.into_iter().map(Capacity::Entries));
        self
    }

    /// Replays with caches of so many bytes too. Every request needs a size then.
    pub fn bytes(mut self, capacities: impl IntoIterator<Item = u64>) -> Self {
        self.capacities.extend(capacities.into_iter().map(Capacity::Bytes));
        self
    }

    /// Compares with these instead. With any, 12 to 24 bytes of memory are taken for each request of the
    /// trace; without, only its different keys decide how much is taken. Default: [`Ceiling::Belady`].
    pub fn ceilings(mut self, ceilings: impl IntoIterator<Item = Ceiling>) -> Self {
        self.ceilings = ceilings.into_iter().collect();
        self
    }

    /// Replays a trace, and tells every now and then how far it is.
    ///
    /// # Errors
    ///
    /// `InvalidOption` for a capacity of 0, or none for a trace that is a pipe; `InvalidTrace` for a trace that is not as its format asks, is
    /// empty, or has no sizes where bytes are to be counted; `Io` if it cannot be read.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::simulate::{Progress, Simulation, Trace};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("pages.txt");
    /// std::fs::write(&path, "/ 700\n/about 300\n/ 700\n/ 700\n")?;
    /// let mut read = 0;
    /// let report = Simulation::new().bytes([1_000]).run(&Trace::open(&path)?, |progress| {
    ///     if let Progress::Replaying { read_bytes, len_bytes } = progress {
    ///         read = 100 * read_bytes / len_bytes;
    ///     }
    /// })?;
    /// assert_eq!(read, 100);
    /// assert_eq!((report.rows()[0].hits, report.rows()[0].hit_bytes), (2, 1_400));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run(&self, trace: &Trace, mut progress: impl FnMut(Progress)) -> Result<Report> {
        let mut numbers = Numbers::default();
        let mut capacities = self.capacities.clone();
        if capacities.is_empty() {
            count(trace, &mut numbers, &mut progress)?;
            let parts = (1..=SMALLEST_PART.ilog2()).map(|power| numbers.count() >> power);
            capacities.extend(parts.map(|entries| Capacity::Entries(entries.max(1))));
        }
        let mut caches = self.open_all(&capacities)?;
        let past = self.read(trace, &mut numbers, &mut caches, &mut progress)?;

        let future = past.future();
        let (mut done, total) = (0, (self.ceilings.len() * capacities.len()) as u64);
        let mut report = Report::default();
        let row = |strategy: &str, ceiling, capacity, tally: Tally| Row {
            trace: trace.name().to_owned(),
            keys: numbers.count(),
            strategy: strategy.to_owned(),
            ceiling,
            capacity,
            requests: tally.requests,
            hits: tally.hits,
            requested_bytes: tally.requested_bytes,
            hit_bytes: tally.hit_bytes,
        };
        for capacity in capacities {
            let caches = caches.iter().filter(|cache| cache.capacity == capacity);
            report.extend(caches.map(|cache| row(&cache.name, None, capacity, cache.tally)));
            for ceiling in &self.ceilings {
                progress(Progress::Ceilings { done, total });
                let tally = future.replay(*ceiling, capacity);
                report.extend([row(ceiling.name(capacity), Some(*ceiling), capacity, tally)]);
                done += 1;
            }
        }
        Ok(report)
    }

    fn open_all(&self, capacities: &BTreeSet<Capacity>) -> Result<Vec<Replay>> {
        let mut strategies = self.strategies.clone();
        if strategies.is_empty() {
            strategies
                .extend(Strategy::BUILT_IN.map(|strategy| (strategy.name().to_owned(), strategy)));
        }
        let mut caches = Vec::new();
        for capacity in capacities {
            for (name, strategy) in &strategies {
                caches.push(Replay::open(name, strategy, *capacity)?);
            }
        }
        Ok(caches)
    }

    /// Reads the trace and replays it through all caches. Gives what the ceilings need, if there are any.
    fn read(
        &self,
        trace: &Trace,
        numbers: &mut Numbers,
        caches: &mut [Replay],
        progress: &mut impl FnMut(Progress),
    ) -> Result<Past> {
        let in_bytes = caches.iter().any(|cache| matches!(cache.capacity, Capacity::Bytes(_)));
        let mut past = Past::default();
        let mut requests = trace.requests()?;
        let (mut turn, mut turns) = (Vec::with_capacity(TURN), 0_u64);
        loop {
            for request in requests.by_ref().take(TURN) {
                let request = request?;
                if in_bytes && request.size_bytes.is_none() {
                    return Err(without_size(trace, request.line));
                }
                let key = numbers.of(request.key)?;
                turn.push((key, request.size_bytes.unwrap_or(0)));
            }
            match (turn.is_empty(), turns) {
                (true, 0) => return Err(without_requests(trace)),
                (true, _) => return Ok(past),
                (false, _) => turns += 1,
            }
            for cache in &mut *caches {
                cache.replay(&turn)?;
            }
            for (key, size_bytes) in turn.drain(..) {
                if !self.ceilings.is_empty() {
                    past.push(key, size_bytes)?;
                }
            }
            let (read_bytes, len_bytes) = requests.progress_bytes();
            progress(Progress::Replaying { read_bytes, len_bytes });
        }
    }
}

#[cold]
fn without_requests(trace: &Trace) -> Error {
    invalid(format!("{} has no requests; name another trace", trace.shown()))
}

#[cold]
fn without_size(trace: &Trace, line: u64) -> Error {
    let trace = trace.shown();
    invalid(format!(
        "{trace}, line {line}, has no size, so it cannot be measured in bytes; measure it in entries, \
         or say what each request counts (`Trace::size_bytes`)"
    ))
}

/// Gives every key of the trace its number.
fn count(trace: &Trace, numbers: &mut Numbers, progress: &mut impl FnMut(Progress)) -> Result<()> {
    if trace.can_be_read() == Readings::One {
        let sentence = format!(
            "{} can be read only once; say which capacities to replay it with, or name a file",
            trace.shown()
        );
        return Err(Error::new(ErrorKind::InvalidOption, sentence));
    }
    let mut requests = trace.requests()?;
    let mut read = 0_usize;
    while let Some(request) = requests.next() {
        numbers.of(request?.key)?;
        read += 1;
        if read.is_multiple_of(TURN) {
            let (read_bytes, len_bytes) = requests.progress_bytes();
            progress(Progress::Counting { read_bytes, len_bytes });
        }
    }
    Ok(())
}

/// The numbers of keys, in the order in which they were seen first.
#[derive(Default)]
struct Numbers(HashMap<Vec<u8>, u32>);

impl Numbers {
    fn count(&self) -> u64 {
        self.0.len() as u64
    }

    fn of(&mut self, key: Vec<u8>) -> Result<u32> {
        let next = u32::try_from(self.0.len());
        match self.0.entry(key) {
            Entry::Occupied(entry) => Ok(*entry.get()),
            Entry::Vacant(entry) => {
                let number = next.map_err(|_| {
                    invalid("the trace has more than 2^32 different keys; shorten it".to_owned())
                })?;
                Ok(*entry.insert(number))
            }
        }
    }
}

/// A cache and what it has hit so far.
struct Replay {
    name: String,
    capacity: Capacity,
    cache: ByteCache,
    tally: Tally,
}

impl Replay {
    fn open(name: &str, strategy: &Strategy, capacity: Capacity) -> Result<Self> {
        let cache = open(strategy, capacity)?;
        Ok(Self { name: name.to_owned(), capacity, cache, tally: Tally::default() })
    }

    /// Replays requests: numbers of keys, and sizes in bytes.
    fn replay(&mut self, requests: &[(u32, u64)]) -> Result<()> {
        for (key, size_bytes) in requests {
            let hit = match self.capacity {
                Capacity::Entries(_) => self.serve(*key, &[])?,
                Capacity::Bytes(max) if *size_bytes > max => {
                    self.cache.invalidate(&key.to_le_bytes())?;
                    false
                }
                Capacity::Bytes(_) => self.serve(*key, &size_bytes.to_le_bytes())?,
            };
            self.tally.count(*size_bytes, hit);
        }
        Ok(())
    }

    /// Gets a key, and inserts it if it is not held, or is held with another value.
    fn serve(&self, key: u32, value: &[u8]) -> Result<bool> {
        let key = key.to_le_bytes();
        let same = self.cache.view(&key, |held| held == value)?;
        if same != Some(true) {
            self.cache.insert(&key, value)?;
        }
        Ok(same.is_some())
    }
}

/// A cache in memory whose values say what they count.
fn open(strategy: &Strategy, capacity: Capacity) -> Result<ByteCache> {
    if capacity.amount() == 0 {
        let sentence = format!("a cache of {capacity} holds nothing; ask for 1 or more");
        return Err(Error::new(ErrorKind::InvalidOption, sentence));
    }
    // One thread replays, and the order is the same with any number of shards.
    let builder = ByteCache::builder().shards(1).strategy(strategy.clone());
    match capacity {
        Capacity::Entries(max) => builder.memory_max_entries(max).open(),
        Capacity::Bytes(max) => {
            builder.memory_max_bytes(max).weigher(|_, size| weight(size)).open()
        }
    }
}

/// The size that a value says.
fn weight(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_le_bytes)
}
