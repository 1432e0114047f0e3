//! Writing: encode, make room in memory, note the operation, queue it.
//!
//! An entry goes into memory only when its place is reserved; until then the loop lets the lock go,
//! evicts the oldest entry there is, and looks again. An old value of the key stays readable, with
//! the new stamp, until the new one takes its place.

use std::mem::ManuallyDrop;
use std::time::Duration;

use crate::attributes::{InsertOptions, NO_OPTIONS};
use crate::config::{ErrorPolicy, WhenFull, WritePolicy};
use crate::engine::bound::commit_bytes;
use crate::engine::pending::{Below, Side, What};
use crate::engine::queue::{Load, Reserved, Room};
use crate::engine::read::Seen;
use crate::engine::{Core, DiskSide, Garbage, Moment};
use crate::entry::{RemovalCause, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::KeyHash;
use crate::memory::{CHARGES_MAX, Locked, NOT_BELOW, Newcomer, Placement};
use crate::record::{CHARGE_MAX, Draft, Record, VALUE_BYTES_MAX};
use crate::store::Change;
use crate::trace::trace_op;

/// Below this a commit would cost more than what the exactness of a tiny disk tier is worth.
const SLACK_OPS_MIN: u64 = 16;
/// Likewise in bytes.
const SLACK_BYTES_MIN: u64 = 16 << 10;

/// What must hold of the key for a write to go in.
#[derive(Debug)]
pub(super) enum Expect {
    Anything,
    /// It was not there when this was the token of the shard; `None`: gone, by an operation that is
    /// not committed, or there is no disk.
    Absent(Option<u64>),
    /// It was this very record, in memory or in an operation that is not committed.
    Same(Record),
    /// It was this, on disk.
    SameBelow(Seen),
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It went in; `None` where there is no disk to wait for.
    Yes(Option<u64>),
    /// What was expected of the key does not hold any more.
    Changed,
}

/// What is to be known of a record on its way in. It is lent: an owner would move it, by wide loads that wait
/// for narrow stores.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) hash: KeyHash,
    pub(super) moment: Moment,
    pub(super) expect: Expect,
    /// Counts as an insert of the user's.
    pub(super) counted: bool,
}

/// How the operation of a write gets its number.
pub(super) enum Ticket<'q> {
    /// There is no disk tier.
    NoDisk,
    /// It is pushed into this room.
    Room(Room<'q>),
    /// There is no room: the entry stays in memory, and older versions below are removed, the
    /// operation for which takes this room.
    Shed(Room<'q>),
}

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
        self.counts.rejected.add(1);
        Err(too_large("entry", size, limit, name))
    }

    /// Checks the size of a batch, which goes into one commit.
    pub(super) fn check_batch(&self, bytes: u64) -> Result<()> {
        let limit = self.config.disk_max_file_bytes.map_or(u64::MAX, commit_bytes);
        if bytes <= limit {
            return Ok(());
        }
        self.counts.rejected.add(1);
        Err(too_large("batch", bytes, limit, A_COMMIT))
    }

    /// Checks what the entries of a batch count in all.
    pub(super) fn check_charges(&self, sum: u64) -> Result<()> {
        if sum <= CHARGES_MAX {
            return Ok(());
        }
        self.counts.rejected.add(1);
        let sentence = format!(
            "the weights of the batch add up to {sum}, the limit is {CHARGES_MAX}; insert less at once"
        );
        Err(Error::new(ErrorKind::TooLarge, sentence))
    }

    /// Makes the record of an insert, after checking everything that can be checked. `weight`: what the
    /// entry counts, instead of its bytes.
    #[inline]
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
        let moment = self.moment(options.timestamp);
        let record = self.draft(key, value, options, weight, moment)?;
        let hash = self.memory.hash(key);
        self.enter(record, &Write { hash, moment, expect: Expect::Anything, counted: true })?;
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
            let record = self.draft(key, value, &NO_OPTIONS, weight, moment)?;
            let write = Write { hash, moment, expect, counted: true };
            if let Entered::Yes(_) = self.enter(record, &write)? {
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
        let seen = match self.see_below(disk, locked, hash, key) {
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
                let Some(seen) = self.see_below(disk, locked, hash, key)? else { return Ok(false) };
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
        // Nothing is in it when it has been disposed of, so nobody need look.
        let mut garbage = ManuallyDrop::new(Garbage::default());
        let Some(disk) = &self.disk else {
            let entered = self.place(record, write, Ticket::NoDisk, &mut garbage);
            self.dispose_of(&mut garbage);
            return Ok(entered);
        };
        let ticket = self.ticket(disk, &record)?;
        let entered = self.place(record, write, ticket, &mut garbage);
        self.dispose_of(&mut garbage);
        self.relieve_touches();
        if let Entered::Yes(Some(seq)) = entered {
            self.wait_if_through(disk, Some(seq))?;
        }
        Ok(entered)
    }

    /// Asks the queue for room, as the policy says.
    fn ticket<'d>(&self, disk: &'d DiskSide, record: &Record) -> Result<Ticket<'d>> {
        let when_full = match self.config.write_policy {
            WritePolicy::Through => WhenFull::default(),
            WritePolicy::Behind { when_full, .. } => when_full,
        };
        let patience = match when_full {
            WhenFull::Block(patience) => patience,
            WhenFull::Shed => Duration::ZERO,
        };
        let load = Load::of(&Change::Put(record.clone()));
        match disk.queue.reserve(load, patience, || self.ahead(disk)) {
            Reserved::Room(room) => Ok(Ticket::Room(room)),
            Reserved::Failing => Ok(Ticket::Room(self.start_over(disk, load)?)),
            Reserved::Full if when_full == WhenFull::Shed => {
                let load = Load::of(&Change::Remove(Record::of_key(record.key())));
                Ok(Ticket::Shed(disk.queue.force_room(load)?))
            }
            Reserved::Full => {
                self.counts.rejected.add(1);
                Err(busy(disk, patience))
            }
        }
    }

    /// Room for operations that may not be shed: removals and batches.
    pub(super) fn room<'d>(&self, disk: &'d DiskSide, load: Load) -> Result<Room<'d>> {
        let patience = match self.config.write_policy {
            WritePolicy::Behind { when_full: WhenFull::Block(patience), .. } => patience,
            WritePolicy::Through | WritePolicy::Behind { when_full: WhenFull::Shed, .. } => {
                match WhenFull::default() {
                    WhenFull::Block(patience) => patience,
                    WhenFull::Shed => Duration::ZERO,
                }
            }
        };
        match disk.queue.reserve(load, patience, || self.ahead(disk)) {
            Reserved::Room(room) => Ok(room),
            Reserved::Full => Err(busy(disk, patience)),
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

    /// Puts a record into memory, if it fits there, and notes its operation.
    #[inline]
    fn place(
        &self,
        record: Record,
        write: &Write,
        ticket: Ticket<'_>,
        garbage: &mut Garbage,
    ) -> Entered {
        let Write { hash, mut moment, counted, .. } = *write;
        let charge = record.charge();
        let fits = self.fits_memory(charge, self.memory.recent_limits());
        let deadline = self.memory_deadline(record.deadline(), moment.wall);
        // Set when it is older than all that is there: whether there was an old value of its own then.
        let mut victim_beside_old = None;
        loop {
            let mut locked = self.memory.lock(hash);
            if !self.is_as_expected(&locked, hash, record.key(), &write.expect) {
                return Entered::Changed;
            }
            let old = locked.shard.find(hash, record.key());
            // Whoever brought an old value meanwhile has made a place for this one, too.
            let is_victim = victim_beside_old.is_some_and(|beside_old| beside_old || old.is_none());
            let enters = fits && !is_victim;
            if let Some(old) = old.filter(|_| enters) {
                if self.is_late(moment, locked.shard.stamp(old)) {
                    moment.stamp = locked.shard.stamp(old);
                }
                locked.shard.restamp(old, moment.stamp);
            }
            let newcomer = Newcomer {
                record: &record,
                charge,
                hash,
                stamp: moment.stamp,
                deadline,
                old: old.map(|id| locked.shard.charge(id)),
            };
            if enters && !self.reserve(&mut locked, &newcomer, garbage) {
                drop(locked);
                if !self.evict_one(Some(&newcomer), garbage) {
                    victim_beside_old = Some(old.is_some());
                }
                continue;
            }
            // A touch keeps the value, so the listener has nothing to hear.
            let known =
                !counted || self.known_below(&locked, hash, record.key(), old.is_some(), garbage);
            let (handed, seq) = self.note_put(&mut locked, hash, &record, ticket, known, garbage);
            locked.side.counts.inserts += u64::from(counted);
            let placement = Placement { stamp: moment.stamp, handed, deadline };
            match old {
                Some(old) if enters => {
                    let stamp = locked.shard.stamp(old);
                    locked.shard.count_hit(old);
                    let was = locked.replace(old, record, placement);
                    if counted {
                        garbage.records.push((was, stamp, Tier::Memory, RemovalCause::Replaced));
                    } else {
                        garbage.silent.push(was);
                    }
                }
                None if enters => {
                    locked.insert(hash, record, placement);
                }
                old => {
                    if let Some(old) = old {
                        garbage.note(locked.remove(old), Tier::Memory, RemovalCause::Replaced);
                    }
                    if is_victim {
                        locked.side.counts.memory_evictions += 1;
                        garbage.records.push((
                            record,
                            moment.stamp,
                            Tier::Memory,
                            RemovalCause::Size,
                        ));
                    }
                }
            }
            return Entered::Yes(seq);
        }
    }

    fn is_as_expected(
        &self,
        locked: &Locked<'_, Side>,
        hash: KeyHash,
        key: &[u8],
        expect: &Expect,
    ) -> bool {
        match expect {
            Expect::Anything => true,
            Expect::Absent(token) => {
                locked.shard.find(hash, key).is_none()
                    && match locked.side.below(hash, key) {
                        Below::Gone => true,
                        Below::Value(_) => false,
                        Below::Unknown { token: now } => self.disk.is_none() || Some(now) == *token,
                    }
            }
            Expect::Same(record) => match locked.shard.find(hash, key) {
                Some(id) => locked.shard.record(id).is_same(record),
                None => false,
            },
            Expect::SameBelow(seen) => Self::is_current(locked, hash, seen),
        }
    }

    /// Whether the listener hears of the value that a put replaces here: if memory or an operation
    /// that is not committed has it. Else the writer will find it on disk.
    fn known_below(
        &self,
        locked: &Locked<'_, Side>,
        hash: KeyHash,
        key: &[u8],
        in_memory: bool,
        garbage: &mut Garbage,
    ) -> bool {
        if in_memory || !self.is_listening() {
            return true;
        }
        match locked.side.below(hash, key) {
            Below::Gone => true,
            Below::Unknown { .. } => false,
            Below::Value(record) => {
                let stamp = record.stamp();
                garbage.records.push((record, stamp, Tier::Disk, RemovalCause::Replaced));
                true
            }
        }
    }

    /// Notes and queues the operation of a put, as its ticket says. Gives the recency that the disk
    /// will have, and the number.
    fn note_put(
        &self,
        locked: &mut Locked<'_, Side>,
        hash: KeyHash,
        record: &Record,
        ticket: Ticket<'_>,
        reported: bool,
        garbage: &mut Garbage,
    ) -> (Option<u64>, Option<u64>) {
        let Some(disk) = &self.disk else { return (NOT_BELOW, None) };
        self.count_touches(locked.side.forget_touch(hash, record.key()));
        let (seq, what, handed) = match ticket {
            Ticket::NoDisk => return (NOT_BELOW, None),
            Ticket::Room(room) => {
                let seq = disk.queue.push(room, Change::Put(record.clone()), reported);
                (seq, What::Put(record.clone()), Some(record.stamp()))
            }
            Ticket::Shed(room) => {
                self.counts.shed.add(1);
                let key = Record::of_key(record.key());
                let seq = disk.queue.push(room, Change::Remove(key.clone()), true);
                (seq, What::Gone(key), NOT_BELOW)
            }
        };
        let old = locked.side.note(hash, seq, what);
        garbage.silent.extend(old.map(|what| what.record().clone()));
        (handed, Some(seq))
    }
}

#[cold]
fn busy(disk: &DiskSide, patience: Duration) -> Error {
    let (ops, bytes) = disk.queue.pending();
    let ms = patience.as_millis();
    Error::new(
        ErrorKind::Busy,
        format!(
            "the queue of pending writes stayed full for {ms} ms ({ops} operations, {bytes} bytes); \
             write less at once, or raise its limits"
        ),
    )
}
