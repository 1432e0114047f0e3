//! What differs between the handles: their weighers, listeners, and what `open` gives.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::builder::Builder;
use crate::bytes::ByteCache;
use crate::cache::{Cache, TypedListener};
use crate::entry::{ByteEntry, Entry, RemovalCause};
use crate::error::Result;
use crate::key::CacheKey;
use crate::value::CacheValue;

/// What a handle's weigher and listener look like; implemented by the handles.
pub trait Weighed: sealed::Sealed {
    /// The function behind [`Builder::weigher`](Builder::<ByteCache>::weigher).
    type Weigher: Clone;
    /// The function behind [`Builder::eviction_listener`](Builder::<ByteCache>::eviction_listener).
    type Listener: Clone;
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for ByteCache {}
impl Weighed for ByteCache {
    type Weigher = Arc<dyn Fn(&[u8], &[u8]) -> u64 + Send + Sync>;
    type Listener = Arc<dyn Fn(Vec<u8>, ByteEntry, RemovalCause) + Send + Sync>;
}

impl<K: CacheKey + ?Sized, V: CacheValue> sealed::Sealed for Cache<K, V> {}
impl<K: CacheKey + ?Sized, V: CacheValue> Weighed for Cache<K, V> {
    type Weigher = Arc<dyn Fn(&K, &V) -> u64 + Send + Sync>;
    type Listener = TypedListener<K, V>;
}

impl<H: Weighed> Clone for Builder<H> {
    fn clone(&self) -> Self {
        let (weigher, listener) = (self.weigher.clone(), self.listener.clone());
        Self { config: self.config.clone(), weigher, listener, handle: PhantomData }
    }
}

impl Builder<ByteCache> {
    /// What an entry counts against byte limits, by key and value; at most 2^56. Called once per
    /// insert, before anything changes, so a panic in it reaches the caller of the insert and does
    /// no harm. Default: key bytes plus value bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// let cache = ByteCache::builder()
    ///     .memory_max_bytes(100)
    ///     .weigher(|_key, value| 10 * value.len() as u64)
    ///     .open()?;
    /// cache.insert(b"key", b"value")?;
    /// assert_eq!(cache.memory_bytes(), 50);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn weigher(
        mut self,
        weigher: impl Fn(&[u8], &[u8]) -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.weigher = Some(Arc::new(weigher));
        self
    }

    /// Hears of every entry that leaves a tier: key, entry, cause. [`Entry::tier`] tells which: an
    /// entry that leaves memory by a limit or by memory's time to live, and stays on disk, is
    /// reported with [`Tier::Memory`](crate::Tier::Memory); one that leaves the cache is reported
    /// once. `clear` reports nothing. Called after all locks are gone, by the thread that made it
    /// happen; a panic in it is caught. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use larder::{ByteCache, RemovalCause};
    ///
    /// let (left, seen) = mpsc::channel();
    /// let cache = ByteCache::builder()
    ///     .memory_max_entries(1)
    ///     .eviction_listener(move |key, _entry, cause| { let _ = left.send((key, cause)); })
    ///     .open()?;
    /// cache.insert(b"old", b"1")?;
    /// cache.insert(b"new", b"2")?;
    /// assert_eq!(seen.recv()?, (b"old".to_vec(), RemovalCause::Size));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn eviction_listener(
        mut self,
        listener: impl Fn(Vec<u8>, ByteEntry, RemovalCause) + Send + Sync + 'static,
    ) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Opens the cache.
    ///
    /// # Errors
    ///
    /// `InvalidOption` for options that make no sense; with a path, also `Io`, `Locked`, `Foreign`,
    /// `Version`, `Schema` and `Corrupt`. The file is untouched then.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, ErrorKind};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// let error = ByteCache::builder().shards(0).open().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidOption);
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[doc(alias = "build")]
    pub fn open(self) -> Result<ByteCache> {
        ByteCache::open(self.config, self.weigher, self.listener)
    }
}

impl<K: CacheKey + ?Sized, V: CacheValue> Builder<Cache<K, V>> {
    /// What an entry counts against byte limits, by key and value; at most 2^56. Called once per
    /// insert, before anything changes, so a panic in it reaches the caller of the insert and does
    /// no harm. Default: key bytes plus the bytes of the archived value.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::Cache;
    /// let cache: Cache<u64, Vec<u32>> = Cache::builder()
    ///     .memory_max_bytes(100)
    ///     .weigher(|_key, value: &Vec<u32>| 10 * value.len() as u64)
    ///     .open()?;
    /// cache.insert(&1, &vec![2, 3, 5])?;
    /// assert_eq!(cache.memory_bytes(), 30);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn weigher(mut self, weigher: impl Fn(&K, &V) -> u64 + Send + Sync + 'static) -> Self {
        self.weigher = Some(Arc::new(weigher));
        self
    }

    /// Hears of every entry that leaves a tier: key, entry, cause. [`Entry::tier`] tells which: an
    /// entry that leaves memory by a limit or by memory's time to live, and stays on disk, is
    /// reported with [`Tier::Memory`](crate::Tier::Memory); one that leaves the cache is reported
    /// once. `clear` reports nothing. Called after all locks are gone, by the thread that made it
    /// happen; a panic in it is caught. It may call the cache, but what leaves the disk tier by a limit or its
    /// time is reported by the thread that commits, and there no call waits for a commit: `flush`, `compact`
    /// and writes with write-through return before it, and `clear` cannot count. A listener that keeps a
    /// handle of its own cache keeps the cache open. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use larder::{Cache, RemovalCause};
    ///
    /// let (left, seen) = mpsc::channel();
    /// let cache = Cache::<str, u64>::builder()
    ///     .memory_max_entries(1)
    ///     .eviction_listener(move |key, entry, cause| {
    ///         let _ = left.send((key, entry.to_owned(), cause));
    ///     })
    ///     .open()?;
    /// cache.insert("old", &1)?;
    /// cache.insert("new", &2)?;
    /// assert_eq!(seen.recv()?, ("old".to_owned(), 1, RemovalCause::Size));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn eviction_listener(
        mut self,
        listener: impl Fn(K::Owned, Entry<V>, RemovalCause) + Send + Sync + 'static,
    ) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Opens the cache.
    ///
    /// # Errors
    ///
    /// `InvalidOption` for options that make no sense; with a path, also `Io`, `Locked`, `Foreign`,
    /// `Version`, `Schema` and `Corrupt`. The file is untouched then.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{Cache, ErrorKind};
    /// let cache = Cache::<u64, String>::builder().memory_max_entries(10).open()?;
    /// let error = Cache::<u64, String>::builder().shards(0).open().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidOption);
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[doc(alias = "build")]
    pub fn open(self) -> Result<Cache<K, V>> {
        Cache::open(self.config, self.weigher, self.listener)
    }
}
