//! The bound of what the file may occupy, kept by evicting and compacting in time.
//!
//! # How it works
//!
//! While a compaction goes on there are two files, and both count. So entries get a part of the bound
//! only, [`LIVE`], in terms of what a copy of them would occupy; a compaction begins while old file and
//! copy still fit below [`BOTH`]; and the rest is for what one commit may add, since commits are small
//! in comparison with the bound ([`commit_bytes`]). If the copy would not fit any more,
//! entries are evicted first. A compaction that turns out larger than expected is given up, and
//! entries are evicted before the next.

use crate::stats::Limits;
use crate::store::Totals;

/// Parts of the bound, in percent: what a copy of the entries may occupy, ...
const LIVE: u64 = 30;
/// ... old file and copy together, ...
const BOTH: u64 = 86;
/// ... and what may be written while the copy is made.
const MEANWHILE: u64 = 5;
/// A copy is a little larger than expected at times.
const COPY_PERCENT: u64 = 115;
/// What an operation may write at most, besides its bytes: a page of rows, one of the index, two more
/// for order and deadline.
const OPERATION_BYTES: u64 = 16 << 10;

/// The bound of a file, and what the writer remembers of it.
#[derive(Debug)]
pub(super) struct FileBound {
    max: u64,
    /// What a copy may occupy until the next compaction is done, if that is less than usual.
    squeezed: Option<u64>,
    /// Whether the file was below the bound since it was opened. Until then a copy is made whatever it
    /// takes.
    settled: bool,
}

/// Bytes that one commit puts at most, beneath a bound.
pub(super) fn commit_bytes(max: u64) -> u64 {
    max / 32
}

/// Operations that one commit has at most.
fn commit_ops(max: u64) -> usize {
    usize::try_from(commit_bytes(max) / OPERATION_BYTES).unwrap_or(usize::MAX).max(1)
}

/// Operations and bytes that the queue may have, of which a commit takes an eighth.
pub(super) fn queue_max(max: u64) -> (usize, usize) {
    let bytes = usize::try_from(8 * commit_bytes(max)).unwrap_or(usize::MAX);
    (commit_ops(max).saturating_mul(8), bytes)
}

fn percent(value: u64, percent: u64) -> u64 {
    value / 100 * percent
}

impl FileBound {
    pub(super) fn new(max: u64) -> Self {
        Self { max, squeezed: None, settled: false }
    }

    /// The limits of the next commit, which puts entries that are counted in `totals` already, and a
    /// copy of which would occupy `copy`.
    pub(super) fn limits(&self, totals: Totals, copy: u64) -> Limits {
        let live = percent(self.max, LIVE);
        let target = self.squeezed.map_or(live, |squeezed| squeezed.min(live));
        if copy <= target {
            return Limits::default();
        }
        let part = |count: u64| {
            let part = u128::from(count) * u128::from(target) / u128::from(copy);
            Some(u64::try_from(part).unwrap_or(u64::MAX))
        };
        Limits { entries: part(totals.entries), bytes: part(totals.bytes) }
    }

    /// Whether a compaction is due after a commit.
    pub(super) fn wants_compaction(&mut self, occupied: u64, copy: u64) -> bool {
        let (both, copy) = (percent(self.max, BOTH), copy / 100 * COPY_PERCENT);
        self.settled |= occupied <= both;
        let begin = both.saturating_sub(copy).saturating_sub(percent(self.max, MEANWHILE));
        if occupied <= begin {
            return false;
        }
        if self.settled && occupied.saturating_add(copy) > both {
            // Evict first.
            let room = both.saturating_sub(occupied).saturating_sub(percent(self.max, MEANWHILE));
            self.squeezed = Some(room * 100 / COPY_PERCENT);
            return false;
        }
        true
    }

    /// Whether a compaction has to be given up, since it takes more than was expected.
    pub(super) fn is_too_much(&mut self, both_files: u64, copy: u64) -> bool {
        let too_much = self.settled && both_files > percent(self.max, BOTH + MEANWHILE);
        if too_much {
            self.squeezed = Some(percent(copy, 75));
        }
        too_much
    }

    /// Whether a commit of so many operations is larger than one should be while there are two files.
    pub(super) fn is_large(&self, ops: usize) -> bool {
        ops > commit_ops(self.max)
    }

    /// A compaction is done.
    pub(super) fn compacted(&mut self) {
        self.squeezed = None;
        self.settled = true;
    }
}
