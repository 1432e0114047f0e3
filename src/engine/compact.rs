//! Compaction as the engine sees it: when it begins by itself, who waits for it, what came of it.
//!
//! # When it begins by itself
//!
//! The file has dead space after random overwriting, since a page is free when all its rows are gone,
//! and since a commit writes anew each page that it takes a row from, and frees the old one only after
//! the next. So commits are made smaller when dead space builds up: that suffices under steady load.
//! Else a copy is made when the file occupies so much more than its entries' charges, *and*
//! so much more than a copy would: the engine learns what a copy occupies from the last one. So nothing
//! is copied again and again where that does not help, such as many tiny entries.

use std::time::Duration;

use crate::engine::bound::FileBound;
use crate::engine::queue::{EARLY_FRACTION, Pace, Work};
use crate::engine::writer::{PAUSE_MIN, Pause};
use crate::engine::{Core, DiskSide};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Totals;
use crate::store::disk::{Compacted, Copied, Failure, Writer};
use crate::trace;

/// Time for a slice of the copy, between two commits.
const SLICE: Duration = Duration::from_millis(25);
/// The occupied blocks are looked at after so many bytes have been put, or have gone, ...
const LOOK_AFTER_BYTES: u64 = 1 << 20;
/// ... of which each commit and each operation counts for so many at least.
const COMMIT_BYTES: u64 = 64 << 10;
const OPERATION_BYTES: u64 = 4 << 10;
/// A compaction begins above so many percent of the entries' charges, and of what a copy would occupy:
/// 10 less than the 220 that are promised, for what is written while it goes on.
const COMPACT_ABOVE: Percent = Percent { of_charge: 210, of_copy: 140 };
/// Commits are smaller above.
const SMALL_COMMITS_ABOVE: Percent = Percent { of_charge: 160, of_copy: 110 };
/// What part of the queue a commit takes, and how many operations at most: at least so many, and one
/// for each so many entries. It writes the pages anew that it takes a row from.
const FULL: (usize, usize, usize) = (EARLY_FRACTION, 1_024, 8);
/// Likewise when dead space builds up.
const SMALL: (usize, usize, usize) = (4 * EARLY_FRACTION, 256, 32);
/// Likewise when a slice of a copy comes between the commits: who waits, waits for both.
const SHARED: (usize, usize, usize) = (8 * EARLY_FRACTION, 128, 64);
/// A device that was full has room again if it has this part of the file, and not more than so many
/// bytes; asked after as much was written.
const ROOM_PROBE_PART: u64 = 8;
const ROOM_PROBE_MAX: u64 = 16 << 20;
/// So many bytes are on top of each: below that nothing is worth a copy.
const FREE_BYTES: u64 = 4 << 20;
/// What an entry takes besides its charge, roughly; the last copy tells more exactly.
const ENTRY_BYTES: u64 = 100;

/// A threshold for the occupied bytes: both have to be exceeded.
#[derive(Debug, Clone, Copy)]
struct Percent {
    of_charge: u64,
    of_copy: u64,
}

/// What an empty file takes.
const BASE_BYTES: u64 = 128 << 10;

/// What [`ByteCache::compact`](crate::ByteCache::compact) did.
///
/// # Examples
///
/// ```
/// use larder::ByteCache;
///
/// let folder = tempfile::tempdir()?;
/// let cache = ByteCache::builder().path(folder.path().join("cache.larder")).open()?;
/// for n in 0..1_000_u32 {
///     cache.insert(&n.to_be_bytes(), &[0; 4_000])?;
/// }
/// cache.flush()?;
/// cache.set_disk_limits(Some(10), None)?;
/// let report = cache.compact()?;
/// assert!(report.occupied_after < report.occupied_before);
/// assert_eq!(cache.len(), 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactReport {
    /// Bytes that the file occupied before, holes left out.
    pub occupied_before: u64,
    /// Bytes that it occupies now.
    pub occupied_after: u64,
    /// Entries that were left out because their rows were damaged.
    pub dropped: u64,
}

/// What the writer remembers of compactions.
#[derive(Debug)]
pub(super) struct Upkeep {
    bound: Option<FileBound>,
    /// Who waits for the one under way, or for the next.
    ticket: Option<u64>,
    /// Bytes written since the occupied blocks were looked at.
    written: u64,
    /// The entries' charges at that time.
    held: u64,
    /// After a failure none begins by itself below this.
    not_below: u64,
    /// Whether dead space builds up.
    is_crowded: bool,
    /// Bytes written since room on the device was looked for.
    unprobed: u64,
}

impl Upkeep {
    pub(super) fn new(max_file_bytes: Option<u64>) -> Self {
        Self {
            bound: max_file_bytes.map(FileBound::new),
            ticket: None,
            written: 0,
            held: 0,
            not_below: 0,
            is_crowded: false,
            unprobed: 0,
        }
    }

    /// Takes note of a piece of work, and says what the bound for the file allows.
    pub(super) fn prepare(&mut self, disk: &DiskSide, writer: &mut Writer, work: &Work) {
        if let Some(bound) = &self.bound {
            let mut totals = writer.totals();
            let mut copy = Self::copy_at_most(writer);
            for record in work.ops.iter().filter_map(|op| op.change.put()) {
                totals.entries += 1;
                totals.bytes = totals.bytes.saturating_add(record.charge());
                copy = copy.saturating_add(2 * record.allocated_bytes() as u64);
            }
            *disk.file_limits.lock() = bound.limits(totals, copy);
            if bound.is_large(work.ops.len()) {
                writer.cancel_compaction();
            }
        }
        self.ticket = self.ticket.max(work.compact);
        let puts = work.ops.iter().filter_map(|op| op.change.record());
        let bytes =
            puts.map(|record| OPERATION_BYTES.max(record.allocated_bytes() as u64)).sum::<u64>();
        self.written = self.written.saturating_add(bytes).saturating_add(COMMIT_BYTES);
        self.unprobed = self.unprobed.saturating_add(bytes).saturating_add(COMMIT_BYTES);
    }

    /// What a copy would occupy at most, as far as that is known: not more than the file does.
    fn copy_at_most(writer: &Writer) -> u64 {
        let estimate = copy_bytes(writer);
        // Pages that are half empty, at worst.
        let estimate = if writer.copied().is_some() { estimate } else { 2 * estimate };
        estimate.min(writer.occupied().unwrap_or(u64::MAX))
    }

    /// Asks the bound for the file, if there is one, about what file and copy occupy.
    fn ask_bound(
        &mut self,
        writer: &Writer,
        question: impl FnOnce(&mut FileBound, u64, u64) -> bool,
    ) -> bool {
        if self.bound.is_none() {
            return false;
        }
        let copy = Self::copy_at_most(writer);
        let occupied = writer.occupied().unwrap_or(0);
        self.bound.as_mut().is_some_and(|bound| question(bound, occupied, copy))
    }

    /// Looks after the room that is kept for a full device. Where that was full, whether there is room
    /// again.
    fn keep_reserve(&mut self, disk: &DiskSide, writer: &mut Writer) {
        if self.unprobed < LOOK_AFTER_BYTES {
            return;
        }
        let Ok(occupied) = writer.occupied() else { return };
        let was_full = disk.room.lock().is_some();
        if was_full && self.unprobed < occupied / ROOM_PROBE_PART {
            return;
        }
        self.unprobed = 0;
        let more = if was_full { (occupied / ROOM_PROBE_PART).min(ROOM_PROBE_MAX) } else { 0 };
        if writer.keep_reserve(occupied, more) {
            *disk.room.lock() = None;
        }
    }

    /// Whether a compaction is asked for, or worth it.
    fn wants(&mut self, writer: &Writer) -> bool {
        if self.ticket.is_some() || writer.is_hurt() {
            return true;
        }
        if self.ask_bound(writer, FileBound::wants_compaction) {
            return true;
        }
        let held = writer.totals().bytes;
        if self.written.max(self.held.abs_diff(held)) < LOOK_AFTER_BYTES {
            return false;
        }
        (self.written, self.held) = (0, held);
        let Ok(occupied) = writer.occupied() else { return false };
        self.is_crowded = is_above(occupied, writer, SMALL_COMMITS_ABOVE);
        occupied > self.not_below && is_above(occupied, writer, COMPACT_ABOVE)
    }

    /// How much commits take at once.
    pub(super) fn pace(&self, disk: &DiskSide, writer: &Writer) -> Pace {
        let is_shared = writer.is_compacting();
        let (fraction, min, part) = match (is_shared, self.is_crowded) {
            (true, _) => SHARED,
            // A commit frees pages for the one after the next.
            _ if disk.room.lock().is_some() => SHARED,
            (false, true) => SMALL,
            (false, false) => FULL,
        };
        let ops_max = usize::try_from(writer.totals().entries).unwrap_or(usize::MAX) / part;
        Pace { fraction, ops_max: ops_max.max(min), is_shared }
    }
}

/// What a copy would occupy.
fn copy_bytes(writer: &Writer) -> u64 {
    let need = need(writer.totals());
    match writer.copied() {
        Some(Copied { occupied, needed }) => scale(need, occupied, needed),
        None => need,
    }
}

fn is_above(occupied: u64, writer: &Writer, percent: Percent) -> bool {
    let by_charge = scale(writer.totals().bytes, percent.of_charge, 100);
    let by_copy = scale(copy_bytes(writer), percent.of_copy, 100);
    occupied > by_charge.max(by_copy).saturating_add(FREE_BYTES)
}

fn need(totals: Totals) -> u64 {
    totals
        .bytes
        .saturating_add(totals.entries.saturating_mul(ENTRY_BYTES))
        .saturating_add(BASE_BYTES)
}

fn scale(value: u64, by: u64, of: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(by) / u128::from(of.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

impl Core {
    /// Makes the file as small as it can be, and waits for that.
    pub(crate) fn compact(&self) -> Result<CompactReport> {
        self.check_open()?;
        let Some(disk) = &self.disk else { return Ok(CompactReport::default()) };
        disk.queue.compact()?;
        trace::trace_op!("compact", b"", "done", "disk");
        let done = disk.compacted.lock();
        match &*done {
            Ok(report) => Ok(*report),
            Err(sentence) => Err(Error::new(ErrorKind::Io, sentence.clone())),
        }
    }

    /// Begins a compaction if it is asked for or due, and goes on with it; `false` if the cache is
    /// closing and the disk fails. For the writer.
    pub(super) fn keep_compact(
        &self,
        disk: &DiskSide,
        writer: &mut Writer,
        upkeep: &mut Upkeep,
    ) -> bool {
        upkeep.keep_reserve(disk, writer);
        let was = writer.is_compacting();
        let begun = if !was && upkeep.wants(writer) { writer.begin_compaction() } else { Ok(()) };
        if begun.is_ok() && !writer.is_compacting() {
            return true;
        }
        let too_much = writer.is_compacting()
            && upkeep.ask_bound(writer, |bound, occupied, copy| {
                bound.is_too_much(occupied.saturating_add(writer.copy_occupies()), copy)
            });
        if too_much {
            writer.cancel_compaction();
            let sentence = "it takes more room than disk_max_file_bytes allows; entries go first";
            disk.end_compaction(upkeep, Err(&Failure::because(sentence)));
            return true;
        }
        let totals = writer.totals();
        match begun.and_then(|()| writer.compact(SLICE)) {
            Ok(None) => true,
            Ok(Some(compacted)) => {
                self.lost(disk, compacted.dropped);
                let needed = need(writer.totals());
                writer.set_copied(Copied { occupied: compacted.after, needed });
                upkeep.not_below = 0;
                // Who waited for the copy should not wait for a long commit as well.
                upkeep.is_crowded = true;
                if let Some(bound) = &mut upkeep.bound {
                    bound.compacted();
                }
                disk.end_compaction(upkeep, Ok(compacted));
                true
            }
            Err(failure) => {
                // Not before it has grown by another half of its entries.
                let occupied = writer.occupied().unwrap_or(u64::MAX);
                upkeep.not_below = occupied.saturating_add(totals.bytes / 2);
                trace::warn("a compaction failed; the file stays as it is", &failure);
                disk.end_compaction(upkeep, Err(&failure));
                writer.is_open()
                    || self.recover(disk, writer, failure, Pause::No, &mut { PAUSE_MIN }).1
            }
        }
    }
}

impl Core {
    /// Has a file whose pages are damaged replaced by a copy of what is sound in it.
    /// Gives how many entries were lost, if it was done.
    pub(super) fn heal(
        &self,
        disk: &DiskSide,
        writer: &mut Writer,
    ) -> std::result::Result<Option<u64>, Failure> {
        if !writer.is_hurt() {
            return Ok(None);
        }
        let healed = writer.heal()?;
        trace::warn(
            "pages of the cache file were damaged; what is sound was copied",
            &format_args!("{} entries lost", healed.dropped),
        );
        self.lost(disk, healed.dropped);
        Ok(Some(healed.dropped))
    }

    /// Takes note that a copy left damaged entries out: memory may have some of them, alone now.
    fn lost(&self, disk: &DiskSide, dropped: u64) {
        self.counts.corrupt.add(dropped);
        let Some(snapshot) = disk.disk.snapshot().filter(|_| dropped > 0) else { return };
        self.memory.lock_all().forget_below(|side, hash, key| {
            side.pending(hash, key).is_some() || snapshot.contains(key).unwrap_or(true)
        });
    }
}

impl DiskSide {
    /// Answers whoever waits for a compaction.
    fn end_compaction(&self, upkeep: &mut Upkeep, done: std::result::Result<Compacted, &Failure>) {
        *self.compacted.lock() = match done {
            Ok(Compacted { before, after, dropped }) => {
                Ok(CompactReport { occupied_before: before, occupied_after: after, dropped })
            }
            Err(failure) => {
                Err(format!("cannot compact the cache file: {failure}; it stays as it is"))
            }
        };
        self.queue.compacted(upkeep.ticket.take());
    }
}
