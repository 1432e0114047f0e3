//! How the disk tier is: where the engine notes that it fails, and what becomes of it then.

use crate::config::ErrorPolicy;
use crate::engine::pending::Side;
use crate::engine::queue::{Load, Room};
use crate::engine::{Core, DiskSide, call_out};
use crate::error::{Error, Result};
use crate::health::TierHealth;
use crate::store::Totals;
use crate::store::disk::{Failure, Writer};
use crate::sync::Mutex;
use crate::time::Timestamp;
use crate::trace;

/// Where the writer notes that the disk fails.
#[derive(Debug, Default)]
pub(super) struct Degraded(Mutex<Option<(String, Timestamp)>>);

impl Degraded {
    /// Whether it worked until now.
    fn set(&self, reason: &str, now: Timestamp) -> bool {
        let mut degraded = self.0.lock();
        let since = degraded.as_ref().map_or(now, |(_, since)| *since);
        degraded.replace((reason.to_owned(), since)).is_none()
    }

    /// Whether it failed until now.
    fn clear(&self) -> bool {
        self.0.lock().take().is_some()
    }

    pub(super) fn tier(&self) -> TierHealth {
        self.0
            .lock()
            .clone()
            .map_or(TierHealth::Ok, |(reason, since)| TierHealth::Degraded { reason, since })
    }
}

impl Core {
    /// The disk fails, for callers to know.
    pub(super) fn degraded(&self, disk: &DiskSide, reason: &str) {
        if disk.degraded.set(reason, self.now()) {
            self.tell_health();
        }
    }

    /// The disk works.
    pub(super) fn recovered(&self, disk: &DiskSide) {
        if disk.degraded.clear() {
            self.tell_health();
        }
    }

    fn tell_health(&self) {
        let Some(listener) = &self.config.health_listener else { return };
        let health = self.health();
        call_out("the health listener panicked", || listener(health));
    }

    /// The disk fails, and there is no room for what it is to be told. It cannot be left with values
    /// that were replaced or removed since, so all that it has, and all that waits for it, is given up:
    /// what is in memory stays there, and the disk tier begins anew with this operation. Gives the room
    /// for it; where the policy is to hear of errors, the error.
    pub(super) fn start_over<'d>(&self, disk: &'d DiskSide, load: Load) -> Result<Room<'d>> {
        if self.config.error_policy == ErrorPolicy::Strict {
            return Err(disk.queue.failing().unwrap_or_else(Error::closed));
        }
        self.check_open()?;
        let mut gone = Vec::new();
        let mut all = self.memory.lock_all();
        if let Some((seq, puts)) = disk.queue.start_over(load) {
            for side in all.sides() {
                let (pending, touches) = side.clear(seq);
                gone.push(pending);
                self.count_touches(touches);
            }
            all.forget_below(|_, _, _| false);
            self.counts.shed.add(puts);
        }
        drop(all);
        if !gone.is_empty() {
            trace::warn(
                "the disk tier fails and its queue is full",
                &"all that it has is given up",
            );
        }
        disk.queue.force_room(load)
    }

    /// The file is damaged so that nothing can be written: it is set aside, and the disk tier begins
    /// anew with what is queued. What is in memory stays there. An error where the policy is to leave
    /// the file alone. For the writer.
    pub(super) fn replace_file(
        &self,
        writer: &mut Writer,
        damage: Failure,
    ) -> Result<Totals, Failure> {
        writer.start_anew(damage)?;
        let mut all = self.memory.lock_all();
        // What is queued will be below when it is committed; a removal has to find it there.
        all.forget_below(|side, hash, key| side.pending(hash, key).is_some());
        let touches = all.sides().map(Side::lost).sum();
        self.count_touches(touches);
        drop(all);
        writer.show()
    }
}
