//! The byte handle: keys and values are slices.

use std::sync::Arc;

use crate::attributes::{InsertOptions, NO_OPTIONS};
use crate::builder::{Builder, Weighed};
use crate::config::Config;
use crate::engine::{CompactReport, Engine, Item, Removal, Schema, VerifyOptions, VerifyReport};
use crate::entry::ByteEntry;
use crate::error::Result;
use crate::handle::state_and_life;
use crate::health::Health;
use crate::stats::{Limits, Stats};
use crate::time::Timestamp;

/// A cache of byte keys and byte values: the same engine as [`Cache`](crate::Cache), without types.
///
/// Cheap to clone; clones are one cache. Every method may be called from any thread.
///
/// Reads go down the tiers: a lower tier that fails is a miss and a counted event, unless
/// `ErrorPolicy::Strict` was chosen. Every method that returns a `Result` gives `Closed` after
/// `close`, and `InvalidKey` for a key that is empty or too long.
///
/// # Examples
///
/// ```
/// use larder::ByteCache;
///
/// let cache = ByteCache::builder().memory_max_bytes(1 << 20).open()?;
/// cache.insert(b"key", b"value")?;
/// assert_eq!(cache.get(b"key")?.as_deref(), Some(&b"value"[..]));
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone)]
pub struct ByteCache {
    engine: Engine,
    weigher: Option<<Self as Weighed>::Weigher>,
}

// A panic in what a caller brings along (a value's code, a weigher, a clock) leaves the cache consistent.
impl std::panic::UnwindSafe for ByteCache {}
impl std::panic::RefUnwindSafe for ByteCache {}

impl std::fmt::Debug for ByteCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl ByteCache {
    /// The options to open a cache with.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = larder::ByteCache::builder().memory_max_entries(1_000).open()?;
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn builder() -> Builder<Self> {
        Builder::new()
    }

    pub(crate) fn open(
        mut config: Config,
        weigher: Option<<Self as Weighed>::Weigher>,
        listener: Option<<Self as Weighed>::Listener>,
    ) -> Result<Self> {
        if let Some(listener) = listener {
            config.listener = Some(Arc::new(move |found, cause| {
                let entry = ByteEntry::bytes(found);
                listener(entry.key().to_vec(), entry, cause);
            }));
        }
        let schema = Schema {
            rkyv: || "none".to_owned(),
            key: || "bytes".to_owned(),
            value: || "bytes".to_owned(),
            validator: |_| true,
        };
        Ok(Self { engine: Engine::open(config, &schema)?, weigher })
    }

    fn weight(&self, key: &[u8], value: &[u8]) -> Option<u64> {
        self.weigher.as_ref().map(|weigh| weigh(key, value))
    }

    /// The entry of `key`, which becomes the most recent. A hit in memory takes one lock and no
    /// allocation; a hit on disk is copied once and promoted.
    ///
    /// # Errors
    ///
    /// `InvalidKey`, `Closed`; `Io` with `ErrorPolicy::Strict`.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// assert_eq!(cache.get(b"key")?.as_deref(), Some(&b"value"[..]));
    /// assert!(cache.get(b"other")?.is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[inline]
    pub fn get(&self, key: &[u8]) -> Result<Option<ByteEntry>> {
        Ok(self.engine.get(key, None)?.map(ByteEntry::bytes))
    }

    /// [`Self::get`] at a given time, which becomes the entry's place in the order, and by which
    /// its age is judged.
    ///
    /// # Examples
    ///
    /// ```
    /// # use larder::Timestamp;
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert_at(b"key", b"value", Timestamp::from_secs(1))?;
    /// let entry = cache.get_at(b"key", Timestamp::from_secs(2))?.expect("there");
    /// assert_eq!(entry.accessed_at(), Timestamp::from_secs(2));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn get_at(&self, key: &[u8], now: Timestamp) -> Result<Option<ByteEntry>> {
        Ok(self.engine.get(key, Some(now))?.map(ByteEntry::bytes))
    }

    /// The entry of `key`, without an effect on order, tiers or counters.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// assert!(cache.peek(b"key")?.is_some());
    /// assert_eq!(cache.stats().gets, 0);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn peek(&self, key: &[u8]) -> Result<Option<ByteEntry>> {
        Ok(self.engine.peek(key, None)?.map(ByteEntry::bytes))
    }

    /// [`Self::peek`], with the age judged at a given time.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// assert!(cache.peek_at(b"key", larder::Timestamp::from_secs(1))?.is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn peek_at(&self, key: &[u8], now: Timestamp) -> Result<Option<ByteEntry>> {
        Ok(self.engine.peek(key, Some(now))?.map(ByteEntry::bytes))
    }

    /// Whether `key` is there, without an effect on order, tiers or counters.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// assert!(cache.contains_key(b"key")? && !cache.contains_key(b"other")?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn contains_key(&self, key: &[u8]) -> Result<bool> {
        self.engine.contains_key(key, None)
    }

    /// [`Self::contains_key`], with the age judged at a given time.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// assert!(!cache.contains_key_at(b"key", larder::Timestamp::from_secs(1))?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn contains_key_at(&self, key: &[u8], now: Timestamp) -> Result<bool> {
        self.engine.contains_key(key, Some(now))
    }

    /// Calls `f` with the value, which counts as a get. No lock is held meanwhile, so `f` may use
    /// the cache.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// assert_eq!(cache.view(b"key", <[u8]>::len)?, Some(5));
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[inline]
    pub fn view<R>(&self, key: &[u8], f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        self.engine.view(key, |record| f(record.value()))
    }

    /// Copies the value into `buf`, in place of what it had, and takes no reference count. `false`, and
    /// an empty buffer, if the key is not there. Counts as a get.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// let mut buf = Vec::new();
    /// assert!(cache.get_into(b"key", &mut buf)?);
    /// assert_eq!(buf, b"value");
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[inline]
    pub fn get_into(&self, key: &[u8], buf: &mut Vec<u8>) -> Result<bool> {
        buf.clear();
        self.engine.get_with_lock(key, |value| buf.extend_from_slice(value))
    }

    /// One slot per key asked, in that order. Each key counts as a get; no stamp is set, and nothing
    /// is promoted.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if any key is bad, before any is looked up; `Closed`; `Io` with
    /// `ErrorPolicy::Strict`.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"a", b"1")?;
    /// let found = cache.get_many([&b"a"[..], b"b"])?;
    /// assert!(found[0].is_some() && found[1].is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn get_many<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<Option<ByteEntry>>> {
        let keys: Vec<&[u8]> = keys.into_iter().collect();
        let found = self.engine.get_many(&keys, None)?;
        Ok(found.into_iter().map(|f| f.map(ByteEntry::bytes)).collect())
    }

    /// [`Self::get_many`], with the age judged at a given time.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// let found = cache.get_many_at([&b"a"[..]], larder::Timestamp::from_secs(1))?;
    /// assert!(found[0].is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn get_many_at<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a [u8]>,
        now: Timestamp,
    ) -> Result<Vec<Option<ByteEntry>>> {
        let keys: Vec<&[u8]> = keys.into_iter().collect();
        let found = self.engine.get_many(&keys, Some(now))?;
        Ok(found.into_iter().map(|f| f.map(ByteEntry::bytes)).collect())
    }

    /// Inserts an entry, or replaces the value of its key. It becomes the most recent.
    ///
    /// # Errors
    ///
    /// `InvalidKey`, `TooLarge`, `Busy`, `Closed`: an older value of the key is still there then. `Io` with
    /// `ErrorPolicy::Strict` and write-through: the value is in memory, and writing it is tried again.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// cache.insert(b"key", b"newer")?;
    /// assert_eq!(cache.get(b"key")?.as_deref(), Some(&b"newer"[..]));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.insert_with(key, value, &NO_OPTIONS)
    }

    /// [`Self::insert`] at a given time, which becomes the entry's place in the order, and from
    /// which its age counts.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(1).open()?;
    /// cache.insert_at(b"new", b"1", larder::Timestamp::from_secs(2))?;
    /// cache.insert_at(b"old", b"2", larder::Timestamp::from_secs(1))?;   // is itself the victim
    /// assert!(cache.contains_key(b"new")? && !cache.contains_key(b"old")?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert_at(&self, key: &[u8], value: &[u8], now: Timestamp) -> Result<()> {
        self.insert_with(key, value, &InsertOptions::default().timestamp(now))
    }

    /// [`Self::insert`] with a time to live, tags, metadata, weight or timestamp.
    ///
    /// # Examples
    ///
    /// ```
    /// # use larder::InsertOptions;
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert_with(b"key", b"value", &InsertOptions::default().tags(["a"]).weight(3))?;
    /// assert_eq!(cache.memory_bytes(), 3);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert_with(&self, key: &[u8], value: &[u8], options: &InsertOptions) -> Result<()> {
        let weight = options.weight.or_else(|| self.weight(key, value));
        self.engine.insert(key, value, options, weight)
    }

    /// Inserts an entry unless its key is there, in one step; `true` if it was not. (A strategy of
    /// your own may have refused it then, as after `insert`.)
    ///
    /// # Errors
    ///
    /// As for [`Self::insert`].
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// assert!(cache.insert_if_absent(b"key", b"first")?);
    /// assert!(!cache.insert_if_absent(b"key", b"second")?);
    /// assert_eq!(cache.get(b"key")?.as_deref(), Some(&b"first"[..]));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert_if_absent(&self, key: &[u8], value: &[u8]) -> Result<bool> {
        self.engine.insert_if_absent(key, value, self.weight(key, value))
    }

    /// Inserts all entries or none, in one transaction, with one stamp; room is made for them as if
    /// all were in first. Of several entries with one key the last one stays.
    ///
    /// # Errors
    ///
    /// As for [`Self::insert`], before anything has changed; `TooLarge` also where weights add up to 2^63 or
    /// more.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert_many([(&b"a"[..], &b"1"[..]), (b"b", b"2")])?;
    /// assert_eq!(cache.len(), 2);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert_many<'a>(
        &self,
        items: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<()> {
        self.engine.insert_many(&self.items(items), None)
    }

    /// [`Self::insert_many`] at a given time.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// let then = larder::Timestamp::from_secs(1);
    /// cache.insert_many_at([(&b"a"[..], &b"1"[..])], then)?;
    /// assert_eq!(cache.peek(b"a")?.expect("there").accessed_at(), then);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert_many_at<'a>(
        &self,
        items: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        now: Timestamp,
    ) -> Result<()> {
        self.engine.insert_many(&self.items(items), Some(now))
    }

    fn items<'a>(&self, items: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<Item> {
        let item =
            |(key, value): (&[u8], &[u8])| (key.to_vec(), value.to_vec(), self.weight(key, value));
        items.into_iter().map(item).collect()
    }

    /// Gives an entry a new time to live, counted from now, and makes it the most recent; `None`
    /// takes its own time to live away, so that only the tiers' apply. `false` if it is not there.
    ///
    /// # Errors
    ///
    /// As for [`Self::insert`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// assert!(cache.touch(b"key", Duration::from_secs(60))?);
    /// assert!(cache.get(b"key")?.expect("there").expires_at().is_some());
    /// assert!(!cache.touch(b"other", None)?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn touch(&self, key: &[u8], ttl: impl Into<Option<std::time::Duration>>) -> Result<bool> {
        self.engine.touch(key, ttl.into())
    }

    /// Removes an entry and gives it. After it returns nobody sees the value again, also not after a
    /// crash once flushed.
    ///
    /// # Errors
    ///
    /// `InvalidKey`, `Busy`, `Closed`; `Io` with `ErrorPolicy::Strict`.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// assert_eq!(cache.remove(b"key")?.as_deref(), Some(&b"value"[..]));
    /// assert!(cache.remove(b"key")?.is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn remove(&self, key: &[u8]) -> Result<Option<ByteEntry>> {
        Ok(self.engine.remove(key, Removal::Remove)?.map(ByteEntry::bytes))
    }

    /// Removes an entry; gives whether it was there. For the rest see [`Self::remove`].
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// assert!(cache.invalidate(b"key")? && !cache.invalidate(b"key")?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn invalidate(&self, key: &[u8]) -> Result<bool> {
        Ok(self.engine.remove(key, Removal::Invalidate)?.is_some())
    }

    /// Removes several entries in one transaction; gives how many were there. Keys that are not are
    /// ignored.
    ///
    /// # Errors
    ///
    /// As for [`Self::remove`], before anything has changed.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"a", b"1")?;
    /// assert_eq!(cache.remove_many([&b"a"[..], b"b"])?, 1);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn remove_many<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<usize> {
        let keys: Vec<&[u8]> = keys.into_iter().collect();
        self.engine.remove_many(&keys)
    }

    /// Removes every entry whose key starts with `prefix`, in one transaction; gives how many there
    /// were. What is inserted meanwhile may stay.
    /// An empty prefix is that of all.
    ///
    /// # Errors
    ///
    /// `Busy`, `Closed`; `Io` while the disk cannot be read, whatever the error
    /// policy: nothing was removed.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"user:1", b"a")?;
    /// cache.insert(b"page:1", b"b")?;
    /// assert_eq!(cache.invalidate_prefix(b"user:")?, 1);
    /// assert_eq!(cache.len(), 1);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn invalidate_prefix(&self, prefix: &[u8]) -> Result<u64> {
        self.engine.invalidate_prefix(prefix)
    }

    /// All keys that have not expired: in key order where there is a disk tier, else in any order.
    /// What is inserted or removed meanwhile may or may not be among them; what is there throughout
    /// is, once.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// let keys: Vec<Vec<u8>> = cache.keys().collect::<Result<_, _>>()?;
    /// assert_eq!(keys, [b"key"]);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn keys(&self) -> impl Iterator<Item = Result<Vec<u8>>> + use<> {
        self.keys_with_prefix(b"")
    }

    /// The keys that start with `prefix`; see [`Self::keys`].
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"user:1", b"a")?;
    /// cache.insert(b"page:1", b"b")?;
    /// assert_eq!(cache.keys_with_prefix(b"user:").count(), 1);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn keys_with_prefix(&self, prefix: &[u8]) -> impl Iterator<Item = Result<Vec<u8>>> + use<> {
        let (engine, mut walk) = (self.engine.clone(), self.engine.begin_walk(prefix));
        std::iter::from_fn(move || walk.next_key(&engine))
    }

    /// All entries that have not expired, in the order of [`Self::keys`], without an effect on order,
    /// tiers or counters.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache = larder::ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// for entry in cache.iter() {
    ///     let entry = entry?;
    ///     assert_eq!((entry.key(), &*entry), (&b"key"[..], &b"value"[..]));
    /// }
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = Result<ByteEntry>> + use<> {
        let (engine, mut walk) = (self.engine.clone(), self.engine.begin_walk(b""));
        std::iter::from_fn(move || Some(walk.next_found(&engine)?.map(ByteEntry::bytes)))
    }

    state_and_life!();
}

/// Handles may be shared between threads.
const _: fn() = || {
    fn check<T: Send + Sync + Clone>() {}
    check::<ByteCache>();
};
