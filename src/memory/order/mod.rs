//! The orders that entries of a shard can be kept in.

#[cfg_attr(not(test), expect(dead_code, reason = "no cache can be opened with it yet"))]
mod lfu;
mod lru;
#[cfg_attr(not(test), expect(dead_code, reason = "what uses it is not used yet"))]
mod segments;
#[cfg_attr(not(test), expect(dead_code, reason = "what uses it is not used yet"))]
mod sketch;

#[cfg_attr(not(test), expect(unused_imports, reason = "no cache can be opened with it yet"))]
pub(super) use lfu::Lfu;
pub(super) use lru::Lru;
