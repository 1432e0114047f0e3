//! The maintenance thread: keeps the time for the others, and takes out what has expired.
//!
//! While operations come, the thread refreshes the cached time every [`TICK`]. After [`TICKS_KEPT`]
//! of them it parks the clock and sleeps; the next operation wakes it. So an idle cache costs no
//! wake-ups, except that it wakes for the next deadline, and, with an injected clock whose deadlines
//! cannot be waited for, every [`POLL`] once anything can expire.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Core, Garbage};
use crate::entry::{RemovalCause, Tier};
use crate::error::Result;
use crate::memory::NOT_BELOW;
use crate::record::NEVER;
use crate::store::Sweep;
use crate::sync::atomic::Ordering;
use crate::sync::thread;
use crate::time::Timestamp;
use crate::trace::trace_op;

/// How old the cached time gets: half of the 10 ms that the order promises.
const TICK: Duration = Duration::from_millis(5);
/// After so many refreshes an operation has to ask for time anew.
const TICKS_KEPT: u32 = 64;
/// How often what has expired is looked for.
const POLL: Duration = Duration::from_millis(50);
/// How many entries are taken out of a shard before its lock is let go in between.
const SWEPT_PER_LOCK: usize = 64;

/// Runs until the cache is closed.
pub(super) fn run(core: &Arc<Core>) {
    let mut ticks = 0;
    let mut until_sweep = Duration::ZERO;
    while !core.closed.load(Ordering::Acquire) {
        let wall = core.clock.tick();
        if core.may_expire.load(Ordering::Relaxed) && until_sweep.is_zero() {
            core.sweep(wall);
            until_sweep = POLL;
        }
        if core.clock.injected().is_some() {
            until_sweep = Duration::ZERO;
            if core.may_expire.load(Ordering::Relaxed) {
                thread::park_timeout(POLL);
            } else {
                thread::park();
            }
            continue;
        }
        ticks += 1;
        if ticks < TICKS_KEPT {
            thread::park_timeout(TICK);
            until_sweep = until_sweep.saturating_sub(TICK);
            continue;
        }
        ticks = 0;
        until_sweep = Duration::ZERO;
        core.clock.park();
        match core.next_expiry() {
            NEVER => thread::park(),
            at => {
                let wait = Duration::from_nanos(at.saturating_sub(wall)).max(POLL);
                thread::park_timeout(wait);
            }
        }
    }
}

impl Core {
    /// Takes out of memory what is over at `wall`, and asks the writer to do so on disk if anything
    /// there is due.
    fn sweep(&self, wall: u64) {
        self.sweep_memory(wall);
        let Some(disk) = &self.disk else { return };
        let idle = disk.oldest.load(Ordering::Acquire).saturating_add(self.lifetimes.idle);
        if disk.next_deadline.load(Ordering::Acquire) >= wall && idle >= wall {
            return;
        }
        disk.queue.ask_sweep(Sweep { now: wall, time_to_idle: self.lifetimes.idle });
    }

    /// Takes out of memory what is over; gives how much of it was nowhere else.
    fn sweep_memory(&self, wall: u64) -> u64 {
        let mut only_there = 0;
        for index in 0..self.memory.shard_count() {
            loop {
                let mut garbage = Garbage::default();
                let more = self.sweep_shard(index, wall, &mut only_there, &mut garbage);
                self.dispose(garbage);
                if !more {
                    break;
                }
            }
        }
        only_there
    }

    /// Takes up to [`SWEPT_PER_LOCK`] entries out of one shard; `true` if there may be more.
    fn sweep_shard(
        &self,
        index: usize,
        wall: u64,
        only_there: &mut u64,
        garbage: &mut Garbage,
    ) -> bool {
        let mut locked = self.memory.lock_nth(index);
        for _ in 0..SWEPT_PER_LOCK {
            let dated = locked.shard.first_over(wall, |key| self.memory.hash(key));
            let mut idle = || {
                let id = locked.shard.longest_idle()?;
                let stamp = locked.shard.stamp(id);
                (stamp.saturating_add(self.lifetimes.idle) < wall).then_some(id)
            };
            let Some(id) = dated.or_else(&mut idle) else { return false };
            let removed = locked.remove(id);
            locked.side.counts.memory_expirations += 1;
            *only_there += u64::from(removed.handed() == NOT_BELOW);
            // If it is over below as well, the sweep there finds it, by its recency if it is idle,
            // and reports it.
            self.let_go(&mut locked.side, &removed, garbage);
            let over = self.is_over(removed.deadline(), removed.recency(), wall);
            if over && removed.handed() != NOT_BELOW {
                garbage.silent.push(removed.into_record());
            } else {
                garbage.note(removed, Tier::Memory, RemovalCause::Expired);
            }
        }
        true
    }

    /// When the next entry of any tier is over, or [`NEVER`].
    fn next_expiry(&self) -> u64 {
        let mut next = NEVER;
        for index in 0..self.memory.shard_count() {
            let locked = self.memory.lock_nth(index);
            next = next.min(locked.shard.next_deadline());
            let oldest = locked.shard.idle_bound().unwrap_or(NEVER);
            next = next.min(oldest.saturating_add(self.lifetimes.idle));
        }
        if let Some(disk) = &self.disk {
            next = next.min(disk.next_deadline.load(Ordering::Acquire));
            let oldest = disk.oldest.load(Ordering::Acquire);
            next = next.min(oldest.saturating_add(self.lifetimes.idle));
        }
        next
    }

    /// Takes out everything that is over now, and waits for it; gives how many entries left the
    /// cache.
    pub(crate) fn purge_expired(&self) -> Result<u64> {
        self.check_open()?;
        let purged = self.purge()?;
        trace_op!("purge_expired", b"", "done", self.lowest().name());
        Ok(purged)
    }

    fn purge(&self) -> Result<u64> {
        let wall = self.clock.read_now();
        let only_there = self.sweep_memory(wall);
        let Some(disk) = &self.disk else { return Ok(only_there) };
        let before = self.counts.disk_expirations.get();
        let sweep = Sweep { now: wall, time_to_idle: self.lifetimes.idle };
        let waited = disk.queue.wait_swept(disk.queue.ask_sweep(sweep));
        match waited {
            Err(e) if self.config.error_policy == crate::config::ErrorPolicy::Strict => Err(e),
            Ok(()) | Err(_) => {
                Ok(only_there + self.counts.disk_expirations.get().saturating_sub(before))
            }
        }
    }

    /// The time as the cache has it.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.clock.wall())
    }
}
