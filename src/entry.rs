//! What a read gives: an entry that dereferences to its archived value, in place.
//!
//! Also the attributes of an entry (tags, metadata) in their encoded form, and the options of an
//! insert.
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

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use rkyv::Archived;

use crate::error::{Error, ErrorKind, Result};
use crate::record::{ATTRIBUTE_BYTES_MAX, NEVER, Record};
use crate::time::{Clock, Timestamp, read};
use crate::value::{CacheValue, deserialize, is_valid};

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
    /// A limit of the tier was reached, and it was the oldest.
    Size,
}

/// A record as found by a lookup, not yet typed.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) record: Record,
    pub(crate) accessed: u64,
    pub(crate) tier: Tier,
    /// `None`: the system's clock, and no time-to-idle.
    pub(crate) age: Option<Arc<Age>>,
}

/// What entries of one cache measure their age with.
pub(crate) struct Age {
    /// Nanoseconds without an access after which an entry expires, or [`NEVER`].
    pub(crate) time_to_idle: u64,
    /// `None`: the system's clock.
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

/// An entry of a cache: the archived value behind `Deref`, and the entry's attributes.
///
/// Holds the record by reference count: it stays valid, and unchanged, for as long as it is kept,
/// whatever becomes of the entry in the cache meanwhile. Entries that are kept are not counted
/// against the cache's limits.
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
    found: Found,
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
    pub(crate) unsafe fn new(found: Found) -> Self {
        Self { found, value: PhantomData }
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
        self.found.record.key()
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
        self.found.record.charge()
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
        Timestamp::from_nanos(self.found.record.header().created)
    }

    /// When the entry was last accessed: the timestamp that decides its place in the eviction
    /// order. For an entry that `get` gave, the timestamp of that `get`.
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
        Timestamp::from_nanos(self.found.accessed)
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
        let time_to_idle = self.found.age.as_ref().map_or(NEVER, |age| age.time_to_idle);
        let idle = self.found.accessed.saturating_add(time_to_idle);
        self.found.record.header().deadline.min(idle)
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
        read(self.found.age.as_ref().and_then(|age| age.clock.as_ref()))
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
        attribute_lists(self.found.record.attributes()).0
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
        let mut words = attribute_lists(self.found.record.attributes()).1;
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
        self.found.tier
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

    fn deref(&self) -> &Archived<V> {
        let bytes = self.found.record.value();
        debug_assert!(bytes.as_ptr().addr().is_multiple_of(16), "V3");
        debug_assert!(is_valid::<V>(bytes), "V1");
        // SAFETY: V1, V2 and V3.
        unsafe { rkyv::access_unchecked::<Archived<V>>(bytes) }
    }
}

impl Entry<[u8]> {
    /// Types what was found as bytes, which are valid whatever they are.
    #[inline]
    pub(crate) fn bytes(found: Found) -> Self {
        // SAFETY: V1 asks nothing of bytes.
        unsafe { Self::new(found) }
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

    fn deref(&self) -> &[u8] {
        self.found.record.value()
    }
}

impl<V: ?Sized> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self { found: self.found.clone(), value: PhantomData }
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

/// What an insert may say besides key and value.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use larder::{ByteCache, InsertOptions};
///
/// let cache = ByteCache::builder().memory_max_entries(10).open()?;
/// let options = InsertOptions::default()
///     .ttl(Duration::from_secs(30))
///     .tags(["page", "user:7"])
///     .metadata([("etag", "\"abc\"")]);
/// cache.insert_with(b"key", b"value", &options)?;
/// let entry = cache.get(b"key")?.expect("just inserted");
/// assert_eq!(entry.tags().collect::<Vec<_>>(), ["page", "user:7"]);
/// assert_eq!(entry.metadata().collect::<Vec<_>>(), [("etag", "\"abc\"")]);
/// assert!(entry.ttl_remaining().expect("has a ttl") <= Duration::from_secs(30));
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct InsertOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) timestamp: Option<Timestamp>,
    pub(crate) weight: Option<u64>,
    tags: Vec<String>,
    metadata: Vec<(String, String)>,
}

impl InsertOptions {
    /// The entry expires when it is older than this. Resolution: the clock's, 10 ms or better.
    /// Default: the time-to-live of the tiers, which also applies if it is shorter.
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
    /// assert!(entry.expires_at().is_some());
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The time of the insert, for order and age. Default: the cache's clock.
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
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Names kept with the entry, to find and invalidate it by (not yet). Each at most 65,535 bytes, and
    /// 1 MiB together with the metadata. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, InsertOptions};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// let options = InsertOptions::default().tags(["news"]);
    /// cache.insert_with(b"key", b"value", &options)?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert!(entry.tags().any(|tag| tag == "news"));
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags = tags.into_iter().map(Into::into).collect();
        self
    }

    /// Pairs of strings to keep with the entry; limits as for [`Self::tags`]. They are not counted
    /// in the entry's charge. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, InsertOptions};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// let options = InsertOptions::default().metadata([("etag", "7")]);
    /// cache.insert_with(b"key", b"value", &options)?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert_eq!(entry.metadata().count(), 1);
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[must_use]
    pub fn metadata<N: Into<String>, T: Into<String>>(
        mut self,
        pairs: impl IntoIterator<Item = (N, T)>,
    ) -> Self {
        self.metadata = pairs.into_iter().map(|(n, t)| (n.into(), t.into())).collect();
        self
    }

    /// What the entry counts against byte limits, instead of key and value bytes or what the
    /// weigher says; at most 2^56. Default: not set.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, InsertOptions};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// let options = InsertOptions::default().weight(100);
    /// cache.insert_with(b"key", b"value", &options)?;
    /// let entry = cache.get(b"key")?.expect("just inserted");
    /// assert_eq!(entry.size_bytes(), 100);
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[must_use]
    pub fn weight(mut self, weight: u64) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Options that say nothing but the weight, if any.
    pub(crate) fn of_weight(weight: Option<u64>) -> Self {
        Self { weight, ..Self::default() }
    }

    /// The attributes, encoded: number of tags, tags, then names and texts in turn; every string
    /// with its length in two bytes in front. Empty if there are none.
    pub(crate) fn encode_attributes(&self) -> Result<Vec<u8>> {
        if self.tags.is_empty() && self.metadata.is_empty() {
            return Ok(Vec::new());
        }
        let mut tags: Vec<&str> = self.tags.iter().map(String::as_str).collect();
        tags.sort_unstable();
        tags.dedup();
        let mut metadata: Vec<&(String, String)> = self.metadata.iter().collect();
        metadata.sort_by_key(|pair| &pair.0);
        let count = u32::try_from(tags.len()).map_err(|_| too_many_attributes(usize::MAX))?;
        let mut bytes = count.to_le_bytes().to_vec();
        let pairs = metadata.into_iter().flat_map(|(n, t)| [n.as_str(), t.as_str()]);
        for word in tags.into_iter().chain(pairs) {
            let len = u16::try_from(word.len()).map_err(|_| long_attribute(word.len()))?;
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(word.as_bytes());
        }
        if bytes.len() > ATTRIBUTE_BYTES_MAX {
            return Err(too_many_attributes(bytes.len()));
        }
        Ok(bytes)
    }
}

#[cold]
fn long_attribute(len: usize) -> Error {
    let limit = u16::MAX;
    let sentence = format!("a tag or metadata text has {len} bytes, the limit is {limit}");
    Error::new(ErrorKind::TooLarge, sentence)
}

#[cold]
fn too_many_attributes(len: usize) -> Error {
    let limit = ATTRIBUTE_BYTES_MAX;
    let sentence = format!("tags and metadata take {len} bytes, the limit is {limit}");
    Error::new(ErrorKind::TooLarge, sentence)
}

/// The strings of encoded attributes, one after the other.
#[derive(Debug, Clone)]
struct Words<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        let (len, rest) = self.rest.split_first_chunk()?;
        let (word, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        let word = std::str::from_utf8(word).ok()?;
        self.rest = rest;
        Some(word)
    }
}

/// The tags, and the names and texts of the metadata in turn.
fn attribute_lists(bytes: &[u8]) -> (Words<'_>, Words<'_>) {
    let Some((count, rest)) = bytes.split_first_chunk() else {
        return (Words { rest: &[], left: 0 }, Words { rest: &[], left: 0 });
    };
    let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
    let tags = Words { rest, left: count };
    let mut after = tags.clone();
    after.by_ref().for_each(drop);
    (tags, Words { rest: after.rest, left: usize::MAX })
}

/// Whether loaded attributes parse to their end.
pub(crate) fn attributes_are_valid(bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return true;
    }
    let Some((tags, rest)) = bytes.split_first_chunk() else { return false };
    let tags = usize::try_from(u32::from_le_bytes(*tags)).unwrap_or(usize::MAX);
    let mut words = Words { rest, left: usize::MAX };
    let whole = words.by_ref().count();
    words.rest.is_empty() && whole.checked_sub(tags).is_some_and(|pairs| pairs % 2 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_sorted_and_without_doubles() {
        let options = InsertOptions::default()
            .tags(["b", "a", "b", ""])
            .metadata([("z", "last"), ("a", "first")]);
        let bytes = options.encode_attributes().unwrap();
        assert!(attributes_are_valid(&bytes));
        let (tags, words) = attribute_lists(&bytes);
        assert_eq!(tags.collect::<Vec<_>>(), ["", "a", "b"]);
        assert_eq!(words.collect::<Vec<_>>(), ["a", "first", "z", "last"]);
    }

    #[test]
    fn damaged_attributes_are_seen_and_never_panic() {
        let options = InsertOptions::default().tags(["tag"]).metadata([("name", "text")]);
        let bytes = options.encode_attributes().unwrap();
        for len in 1..bytes.len() {
            let whole_tag = 4 + 2 + 3;
            assert_eq!(attributes_are_valid(&bytes[..len]), len == whole_tag, "length {len}");
            attribute_lists(&bytes[..len]).1.for_each(drop);
        }
        let mut more_tags = bytes.clone();
        more_tags[0] = 9;
        assert!(!attributes_are_valid(&more_tags));
    }

    #[test]
    fn attributes_that_do_not_fit_are_refused_with_both_numbers() {
        let long = "x".repeat(65_536);
        let error = InsertOptions::default().tags([long]).encode_attributes().unwrap_err();
        assert!(error.to_string().contains("65536 bytes, the limit is 65535"), "{error}");
        let many = (0..20).map(|i| (i.to_string(), "y".repeat(60_000)));
        let error = InsertOptions::default().metadata(many).encode_attributes().unwrap_err();
        assert!(error.to_string().contains("the limit is 1048576"), "{error}");
    }
}
