//! Random operations of every kind, against a reference that is too simple to be wrong.
//!
//! Each case is a set of options and a list of operations. After every operation the cache and the
//! reference must agree on the answer, on every count and byte, on every statistic and on what the
//! listener heard, and the invariants must hold. At the end both are emptied entry by entry, which
//! shows the whole order.
//!
//! Nothing depends on time or threads. The clock is the test's, and shows nothing to the thread that
//! sweeps in the background; with write-behind, commits happen only when an operation asks for one.
//!
//! `LARDER_MODEL_CASES=10` runs ten times as many cases as usual. A case that fails is shrunk and
//! printed; its seed is kept in `tests/it/model.seeds`, from where it runs first the next time.

mod generate;
mod reference;
mod subject;

use std::cell::RefCell;
use std::sync::PoisonError;

use larder::{ByteCache, ByteEntry, DiskStrategy, RemovalCause, Stats, Tier, Timestamp};
use proptest::strategy::Strategy;
use proptest::test_runner::{
    Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRunner,
};

use reference::Model;
use subject::Subject;

type Key = Vec<u8>;

const KEY_BYTES_MAX: usize = 4;
/// Short, with common prefixes, and with the smallest and large bytes.
const KEYS: [&str; 14] =
    ["a", "aa", "ab", "abc", "b", "ba", "bb", "c", "ca", "d", "e", "\0", "f", "\u{ff}z"];
const PREFIXES: [&str; 6] = ["a", "ab", "b", "c", "\u{ff}", "nothing"];
/// Nanoseconds: small enough that explicit stamps, stamps of the clock and deadlines often meet.
const START: u64 = 1_000_000;

/// Limits of one tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Limits {
    entries: Option<u64>,
    bytes: Option<u64>,
}

impl Limits {
    fn exceeded(self, entries: u64, bytes: u64) -> bool {
        self.entries.is_some_and(|max| entries > max) || self.bytes.is_some_and(|max| bytes > max)
    }

    fn utilization(self, entries: u64, bytes: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let ratio = |part: u64, max: u64| if max == 0 { 0.0 } else { part as f64 / max as f64 };
        match (self.bytes, self.entries) {
            (Some(max), _) => ratio(bytes, max),
            (None, Some(max)) => ratio(entries, max),
            (None, None) => 0.0,
        }
    }
}

/// What a case is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    MemoryOnly,
    Behind,
    Through,
}

/// What a cache is opened with.
#[derive(Debug, Clone)]
struct Options {
    disk: bool,
    through: bool,
    shards: usize,
    memory: Limits,
    disk_limits: Limits,
    memory_ttl: Option<u64>,
    disk_ttl: Option<u64>,
    time_to_idle: Option<u64>,
    max_memory_entry: Option<u64>,
    weigher: bool,
    /// Of the disk.
    strategy: DiskStrategy,
}

/// What an insert brings.
#[derive(Debug, Clone)]
struct Item {
    key: &'static str,
    value: Vec<u8>,
    ttl: Option<u64>,
    weight: Option<u64>,
    /// With tags and metadata.
    labelled: bool,
}

fn weigh(key: &[u8], value: &[u8]) -> u64 {
    3 * key.len() as u64 + value.len() as u64 / 2
}

impl Item {
    fn charge(&self, options: &Options) -> u64 {
        let (key, value) = (self.key.as_bytes(), &self.value);
        let natural = (key.len() + value.len()) as u64;
        let weighed = if options.weigher { weigh(key, value) } else { natural };
        self.weight.unwrap_or(weighed)
    }

    fn pair(&self) -> (&[u8], &[u8]) {
        (self.key.as_bytes(), &self.value)
    }
}

/// One operation; those that take a time per call get it from their [`Step`].
#[derive(Debug, Clone)]
enum Op {
    Insert(Item),
    InsertIfAbsent(Item),
    InsertMany(Vec<Item>),
    Touch(&'static str, Option<u64>),
    Get(&'static str),
    View(&'static str),
    GetInto(&'static str),
    GetMany(Vec<&'static str>),
    Peek(&'static str),
    Contains(&'static str),
    Remove(&'static str),
    Invalidate(&'static str),
    RemoveMany(Vec<&'static str>),
    InvalidatePrefix(&'static str),
    Clear,
    Keys(Option<&'static str>),
    Iter,
    SetMemoryLimits(Limits),
    SetDiskLimits(Limits),
    Purge,
    Flush,
    ResetStats,
    Advance(i64),
    /// To where the next time of this entry is over, or just before.
    AdvanceTo(&'static str, bool),
    /// With other limits, perhaps, and perhaps with another strategy.
    Reopen(Option<(Limits, Limits)>, Option<DiskStrategy>),
}

impl Op {
    /// The keys that have to be valid.
    fn keys(&self) -> Vec<&'static str> {
        match self {
            Self::Insert(item) | Self::InsertIfAbsent(item) => vec![item.key],
            Self::InsertMany(items) => items.iter().map(|item| item.key).collect(),
            Self::Touch(key, _)
            | Self::Get(key)
            | Self::View(key)
            | Self::GetInto(key)
            | Self::Peek(key)
            | Self::Contains(key)
            | Self::Remove(key)
            | Self::Invalidate(key) => vec![key],
            Self::GetMany(keys) | Self::RemoveMany(keys) => keys.clone(),
            Self::InvalidatePrefix(_)
            | Self::Clear
            | Self::Keys(_)
            | Self::Iter
            | Self::SetMemoryLimits(_)
            | Self::SetDiskLimits(_)
            | Self::Purge
            | Self::Flush
            | Self::ResetStats
            | Self::Advance(_)
            | Self::AdvanceTo(..)
            | Self::Reopen(..) => Vec::new(),
        }
    }

    /// Gives values that tell which step, and which item of it, they come from.
    fn number(&mut self, step: usize) {
        let items = match self {
            Self::Insert(item) | Self::InsertIfAbsent(item) => std::slice::from_mut(item),
            Self::InsertMany(items) => items.as_mut_slice(),
            _ => return,
        };
        for (index, item) in items.iter_mut().enumerate() {
            let len = item.value.len();
            item.value = [step, index].map(|n| u8::try_from(n % 251).unwrap_or(0)).repeat(len);
            item.value.truncate(len);
        }
    }
}

/// The time that an operation is given.
#[derive(Debug, Clone, Copy)]
enum At {
    Clock,
    /// This far from the clock's.
    Near(i64),
    /// That of an entry which is there.
    Same(&'static str),
}

#[derive(Debug, Clone)]
struct Step {
    op: Op,
    at: At,
}

/// What an operation answers.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Is(bool),
    Count(u64),
    Value(Option<Vec<u8>>),
    Entry(Option<Seen>),
    Slots(Vec<Option<Seen>>),
    Keys(Vec<Key>),
}

impl Answer {
    fn done((): ()) -> Self {
        Self::Done
    }
}

/// What an entry tells of itself.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    key: Key,
    value: Vec<u8>,
    size: u64,
    created: u64,
    accessed: u64,
    expires: Option<u64>,
    remaining: Option<u64>,
    expired: bool,
    labelled: bool,
    tier: Tier,
}

const TAGS: [&str; 2] = ["red", "wine"];
const METADATA: [(&str, &str); 1] = [("etag", "\"7\"")];

impl Seen {
    fn of(entry: &ByteEntry) -> Self {
        let tags: Vec<&str> = entry.tags().collect();
        let metadata: Vec<(&str, &str)> = entry.metadata().collect();
        let labelled = tags == TAGS && metadata == METADATA;
        assert!(labelled || tags.is_empty() && metadata.is_empty(), "{tags:?}, {metadata:?}");
        Self {
            key: entry.key().to_vec(),
            value: entry.to_owned(),
            size: entry.size_bytes(),
            created: entry.created_at().as_nanos(),
            accessed: entry.accessed_at().as_nanos(),
            expires: entry.expires_at().map(Timestamp::as_nanos),
            remaining: entry
                .ttl_remaining()
                .map(|left| u64::try_from(left.as_nanos()).expect("is below u64::MAX")),
            expired: entry.is_expired(),
            labelled,
            tier: entry.tier(),
        }
    }
}

/// What the listener heard.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    key: Key,
    value: Vec<u8>,
    tier: Tier,
    cause: RemovalCause,
}

type Outcome = Result<(), TestCaseError>;

fn same<T: PartialEq + std::fmt::Debug>(what: &str, cache: &T, model: &T) -> Outcome {
    if cache == model {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("{what}\n  cache: {cache:?}\n  model: {model:?}")))
}

/// Runs one case; adds its statistics after each step to `total`.
fn run(options: &Options, steps: &[Step], total: &mut [u64]) -> Outcome {
    let mut subject = Subject::open(options.clone());
    let mut model = Model::new(options.clone(), START);
    let one = Limits { entries: Some(1), bytes: None };
    let ending = [
        Op::Iter,
        Op::Flush,
        Op::SetMemoryLimits(one),
        Op::SetDiskLimits(if options.disk { one } else { Limits::default() }),
        Op::Iter,
    ];
    let ending = ending.map(|op| Step { op, at: At::Clock });
    for (index, step) in steps.iter().chain(&ending).enumerate() {
        let mut op = step.op.clone();
        op.number(index);
        if let Op::AdvanceTo(key, over) = op {
            op = Op::Advance(model.until_over(key).map_or(1, |by| by + i64::from(over)));
        }
        let at = match step.at {
            At::Clock => None,
            At::Near(by) => Some(model.now.saturating_add_signed(by)),
            At::Same(key) => model.stamp_of(key),
        };
        compare(&mut subject, &mut model, &op, at)
            .map_err(|e| TestCaseError::fail(format!("step {index}, {op:?} at {at:?}: {e}")))?;
        for (total, (_, count)) in total.iter_mut().zip(fields(&model.stats)) {
            *total += count;
        }
    }
    Ok(())
}

fn compare(subject: &mut Subject, model: &mut Model, op: &Op, at: Option<u64>) -> Outcome {
    if matches!(op, Op::Reopen(..)) {
        subject.set_time(model.reopens_at());
    }
    let expected = model.apply(op, at);
    // With the limits that were last set, or that a reopening brings.
    subject.options = model.options.clone();
    let answer = subject.apply(op, at).map_err(|e| e.kind());
    same("the answer", &answer, &expected)?;
    if subject.options.through && model.stats.pending_ops > 0 {
        // What a read found expired is removed without waiting.
        subject.cache.flush().unwrap();
        model.commit(false);
    }
    let heard = std::mem::take(&mut *subject.events.lock().unwrap_or_else(PoisonError::into_inner));
    same_events(&heard, &std::mem::take(&mut model.events))?;
    if matches!(op, Op::Reopen(..) | Op::Purge) && subject.options.disk {
        same("what verification finds", &subject.cache.verify().unwrap().is_ok(), &true)?;
    }
    same_state(&subject.cache, model)
}

/// Each tier's evictions must come in the same order, and what else it reports in any.
fn same_events(heard: &[Event], expected: &[Event]) -> Outcome {
    use RemovalCause::{Expired, Explicit, Replaced, Size};
    for tier in [Tier::Memory, Tier::Disk] {
        for cause in [Size, Replaced, Explicit, Expired] {
            let of = |events: &[Event]| {
                let chosen = events.iter().filter(|e| e.tier == tier && e.cause == cause);
                let mut chosen: Vec<(Key, Vec<u8>)> =
                    chosen.map(|e| (e.key.clone(), e.value.clone())).collect();
                if cause != Size {
                    chosen.sort_unstable();
                }
                chosen
            };
            same(&format!("what left {tier:?} as {cause:?}"), &of(heard), &of(expected))?;
        }
    }
    Ok(())
}

fn same_state(cache: &ByteCache, model: &mut Model) -> Outcome {
    let held = [
        cache.memory_len(),
        cache.memory_bytes(),
        cache.disk_len(),
        cache.disk_bytes(),
        cache.len(),
    ];
    same("entries and bytes of memory, of disk, and all entries", &held, &model.held())?;
    same("is_empty", &cache.is_empty(), &(model.held()[4] == 0))?;
    let [memory_entries, memory_bytes, disk_entries, disk_bytes, _] = model.held();
    model.stats.memory_entries = memory_entries;
    model.stats.memory_bytes = memory_bytes;
    model.stats.disk_entries = disk_entries;
    model.stats.disk_bytes = disk_bytes;
    let stats = cache.stats();
    same("the statistics", &fields(&stats), &fields(&model.stats))?;
    same("pending bytes", &(stats.pending_bytes == 0), &(stats.pending_ops == 0))?;
    same("the hit ratio", &stats.hit_ratio(), &model.stats.hit_ratio())?;
    let utilization = (stats.memory_utilization(), stats.disk_utilization());
    same("the utilization", &utilization, &model.utilization())?;
    same("the invariants", &cache.validate(), &Ok(()))
}

/// Everything but the bytes that are pending, which depend on the record's format.
fn fields(stats: &Stats) -> Vec<(&'static str, u64)> {
    vec![
        ("gets", stats.gets),
        ("memory_hits", stats.memory_hits),
        ("disk_hits", stats.disk_hits),
        ("misses", stats.misses),
        ("inserts", stats.inserts),
        ("removes", stats.removes),
        ("memory_evictions", stats.memory_evictions),
        ("disk_evictions", stats.disk_evictions),
        ("memory_expirations", stats.memory_expirations),
        ("disk_expirations", stats.disk_expirations),
        ("promotions", stats.promotions),
        ("rejected", stats.rejected),
        ("shed", stats.shed),
        ("corrupt", stats.corrupt),
        ("disk_errors", stats.disk_errors),
        ("pending_ops", stats.pending_ops),
        ("memory_entries", stats.memory_entries),
        ("disk_entries", stats.disk_entries),
        ("memory_bytes", stats.memory_bytes),
        ("disk_bytes", stats.disk_bytes),
    ]
}

/// Runs this many cases, or as many times more as the environment says; gives the sums of their
/// statistics.
fn check(case: impl Strategy<Value = (Options, Vec<Step>)>, cases: u32) -> Vec<u64> {
    let times = std::env::var("LARDER_MODEL_CASES").ok().and_then(|times| times.parse().ok());
    let seeds = FileFailurePersistence::Direct("tests/it/model.seeds");
    let mut runner = TestRunner::new(Config {
        cases: cases.saturating_mul(times.unwrap_or(1)),
        failure_persistence: Some(Box::new(seeds)),
        max_shrink_iters: 4_000,
        max_shrink_time: 120_000,
        // The default one is slow when it is not optimized.
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    });
    let total = RefCell::new(vec![0; fields(&Stats::default()).len()]);
    let result =
        runner.run(&case, |(options, steps)| run(&options, &steps, &mut total.borrow_mut()));
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, (options, steps))) => {
            let steps: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
            panic!("{reason}\n{options:?}\n{}", steps.join("\n"));
        }
        Err(error) => panic!("{error}"),
    }
    total.into_inner()
}

/// Checks so many cases, which together have to count something of everything but `silent`: else they
/// do not go where they should. What is rare may take as many cases a few times more.
fn check_all_but<C>(silent: &[&str], case: impl Fn() -> C, cases: u32)
where
    C: Strategy<Value = (Options, Vec<Step>)>,
{
    let names = || fields(&Stats::default()).into_iter().map(|(name, _)| name);
    let mut total = vec![0; names().len()];
    for _ in 0..10 {
        total.iter_mut().zip(check(case(), cases)).for_each(|(total, count)| *total += count);
        let wrong = |(name, count): &(&str, &u64)| (**count == 0) != silent.contains(name);
        if !names().zip(&total).any(|field| wrong(&field)) {
            return;
        }
    }
    let counted: Vec<_> = names().zip(total).collect();
    panic!("all should be counted but {silent:?}, and those not: {counted:?}");
}

/// What a disk that works never counts.
const FAILURES: [&str; 3] = ["shed", "corrupt", "disk_errors"];

#[test]
fn memory_alone_agrees_with_the_reference() {
    let disk = ["disk_hits", "disk_evictions", "disk_expirations", "promotions"];
    let held = ["pending_ops", "disk_entries", "disk_bytes"];
    let silent = [&FAILURES[..], &disk, &held].concat();
    check_all_but(&silent, || generate::case(Kind::MemoryOnly, 100), 1_500);
}

#[test]
fn write_behind_agrees_with_the_reference() {
    check_all_but(&FAILURES, || generate::case(Kind::Behind, 80), 400);
}

#[test]
fn write_through_agrees_with_the_reference() {
    let silent = [&FAILURES[..], &["pending_ops"]].concat();
    check_all_but(&silent, || generate::case(Kind::Through, 30), 150);
}

/// So many commits that stale rows of the order on disk are swept several times.
#[test]
fn write_behind_agrees_over_many_commits() {
    check(generate::long_case(500), 1);
}

/// The others on disk, each decision of theirs; those of `Size` are in `disk_order.rs`.
#[test]
fn fifo_on_disk_agrees_with_the_reference() {
    let case = || generate::with_strategy(vec![DiskStrategy::Fifo], Kind::Behind, 80);
    check_all_but(&FAILURES, case, 300);
    check(generate::with_strategy(vec![DiskStrategy::Fifo], Kind::Through, 30), 100);
}

#[test]
fn ttl_on_disk_agrees_with_the_reference() {
    let case = || generate::with_strategy(vec![DiskStrategy::Ttl], Kind::Behind, 80);
    check_all_but(&FAILURES, case, 300);
    check(generate::with_strategy(vec![DiskStrategy::Ttl], Kind::Through, 30), 100);
}

/// One file, opened with one strategy and another.
#[test]
fn strategies_on_disk_can_be_exchanged() {
    let all = vec![DiskStrategy::Lru, DiskStrategy::Fifo, DiskStrategy::Ttl];
    check(generate::with_strategy(all, Kind::Behind, 80), 300);
}
