//! The one error of the crate: a kind to match on, a sentence to read, a source to dig in.
//!
//! [`Error`] is one word wide. Its sentence names the value and the limit and says what to do;
//! unless a kind says otherwise, nothing has changed in the cache when it is returned.

use std::fmt;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse enough to act on.
///
/// # Examples
///
/// ```
/// use larder::{ByteCache, ErrorKind};
///
/// let cache = ByteCache::builder().memory_max_bytes(100).open()?;
/// match cache.insert(b"k", &[0; 200]) {
///     Err(error) if error.kind() == ErrorKind::TooLarge => {} // go on without it
///     other => other?,
/// }
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The key is empty or longer than `max_key_bytes`. Nothing changed.
    InvalidKey,
    /// The entry's charge is above the byte limit of the lowest tier, or above what a record can
    /// hold (a value of 1 GiB, attributes of 1 MiB). Nothing changed; an older value of the key is still there.
    TooLarge,
    /// An option, or a combination of options, makes no sense. Nothing was opened or changed.
    InvalidOption,
    /// Another handle, in this process or another, has the file open. The file is untouched.
    Locked,
    /// The file holds keys or values of another type. The file is untouched.
    Schema,
    /// The file was written by a newer format, or with other rkyv format features, than this
    /// build reads. The file is untouched.
    Version,
    /// The file is damaged. It stays where it is, as it is;
    /// with the default damage policy it would have been set aside instead.
    Corrupt,
    /// The file exists and was not written by this crate. It is untouched.
    Foreign,
    /// The operating system refused to open, read, write or sync the file.
    Io,
    /// The queue of pending writes stayed full for as long as the policy allows. Nothing changed.
    Busy,
    /// The cache was closed.
    Closed,
    /// The value could not be encoded by its rkyv `Serialize`. Nothing changed.
    Encode,
    /// A request trace is not what its format asks for, or is too long. Only the module `simulate`,
    /// behind the feature of that name, gives it.
    InvalidTrace,
}

/// An error from the cache.
///
/// # Examples
///
/// ```
/// use larder::{Cache, ErrorKind};
///
/// let cache: Cache<str, u64> = Cache::builder().memory_max_entries(10).open()?;
/// let error = cache.insert("", &1).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidKey);
/// assert!(error.to_string().contains("0 bytes"));
/// # Ok::<(), larder::Error>(())
/// ```
pub struct Error(Box<Detail>);

#[derive(Debug)]
struct Detail {
    kind: ErrorKind,
    sentence: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    #[cold]
    pub(crate) fn new(kind: ErrorKind, sentence: impl Into<String>) -> Self {
        Self(Box::new(Detail { kind, sentence: sentence.into(), source: None }))
    }

    #[cold]
    pub(crate) fn with_source(
        kind: ErrorKind,
        sentence: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self(Box::new(Detail { kind, sentence: sentence.into(), source: Some(source.into()) }))
    }

    #[cold]
    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the cache was closed; open it again to use it")
    }

    /// What went wrong, to match on.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::{ByteCache, ErrorKind};
    /// let cache = ByteCache::builder().memory_max_entries(10).open()?;
    /// assert_eq!(cache.get(b"").unwrap_err().kind(), ErrorKind::InvalidKey);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("sentence", &self.0.sentence)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.sentence)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}
