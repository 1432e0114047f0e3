//! Keys: bytes that order as the keys do, and the way back.

use crate::error::{Error, ErrorKind, Result};

/// A type that can be a cache's key.
///
/// A key is encoded to 1 to `max_key_bytes` bytes (default 256, at most 4096) that compare, byte
/// by byte, as the keys themselves do: walks, prefixes and ties in the eviction order go by those
/// bytes. Implemented for `str`, `String`, `[u8]`, `Vec<u8>`, `[u8; N]` and all integers.
///
/// # Examples
///
/// A key of two parts, in whose order walks go:
///
/// ```
/// use larder::{Cache, CacheKey};
///
/// #[derive(Debug, PartialEq)]
/// struct PageOfUser { user: u32, page: u16 }
///
/// impl CacheKey for PageOfUser {
///     type Owned = Self;
///     type Bytes<'a> = [u8; 6];
///
///     fn to_key_bytes(&self) -> [u8; 6] {
///         let mut bytes = [0; 6];
///         bytes[..4].copy_from_slice(&self.user.to_be_bytes());
///         bytes[4..].copy_from_slice(&self.page.to_be_bytes());
///         bytes
///     }
///
///     fn from_key_bytes(bytes: &[u8]) -> Option<Self> {
///         let (user, page) = bytes.split_first_chunk()?;
///         let (user, page) = (u32::from_be_bytes(*user), u16::from_be_bytes(page.try_into().ok()?));
///         Some(Self { user, page })
///     }
/// }
///
/// let cache: Cache<PageOfUser, String> = Cache::builder().memory_max_entries(100).open()?;
/// cache.insert(&PageOfUser { user: 7, page: 1 }, &"text".to_owned())?;
/// let keys: Vec<_> = cache.keys().collect::<Result<_, _>>()?;
/// assert_eq!(keys, [PageOfUser { user: 7, page: 1 }]);
/// # Ok::<(), larder::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a cache's key",
    note = "name the borrowed type (`str`, `[u8]`), or implement `CacheKey` for a type of your own"
)]
pub trait CacheKey {
    /// What walks and listeners give: `String` for `str`, the integer for an integer.
    type Owned: Send + 'static;
    /// The encoded key: borrowed where the key is bytes already, an array for integers.
    type Bytes<'a>: AsRef<[u8]>
    where
        Self: 'a;

    /// Encodes the key.
    fn to_key_bytes(&self) -> Self::Bytes<'_>;

    /// Decodes a key; `None` if `bytes` were not made by [`Self::to_key_bytes`].
    fn from_key_bytes(bytes: &[u8]) -> Option<Self::Owned>;

    /// Names the encoding in the file, so that a file of other keys is refused. Default: the
    /// type's name without its path.
    fn encoding_name() -> String {
        crate::value::short_type_name::<Self>()
    }
}

impl CacheKey for str {
    type Owned = String;
    type Bytes<'a> = &'a [u8];

    fn to_key_bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    fn from_key_bytes(bytes: &[u8]) -> Option<String> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

impl CacheKey for String {
    type Owned = Self;
    type Bytes<'a> = &'a [u8];

    fn to_key_bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    fn from_key_bytes(bytes: &[u8]) -> Option<Self> {
        str::from_key_bytes(bytes)
    }

    fn encoding_name() -> String {
        str::encoding_name()
    }
}

impl CacheKey for [u8] {
    type Owned = Vec<u8>;
    type Bytes<'a> = &'a [u8];

    fn to_key_bytes(&self) -> &[u8] {
        self
    }

    fn from_key_bytes(bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }
}

impl CacheKey for Vec<u8> {
    type Owned = Self;
    type Bytes<'a> = &'a [u8];

    fn to_key_bytes(&self) -> &[u8] {
        self
    }

    fn from_key_bytes(bytes: &[u8]) -> Option<Self> {
        Some(bytes.to_vec())
    }

    fn encoding_name() -> String {
        <[u8]>::encoding_name()
    }
}

impl<const N: usize> CacheKey for [u8; N] {
    type Owned = Self;
    type Bytes<'a> = &'a [u8];

    fn to_key_bytes(&self) -> &[u8] {
        self
    }

    fn from_key_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

/// Big-endian with the top bit of signed types turned over (`MIN` is that bit, or 0 for unsigned
/// ones): bytes then order as numbers do.
macro_rules! integer_keys {
    ($($int:ty)*) => {$(
        impl CacheKey for $int {
            type Owned = Self;
            type Bytes<'a> = [u8; size_of::<$int>()];

            fn to_key_bytes(&self) -> Self::Bytes<'_> {
                (*self ^ Self::MIN).to_be_bytes()
            }

            fn from_key_bytes(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_be_bytes(bytes.try_into().ok()?) ^ Self::MIN)
            }
        }
    )*};
}

integer_keys! { u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 }

/// As 64 bits, so that a file moves between machines of different width.
macro_rules! word_keys {
    ($($word:ty as $int:ty)*) => {$(
        impl CacheKey for $word {
            type Owned = Self;
            type Bytes<'a> = [u8; 8];

            fn to_key_bytes(&self) -> [u8; 8] {
                // No platform of Rust has words of more than 64 bits.
                <$int>::try_from(*self).unwrap_or_default().to_key_bytes()
            }

            fn from_key_bytes(bytes: &[u8]) -> Option<Self> {
                <$int>::from_key_bytes(bytes)?.try_into().ok()
            }

            fn encoding_name() -> String {
                <$int>::encoding_name()
            }
        }
    )*};
}

word_keys! { usize as u64 isize as i64 }

/// Checks the length of an encoded key against the limit of the cache.
#[inline]
pub(crate) fn check(key: &[u8], max_key_bytes: usize) -> Result<()> {
    if (1..=max_key_bytes).contains(&key.len()) {
        return Ok(());
    }
    Err(refuse(key.len(), max_key_bytes))
}

#[cold]
fn refuse(len: usize, limit: usize) -> Error {
    let sentence = if len == 0 {
        format!("the key is empty (0 bytes); keys have 1 to {limit} bytes")
    } else {
        format!(
            "the key has {len} bytes, the limit is {limit}; shorten or hash it, or raise \
             max_key_bytes (at most {})",
            crate::record::KEY_BYTES_MAX
        )
    };
    Error::new(ErrorKind::InvalidKey, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps_order<K: CacheKey<Owned = K> + Ord + Copy + std::fmt::Debug>(mut keys: Vec<K>) {
        keys.sort_unstable();
        for pair in keys.windows(2) {
            let (a, b) = (pair[0].to_key_bytes(), pair[1].to_key_bytes());
            assert_eq!(a.as_ref().cmp(b.as_ref()), pair[0].cmp(&pair[1]), "{pair:?}");
            assert_eq!(K::from_key_bytes(a.as_ref()), Some(pair[0]));
        }
    }

    #[test]
    fn integers_order_as_their_bytes_do_and_come_back() {
        keeps_order(vec![u8::MIN, 1, 127, 128, u8::MAX]);
        keeps_order(vec![i8::MIN, -1, 0, 1, i8::MAX]);
        keeps_order(vec![u64::MIN, 1, 255, 256, u64::MAX]);
        keeps_order(vec![i64::MIN, -256, -1, 0, 1, 255, 256, i64::MAX]);
        keeps_order(vec![i128::MIN, -1, 0, 1, i128::MAX]);
        keeps_order(vec![isize::MIN, -1, 0, 1, isize::MAX]);
        keeps_order(vec![usize::MIN, 1, usize::MAX]);
        assert_eq!(u32::from_key_bytes(b"abc"), None);
    }
}
