//! What a read gives: an entry that dereferences to its archived value, in place.
//!
//! # Invariants
//!
//! - **V1** the value bytes of an [`Entry<V>`] were made by `V`'s `Serialize` in this process, or
//!   accepted by `V`'s validator when they were loaded, before the record could be seen.
//! - **V2** an entry owns a handle on its record, and records are never written once shared.
//! - **V3** value bytes are 16-byte aligned by construction of the record, and no archived type that
//!   compiles here needs more.
//!
//! # Safety
//!
//! The only `unsafe` operation is rkyv's unchecked access; V1 to V3 are what it asks for. Whoever
//! makes an `Entry<V>` vouches for V1, which is why [`Entry::new`] is `unsafe`.
#![expect(unsafe_code, reason = "unchecked access to bytes validated once; argued above")]

mod found;

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

use rkyv::Archived;

use crate::attributes::attribute_lists;
use crate::record::NEVER;
use crate::time::{Timestamp, read};
use crate::value::{CacheValue, deserialize, is_valid};

pub(crate) use found::{Age, Found, Handle};

/// Where an entry was found, or what an event is about.
///
/// # Examples
///
/// ```
/// use larder::{ByteCache, Tier};
///
/// let folder = tempfile::tempdir()?;
/// let cache = ByteCache::builder()
///     .path(folder.path().join("cache.larder"))
///     .memory_max_entries(1)
///     .open()?;
/// cache.insert(b"older", b"1")?;
/// cache.insert(b"newer", b"2")?;
/// assert_eq!(cache.get(b"newer")?.map(|entry| entry.tier()), Some(Tier::Memory));
/// assert_eq!(cache.get(b"older")?.map(|entry| entry.tier()), Some(Tier::Disk));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// The memory tier.
    Memory,
    /// The disk tier, writes that are not yet committed included.
    Disk,
}

impl Tier {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// Why an entry left a tier.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc;
/// use larder::{ByteCache, RemovalCause};
///
/// let (left, causes) = mpsc::channel();
/// let cache = ByteCache::builder()
///     .memory_max_entries(1)
///     .eviction_listener(move |key, _entry, cause| { let _ = left.send((key, cause)); })
///     .open()?;
/// cache.insert(b"a", b"1")?;
/// cache.insert(b"a", b"2")?;
/// cache.insert(b"b", b"3")?;
/// cache.remove(b"b")?;
/// let causes: Vec<_> = causes.try_iter().map(|(_, cause)| cause).collect();
/// assert_eq!(causes, [RemovalCause::Replaced, RemovalCause::Size, RemovalCause::Explicit]);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RemovalCause {
    /// Its time was over.
    Expired,
    /// It was removed or invalidated by a call.
    Explicit,
    /// A newer value of its key took its place.
    Replaced,
    /// A limit of the tier was reached, and it was next to leave: with [`Strategy::Lru`](crate::Strategy::Lru) the
    /// oldest, with others who they say, which may be the new entry.
    Size,
}

/// An entry of a cache: the archived value behind `Deref`, and the entry's attributes.
///
/// Holds the record by reference count: it stays valid, and its value and attributes unchanged, for as
/// long as it is kept, whatever becomes of the entry in the cache meanwhile. Entries that are kept are
/// not counted against the cache's limits.
///
/// # Examples
///
/// ```
/// use larder::{Cache, Tier};
///
/// let cache: Cache<str, Vec<u32>> = Cache::builder().memory_max_entries(10).open()?;
/// cache.insert("primes", &vec![2, 3, 5])?;
/// let entry = cache.get("primes")?.expect("just inserted");
/// assert_eq!(entry.as_slice(), [2, 3, 5]);        // no copy, no deserialization
/// assert_eq!(entry.to_owned(), vec![2, 3, 5]);    // a deserialized copy
/// assert_eq!((entry.key(), entry.tier()), (&b"primes"[..], Tier::Memory));
/// # Ok::<(), larder::Error>(())
/// ```
pub struct Entry<V: ?Sized> {
    handle: Handle,
    value: PhantomData<fn() -> V>,
}

/// An entry of a [`ByteCache`](crate::ByteCache); dereferences to the value's bytes.
pub type ByteEntry = Entry<[u8]>;

impl<V: ?Sized> Entry<V> {
    /// Types what was found.
    ///
    /// # Safety
    ///
    /// - V1 holds for the record and `V`; `V = [u8]` is always right.
    #[inline]
    pub(crate) unsafe fn new(handle: impl Into<Handle>) -> Self {
        Self { handle: handle.into(), value: PhantomData }
    }

    /// The key's bytes (for typed caches: as encoded by [`CacheKey`](crate::CacheKey)).
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert_eq!(entry.key(), b"key");
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn key(&self) -> &[u8] {
        self.handle.record().key()
    }

    /// What the entry counts against the byte limits: key bytes and value bytes, or its weight.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert_eq!(entry.size_bytes(), 3 + 5);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn size_bytes(&self) -> u64 {
        self.handle.record().charge()
    }

    /// When this value was inserted.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, InsertOptions, Timestamp};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// let options = InsertOptions::default().timestamp(Timestamp::from_secs(9));
    /// cache.insert_with(b"key", b"value", &options)?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert_eq!(entry.created_at(), Timestamp::from_secs(9));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn created_at(&self) -> Timestamp {
        Timestamp::from_nanos(self.handle.record().header().created)
    }

    /// When the entry was last accessed: the timestamp that decides its place in the eviction
    /// order. An entry that `get` gave from memory shows it as memory has it, or had it when the value
    /// left: accesses that came later count.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, InsertOptions, Timestamp};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// let options = InsertOptions::default().timestamp(Timestamp::from_secs(9));
    /// cache.insert_with(b"key", b"value", &options)?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert!(entry.accessed_at() > Timestamp::from_secs(9)); // by that `get`
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn accessed_at(&self) -> Timestamp {
        Timestamp::from_nanos(self.handle.accessed())
    }

    /// When the entry expires unless it is accessed before; `None` if it never does. A shorter
    /// time-to-live of the memory tier in front of a disk tier is not counted: the entry is still
    /// in the cache after it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::{ByteCache, InsertOptions};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// let options = InsertOptions::default().ttl(Duration::from_secs(60));
    /// cache.insert_with(b"key", b"value", &options)?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert_eq!(entry.expires_at(), Some(entry.created_at() + Duration::from_secs(60)));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn expires_at(&self) -> Option<Timestamp> {
        Some(self.expiry()).filter(|e| *e != NEVER).map(Timestamp::from_nanos)
    }

    fn expiry(&self) -> u64 {
        let time_to_idle = self.handle.age().map_or(NEVER, |age| age.time_to_idle);
        let idle = self.handle.accessed().saturating_add(time_to_idle);
        self.handle.record().deadline().min(idle)
    }

    /// How long it is until the entry expires, by the cache's clock: `None` if it never does,
    /// zero if it has.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::{ByteCache, InsertOptions};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// let options = InsertOptions::default().ttl(Duration::from_secs(60));
    /// cache.insert_with(b"key", b"value", &options)?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert!(entry.ttl_remaining().is_some_and(|left| left <= Duration::from_secs(60)));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn ttl_remaining(&self) -> Option<Duration> {
        let now = self.now();
        self.expires_at().map(|e| Duration::from_nanos(e.as_nanos().saturating_sub(now)))
    }

    /// Whether the entry has expired since it was read, by the cache's clock.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert!(!entry.is_expired());
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn is_expired(&self) -> bool {
        self.now() > self.expiry()
    }

    fn now(&self) -> u64 {
        read(self.handle.age().and_then(|age| age.clock.as_ref()))
    }

    /// The entry's tags, sorted.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, InsertOptions};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// let options = InsertOptions::default().tags(["b", "a"]);
    /// cache.insert_with(b"key", b"value", &options)?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert_eq!(entry.tags().collect::<Vec<_>>(), ["a", "b"]);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        attribute_lists(self.handle.record().attributes()).0
    }

    /// The entry's metadata, sorted by name.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, InsertOptions};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// let options = InsertOptions::default().metadata([("type", "text/html")]);
    /// cache.insert_with(b"key", b"value", &options)?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert_eq!(entry.metadata().next(), Some(("type", "text/html")));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut words = attribute_lists(self.handle.record().attributes()).1;
        std::iter::from_fn(move || Some((words.next()?, words.next()?)))
    }

    /// The tier that answered.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, Tier};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert_eq!(entry.tier(), Tier::Memory);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn tier(&self) -> Tier {
        self.handle.tier()
    }
}

impl<V: CacheValue> Entry<V> {
    /// A deserialized copy of the value.
    ///
    /// # Panics
    ///
    /// If the type's own `Deserialize` refuses an archive that its `Serialize` made; those that
    /// rkyv derives do not.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::Cache;
    /// let cache: Cache<str, Vec<u32>> = Cache::builder().memory_max_entries(10).open()?;
    /// cache.insert("primes", &vec![2, 3])?;
    /// let primes: Vec<u32> = cache.get("primes")?.expect("just inserted").to_owned();
    /// assert_eq!(primes, [2, 3]);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn to_owned(&self) -> V {
        match deserialize::<V>(self) {
            Ok(value) => value,
            Err(error) => panic!("{error}"),
        }
    }
}

impl<V: CacheValue> Deref for Entry<V> {
    type Target = Archived<V>;

    #[inline]
    fn deref(&self) -> &Archived<V> {
        let bytes = self.handle.record().value();
        debug_assert!(bytes.as_ptr().addr().is_multiple_of(16), "V3");
        debug_assert!(is_valid::<V>(bytes), "V1");
        // SAFETY: V1, V2 and V3.
        unsafe { rkyv::access_unchecked::<Archived<V>>(bytes) }
    }
}

impl Entry<[u8]> {
    /// Types what was found as bytes, which are valid whatever they are.
    #[inline]
    pub(crate) fn bytes(handle: impl Into<Handle>) -> Self {
        // SAFETY: V1 asks nothing of bytes.
        unsafe { Self::new(handle) }
    }

    /// A copy of the value.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::ByteCache;
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// cache.insert(b"key", b"value")?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// let value: Vec<u8> = entry.to_owned();
    /// assert_eq!(value, b"value");
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn to_owned(&self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Deref for Entry<[u8]> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.handle.record().value()
    }
}

impl<V: ?Sized> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), value: PhantomData }
    }
}

impl<V: ?Sized> fmt::Debug for Entry<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &String::from_utf8_lossy(self.key()))
            .field("size_bytes", &self.size_bytes())
            .field("accessed_at", &self.accessed_at())
            .field("expires_at", &self.expires_at())
            .field("tier", &self.tier())
            .finish_non_exhaustive()
    }
}
