//! The orders that entries of a shard, or of the whole tier, can be kept in.

mod lru;

use crate::strategy::{EvictionOrder, Strategy};

pub(super) use lru::Lru;

/// A new order of the whole tier; `None` for the one that shards keep.
pub(super) fn make(strategy: &Strategy) -> Option<Box<dyn EvictionOrder>> {
    match strategy {
        Strategy::Custom(custom) => Some(custom.make()),
        _ => None,
    }
}
