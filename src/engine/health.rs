//! How the tiers are: what `health` gives and where the engine notes it.

use crate::sync::Mutex;
use crate::time::Timestamp;

/// How one tier is.
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

/// Where the writer notes that the disk fails.
#[derive(Debug, Default)]
pub(super) struct Degraded(Mutex<Option<(String, Timestamp)>>);

impl Degraded {
    pub(super) fn set(&self, reason: &str, now: Timestamp) {
        let mut degraded = self.0.lock();
        let since = degraded.as_ref().map_or(now, |(_, since)| *since);
        *degraded = Some((reason.to_owned(), since));
    }

    pub(super) fn clear(&self) {
        *self.0.lock() = None;
    }

    pub(super) fn tier(&self) -> TierHealth {
        self.0
            .lock()
            .clone()
            .map_or(TierHealth::Ok, |(reason, since)| TierHealth::Degraded { reason, since })
    }
}
