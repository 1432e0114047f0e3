//! Batches: several entries with one stamp, in one transaction.
//!
//! Everything is validated before anything changes. In memory the outcome is that of putting all in
//! first and evicting the oldest then: old values of the batch's keys get its stamp, so that none of
//! them is evicted before it is replaced; entries that make room go first, since the sum at the end
//! has that room; the others go in by key, which is the order of eviction among them.

use crate::engine::write::{Expect, Ticket, Write};
use crate::engine::{Core, Entered, Garbage};
use crate::entry::InsertOptions;
use crate::error::Result;
use crate::record::Record;
use crate::store::{Change, Op};
use crate::time::Timestamp;
use crate::trace::trace_op;

/// One entry of a batch: key, value, weight if it is not the natural one.
pub(crate) type Item = (Vec<u8>, Vec<u8>, Option<u64>);

impl Core {
    /// Inserts all items or none. Of several with one key the last one stays; each counts.
    pub(crate) fn insert_many(&self, items: &[Item], at: Option<Timestamp>) -> Result<()> {
        self.check_open()?;
        if items.is_empty() {
            return Ok(());
        }
        for (key, value, weight) in items {
            self.check_key(key)?;
            let natural = key.len() as u64 + value.len() as u64;
            self.check_size(value.len(), weight.unwrap_or(natural))?;
        }
        let moment = self.moment(at);
        let mut records = Vec::with_capacity(items.len());
        for (key, value, weight) in items {
            let options = InsertOptions::of_weight(*weight);
            records.push(self.draft(key, value, &options, moment)?);
        }
        // Stable, so that of equal keys the last of the batch is the last here.
        records.sort_by(|a, b| a.key().cmp(b.key()));
        let doubles = records.len();
        let records: Vec<Record> = records
            .chunk_by(|a, b| a.key() == b.key())
            .filter_map(|same| same.last().cloned())
            .collect();
        let doubles = (doubles - records.len()) as u64;
        let (shrinking, growing): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| self.makes_room(record));
        let records: Vec<Record> = shrinking.into_iter().chain(growing).collect();
        let mut garbage = Garbage::default();
        let last = self.place_all(records, moment, &mut garbage);
        self.dispose(garbage);
        self.relieve_touches();
        let last = last?;
        if doubles > 0 {
            self.memory.lock_nth(0).side.counts.inserts += doubles;
        }
        for (key, ..) in items {
            trace_op!("insert_many", key, "done", self.lowest().name());
        }
        if let (Some(seq), Some(disk)) = (last, &self.disk) {
            self.wait_if_through(disk, seq)?;
        }
        Ok(())
    }

    /// Whether memory has a value of this key that counts at least as much as what takes its place.
    fn makes_room(&self, record: &Record) -> bool {
        let hash = self.memory.hash(record.key());
        let fits = self.fits_memory(record.charge(), self.memory.limits());
        let locked = self.memory.lock(hash);
        let old = locked.shard.find(hash, record.key());
        old.is_some_and(|id| !fits || locked.shard.charge(id) >= record.charge())
    }

    /// Gives the value that a record of the batch will replace the batch's stamp.
    fn restamp_old(&self, record: &Record, stamp: u64) {
        let hash = self.memory.hash(record.key());
        let mut locked = self.memory.lock(hash);
        if let Some(id) = locked.shard.find(hash, record.key()) {
            locked.shard.restamp(id, stamp);
        }
    }

    fn place_all(
        &self,
        records: Vec<Record>,
        moment: super::Moment,
        garbage: &mut Garbage,
    ) -> Result<Option<u64>> {
        let write = |record: Record| Write {
            hash: self.memory.hash(record.key()),
            record,
            moment,
            expect: Expect::Anything,
            counted: true,
        };
        let room = match &self.disk {
            None => None,
            Some(disk) => {
                let bytes = records.iter().map(Record::allocated_bytes).sum();
                Some((disk, self.room(disk, records.len(), bytes)?))
            }
        };
        // From here on nothing is refused.
        for record in &records {
            self.restamp_old(record, moment.stamp);
        }
        let (disk, room) = match room {
            Some((disk, Some(room))) => (disk, room),
            other => {
                for record in records {
                    let ticket = if other.is_some() { Ticket::Lost } else { Ticket::NoDisk };
                    self.place(write(record), ticket, garbage);
                }
                return Ok(None);
            }
        };
        let group = disk.queue.open_group(room, records.len());
        let last = group.first + records.len() as u64 - 1;
        let mut ops = Vec::with_capacity(records.len());
        for (seq, record) in (group.first..).zip(records) {
            let reported = !self.is_listening() || self.is_known(&record);
            ops.push(Op { seq, change: Change::Put(record.clone()), reported });
            let Entered::Yes(_) = self.place(write(record), Ticket::Number(seq), garbage) else {
                continue;
            };
        }
        group.fill(ops);
        Ok(Some(last))
    }

    /// Whether the value that a put replaces is known above the disk.
    fn is_known(&self, record: &Record) -> bool {
        let hash = self.memory.hash(record.key());
        let locked = self.memory.lock(hash);
        locked.shard.find(hash, record.key()).is_some()
            || Self::below_has(&locked, hash, record.key()).is_some()
    }
}
