//! The reference: what a cache does, said as plainly as possible and with no regard for speed.
//!
//! One ordered map holds every entry with its one timestamp; whether it is in memory too is a flag.
//! What is next to leave is found by looking at all of them. With a disk tier `committed` is what
//! the last commit left there; a commit takes over all entries and then evicts.

use std::collections::{BTreeMap, BTreeSet};

use larder::{DiskStrategy, ErrorKind, RemovalCause, Stats, Tier};

use super::{Answer, Event, Item, Key, Limits, Op, Options, Seen};

pub(super) const NEVER: u64 = u64::MAX;

#[derive(Debug, Clone)]
struct Entry {
    value: Vec<u8>,
    charge: u64,
    created: u64,
    deadline: u64,
    stamp: u64,
    /// The stamp of the last write.
    written: u64,
    labelled: bool,
    /// When the copy in memory leaves, if there is one.
    memory: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) options: Options,
    pub(super) now: u64,
    /// The last stamp that the clock gave.
    last: u64,
    entries: BTreeMap<Key, Entry>,
    /// What is on disk, with its charges.
    committed: BTreeMap<Key, u64>,
    /// Keys with an operation that is not committed; their number is in `stats`.
    pending: BTreeSet<Key>,
    /// Values on disk that were replaced and that the listener will hear of at the commit.
    unreported: BTreeMap<Key, Vec<u8>>,
    pub(super) stats: Stats,
    pub(super) events: Vec<Event>,
}

impl Model {
    pub(super) fn new(options: Options, now: u64) -> Self {
        Self {
            options,
            now,
            last: now - 1,
            entries: BTreeMap::new(),
            committed: BTreeMap::new(),
            pending: BTreeSet::new(),
            unreported: BTreeMap::new(),
            stats: Stats::default(),
            events: Vec::new(),
        }
    }

    /// The stamp of an entry, if there is one.
    pub(super) fn stamp_of(&self, key: &str) -> Option<u64> {
        self.entries.get(key.as_bytes()).map(|e| e.stamp)
    }

    /// How far the last moment is at which a time of this entry that is running is not over.
    pub(super) fn until_over(&self, key: &str) -> Option<i64> {
        let e = self.entries.get(key.as_bytes())?;
        let idle = e.stamp.saturating_add(self.options.time_to_idle.unwrap_or(NEVER));
        let times = [Some(e.deadline), Some(idle), e.memory].into_iter().flatten();
        let next = times.filter(|at| *at != NEVER && *at >= self.now).min()?;
        i64::try_from(next - self.now).ok()
    }

    /// What the cache holds: entries and bytes in memory, entries and bytes on disk, all entries.
    pub(super) fn held(&self) -> [u64; 5] {
        let memory = || self.entries.values().filter(|e| e.memory.is_some());
        [
            memory().count() as u64,
            memory().map(|e| e.charge).sum(),
            self.committed.len() as u64,
            self.committed.values().sum(),
            self.entries.len() as u64,
        ]
    }

    /// How full memory and disk are.
    pub(super) fn utilization(&self) -> (f64, f64) {
        let [entries, bytes, disk_entries, disk_bytes, _] = self.held();
        let disk = self.options.disk_limits.utilization(disk_entries, disk_bytes);
        (self.options.memory.utilization(entries, bytes), disk)
    }

    // Time.

    /// Stamp and time of an operation.
    fn moment(&mut self, at: Option<u64>) -> (u64, u64) {
        if let Some(at) = at {
            return (at, at);
        }
        self.last = self.now.max(self.last + 1);
        (self.last, self.now)
    }

    fn is_over(&self, deadline: u64, stamp: u64, wall: u64) -> bool {
        wall > deadline || wall > stamp.saturating_add(self.options.time_to_idle.unwrap_or(NEVER))
    }

    fn is_gone(&self, e: &Entry, wall: u64) -> bool {
        self.is_over(e.deadline, e.stamp, wall)
    }

    /// Whether there is a copy in memory, and its time there is over.
    fn is_stale(&self, e: &Entry, wall: u64) -> bool {
        e.memory.is_some_and(|deadline| self.is_over(deadline, e.stamp, wall))
    }

    fn deadline(&self, ttl: Option<u64>, wall: u64) -> u64 {
        let tier = if self.options.disk { self.options.disk_ttl } else { self.options.memory_ttl };
        wall.saturating_add(tier.unwrap_or(NEVER).min(ttl.unwrap_or(NEVER)))
    }

    /// When a copy that enters memory leaves it; `None` if it may not be there.
    fn copy(&self, charge: u64, deadline: u64, wall: u64) -> Option<u64> {
        let limits = self.options.memory;
        let fits = limits.entries != Some(0)
            && limits.bytes.is_none_or(|max| max > 0 && charge <= max)
            && self.options.max_memory_entry.is_none_or(|max| charge <= max);
        let lifetime = self.options.memory_ttl.filter(|_| self.options.disk).unwrap_or(NEVER);
        fits.then_some(deadline.min(wall.saturating_add(lifetime)))
    }

    // What leaves.

    fn lowest(&self) -> Tier {
        if self.options.disk { Tier::Disk } else { Tier::Memory }
    }

    fn event(&mut self, key: &[u8], value: &[u8], tier: Tier, cause: RemovalCause) {
        self.events.push(Event { key: key.to_vec(), value: value.to_vec(), tier, cause });
    }

    /// An operation for the disk.
    fn queue(&mut self, key: &[u8]) {
        if self.options.disk {
            self.pending.insert(key.to_vec());
            self.stats.pending_ops += 1;
        }
    }

    fn oldest(&self, of: impl Fn(&Entry) -> bool) -> Key {
        let all = self.entries.iter().filter(|(_, e)| of(e));
        all.min_by_key(|(key, e)| (e.stamp, *key)).expect("over its limits, so not empty").0.clone()
    }

    /// Who leaves the disk next.
    fn first_on_disk(&self) -> Key {
        let rank = |e: &Entry| match self.options.strategy {
            DiskStrategy::Lru => (e.stamp, 0),
            DiskStrategy::Fifo => (e.created, e.written),
            DiskStrategy::Ttl => (e.deadline, e.stamp),
            _ => unreachable!("not judged here"),
        };
        let first = self.entries.iter().min_by_key(|(key, e)| (rank(e), *key));
        first.expect("over its limits, so not empty").0.clone()
    }

    /// Whoever is oldest leaves memory, one by one.
    fn evict_memory(&mut self) {
        while self.options.memory.exceeded(self.held()[0], self.held()[1]) {
            let key = self.oldest(|e| e.memory.is_some());
            self.leave_memory(&key, RemovalCause::Size);
            self.stats.memory_evictions += 1;
        }
    }

    fn leave_memory(&mut self, key: &[u8], cause: RemovalCause) {
        let Some(mut e) = self.entries.remove(key) else { return };
        self.event(key, &e.value, Tier::Memory, cause);
        e.memory = None;
        if self.options.disk {
            self.entries.insert(key.to_vec(), e);
        }
    }

    /// What is pending reaches the disk, what is over leaves, and then whoever is first.
    pub(super) fn commit(&mut self, sweep: bool) -> u64 {
        if !self.options.disk {
            return 0;
        }
        for (key, value) in std::mem::take(&mut self.unreported) {
            self.event(&key, &value, Tier::Disk, RemovalCause::Replaced);
        }
        self.pending.clear();
        self.stats.pending_ops = 0;
        let all = self.entries.iter().filter(|(_, e)| sweep && self.is_gone(e, self.now));
        let gone: Vec<Key> = all.map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.leave_cache(key, RemovalCause::Expired);
            self.stats.disk_expirations += 1;
        }
        while {
            let bytes = self.entries.values().map(|e| e.charge).sum();
            self.options.disk_limits.exceeded(self.entries.len() as u64, bytes)
        } {
            let key = self.first_on_disk();
            self.leave_cache(&key, RemovalCause::Size);
            self.stats.disk_evictions += 1;
        }
        self.committed = self.entries.iter().map(|(key, e)| (key.clone(), e.charge)).collect();
        gone.len() as u64
    }

    fn leave_cache(&mut self, key: &[u8], cause: RemovalCause) -> Option<Entry> {
        let e = self.entries.remove(key)?;
        self.event(key, &e.value, self.lowest(), cause);
        Some(e)
    }

    /// Takes out what is over of an entry that was met.
    fn meet(&mut self, key: &[u8], wall: u64) {
        let Some(e) = self.entries.get(key) else { return };
        let (stale, gone) = (self.is_stale(e, wall), self.is_gone(e, wall));
        self.stats.memory_expirations += u64::from(stale);
        if gone {
            self.stats.disk_expirations += u64::from(self.options.disk);
            self.leave_cache(key, RemovalCause::Expired);
            self.queue(key);
        } else if stale {
            self.leave_memory(key, RemovalCause::Expired);
        }
    }

    // Operations.

    fn seen(&self, key: &[u8], e: &Entry, tier: Tier) -> Seen {
        let idle = e.stamp.saturating_add(self.options.time_to_idle.unwrap_or(NEVER));
        let expiry = e.deadline.min(idle);
        Seen {
            key: key.to_vec(),
            value: e.value.clone(),
            size: e.charge,
            created: e.created,
            accessed: e.stamp,
            expires: Some(expiry).filter(|at| *at != NEVER),
            remaining: Some(expiry.saturating_sub(self.now)).filter(|_| expiry != NEVER),
            expired: self.now > expiry,
            labelled: e.labelled,
            tier,
        }
    }

    fn look(&self, key: &[u8], wall: u64) -> Option<Seen> {
        let e = self.entries.get(key).filter(|e| !self.is_gone(e, wall))?;
        let above = e.memory.is_some() && !self.is_stale(e, wall);
        Some(self.seen(key, e, if above { Tier::Memory } else { Tier::Disk }))
    }

    fn get(&mut self, key: &[u8], at: Option<u64>) -> Option<Seen> {
        let (stamp, wall) = self.moment(at);
        self.meet(key, wall);
        self.stats.gets += 1;
        let Some(mut e) = self.entries.remove(key) else {
            self.stats.misses += 1;
            return None;
        };
        e.stamp = stamp;
        let tier = if e.memory.is_some() { Tier::Memory } else { Tier::Disk };
        self.stats.memory_hits += u64::from(tier == Tier::Memory);
        self.stats.disk_hits += u64::from(tier == Tier::Disk);
        if tier == Tier::Disk {
            e.memory = self.copy(e.charge, e.deadline, wall);
            self.stats.promotions += u64::from(e.memory.is_some());
        }
        let seen = self.seen(key, &e, tier);
        self.entries.insert(key.to_vec(), e);
        self.evict_memory();
        Some(seen)
    }

    fn get_many(&mut self, keys: &[&str], at: Option<u64>) -> Vec<Option<Seen>> {
        let wall = at.unwrap_or(self.now);
        let look = |key: &&str| self.look(key.as_bytes(), wall);
        let found: Vec<Option<Seen>> = keys.iter().map(look).collect();
        for seen in &found {
            self.stats.gets += 1;
            match seen.as_ref().map(|seen| seen.tier) {
                None => self.stats.misses += 1,
                Some(Tier::Memory) => self.stats.memory_hits += 1,
                Some(_) => self.stats.disk_hits += 1,
            }
        }
        found
    }

    /// Of a call that inserts so many.
    fn check_size(&mut self, item: &Item, inserts: usize) -> Result<(), ErrorKind> {
        let options = &self.options;
        let limit = if options.disk { options.disk_limits.bytes } else { options.memory.bytes };
        if limit.is_none_or(|max| item.charge(options) <= max) {
            return Ok(());
        }
        self.stats.rejected += inserts as u64;
        Err(ErrorKind::TooLarge)
    }

    /// Puts an entry in, in the place of an old one; the caller evicts.
    fn put(&mut self, item: &Item, (stamp, wall): (u64, u64)) {
        let (key, charge) = (item.key.as_bytes(), item.charge(&self.options));
        if let Some(old) = self.entries.get(key).cloned() {
            if old.memory.is_some() {
                self.event(key, &old.value, Tier::Memory, RemovalCause::Replaced);
            } else if self.pending.contains(key) {
                self.event(key, &old.value, Tier::Disk, RemovalCause::Replaced);
            } else {
                self.unreported.insert(key.to_vec(), old.value);
            }
        }
        let deadline = self.deadline(item.ttl, wall);
        let memory = self.copy(charge, deadline, wall);
        let (value, labelled) = (item.value.clone(), item.labelled);
        let (created, written) = (wall, stamp);
        let e = Entry { value, charge, created, deadline, stamp, written, labelled, memory };
        self.entries.insert(key.to_vec(), e);
        self.stats.inserts += 1;
        self.queue(key);
    }

    /// The end of every write.
    fn written(&mut self) {
        self.evict_memory();
        if self.options.through {
            self.commit(false);
        }
    }

    fn insert(&mut self, item: &Item, at: Option<u64>) -> Result<(), ErrorKind> {
        let moment = self.moment(at);
        self.check_size(item, 1)?;
        self.put(item, moment);
        self.written();
        Ok(())
    }

    fn insert_if_absent(&mut self, item: &Item) -> Result<bool, ErrorKind> {
        let moment = self.moment(None);
        self.meet(item.key.as_bytes(), self.now);
        if self.entries.contains_key(item.key.as_bytes()) {
            return Ok(false);
        }
        self.check_size(item, 1)?;
        self.put(item, moment);
        self.written();
        Ok(true)
    }

    fn insert_many(&mut self, items: &[Item], at: Option<u64>) -> Result<(), ErrorKind> {
        items.iter().try_for_each(|item| self.check_size(item, items.len()))?;
        if items.is_empty() {
            return Ok(());
        }
        let moment = self.moment(at);
        let last: BTreeMap<&str, &Item> = items.iter().map(|item| (item.key, item)).collect();
        self.stats.inserts += (items.len() - last.len()) as u64;
        for item in last.into_values() {
            self.put(item, moment);
        }
        self.written();
        Ok(())
    }

    fn touch(&mut self, key: &[u8], ttl: Option<u64>) -> bool {
        let (stamp, wall) = self.moment(None);
        if self.entries.get(key).is_some_and(|e| self.is_gone(e, wall)) {
            self.meet(key, wall);
        }
        let Some(mut e) = self.entries.get(key).cloned() else { return false };
        (e.stamp, e.written, e.deadline) = (stamp, stamp, self.deadline(ttl, wall));
        e.memory = self.copy(e.charge, e.deadline, wall);
        self.entries.insert(key.to_vec(), e);
        self.queue(key);
        self.written();
        true
    }

    fn take(&mut self, key: &[u8]) -> Option<Seen> {
        let gone = self.is_gone(self.entries.get(key)?, self.now);
        let cause = if gone { RemovalCause::Expired } else { RemovalCause::Explicit };
        let e = self.leave_cache(key, cause)?;
        self.queue(key);
        if gone {
            self.stats.memory_expirations += u64::from(e.memory.is_some());
            self.stats.disk_expirations += u64::from(self.options.disk);
            return None;
        }
        let above = e.memory.is_some() && !self.is_stale(&e, self.now);
        Some(self.seen(key, &e, if above { Tier::Memory } else { Tier::Disk }))
    }

    fn remove(&mut self, keys: &[&str]) -> Vec<Seen> {
        let keys: BTreeSet<&str> = keys.iter().copied().collect();
        let taken = keys.into_iter().filter_map(|key| self.take(key.as_bytes())).collect();
        self.written();
        taken
    }

    fn walk(&self, prefix: &str) -> Vec<Seen> {
        let keys = self.entries.keys().filter(|key| key.starts_with(prefix.as_bytes()));
        keys.filter_map(|key| self.look(key, self.now)).collect()
    }

    fn purge(&mut self) -> u64 {
        let all = self.entries.iter().filter(|(_, e)| self.is_stale(e, self.now));
        let stale: Vec<Key> = all.map(|(key, _)| key.clone()).collect();
        for key in &stale {
            self.stats.memory_expirations += 1;
            // What leaves the disk as well is reported once, from there.
            let gone = self.is_gone(&self.entries[key], self.now);
            if !(gone && self.options.disk) {
                self.leave_memory(key, RemovalCause::Expired);
            }
        }
        if self.options.disk { self.commit(true) } else { stale.len() as u64 }
    }

    fn set_limits(
        &mut self,
        memory: Option<Limits>,
        disk: Option<Limits>,
    ) -> Result<(), ErrorKind> {
        let zero = |limits: Limits| limits.entries == Some(0) || limits.bytes == Some(0);
        let none = disk.is_none_or(|disk| disk == Limits::default());
        if memory.is_some_and(|memory| zero(memory) && !self.options.disk)
            || disk.is_some_and(zero)
            || !none && !self.options.disk
        {
            return Err(ErrorKind::InvalidOption);
        }
        self.options.memory = memory.unwrap_or(self.options.memory);
        self.evict_memory();
        if let Some(disk) = disk {
            self.options.disk_limits = disk;
            self.commit(false);
        }
        Ok(())
    }

    fn clear(&mut self) -> u64 {
        let count = self.entries.len() as u64;
        self.entries.clear();
        self.commit(false);
        count
    }

    /// Closes, and opens with the same options, or with other limits or another strategy.
    /// To what the clock has to be moved so that it does not matter which of the stamps that it gave the file notes:
    /// of those that nothing came of, none.
    pub(super) fn reopens_at(&self) -> u64 {
        self.now.max(self.last + 1)
    }

    fn reopen(&mut self, limits: Option<(Limits, Limits)>, strategy: Option<DiskStrategy>) {
        self.now = self.reopens_at();
        self.commit(false);
        self.options.strategy = strategy.unwrap_or(self.options.strategy);
        for e in self.entries.values_mut() {
            e.memory = None;
        }
        self.entries.retain(|_, _| self.options.disk);
        let now = (self.options.memory, self.options.disk_limits);
        (self.options.memory, self.options.disk_limits) = limits.unwrap_or(now);
        (self.last, self.stats) = (self.now - 1, Stats::default());
        self.commit(true);
    }

    /// What is wrong with the keys of an operation; a batch is checked item by item.
    fn check_keys(&mut self, op: &Op) -> Result<(), ErrorKind> {
        let is_bad = |key: &&str| key.is_empty() || key.len() > super::KEY_BYTES_MAX;
        let Some(bad) = op.keys().iter().position(is_bad) else { return Ok(()) };
        if let Op::InsertMany(items) = op {
            items[..bad].iter().try_for_each(|item| self.check_size(item, items.len()))?;
        }
        Err(ErrorKind::InvalidKey)
    }

    pub(super) fn apply(&mut self, op: &Op, at: Option<u64>) -> Result<Answer, ErrorKind> {
        self.check_keys(op)?;
        let wall = at.unwrap_or(self.now);
        Ok(match op {
            Op::Insert(item) => Answer::done(self.insert(item, at)?),
            Op::InsertIfAbsent(item) => Answer::Is(self.insert_if_absent(item)?),
            Op::InsertMany(items) => Answer::done(self.insert_many(items, at)?),
            Op::Touch(key, ttl) => Answer::Is(self.touch(key.as_bytes(), *ttl)),
            Op::Get(key) => Answer::Entry(self.get(key.as_bytes(), at)),
            Op::View(key) | Op::GetInto(key) => {
                Answer::Value(self.get(key.as_bytes(), None).map(|seen| seen.value))
            }
            Op::GetMany(keys) => Answer::Slots(self.get_many(keys, at)),
            Op::Peek(key) => Answer::Entry(self.look(key.as_bytes(), wall)),
            Op::Contains(key) => Answer::Is(self.look(key.as_bytes(), wall).is_some()),
            Op::Keys(prefix) => {
                Answer::Keys(self.walk(prefix.unwrap_or("")).into_iter().map(|s| s.key).collect())
            }
            Op::Iter => Answer::Slots(self.walk("").into_iter().map(Some).collect()),
            _ => self.maintain(op)?,
        })
    }

    fn maintain(&mut self, op: &Op) -> Result<Answer, ErrorKind> {
        self.stats.removes += match op {
            Op::Remove(_) | Op::Invalidate(_) | Op::RemoveMany(_) => op.keys().len() as u64,
            _ => 0,
        };
        Ok(match op {
            Op::Remove(key) => Answer::Entry(self.remove(&[key]).pop()),
            Op::Invalidate(key) => Answer::Is(!self.remove(&[key]).is_empty()),
            Op::RemoveMany(keys) => Answer::Count(self.remove(keys).len() as u64),
            Op::InvalidatePrefix(prefix) => {
                // What is over goes, too, and does not count.
                let mut keys: Vec<Key> = self.entries.keys().cloned().collect();
                keys.retain(|key| key.starts_with(prefix.as_bytes()));
                let keys = keys.iter().filter_map(|key| std::str::from_utf8(key).ok());
                Answer::Count(self.remove(&keys.collect::<Vec<_>>()).len() as u64)
            }
            Op::Clear => Answer::Count(self.clear()),
            Op::SetMemoryLimits(limits) => Answer::done(self.set_limits(Some(*limits), None)?),
            Op::SetDiskLimits(limits) => Answer::done(self.set_limits(None, Some(*limits))?),
            Op::Purge => Answer::Count(self.purge()),
            Op::Flush => {
                self.commit(false);
                Answer::Done
            }
            Op::ResetStats => {
                let pending_ops = self.stats.pending_ops;
                self.stats = Stats::default();
                self.stats.pending_ops = pending_ops;
                Answer::Done
            }
            Op::Advance(by) => {
                self.now = self.now.saturating_add_signed(*by);
                Answer::Done
            }
            Op::Reopen(limits, strategy) => {
                self.reopen(*limits, *strategy);
                Answer::Done
            }
            _ => unreachable!("{op:?} maintains nothing"),
        })
    }
}
