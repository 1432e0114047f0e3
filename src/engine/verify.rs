//! Verification: the check of a whole file by whoever asks for it, and its repair by the writer.

use std::fmt;
use std::sync::Arc;

use crate::engine::{Core, DiskSide};
use crate::error::{Error, ErrorKind, Result};
use crate::store::disk::{Check, Found, Step};
use crate::sync::thread;
use crate::trace::trace_op;

/// How to verify; see [`ByteCache::verify_with`](crate::ByteCache::verify_with).
///
/// # Examples
///
/// ```
/// use larder::{ByteCache, VerifyOptions};
///
/// let folder = tempfile::tempdir()?;
/// let cache = ByteCache::builder().path(folder.path().join("cache.larder")).open()?;
/// cache.insert(b"key", b"value")?;
/// cache.flush()?;
/// let mut seen = (0, 0);
/// let options = VerifyOptions::default().repair(true).progress(|done, total| seen = (done, total));
/// let report = cache.verify_with(options)?;
/// assert!(report.is_ok() && report.repaired == 0);
/// assert_eq!(seen, (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
#[must_use = "nothing is verified until these are handed to `verify_with`"]
pub struct VerifyOptions<'p> {
    repair: bool,
    progress: Option<Box<dyn FnMut(u64, u64) + 'p>>,
}

impl fmt::Debug for VerifyOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyOptions").field("repair", &self.repair).finish_non_exhaustive()
    }
}

impl<'p> VerifyOptions<'p> {
    /// Whether to put right what is found. Damaged rows are dropped. Default: no.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, VerifyOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).open()?;
    /// let report = cache.verify_with(VerifyOptions::default().repair(true))?;
    /// assert!(report.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn repair(mut self, repair: bool) -> Self {
        self.repair = repair;
        self
    }

    /// Is called with the rows looked at so far and their number, about a thousand rows apart, and
    /// once at the end. Nothing is held meanwhile, so it may sleep to go easy on the disk, and use the cache; only
    /// verifying once more from here is [`ErrorKind::Busy`].
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, VerifyOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).open()?;
    /// let options = VerifyOptions::default().progress(|done, total| assert!(done <= total));
    /// cache.verify_with(options)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn progress(mut self, progress: impl FnMut(u64, u64) + 'p) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }
}

/// What verifying found: all zero, except for the first three, if the file is sound.
///
/// # Examples
///
/// ```
/// use larder::ByteCache;
///
/// let folder = tempfile::tempdir()?;
/// let cache = ByteCache::builder().path(folder.path().join("cache.larder")).open()?;
/// cache.insert(b"key", b"value")?;
/// cache.flush()?;
/// let report = cache.verify()?;
/// assert!(report.is_ok());
/// assert_eq!((report.entries, report.bytes, report.rows), (1, 8, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Entries on disk, as of the commit that was the last one when all rows had been seen.
    pub entries: u64,
    /// The sum of their charges, as counted.
    pub bytes: u64,
    /// Rows that were read and checked.
    pub rows: u64,
    /// Rows whose checksum is wrong, or whose value is none of the type.
    pub damaged: u64,
    /// Keys that lead to no row.
    pub missing_rows: u64,
    /// Rows that no key leads to.
    pub stray_rows: u64,
    /// Entries that are not in the order of eviction, and places in it that are no entry's.
    pub unordered: u64,
    /// Entries whose deadline is not listed, and listed deadlines that are no entry's.
    pub wrong_deadlines: u64,
    /// Whether the file's own sums are not what was counted.
    pub wrong_totals: bool,
    /// Faults that were put right one by one, if that was asked for. The figures above are those from before. Where
    /// pages are damaged, what is sound is copied into a new file first, which puts more right than is counted here.
    pub repaired: u64,
}

impl VerifyReport {
    /// Whether nothing was found.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).open()?;
    /// assert!(cache.verify()?.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_ok(&self) -> bool {
        let Self { damaged, missing_rows, stray_rows, unordered, wrong_deadlines, .. } = self;
        let faults = [damaged, missing_rows, stray_rows, unordered, wrong_deadlines];
        !self.wrong_totals && faults.iter().all(|count| **count == 0)
    }

    fn of(found: Found, repaired: u64) -> Self {
        Self {
            entries: found.entries,
            bytes: found.bytes,
            rows: found.rows,
            damaged: found.damaged,
            missing_rows: found.missing,
            stray_rows: found.stray,
            unordered: found.unordered,
            wrong_deadlines: found.deadlines,
            wrong_totals: found.wrong_totals,
            repaired,
        }
    }
}

/// The turn of the one who verifies; whoever waits for it has it next.
struct Turn<'d>(&'d DiskSide);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.verifier.lock() = None;
        self.0.verified.notify_one();
    }
}

impl Core {
    fn turn_to_verify<'d>(&self, disk: &'d DiskSide) -> Result<Turn<'d>> {
        let me = thread::current().id();
        let mut verifier = disk.verifier.lock();
        while let Some(other) = *verifier {
            // It would wait for itself, or its `progress` for the thread that would wait for it here.
            if other == me || self.is_own_thread() {
                let sentence = "the cache file is being verified, and whoever does that may be waiting for this very \
                                call, from `progress` or a listener; verify when that has ended";
                return Err(Error::new(ErrorKind::Busy, sentence));
            }
            disk.verified.wait(&mut verifier);
        }
        *verifier = Some(me);
        Ok(Turn(disk))
    }

    /// Checks the file as of the last commits, a slice at a time. One at a time; others wait.
    pub(crate) fn verify(&self, mut options: VerifyOptions<'_>) -> Result<VerifyReport> {
        self.check_open()?;
        let Some(disk) = &self.disk else { return Ok(VerifyReport::default()) };
        let _turn = self.turn_to_verify(disk)?;
        let mut check = Check::start(&disk.disk);
        loop {
            self.check_open()?;
            let step = check.step(&|record| self.is_valid(record)).map_err(|failure| {
                self.counts.disk_errors.add(1);
                disk.queue.suspect(&failure.to_string());
                failure.into_error("cannot verify the cache file")
            })?;
            if let Some(progress) = &mut options.progress {
                let (done, total) = check.progress();
                progress(done, total);
            }
            match step {
                Step::More => {}
                Step::Done => break,
                Step::NoDisk => {
                    self.check_open()?;
                    return Err(disk.unreadable());
                }
                Step::TooBusy => {
                    let sentence = "cannot verify the cache file, since everything in it was \
                                    replaced too often meanwhile; try again";
                    return Err(Error::new(ErrorKind::Busy, sentence));
                }
            }
        }
        let (found, repair) = check.finish();
        trace_op!("verify", b"", "done", "disk");
        if !options.repair || !repair.is_needed() {
            return Ok(VerifyReport::of(found, 0));
        }
        let repair = Arc::new(repair);
        disk.queue.repair(Arc::clone(&repair))?;
        Ok(VerifyReport::of(found, repair.done()))
    }
}
