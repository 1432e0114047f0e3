//! Many keys at once: a lock for all that are in one shard, a snapshot for all that are on disk.
//!
//! The keys of a shard are gone through twice under its lock, first to have the processor fetch their
//! records: so their cache misses overlap, where one after the other would wait for each. What memory does not
//! have is then read in the order of the keys, in which the index has it, a slice in a snapshot.

use smallvec::{SmallVec, smallvec};

use crate::engine::Core;
use crate::engine::read::{Looked, Sought, tier_name};
use crate::entry::{Handle, Tier};
use crate::error::Result;
use crate::hash::KeyHash;
use crate::time::Timestamp;
use crate::trace::trace_op;

/// How many keys are looked for before a lock is let go in between; and how far ahead of them fetching
/// goes, which is as much as a processor has under way.
const KEYS_PER_LOCK: usize = 16;
/// How many are read in one snapshot, which takes a millisecond or so.
const KEYS_PER_SNAPSHOT: usize = 128;

/// The end of a chain.
const NONE: usize = usize::MAX;

/// One of the keys that were asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    hash: KeyHash,
    /// The next one that is in the same shard.
    next: usize,
}

impl Core {
    /// One slot per key asked, in that order. Counts every key as a get, and changes nothing else.
    pub(crate) fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        at: Option<Timestamp>,
    ) -> Result<Vec<Option<Handle>>> {
        self.check_open()?;
        for key in keys {
            self.check_key(key.as_ref())?;
        }
        let wall = self.wall(at);
        let mut chains: SmallVec<[usize; 64]> = smallvec![NONE; self.memory.shard_count()];
        let mut asked: Vec<Asked> = Vec::with_capacity(keys.len());
        for (nth, key) in keys.iter().enumerate() {
            let hash = self.memory.hash(key.as_ref());
            let next = std::mem::replace(&mut chains[self.memory.index(hash)], nth);
            asked.push(Asked { hash, next });
        }
        let mut slots: Vec<Option<Handle>> = Vec::new();
        slots.resize_with(keys.len(), || None);
        let mut on_disk = Vec::new();
        let is_plain = self.age.is_none() && at.is_none();
        for nth in 0..keys.len() {
            let shard = self.memory.index(asked[nth].hash);
            let mut chain = std::mem::replace(&mut chains[shard], NONE);
            while chain != NONE {
                let mut locked = self.memory.lock_nth_for_hits(shard);
                let some = take_some(&asked, &mut chain);
                for nth in &some {
                    locked.guarded.shard.fetch_ahead(asked[*nth].hash);
                }
                let mut hits = 0;
                for nth in some {
                    let (hash, key) = (asked[nth].hash, keys[nth].as_ref());
                    slots[nth] = match self.look_under_lock(&mut locked.guarded, hash, key, wall) {
                        Looked::Found(record, _, Tier::Memory) if is_plain => {
                            hits += 1;
                            Some(record.into())
                        }
                        Looked::Found(record, accessed, tier) => {
                            hits += u64::from(tier == Tier::Memory);
                            Some(self.found(record, accessed, tier).into())
                        }
                        Looked::Nothing => None,
                        Looked::OnDisk(sought) => {
                            on_disk.push((nth, sought));
                            None
                        }
                    };
                }
                locked.count_hits(hits);
            }
        }
        on_disk.sort_unstable_by_key(|(nth, _)| keys[*nth].as_ref());
        let read = on_disk
            .chunks(KEYS_PER_SNAPSHOT)
            .try_for_each(|some| self.get_many_on_disk(keys, &asked, some, wall, &mut slots));
        self.count_slots(keys, &slots);
        read.map(|()| slots)
    }

    /// Fills the slots of keys that memory does not have, from one snapshot.
    fn get_many_on_disk<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        asked: &[Asked],
        sought: &[(usize, Sought)],
        wall: u64,
        slots: &mut [Option<Handle>],
    ) -> Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let read = disk.disk.read(|snapshot| {
            let mut lookups = Vec::with_capacity(sought.len());
            for (nth, _) in sought {
                lookups.push(snapshot.get(asked[*nth].hash, keys[*nth].as_ref())?);
            }
            Ok((lookups, snapshot.is_hurt()))
        });
        let (lookups, is_hurt) = match read {
            None => return self.disk_unavailable(disk, ()),
            Some(Err(failure)) => return self.disk_failed(failure, ()),
            Some(Ok(read)) => read,
        };
        for ((nth, sought), lookup) in sought.iter().zip(lookups) {
            let (hash, key) = (asked[*nth].hash, keys[*nth].as_ref());
            let row = self.accept(disk, hash, key, sought.token, lookup, is_hurt);
            let found = row.and_then(|row| self.found_on_disk(row, *sought, wall));
            slots[*nth] = found.map(Handle::from);
        }
        Ok(())
    }

    /// Counts what is not counted yet: disk hits and misses.
    fn count_slots<K: AsRef<[u8]>>(&self, keys: &[K], slots: &[Option<Handle>]) {
        let (mut disk_hits, mut misses) = (0, 0);
        for (key, slot) in keys.iter().zip(slots) {
            let tier = slot.as_ref().map(Handle::tier);
            disk_hits += u64::from(tier == Some(Tier::Disk));
            misses += u64::from(tier.is_none());
            let outcome = if tier.is_some() { "hit" } else { "miss" };
            trace_op!("get_many", key.as_ref(), outcome, tier_name(tier));
        }
        if disk_hits > 0 {
            self.counts.disk_hits.add(disk_hits);
        }
        if misses > 0 {
            self.counts.misses.add(misses);
        }
    }
}

/// The first few of a chain, which is shorter then.
fn take_some(asked: &[Asked], chain: &mut usize) -> SmallVec<[usize; KEYS_PER_LOCK]> {
    let mut some = SmallVec::new();
    while *chain != NONE && some.len() < KEYS_PER_LOCK {
        some.push(*chain);
        *chain = asked[*chain].next;
    }
    some
}
