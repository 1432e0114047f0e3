//! What the engine and a tier below memory say to each other.
//!
//! A store knows nothing of memory: it applies batches of [`Change`]s, and asks [`Above`] before an
//! entry leaves by limit or by time. It returns what left; it calls nobody else.

pub(crate) mod disk;

use crate::record::Record;
use crate::stats::Limits;
use crate::store::disk::Repair;

/// One change to the stored entries.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// This record is now the key's.
    Put(Record),
    /// The key is gone.
    Remove(Record),
    /// The key is gone if its row is still damaged when it is read again.
    Scrub(Record),
    /// Everything is gone.
    Clear,
}

impl Change {
    /// The record that is put.
    pub(crate) fn put(&self) -> Option<&Record> {
        if let Self::Put(record) = self { Some(record) } else { None }
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        match self {
            Self::Put(record) | Self::Remove(record) | Self::Scrub(record) => Some(record),
            Self::Clear => None,
        }
    }
}

/// A change, and its place among all changes.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) seq: u64,
    pub(crate) change: Change,
    /// Whether the value that a put replaces was reported to the listener already.
    pub(crate) reported: bool,
    /// Whether the next operation belongs to the same batch of the user's.
    pub(crate) joined: bool,
}

/// The recency of an entry that was read since it was written.
#[derive(Debug, Clone)]
pub(crate) struct Touch {
    pub(crate) record: Record,
    pub(crate) stamp: u64,
}

/// The time by which a batch takes out what has expired.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sweep {
    pub(crate) now: u64,
    pub(crate) time_to_idle: u64,
}

/// What is to become one transaction.
pub(crate) struct Batch<'a> {
    /// In ascending order of `seq`.
    pub(crate) ops: &'a [Op],
    pub(crate) touches: &'a [Touch],
    /// The number that the store remembers as the last one applied.
    pub(crate) number: u64,
    pub(crate) limits: Limits,
    pub(crate) sweep: Option<Sweep>,
    /// What a check found, to be put right; a value that is not valid is damage.
    pub(crate) repair: Option<&'a Repair>,
    pub(crate) is_valid: &'a dyn Fn(&Record) -> bool,
    /// Whether to spend a little more so that opening after a crash is quick.
    pub(crate) quick_repair: bool,
    /// Whether whole records of what left are wanted, or their keys only.
    pub(crate) listening: bool,
}

/// Why an entry is about to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Over a limit, in an order in which recency counts.
    Size,
    /// Over a limit, in an order in which it does not: it leaves even if it was accessed just now.
    Turn,
    Expired,
    Idle,
}

/// What [`Above`] says to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It leaves now, here and above.
    Leave,
    /// It was accessed at this other stamp.
    Accessed(u64),
    /// A newer operation on the key is under way; leave the row to that.
    Superseded,
    /// Likewise, and whoever is to hear of what the row has has heard.
    Told,
}

/// The tiers above, who own the recency of what they hold.
pub(crate) trait Above {
    /// Asked before the entry of `key`, whose stored recency is `stamp`, leaves. `Leave` is final:
    /// from then on no reader above finds the entry.
    fn ask(&mut self, key: &[u8], stamp: u64, why: Why) -> Verdict;

    /// The newest stamp that the cache's clock has given. With what was told of recency before, a commit has none
    /// of the clock's above it.
    fn newest_stamp(&self) -> u64;
}

/// Entries, bytes and the last batch of a store, as of its last commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) batch: u64,
}

/// What a committed batch did.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) totals: Totals,
    /// In the order in which they left.
    pub(crate) evicted: Vec<Record>,
    pub(crate) expired: Vec<Record>,
    /// Recency that the tiers above told when they were asked.
    pub(crate) asked: Vec<Touch>,
    /// Old values of keys that were put, if they were not reported before.
    pub(crate) replaced: Vec<Record>,
    /// How many entries each `Clear` found, in order.
    pub(crate) cleared: Vec<u64>,
    /// Damaged rows that went, except for those that a scrub was asked for.
    pub(crate) scrubbed: u64,
    /// Faults that were put right, of those that a check found.
    pub(crate) repaired: u64,
    /// The earliest deadline that is left.
    pub(crate) next_deadline: Option<u64>,
    /// The recency of the entry that is longest unused, for time-to-idle.
    pub(crate) oldest: Option<u64>,
    /// Whether the sweep stopped at its limit before it was through.
    pub(crate) more_expired: bool,
}
