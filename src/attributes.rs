//! The options of an insert, and the attributes of an entry (tags, metadata) in their encoded form.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::record::ATTRIBUTE_BYTES_MAX;
use crate::time::Timestamp;

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

/// Options that say nothing.
pub(crate) static NO_OPTIONS: InsertOptions = InsertOptions {
    ttl: None,
    timestamp: None,
    weight: None,
    tags: Vec::new(),
    metadata: Vec::new(),
};

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

    /// The attributes, encoded: number of tags, tags, then names and texts in turn; every string
    /// with its length in two bytes in front. Empty if there are none.
    #[inline]
    pub(crate) fn encode_attributes(&self) -> Result<Vec<u8>> {
        let none = self.tags.is_empty() && self.metadata.is_empty();
        if none { Ok(Vec::new()) } else { self.encode_some() }
    }

    fn encode_some(&self) -> Result<Vec<u8>> {
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
pub(crate) struct Words<'a> {
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
pub(crate) fn attribute_lists(bytes: &[u8]) -> (Words<'_>, Words<'_>) {
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
