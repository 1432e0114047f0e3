//! Walking: all keys, those with a prefix, all entries.
//!
//! A walk reads keys in pages, each from the state of the moment, and looks every key up as it gets
//! there: so it holds nothing open, gives no value that was removed before it got there, and gives
//! every entry that is there throughout exactly once. Entries that come meanwhile may be missing.
//!
//! With a disk tier the order is that of the keys: pages of the disk are merged with the keys that
//! were not on disk when the walk began; where the disk cannot be read, with all that memory has. Without
//! one it is that of the shards.

use std::collections::BTreeSet;

use crate::engine::Core;
use crate::engine::pending::{Pending, What};
use crate::entry::Found;
use crate::error::Result;
use crate::record::Record;
use crate::trace::trace_op;

/// Keys that are read from disk at a time.
const PAGE_KEYS: usize = 256;

/// The state of one walk; lent the core at each step.
#[derive(Debug)]
pub(crate) struct Walk {
    prefix: Vec<u8>,
    /// Keys that are not on disk, or not known to be, and not yet given.
    above: BTreeSet<Vec<u8>>,
    /// The rest of the page, last key first.
    page: Vec<Box<[u8]>>,
    /// Where the next page begins, exclusive.
    after: Option<Box<[u8]>>,
    /// The next shard to list, without a disk tier.
    shard: usize,
    /// How many operations had been shed when memory was last listed: what the queue has no room for is in
    /// memory only, and leaves the disk.
    shed: u64,
    disk_done: bool,
    failed: bool,
}

impl Core {
    /// Begins a caller's walk over the keys that start with `prefix`.
    pub(crate) fn begin_walk(&self, prefix: &[u8]) -> Walk {
        trace_op!("walk", prefix, "begun", self.lowest().name());
        self.walk(prefix)
    }

    /// Begins a walk over the keys that start with `prefix`.
    pub(super) fn walk(&self, prefix: &[u8]) -> Walk {
        let mut walk = Walk {
            prefix: prefix.to_vec(),
            above: BTreeSet::new(),
            page: Vec::new(),
            after: None,
            shard: 0,
            shed: self.counts.shed.get(),
            disk_done: self.disk.is_none(),
            failed: false,
        };
        if self.disk.is_some() {
            for index in 0..self.memory.shard_count() {
                let locked = self.memory.lock_nth(index);
                let memory = locked
                    .shard
                    .ids()
                    .filter(|id| locked.shard.handed(*id) == crate::memory::NOT_BELOW)
                    .map(|id| locked.shard.record(id));
                let puts = locked.side.pending_ops().filter_map(|p| match &p.what {
                    What::Put(record) => Some(record),
                    What::Gone(_) => None,
                });
                let keys = memory.chain(puts).map(Record::key).filter(|k| k.starts_with(prefix));
                walk.above.extend(keys.map(<[u8]>::to_vec));
            }
        }
        walk
    }

    /// Adds the keys that a shard has in memory behind `after`.
    fn list_shard(
        &self,
        index: usize,
        prefix: &[u8],
        after: Option<&[u8]>,
        into: &mut BTreeSet<Vec<u8>>,
    ) {
        let locked = self.memory.lock_nth(index);
        let keys = locked.shard.ids().map(|id| locked.shard.record(id).key());
        let rest = keys.filter(|key| key.starts_with(prefix) && after.is_none_or(|a| *key > a));
        into.extend(rest.map(<[u8]>::to_vec));
    }

    /// Entries in either tier, those that have expired and are not yet swept included. Counts what
    /// is not yet committed by looking up whether the disk has it.
    pub(crate) fn len(&self) -> u64 {
        let Some(disk) = &self.disk else { return self.memory.held().0 };
        loop {
            let snapshot = disk.disk.snapshot();
            let (mut uncommitted, mut memory_only, mut cleared) = (Vec::new(), 0, false);
            for index in 0..self.memory.shard_count() {
                let locked = self.memory.lock_nth(index);
                // What is also below is not counted there while the disk cannot be read.
                let is_unread = snapshot.is_none();
                let is_in_memory = |p: &Pending| {
                    let key = p.what.record().key();
                    locked.shard.find(self.memory.hash(key), key).is_some()
                };
                let pending = locked.side.pending_ops().filter(|p| !is_unread || !is_in_memory(p));
                uncommitted.extend(pending.map(|p| p.what.clone()));
                cleared |= locked.side.cleared.is_some();
                let only =
                    |id: &_| is_unread || locked.shard.handed(*id) == crate::memory::NOT_BELOW;
                memory_only += locked.shard.ids().filter(only).count() as u64;
            }
            let known = snapshot.as_ref().filter(|_| !cleared);
            let base = known.map_or(0, |snapshot| snapshot.entries);
            let (mut more, mut fewer) = (memory_only, 0);
            for what in &uncommitted {
                let there = known.is_some_and(|s| s.contains(what.record().key()).unwrap_or(false));
                match what {
                    What::Put(_) if !there => more += 1,
                    What::Gone(_) if there => fewer += 1,
                    What::Put(_) | What::Gone(_) => {}
                }
            }
            // Or a commit may have taken some of this along before it was looked at.
            if disk.disk.is_newest(snapshot.as_ref()) {
                return (base + more).saturating_sub(fewer);
            }
        }
    }
}

impl Walk {
    /// The next key that is there.
    pub(crate) fn next_key(&mut self, core: &Core) -> Option<Result<Vec<u8>>> {
        self.next_found(core).map(|found| found.map(|found| found.record.key().to_vec()))
    }

    /// The next entry that is there.
    pub(crate) fn next_found(&mut self, core: &Core) -> Option<Result<Found>> {
        loop {
            if self.failed {
                return None;
            }
            let key = match core.check_open().and_then(|()| self.next_candidate(core)) {
                Ok(key) => key?,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            };
            match core.look(&key, core.now().as_nanos()) {
                Ok(Some(found)) => return Some(Ok(found)),
                Ok(None) => {}
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }

    /// The next key that may be there.
    pub(super) fn next_candidate(&mut self, core: &Core) -> Result<Option<Vec<u8>>> {
        self.refill(core)?;
        let Some(below) = self.page.last() else { return Ok(self.above.pop_first()) };
        match self.above.first() {
            Some(above) if above.as_slice() < below.as_ref() => Ok(self.above.pop_first()),
            Some(above) if above.as_slice() == below.as_ref() => {
                self.page.pop();
                Ok(self.above.pop_first())
            }
            _ => Ok(self.page.pop().map(<[u8]>::into_vec)),
        }
    }

    fn refill(&mut self, core: &Core) -> Result<()> {
        while core.disk.is_none() && self.above.is_empty() && self.shard < core.memory.shard_count()
        {
            core.list_shard(self.shard, &self.prefix, None, &mut self.above);
            self.shard += 1;
        }
        let Some(disk) = core.disk.as_ref().filter(|_| !self.disk_done && self.page.is_empty())
        else {
            return Ok(());
        };
        let after = self.after.as_deref();
        let read = disk.disk.read(|snapshot| snapshot.keys(&self.prefix, after, PAGE_KEYS));
        // After the page is read: what is not in it because of that has been counted.
        let shed = core.counts.shed.get();
        if !matches!(read, Some(Ok(_))) || std::mem::replace(&mut self.shed, shed) != shed {
            for index in 0..core.memory.shard_count() {
                core.list_shard(index, &self.prefix, after, &mut self.above);
            }
        }
        self.page = match read {
            None => core.disk_unavailable(disk, Vec::new())?,
            Some(Ok(keys)) => keys,
            Some(Err(failure)) => core.disk_failed(failure, Vec::new())?,
        };
        self.disk_done = self.page.len() < PAGE_KEYS;
        self.after = self.page.last().cloned();
        self.page.reverse();
        Ok(())
    }
}
