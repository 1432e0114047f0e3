//! What may be found after a crash: the state after some prefix of the operations.
//!
//! A [`Log`] has the state to begin with and the operations in their order. [`examine`] reads the
//! state from a cache that was opened again, and checks that its sums, walks and reads agree.
//! [`Log::explain`] says after how many operations the state is the one found.
//!
//! # How it works
//!
//! The operations are applied one by one to a plain LRU. How many of its entries are as found is kept
//! up along the way, so a prefix costs what its last operation costs.
//!
//! What a limit takes out depends on where commits were, because entries leave at commits, after all
//! operations of the commit are in. Where that is not known, the stamps must rise, and nothing may be
//! touched: then the state is the newest entries of all that were put and not removed, at least as
//! many as if each operation had been committed by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};

use larder::{ByteCache, ByteEntry};

/// The deadline of what does not expire.
pub(crate) const NEVER: u64 = u64::MAX;

pub(crate) type Key = Vec<u8>;

/// What a value is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) len: u64,
    hash: u64,
}

impl Content {
    pub(crate) fn of(value: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(value);
        Self { len: value.len() as u64, hash: hasher.finish() }
    }
}

/// An entry as it is put in.
#[derive(Debug, Clone)]
pub(crate) struct Put {
    pub(crate) key: Key,
    pub(crate) content: Content,
    /// Its place in the order.
    pub(crate) stamp: u64,
    pub(crate) deadline: u64,
}

/// One operation. Those that change nothing need not be in a log.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Put(Put),
    /// All or nothing; of several with one key the last one stays.
    PutMany(Vec<Put>),
    Remove(Key),
    RemoveMany(Vec<Key>),
    Clear,
    /// A read at this time: it becomes the entry's recency, on disk at the next flush or before.
    /// What has expired by then is removed.
    Touch(Key, u64),
    Flush,
}

/// Of the disk tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) entries: Option<u64>,
    pub(crate) bytes: Option<u64>,
}

impl Limits {
    pub(crate) const NONE: Self = Self { entries: None, bytes: None };

    fn exceeded(self, entries: u64, bytes: u64) -> bool {
        self.entries.is_some_and(|max| entries > max) || self.bytes.is_some_and(|max| bytes > max)
    }
}

/// Where the commits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commits {
    /// After each operation, as with write-through and one thread.
    EachOperation,
    /// At `Flush` and `Clear`, and nowhere else.
    AtFlush,
    /// Anywhere; with limits the stamps must rise, and there must be no `Touch`. A commit may have the
    /// recency of reads that came after its last operation.
    Anywhere,
}

/// Whether the stamps and deadlines of the log are those that the cache gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamps {
    Known,
    /// They have the right order only, so they are not compared.
    InOrder,
}

/// An entry that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) content: Content,
    pub(crate) charge: u64,
    pub(crate) stamp: u64,
    pub(crate) deadline: u64,
}

impl Seen {
    fn of(entry: &ByteEntry) -> Self {
        Self {
            content: Content::of(entry),
            charge: entry.size_bytes(),
            stamp: entry.accessed_at().as_nanos(),
            deadline: entry.expires_at().map_or(NEVER, larder::Timestamp::as_nanos),
        }
    }
}

/// All entries that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found(pub(crate) BTreeMap<Key, Seen>);

impl Found {
    /// Those whose key begins so.
    pub(crate) fn with_prefix(&self, prefix: &[u8]) -> Self {
        let of = self.0.iter().filter(|(key, _)| key.starts_with(prefix));
        Self(of.map(|(key, seen)| (key.clone(), *seen)).collect())
    }

    /// As the puts that lead to it, for the log of what happens next.
    pub(crate) fn puts(&self) -> Vec<Put> {
        let put = |(key, seen): (&Key, &Seen)| Put {
            key: key.clone(),
            content: seen.content,
            stamp: seen.stamp,
            deadline: seen.deadline,
        };
        self.0.iter().map(put).collect()
    }
}

/// Reads all that a cache with a disk tier holds, at a quiet moment, after a flush. The error says
/// what does not agree. Charges must be those of keys and values.
pub(crate) fn examine(cache: &ByteCache, limits: Limits) -> Result<Found, String> {
    let failed = |error: larder::Error| format!("{error} where nothing should fail");
    cache.purge_expired().map_err(failed)?;
    cache.flush().map_err(failed)?;
    let mut found = BTreeMap::new();
    let mut last: Option<Key> = None;
    for entry in cache.iter() {
        let entry = entry.map_err(failed)?;
        let key = entry.key().to_vec();
        if last.is_some_and(|last| last >= key) {
            return Err(format!("the walk comes to {} out of order", shown(&key)));
        }
        found.insert(key.clone(), Seen::of(&entry));
        last = Some(key);
    }
    let keys: Result<Vec<Key>, _> = cache.keys().collect();
    let keys = keys.map_err(failed)?;
    agree("keys() and iter()", &keys.len(), &found.len())?;
    for (key, seen) in &found {
        let entry = cache.peek(key).map_err(failed)?;
        let there = cache.contains_key(key).map_err(failed)?;
        agree(&shown(key), &(entry.as_ref().map(Seen::of), there), &(Some(*seen), true))?;
        agree(&format!("the charge of {}", shown(key)), &seen.charge, &charge(key, seen.content))?;
    }
    let many = cache.get_many(keys.iter().map(Vec::as_slice)).map_err(failed)?;
    for (entry, (key, seen)) in many.iter().zip(&found) {
        agree(&shown(key), &entry.as_ref().map(Seen::of), &Some(*seen))?;
    }
    let (count, bytes) = (found.len() as u64, found.values().map(|seen| seen.charge).sum::<u64>());
    agree("len() and its recount", &cache.len(), &count)?;
    agree("disk_len() and its recount", &cache.disk_len(), &count)?;
    agree("disk_bytes() and its recount", &cache.disk_bytes(), &bytes)?;
    let stats = cache.stats();
    let odd = (stats.pending_ops, stats.corrupt, stats.disk_errors);
    agree("pending, corrupt and failed", &odd, &(0, 0, 0))?;
    agree("validate()", &cache.validate(), &Ok(()))?;
    let report = cache.verify().map_err(failed)?;
    if !report.is_ok() {
        return Err(format!("verification finds {report:?}"));
    }
    if limits.exceeded(count, bytes) {
        return Err(format!("{count} entries of {bytes} bytes exceed {limits:?}"));
    }
    Ok(Found(found))
}

/// Shrinks the disk tier to `keep` entries and checks that the oldest ones left.
pub(crate) fn check_order(cache: &ByteCache, found: &Found, keep: u64) -> Result<(), String> {
    let failed = |error: larder::Error| format!("{error} while evicting");
    cache.set_disk_limits(Some(keep), None).map_err(failed)?;
    let mut order: Vec<(u64, &Key)> = found.0.iter().map(|(k, seen)| (seen.stamp, k)).collect();
    order.sort_unstable();
    let left = order.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
    let expected: BTreeSet<&Key> = order.iter().skip(left).map(|(_, key)| *key).collect();
    let keys: Result<BTreeSet<Key>, _> = cache.keys().collect();
    let keys = keys.map_err(failed)?;
    match expected.iter().find(|key| !keys.contains(**key)) {
        Some(key) => Err(format!("{} left before an older one, {keep} kept", shown(key))),
        None => agree("the entries kept", &keys.len(), &expected.len()),
    }
}

fn agree<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: expected {expected:?}, found {found:?}"))
}

fn shown(key: &[u8]) -> String {
    format!("key \"{}\"", key.escape_ascii())
}

fn charge(key: &[u8], content: Content) -> u64 {
    key.len() as u64 + content.len
}

/// Operations in their order, and what there was before them.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) before: Found,
    pub(crate) ops: Vec<Op>,
    pub(crate) limits: Limits,
    pub(crate) commits: Commits,
    pub(crate) stamps: Stamps,
}

impl Log {
    /// The number of operations after which the state is the one found, out of `durable` to `begun`.
    /// What has expired `now` is expected to be gone. The error tells how the nearest state differs.
    pub(crate) fn explain(
        &self,
        found: &Found,
        durable: usize,
        begun: usize,
        now: u64,
    ) -> Result<usize, String> {
        let begun = begun.min(self.ops.len());
        let (mut nearest, mut lost) = ((usize::MAX, durable), None);
        let mut replay = Replay::new(self, found, now);
        for done in 0..=begun {
            if done > 0 {
                replay.step(&self.ops[done - 1]);
            }
            if !self.may_end(done) {
                continue;
            }
            if replay.fits() && done >= durable {
                return Ok(done);
            } else if replay.fits() {
                lost = Some(done);
            } else if done >= durable {
                nearest = nearest.min((replay.differences(), done));
            }
        }
        let mut replay = Replay::new(self, found, now);
        self.ops[..nearest.1].iter().for_each(|op| replay.step(op));
        let kind = match lost {
            Some(done) => {
                format!("those after {done}, behind which came {:?}", &self.ops[done..begun])
            }
            None => "those after no number of them".to_owned(),
        };
        let (count, nearest) = (found.0.len(), nearest.1);
        Err(format!(
            "expected the state after {durable} to {begun} operations, found {count} entries, {kind}; \
             after {nearest} it would be:{}",
            replay.told()
        ))
    }

    /// Whether a crash may leave what so many operations made.
    fn may_end(&self, done: usize) -> bool {
        match self.commits {
            Commits::EachOperation | Commits::Anywhere => true,
            Commits::AtFlush => done == 0 || matches!(self.ops[done - 1], Op::Flush | Op::Clear),
        }
    }
}

/// A log on its way, compared with what was found.
struct Replay<'a> {
    log: &'a Log,
    /// With all entries that no commit can have been made to evict, or just those there are.
    most: Tier<'a>,
    /// Where commits are not known: as if each operation had one of its own.
    least: Option<Tier<'a>>,
}

impl<'a> Replay<'a> {
    fn new(log: &'a Log, found: &'a Found, now: u64) -> Self {
        let unknown = log.commits == Commits::Anywhere && log.limits != Limits::NONE;
        let tier = || Tier::new(log, found, now);
        let mut replay = Self { log, most: tier(), least: unknown.then(tier) };
        if !unknown {
            replay.most.evict(log.limits);
        }
        if let Some(least) = &mut replay.least {
            least.evict(log.limits);
        }
        replay
    }

    fn step(&mut self, op: &Op) {
        self.most.apply(op);
        let commits = match self.log.commits {
            Commits::EachOperation => true,
            Commits::AtFlush => matches!(op, Op::Flush | Op::Clear),
            Commits::Anywhere => false,
        };
        if commits {
            self.most.evict(self.log.limits);
        }
        if let Some(least) = &mut self.least {
            least.apply(op);
            least.evict(self.log.limits);
        }
    }

    fn fits(&self) -> bool {
        let (found, most) = (self.most.found.0.len(), &self.most);
        match &self.least {
            None => most.counts.as_found == found && most.counts.alive == found,
            Some(least) => {
                most.counts.as_found == found
                    && most.counts.newer == found
                    && least.entries.len() <= found
            }
        }
    }

    fn differences(&self) -> usize {
        let (found, most) = (self.most.found.0.len(), &self.most);
        let expected = if self.least.is_none() { most.counts.alive } else { most.counts.newer };
        found + expected - 2 * most.counts.as_found.min(expected)
    }

    /// A few entries that differ.
    fn told(&self) -> String {
        let found = &self.most.found.0;
        let keys: BTreeSet<&Key> = self.most.entries.keys().chain(found.keys()).collect();
        let expected = |key: &Key| {
            let held = self.most.entries.get(key).filter(|held| held.deadline >= self.most.now)?;
            let oldest = self.most.oldest.as_ref().filter(|_| self.least.is_some());
            oldest.is_none_or(|oldest| (held.stamp(), key) >= (oldest.0, &oldest.1)).then_some(held)
        };
        let differs = |key: &&&Key| match (expected(key), found.get(**key)) {
            (None, None) => false,
            (Some(held), Some(seen)) => !self.most.is_as_found(key, held, seen),
            _ => true,
        };
        let lines = keys.iter().filter(differs).take(5).map(|key| {
            let (expected, found) = (expected(key), found.get(*key));
            format!("\n  {}: expected {expected:?}, found {found:?}", shown(key))
        });
        lines.collect()
    }
}

#[derive(Debug, Clone)]
struct Held {
    content: Content,
    deadline: u64,
    /// The last one is its recency; before it are those that the disk may still have.
    stamps: Vec<u64>,
    counts: Counts,
}

/// What an entry adds to those of its tier.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Entries that have not expired.
    alive: usize,
    /// Of these, those no older than the oldest found.
    newer: usize,
    /// Of these, those that are as found.
    as_found: usize,
}

impl Held {
    fn stamp(&self) -> u64 {
        self.stamps.last().copied().unwrap_or(0)
    }
}

/// A tier that evicts the least recently used, compared with what was found.
struct Tier<'a> {
    entries: BTreeMap<Key, Held>,
    order: BTreeSet<(u64, Key)>,
    bytes: u64,
    /// Keys whose entries have more than one stamp.
    touched: BTreeSet<Key>,
    found: &'a Found,
    /// The oldest entry that was found.
    oldest: Option<(u64, Key)>,
    stamps: Stamps,
    now: u64,
    counts: Counts,
    /// Operations so far.
    done: usize,
    /// Reads whose recency may be there early: of each key, after how many operations, and the stamp.
    early: BTreeMap<&'a Key, Vec<(usize, u64)>>,
}

impl<'a> Tier<'a> {
    fn new(log: &'a Log, found: &'a Found, now: u64) -> Self {
        let mut early: BTreeMap<&Key, Vec<(usize, u64)>> = BTreeMap::new();
        if log.commits == Commits::Anywhere {
            for (at, op) in log.ops.iter().enumerate() {
                if let Op::Touch(key, stamp) = op {
                    early.entry(key).or_default().push((at, *stamp));
                }
            }
        }
        let mut tier = Self {
            entries: BTreeMap::new(),
            order: BTreeSet::new(),
            bytes: 0,
            touched: BTreeSet::new(),
            found,
            oldest: found.0.iter().map(|(key, seen)| (seen.stamp, key.clone())).min(),
            stamps: log.stamps,
            now,
            counts: Counts::default(),
            done: 0,
            early,
        };
        for put in log.before.puts() {
            tier.put(&put);
        }
        tier
    }

    fn apply(&mut self, op: &Op) {
        self.done += 1;
        match op {
            Op::Put(put) => self.put(put),
            Op::PutMany(puts) => puts.iter().for_each(|put| self.put(put)),
            Op::Remove(key) => drop(self.take(key)),
            Op::RemoveMany(keys) => keys.iter().for_each(|key| drop(self.take(key))),
            Op::Clear => {
                let keys: Vec<Key> = self.entries.keys().cloned().collect();
                for key in &keys {
                    self.take(key);
                }
            }
            Op::Touch(key, stamp) => {
                if let Some(mut held) = self.take(key).filter(|held| held.deadline >= *stamp) {
                    held.stamps.push(*stamp);
                    self.touched.insert(key.clone());
                    self.enter(key, held);
                }
            }
            Op::Flush => {
                for key in std::mem::take(&mut self.touched) {
                    if let Some(mut held) = self.take(&key) {
                        held.stamps.drain(..held.stamps.len() - 1);
                        self.enter(&key, held);
                    }
                }
            }
        }
    }

    fn put(&mut self, put: &Put) {
        self.take(&put.key);
        let (stamps, counts) = (vec![put.stamp], Counts::default());
        self.enter(&put.key, Held { content: put.content, deadline: put.deadline, stamps, counts });
    }

    fn evict(&mut self, limits: Limits) {
        while limits.exceeded(self.entries.len() as u64, self.bytes) {
            let Some((_, key)) = self.order.first().cloned() else { return };
            self.take(&key);
        }
    }

    fn enter(&mut self, key: &Key, mut held: Held) {
        self.bytes += charge(key, held.content);
        self.order.insert((held.stamp(), key.clone()));
        held.counts = self.counts_of(key, &held);
        self.counts.alive += held.counts.alive;
        self.counts.newer += held.counts.newer;
        self.counts.as_found += held.counts.as_found;
        self.entries.insert(key.clone(), held);
    }

    fn take(&mut self, key: &Key) -> Option<Held> {
        let held = self.entries.remove(key)?;
        self.bytes -= charge(key, held.content);
        self.order.remove(&(held.stamp(), key.clone()));
        self.counts.alive -= held.counts.alive;
        self.counts.newer -= held.counts.newer;
        self.counts.as_found -= held.counts.as_found;
        Some(held)
    }

    fn counts_of(&self, key: &Key, held: &Held) -> Counts {
        if held.deadline < self.now {
            return Counts::default();
        }
        let oldest = self.oldest.as_ref().map(|(stamp, key)| (*stamp, key));
        let newer = oldest.is_some_and(|oldest| (held.stamp(), key) >= oldest);
        let seen = self.found.0.get(key);
        let as_found = seen.is_some_and(|seen| self.is_as_found(key, held, seen));
        Counts { alive: 1, newer: usize::from(newer), as_found: usize::from(as_found) }
    }

    fn is_as_found(&self, key: &Key, held: &Held, seen: &Seen) -> bool {
        let early = || self.early.get(key).into_iter().flatten();
        held.content == seen.content
            && (self.stamps == Stamps::InOrder
                || held.deadline == seen.deadline
                    && (held.stamps.contains(&seen.stamp)
                        || early().any(|(at, stamp)| *at >= self.done && *stamp == seen.stamp)))
    }
}
