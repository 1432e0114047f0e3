//! The orders that entries of a shard can be kept in.

mod lru;

pub(super) use lru::Lru;
