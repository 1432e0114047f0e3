//! Damaged files: whatever is wrong in them, no panic, no wrong value, no hang, and a cache that works.
//!
//! # How it works
//!
//! Now and then good files are made, of several shapes, each with a copy of itself from an earlier
//! time. Each cycle damages a copy of one of them, opens it, reads everything in every way, writes,
//! closes, opens it once more, and has the sums compared with a recount.
//!
//! A value that was never that key's value is a violation. An older value of the key is not, but is
//! counted: where the newer of the file's two heads is damaged, the earlier commit is as sound. Sums that
//! differ from a recount are a violation, and so is what was written to a damaged file and is not there
//! later, unless the file was set aside.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::{
    ByteCache, ByteEntry, DamagePolicy, DiskStrategy, ErrorKind, ManualClock, TierHealth,
    Timestamp, WhenFull, WritePolicy,
};

use super::oracle::{Content, Key, Limits, examine};
use super::script::{any_strategy, mixed};
use super::{Budget, Figures, Progress, Violation, scratch, words};
use crate::support::{Rng, Watchdog};

const PAGE: usize = 4096;
const SECTOR: usize = 512;
/// How many files are damaged before new ones are made.
const FILES_PER_BATCH: u64 = 50;
/// What is written to each damaged file.
const NEW_KEY: &[u8] = b"new";
const NEW_VALUE: &[u8] = b"new value";

/// What a good file is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Small,
    Large,
    Churned,
    /// Never closed, as a killed process leaves it.
    Killed,
}

const SHAPES: [Shape; 4] = [Shape::Small, Shape::Large, Shape::Churned, Shape::Killed];

/// A good file, and what was ever in it.
struct Good {
    bytes: Vec<u8>,
    /// The same file at an earlier time.
    older: Vec<u8>,
    /// All values of each key, the last one last; `None` for its removal.
    values: BTreeMap<Key, Vec<Option<Content>>>,
}

impl Good {
    fn make(shape: Shape, strategy: DiskStrategy, rng: &mut Rng) -> Result<Self, String> {
        let folder = scratch().map_err(told)?;
        let path = folder.path().join("cache.larder");
        let cache = open(&path, DamagePolicy::Fail, strategy).map_err(told)?;
        let mut good = Self { bytes: Vec::new(), older: Vec::new(), values: BTreeMap::new() };
        let (puts, len_max, keys) = match shape {
            Shape::Small => (60, 100, 100),
            Shape::Large => (12, 60_000, 8),
            Shape::Churned | Shape::Killed => (400, 600, 60),
        };
        for round in 0..2 {
            for _ in 0..puts {
                good.step(&cache, keys, len_max, rng).map_err(told)?;
            }
            cache.flush().map_err(told)?;
            if round == 0 {
                good.older = fs::read(&path).map_err(told)?;
            }
        }
        if shape == Shape::Killed {
            good.bytes = fs::read(&path).map_err(told)?;
            return Ok(good);
        }
        cache.close().map_err(told)?;
        good.bytes = fs::read(&path).map_err(told)?;
        Ok(good)
    }

    fn step(
        &mut self,
        cache: &ByteCache,
        keys: u64,
        len_max: u64,
        rng: &mut Rng,
    ) -> larder::Result<()> {
        let key = format!("key {}", rng.below(keys)).into_bytes();
        let value = match rng.below(8) {
            0 => None,
            _ => Some((0..rng.below(len_max)).map(|_| rng.next().to_le_bytes()[0]).collect()),
        };
        let value: Option<Vec<u8>> = value;
        match &value {
            None => drop(cache.remove(&key)?),
            Some(value) => cache.insert(&key, value)?,
        }
        self.values.entry(key).or_default().push(value.as_deref().map(Content::of));
        if rng.below(20) == 0 {
            cache.flush()?;
        }
        Ok(())
    }
}

/// One way of damaging a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Bit,
    SectorZero,
    SectorGarbage,
    PageZero,
    PageGarbage,
    PagesExchanged,
    PageOlder,
    Truncated,
    Extended,
    HalvesSwapped,
}

/// The simple ones more often.
const DAMAGES: [Damage; 16] = [
    Damage::Bit,
    Damage::Bit,
    Damage::Bit,
    Damage::SectorZero,
    Damage::SectorGarbage,
    Damage::PageZero,
    Damage::PageZero,
    Damage::PageGarbage,
    Damage::PageGarbage,
    Damage::PagesExchanged,
    Damage::PagesExchanged,
    Damage::PageOlder,
    Damage::PageOlder,
    Damage::Truncated,
    Damage::Extended,
    Damage::HalvesSwapped,
];

impl Damage {
    /// What the figures call older values that were found after it.
    fn older_values(self) -> &'static str {
        match self {
            Self::Bit => "older after a bit",
            Self::SectorZero | Self::SectorGarbage => "older after a sector",
            Self::PageZero | Self::PageGarbage => "older after a page",
            Self::PagesExchanged | Self::HalvesSwapped => "older after an exchange",
            Self::PageOlder => "older after an older page",
            Self::Truncated | Self::Extended => "older after another length",
        }
    }

    fn apply(self, bytes: &mut Vec<u8>, older: &[u8], rng: &mut Rng) {
        let pages = bytes.len() / PAGE;
        match self {
            Self::Bit => {
                let at = used(bytes, 1, rng);
                bytes[at] ^= 1 << rng.below(8);
            }
            Self::SectorZero => overwrite(bytes, SECTOR, rng, |_| 0),
            Self::SectorGarbage => overwrite(bytes, SECTOR, rng, |rng| rng.next().to_le_bytes()[0]),
            Self::PageZero => overwrite(bytes, PAGE, rng, |_| 0),
            Self::PageGarbage => overwrite(bytes, PAGE, rng, |rng| rng.next().to_le_bytes()[0]),
            Self::PagesExchanged => {
                let (a, b) = (used(bytes, PAGE, rng), PAGE * rng.index(pages));
                for i in 0..PAGE {
                    bytes.swap(a + i, b + i);
                }
            }
            Self::PageOlder => {
                let common = bytes.len().min(older.len()) / PAGE;
                let differ = |n: &usize| {
                    let page = n * PAGE..(n + 1) * PAGE;
                    bytes[page.clone()] != older[page]
                };
                let differing: Vec<usize> = (0..common).filter(differ).collect();
                if !differing.is_empty() {
                    let at = PAGE * differing[rng.index(differing.len())];
                    bytes[at..at + PAGE].copy_from_slice(&older[at..at + PAGE]);
                }
            }
            Self::Truncated => {
                let len = if rng.below(2) == 0 {
                    PAGE * rng.index(pages)
                } else {
                    rng.index(bytes.len())
                };
                bytes.truncate(len);
            }
            Self::Extended => {
                let (more, garbage) = (rng.index(4 * PAGE), rng.below(2) == 0);
                let byte = |rng: &mut Rng| if garbage { rng.next().to_le_bytes()[0] } else { 0 };
                bytes.extend((0..more).map(|_| byte(rng)).collect::<Vec<u8>>());
            }
            Self::HalvesSwapped => {
                let middle = bytes.len() / 2;
                bytes.rotate_left(middle);
            }
        }
    }
}

/// Where a unit of so many bytes begins that has something in it, as often as not one of the first.
fn used(bytes: &[u8], unit: usize, rng: &mut Rng) -> usize {
    let units = bytes.len() / unit;
    let early = (2 * PAGE / unit).min(units);
    for _ in 0..100 {
        let at = unit * if rng.below(6) == 0 { rng.index(early) } else { rng.index(units) };
        let page = at / PAGE * PAGE;
        if bytes[page..bytes.len().min(page + PAGE)].iter().any(|byte| *byte != 0) {
            return at;
        }
    }
    0
}

fn overwrite(bytes: &mut [u8], unit: usize, rng: &mut Rng, byte: impl Fn(&mut Rng) -> u8) {
    let at = used(bytes, unit, rng);
    for place in &mut bytes[at..at + unit] {
        *place = byte(rng);
    }
}

/// Commits come when they are asked for and the clock stands still, so that a seed makes the same files.
fn open(path: &Path, on_damage: DamagePolicy, strategy: DiskStrategy) -> larder::Result<ByteCache> {
    let policy = WritePolicy::Behind {
        max_delay: Duration::from_secs(3600),
        max_pending_ops: 1 << 16,
        max_pending_bytes: 64 << 20,
        when_full: WhenFull::default(),
    };
    ByteCache::builder()
        .path(path)
        .on_damage(on_damage)
        .write_policy(policy)
        .clock(ManualClock::new(Timestamp::from_secs(1_000_000)))
        .memory_max_entries(20)
        .disk_cache_bytes(if strategy == DiskStrategy::Lru { 1 << 12 } else { 1 << 20 })
        .disk_strategy(strategy)
        .open()
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Damages files until the budget is used up.
pub(crate) fn run(seed: u64, budget: Budget, progress: Progress<'_>) -> Result<Figures, Violation> {
    let mut figures = Figures::default();
    let mut batch: Vec<Good> = Vec::new();
    let mut made_with = DiskStrategy::Lru;
    let violation = |cycle, what| Violation { seed, cycle, what };
    let folder = scratch().map_err(|error| violation(0, told(error)))?;
    for cycle in budget.start() {
        if cycle % FILES_PER_BATCH == 0 {
            let rng = &mut mixed(seed, cycle, 3);
            made_with = any_strategy(rng, Limits::NONE);
            let good = |shape: &Shape| Good::make(*shape, made_with, rng);
            let made: Result<Vec<Good>, _> = SHAPES.iter().map(good).collect();
            batch = made.map_err(|what| violation(cycle, what))?;
        }
        let watchdog = Watchdog::start(format!("rot, seed {seed}, cycle {cycle}"));
        let mut rng = mixed(seed, cycle, 4);
        let shape = rng.index(SHAPES.len());
        let damage = DAMAGES[rng.index(DAMAGES.len())];
        let path = folder.path().join(format!("{cycle}.larder"));
        // Now and then the damage is met while the order is made anew.
        let strategy =
            if rng.below(4) == 0 { any_strategy(&mut rng, Limits::NONE) } else { made_with };
        let mut file =
            Rotten { good: &batch[shape], damage, path, strategy, figures: &mut figures };
        let ended = catch_unwind(AssertUnwindSafe(|| file.suffer(&mut rng)));
        file.remove();
        let ended = ended.unwrap_or_else(|panic| Err(format!("a panic: {}", words(&*panic))));
        let name = |what| format!("{:?}, {strategy:?}, {damage:?}: {what}", SHAPES[shape]);
        ended.map_err(|what| violation(cycle, name(what)))?;
        figures.add("files", 1);
        figures.add("cycles", 1);
        progress(&figures);
        drop(watchdog);
    }
    Ok(figures)
}

/// A damaged file.
struct Rotten<'a> {
    good: &'a Good,
    damage: Damage,
    path: PathBuf,
    strategy: DiskStrategy,
    figures: &'a mut Figures,
}

impl Rotten<'_> {
    fn suffer(&mut self, rng: &mut Rng) -> Result<(), String> {
        let mut bytes = self.good.bytes.clone();
        self.damage.apply(&mut bytes, &self.good.older, rng);
        fs::write(&self.path, &bytes).map_err(told)?;
        if rng.below(2) == 0 {
            match open(&self.path, DamagePolicy::Fail, self.strategy) {
                Ok(cache) => {
                    self.read(&cache, rng)?;
                    // What cannot be written may not be replaced, so an error is an answer here.
                    let _ = self.write(&cache, rng);
                    let _ = cache.close();
                }
                Err(error) => {
                    self.figures.add("refused", 1);
                    refusal(&error, &[ErrorKind::Corrupt])?;
                    if fs::read(&self.path).map_err(told)? != bytes {
                        return Err(format!("refused and touched: {error}"));
                    }
                }
            }
            fs::write(&self.path, &bytes).map_err(told)?;
        }
        match open(&self.path, DamagePolicy::SetAside, self.strategy) {
            Ok(cache) => self.use_and_reopen(cache, rng),
            Err(error) => {
                self.figures.add("foreign", 1);
                refusal(&error, &[])
            }
        }
    }

    fn use_and_reopen(&mut self, cache: ByteCache, rng: &mut Rng) -> Result<(), String> {
        // Damage may be met by a read or by a commit.
        if rng.below(2) == 0 {
            self.read(&cache, rng)?;
        }
        self.write(&cache, rng)?;
        if cache.health().disk != Some(TierHealth::Ok) {
            return Err(format!("{:?} after a flush that succeeded", cache.health()));
        }
        self.read(&cache, rng)?;
        cache.flush().map_err(told)?;
        let corrupt = cache.stats().corrupt;
        self.figures.add("corrupt records", corrupt);
        cache.close().map_err(told)?;
        let aside = self.beside("damaged").exists();
        self.figures.add("set aside", u64::from(aside));
        let _ = fs::remove_file(self.beside("damaged"));
        let again = open(&self.path, DamagePolicy::SetAside, self.strategy);
        let cache = again.map_err(|error| format!("cannot open it once more: {error}"))?;
        self.read(&cache, rng)?;
        cache.flush().map_err(|error| format!("a flush failed when opened once more: {error}"))?;
        if self.beside("damaged").exists() {
            // What is wrong with it shows only now, as it is opened or read.
            self.figures.add("set aside later", 1);
            return cache.close().map_err(told);
        }
        if cache.stats().disk_errors > 0 {
            return Err("the disk still fails when opened once more".to_owned());
        }
        let found = examine(&cache, Limits::NONE)?;
        let new = found.0.get(NEW_KEY).map(|seen| seen.content);
        if new != Some(Content::of(NEW_VALUE)) {
            // What was flushed is gone with the rest if the file was set aside after that.
            self.figures.add("lost after a flush", 1);
            if !aside {
                return Err(format!("what was flushed reads as {new:?} when opened once more"));
            }
        }
        cache.close().map_err(told)
    }

    /// Everything, in every way.
    fn read(&mut self, cache: &ByteCache, rng: &mut Rng) -> Result<(), String> {
        let good = self.good;
        let keys: Vec<&[u8]> = good.values.keys().map(Vec::as_slice).collect();
        let mut seen: BTreeMap<Key, Content> = BTreeMap::new();
        let mut ways: Vec<u64> = (0..5).collect();
        for i in 0..ways.len() {
            let other = rng.index(ways.len());
            ways.swap(i, other);
        }
        let mut note = |entry: &ByteEntry| {
            seen.insert(entry.key().into(), Content::of(entry));
        };
        for way in ways {
            match way {
                0 => {
                    for key in &keys {
                        cache.get(key).map_err(told)?.iter().for_each(&mut note);
                    }
                }
                1 => {
                    for entry in cache.iter() {
                        note(&entry.map_err(told)?);
                    }
                }
                2 => {
                    let found = cache.get_many(keys.iter().copied()).map_err(told)?;
                    found.iter().flatten().for_each(&mut note);
                }
                3 => {
                    let listed: Result<Vec<Key>, _> = cache.keys().collect();
                    let listed = listed.map_err(told)?;
                    if !listed.is_sorted_by(|a, b| a < b) {
                        return Err("a walk out of order".to_owned());
                    }
                    if listed.len() > 2 * keys.len() {
                        return Err(format!(
                            "{} keys where there were {}",
                            listed.len(),
                            keys.len()
                        ));
                    }
                }
                _ => {
                    for key in &keys {
                        cache.contains_key(key).map_err(told)?;
                    }
                }
            }
        }
        seen.into_iter().try_for_each(|(key, content)| self.judge(&key, content))
    }

    /// Whether a value that was found is one of its key's.
    fn judge(&mut self, key: &[u8], found: Content) -> Result<(), String> {
        self.figures.add("values read", 1);
        if key == NEW_KEY && found == Content::of(NEW_VALUE) {
            return Ok(());
        }
        let values = self.good.values.get(key).map_or(&[][..], Vec::as_slice);
        if values.last() == Some(&Some(found)) {
            return Ok(());
        }
        if values.contains(&Some(found)) {
            self.figures.add(self.damage.older_values(), 1);
            return Ok(());
        }
        let key = key.escape_ascii();
        Err(format!("a wrong value: key \"{key}\" was never {found:?}, it was {values:?}"))
    }

    fn write(&mut self, cache: &ByteCache, rng: &mut Rng) -> Result<(), String> {
        let keys: Vec<&[u8]> = self.good.values.keys().map(Vec::as_slice).collect();
        cache.insert(NEW_KEY, NEW_VALUE).map_err(told)?;
        if rng.below(2) == 0 {
            cache.remove(keys[rng.index(keys.len())]).map_err(told)?;
            let two = [keys[rng.index(keys.len())], keys[rng.index(keys.len())]];
            cache.remove_many(two).map_err(told)?;
        }
        if rng.below(10) == 0 {
            cache.clear().map_err(told)?;
            cache.insert(NEW_KEY, NEW_VALUE).map_err(told)?;
        }
        cache.flush().map_err(|error| format!("a flush failed: {error}"))?;
        match cache.get(NEW_KEY).map_err(told)?.as_deref() {
            Some(value) if value == NEW_VALUE => Ok(()),
            other => Err(format!("what was just written reads as {other:?}")),
        }
    }

    fn beside(&self, extension: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".");
        name.push(extension);
        name.into()
    }

    fn remove(&self) {
        let _ = fs::remove_file(&self.path);
        for extension in ["damaged", "lock"] {
            let _ = fs::remove_file(self.beside(extension));
        }
    }
}

/// Whether a file may be refused so. Its first bytes, its version and its types may be what is wrong.
fn refusal(error: &larder::Error, also: &[ErrorKind]) -> Result<(), String> {
    let kinds = [ErrorKind::Foreign, ErrorKind::Version, ErrorKind::Schema];
    if kinds.contains(&error.kind()) || also.contains(&error.kind()) {
        return Ok(());
    }
    Err(format!("refused with {:?}: {error}", error.kind()))
}
