//! The writer thread: takes from the queue, commits, settles; and opens the disk anew when it fails.
//!
//! # How it works
//!
//! 1. Take a prefix of the queue, and recency that wants to go down.
//! 2. Commit it. The store asks [`Asker`] before an entry leaves; the answer, the removal from
//!    memory and the tombstone that hides the old snapshot are one step under the shard's lock.
//! 3. Settle: with the new snapshot out, take the batch's operations from the pending maps.
//! 4. Acknowledge.
//!
//! # Failure
//!
//! A batch that failed is kept. The file is opened anew, with pauses from 100 ms up to 30 s; the
//! number of its last batch tells whether ours was applied. Until then the pending maps answer for
//! what is queued, and the rest of the disk reads as missing. Where the device is full, the oldest
//! entries make room first, if there is room for that. A file that is damaged so that a batch
//! fails twice, or that it cannot be opened, is replaced by a new one, by policy.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::compact::Upkeep;
use crate::engine::pending::{Pending, What};
use crate::engine::queue::Work;
use crate::engine::{Core, DiskSide, Garbage, TOUCHES_WANT_COMMIT};
use crate::entry::{RemovalCause, Tier};
use crate::hash::KeyHash;
use crate::record::{NEVER, Record};
use crate::stats::Limits;
use crate::store::disk::{Failure, Writer};
use crate::store::{Above, Batch, Change, Op, Outcome, Sweep, Touch, Verdict, Why};
use crate::sync::atomic::Ordering;
use crate::sync::thread;
use crate::trace;

/// A batch of at least this many operations, or of none, is committed so that opening after a crash is
/// quick: it costs a tenth there, and half the speed of single writes ...
const QUICK_REPAIR_OPS: usize = 100;
/// ... which is spent where entries have at least this many bytes: opening would take half a second.
const QUICK_REPAIR_BYTES: u64 = 256 << 20;
/// Touches that go along with a batch: as many as it has operations, but so many at least, ...
const TOUCHES_PER_BATCH_MIN: usize = 1 << 11;
/// ... and this many where there are too many of them. The others may be taken back by the next read.
const TOUCHES_PER_BATCH_MAX: usize = 1 << 14;
/// The first pause after a failure, and the longest.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Where the device is full at the second attempt too, one in so many entries makes room, ...
const ROOM_PART: u64 = 10;
/// ... so many at first where there is no room for a commit that takes them all out. What it frees is
/// there for the one after the next.
const ROOM_STEP: u64 = 16;
/// How often that is done for one batch, before the disk tier is said to fail: then more of it does not
/// help.
const ROOMS_MAX: u32 = 6;

/// How often a batch has the file healed before it is given up.
const HEALS_MAX: u32 = 2;

/// Whether to wait before the file is opened anew, or to give it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    No,
    Yes,
    Hopeless,
}

/// Runs until the cache is closed. The writer, and with it the file, is dropped at the end.
pub(super) fn run(core: &Arc<Core>, mut writer: Writer) {
    let Some(disk) = &core.disk else { return };
    disk.queue.set_writer(thread::current().id());
    let mut upkeep = Upkeep::new(core.config.disk_max_file_bytes);
    loop {
        let work = disk.queue.next(upkeep.pace(disk, &writer));
        let close = work.as_ref().is_some_and(|work| work.close);
        // Nothing below panics as far as we know; if it does, the batch is as if it had failed.
        let step = AssertUnwindSafe(|| {
            work.is_none_or(|work| {
                upkeep.prepare(disk, &mut writer, &work);
                let kept = core.work_off(disk, &mut writer, &work);
                disk.queue.spend(work);
                kept
            }) && (close || core.keep_compact(disk, &mut writer, &mut upkeep))
        });
        let kept = catch_unwind(step).unwrap_or_else(|_| {
            core.degraded(disk, "the writer stopped after a panic");
            false
        });
        if close || !kept {
            break;
        }
    }
    drop(writer);
    disk.queue.ended();
}

impl Core {
    /// Commits one piece of work; `false` if the cache is closing and the disk fails.
    fn work_off(&self, disk: &DiskSide, writer: &mut Writer, work: &Work) -> bool {
        if let Some(reason) = &work.suspect {
            let failure = Failure::because(reason);
            if !self.recover(disk, writer, failure, Pause::No, &mut { PAUSE_MIN }).1 {
                return false;
            }
        }
        let ops = work.ops.as_slice();
        let is_flush = work.flush.is_some() || work.close;
        let touches = if is_flush {
            self.all_recency(work.number)
        } else {
            self.touches_for(disk, work.number, ops.len())
        };
        let sweep = work.sweep.map(|(sweep, _)| sweep);
        let asked = sweep.is_some() || work.repair.is_some();
        // What a flush answered must not depend on what redb makes of damage.
        let unsure = work.flush.is_some() && writer.is_unsure();
        let idle = ops.is_empty() && touches.is_empty() && !asked && !unsure;
        let mut cleared = Vec::new();
        if (!idle || Self::is_over_disk_limits(disk))
            && !self.commit_all(disk, writer, work, ops, &touches, sweep, &mut cleared)
        {
            return false;
        }
        if is_flush {
            self.end_flush();
        }
        disk.queue.done(work, &cleared);
        disk.queue.answered(work);
        true
    }

    /// Commits until the sweep is through; one transaction where there is none.
    #[expect(clippy::too_many_arguments, reason = "the parts of one batch, as they come")]
    fn commit_all(
        &self,
        disk: &DiskSide,
        writer: &mut Writer,
        work: &Work,
        ops: &[Op],
        touches: &[Touch],
        sweep: Option<Sweep>,
        cleared: &mut Vec<u64>,
    ) -> bool {
        let is_valid = |record: &Record| self.is_valid(record);
        let mut batch = Batch {
            ops,
            touches,
            number: work.number,
            limits: disk.commit_limits(),
            sweep,
            repair: work.repair.as_ref().map(|(repair, _)| repair.as_ref()),
            is_valid: &is_valid,
            quick_repair: !(1..QUICK_REPAIR_OPS).contains(&ops.len())
                || writer.totals().bytes >= QUICK_REPAIR_BYTES
                || work.flush.is_some()
                || work.close,
            listening: self.is_listening(),
        };
        loop {
            let Some(outcome) = self.commit_once(disk, writer, &batch) else { return false };
            let more = outcome.more_expired;
            cleared.extend(&outcome.cleared);
            if let Some(repair) = batch.repair {
                repair.set_done(outcome.repaired);
            }
            self.settle(disk, &batch, outcome);
            if !more {
                return true;
            }
            (batch.ops, batch.touches, batch.repair) = (&[], &[], None);
        }
    }

    /// Commits one batch, however often it takes; `None` if the cache closes before it succeeds.
    fn commit_once(
        &self,
        disk: &DiskSide,
        writer: &mut Writer,
        batch: &Batch<'_>,
    ) -> Option<Outcome> {
        let before = writer.totals().batch;
        // One failure may be a hiccup; callers hear of the second in a row.
        let (mut pause, mut backoff) = (Pause::No, PAUSE_MIN);
        let (mut fulls, mut rooms, mut limit) = (0_u32, 0, 0);
        let (mut heals, mut dropped) = (0, 0);
        let asks = Self::room_for(batch);
        // What left memory for attempts that came to nothing.
        let mut hidden = Vec::new();
        loop {
            let healed = self.heal(disk, writer);
            let is_healthy = healed.is_ok();
            let (committed, seen) = match healed {
                Ok(healed) => {
                    dropped += healed.unwrap_or(0);
                    self.try_once(writer, batch)
                }
                Err(failure) => {
                    // What the device did is no reason to give the file up.
                    if !failure.damaged && !failure.is_echo() {
                        heals = 0;
                    }
                    (Err(failure), Outcome::default())
                }
            };
            let failure = match committed {
                Ok(mut outcome) => {
                    self.recovered(disk);
                    self.show_again(&hidden, batch.number);
                    if rooms > 0 {
                        *disk.room.lock() = Some(limit);
                    }
                    // What was asked to be repaired and is not there any more.
                    outcome.repaired += dropped;
                    return Some(outcome);
                }
                Err(failure) => failure,
            };
            self.came_to_nothing(&seen, &mut hidden);
            if failure.damaged && is_healthy && heals < HEALS_MAX && writer.hurts() {
                heals += 1;
                continue;
            }
            let full = failure.is_full();
            fulls += u32::from(full);
            // Nothing can be evicted from a file that is to be healed first.
            let held = writer.totals();
            // What is much more than all there is would take all, and still not fit.
            let can_help = is_healthy && held.entries > 1 && asks / 4 <= held.bytes;
            let room = full && fulls > 1 && can_help && rooms < ROOMS_MAX;
            let how = match pause {
                Pause::Yes if failure.damaged => Pause::Hopeless,
                _ if room => Pause::No,
                pause => pause,
            };
            let (last, go_on) = self.recover(disk, writer, failure, how, &mut backoff);
            pause = Pause::Yes;
            if last == Some(batch.number) && last != Some(before) {
                // It was applied, though its commit said otherwise.
                self.recovered(disk);
                hidden.retain(|record: &Record| {
                    let left = seen.evicted.iter().chain(&seen.expired);
                    !left.into_iter().any(|gone| gone.key() == record.key())
                });
                self.show_again(&hidden, batch.number);
                return Some(Outcome { totals: writer.totals(), ..seen });
            }
            if !go_on {
                return None;
            }
            rooms += u32::from(room);
            // Where that did not help, pages are asked for that were never written.
            if room && (rooms != 2 || !writer.spend_reserve()) {
                // A tenth less than there was: a commit needs the room of what it takes out.
                limit = held.entries - held.entries.div_ceil(ROOM_PART);
                if !self.make_room(disk, writer, batch, limit, &mut hidden) {
                    return None;
                }
            }
        }
    }

    /// Shows entries that were to leave with a commit that did not happen, or not with them.
    fn show_again(&self, hidden: &[Record], number: u64) {
        for record in hidden {
            let hash = self.memory.hash(record.key());
            let mut locked = self.memory.lock(hash);
            let is_gone =
                |pending: &Pending| pending.seq <= number && matches!(pending.what, What::Gone(_));
            if locked.side.pending(hash, record.key()).is_some_and(is_gone) {
                let settled = locked.side.settle(hash, record.key(), number);
                drop(locked);
                drop(settled);
            }
        }
    }

    /// One attempt, and what was let leave meanwhile.
    fn try_once(
        &self,
        writer: &mut Writer,
        batch: &Batch<'_>,
    ) -> (Result<Outcome, Failure>, Outcome) {
        let mut asker = Asker {
            core: self,
            number: batch.number,
            garbage: Garbage::default(),
            outcome: Outcome::default(),
        };
        let mut committed = writer.commit(batch, &mut asker);
        let mut seen = asker.outcome;
        self.dispose(asker.garbage);
        if let Ok(outcome) = &mut committed {
            outcome.asked = mem::take(&mut seen.asked);
        }
        (committed, seen)
    }

    /// What an attempt handed down waits for another one. Adds to `hidden` what it let leave memory.
    fn came_to_nothing(&self, seen: &Outcome, hidden: &mut Vec<Record>) {
        hidden.extend(seen.evicted.iter().chain(&seen.expired).cloned());
        for Touch { record, stamp } in &seen.asked {
            let hash = self.memory.hash(record.key());
            let stays = self.memory.lock(hash).side.touch_stays(hash, record.key(), *stamp);
            self.count_touches(stays);
        }
    }

    /// Bytes that a batch puts.
    fn room_for(batch: &Batch<'_>) -> u64 {
        let put = batch.ops.iter().filter_map(|op| op.change.put());
        put.map(|record| record.allocated_bytes() as u64).sum()
    }

    /// Evicts the oldest but `goal`, in commits of their own before `batch`; `false` if the cache closes
    /// before the file can be opened again. Adds to `hidden` what left memory for commits that came to
    /// nothing.
    fn make_room(
        &self,
        disk: &DiskSide,
        writer: &mut Writer,
        batch: &Batch<'_>,
        goal: u64,
        hidden: &mut Vec<Record>,
    ) -> bool {
        trace::warn("the device is full; all but so many entries make room", &goal);
        let nothing = Batch { ops: &[], touches: &[], sweep: None, repair: None, ..*batch };
        let mut step = u64::MAX;
        loop {
            let totals = writer.totals();
            let entries = goal.max(totals.entries.saturating_sub(step));
            let limits = Limits { entries: Some(entries), bytes: batch.limits.bytes };
            let room = Batch { number: totals.batch, limits, quick_repair: false, ..nothing };
            let (committed, seen) = self.try_once(writer, &room);
            match committed {
                Ok(outcome) => {
                    self.settle(disk, &room, outcome);
                    if entries == goal {
                        return true;
                    }
                    step = step.saturating_mul(2);
                }
                Err(failure) => {
                    self.came_to_nothing(&seen, hidden);
                    let smaller = failure.is_full() && step > ROOM_STEP;
                    if !self.recover(disk, writer, failure, Pause::No, &mut { PAUSE_MIN }).1 {
                        return false;
                    }
                    if !smaller {
                        return true;
                    }
                    writer.spend_reserve();
                    step = ROOM_STEP;
                }
            }
        }
    }

    /// Opens the file anew, however often that takes, or another in its place. Gives the number of its
    /// last batch, and whether to go on. The pauses go on where `backoff` is.
    pub(super) fn recover(
        &self,
        disk: &DiskSide,
        writer: &mut Writer,
        mut failure: Failure,
        mut how: Pause,
        backoff: &mut Duration,
    ) -> (Option<u64>, bool) {
        loop {
            self.counts.disk_errors.add(1);
            trace::warn("the disk tier fails", &failure);
            writer.let_go();
            let mut go_on = true;
            if how == Pause::Yes {
                let reason = failure.to_string();
                self.degraded(disk, &reason);
                go_on = disk.queue.failed(&reason, *backoff);
                *backoff = (2 * *backoff).min(PAUSE_MAX);
            }
            let opened = if how == Pause::Hopeless {
                self.replace_file(writer, failure)
            } else {
                writer.reopen()
            };
            failure = match opened {
                Ok(totals) => {
                    trace::info("the disk tier is open again");
                    return (Some(totals.batch), go_on);
                }
                Err(failure) => failure,
            };
            if !go_on {
                return (None, false);
            }
            // Where a new file could not be made, or must not, all that is left is to try again.
            let give_up = failure.damaged && how != Pause::Hopeless;
            how = if give_up { Pause::Hopeless } else { Pause::Yes };
        }
    }

    fn is_over_disk_limits(disk: &DiskSide) -> bool {
        let (entries, bytes) = disk.disk.held();
        disk.commit_limits().exceeded(entries, bytes)
    }

    /// Recency that memory let go of, for a batch of this number with so many operations. Whoever let go
    /// of it may not have counted it yet, so the shards are asked whatever the count says.
    fn touches_for(&self, disk: &DiskSide, number: u64, ops: usize) -> Vec<Touch> {
        let mut touches = Vec::new();
        let room = match disk.touched.load(Ordering::Relaxed) {
            many if many > TOUCHES_WANT_COMMIT => TOUCHES_PER_BATCH_MAX,
            _ => ops.clamp(TOUCHES_PER_BATCH_MIN, TOUCHES_PER_BATCH_MAX),
        };
        // In turn, so that no shard's wait for all those of another.
        let shards = self.memory.shard_count();
        let first = usize::try_from(number).unwrap_or(0) % shards;
        for index in (first..shards).chain(0..first) {
            let room = room.saturating_sub(touches.len());
            let taken = self.memory.lock_nth(index).side.touches_for(number, room, &mut touches);
            self.count_touches(taken);
        }
        touches
    }

    /// Recency of everything in memory that the disk does not have, and of the rest that is noted,
    /// unless a newer operation has the key.
    fn all_recency(&self, number: u64) -> Vec<Touch> {
        let mut touches = Vec::new();
        for index in 0..self.memory.shard_count() {
            let mut locked = self.memory.lock_nth(index);
            self.count_touches(locked.side.touches_for(number, usize::MAX, &mut touches));
            locked.side.begin_flush(self.clock.newest());
            let changed: Vec<_> = locked
                .shard
                .ids()
                .filter(|id| {
                    let (handed, record) = (locked.shard.handed(*id), locked.shard.record(*id));
                    let hash = self.memory.hash(record.key());
                    handed.is_some_and(|handed| handed != locked.shard.stamp(*id))
                        && !locked.side.is_superseded(hash, record.key(), number)
                })
                .collect();
            for id in changed {
                let stamp = locked.shard.stamp(id);
                let record = Record::of_key(locked.shard.record(id).key());
                locked.shard.set_handed(id, Some(stamp));
                touches.push(Touch { record, stamp });
            }
        }
        touches
    }

    /// What [`Self::all_recency`] handed down is out.
    fn end_flush(&self) {
        for index in 0..self.memory.shard_count() {
            self.memory.lock_nth(index).side.end_flush();
        }
    }

    /// The batch is on disk and readers see it: take its operations out of the pending maps.
    fn settle(&self, disk: &DiskSide, batch: &Batch<'_>, outcome: Outcome) {
        self.counts.disk_evictions.add(outcome.evicted.len() as u64);
        self.counts.disk_expirations.add(outcome.expired.len() as u64);
        self.counts.corrupt.add(outcome.scrubbed);
        let next = outcome.next_deadline.unwrap_or(NEVER);
        let is_sooner = next < disk.next_deadline.swap(next, Ordering::AcqRel);
        let oldest = outcome.oldest.unwrap_or(NEVER);
        let is_older = oldest < disk.oldest.swap(oldest, Ordering::AcqRel);
        // The maintenance thread may sleep for longer.
        if is_sooner || is_older && self.lifetimes.idle != NEVER {
            self.clock.nudge();
        }
        // First, or what came after a clear in the same batch would be hidden for a moment.
        if batch.ops.iter().any(|op| matches!(op.change, Change::Clear)) {
            for index in 0..self.memory.shard_count() {
                self.memory.lock_nth(index).side.clear_settled(batch.number);
            }
        }
        for record in batch.ops.iter().filter_map(|op| op.change.record()) {
            let hash = self.memory.hash(record.key());
            let settled = self.memory.lock(hash).side.settle(hash, record.key(), batch.number);
            drop(settled);
        }
        let mut touched = 0;
        for record in outcome.evicted.iter().chain(&outcome.expired) {
            let hash = self.memory.hash(record.key());
            let mut locked = self.memory.lock(hash);
            if !locked.side.is_superseded(hash, record.key(), batch.number) {
                touched += locked.side.forget_touch(hash, record.key());
            }
            let settled = locked.side.settle(hash, record.key(), batch.number);
            drop(locked);
            drop(settled);
        }
        for Touch { record, stamp } in outcome.asked.iter().chain(batch.touches) {
            let hash = self.memory.hash(record.key());
            touched += self.memory.lock(hash).side.touch_settled(hash, record.key(), *stamp);
        }
        self.count_touches(touched);
        if self.is_listening() {
            let mut garbage = Garbage::default();
            let causes = [
                (outcome.replaced, RemovalCause::Replaced),
                (outcome.evicted, RemovalCause::Size),
                (outcome.expired, RemovalCause::Expired),
            ];
            for (records, cause) in causes {
                let records = records.into_iter().filter(|record| self.is_valid(record));
                garbage.records.extend(records.map(|r| (r.clone(), r.stamp(), Tier::Disk, cause)));
            }
            self.dispose(garbage);
        }
    }
}

/// Memory's side of the questions that the store has.
struct Asker<'c> {
    core: &'c Core,
    number: u64,
    garbage: Garbage,
    /// What was let leave, in case the commit happens and its outcome is lost.
    outcome: Outcome,
}

impl Above for Asker<'_> {
    fn newest_stamp(&self) -> u64 {
        self.core.clock.newest()
    }

    fn ask(&mut self, key: &[u8], stamp: u64, why: Why) -> Verdict {
        let core = self.core;
        let hash: KeyHash = core.memory.hash(key);
        let mut locked = core.memory.lock(hash);
        // Evicting by what comes after this batch would leave, after a crash, what no prefix had.
        if let Some(newer) = locked.side.pending(hash, key).filter(|p| p.seq > self.number) {
            let is_told = newer.has_told(self.number);
            return if is_told { Verdict::Told } else { Verdict::Superseded };
        }
        if locked.side.cleared.is_some_and(|clear| clear > self.number) {
            return Verdict::Superseded;
        }
        let held = locked.shard.find(hash, key);
        let accessed = match held {
            Some(id) => locked.shard.stamp(id),
            None => locked.side.touched(hash, key).unwrap_or(stamp),
        };
        if accessed != stamp && matches!(why, Why::Size | Why::Idle) {
            if let Some(id) = held {
                locked.shard.set_handed(id, Some(accessed));
            }
            // It stays noted, or whoever reads the snapshot before took the entry for idle, and another
            // attempt for unused.
            core.count_touches(locked.side.hand_down(hash, key, accessed));
            drop(locked);
            self.outcome.asked.push(Touch { record: Record::of_key(key), stamp: accessed });
            return Verdict::Accessed(accessed);
        }
        if let Some(id) = held {
            let removed = locked.remove(id);
            if matches!(why, Why::Expired | Why::Idle) {
                locked.side.counts.memory_expirations += 1;
            }
            self.garbage.silent.push(removed.into_record());
        }
        let name = Record::of_key(key);
        drop(locked.side.note(hash, self.number, What::Gone(name.clone()), false));
        drop(locked);
        match why {
            Why::Size | Why::Turn => self.outcome.evicted.push(name),
            Why::Expired | Why::Idle => self.outcome.expired.push(name),
        }
        Verdict::Leave
    }
}
