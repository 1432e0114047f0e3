//! The orders that entries can be kept in.
//!
//! [`Lru`] is one of a shard each; the others are one over all shards, or of a shard each as well, which [`make`] gives by the name of
//! the strategy.

mod fifo;
mod ghost;
mod heap;
mod lfu;
mod list;
mod lru;
mod s3fifo;
mod segments;
mod sieve;
mod size;
mod sketch;
mod sorted;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod traces;
mod ttl;

use crate::hash::KeyHasher;
use crate::strategy::{EvictionOrder, Strategy};

pub(super) use lru::Lru;

/// A new order for a strategy; `None` for [`Lru`], which is the shards' own.
pub(super) fn make(strategy: &Strategy) -> Option<Box<dyn EvictionOrder>> {
    match strategy {
        Strategy::Lru => None,
        Strategy::Lfu => Some(Box::new(lfu::Lfu::new(KeyHasher::default().hash(b"").0))),
        Strategy::S3Fifo => Some(Box::new(s3fifo::S3Fifo::default())),
        Strategy::Sieve => Some(Box::new(sieve::Sieve::default())),
        Strategy::Fifo => Some(Box::new(fifo::Fifo::default())),
        Strategy::Ttl => Some(Box::new(ttl::Ttl::default())),
        Strategy::Size => Some(Box::new(size::Size::default())),
        Strategy::Custom(custom) => Some(custom.make()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_has_its_order() {
        let own = [
            Strategy::Lfu,
            Strategy::S3Fifo,
            Strategy::Sieve,
            Strategy::Fifo,
            Strategy::Ttl,
            Strategy::Size,
        ];
        for strategy in own {
            let order = format!("{:?}", make(&strategy));
            assert!(order.starts_with(&format!("Some({strategy:?} {{")), "{strategy:?}: {order}");
        }
        assert!(make(&Strategy::custom(sieve::Sieve::default)).is_some());
        assert!(make(&Strategy::Lru).is_none());
    }
}
