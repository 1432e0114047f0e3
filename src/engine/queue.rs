//! The queue between callers and the writer: bounded, in one order, acknowledged by number.
//!
//! # How it works
//!
//! A caller first reserves [`Room`], without any lock of the cache, and is made to wait there if the
//! queue is full. Then, under the lock of the key's shard, it pushes the operation and is given its
//! number. A batch does so under all shards' locks.
//!
//! # Invariants
//!
//! - **Q1** numbers rise in the order of the queue, and the operations of one key are noted in its
//!   shard's pending map in that same order.
//! - **Q2** operations and bytes that are queued or being committed stay within the limits, except
//!   for a batch larger than the queue, which goes alone, and for [`Queue::push_forced`].
//! - **Q3** the writer takes a prefix of what is queued, and a batch wholly or not at all.
//! - **Q4** what is done is freed without the lock: by those who are given room, one each, and what they
//!   leave by the writer, at the latest when the next batch is done, or before it waits or ends. That is
//!   a quarter of the queue's bytes at most.
//!
//! # Concurrency
//!
//! One mutex, taken under a shard's lock by pushes; the writer never holds both.

mod load;
mod room;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::engine::asked::Asked;
use crate::error::{Error, ErrorKind, Result};
use crate::store::disk::Repair;
use crate::store::{Change, Op, Sweep};
use crate::sync::thread::{self, ThreadId};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::time::monotonic;

pub(crate) use load::Load;
pub(crate) use room::Room;

/// How large the queue may get and when the writer takes from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) ops_max: usize,
    pub(crate) bytes_max: usize,
    /// How long the oldest operation may wait; zero for write-through.
    pub(crate) delay: Duration,
}

/// A commit starts early when this part of the queue is used: the rest is for the time it takes.
/// A commit takes that much at once, too, so that who waits for room does not wait long.
pub(crate) const EARLY_FRACTION: usize = 8;

/// How much the writer takes at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// A commit takes this part of the bounds ...
    pub(crate) fraction: usize,
    /// ... and so many operations at most.
    pub(crate) ops_max: usize,
    /// Whether the writer has something else to do between the commits.
    pub(crate) is_shared: bool,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    bounds: Bounds,
    state: Mutex<State>,
    /// The writer waits here.
    work: Condvar,
    /// Callers wait here: for room, for a commit, for a flush.
    progress: Condvar,
    /// The writer's thread: a listener that it calls must not wait for it.
    writer: OnceLock<ThreadId>,
}

#[derive(Debug, Default)]
struct State {
    queued: VecDeque<Op>,
    /// The last number given out.
    last: u64,
    /// Everything up to here is durable.
    durable: u64,
    /// Reserved, queued or being committed (Q2).
    load: Load,
    /// Of that, what is being committed.
    working: Load,
    /// Rooms that are reserved and neither used nor given back.
    rooms: usize,
    /// Callers that wait for room.
    waiting: usize,
    /// When the oldest operation was queued; `None` if there is none.
    oldest: Option<Instant>,
    flushes: Asked<()>,
    sweeps: Asked<Sweep>,
    repairs: Asked<Arc<Repair>>,
    compactions: Asked<()>,
    hurry: bool,
    closing: bool,
    closed: bool,
    /// Set while the disk fails, with the reason.
    failing: Option<String>,
    /// Failed attempts so far.
    failures: u64,
    /// A reader met an error: the database is to be opened anew.
    suspect: Option<String>,
    /// What each clear found, until its caller has read it.
    cleared: BTreeMap<u64, u64>,
    /// What is done and still to be freed, of one batch at most (Q4). Callers made these records: freed
    /// where the next one is made, they go round in one thread's part of the allocator. Freed by the
    /// writer, thousands at once, they had callers wait for the allocator's lock.
    spent: Vec<Op>,
}

impl State {
    /// What counts against the bounds (Q2): what is in a commit that fails could not be given up.
    fn held(&self) -> Load {
        if self.failing.is_some() { self.load.minus(self.working) } else { self.load }
    }
}

/// What came of asking for room.
#[derive(Debug)]
pub(crate) enum Reserved<'q> {
    Room(Room<'q>),
    /// There was none in time, or at once if no time was given. `ahead`: the queue itself has some, but writes are
    /// as far ahead of a disk tier that is full as they may be.
    Full {
        ahead: bool,
    },
    /// The disk fails and the queue is full, or the cache is closing: it will not get emptier.
    Failing,
}

/// What the writer is to do next.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) ops: Vec<Op>,
    /// Theirs.
    load: Load,
    /// The number of this batch: at least that of its operations, below that of all later ones.
    pub(crate) number: u64,
    /// Hand down all recency, and then say that this flush is done.
    pub(crate) flush: Option<u64>,
    pub(crate) sweep: Option<(Sweep, u64)>,
    pub(crate) repair: Option<(Arc<Repair>, u64)>,
    /// Begin a compaction, and say when it is done.
    pub(crate) compact: Option<u64>,
    /// Open the database anew first, for this reason.
    pub(crate) suspect: Option<String>,
    pub(crate) close: bool,
}

impl Queue {
    /// A queue that goes on behind the last batch of the file.
    pub(crate) fn new(bounds: Bounds, last: u64) -> Self {
        let state = State { last, durable: last, ..State::default() };
        Self {
            bounds,
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
            writer: OnceLock::new(),
        }
    }

    pub(crate) fn set_writer(&self, thread: ThreadId) {
        let _ = self.writer.set(thread);
    }

    /// Whether this is the writer itself, which would wait for ever.
    pub(crate) fn is_writer(&self) -> bool {
        self.writer.get() == Some(&thread::current().id())
    }

    /// Reserves room, waiting up to `patience` (Q2). `ahead` tells how much may be pending for the
    /// sake of the disk tier's limits.
    pub(crate) fn reserve(
        &self,
        load: Load,
        patience: Duration,
        ahead: impl Fn() -> Load,
    ) -> Reserved<'_> {
        // Before the lock, so dropped behind it.
        let _spent;
        let mut state = self.state.lock();
        let mut deadline = None;
        loop {
            if state.closing {
                return Reserved::Failing;
            }
            let held = state.held();
            let (sum, ahead) = (held.plus(load), ahead());
            let has_room = sum.ops <= self.bounds.ops_max && sum.bytes <= self.bounds.bytes_max;
            let fits = has_room && sum.ops <= ahead.ops && sum.charge <= ahead.charge;
            let alone = held.ops == 0;
            if fits || alone || self.is_writer() {
                state.load = state.load.plus(load);
                state.rooms += 1;
                _spent = state.spent.pop();
                return Reserved::Room(Room { queue: self, load, used: false });
            }
            if state.failing.is_some() || state.closed {
                return Reserved::Failing;
            }
            let until = *deadline.get_or_insert_with(|| monotonic().checked_add(patience));
            if patience.is_zero() || until.is_some_and(|until| monotonic() >= until) {
                return Reserved::Full { ahead: has_room };
            }
            state.waiting += 1;
            self.work.notify_one();
            match until {
                Some(until) => {
                    let _ = self.progress.wait_until(&mut state, until);
                }
                None => self.progress.wait(&mut state),
            }
            state.waiting -= 1;
        }
    }

    /// Queues an operation in the room that was reserved for it; gives its number (Q1: under the
    /// lock of the key's shard).
    pub(crate) fn push(&self, mut room: Room<'_>, change: Change, reported: bool) -> u64 {
        room.used = true;
        let mut state = self.state.lock();
        self.leave_room(&mut state);
        self.queue_up(state, change, reported)
    }

    /// A room was used or given back: what is queued in one that was reserved before the end is
    /// acknowledged, so the writer does not end before.
    fn leave_room(&self, state: &mut State) {
        state.rooms -= 1;
        if state.closing {
            self.work.notify_one();
        }
    }

    /// Queues an operation that cannot wait, small and rare: what a read has to remove (Q2). Nobody
    /// was told of it, so it may be lost if the cache is closing.
    pub(crate) fn push_forced(&self, change: Change) -> u64 {
        let mut state = self.state.lock();
        state.load = state.load.plus(Load::of(&change));
        self.queue_up(state, change, true)
    }

    fn queue_up(&self, mut state: MutexGuard<'_, State>, change: Change, reported: bool) -> u64 {
        state.last += 1;
        let seq = state.last;
        state.queued.push_back(Op { seq, change, reported, joined: false });
        self.wake_if_due(state);
        seq
    }

    /// Wakes the writer if what was queued makes it due.
    fn wake_if_due(&self, mut state: MutexGuard<'_, State>) {
        let first = state.oldest.is_none();
        if first {
            state.oldest = Some(monotonic());
        }
        let early = self.is_early(&state);
        drop(state);
        if first || early {
            self.work.notify_one();
        }
    }

    fn is_early(&self, state: &State) -> bool {
        self.bounds.delay.is_zero()
            || state.load.ops >= self.bounds.ops_max / EARLY_FRACTION
            || state.load.bytes >= self.bounds.bytes_max / EARLY_FRACTION
    }

    /// Queues the operations of a batch, one behind the other and in one commit (Q3); gives the number
    /// of the first.
    pub(crate) fn push_all(&self, mut room: Room<'_>, changes: Vec<(Change, bool)>) -> u64 {
        room.used = true;
        let mut state = self.state.lock();
        self.leave_room(&mut state);
        let first = state.last + 1;
        for (change, reported) in changes {
            state.last += 1;
            let seq = state.last;
            state.queued.push_back(Op { seq, change, reported, joined: true });
        }
        if let Some(last) = state.queued.back_mut() {
            last.joined = false;
        }
        self.wake_if_due(state);
        first
    }

    /// While the disk fails and there is no room for `load`: gives up what is queued, except for what
    /// is being committed, and queues a clear instead. Gives its number, and how many puts were given
    /// up. (Under the locks of all shards.)
    pub(crate) fn start_over(&self, load: Load) -> Option<(u64, u64)> {
        let mut state = self.state.lock();
        let sum = state.held().plus(load);
        let fits = sum.ops <= self.bounds.ops_max && sum.bytes <= self.bounds.bytes_max;
        if state.failing.is_none() || fits {
            return None;
        }
        let given_up = std::mem::take(&mut state.queued);
        let gone = Load::of_all(given_up.iter().map(|op| &op.change));
        state.load = state.load.minus(gone).plus(Load::of(&Change::Clear));
        let seq = self.queue_up(state, Change::Clear, true);
        let puts = given_up.iter().filter(|op| matches!(op.change, Change::Put(_))).count();
        Some((seq, puts as u64))
    }

    /// Room for an operation that may not wait; an error if the cache is closing, since the writer
    /// may have ended.
    pub(crate) fn force_room(&self, load: Load) -> Result<Room<'_>> {
        let mut state = self.state.lock();
        if state.closing {
            return Err(Error::closed());
        }
        state.load = state.load.plus(load);
        state.rooms += 1;
        Ok(Room { queue: self, load, used: false })
    }

    /// Waits until everything up to `seq` is durable; an error as soon as the disk fails.
    pub(crate) fn wait_durable(&self, seq: u64) -> Result<()> {
        let mut state = self.state.lock();
        while state.durable < seq && !self.is_writer() {
            if let Some(reason) = &state.failing {
                return Err(not_durable(reason));
            }
            if state.closed {
                return Err(Error::closed());
            }
            self.progress.wait(&mut state);
        }
        Ok(())
    }

    /// The number of the last operation.
    pub(crate) fn newest(&self) -> u64 {
        self.state.lock().last
    }

    /// Waits for the writer. While the disk fails, for one more attempt, whose error it gives.
    fn wait_for_progress<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        failures: u64,
    ) -> Result<MutexGuard<'a, State>> {
        if let Some(reason) = &state.failing {
            if state.failures > failures || state.closed {
                return Err(not_durable(reason));
            }
            // One more attempt is made now, instead of when its time comes.
            state.hurry = true;
            self.work.notify_one();
        }
        if state.closed {
            return Err(Error::closed());
        }
        self.progress.wait(&mut state);
        Ok(state)
    }

    /// Waits until `is_done`.
    fn wait_until(
        &self,
        mut state: MutexGuard<'_, State>,
        is_done: impl Fn(&State) -> bool,
    ) -> Result<()> {
        let failures = state.failures;
        while !is_done(&state) && !self.is_writer() {
            state = self.wait_for_progress(state, failures)?;
        }
        Ok(())
    }

    /// Asks for a flush and waits for it.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut state = self.state.lock();
        let last = state.last;
        let ticket = state.flushes.ask(last, ());
        self.work.notify_one();
        self.wait_until(state, |state| state.flushes.done >= ticket)
    }

    /// Asks for a repair and waits for it; there may be one at a time.
    pub(crate) fn repair(&self, repair: Arc<Repair>) -> Result<()> {
        let mut state = self.state.lock();
        let last = state.last;
        let ticket = state.repairs.ask(last, repair);
        self.work.notify_one();
        self.wait_until(state, |state| state.repairs.done >= ticket)
    }

    /// Asks for a sweep of what has expired; its number is for [`Self::wait_swept`].
    pub(crate) fn ask_sweep(&self, mut sweep: Sweep) -> u64 {
        let mut state = self.state.lock();
        let last = state.last;
        // It answers those before it as well, of which one may have read the time later.
        if let Some(before) = state.sweeps.latest() {
            sweep.now = sweep.now.max(before.now);
        }
        self.work.notify_one();
        state.sweeps.ask(last, sweep)
    }

    pub(crate) fn wait_swept(&self, ticket: u64) -> Result<()> {
        self.wait_until(self.state.lock(), |state| state.sweeps.done >= ticket)
    }

    /// Asks for a compaction and waits for its end.
    pub(crate) fn compact(&self) -> Result<()> {
        let mut state = self.state.lock();
        let last = state.last;
        let ticket = state.compactions.ask(last, ());
        self.work.notify_one();
        self.wait_until(state, |state| state.compactions.done >= ticket)
    }

    /// A compaction has ended. For the writer.
    pub(crate) fn compacted(&self, ticket: Option<u64>) {
        self.state.lock().compactions.answer(ticket);
        self.progress.notify_all();
    }

    /// Tells the writer that a read failed.
    pub(crate) fn suspect(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.failing.is_none() {
            state.suspect = Some(reason.to_owned());
            state.hurry = true;
            self.work.notify_one();
        }
    }

    /// Whether the database is about to be opened anew, because a read failed.
    pub(crate) fn is_suspect(&self) -> bool {
        let state = self.state.lock();
        state.suspect.is_some() || state.failing.is_some()
    }

    /// Asks for a commit soon, for the sake of recency that wants to go down.
    pub(crate) fn hurry(&self) {
        self.state.lock().hurry = true;
        self.work.notify_one();
    }

    /// Waits for the next commit, a second at most: for readers that outrun the writer.
    pub(crate) fn wait_commit(&self) {
        let mut state = self.state.lock();
        if state.failing.is_some() || state.closed || self.is_writer() {
            return;
        }
        state.hurry = true;
        self.work.notify_one();
        if let Some(until) = monotonic().checked_add(Duration::from_secs(1)) {
            {
                let _ = self.progress.wait_until(&mut state, until);
            };
        }
    }

    /// What a clear found, once it is durable.
    pub(crate) fn take_cleared(&self, seq: u64) -> u64 {
        self.state.lock().cleared.remove(&seq).unwrap_or(0)
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Operations and bytes that are acknowledged and not durable.
    pub(crate) fn pending(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.load.ops as u64, state.load.bytes as u64)
    }

    /// Tells the writer to finish what is queued and end.
    pub(crate) fn close(&self) {
        self.state.lock().closing = true;
        self.work.notify_one();
    }

    /// Waits until there is something to do, and takes it (Q3); `None` instead of waiting if the writer
    /// has something else to do. For the writer.
    pub(crate) fn next(&self, pace: Pace) -> Option<Work> {
        let mut state = self.state.lock();
        loop {
            let due = state.oldest.map(|oldest| oldest + self.bounds.delay);
            let asked = !state.flushes.is_empty()
                || !state.sweeps.is_empty()
                || !state.repairs.is_empty()
                || !state.compactions.is_empty()
                || state.closing && state.rooms == 0
                || state.hurry;
            let commit = due.is_some_and(|due| {
                self.is_early(&state) || state.waiting > 0 || monotonic() >= due
            });
            if commit || asked {
                return Some(take(&mut state, self.bounds, pace));
            }
            if !state.spent.is_empty() {
                // There is time, and who knows whether somebody comes for it.
                state = self.free_spent(state);
                continue;
            }
            if pace.is_shared {
                return None;
            }
            if let Some(due) = due {
                let _ = self.work.wait_until(&mut state, due);
            } else {
                self.work.wait(&mut state);
            }
        }
    }

    /// A batch is durable. For the writer.
    pub(crate) fn done(&self, work: &Work, cleared: &[u64]) {
        let mut state = self.state.lock();
        state.durable = state.durable.max(work.number);
        state.load = state.load.minus(state.working);
        state.working = Load::NONE;
        let clears = work.ops.iter().filter(|op| matches!(op.change, Change::Clear));
        state.cleared.extend(clears.map(|op| op.seq).zip(cleared.iter().copied()));
        state.failing = None;
        self.progress.notify_all();
    }

    /// Leaves the operations of a batch that is done for those who are given room, unless a caller's batch
    /// or a large value made it much larger than others (Q4). For the writer.
    pub(crate) fn spend(&self, work: Work) {
        let is_usual = work.load.bytes <= 2 * (self.bounds.bytes_max / EARLY_FRACTION);
        let spent = if is_usual { work.ops } else { Vec::new() };
        let left = std::mem::replace(&mut self.state.lock().spent, spent);
        drop(left);
    }

    /// Frees what callers have left, without the lock.
    fn free_spent<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let spent = std::mem::take(&mut state.spent);
        drop(state);
        drop(spent);
        self.state.lock()
    }

    /// What was asked for along with this work is done. For the writer.
    pub(crate) fn answered(&self, work: &Work) {
        let mut state = self.state.lock();
        state.flushes.answer(work.flush);
        state.sweeps.answer(work.sweep.map(|(_, ticket)| ticket));
        state.repairs.answer(work.repair.as_ref().map(|(_, ticket)| *ticket));
        self.progress.notify_all();
    }

    /// The disk failed. Waits until it is time for another attempt; `false` if the cache is closing.
    /// For the writer.
    pub(crate) fn failed(&self, reason: &str, pause: Duration) -> bool {
        let mut state = self.state.lock();
        state.failing = Some(reason.to_owned());
        state.failures += 1;
        state.hurry = false;
        self.progress.notify_all();
        state = self.free_spent(state);
        let until = monotonic().checked_add(pause);
        while !state.closing && !state.hurry && until.is_some_and(|until| monotonic() < until) {
            if let Some(until) = until {
                {
                    let _ = self.work.wait_until(&mut state, until);
                };
            }
        }
        !state.closing
    }

    /// The writer has ended; nothing that waits will be answered.
    pub(crate) fn ended(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.progress.notify_all();
        drop(self.free_spent(state));
    }

    /// The error of the last attempt, if the disk fails.
    pub(crate) fn failing(&self) -> Option<Error> {
        self.state.lock().failing.as_deref().map(not_durable)
    }

    /// Likewise, after the end.
    pub(crate) fn left(&self) -> Option<Error> {
        let state = self.state.lock();
        let reason = state.failing.as_deref()?;
        let sentence = format!(
            "the disk tier fails: {reason}; the cache is closed, and what was not durable is lost \
             (operations: {}); next time, flush until that succeeds before closing",
            state.load.ops
        );
        Some(Error::new(ErrorKind::Io, sentence))
    }
}

#[cold]
fn not_durable(reason: &str) -> Error {
    Error::new(
        ErrorKind::Io,
        format!("the disk tier fails: {reason}; it is done in memory, and writing is tried again"),
    )
}

/// Takes what is queued, up to the limits of one commit, and no batch in part (Q3).
fn take(state: &mut State, bounds: Bounds, pace: Pace) -> Work {
    let (mut ops, mut load) = (Vec::new(), Load::NONE);
    let mut joined = false;
    while let Some(op) = state.queued.pop_front() {
        joined = op.joined;
        load = load.plus(Load::of(&op.change));
        ops.push(op);
        let full = load.ops >= pace.ops_max.min(bounds.ops_max / pace.fraction)
            || load.bytes >= bounds.bytes_max / pace.fraction;
        if full && !joined {
            break;
        }
    }
    debug_assert!(!joined, "Q3: batches are queued whole");
    let all = state.queued.is_empty();
    if all {
        state.last += 1;
    }
    let number = if all { state.last } else { ops.last().map_or(state.last, |op| op.seq) };
    if all {
        state.oldest = None;
        state.hurry = false;
    }
    state.working = load;
    Work {
        ops,
        load,
        number,
        flush: state.flushes.take(number).map(|(ticket, ())| ticket),
        sweep: state.sweeps.take(number).map(|(ticket, sweep)| (sweep, ticket)),
        repair: state.repairs.take(number).map(|(ticket, repair)| (repair, ticket)),
        compact: state.compactions.take(number).map(|(ticket, ())| ticket),
        suspect: state.suspect.take(),
        close: all && state.closing && state.rooms == 0,
    }
}

#[cfg(test)]
mod tests;
