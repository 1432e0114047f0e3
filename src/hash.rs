//! Key hashing: one seeded hash per key, its bits shared out between shard, bucket and tag.
//!
//! The hash is foldhash (Orson Peters), seeded at random per cache, so crafted keys cannot aim
//! for one bucket. The shard number comes from bits 40 to 55, the bucket and the tag in a shard's table
//! from the lower half, so that these are all that has to be kept of an entry's hash.

use std::hash::{BuildHasher, Hasher};

/// With one seed for all, so that a schedule can be run again.
#[cfg(shuttle)]
use foldhash::quality::FixedState as State;
#[cfg(not(shuttle))]
use foldhash::quality::RandomState as State;

/// The hash of a key under one cache's seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyHash(pub(crate) u64);

/// The lowest of the bits that choose a shard.
const SHARD_SHIFT: u32 = 40;
/// The most shards that the shard bits can tell apart.
pub(crate) const SHARDS_MAX: usize = 1 << 12;

impl KeyHash {
    /// The shard of this key, where `mask` is the number of shards less one.
    #[inline]
    pub(crate) fn shard(self, mask: usize) -> usize {
        usize::try_from(self.0 >> SHARD_SHIFT).unwrap_or(0) & mask
    }

    /// The lower half.
    #[inline]
    pub(crate) fn check(self) -> Check {
        Check(u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(0))
    }
}

/// The hash by which a shard's table files an entry: `hashbrown` takes the lowest bits for the bucket and
/// the top seven for the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Check(pub(crate) u32);

impl Check {
    #[inline]
    pub(crate) fn table_hash(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.0)
    }

    /// Where the search begins in a table, where `mask` is the number of slots less one.
    #[inline]
    pub(crate) fn first_slot(self, mask: usize) -> usize {
        self.0 as usize & mask
    }
}

/// The hasher of one cache.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyHasher(State);

impl KeyHasher {
    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> KeyHash {
        // Not by way of `Hash`, which would put the length in front: there is nothing behind a key.
        let mut hasher = self.0.build_hasher();
        hasher.write(key);
        KeyHash(hasher.finish())
    }
}
