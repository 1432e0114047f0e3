//! Writing: check, encode, ask the queue for room, and have the record placed (`place.rs`).

use std::time::Duration;

use crate::attributes::{InsertOptions, NO_OPTIONS};
use crate::config::{ErrorPolicy, PATIENCE, WhenFull, WritePolicy};
use crate::engine::bound::commit_bytes;
use crate::engine::pending::Below;
use crate::engine::place::{Entered, Expect, Ticket, Write};
use crate::engine::queue::{Bounds, Load, Reserved, Room};
use crate::engine::{Core, DiskSide, Garbage, Moment, warn_of_order};
use crate::entry::{RemovalCause, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::KeyHash;
use crate::record::{CHARGE_MAX, CHARGES_MAX, Draft, Record, VALUE_BYTES_MAX};
use crate::store::Change;
use crate::trace::trace_op;

/// Below this a commit would cost more than what the exactness of a tiny disk tier is worth.
const SLACK_OPS_MIN: u64 = 16;
/// Likewise in bytes.
const SLACK_BYTES_MIN: u64 = 16 << 10;

/// What bounds an entry and a batch where the file has a bound.
const A_COMMIT: &str = "a 32nd of disk_max_file_bytes";

#[cold]
fn too_large(what: &str, size: u64, limit: u64, name: &str) -> Error {
    let sentence = format!(
        "the {what} has {size} bytes, the limit is {limit} ({name}); store less or raise it"
    );
    Error::new(ErrorKind::TooLarge, sentence)
}

impl Core {
    /// Checks an entry's size; `charge` is its weight, or key and value bytes.
    pub(crate) fn check_size(&self, value_len: usize, charge: u64) -> Result<()> {
        let disk = self.disk.as_ref().map(|disk| disk.limits.lock().bytes);
        let (limit, name) = match disk {
            Some(limit) => (limit, "disk_max_bytes"),
            None => (self.memory.recent_limits().bytes, "memory_max_bytes"),
        };
        let in_file = self.config.disk_max_file_bytes.map_or(u64::MAX, commit_bytes);
        let (size, limit, name) = if value_len > VALUE_BYTES_MAX {
            (value_len as u64, VALUE_BYTES_MAX as u64, "the largest value")
        } else if value_len as u64 > in_file {
            (value_len as u64, in_file, A_COMMIT)
        } else if charge > limit.unwrap_or(CHARGE_MAX).min(CHARGE_MAX) {
            (charge, limit.unwrap_or(CHARGE_MAX).min(CHARGE_MAX), name)
        } else {
            return Ok(());
        };
        Err(too_large("entry", size, limit, name))
    }

    /// Counts inserts that were refused by their size, or since the queue stayed full.
    pub(super) fn count_rejected(&self, error: &Error, inserts: u64) {
        if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Busy) {
            self.counts.rejected.add(inserts);
        }
    }

    /// Checks the size of a batch, which goes into one commit.
    pub(super) fn check_batch(&self, bytes: u64) -> Result<()> {
        let limit = self.config.disk_max_file_bytes.map_or(u64::MAX, commit_bytes);
        if bytes <= limit {
            return Ok(());
        }
        Err(too_large("batch", bytes, limit, A_COMMIT))
    }

    /// Checks what the entries of a batch count in all.
    pub(super) fn check_charges(sum: u64) -> Result<()> {
        if sum <= CHARGES_MAX {
            return Ok(());
        }
        let sentence = format!(
            "the weights of the batch add up to {sum}, the limit is {CHARGES_MAX}; insert less at once"
        );
        Err(Error::new(ErrorKind::TooLarge, sentence))
    }

    /// Makes the record of an insert, after checking everything that can be checked. `weight`: what the
    /// entry counts, instead of its bytes.
    #[expect(clippy::inline_always, reason = "in one piece with an insert")]
    #[inline(always)]
    pub(crate) fn draft(
        &self,
        key: &[u8],
        value: &[u8],
        options: &InsertOptions,
        weight: Option<u64>,
        moment: Moment,
    ) -> Result<Record> {
        let natural = key.len() as u64 + value.len() as u64;
        self.check_size(value.len(), weight.unwrap_or(natural))?;
        let attributes = options.encode_attributes()?;
        let draft = Draft {
            value,
            attributes: &attributes,
            stamp: moment.stamp,
            created: self.created(moment),
            deadline: self.deadline(options.ttl, self.created(moment)),
            charge: weight,
            schema: self.config.schema_version,
        };
        Ok(draft.finish(key, self.seal()))
    }

    /// Inserts one entry.
    pub(crate) fn insert(
        &self,
        key: &[u8],
        value: &[u8],
        options: &InsertOptions,
        weight: Option<u64>,
    ) -> Result<()> {
        self.check_key(key)?;
        let hash = self.memory.hash(key);
        self.memory.fetch_ahead_for_insert(hash);
        let moment = self.moment(options.timestamp);
        let write = Write { hash, moment, expect: Expect::Anything, counted: true };
        self.draft(key, value, options, weight, moment)
            .and_then(|record| self.enter(record, &write))
            .inspect_err(|error| self.count_rejected(error, 1))?;
        trace_op!("insert", key, "done", self.lowest().name());
        Ok(())
    }

    /// Inserts an entry unless the key is there; `true` if it was not.
    pub(crate) fn insert_if_absent(
        &self,
        key: &[u8],
        value: &[u8],
        weight: Option<u64>,
    ) -> Result<bool> {
        self.check_key(key)?;
        let hash = self.memory.hash(key);
        loop {
            let moment = self.moment(None);
            let Some(expect) = self.absent(hash, key, moment.wall)? else {
                trace_op!("insert_if_absent", key, "there", self.lowest().name());
                return Ok(false);
            };
            let write = Write { hash, moment, expect, counted: true };
            let entered = self
                .draft(key, value, &NO_OPTIONS, weight, moment)
                .and_then(|record| self.enter(record, &write))
                .inspect_err(|error| self.count_rejected(error, 1))?;
            if let Entered::Yes(_) = entered {
                trace_op!("insert_if_absent", key, "done", self.lowest().name());
                return Ok(true);
            }
        }
    }

    /// What makes sure that the key stays absent, if it is; an entry that is over is removed.
    fn absent(&self, hash: KeyHash, key: &[u8], wall: u64) -> Result<Option<Expect>> {
        let mut garbage = Garbage::default();
        let mut locked = self.memory.lock(hash);
        if let Some(id) = locked.shard.find(hash, key) {
            let (deadline, stamp) = (locked.shard.deadline(id), locked.shard.stamp(id));
            if !self.is_over(deadline, stamp, wall) {
                return Ok(None);
            }
            self.expire_met(&mut locked, id, wall, &mut garbage);
        }
        let token = match locked.side.below(hash, key) {
            Below::Unknown { token } => Some(token),
            Below::Gone | Below::Value(_) => None,
        };
        let Some(disk) = &self.disk else {
            drop(locked);
            self.dispose(garbage);
            return Ok(Some(Expect::Absent(None)));
        };
        let seen = match self.see_below(disk, locked, hash, key, true) {
            Ok(seen) => seen,
            Err(error) => {
                self.dispose(garbage);
                return Err(error);
            }
        };
        let absent = match &seen {
            None => true,
            Some(seen) => self.is_over(seen.record.deadline(), seen.accessed, wall),
        };
        let mut token = token;
        if let Some(seen) = seen.filter(|_| absent) {
            self.expire_seen(disk, hash, &seen, &mut garbage);
            token = None;
        }
        self.dispose(garbage);
        Ok(absent.then_some(Expect::Absent(token)))
    }

    /// Gives a key that is there a new deadline, and makes it the most recent; `false` if it is not
    /// there.
    pub(crate) fn touch(&self, key: &[u8], ttl: Option<Duration>) -> Result<bool> {
        self.check_key(key)?;
        let done = self.redate(key, ttl)?;
        let (outcome, tier) = if done { ("done", self.lowest().name()) } else { ("miss", "none") };
        trace_op!("touch", key, outcome, tier);
        Ok(done)
    }

    fn redate(&self, key: &[u8], ttl: Option<Duration>) -> Result<bool> {
        let hash = self.memory.hash(key);
        loop {
            let moment = self.moment(None);
            let locked = self.memory.lock(hash);
            let (record, accessed, expect) = if let Some(id) = locked.shard.find(hash, key) {
                let (record, stamp) = (locked.shard.record(id).clone(), locked.shard.stamp(id));
                drop(locked);
                (record.clone(), stamp, Expect::Same(record))
            } else {
                let Some(disk) = &self.disk else { return Ok(false) };
                let Some(seen) = self.see_below(disk, locked, hash, key, true)? else {
                    return Ok(false);
                };
                (seen.record.clone(), seen.accessed, Expect::SameBelow(seen))
            };
            if self.is_over(record.deadline(), accessed, moment.wall) {
                // Takes out what it meets; somebody may have put something else there.
                if self.absent(hash, key, moment.wall)?.is_some() {
                    return Ok(false);
                }
                continue;
            }
            let deadline = self.deadline(ttl, self.created(moment));
            let record = record.redated(moment.stamp, deadline, self.seal());
            let write = Write { hash, moment, expect, counted: false };
            if let Entered::Yes(_) = self.enter(record, &write)? {
                return Ok(true);
            }
        }
    }

    pub(super) fn lowest(&self) -> Tier {
        if self.disk.is_some() { Tier::Disk } else { Tier::Memory }
    }

    /// Brings one record in, and waits until it is durable if the policy says so.
    pub(super) fn enter(&self, record: Record, write: &Write) -> Result<Entered> {
        let Some(disk) = &self.disk else {
            if let Err((record, left)) = self.place_alone(record, write) {
                let mut garbage = Garbage::default();
                if let Some(left) = left {
                    garbage.note(left, Tier::Memory, RemovalCause::Size);
                }
                let entered = self.place(record, write, Ticket::NoDisk, &mut garbage);
                self.dispose(garbage);
                return Ok(entered);
            }
            if self.memory.has_lost_order() {
                warn_of_order();
            }
            return Ok(Entered::Yes(None));
        };
        let ticket = self.ticket(disk, &record, write)?;
        let mut garbage = Garbage::default();
        let entered = self.place(record, write, ticket, &mut garbage);
        self.dispose(garbage);
        self.relieve_touches();
        if let Entered::Yes(Some(seq)) = entered {
            self.wait_if_through(disk, Some(seq))?;
        }
        Ok(entered)
    }

    /// Asks the queue for room, as the policy says.
    fn ticket<'d>(&self, disk: &'d DiskSide, record: &Record, write: &Write) -> Result<Ticket<'d>> {
        let load = Load::of(&Change::Put(record.clone()));
        // Of what memory does not take nothing would be left, and a touch would take the row away that it
        // is to keep.
        let fits = || self.fits_memory(record.charge(), self.memory.recent_limits());
        if !self.sheds() || !write.counted || !fits() {
            return Ok(Ticket::Room(self.room(disk, load)?));
        }
        match disk.queue.reserve(load, Duration::ZERO, || self.ahead(disk)) {
            Reserved::Room(room) => Ok(Ticket::Room(room)),
            Reserved::Failing => Ok(Ticket::Room(self.start_over(disk, load)?)),
            Reserved::Full { .. } => {
                let load = Load::of(&Change::Remove(Record::of_key(record.key())));
                Ok(Ticket::Shed(disk.queue.force_room(load)?))
            }
        }
    }

    /// Room for what is not shed.
    pub(super) fn room<'d>(&self, disk: &'d DiskSide, load: Load) -> Result<Room<'d>> {
        let patience = match self.config.write_policy {
            WritePolicy::Behind { when_full: WhenFull::Block(patience), .. } => patience,
            WritePolicy::Through | WritePolicy::Behind { when_full: WhenFull::Shed, .. } => {
                PATIENCE
            }
        };
        match disk.queue.reserve(load, patience, || self.ahead(disk)) {
            Reserved::Room(room) => Ok(room),
            Reserved::Full { ahead } => Err(busy(disk, patience, ahead)),
            Reserved::Failing => self.start_over(disk, load),
        }
    }

    fn sheds(&self) -> bool {
        let policy = self.config.write_policy;
        matches!(policy, WritePolicy::Behind { when_full: WhenFull::Shed, .. })
    }

    /// How much may be pending: what is free below the disk tier's limits, and a small share of them.
    /// Evictions happen in the commit; without this, a queue that holds as much as a small disk tier
    /// would make it look twice as large.
    fn ahead(&self, disk: &DiskSide) -> Load {
        let (limits, (entries, bytes)) = (*disk.limits.lock(), disk.disk.held());
        let slack = |max: u64, least: u64| match self.config.disk_slack {
            Some(part) if !self.sheds() => (max / u64::from(part)).max(least),
            // Who sheds does not want to wait.
            Some(_) | None => u64::MAX,
        };
        let room = |max: Option<u64>, held: u64, least: u64| {
            max.map_or(u64::MAX, |max| max.saturating_sub(held).saturating_add(slack(max, least)))
        };
        Load {
            ops: usize::try_from(room(limits.entries, entries, SLACK_OPS_MIN))
                .unwrap_or(usize::MAX),
            bytes: usize::MAX,
            charge: room(limits.bytes, bytes, SLACK_BYTES_MIN),
        }
    }

    /// With write-through, waits until `seq` is durable, or all there is: what was not there to be
    /// removed may have gone by an operation that is not durable. A disk that fails is an error or not, as
    /// the policy says.
    pub(super) fn wait_if_through(&self, disk: &DiskSide, seq: Option<u64>) -> Result<()> {
        if self.config.write_policy != WritePolicy::Through {
            return Ok(());
        }
        let seq = seq.unwrap_or_else(|| disk.queue.newest());
        match disk.queue.wait_durable(seq) {
            Err(e) if self.config.error_policy == ErrorPolicy::Strict => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cold]
fn busy(disk: &DiskSide, patience: Duration, ahead: bool) -> Error {
    let (ops, bytes) = disk.queue.pending();
    let Bounds { ops_max, bytes_max, .. } = disk.queue.bounds();
    let ms = patience.as_millis();
    let sentence = if ahead {
        format!(
            "the disk tier stayed full for {ms} ms, and writes are as far ahead of it as disk_slack lets them \
             ({ops} operations); write less at once, set a smaller disk_slack or none, or raise the tier's limits"
        )
    } else {
        format!(
            "the queue of pending writes stayed full for {ms} ms ({ops} operations, {bytes} bytes, the limits are \
             {ops_max} and {bytes_max}); write less at once, or raise its limits"
        )
    };
    Error::new(ErrorKind::Busy, sentence)
}
