//! Statistics: what a cache counts, and the snapshot that it gives.

use std::sync::atomic::{AtomicU64, Ordering};

/// What happened in a cache since it was opened or since `reset_stats`, and what it holds now.
///
/// Counters are exact: at any quiet moment `gets` is the sum of `memory_hits`, `disk_hits` and
/// `misses`. Each key of `get`, `get_many`, `view` and `get_into` is a get; `peek`, `contains_key`
/// and walks are not. Byte counts are charges: key bytes plus value bytes, or weights.
///
/// # Examples
///
/// ```
/// use larder::ByteCache;
///
/// let cache = ByteCache::builder().memory_max_entries(10).open()?;
/// cache.insert(b"key", b"value")?;
/// cache.get(b"key")?;
/// cache.get(b"other")?;
/// let stats = cache.stats();
/// assert_eq!((stats.gets, stats.memory_hits, stats.misses), (2, 1, 1));
/// assert_eq!((stats.memory_entries, stats.memory_bytes), (1, 8));
/// assert_eq!((stats.hit_ratio(), stats.memory_utilization()), (0.5, 0.1));
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Keys that were asked for.
    pub gets: u64,
    /// Gets that the memory tier answered.
    pub memory_hits: u64,
    /// Gets that the disk tier answered, pending writes included.
    pub disk_hits: u64,
    /// Gets that found nothing, or something expired.
    pub misses: u64,
    /// Entries that were inserted, new or replacing.
    pub inserts: u64,
    /// Keys handed to `remove`, `invalidate` or `remove_many`, there or not.
    pub removes: u64,
    /// Entries that a limit of the memory tier made leave it.
    pub memory_evictions: u64,
    /// Entries that a limit of the disk tier made leave the cache. Their copies in memory, which
    /// leave with them, are not counted as evictions.
    pub disk_evictions: u64,
    /// Entries that left the memory tier because their time was over.
    pub memory_expirations: u64,
    /// Entries that left the disk tier because their time was over.
    pub disk_expirations: u64,
    /// Disk hits that were copied into memory.
    pub promotions: u64,
    /// Inserts that were refused because they are too large or the queue stayed full, each key of a batch.
    pub rejected: u64,
    /// Inserts that reached memory only because the queue was full or the disk degraded.
    pub shed: u64,
    /// Records from disk that failed their checksum or validation.
    pub corrupt: u64,
    /// Calls to the disk that failed.
    pub disk_errors: u64,
    /// Operations that were acknowledged and are not yet durable.
    pub pending_ops: u64,
    /// The bytes that those take in memory: keys, values, attributes, and 50 to 100 more for each.
    pub pending_bytes: u64,
    /// Entries in memory.
    pub memory_entries: u64,
    /// Entries on disk, as of the last commit.
    pub disk_entries: u64,
    /// The charges of the entries in memory.
    pub memory_bytes: u64,
    /// The charges of the entries on disk, as of the last commit.
    pub disk_bytes: u64,
    pub(crate) memory_limits: Limits,
    pub(crate) disk_limits: Limits,
}

impl Stats {
    /// Hits over gets, from 0 to 1; 0 before the first get.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// cache.get(b"key")?;
    /// cache.get(b"other")?;
    /// assert_eq!(cache.stats().hit_ratio(), 0.5);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn hit_ratio(&self) -> f64 {
        ratio(self.memory_hits + self.disk_hits, self.gets)
    }

    /// How full the memory tier is: bytes over the byte limit, else entries over the entry limit,
    /// else 0.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// assert_eq!(cache.stats().memory_utilization(), 0.1);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn memory_utilization(&self) -> f64 {
        self.memory_limits.utilization(self.memory_entries, self.memory_bytes)
    }

    /// How full the disk tier is, likewise.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).disk_max_entries(4).open()?;
    /// cache.insert(b"key", b"value")?;
    /// cache.flush()?;
    /// assert_eq!(cache.stats().disk_utilization(), 0.25);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disk_utilization(&self) -> f64 {
        self.disk_limits.utilization(self.disk_entries, self.disk_bytes)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people; 53 bits are plenty")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The limits of one tier; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub(crate) struct Limits {
    pub(crate) entries: Option<u64>,
    pub(crate) bytes: Option<u64>,
}

impl Limits {
    /// Both of these limits.
    pub(crate) fn and(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Self { entries: least(self.entries, other.entries), bytes: least(self.bytes, other.bytes) }
    }

    /// Whether this many entries with this many bytes are too many.
    pub(crate) fn exceeded(self, entries: u64, bytes: u64) -> bool {
        self.entries.is_some_and(|max| entries > max) || self.bytes.is_some_and(|max| bytes > max)
    }

    fn utilization(self, entries: u64, bytes: u64) -> f64 {
        match (self.bytes, self.entries) {
            (Some(max), _) => ratio(bytes, max),
            (None, Some(max)) => ratio(entries, max),
            (None, None) => 0.0,
        }
    }
}

/// Counters that are written under a shard's lock, as plain integers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShardCounts {
    pub(crate) misses: u64,
    pub(crate) inserts: u64,
    pub(crate) memory_evictions: u64,
    pub(crate) memory_expirations: u64,
    /// Each of them is a disk hit, too.
    pub(crate) promotions: u64,
}

impl ShardCounts {
    pub(crate) fn add_to(self, stats: &mut Stats) {
        stats.misses += self.misses;
        stats.inserts += self.inserts;
        stats.memory_evictions += self.memory_evictions;
        stats.memory_expirations += self.memory_expirations;
        stats.promotions += self.promotions;
        stats.disk_hits += self.promotions;
    }
}

/// A counter that any thread may raise. Nothing is decided by it, so no model stops at it.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Counters of what happens outside the shards' locks.
#[derive(Debug, Default)]
pub(crate) struct SharedCounts {
    /// Hits in memory that were there when the counters were last set back.
    pub(crate) memory_hits_before: AtomicU64,
    /// Those without a promotion.
    pub(crate) disk_hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) removes: Counter,
    pub(crate) disk_evictions: Counter,
    pub(crate) disk_expirations: Counter,
    pub(crate) rejected: Counter,
    pub(crate) shed: Counter,
    pub(crate) corrupt: Counter,
    pub(crate) disk_errors: Counter,
}

impl SharedCounts {
    pub(crate) fn add_to(&self, stats: &mut Stats) {
        stats.disk_hits += self.disk_hits.get();
        stats.misses += self.misses.get();
        stats.removes += self.removes.get();
        stats.disk_evictions += self.disk_evictions.get();
        stats.disk_expirations += self.disk_expirations.get();
        stats.rejected += self.rejected.get();
        stats.shed += self.shed.get();
        stats.corrupt += self.corrupt.get();
        stats.disk_errors += self.disk_errors.get();
    }

    pub(crate) fn reset(&self) {
        let all = [
            &self.disk_hits,
            &self.misses,
            &self.removes,
            &self.disk_evictions,
            &self.disk_expirations,
            &self.rejected,
            &self.shed,
            &self.corrupt,
            &self.disk_errors,
        ];
        all.into_iter().for_each(Counter::reset);
    }
}
