//! Placing: where a record that is made goes in, once it is known what must hold of its key.
//!
//! [`Core::place`] knows all that may come; [`Core::place_alone`] what usually comes where there is no tier
//! below, with nothing to look at or to carry along for what there is not.
//!
//! An entry goes into memory only when its place is reserved; until then the loop lets the lock go,
//! evicts the oldest entry there is, and looks again. An old value of the key stays readable, with
//! the new stamp, until the new one takes its place.

use crate::engine::below::Seen;
use crate::engine::pending::{Below, Side, What};
use crate::engine::queue::Room;
use crate::engine::{Core, Garbage, Moment};
use crate::entry::{RemovalCause, Tier};
use crate::hash::KeyHash;
use crate::memory::{Locked, NOT_BELOW, Newcomer, Placement, Removed, Room as Place, SlotId};
use crate::record::Record;
use crate::store::Change;

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

impl Core {
    /// [`Self::place`] where there is no tier below and nobody listens, as it usually goes: there is room, or one
    /// entry leaves at once. If it goes otherwise, gives back the record and what has left.
    #[inline]
    pub(super) fn place_alone(
        &self,
        record: Record,
        write: &Write,
    ) -> Result<(), (Record, Option<Removed>)> {
        let Write { hash, mut moment, counted, .. } = *write;
        let charge = record.charge();
        if !matches!(write.expect, Expect::Anything)
            || self.is_listening()
            || !self.fits_memory(charge, self.memory.recent_limits())
        {
            return Err((record, None));
        }
        let mut locked = self.memory.lock(hash);
        let old = locked.shard.find(hash, record.key());
        if let Some(old) = old {
            self.restamp_old(&mut locked, old, &mut moment);
        }
        let deadline = self.memory_deadline(record.deadline(), moment.wall);
        let old_charge = old.map(|id| locked.shard.charge(id));
        let newcomer = Newcomer::new(&record, hash, moment.stamp, deadline, old_charge);
        let mut left = None;
        let room = locked.reserve_by_evicting(&newcomer, |side, removed| {
            side.counts.memory_evictions += 1;
            left = Some(removed);
        });
        if room != Place::Reserved {
            return Err((record, left));
        }
        locked.side.counts.inserts += u64::from(counted);
        let placement = Placement { stamp: moment.stamp, handed: NOT_BELOW, deadline };
        let was = if let Some(old) = old {
            locked.shard.count_hit(old);
            Some(locked.replace(old, record, placement))
        } else {
            locked.insert(hash, record, placement);
            None
        };
        drop(locked);
        // Only now.
        drop((left, was));
        Ok(())
    }

    /// Has an old value whose place a new one takes stay readable with that one's stamp until then.
    #[inline]
    fn restamp_old(&self, locked: &mut Locked<'_, Side>, old: SlotId, moment: &mut Moment) {
        if self.is_late(*moment, locked.shard.stamp(old)) {
            moment.stamp = locked.shard.stamp(old);
        }
        locked.shard.restamp(old, moment.stamp);
    }

    /// Puts a record into memory, if it fits there, and notes its operation.
    #[inline]
    pub(super) fn place(
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
        // It did when it was checked, so the limit has become smaller since: it is in and out at once.
        let is_too_late = !fits && self.disk.is_none();
        // Set when it is older than all that is there: whether there was an old value of its own then.
        let mut victim_beside_old = None;
        loop {
            let mut locked = self.memory.lock(hash);
            if !self.is_as_expected(&locked, hash, record.key(), &write.expect) {
                return Entered::Changed;
            }
            let old = locked.shard.find(hash, record.key());
            // Whoever brought an old value meanwhile has made a place for this one, too.
            let is_victim = is_too_late
                || victim_beside_old.is_some_and(|beside_old| beside_old || old.is_none());
            let enters = fits && !is_victim;
            if let Some(old) = old.filter(|_| enters) {
                self.restamp_old(&mut locked, old, &mut moment);
            }
            let old_charge = old.map(|id| locked.shard.charge(id));
            let newcomer = Newcomer::new(&record, hash, moment.stamp, deadline, old_charge);
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
                        let removed = locked.remove(old);
                        if counted {
                            garbage.note(removed, Tier::Memory, RemovalCause::Replaced);
                        } else {
                            garbage.silent.push(removed.into_record());
                        }
                    }
                    if is_victim {
                        Self::passed(&mut locked.side, record, moment.stamp, garbage);
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
        let (seq, what, is_told, handed) = match ticket {
            Ticket::NoDisk => return (NOT_BELOW, None),
            Ticket::Room(room) => {
                let seq = disk.queue.push(room, Change::Put(record.clone()), reported);
                (seq, What::Put(record.clone()), reported, Some(record.stamp()))
            }
            Ticket::Shed(room) => {
                self.counts.shed.add(1);
                let key = Record::of_key(record.key());
                let seq = disk.queue.push(room, Change::Remove(key.clone()), true);
                (seq, What::Gone(key), true, NOT_BELOW)
            }
        };
        let old = locked.side.note(hash, seq, what, is_told);
        garbage.silent.extend(old.map(|what| what.record().clone()));
        (handed, Some(seq))
    }
}
