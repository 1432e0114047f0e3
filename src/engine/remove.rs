//! Removing: one key, all keys, and what the caller is told of what was there.

use crate::config::ErrorPolicy;
use crate::engine::below::Seen;
use crate::engine::pending::{Below, Side, What};
use crate::engine::queue::{Load, Room};
use crate::engine::read::Sought;
use crate::engine::{Core, DiskSide, Garbage};
use crate::entry::{Found, RemovalCause, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::KeyHash;
use crate::memory::{AllLocked, Locked, NOT_BELOW, Removed, SlotId};
use crate::record::Record;
use crate::store::Change;
use crate::store::disk::Lookup;
use crate::trace::trace_op;

/// What a removal found, and the number of its operation.
struct Taken {
    found: Option<Found>,
    seq: Option<u64>,
}

/// What a batch of removals found of a key before it began.
struct Known {
    found: Option<Found>,
    /// If it was below, the token of [`Below::Unknown`]: while that is the same, nothing has become of it.
    token: Option<u64>,
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
        if let Some(disk) = &self.disk {
            self.wait_if_through(disk, taken.seq)?;
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
        let room = self.room(disk, Load::of(&Change::Remove(name.clone())))?;
        loop {
            let mut locked = self.memory.lock(hash);
            if let Some(id) = locked.shard.find(hash, key) {
                let is_below = locked.shard.handed(id) != NOT_BELOW
                    || locked.side.pending(hash, key).is_some();
                let found = self.take_from_memory(&mut locked, id, wall, garbage);
                // What a full queue kept in memory only is not below, and a removal that was noted
                // for it may be under way: then one more does no harm.
                let seq = is_below.then(|| self.note_removal(disk, &mut locked, hash, &name, room));
                return Ok(Taken { found, seq });
            }
            let epoch = disk.disk.epoch();
            let seen = self.see_below(disk, locked, hash, key, true)?;
            let mut locked = self.memory.lock(hash);
            let Some(seen) = seen else {
                let came = matches!(locked.side.below(hash, key), Below::Value(_));
                if came || locked.shard.find(hash, key).is_some() {
                    continue;
                }
                // While the disk cannot be asked it may well have the key.
                let seq = (!Self::could_be_asked(disk, epoch))
                    .then(|| self.note_removal(disk, &mut locked, hash, &name, room));
                return Ok(Taken { found: None, seq });
            };
            if !Self::is_current(&locked, hash, &seen) {
                continue;
            }
            let seq = self.note_removal(disk, &mut locked, hash, &name, room);
            drop(locked);
            return Ok(Taken { found: self.take_seen(seen, wall, garbage), seq: Some(seq) });
        }
    }

    /// Whether the disk, which had been read up to this epoch, has answered all since: else "not there"
    /// may mean "not known".
    fn could_be_asked(disk: &DiskSide, epoch: u64) -> bool {
        Self::can_be_asked(disk) && disk.disk.epoch() == epoch
    }

    fn can_be_asked(disk: &DiskSide) -> bool {
        !disk.queue.is_suspect() && disk.disk.snapshot().is_some()
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
        self.account_taken(&mut locked.side, removed, wall, garbage)
    }

    fn account_taken(
        &self,
        side: &mut Side,
        removed: Removed,
        wall: u64,
        garbage: &mut Garbage,
    ) -> Option<Found> {
        let over = self.is_over(removed.deadline(), removed.recency(), wall);
        // Past its time in memory, it is what a get would find below.
        let tier = if wall > removed.leaves() { self.lowest() } else { Tier::Memory };
        let found = self.found(Record::clone(&removed), removed.recency(), tier);
        if over {
            side.counts.memory_expirations += 1;
            if removed.handed() != NOT_BELOW {
                self.counts.disk_expirations.add(1);
            }
            garbage.note(removed, self.lowest(), RemovalCause::Expired);
            return None;
        }
        garbage.note(removed, self.lowest(), RemovalCause::Explicit);
        Some(found)
    }

    fn take_seen(&self, seen: Seen, wall: u64, garbage: &mut Garbage) -> Option<Found> {
        let over = self.is_over(seen.record.deadline(), seen.accessed, wall);
        let cause = if over { RemovalCause::Expired } else { RemovalCause::Explicit };
        self.counts.disk_expirations.add(u64::from(over));
        garbage.records.push((seen.record.clone(), seen.accessed, Tier::Disk, cause));
        (!over).then(|| self.found(seen.record, seen.accessed, Tier::Disk))
    }

    /// Notes and queues a removal.
    fn note_removal(
        &self,
        disk: &DiskSide,
        locked: &mut Locked<'_, Side>,
        hash: KeyHash,
        name: &Record,
        room: Room<'_>,
    ) -> u64 {
        self.count_touches(locked.side.forget_touch(hash, name.key()));
        let seq = disk.queue.push(room, Change::Remove(name.clone()), true);
        drop(locked.side.note(hash, seq, What::Gone(name.clone()), true));
        seq
    }

    /// Removes several keys in one transaction; gives how many were there.
    pub(crate) fn remove_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<usize> {
        self.check_open()?;
        for key in keys {
            self.check_key(key.as_ref())?;
        }
        self.counts.removes.add(keys.len() as u64);
        let there = self.remove_group(keys.iter().map(|key| key.as_ref().to_vec()).collect())?;
        for key in keys.iter().map(AsRef::as_ref) {
            trace_op!("remove_many", key, "done", self.lowest().name());
        }
        Ok(there)
    }

    /// Removes every key that starts with `prefix`; gives how many there were.
    pub(crate) fn invalidate_prefix(&self, prefix: &[u8]) -> Result<u64> {
        self.check_open()?;
        let mut keys = Vec::new();
        let mut walk = self.walk(prefix);
        // Those too whose time is over and that were not swept yet.
        while let Some(key) = walk.next_candidate(self)? {
            keys.push(key);
        }
        if let Some(disk) = self.disk.as_ref().filter(|disk| !Self::can_be_asked(disk)) {
            self.check_open()?;
            // Which of its keys to remove cannot be known, and they would come back.
            let sentence = "the disk tier cannot be read now; nothing was removed, try again";
            let unread = || Error::new(ErrorKind::Io, sentence);
            return Err(disk.queue.failing().unwrap_or_else(unread));
        }
        trace_op!("invalidate_prefix", prefix, "done", self.lowest().name());
        Ok(self.remove_group(keys)? as u64)
    }

    /// Removes keys in one step; gives how many were there and not over.
    fn remove_group(&self, mut keys: Vec<Vec<u8>>) -> Result<usize> {
        keys.sort_unstable();
        keys.dedup();
        let wall = self.clock.wall();
        // Which of them are there is looked up first, so that nothing is half done if that fails.
        let mut present = Vec::new();
        for key in keys {
            let hash = self.memory.hash(&key);
            let asked = self.disk.as_ref().map(|disk| (disk, disk.disk.epoch()));
            let (found, token) = self.look_with_token(hash, &key, 0)?;
            let known = asked.is_none_or(|(disk, epoch)| Self::could_be_asked(disk, epoch));
            if found.is_some() || !known {
                present.push((hash, Record::of_key(&key), Known { found, token }));
            }
        }
        if present.is_empty() {
            if let Some(disk) = &self.disk {
                self.wait_if_through(disk, None)?;
            }
            return Ok(0);
        }
        let removals: Vec<(Change, bool)> =
            present.iter().map(|(_, name, _)| (Change::Remove(name.clone()), true)).collect();
        let room = match &self.disk {
            None => None,
            Some(disk) => Some(self.room(disk, Load::of_all(removals.iter().map(|r| &r.0)))?),
        };
        let mut garbage = Garbage::default();
        let mut all = self.memory.lock_all();
        let (mut seqs, count) = (None, present.len() as u64);
        if let (Some(disk), Some(room)) = (&self.disk, room) {
            seqs = Some(disk.queue.push_all(room, removals));
        }
        let mut there = 0;
        for (index, (hash, name, looked)) in present.into_iter().enumerate() {
            let seq = seqs.map(|first| first + index as u64);
            let key = name.key();
            there +=
                usize::from(self.take_in_batch(&mut all, hash, key, &looked, wall, &mut garbage));
            if self.disk.is_some() {
                let side = all.side(hash);
                self.count_touches(side.forget_touch(hash, name.key()));
                drop(seq.map(|seq| side.note(hash, seq, What::Gone(name), true)));
            }
        }
        drop(all);
        self.dispose(garbage);
        if let (Some(first), Some(disk)) = (seqs, &self.disk) {
            self.wait_if_through(disk, Some(first + count - 1))?;
        }
        Ok(there)
    }

    /// Takes one key of a batch out of memory, or accounts for what was found of it below; gives
    /// whether it was there and not over.
    fn take_in_batch(
        &self,
        all: &mut AllLocked<'_, Side>,
        hash: KeyHash,
        key: &[u8],
        looked: &Known,
        wall: u64,
        garbage: &mut Garbage,
    ) -> bool {
        if let Some(id) = all.shard(hash).find(hash, key) {
            let removed = all.remove(hash, id);
            return self.account_taken(all.side(hash), removed, wall, garbage).is_some();
        }
        let (record, accessed) = match (all.side(hash).below(hash, key), &looked.found) {
            // Somebody was faster, or the disk could not be asked.
            (Below::Gone, _) | (Below::Unknown { .. }, None) => return false,
            (Below::Value(record), found) => {
                let accessed = found.as_ref().map_or(record.stamp(), |found| found.accessed);
                (record, accessed)
            }
            (Below::Unknown { token }, Some(found)) if looked.token == Some(token) => {
                (found.record.clone(), found.accessed)
            }
            // Something became of it meanwhile, or of a key beside it; it cannot while all is locked.
            (Below::Unknown { token }, Some(_)) => {
                let accessed = all.side(hash).touched(hash, key);
                match self.find_below(hash, key, Sought { token, accessed }) {
                    Some(found) => (found.record, found.accessed),
                    None => return false,
                }
            }
        };
        let (handed, token) = (record.stamp(), None);
        self.take_seen(Seen { record, accessed, handed, token }, wall, garbage).is_some()
    }

    /// What the disk has of a key now; nothing, where it cannot be read.
    fn find_below(&self, hash: KeyHash, key: &[u8], sought: Sought) -> Option<Found> {
        let disk = self.disk.as_ref()?;
        match disk.disk.read(|snapshot| snapshot.get(hash, key))? {
            Ok(Lookup::Row(row)) => self.found_on_disk(row, sought, 0),
            Ok(Lookup::Nothing | Lookup::Damaged) | Err(_) => None,
        }
    }

    /// Removes everything; gives how many entries there were.
    pub(crate) fn clear(&self) -> Result<u64> {
        self.check_open()?;
        let room = match &self.disk {
            Some(disk) => Some(disk.queue.force_room(Load::of(&Change::Clear))?),
            None => None,
        };
        let mut all = self.memory.lock_all();
        let removed = all.drain();
        let Some((disk, room)) = self.disk.as_ref().zip(room) else {
            drop(all);
            trace_op!("clear", b"", "done", "memory");
            return Ok(removed.len() as u64);
        };
        let seq = disk.queue.push(room, Change::Clear, true);
        let mut gone = Vec::new();
        for side in all.sides() {
            let (ops, touches) = side.clear(seq);
            gone.extend(ops);
            self.count_touches(touches);
        }
        drop(all);
        let in_memory = removed.len() as u64;
        let memory_only = removed.iter().filter(|r| r.handed() == NOT_BELOW).count() as u64;
        drop((removed, gone));
        trace_op!("clear", b"", "done", "disk");
        // Somebody waits for it, so it does not wait for its turn.
        disk.queue.hurry();
        match disk.queue.wait_durable(seq) {
            Err(e) if self.config.error_policy == ErrorPolicy::Strict => Err(e),
            Ok(()) => Ok(memory_only + disk.queue.take_cleared(seq)),
            // What was only below was not there for anybody.
            Err(_) => Ok(in_memory),
        }
    }
}

/// Which of the two calls a removal is, for the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Remove,
    Invalidate,
}
