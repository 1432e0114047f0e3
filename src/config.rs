//! Options: what a cache is opened with, and the check that they make sense together.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::{Found, RemovalCause};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::SHARDS_MAX;
use crate::health::Health;
use crate::memory::have_orders;
use crate::record::KEY_BYTES_MAX;
use crate::stats::Limits;
use crate::store::disk::Place;
use crate::strategy::{DiskStrategy, Strategy};
use crate::time::Clock;

/// When a write reaches the disk.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use larder::{ByteCache, WhenFull, WritePolicy};
///
/// let folder = tempfile::tempdir()?;
/// let durable = ByteCache::builder()
///     .path(folder.path().join("durable.larder"))
///     .write_policy(WritePolicy::Through)
///     .open()?;
/// durable.insert(b"k", b"on disk when this returns")?;
/// assert_eq!(durable.disk_len(), 1);
///
/// let fast = ByteCache::builder()
///     .path(folder.path().join("fast.larder"))
///     .write_policy(WritePolicy::Behind {
///         max_delay: Duration::from_millis(20),
///         max_pending_ops: 1_000,
///         max_pending_bytes: 1 << 20,
///         when_full: WhenFull::default(),
///     })
///     .open()?;
/// fast.insert(b"k", b"on disk within 20 ms")?;
/// fast.flush()?;
/// assert_eq!(fast.disk_len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WritePolicy {
    /// A write returns when it is durable; concurrent writers share a commit.
    Through,
    /// A write returns at once and is durable within `max_delay`, or when `flush` returns. After a
    /// crash the disk holds a prefix of the acknowledged operations.
    Behind {
        /// Within this time a write is durable; its commit begins after half of it. At most 3600 s.
        max_delay: Duration,
        /// The most operations that may be acknowledged and not yet durable. Where there are none, one write may
        /// be larger than the queue: a batch of more operations, an entry of more bytes.
        max_pending_ops: usize,
        /// The most bytes that those take in memory: keys, values, attributes, and 50 to 100 more for each.
        max_pending_bytes: usize,
        /// What a write does when there are as many.
        when_full: WhenFull,
    },
}

impl WritePolicy {
    /// [`WritePolicy::Behind`] with its defaults: 100 ms, 65,536 operations, 64 MiB, and
    /// [`WhenFull::Block`] for 30 s.
    pub fn behind() -> Self {
        Self::Behind {
            max_delay: Duration::from_millis(100),
            max_pending_ops: 1 << 16,
            max_pending_bytes: 64 << 20,
            when_full: WhenFull::default(),
        }
    }
}

impl Default for WritePolicy {
    fn default() -> Self {
        Self::behind()
    }
}

/// What a write does when the queue of pending writes is full.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use larder::{ByteCache, WhenFull, WritePolicy};
///
/// let folder = tempfile::tempdir()?;
/// let cache = ByteCache::builder()
///     .path(folder.path().join("cache.larder"))
///     .write_policy(WritePolicy::Behind {
///         max_delay: Duration::from_secs(60),
///         max_pending_ops: 1,
///         max_pending_bytes: 1 << 20,
///         when_full: WhenFull::Shed,
///     })
///     .open()?;
/// for key in 0..100_u8 {
///     cache.insert(&[key], b"value")?; // never waits
/// }
/// cache.flush()?;
/// assert_eq!((cache.memory_len(), cache.disk_len() + cache.stats().shed), (100, 100));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits this long at most, and then fails with `ErrorKind::Busy`.
    Block(Duration),
    /// The new entry stays in memory only, any older version on disk is removed, and
    /// `Stats::shed` counts it. What cannot be shed waits for 30 s at most, and then fails with `ErrorKind::Busy`:
    /// an entry that memory does not take, a touch, a batch, a removal.
    Shed,
}

/// How long a write waits for room in the queue unless the policy says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

impl Default for WhenFull {
    /// Waits for 30 s.
    fn default() -> Self {
        Self::Block(PATIENCE)
    }
}

/// What to do with a file that begins as ours do and is damaged.
///
/// # Examples
///
/// ```
/// use larder::{ByteCache, DamagePolicy, ErrorKind};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("cache.larder");
/// let open = |policy| ByteCache::builder().path(&path).on_damage(policy).open();
/// open(DamagePolicy::Fail)?.close()?;
/// let bytes = std::fs::read(&path)?;
/// std::fs::write(&path, &bytes[..bytes.len() / 2])?;   // half of it is lost
///
/// let error = open(DamagePolicy::Fail).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Corrupt);        // the file is where it was
/// let cache = open(DamagePolicy::SetAside)?;           // it is renamed
/// assert!(cache.is_empty() && folder.path().join("cache.larder.damaged").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DamagePolicy {
    /// Rename it to `*.damaged`, in the place of the one before, log that, and start empty.
    #[default]
    SetAside,
    /// Fail to open, with `ErrorKind::Corrupt`. The file stays where it is, as it is.
    Fail,
}

/// What to do with a file that holds keys or values of another type.
///
/// # Examples
///
/// ```
/// use larder::{Cache, ErrorKind, SchemaPolicy};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("cache.larder");
/// let words: Cache<str, String> = Cache::builder().path(&path).open()?;
/// words.insert("k", &"a word".to_owned())?;
/// words.close()?;
///
/// let refused = Cache::<str, u64>::builder().path(&path).open();
/// assert_eq!(refused.unwrap_err().kind(), ErrorKind::Schema);
/// let numbers: Cache<str, u64> =
///     Cache::builder().path(&path).on_schema_mismatch(SchemaPolicy::StartEmpty).open()?;
/// assert!(numbers.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SchemaPolicy {
    /// Fail to open, with `ErrorKind::Schema`.
    #[default]
    Fail,
    /// Remove what it holds and start empty.
    StartEmpty,
}

/// What callers see when the disk fails.
///
/// # Examples
///
/// ```
/// use larder::{ByteCache, ErrorPolicy, TierHealth};
///
/// let folder = tempfile::tempdir()?;
/// let cache = ByteCache::builder()
///     .path(folder.path().join("cache.larder"))
///     .error_policy(ErrorPolicy::Strict)
///     .open()?;
/// // A miss is now always a miss: were the disk not readable, this would be an error.
/// assert!(cache.get(b"k")?.is_none());
/// assert_eq!(cache.health().disk, Some(TierHealth::Ok));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ErrorPolicy {
    /// The cache goes on in memory: reads that need the disk are misses, writes succeed.
    /// `flush` and `close` return the error; `health` and `stats` show it.
    #[default]
    Degrade,
    /// Reads that need the disk, and writes that must be durable, return the error.
    Strict,
}

/// The smallest bound for the file: room for a few commits and the storage engine's own pages.
pub(crate) const FILE_BYTES_MIN: u64 = 8 << 20;

/// The engine's listener: what left, and why.
pub(crate) type Listener = Arc<dyn Fn(Found, RemovalCause) + Send + Sync>;

/// Who hears that the disk tier fails, and that it works again.
pub(crate) type HealthListener = Arc<dyn Fn(Health) + Send + Sync>;

/// Everything a cache is opened with.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) path: Option<PathBuf>,
    pub(crate) place: Place,
    pub(crate) memory: Limits,
    pub(crate) disk: Limits,
    pub(crate) disk_max_file_bytes: Option<u64>,
    pub(crate) disk_strategy: DiskStrategy,
    pub(crate) memory_time_to_live: Option<Duration>,
    pub(crate) disk_time_to_live: Option<Duration>,
    pub(crate) time_to_idle: Option<Duration>,
    pub(crate) max_memory_entry_bytes: Option<u64>,
    pub(crate) max_key_bytes: usize,
    pub(crate) schema_version: u32,
    pub(crate) write_policy: WritePolicy,
    /// The part of a disk limit (one so-many-th) that pending writes may exceed it by.
    pub(crate) disk_slack: Option<u32>,
    pub(crate) on_damage: DamagePolicy,
    pub(crate) on_schema_mismatch: SchemaPolicy,
    pub(crate) error_policy: ErrorPolicy,
    pub(crate) strategy: Strategy,
    pub(crate) shards: Option<usize>,
    pub(crate) disk_cache_bytes: usize,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) listener: Option<Listener>,
    pub(crate) health_listener: Option<HealthListener>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: None,
            place: Place::default(),
            memory: Limits::default(),
            disk: Limits::default(),
            disk_max_file_bytes: None,
            disk_strategy: DiskStrategy::default(),
            memory_time_to_live: None,
            disk_time_to_live: None,
            time_to_idle: None,
            max_memory_entry_bytes: None,
            max_key_bytes: 256,
            schema_version: 0,
            write_policy: WritePolicy::default(),
            disk_slack: Some(64),
            on_damage: DamagePolicy::default(),
            on_schema_mismatch: SchemaPolicy::default(),
            error_policy: ErrorPolicy::default(),
            strategy: Strategy::default(),
            shards: None,
            disk_cache_bytes: 128 << 20,
            clock: None,
            listener: None,
            health_listener: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("path", &self.path)
            .field("memory", &self.memory)
            .field("disk", &self.disk)
            .field("strategy", &self.strategy)
            .field("write_policy", &self.write_policy)
            .finish_non_exhaustive()
    }
}

#[cold]
fn invalid(sentence: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOption, sentence)
}

impl Config {
    /// Checks every option, alone and with the others.
    pub(crate) fn validate(&self) -> Result<()> {
        if !(1..=KEY_BYTES_MAX).contains(&self.max_key_bytes) {
            let given = self.max_key_bytes;
            return Err(invalid(format!(
                "max_key_bytes is {given}; it can be 1 to {KEY_BYTES_MAX}"
            )));
        }
        if let Some(shards) = self.shards.filter(|n| !(1..=SHARDS_MAX).contains(n)) {
            return Err(invalid(format!("shards is {shards}; it can be 1 to {SHARDS_MAX}")));
        }
        let durations = [
            ("memory_time_to_live", self.memory_time_to_live),
            ("disk_time_to_live", self.disk_time_to_live),
            ("time_to_idle", self.time_to_idle),
        ];
        if let Some((name, _)) = durations.iter().find(|d| d.1 == Some(Duration::ZERO)) {
            return Err(invalid(format!("{name} is 0, so nothing would be kept; leave it out")));
        }
        if self.path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            return Err(invalid("path is empty; name a file, or leave it out"));
        }
        self.validate_memory(self.memory)?;
        self.validate_disk(self.disk)?;
        self.validate_path()?;
        if let Some(bytes) = self.disk_max_file_bytes.filter(|bytes| *bytes < FILE_BYTES_MIN) {
            return Err(invalid(format!(
                "disk_max_file_bytes is {bytes}; it starts at {FILE_BYTES_MIN}"
            )));
        }
        self.validate_policy()
    }

    /// Refuses what makes sense with a disk tier only where there is none.
    fn validate_path(&self) -> Result<()> {
        if self.path.is_some() {
            return Ok(());
        }
        let strategy = self.disk_strategy;
        let given = [
            ("disk_max_file_bytes", self.disk_max_file_bytes.map(|n| n.to_string())),
            ("disk_strategy", (strategy != DiskStrategy::Lru).then(|| format!("{strategy:?}"))),
            ("disk_time_to_live", self.disk_time_to_live.map(|ttl| format!("{ttl:?}"))),
            ("max_memory_entry_bytes", self.max_memory_entry_bytes.map(|n| n.to_string())),
        ];
        match given.into_iter().find_map(|(name, value)| Some((name, value?))) {
            Some((name, value)) => Err(without_disk(name, &value)),
            None => Ok(()),
        }
    }

    /// Checks limits for the memory tier.
    pub(crate) fn validate_memory(&self, limits: Limits) -> Result<()> {
        let named = [("memory_max_entries", limits.entries), ("memory_max_bytes", limits.bytes)];
        match named.iter().find(|(_, limit)| *limit == Some(0)) {
            Some((name, _)) if self.path.is_none() => Err(invalid(format!(
                "a memory limit is 0 ({name}) and there is no disk tier, so nothing would be kept; \
                 raise the limit or set a path"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks limits for the disk tier.
    pub(crate) fn validate_disk(&self, limits: Limits) -> Result<()> {
        for (name, limit) in
            [("disk_max_entries", limits.entries), ("disk_max_bytes", limits.bytes)]
        {
            match limit {
                Some(limit) if self.path.is_none() => {
                    return Err(without_disk(name, &limit.to_string()));
                }
                Some(0) => {
                    return Err(invalid(format!(
                        "{name} is 0, so nothing would be kept; leave the path out for a cache in \
                         memory only"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn validate_policy(&self) -> Result<()> {
        if self.disk_slack == Some(0) {
            return Err(invalid("disk_slack is a 0th part of the limit; it starts at 1"));
        }
        if let WritePolicy::Behind { max_pending_ops, max_pending_bytes, max_delay, .. } =
            self.write_policy
        {
            for (name, given) in
                [("max_pending_ops", max_pending_ops), ("max_pending_bytes", max_pending_bytes)]
            {
                if given == 0 {
                    return Err(invalid(format!(
                        "{name} is 0, so no write could ever be accepted"
                    )));
                }
            }
            if max_delay > Duration::from_secs(3600) {
                let secs = max_delay.as_secs();
                return Err(invalid(format!("max_delay is {secs} s; it can be up to 3600 s")));
            }
        }
        Ok(())
    }

    /// The number of shards: a power of two; as asked, or four per core and fewer for few entries. Up to
    /// sixteen per core where each has an order of its own: then nobody looks at all of them for the oldest entry.
    pub(crate) fn shard_count(&self) -> usize {
        if let Some(asked) = self.shards {
            return asked.next_power_of_two();
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Below some 64 entries or 64 KiB a shard, more locks buy nothing.
        let by_entries = self.memory.entries.map_or(u64::MAX, |n| n / 64);
        let by_bytes = self.memory.bytes.map_or(u64::MAX, |n| n / (64 << 10));
        let most = usize::try_from(by_entries.min(by_bytes)).unwrap_or(usize::MAX).max(1);
        let wanted = (4 * cores).next_power_of_two().min(256);
        let shards = if most < wanted { (most / 2 + 1).next_power_of_two() } else { wanted };
        let have_orders = |many: &usize| have_orders(&self.strategy, self.memory, *many);
        [4 * shards, 2 * shards].into_iter().find(have_orders).unwrap_or(shards)
    }
}

#[cold]
fn without_disk(name: &str, value: &str) -> Error {
    invalid(format!("{name} is {value} and there is no disk tier; set a path or leave it out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_a_power_of_two_and_few_for_few_entries() {
        let with = |entries, shards| {
            let memory = Limits { entries: Some(entries), bytes: None };
            Config { memory, shards, ..Config::default() }.shard_count()
        };
        assert_eq!(with(10, None), 1);
        assert!(with(200, None) <= 4);
        assert_eq!(with(10, Some(5)), 8);
        assert!(with(1 << 30, None).is_power_of_two());
        let of = |strategy, entries| {
            let memory = Limits { entries: Some(entries), bytes: None };
            Config { memory, strategy, ..Config::default() }.shard_count()
        };
        let many = with(1 << 30, None);
        assert_eq!(of(Strategy::Lfu, 1 << 30), 4 * many, "each with an order of its own");
        assert_eq!((of(Strategy::Size, 1 << 30), of(Strategy::Lfu, 1)), (many, 1));
    }
}
