//! Operations on both tiers over a volume whose calls fail and whose power is cut.
//!
//! Commits are made by each operation, or by flushes only, so that an input does the same each time.
//! After a power cut the volume is what may be left of it, and the cache goes on with that.
//!
//! - **C1** no operation fails for good because one call below it failed once.
//! - **C2** a read finds the last value that was put, or that there is none; the latter only where
//!   nothing was put, or where limits or a failed call explain it.
//! - **C3** after a power cut the cache opens, its sums agree, and it holds the state after some prefix
//!   of the operations that has all the durable ones in it.
//! - **C4** at the end, closed and opened again, it holds the state after all operations, and entries
//!   leave it in their order.
#![no_main]

mod panics;
#[path = "../../tests/it/support.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
#[allow(unfulfilled_lint_expectations, reason = "compilers differ on what dead code expects")]
mod support;
#[path = "../../tests/torture"]
#[expect(dead_code, reason = "the tests need more of it")]
mod torture {
    pub(crate) mod oracle;
    pub(crate) mod script;
    pub(crate) mod sim;
    pub(crate) mod timeline;
}

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::Arbitrary;
use larder::{ByteCache, ErrorKind, ManualClock, Timestamp, WritePolicy};
use libfuzzer_sys::fuzz_target;
use support::Rng;
use torture::oracle::{
    Commits, Content, Found, Key, Limits, Log, Op, Stamps, check_order, examine,
};
use torture::script::{AT_FLUSH, Item, Step, What};
use torture::sim::{Call, Cutter, Fault, How, Sim};
use torture::timeline::Timeline;

const PATH: &str = "cache.larder";
/// Enough for a few power cuts, each of which costs as much as many other steps.
const STEPS_MAX: usize = 30;
/// Entries of one step.
const MANY_MAX: usize = 6;
const KEYS: u8 = 12;
/// The clock's time at the beginning, and between two steps.
const START_NANOS: u64 = 1 << 50;
const STEP_NANOS: u64 = 1_000;
/// Values on one page of the file, and on several.
const VALUE_LENS: [usize; 8] = [0, 1, 30, 200, 1_000, 3_000, 6_000, 20_000];
/// A call fails once, so an operation that is tried more often than this fails for good.
const ATTEMPTS_MAX: u32 = 20;

#[derive(Debug, Arbitrary)]
struct Input {
    setup: Setup,
    acts: Vec<Act>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
struct Setup {
    through: bool,
    disk_entries: Option<u8>,
    memory_entries: u8,
}

#[derive(Debug, Arbitrary)]
enum Act {
    Insert(KeyNumber, ValueLen),
    InsertAt(KeyNumber, ValueLen, Moment),
    InsertMany(Vec<(KeyNumber, ValueLen)>),
    Get(KeyNumber),
    GetAt(KeyNumber, Moment),
    Remove(KeyNumber),
    RemoveMany(Vec<KeyNumber>),
    Clear,
    Flush,
    Reopen,
    Fail(AnyCall, AnyHow, u8),
    /// So many events before the last one, keeping what a seed says.
    Cut(u8, u8),
}

/// One of a few keys, of different lengths.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct KeyNumber(u8);

impl KeyNumber {
    fn key(self) -> Key {
        let number = self.0 % KEYS;
        vec![b'a' + number; 1 + usize::from(number) * 7 % 40]
    }
}

#[derive(Debug, Clone, Copy, Arbitrary)]
struct ValueLen(u8);

/// A stamp: near that of the clock, or far behind it, or in the future, or the last one there is.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Moment(u8);

impl Moment {
    fn stamp(self) -> u64 {
        match self.0 {
            u8::MAX => u64::MAX,
            n @ 192.. => START_NANOS + (u64::from(n) << 30),
            n @ 160.. => u64::from(n),
            n => START_NANOS + u64::from(n) * STEP_NANOS / 2,
        }
    }
}

/// Makes an enum that can be drawn, and its conversion into one that cannot.
macro_rules! drawn {
    ($name:ident, $of:ident: $($variant:ident)*) => {
        #[derive(Debug, Clone, Copy, Arbitrary)]
        enum $name { $($variant),* }

        impl From<$name> for $of {
            fn from(drawn: $name) -> Self {
                match drawn { $($name::$variant => Self::$variant),* }
            }
        }
    };
}

drawn!(AnyCall, Call: Read Write Sync SetLen Names Grow);
drawn!(AnyHow, How: Io Full Short);

impl Setup {
    fn limits(self) -> Limits {
        Limits { entries: self.disk_entries.map(|n| u64::from(n % 8) + 1), bytes: None }
    }

    fn log(self, before: Found) -> Log {
        let commits = if self.through { Commits::EachOperation } else { Commits::AtFlush };
        Log { before, ops: Vec::new(), limits: self.limits(), commits, stamps: Stamps::Known }
    }

    fn open(self, sim: &Sim, clock: &ManualClock) -> larder::Result<ByteCache> {
        let builder = ByteCache::builder()
            .path(PATH)
            .volume(Arc::new(sim.clone()))
            .memory_max_entries(u64::from(self.memory_entries % 16))
            .disk_cache_bytes(64 << 10)
            .disk_slack(None)
            .shards(2)
            .clock(clock.clone())
            .write_policy(if self.through { WritePolicy::Through } else { AT_FLUSH });
        match self.limits().entries {
            Some(entries) => builder.disk_max_entries(entries).open(),
            None => builder.open(),
        }
    }
}

/// A cache over a volume, and what was done to it since the volume was last known.
struct World {
    setup: Setup,
    clock: ManualClock,
    /// The volume, and as it was before the first operation of the timeline.
    sim: Sim,
    before: Sim,
    cache: ByteCache,
    timeline: Timeline,
    /// What reads must find: content and deadline, or nothing.
    latest: BTreeMap<Key, Option<(Content, u64)>>,
    /// Whether a call may have failed since the volume was last known.
    failing: bool,
    steps: u64,
}

fuzz_target!(init: panics::leave_foreign_ones_to_the_cache(), |input: Input| {
    let mut world = World::new(input.setup);
    for act in input.acts.iter().take(STEPS_MAX) {
        world.act(act);
        assert_eq!(world.cache.validate(), Ok(()));
    }
    world.end();
});

/// Calls again until it succeeds (C1).
fn insist<T>(mut call: impl FnMut() -> larder::Result<T>) -> T {
    for attempt in 1.. {
        match call() {
            Ok(done) => return done,
            Err(e) if e.kind() == ErrorKind::Io && attempt < ATTEMPTS_MAX => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(e) => panic!("C1: {:?}: {e}", e.kind()),
        }
    }
    unreachable!("attempts are limited")
}

impl World {
    fn new(setup: Setup) -> Self {
        let (sim, clock) = (Sim::default(), ManualClock::new(Timestamp::from_nanos(START_NANOS)));
        Self {
            before: sim.copy(),
            cache: setup.open(&sim, &clock).expect("a new file on a sound volume"),
            sim,
            setup,
            clock,
            timeline: Timeline::new(setup.log(Found::default())),
            latest: BTreeMap::new(),
            failing: false,
            steps: 0,
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Insert(key, len) => self.step(What::Put(self.item(*key, *len), None), None),
            Act::InsertAt(key, len, moment) => {
                self.step(What::Put(self.item(*key, *len), None), Some(*moment));
            }
            Act::InsertMany(items) => {
                let items = items.iter().take(MANY_MAX);
                let items = items.map(|(key, len)| self.item(*key, *len)).collect();
                self.step(What::PutMany(items), None);
            }
            Act::Get(key) => self.get(key.key(), None),
            Act::GetAt(key, moment) => self.get(key.key(), Some(*moment)),
            Act::Remove(key) => self.step(What::Remove(key.key()), None),
            Act::RemoveMany(keys) => {
                let keys = keys.iter().take(MANY_MAX).map(|key| key.key()).collect();
                self.step(What::RemoveMany(keys), None);
            }
            Act::Clear => self.step(What::Clear, None),
            Act::Flush => self.step(What::Flush, None),
            Act::Reopen => self.reopen(),
            Act::Fail(call, how, calls_before) => {
                self.fail((*call).into(), (*how).into(), *calls_before)
            }
            Act::Cut(events_after, seed) => self.cut(*events_after, *seed),
        }
    }

    fn item(&self, key: KeyNumber, len: ValueLen) -> Item {
        let len = VALUE_LENS[usize::from(len.0) % VALUE_LENS.len()];
        let value = (self.steps + 1).to_le_bytes().into_iter().cycle().take(len).collect();
        Item { key: key.key(), value }
    }

    fn next(&mut self, what: What, moment: Option<Moment>) -> Step {
        self.steps += 1;
        let now = START_NANOS + self.steps * STEP_NANOS;
        self.clock.set(Timestamp::from_nanos(now));
        Step { what, clock: Some(now), stamp: moment.map(Moment::stamp) }
    }

    /// Does what is no read.
    fn step(&mut self, what: What, moment: Option<Moment>) {
        let step = self.next(what, moment);
        let durable = self.setup.through || matches!(step.what, What::Flush | What::Clear);
        self.timeline.begin(&self.sim);
        insist(|| step.try_perform(&self.cache));
        self.timeline.end(&self.sim, step.op(), durable);
        step.note(&mut self.latest);
    }

    fn get(&mut self, key: Key, moment: Option<Moment>) {
        let step = self.next(What::Get(key.clone()), moment);
        self.timeline.begin(&self.sim);
        let found = insist(|| match moment {
            None => self.cache.get(&key),
            Some(moment) => self.cache.get_at(&key, Timestamp::from_nanos(moment.stamp())),
        });
        let expected = self.latest.get(&key).copied().flatten().map(|(content, _)| content);
        let content = found.as_ref().map(|entry| Content::of(entry));
        let may_miss = self.failing || self.setup.limits() != Limits::NONE;
        assert!(content == expected || content.is_none() && may_miss, "C2: {}", key.escape_ascii());
        let op = if found.is_some() { step.op() } else { Op::PutMany(Vec::new()) };
        self.timeline.end(&self.sim, op, false);
    }

    /// A close that fails has closed, and what was pending is lost; so flush first.
    fn reopen(&mut self) {
        self.step(What::Flush, None);
        let _ = self.cache.clone().close();
        self.timeline.begin(&self.sim);
        self.cache = insist(|| self.setup.open(&self.sim, &self.clock));
        self.timeline.end(&self.sim, Op::Flush, true);
    }

    /// Lets one call fail, after so many others of its kind.
    fn fail(&mut self, call: Call, how: How, calls_before: u8) {
        // Two in a row would be more than a hiccup, and damage if a file ended early twice.
        if self.sim.has_failed() {
            self.step(What::Flush, None);
        }
        let first = self.sim.calls(call) + u64::from(calls_before % 64);
        self.sim.set_fault(Some(Fault { call, how, first, count: 1 }));
        self.failing = true;
    }

    fn cut(&mut self, events_after: u8, seed: u8) {
        let mut cutter = Cutter::new(&self.before, &self.sim);
        let moment = cutter.events().saturating_sub(events_after.into());
        let image = cutter.image(moment, &mut Rng::new(seed.into()));
        self.before = image.copy();
        self.cache = self.setup.open(&image, &self.clock).expect("C3: it opens");
        assert!(!image.has(&format!("{PATH}.damaged")), "C3: the file was taken for damaged");
        let found = self.examine("C3");
        let (least, most) = self.timeline.range(moment);
        self.timeline.log.explain(&found, least, most, 0).unwrap_or_else(|e| panic!("C3: {e}"));
        self.latest = found
            .0
            .iter()
            .map(|(k, seen)| (k.clone(), Some((seen.content, seen.deadline))))
            .collect();
        self.timeline = Timeline::new(self.setup.log(found));
        self.sim = image;
        self.failing = false;
    }

    fn examine(&self, claim: &str) -> Found {
        examine(&self.cache, self.setup.limits()).unwrap_or_else(|e| panic!("{claim}: {e}"))
    }

    fn end(mut self) {
        self.step(What::Flush, None);
        self.sim.set_fault(None);
        self.reopen();
        assert!(!self.sim.has(&format!("{PATH}.damaged")), "C4: the file was taken for damaged");
        let found = self.examine("C4");
        let all = self.timeline.log.ops.len();
        self.timeline.log.explain(&found, all, all, 0).unwrap_or_else(|e| panic!("C4: {e}"));
        let keep = (found.0.len() as u64 / 2).max(1);
        check_order(&self.cache, &found, keep).unwrap_or_else(|e| panic!("C4: {e}"));
        self.cache.close().expect("C4: it closes");
    }
}
