//! An embedded two-tier cache engine: an exact-LRU memory tier in front of a crash-safe disk tier.
