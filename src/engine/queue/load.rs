//! The load: what operations take up in the queue.

use crate::record::Record;
use crate::store::Change;

/// What operations take up in the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) ops: usize,
    pub(crate) bytes: usize,
    /// What they may add to the disk tier's charge.
    pub(crate) charge: u64,
}

impl Load {
    pub(crate) const NONE: Self = Self { ops: 0, bytes: 0, charge: 0 };

    pub(crate) fn of(op: &Change) -> Self {
        let charge = if let Change::Put(record) = op { record.charge() } else { 0 };
        let bytes = op.record().map_or(0, Record::allocated_bytes);
        Self { ops: 1, bytes, charge }
    }

    pub(crate) fn of_all<'c>(changes: impl IntoIterator<Item = &'c Change>) -> Self {
        changes.into_iter().fold(Self::NONE, |sum, change| sum.plus(Self::of(change)))
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            ops: self.ops + other.ops,
            bytes: self.bytes.saturating_add(other.bytes),
            charge: self.charge.saturating_add(other.charge),
        }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            ops: self.ops - other.ops,
            bytes: self.bytes - other.bytes,
            charge: self.charge.saturating_sub(other.charge),
        }
    }
}
