//! How the tiers of a cache are, as `health` tells it.

use crate::time::Timestamp;

/// How one tier is.
///
/// # Examples
///
/// ```
/// use larder::{ByteCache, TierHealth};
///
/// let folder = tempfile::tempdir()?;
/// let cache = ByteCache::builder().path(folder.path().join("cache.larder")).open()?;
/// match cache.health().disk {
///     Some(TierHealth::Degraded { reason, .. }) => panic!("new and failing: {reason}"),
///     other => assert_eq!(other, Some(TierHealth::Ok)),
/// }
/// cache.clone().close()?;
/// assert_eq!(cache.health().disk, Some(TierHealth::Closed));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TierHealth {
    /// It works.
    Ok,
    /// It fails; the cache goes on without it and tries again by itself.
    Degraded {
        /// What went wrong last.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
    /// The cache was closed.
    Closed,
}

/// How the tiers of a cache are.
///
/// # Examples
///
/// ```
/// use larder::{ByteCache, TierHealth};
///
/// let cache = ByteCache::builder().memory_max_entries(10).open()?;
/// assert_eq!(cache.health().memory, TierHealth::Ok);
/// assert_eq!(cache.health().disk, None);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The memory tier.
    pub memory: TierHealth,
    /// The disk tier; `None` for a cache in memory only.
    pub disk: Option<TierHealth>,
}
