//! Batches: several entries with one stamp, in one transaction, in one step.
//!
//! Everything is validated, encoded and given room in the queue before anything changes. Then all
//! shards are locked, the operations are queued together, all records are put in, and memory evicts
//! down to its limits: so nobody sees half a batch, and an operation on one of its keys comes
//! before all of it or after. That the lock keeps everybody else out for some 300 ns an entry is the
//! price.
//!
//! # Why not shard by shard
//!
//! It was tried: a batch took its numbers first and went from shard to shard, and whatever came
//! between had to be sorted out by number. What rests on the value before (an insert if absent, a
//! removal) then has to be taken back.

use crate::attributes::NO_OPTIONS;
use crate::engine::pending::{Below, Side, What};
use crate::engine::queue::Load;
use crate::engine::{Core, Garbage, Moment};
use crate::entry::{RemovalCause, Tier};
use crate::error::Result;
use crate::hash::KeyHash;
use crate::memory::{AllLocked, NOT_BELOW};
use crate::record::Record;
use crate::store::Change;
use crate::time::Timestamp;
use crate::trace::trace_op;

/// One entry of a batch: key, value, weight if it is not the natural one.
pub(crate) type Item = (Vec<u8>, Vec<u8>, Option<u64>);

impl Core {
    /// Inserts all items or none. Of several with one key the last one stays; each counts.
    pub(crate) fn insert_many(&self, items: &[Item], at: Option<Timestamp>) -> Result<()> {
        self.insert_all(items, at)
            .inspect_err(|error| self.count_rejected(error, items.len() as u64))
    }

    fn insert_all(&self, items: &[Item], at: Option<Timestamp>) -> Result<()> {
        self.check_open()?;
        if items.is_empty() {
            return Ok(());
        }
        let (mut bytes, mut charges) = (0, 0_u64);
        for (key, value, weight) in items {
            self.check_key(key)?;
            let natural = key.len() as u64 + value.len() as u64;
            let charge = weight.unwrap_or(natural);
            self.check_size(value.len(), charge)?;
            bytes += natural;
            charges = charges.saturating_add(charge);
        }
        self.check_batch(bytes)?;
        Self::check_charges(charges)?;
        let moment = self.moment(at);
        let mut records = Vec::with_capacity(items.len());
        for (key, value, weight) in items {
            records.push(self.draft(key, value, &NO_OPTIONS, *weight, moment)?);
        }
        // Stable, so that of equal keys the last of the batch is the last here.
        records.sort_by(|a, b| a.key().cmp(b.key()));
        let doubles = records.len();
        let records: Vec<Record> = records
            .chunk_by(|a, b| a.key() == b.key())
            .filter_map(|same| same.last().cloned())
            .collect();
        let doubles = (doubles - records.len()) as u64;
        let mut garbage = Garbage::default();
        let last = self.place_all(records, moment, doubles, &mut garbage);
        self.dispose(garbage);
        self.relieve_touches();
        let last = last?;
        for (key, ..) in items {
            trace_op!("insert_many", key, "done", self.lowest().name());
        }
        if let (Some(seq), Some(disk)) = (last, &self.disk) {
            self.wait_if_through(disk, Some(seq))?;
        }
        Ok(())
    }

    /// Puts all records in and evicts then, in one step; gives the number of the last operation.
    fn place_all(
        &self,
        records: Vec<Record>,
        moment: Moment,
        doubles: u64,
        garbage: &mut Garbage,
    ) -> Result<Option<u64>> {
        let room = match &self.disk {
            None => None,
            Some(disk) => {
                let puts: Vec<Change> = records.iter().cloned().map(Change::Put).collect();
                Some(self.room(disk, Load::of_all(&puts))?)
            }
        };
        let limits = self.memory.limits();
        let hashes: Vec<KeyHash> = records.iter().map(|r| self.memory.hash(r.key())).collect();
        let mut all = self.memory.lock_all();
        let (mut seqs, count) = (None, records.len() as u64);
        if let (Some(disk), Some(room)) = (&self.disk, room) {
            let puts = records.iter().zip(&hashes).map(|(record, hash)| {
                (Change::Put(record.clone()), self.is_told(&mut all, *hash, record.key()))
            });
            seqs = Some(disk.queue.push_all(room, puts.collect()));
        }
        for (index, (record, hash)) in records.into_iter().zip(hashes).enumerate() {
            let seq = seqs.map(|first| first + index as u64);
            let handed = self.note_in_batch(&mut all, hash, &record, seq, garbage);
            all.side(hash).counts.inserts += 1;
            if self.fits_memory(record.charge(), limits) {
                let placement = self.placement(&record, moment, handed);
                let old = all.put(hash, record, placement);
                let replaced =
                    old.map(|(old, stamp)| (old, stamp, Tier::Memory, RemovalCause::Replaced));
                garbage.records.extend(replaced);
            } else {
                if let Some(id) = all.shard(hash).find(hash, record.key()) {
                    garbage.note(all.remove(hash, id), Tier::Memory, RemovalCause::Replaced);
                }
                if self.disk.is_none() {
                    // It did fit when it was checked.
                    Self::passed(all.side(hash), record, moment.stamp, garbage);
                }
            }
        }
        if let Some(side) = all.sides().next() {
            side.counts.inserts += doubles;
        }
        while let Some((removed, side)) = all.evict() {
            self.evicted(side, removed, garbage);
        }
        drop(all);
        Ok(seqs.map(|first| first + count - 1))
    }

    /// Whether the listener hears here of the value that a put replaces, or nobody listens. Else the writer
    /// will find it on disk.
    fn is_told(&self, all: &mut AllLocked<'_, Side>, hash: KeyHash, key: &[u8]) -> bool {
        !self.is_listening()
            || all.shard(hash).find(hash, key).is_some()
            || !matches!(all.side(hash).below(hash, key), Below::Unknown { .. })
    }

    /// Notes the operation of one record of a batch; gives the recency that the disk will have.
    fn note_in_batch(
        &self,
        all: &mut AllLocked<'_, Side>,
        hash: KeyHash,
        record: &Record,
        seq: Option<u64>,
        garbage: &mut Garbage,
    ) -> Option<u64> {
        let Some(seq) = seq else { return NOT_BELOW };
        let in_memory = all.shard(hash).find(hash, record.key()).is_some();
        let is_told = self.is_told(all, hash, record.key());
        let side = all.side(hash);
        self.count_touches(side.forget_touch(hash, record.key()));
        let old = side.note(hash, seq, What::Put(record.clone()), is_told);
        match old {
            Some(What::Put(old)) if !in_memory => {
                let stamp = old.stamp();
                garbage.records.push((old, stamp, Tier::Disk, RemovalCause::Replaced));
            }
            old => garbage.silent.extend(old.map(|what| what.record().clone())),
        }
        Some(record.stamp())
    }
}
