//! Looking below memory: the operations that are not committed yet, then the disk.
//!
//! The first are looked at under the lock of the key's shard, under which the state of the disk is taken,
//! too; it is read without that lock. Whether what was seen is still the newest of its key is told
//! afterwards, under the lock again (see `pending.rs`).

use crate::engine::pending::{Below, Side, What};
use crate::engine::{Core, DiskSide};
use crate::error::Result;
use crate::hash::KeyHash;
use crate::memory::Locked;
use crate::record::Record;
use crate::store::Change;
use crate::store::disk::{Lookup, Row, Snapshot};
use crate::sync::InLane;

/// What a value below memory was found as.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) record: Record,
    /// Its recency, which may be held in a touch, if that was asked for.
    pub(super) accessed: u64,
    /// The recency as the disk has it.
    pub(super) handed: u64,
    /// `None`: it is in an operation that is not committed. Else the token of [`Below::Unknown`].
    pub(super) token: Option<u64>,
}

impl Core {
    /// Looks at the operations that are not committed, then at the disk; lets the lock go. Who does not ask for
    /// the recency gets what the disk has, though a touch may have another.
    pub(super) fn see_below(
        &self,
        disk: &DiskSide,
        locked: Locked<'_, Side>,
        hash: KeyHash,
        key: &[u8],
        asks_recency: bool,
    ) -> Result<Option<Seen>> {
        // With the lock held: what is not pending is in it (P2).
        let snapshot = disk.disk.snapshot();
        // Both are fetched before either is waited for.
        if let Some(snapshot) = &snapshot {
            snapshot.fetch_ahead(hash);
        }
        let touched = if asks_recency {
            locked.side.touched(hash, key)
        } else {
            locked.side.fetch_touch_ahead(hash);
            None
        };
        let below = locked.side.below(hash, key);
        drop(locked);
        let token = match below {
            Below::Gone => return Ok(None),
            Below::Value(record) => {
                let handed = record.stamp();
                let accessed = touched.unwrap_or(handed);
                return Ok(Some(Seen { record, accessed, handed, token: None }));
            }
            Below::Unknown { token } => token,
        };
        let Some(row) = self.read_disk(disk, snapshot, hash, key, token)? else { return Ok(None) };
        let accessed = touched.unwrap_or(row.stamp);
        Ok(Some(Seen { record: row.record, accessed, handed: row.stamp, token: Some(token) }))
    }

    /// Reads the disk. Damage and what is not the handle's type is counted, removed, and a miss.
    pub(super) fn read_disk(
        &self,
        disk: &DiskSide,
        snapshot: Option<InLane<Snapshot>>,
        hash: KeyHash,
        key: &[u8],
        token: u64,
    ) -> Result<Option<Row>> {
        let look = |snapshot: &Snapshot| Ok((snapshot.get(hash, key)?, snapshot.is_hurt()));
        let read = disk.disk.read_in(snapshot, look);
        match read {
            None => self.disk_unavailable(disk, None),
            Some(Err(failure)) => self.disk_failed(failure, None),
            Some(Ok((lookup, is_hurt))) => Ok(self.accept(disk, hash, key, token, lookup, is_hurt)),
        }
    }

    /// What was read of a key, if it is good; what is not is counted and removed.
    pub(super) fn accept(
        &self,
        disk: &DiskSide,
        hash: KeyHash,
        key: &[u8],
        token: u64,
        lookup: Lookup,
        is_hurt: bool,
    ) -> Option<Row> {
        let removal = match lookup {
            Lookup::Nothing => return None,
            Lookup::Row(row) if self.is_valid(&row.record) => return Some(row),
            Lookup::Row(_) => Change::Remove(Record::of_key(key)),
            Lookup::Damaged => Change::Scrub(Record::of_key(key)),
        };
        self.counts.corrupt.add(u64::from(!is_hurt));
        let mut locked = self.memory.lock(hash);
        if Self::is_unchanged(&locked, hash, key, token) {
            if let Change::Remove(record) = &removal {
                let seq = disk.queue.push_forced(removal.clone());
                let _ = locked.side.note(hash, seq, What::Gone(record.clone()), true);
            } else {
                disk.queue.push_forced(removal);
            }
        }
        None
    }

    /// Whether what was read from disk under this token is still the newest of its key (P2).
    pub(super) fn is_unchanged(
        locked: &Locked<'_, Side>,
        hash: KeyHash,
        key: &[u8],
        token: u64,
    ) -> bool {
        locked.shard.find(hash, key).is_none()
            && matches!(locked.side.below(hash, key), Below::Unknown { token: now } if now == token)
    }

    /// Whether what was seen below memory is still the newest of its key, and not in memory.
    pub(super) fn is_current(locked: &Locked<'_, Side>, hash: KeyHash, seen: &Seen) -> bool {
        let key = seen.record.key();
        match seen.token {
            Some(token) => Self::is_unchanged(locked, hash, key, token),
            None => {
                locked.shard.find(hash, key).is_none()
                    && match locked.side.below(hash, key) {
                        Below::Value(record) => record.is_same(&seen.record),
                        // Committed meanwhile: the disk has this very value, or a newer one, which
                        // cannot be told from here.
                        Below::Gone | Below::Unknown { .. } => false,
                    }
            }
        }
    }
}
