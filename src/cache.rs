//! The typed handle: any key that has ordered bytes, any value that rkyv can archive.
//!
//! # Safety
//!
//! The one `unsafe` line says that a record found in a cache of `V` holds a valid archive of `V`: the
//! cache's engine was opened with `V`'s validator, its records were encoded from a `V` by this
//! handle or accepted by that validator, and a file of another type was refused (V1 of `entry/mod.rs`).
#![expect(unsafe_code, reason = "the typed handle vouches for the type of its engine's records")]

use std::marker::PhantomData;

use crate::attributes::{InsertOptions, NO_OPTIONS};
use crate::builder::{Builder, Weighed};
use crate::config::Config;
use crate::engine::{CompactReport, Engine, Item, Removal, Schema, VerifyOptions, VerifyReport};
use crate::entry::{Entry, Handle, RemovalCause};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::state_and_life;
use crate::health::Health;
use crate::key::CacheKey;
use crate::stats::{Limits, Stats};
use crate::time::Timestamp;
use crate::value::{Archived, CacheValue, encode, format_name, is_valid, layout_name};

/// A cache of keys `K` and values `V`, in memory or in memory and on disk.
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
/// use larder::Cache;
///
/// let cache: Cache<str, Vec<String>> = Cache::builder().memory_max_entries(1_000).open()?;
/// cache.insert("fruit", &vec!["apple".to_owned(), "pear".to_owned()])?;
/// let entry = cache.get("fruit")?.expect("just inserted");
/// assert_eq!(entry[1], "pear");       // read in place
/// # Ok::<(), larder::Error>(())
/// ```
pub struct Cache<K: CacheKey + ?Sized, V: CacheValue> {
    engine: Engine,
    weigher: Option<<Self as Weighed>::Weigher>,
    types: PhantomData<fn(&K) -> V>,
}

// As with [`ByteCache`](crate::ByteCache).
impl<K: CacheKey + ?Sized, V: CacheValue> std::panic::UnwindSafe for Cache<K, V> {}
impl<K: CacheKey + ?Sized, V: CacheValue> std::panic::RefUnwindSafe for Cache<K, V> {}

impl<K: CacheKey + ?Sized, V: CacheValue> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        let (engine, weigher) = (self.engine.clone(), self.weigher.clone());
        Self { engine, weigher, types: PhantomData }
    }
}

impl<K: CacheKey + ?Sized, V: CacheValue> std::fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Types an entry of the engine of a `Cache<_, V>`.
#[inline]
fn typed_value<V: CacheValue>(found: impl Into<Handle>) -> Entry<V> {
    // SAFETY: V1, as said above; called only in this file, and on records of such an engine.
    unsafe { Entry::new(found) }
}

fn owned<K: CacheKey + ?Sized>(key: &[u8]) -> Result<K::Owned> {
    K::from_key_bytes(key).ok_or_else(|| {
        let text = String::from_utf8_lossy(key);
        Error::new(ErrorKind::Corrupt, format!("the key type does not decode the key '{text}'"))
    })
}

impl<K: CacheKey + ?Sized, V: CacheValue> Cache<K, V> {
    /// The options to open a cache with.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::Cache;
    ///
    /// let cache: Cache<u64, String> = Cache::builder().memory_max_entries(1_000).open()?;
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn builder() -> Builder<Self> {
        Builder::new()
    }

    pub(crate) fn open(
        mut config: Config,
        weigher: Option<<Self as Weighed>::Weigher>,
        listener: Option<TypedListener<K, V>>,
    ) -> Result<Self> {
        if let Some(listener) = listener {
            config.listener = Some(std::sync::Arc::new(move |found, cause| {
                if let Some(key) = K::from_key_bytes(found.record.key()) {
                    listener(key, typed_value(found), cause);
                }
            }));
        }
        let schema = Schema {
            rkyv: format_name,
            key: K::encoding_name,
            value: layout_name::<V>,
            validator: is_valid::<V>,
        };
        let engine = Engine::open(config, &schema)?;
        Ok(Self { engine, weigher, types: PhantomData })
    }

    fn weight(&self, key: &K, value: &V) -> Option<u64> {
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
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("key", &7)?;
    /// assert_eq!(cache.get("key")?.as_deref().copied().map(u64::from), Some(7));
    /// assert!(cache.get("other")?.is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[inline]
    pub fn get(&self, key: &K) -> Result<Option<Entry<V>>> {
        Ok(self.engine.get(key.to_key_bytes().as_ref(), None)?.map(typed_value))
    }

    /// [`Self::get`] at a given time, which becomes the entry's place in the order, and by which
    /// its age is judged.
    ///
    /// # Examples
    ///
    /// ```
    /// # use larder::Timestamp;
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert_at("key", &7, Timestamp::from_secs(1))?;
    /// let entry = cache.get_at("key", Timestamp::from_secs(2))?.expect("there");
    /// assert_eq!(entry.accessed_at(), Timestamp::from_secs(2));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn get_at(&self, key: &K, now: Timestamp) -> Result<Option<Entry<V>>> {
        Ok(self.engine.get(key.to_key_bytes().as_ref(), Some(now))?.map(typed_value))
    }

    /// The entry of `key`, without an effect on order, tiers or counters.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("key", &7)?;
    /// assert!(cache.peek("key")?.is_some());
    /// assert_eq!(cache.stats().gets, 0);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn peek(&self, key: &K) -> Result<Option<Entry<V>>> {
        Ok(self.engine.peek(key.to_key_bytes().as_ref(), None)?.map(typed_value))
    }

    /// [`Self::peek`], with the age judged at a given time.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// assert!(cache.peek_at("key", larder::Timestamp::from_secs(1))?.is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn peek_at(&self, key: &K, now: Timestamp) -> Result<Option<Entry<V>>> {
        Ok(self.engine.peek(key.to_key_bytes().as_ref(), Some(now))?.map(typed_value))
    }

    /// Whether `key` is there, without an effect on order, tiers or counters.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("key", &7)?;
    /// assert!(cache.contains_key("key")? && !cache.contains_key("other")?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn contains_key(&self, key: &K) -> Result<bool> {
        self.engine.contains_key(key.to_key_bytes().as_ref(), None)
    }

    /// [`Self::contains_key`], with the age judged at a given time.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// assert!(!cache.contains_key_at("key", larder::Timestamp::from_secs(1))?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn contains_key_at(&self, key: &K, now: Timestamp) -> Result<bool> {
        self.engine.contains_key(key.to_key_bytes().as_ref(), Some(now))
    }

    /// Calls `f` with the value, which counts as a get. No lock is held meanwhile, so `f` may use
    /// the cache.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("key", &7)?;
    /// assert_eq!(cache.view("key", |value| value.to_native() + 1)?, Some(8));
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[inline]
    pub fn view<R>(&self, key: &K, f: impl FnOnce(&Archived<V>) -> R) -> Result<Option<R>> {
        self.engine.view(key.to_key_bytes().as_ref(), |record| f(&typed_value::<V>(record)))
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
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("a", &1)?;
    /// let found = cache.get_many(["a", "b"])?;
    /// assert!(found[0].is_some() && found[1].is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn get_many<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a K>,
    ) -> Result<Vec<Option<Entry<V>>>>
    where
        K: 'a,
    {
        let keys: Vec<_> = keys.into_iter().map(CacheKey::to_key_bytes).collect();
        let found = self.engine.get_many(&keys, None)?;
        Ok(found.into_iter().map(|f| f.map(typed_value)).collect())
    }

    /// [`Self::get_many`], with the age judged at a given time.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// let found = cache.get_many_at(["a"], larder::Timestamp::from_secs(1))?;
    /// assert!(found[0].is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn get_many_at<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a K>,
        now: Timestamp,
    ) -> Result<Vec<Option<Entry<V>>>>
    where
        K: 'a,
    {
        let keys: Vec<_> = keys.into_iter().map(CacheKey::to_key_bytes).collect();
        let found = self.engine.get_many(&keys, Some(now))?;
        Ok(found.into_iter().map(|f| f.map(typed_value)).collect())
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
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("key", &7)?;
    /// cache.insert("key", &8)?;
    /// assert_eq!(cache.get("key")?.as_deref().copied().map(u64::from), Some(8));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert(&self, key: &K, value: &V) -> Result<()> {
        self.insert_with(key, value, &NO_OPTIONS)
    }

    /// [`Self::insert`] at a given time, which becomes the entry's place in the order, and from
    /// which its age counts.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(1).open()?;
    /// cache.insert_at("new", &1, larder::Timestamp::from_secs(2))?;
    /// cache.insert_at("old", &2, larder::Timestamp::from_secs(1))?;   // is itself the victim
    /// assert!(cache.contains_key("new")? && !cache.contains_key("old")?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert_at(&self, key: &K, value: &V, now: Timestamp) -> Result<()> {
        self.insert_with(key, value, &InsertOptions::default().timestamp(now))
    }

    /// [`Self::insert`] with a time to live, tags, metadata, weight or timestamp.
    ///
    /// # Examples
    ///
    /// ```
    /// # use larder::InsertOptions;
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert_with("key", &7, &InsertOptions::default().tags(["a"]).weight(3))?;
    /// assert_eq!(cache.memory_bytes(), 3);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert_with(&self, key: &K, value: &V, options: &InsertOptions) -> Result<()> {
        let weight = options.weight.or_else(|| self.weight(key, value));
        let key = key.to_key_bytes();
        encode(value, |bytes| self.engine.insert(key.as_ref(), bytes, options, weight))?
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
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// assert!(cache.insert_if_absent("key", &1)?);
    /// assert!(!cache.insert_if_absent("key", &2)?);
    /// assert_eq!(cache.get("key")?.as_deref().copied().map(u64::from), Some(1));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert_if_absent(&self, key: &K, value: &V) -> Result<bool> {
        let weight = self.weight(key, value);
        let key = key.to_key_bytes();
        encode(value, |bytes| self.engine.insert_if_absent(key.as_ref(), bytes, weight))?
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
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert_many([("a", &1), ("b", &2)])?;
    /// assert_eq!(cache.len(), 2);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert_many<'a>(&self, items: impl IntoIterator<Item = (&'a K, &'a V)>) -> Result<()>
    where
        K: 'a,
    {
        self.engine.insert_many(&self.items(items)?, None)
    }

    /// [`Self::insert_many`] at a given time.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// let then = larder::Timestamp::from_secs(1);
    /// cache.insert_many_at([("a", &1)], then)?;
    /// assert_eq!(cache.peek("a")?.expect("there").accessed_at(), then);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn insert_many_at<'a>(
        &self,
        items: impl IntoIterator<Item = (&'a K, &'a V)>,
        now: Timestamp,
    ) -> Result<()>
    where
        K: 'a,
    {
        self.engine.insert_many(&self.items(items)?, Some(now))
    }

    fn items<'a>(&self, items: impl IntoIterator<Item = (&'a K, &'a V)>) -> Result<Vec<Item>>
    where
        K: 'a,
    {
        let item = |(key, value): (&K, &V)| {
            let weight = self.weight(key, value);
            let key = key.to_key_bytes().as_ref().to_vec();
            Ok((key, encode(value, <[u8]>::to_vec)?, weight))
        };
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
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("key", &7)?;
    /// assert!(cache.touch("key", Duration::from_secs(60))?);
    /// assert!(cache.get("key")?.expect("there").expires_at().is_some());
    /// assert!(!cache.touch("other", None)?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn touch(&self, key: &K, ttl: impl Into<Option<std::time::Duration>>) -> Result<bool> {
        self.engine.touch(key.to_key_bytes().as_ref(), ttl.into())
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
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("key", &7)?;
    /// assert_eq!(cache.remove("key")?.as_deref().copied().map(u64::from), Some(7));
    /// assert!(cache.remove("key")?.is_none());
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn remove(&self, key: &K) -> Result<Option<Entry<V>>> {
        Ok(self.engine.remove(key.to_key_bytes().as_ref(), Removal::Remove)?.map(typed_value))
    }

    /// Removes an entry; gives whether it was there. For the rest see [`Self::remove`].
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("key", &7)?;
    /// assert!(cache.invalidate("key")? && !cache.invalidate("key")?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn invalidate(&self, key: &K) -> Result<bool> {
        Ok(self.engine.remove(key.to_key_bytes().as_ref(), Removal::Invalidate)?.is_some())
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
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("a", &1)?;
    /// assert_eq!(cache.remove_many(["a", "b"])?, 1);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn remove_many<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<usize>
    where
        K: 'a,
    {
        let keys: Vec<_> = keys.into_iter().map(CacheKey::to_key_bytes).collect();
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
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("user:1", &1)?;
    /// cache.insert("page:1", &2)?;
    /// assert_eq!(cache.invalidate_prefix("user:")?, 1);
    /// assert_eq!(cache.len(), 1);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn invalidate_prefix(&self, prefix: &K) -> Result<u64> {
        self.engine.invalidate_prefix(prefix.to_key_bytes().as_ref())
    }

    /// All keys that have not expired: in key order where there is a disk tier, else in any order.
    /// What is inserted or removed meanwhile may or may not be among them; what is there throughout
    /// is, once.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("key", &7)?;
    /// let keys: Vec<String> = cache.keys().collect::<Result<_, _>>()?;
    /// assert_eq!(keys, ["key"]);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn keys(&self) -> impl Iterator<Item = Result<K::Owned>> + use<K, V> {
        self.walk_keys(b"")
    }

    fn walk_keys(&self, prefix: &[u8]) -> impl Iterator<Item = Result<K::Owned>> + use<K, V> {
        let (engine, mut walk) = (self.engine.clone(), self.engine.begin_walk(prefix));
        std::iter::from_fn(move || Some(walk.next_key(&engine)?.and_then(|key| owned::<K>(&key))))
    }

    /// The keys that start with `prefix`; see [`Self::keys`].
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("user:1", &1)?;
    /// cache.insert("page:1", &2)?;
    /// assert_eq!(cache.keys_with_prefix("user:").count(), 1);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn keys_with_prefix(
        &self,
        prefix: &K,
    ) -> impl Iterator<Item = Result<K::Owned>> + use<K, V> {
        self.walk_keys(prefix.to_key_bytes().as_ref())
    }

    /// All entries that have not expired, in the order of [`Self::keys`], without an effect on order,
    /// tiers or counters.
    ///
    /// # Examples
    ///
    /// ```
    /// # let cache: larder::Cache<str, u64> = larder::Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("key", &7)?;
    /// for entry in cache.iter() {
    ///     let entry = entry?;
    ///     assert_eq!((entry.key(), entry.to_owned()), (&b"key"[..], 7));
    /// }
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = Result<Entry<V>>> + use<K, V> {
        let (engine, mut walk) = (self.engine.clone(), self.engine.begin_walk(b""));
        std::iter::from_fn(move || Some(walk.next_found(&engine)?.map(typed_value)))
    }

    state_and_life!();
}

/// A listener of a typed cache.
pub(crate) type TypedListener<K, V> =
    std::sync::Arc<dyn Fn(<K as CacheKey>::Owned, Entry<V>, RemovalCause) + Send + Sync>;
