//! Removing: one key, all keys, and what the caller is told of what was there.

use crate::engine::pending::{Below, Side, What};
use crate::engine::queue::Room;
use crate::engine::read::Seen;
use crate::engine::{Core, DiskSide, Garbage};
use crate::entry::{Found, RemovalCause, Tier};
use crate::error::Result;
use crate::hash::KeyHash;
use crate::memory::{Locked, NOT_BELOW, SlotId};
use crate::record::Record;
use crate::store::{Change, Op};
use crate::trace::trace_op;

/// What a removal found, and the number of its operation.
struct Taken {
    found: Option<Found>,
    seq: Option<u64>,
}

impl Core {
    /// Removes an entry and gives it; an expired one is removed and not given.
    pub(crate) fn remove(&self, key: &[u8], operation: Removal) -> Result<Option<Found>> {
        self.check_key(key)?;
        self.counts.removes.add(1);
        let mut garbage = Garbage::default();
        let taken = self.take(key, &mut garbage);
        self.dispose(garbage);
        let taken = taken?;
        if let (Some(seq), Some(disk)) = (taken.seq, &self.disk) {
            self.wait_if_through(disk, seq)?;
        }
        let outcome = if taken.found.is_some() { "done" } else { "miss" };
        let tier = taken.found.as_ref().map_or("none", |f| f.tier.name());
        match operation {
            Removal::Remove => trace_op!("remove", key, outcome, tier),
            Removal::Invalidate => trace_op!("invalidate", key, outcome, tier),
        }
        Ok(taken.found)
    }

    fn take(&self, key: &[u8], garbage: &mut Garbage) -> Result<Taken> {
        let hash = self.memory.hash(key);
        let wall = self.clock.wall();
        let Some(disk) = &self.disk else {
            let mut locked = self.memory.lock(hash);
            let found = match locked.shard.find(hash, key) {
                Some(id) => self.take_from_memory(&mut locked, id, wall, garbage),
                None => None,
            };
            return Ok(Taken { found, seq: None });
        };
        let name = Record::of_key(key);
        let mut room = self.room(disk, 1, name.allocated_bytes())?;
        loop {
            let mut locked = self.memory.lock(hash);
            if let Some(id) = locked.shard.find(hash, key) {
                let is_below = locked.shard.handed(id) != NOT_BELOW
                    || locked.side.pending(hash, key).is_some();
                let found = self.take_from_memory(&mut locked, id, wall, garbage);
                // What a full queue kept in memory only is not below, and a removal that was noted
                // for it may be under way: then one more does no harm.
                let seq = is_below
                    .then(|| self.note_removal(disk, &mut locked, hash, &name, room.take()))
                    .flatten();
                return Ok(Taken { found, seq });
            }
            let Some(seen) = self.see_below(disk, locked, hash, key)? else {
                return Ok(Taken { found: None, seq: None });
            };
            let mut locked = self.memory.lock(hash);
            if !Self::is_current(&locked, hash, &seen) {
                continue;
            }
            let seq = self.note_removal(disk, &mut locked, hash, &name, room.take());
            drop(locked);
            return Ok(Taken { found: self.take_seen(seen, wall, garbage), seq });
        }
    }

    /// Takes an entry out of memory; gives it unless it is over, which counts as an expiration.
    pub(super) fn take_from_memory(
        &self,
        locked: &mut Locked<'_, Side>,
        id: SlotId,
        wall: u64,
        garbage: &mut Garbage,
    ) -> Option<Found> {
        let removed = locked.remove(id);
        let over = self.is_over(removed.record.header().deadline, removed.stamp, wall);
        let found = self.found(removed.record.clone(), removed.stamp, Tier::Memory);
        if over {
            locked.side.counts.memory_expirations += 1;
            if removed.handed != NOT_BELOW {
                self.counts.disk_expirations.add(1);
            }
            garbage.note(removed, self.lowest(), RemovalCause::Expired);
            return None;
        }
        garbage.note(removed, self.lowest(), RemovalCause::Explicit);
        Some(found)
    }

    fn take_seen(&self, seen: Seen, wall: u64, garbage: &mut Garbage) -> Option<Found> {
        let over = self.is_over(seen.record.header().deadline, seen.accessed, wall);
        let cause = if over { RemovalCause::Expired } else { RemovalCause::Explicit };
        self.counts.disk_expirations.add(u64::from(over));
        garbage.records.push((seen.record.clone(), seen.accessed, Tier::Disk, cause));
        (!over).then(|| self.found(seen.record, seen.accessed, Tier::Disk))
    }

    /// Notes and queues a removal; without room, the disk is not to be believed any more.
    fn note_removal(
        &self,
        disk: &DiskSide,
        locked: &mut Locked<'_, Side>,
        hash: KeyHash,
        name: &Record,
        room: Option<Room<'_>>,
    ) -> Option<u64> {
        self.count_touches(locked.side.forget_touch(hash, name.key()));
        let Some(room) = room else {
            Self::doubt_disk(disk, locked);
            return None;
        };
        let seq = disk.queue.push(room, Change::Remove(name.clone()), true);
        drop(locked.side.note(hash, seq, What::Gone(name.clone())));
        Some(seq)
    }

    /// Removes several keys in one transaction; gives how many were there.
    pub(crate) fn remove_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<usize> {
        self.check_open()?;
        for key in keys {
            self.check_key(key.as_ref())?;
        }
        self.counts.removes.add(keys.len() as u64);
        self.remove_group(keys.iter().map(|key| key.as_ref().to_vec()).collect())
    }

    /// Removes every key that starts with `prefix`; gives how many there were.
    pub(crate) fn invalidate_prefix(&self, prefix: &[u8]) -> Result<u64> {
        self.check_open()?;
        let mut keys = Vec::new();
        let mut walk = self.walk(prefix);
        while let Some(key) = walk.next_key(self) {
            keys.push(key?);
        }
        trace_op!("invalidate_prefix", prefix, "done", self.lowest().name());
        Ok(self.remove_group(keys)? as u64)
    }

    fn remove_group(&self, mut keys: Vec<Vec<u8>>) -> Result<usize> {
        keys.sort_unstable();
        keys.dedup();
        let wall = self.clock.wall();
        let mut garbage = Garbage::default();
        let mut there = 0;
        let Some(disk) = &self.disk else {
            for key in &keys {
                let hash = self.memory.hash(key);
                let mut locked = self.memory.lock(hash);
                if let Some(id) = locked.shard.find(hash, key) {
                    let found = self.take_from_memory(&mut locked, id, wall, &mut garbage);
                    there += usize::from(found.is_some());
                }
            }
            self.dispose(garbage);
            return Ok(there);
        };
        // Which of them are there is looked up first, so that nothing is half done if that fails.
        let mut present = Vec::new();
        for key in keys {
            if self.look(&key, 0)?.is_some() {
                present.push(Record::of_key(&key));
            }
        }
        if present.is_empty() {
            return Ok(0);
        }
        let bytes = present.iter().map(Record::allocated_bytes).sum();
        let Some(room) = self.room(disk, present.len(), bytes)? else {
            for name in &present {
                let hash = self.memory.hash(name.key());
                let mut locked = self.memory.lock(hash);
                if let Some(id) = locked.shard.find(hash, name.key()) {
                    let found = self.take_from_memory(&mut locked, id, wall, &mut garbage);
                    there += usize::from(found.is_some());
                }
                Self::doubt_disk(disk, &mut locked);
            }
            self.dispose(garbage);
            return Ok(there);
        };
        let group = disk.queue.open_group(room, present.len());
        let last = group.first + present.len() as u64 - 1;
        let mut ops = Vec::with_capacity(present.len());
        for (seq, name) in (group.first..).zip(present) {
            there += usize::from(self.take_in_group(disk, &name, seq, wall, &mut garbage));
            ops.push(Op { seq, change: Change::Remove(name), reported: true });
        }
        group.fill(ops);
        self.dispose(garbage);
        self.wait_if_through(disk, last)?;
        Ok(there)
    }

    /// Removes one key of a group; gives whether it was there and not over.
    fn take_in_group(
        &self,
        disk: &DiskSide,
        name: &Record,
        seq: u64,
        wall: u64,
        garbage: &mut Garbage,
    ) -> bool {
        let (hash, key) = (self.memory.hash(name.key()), name.key());
        for last in [false, true] {
            let mut locked = self.memory.lock(hash);
            if locked.side.is_superseded(hash, key, seq) {
                return true;
            }
            let mut there = None;
            if let Some(id) = locked.shard.find(hash, key) {
                there = Some(self.take_from_memory(&mut locked, id, wall, garbage).is_some());
            } else if !last {
                let Ok(seen) = self.see_below(disk, locked, hash, key) else { continue };
                locked = self.memory.lock(hash);
                match seen {
                    Some(seen) if Self::is_current(&locked, hash, &seen) => {
                        there = Some(self.take_seen(seen, wall, garbage).is_some());
                    }
                    Some(_) => continue,
                    None => there = Some(false),
                }
            }
            self.count_touches(locked.side.forget_touch(hash, key));
            drop(locked.side.note(hash, seq, What::Gone(name.clone())));
            return there.unwrap_or(true);
        }
        true
    }

    /// Removes everything; gives how many entries there were.
    pub(crate) fn clear(&self) -> Result<u64> {
        self.check_open()?;
        let mut garbage = Vec::new();
        let Some(disk) = &self.disk else {
            let mut count = 0;
            for index in 0..self.memory.shard_count() {
                let mut locked = self.memory.lock_nth(index);
                let ids: Vec<SlotId> = locked.shard.ids().collect();
                count += ids.len() as u64;
                garbage.extend(ids.into_iter().map(|id| locked.remove(id)));
            }
            trace_op!("clear", b"", "done", "memory");
            return Ok(count);
        };
        let group = disk.queue.open_group(disk.queue.force_room(1, 0), 1);
        let seq = group.first;
        let mut memory_only = 0;
        for index in 0..self.memory.shard_count() {
            let mut locked = self.memory.lock_nth(index);
            let ids: Vec<SlotId> = locked.shard.ids().collect();
            for id in ids {
                let record = locked.shard.record(id).clone();
                let hash = self.memory.hash(record.key());
                // What was written since the clear got its number stays.
                if !locked.side.is_superseded(hash, record.key(), seq) {
                    memory_only += u64::from(locked.shard.handed(id) == NOT_BELOW);
                    garbage.push(locked.remove(id));
                }
            }
            let (gone, touches) = locked.side.clear(seq);
            drop(locked);
            drop(gone);
            self.count_touches(0_usize.wrapping_sub(touches));
        }
        group.fill(vec![Op { seq, change: Change::Clear, reported: true }]);
        // Somebody waits for it, so it does not wait for its turn.
        disk.queue.hurry();
        drop(garbage);
        trace_op!("clear", b"", "done", "disk");
        match disk.queue.wait_durable(seq) {
            Err(e) if self.config.error_policy == crate::config::ErrorPolicy::Strict => Err(e),
            Ok(()) | Err(_) => Ok(memory_only + disk.queue.take_cleared(seq)),
        }
    }

    /// Whether what is below says that a key is there, for the count of entries.
    pub(super) fn below_has(locked: &Locked<'_, Side>, hash: KeyHash, key: &[u8]) -> Option<bool> {
        match locked.side.below(hash, key) {
            Below::Value(_) => Some(true),
            Below::Gone => Some(false),
            Below::Unknown { .. } => None,
        }
    }
}

/// Which of the two calls a removal is, for the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Remove,
    Invalidate,
}
