//! The orders that entries of a shard can be kept in.

#[cfg_attr(not(test), expect(dead_code, reason = "no cache can be opened with it yet"))]
mod lfu;
mod lru;
mod segments;
mod sketch;

#[expect(unused_imports, reason = "no cache can be opened with it yet")]
pub(super) use lfu::Lfu;
pub(super) use lru::Lru;
