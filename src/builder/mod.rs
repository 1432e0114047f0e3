//! The builder: one list of options for both handles.

mod handles;

use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, DamagePolicy, ErrorPolicy, SchemaPolicy, WritePolicy};
use crate::health::Health;
use crate::store::disk::{Place, Volume};
use crate::strategy::{DiskStrategy, Strategy};
use crate::time::Clock;

pub(crate) use handles::Weighed;

/// What a cache is opened with. Made by [`Cache::builder`](crate::Cache::builder) and
/// [`ByteCache::builder`](crate::ByteCache::builder).
///
/// Setters check nothing; [`open`](Builder::<crate::ByteCache>::open) names the option that is wrong.
///
/// # Behaviour
///
/// `path`, limits, times to live, `max_memory_entry_bytes`, `max_key_bytes`, `weigher`,
/// `schema_version`, `write_policy` and the policies decide what the cache does.
///
/// # Performance
///
/// `shards` and `disk_cache_bytes` decide how fast it does it; most leave them alone.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use larder::{Cache, WritePolicy};
///
/// let folder = tempfile::tempdir()?;
/// let cache: Cache<str, String> = Cache::builder()
///     .path(folder.path().join("pages.larder"))
///     .memory_max_entries(1_000)
///     .memory_max_bytes(16 << 20)
///     .disk_max_entries(100_000)
///     .disk_max_bytes(1 << 30)
///     .memory_time_to_live(Duration::from_secs(60))
///     .disk_time_to_live(Duration::from_secs(3_600))
///     .time_to_idle(Duration::from_secs(600))
///     .max_memory_entry_bytes(10 << 10)
///     .schema_version(3)
///     .write_policy(WritePolicy::Through)
///     .open()?;
/// cache.insert("index", &"<html>".to_owned())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is opened until `open` is called"]
pub struct Builder<H: Weighed> {
    config: Config,
    weigher: Option<H::Weigher>,
    listener: Option<H::Listener>,
    handle: PhantomData<fn() -> H>,
}

impl<H: Weighed> std::fmt::Debug for Builder<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<H: Weighed> Builder<H> {
    pub(crate) fn new() -> Self {
        Self { config: Config::default(), weigher: None, listener: None, handle: PhantomData }
    }

    /// The file of the disk tier. Missing folders are made; beside it are a lock file (`*.lock`), 1 MiB kept in
    /// reserve for a full device (`*.reserve`), during a compaction the copy (`*.new`) and, after damage, one file
    /// that was set aside (`*.damaged`). Default: none, memory only: then limits, times and a strategy for the disk
    /// tier and `max_memory_entry_bytes` are refused, and what else concerns it does nothing.
    ///
    /// Under Linux up to eight descriptors more than one are opened for the file while threads read from it:
    /// threads that share one wait for each other in the system. Where none is to be had, they share it.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).open()?;
    /// cache.insert(b"key", b"there after a restart")?;
    /// cache.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.path = Some(path.into());
        self
    }

    /// Hears when the disk tier begins to fail, and when it works again: what `health` gives then, which
    /// is `Closed` where that happens while the cache closes.
    /// Called by the cache's writer, without locks: until it returns, nothing is written, and `flush`
    /// and `close` must not be called from it. A panic in it is caught. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, TierHealth};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let cache = ByteCache::builder()
    ///     .path(folder.path().join("cache.larder"))
    ///     .health_listener(|health| match health.disk {
    ///         Some(TierHealth::Degraded { reason, .. }) => eprintln!("in memory only: {reason}"),
    ///         Some(TierHealth::Ok) => eprintln!("on disk again"),
    ///         _ => {}
    ///     })
    ///     .open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn health_listener(mut self, listener: impl Fn(Health) + Send + Sync + 'static) -> Self {
        self.config.health_listener = Some(Arc::new(listener));
        self
    }

    /// Where `path` is, in the place of the file system: for tests that say what becomes of each
    /// write. No lock keeps the volume from being opened twice.
    #[doc(hidden)]
    pub fn volume(mut self, volume: Arc<dyn Volume>) -> Self {
        self.config.place = Place::Volume(volume);
        self
    }

    /// The most entries in memory; 0 with a path means disk only. Default: no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// let cache = ByteCache::builder().memory_max_entries(2).open()?;
    /// for key in [b"a", b"b", b"c"] {
    ///     cache.insert(key, b"value")?;
    /// }
    /// assert_eq!(cache.memory_len(), 2);
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[doc(alias = "max_capacity")]
    pub fn memory_max_entries(mut self, entries: u64) -> Self {
        self.config.memory.entries = Some(entries);
        self
    }

    /// The most bytes in memory: the sum of key and value bytes, or of weights. What an entry takes
    /// on top is in the README. 0 with a path means disk only. Default: no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// let cache = ByteCache::builder().memory_max_bytes(100).open()?;
    /// cache.insert(b"key", &[0; 90])?;
    /// cache.insert(b"new", &[0; 90])?;
    /// assert_eq!((cache.memory_len(), cache.memory_bytes()), (1, 93));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn memory_max_bytes(mut self, bytes: u64) -> Self {
        self.config.memory.bytes = Some(bytes);
        self
    }

    /// The most entries on disk, at least 1. Needs a path. Default: no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).disk_max_entries(2).open()?;
    /// for key in [b"a", b"b", b"c"] {
    ///     cache.insert(key, b"value")?;
    /// }
    /// cache.flush()?;
    /// assert_eq!(cache.disk_len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disk_max_entries(mut self, entries: u64) -> Self {
        self.config.disk.entries = Some(entries);
        self
    }

    /// The most bytes on disk, at least 1: the sum of key and value bytes, or of weights. The file is
    /// larger. Needs a path. Default: no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).disk_max_bytes(100).open()?;
    /// cache.insert(b"key", &[0; 90])?;
    /// cache.insert(b"new", &[0; 90])?;
    /// cache.flush()?;
    /// assert_eq!((cache.disk_len(), cache.disk_bytes()), (1, 93));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disk_max_bytes(mut self, bytes: u64) -> Self {
        self.config.disk.bytes = Some(bytes);
        self
    }

    /// The most bytes that the file occupies on disk, holes left out, at least 8 MiB; while it is
    /// compacted, the copy beside it included. Entries leave, in order, so that a copy of them takes
    /// 30 % of it at most, since a compaction needs room for both and for what is written meanwhile. An
    /// entry or a batch above a 32nd of it is refused, and commits are smaller. A file that is already
    /// larger when it is opened gets below with its first compaction. Needs a path. Default: no
    /// bound; the file is then compacted at some 2.1 times the bytes of its entries.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).disk_max_file_bytes(64 << 20).open()?;
    /// cache.insert(b"key", b"value")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disk_max_file_bytes(mut self, bytes: u64) -> Self {
        self.config.disk_max_file_bytes = Some(bytes);
        self
    }

    /// Which entry leaves the disk tier when there is no room. Needs a path. Default:
    /// [`DiskStrategy::Lru`].
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, DiskStrategy};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder()
    ///     .path(path)
    ///     .disk_max_bytes(1 << 30)
    ///     .disk_strategy(DiskStrategy::Size)
    ///     .open()?;
    /// cache.insert(b"key", b"value")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disk_strategy(mut self, strategy: DiskStrategy) -> Self {
        self.config.disk_strategy = strategy;
        self
    }

    /// How long an entry stays in memory after it was inserted or promoted. With a disk tier it is a
    /// disk hit after that, and is promoted anew; without one it is gone. Default: no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::{ByteCache, ManualClock, Timestamp};
    /// let clock = ManualClock::new(Timestamp::from_secs(1_000));
    /// let cache = ByteCache::builder()
    ///     .memory_max_entries(10)
    ///     .memory_time_to_live(Duration::from_secs(60))
    ///     .clock(clock.clone())
    ///     .open()?;
    /// cache.insert(b"key", b"value")?;
    /// clock.advance(Duration::from_secs(61));
    /// assert!(cache.get(b"key")?.is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[doc(alias = "time_to_live")]
    pub fn memory_time_to_live(mut self, ttl: Duration) -> Self {
        self.config.memory_time_to_live = Some(ttl);
        self
    }

    /// How long an entry stays in the cache after it was inserted, restarts included. Needs a path.
    /// Default: no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::ByteCache;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache =
    ///     ByteCache::builder().path(path).disk_time_to_live(Duration::from_secs(3_600)).open()?;
    /// cache.insert(b"key", b"value")?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert_eq!(entry.expires_at(), Some(entry.created_at() + Duration::from_secs(3_600)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disk_time_to_live(mut self, ttl: Duration) -> Self {
        self.config.disk_time_to_live = Some(ttl);
        self
    }

    /// How long an entry stays in the cache without being accessed. Default: no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::{ByteCache, ManualClock, Timestamp};
    /// let clock = ManualClock::new(Timestamp::from_secs(1_000));
    /// let cache = ByteCache::builder()
    ///     .memory_max_entries(10)
    ///     .time_to_idle(Duration::from_secs(60))
    ///     .clock(clock.clone())
    ///     .open()?;
    /// cache.insert(b"key", b"value")?;
    /// clock.advance(Duration::from_secs(50));
    /// assert!(cache.get(b"key")?.is_some());
    /// clock.advance(Duration::from_secs(50));
    /// assert!(cache.get(b"key")?.is_some());
    /// clock.advance(Duration::from_secs(61));
    /// assert!(cache.get(b"key")?.is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn time_to_idle(mut self, idle: Duration) -> Self {
        self.config.time_to_idle = Some(idle);
        self
    }

    /// The largest charge of an entry that is kept in memory; larger ones live on disk only. Needs a
    /// path. Default: the byte limit of memory.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).max_memory_entry_bytes(1_000).open()?;
    /// cache.insert(b"large", &[0; 5_000])?;
    /// assert_eq!((cache.memory_len(), cache.len()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_memory_entry_bytes(mut self, bytes: u64) -> Self {
        self.config.max_memory_entry_bytes = Some(bytes);
        self
    }

    /// The longest key in bytes, as encoded: 1 to 4096. Default: 256.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, ErrorKind};
    /// let cache = ByteCache::builder().memory_max_entries(10).max_key_bytes(4).open()?;
    /// let error = cache.insert(b"too long", b"value").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidKey);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn max_key_bytes(mut self, bytes: usize) -> Self {
        self.config.max_key_bytes = bytes;
        self
    }

    /// The version of what the values mean. A file of another version opens empty: its entries are
    /// dropped. Raise it when values of one type change their meaning. A type is told by its name and by
    /// size, alignment and layout of its archived form; the layout does not tell numbers of one size
    /// apart (`i32` for `u32`, or two fields swapped), nor names of fields. Default: 0.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(&path).schema_version(1).open()?;
    /// cache.insert(b"key", b"as it was written then")?;
    /// cache.close()?;
    /// let cache = ByteCache::builder().path(&path).schema_version(2).open()?;
    /// assert!(cache.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn schema_version(mut self, version: u32) -> Self {
        self.config.schema_version = version;
        self
    }

    /// When writes reach the disk. Default: [`WritePolicy::behind`].
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, WritePolicy};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).write_policy(WritePolicy::Through).open()?;
    /// cache.insert(b"key", b"durable now")?;
    /// assert_eq!(cache.disk_len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_policy(mut self, policy: WritePolicy) -> Self {
        self.config.write_policy = policy;
        self
    }

    /// How far write-behind may run ahead of the limits of a disk tier that is full, as one so-many-th
    /// of the limit, 1 or more; at least 16 entries or 16 KiB. Entries leave the disk tier when writes
    /// are committed, so until then it holds that much more; a write that would exceed it waits for a
    /// commit. More makes writes to a small disk tier faster, less makes its hits more exact; `None`, or
    /// [`WhenFull::Shed`](crate::WhenFull::Shed): the queue's own bounds only. Default: 64.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).disk_max_entries(1_000).disk_slack(None).open()?;
    /// cache.insert(b"key", b"value")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disk_slack(mut self, part: impl Into<Option<u32>>) -> Self {
        self.config.disk_slack = part.into();
        self
    }

    /// What to do with a damaged file. Default: [`DamagePolicy::SetAside`].
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, DamagePolicy};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).on_damage(DamagePolicy::Fail).open()?;
    /// assert!(cache.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_damage(mut self, policy: DamagePolicy) -> Self {
        self.config.on_damage = policy;
        self
    }

    /// What to do with a file of another type. Default: [`SchemaPolicy::Fail`].
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, SchemaPolicy};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).on_schema_mismatch(SchemaPolicy::StartEmpty).open()?;
    /// assert!(cache.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_schema_mismatch(mut self, policy: SchemaPolicy) -> Self {
        self.config.on_schema_mismatch = policy;
        self
    }

    /// What callers see when the disk fails. Default: [`ErrorPolicy::Degrade`].
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, ErrorPolicy};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).error_policy(ErrorPolicy::Strict).open()?;
    /// assert!(cache.get(b"key")?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn error_policy(mut self, policy: ErrorPolicy) -> Self {
        self.config.error_policy = policy;
        self
    }

    /// Where time comes from. Default: the system's clocks.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, ManualClock, Timestamp};
    /// let clock = ManualClock::new(Timestamp::from_secs(1_000));
    /// let cache = ByteCache::builder().memory_max_entries(10).clock(clock.clone()).open()?;
    /// cache.insert(b"key", b"value")?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert!(entry.created_at() < Timestamp::from_secs(1_001));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.config.clock = Some(Arc::new(clock));
        self
    }

    /// Which entry leaves memory when there is no room for a new one. Default: [`Strategy::Lru`].
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, Strategy};
    /// let cache = ByteCache::builder().memory_max_entries(2).strategy(Strategy::Fifo).open()?;
    /// cache.insert(b"a", b"first in")?;
    /// cache.insert(b"b", b"second in")?;
    /// cache.get(b"a")?;
    /// cache.insert(b"c", b"third in")?;
    /// assert!(cache.get(b"a")?.is_none()); // whenever it was used
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.config.strategy = strategy;
        self
    }

    /// The number of shards of memory, 1 to 4096, rounded up to a power of two. More let more
    /// threads in at once and make eviction look further; the order is the same with any number, but
    /// for `Lfu`, `S3Fifo` and `Sieve` with many entries ([`Strategy`]). Default: four per core, fewer for few
    /// entries; for those up to sixteen per core.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// let cache = ByteCache::builder().memory_max_entries(1_000_000).shards(64).open()?;
    /// cache.insert(b"key", b"value")?;
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn shards(mut self, shards: usize) -> Self {
        self.config.shards = Some(shards);
        self
    }

    /// Memory for pages of the file, on top of the memory tier; filled as the file is read and
    /// written. A third of it, at most 2 GiB, is for notes of where entries are, 25 bytes each; where the file
    /// is longer than the other two thirds, entries are read from the file by these, past the pages: the system
    /// may have them in its own cache. Half of the rest is room for a commit. Default: 128 MiB.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("cache.larder");
    /// let cache = ByteCache::builder().path(path).disk_cache_bytes(16 << 20).open()?;
    /// cache.insert(b"key", b"value")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disk_cache_bytes(mut self, bytes: usize) -> Self {
        self.config.disk_cache_bytes = bytes;
        self
    }
}
