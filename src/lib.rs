//! An embedded two-tier cache engine: an exact-LRU memory tier in front of a crash-safe disk tier.
//!
//! Start with [`Cache`], or [`ByteCache`] for plain bytes; both are made by a [`Builder`].

mod builder;
mod bytes;
mod cache;
mod config;
mod engine;
mod entry;
mod error;
mod handle;
mod hash;
mod key;
mod memory;
mod record;
mod stats;
mod store;
mod sync;
mod time;
mod trace;
mod value;

pub use builder::Builder;
pub use bytes::ByteCache;
pub use cache::Cache;
pub use config::{DamagePolicy, ErrorPolicy, SchemaPolicy, WhenFull, WritePolicy};
pub use engine::{Health, TierHealth};
pub use entry::{ByteEntry, Entry, InsertOptions, RemovalCause, Tier};
pub use error::{Error, ErrorKind, Result};
pub use key::CacheKey;
pub use stats::Stats;
pub use time::{Clock, ManualClock, Timestamp};
pub use value::CacheValue;
